# SPDX-License-Identifier: Apache-2.0
"""Target types of the tests' own, and what tests of I/O that is held have in common."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from dmtool.api import Defer, Extent, Fail, Io, Op, Remap, Requeue, Target, hookimpl
from dmtool.targets.registry import TARGETS

SECONDS = 20
MIB = 1 << 20


def register(name: str, **hooks: Callable[..., Any]) -> None:
    """A target type of the tests' own."""
    module = ModuleType(f"dmtool_{name}")
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(specname=hook)(function))
    TARGETS.register(module, name, "under test")


class Holding:
    """A target type `NAME DEVICE START`: it holds writes, and reads that begin in ``reads``, until
    the device is suspended, and then has them done again where it may."""

    def __init__(self, name: str = "holding") -> None:
        self.arrived = threading.Semaphore(0)
        self.reads: range = range(0)
        self._suspending = threading.Event()

        def map(ti: Target[Extent], io: Io) -> Defer | Remap:
            at = io.sector - ti.begin
            if io.op is Op.READ and at not in self.reads:
                return Remap(ti.context.device, ti.context.start + at)
            return Defer(lambda: self._hold(ti))

        def presuspend() -> None:
            self._suspending.set()

        def resume() -> None:
            self._suspending.clear()

        register(
            name,
            ctr=lambda args: args.extent(),
            map=map,
            resume=resume,
            presuspend=presuspend,
        )

    def _hold(self, ti: Target[Extent]) -> Fail:
        self.arrived.release()
        assert self._suspending.wait(SECONDS)
        if ti.noflush:
            raise Requeue
        return Fail(errno.EIO)

    def wait(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.arrived.acquire(timeout=SECONDS)


def switch(served: Any, table: str = "0 8192 linear b.img 0", **options: Any) -> None:
    """Suspend without flush, and resume with another table."""
    served.in_thread(lambda: served.device.suspend(noflush=True)).ends()
    served.load(table, **options)
    served.device.resume()


def assert_silent(wire: Any) -> None:
    wire.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        wire.sock.recv(1)
    wire.sock.settimeout(SECONDS)
