# SPDX-License-Identifier: Apache-2.0
"""remap <device> <offset>: linear, but without a plan: every I/O goes through ``map``.

What a target type costs that is nothing but Python. The benchmarks' core finds it by an entry
point that is made for it (servers.py).
"""

# ruff: noqa: ARG001  # a hook has the arguments of its hookspec

from __future__ import annotations

from collections.abc import Callable

from dmtool.api import Args, Backing, Extent, Io, Remap, Target, hookimpl

VERSION = (1, 0, 0)


@hookimpl
def ctr(ti: Target[Extent], args: Args) -> Extent:
    args.exactly(2)
    return args.extent()


@hookimpl
def map(ti: Target[Extent], io: Io) -> Remap:
    return Remap(ti.context.device, ti.context.start + io.sector - ti.begin)


@hookimpl
def iterate_devices(ti: Target[Extent], fn: Callable[[Backing, int, int], None]) -> None:
    fn(ti.context.device, ti.context.start, ti.len)
