# SPDX-License-Identifier: Apache-2.0
"""The hooks of a target type: the kernel's struct target_type, one function each.

A hook may take fewer arguments than are listed here, by name. All but ``ctr`` are optional,
but one of ``map`` and ``plan`` must be there. Hooks run on the control path, except ``map``
and ``end_io``, which run for every I/O, on any thread and on several at once, and must not
block.

Beside the hooks a module has ``VERSION``, three numbers, and may have ``BULK``: what every line of
the type is, so that tables of a million lines are built without calling ``ctr`` for each. ``Extent``
(the class): the arguments are exactly ``<device> <offset>``, and ``ctr`` and ``plan`` would give
``Extent(device, offset)``. ``Zero()`` or ``Fail(errno)``: no arguments, and that is the plan. Such a
type has no hooks but ctr, map, plan and table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pluggy

from dmtool.backing import Backing
from dmtool.plan import Plan
from dmtool.targets.args import Args
from dmtool.targets.io import Io, Verdict
from dmtool.targets.target import Target

hookspec = pluggy.HookspecMarker("dmtool")
hookimpl = pluggy.HookimplMarker("dmtool")


@hookspec(firstresult=True)
def ctr(ti: Target[Any], args: Args) -> Any:
    """Turn the arguments of a table line into the target's context; raises TargetError."""


@hookspec
def dtr(ti: Target[Any]) -> None:
    """The target is gone; give up what ctr took, except devices, which the table closes."""


@hookspec(firstresult=True)
def map(ti: Target[Any], io: Io) -> Verdict:  # type: ignore[empty-body]
    """Say what is to be done with one I/O that lies within the target."""


@hookspec(firstresult=True)
def plan(ti: Target[Any]) -> Plan | None:
    """The mapping as data, so that the engine does the I/O; None: map is called for each."""


@hookspec(firstresult=True)
def end_io(ti: Target[Any], io: Io, error: int) -> int:  # type: ignore[empty-body]
    """An I/O is done with errno ``error`` (0: well); returns the errno to report. A target with
    a plan is told of failed I/O only.

    When a flush fails on ``io.device``, every target that uses that device is told, and may wait:
    the flush is an error unless all of them return 0."""


@hookspec(firstresult=True)
def status(ti: Target[Any]) -> str:  # type: ignore[empty-body]
    """What `dmtool status` prints after the type; none: nothing."""


@hookspec(firstresult=True)
def table(ti: Target[Any]) -> str:  # type: ignore[empty-body]
    """What `dmtool table` prints after the type, for ctr to read back; none: the arguments as
    they were given, with devices by their canonical names."""


@hookspec(firstresult=True)
def message(ti: Target[Any], argv: list[str]) -> str | None:
    """`dmtool message`: do what the words say, return the response; raises TargetError."""


@hookspec
def presuspend(ti: Target[Any]) -> None:
    """The device is about to be suspended: stop what runs in the background."""


@hookspec
def presuspend_undo(ti: Target[Any]) -> None:
    """The suspend did not happen after all."""


@hookspec
def postsuspend(ti: Target[Any]) -> None:
    """The device is suspended: no I/O is under way."""


@hookspec
def preresume(ti: Target[Any]) -> None:
    """The device is about to be resumed; raises TargetError to prevent it."""


@hookspec
def resume(ti: Target[Any]) -> None:
    """The device is resumed: what runs in the background may start."""


@hookspec
def iterate_devices(ti: Target[Any], fn: Callable[[Backing, int, int], None]) -> None:
    """Call fn(device, start, length), in sectors, for all that the target uses of its devices;
    none: taken from the plan."""


@hookspec(firstresult=True)
def io_hints(ti: Target[Any]) -> int:  # type: ignore[empty-body]
    """The block size in bytes (a power of two, 512 or more) that I/O should be aligned to."""
