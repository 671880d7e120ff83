# SPDX-License-Identifier: Apache-2.0
"""For the tests of mirrors: legs that fail or wait when they are told to, and what is on them."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from dmtool import Device
from dmtool.api import SECTOR, Args, Defer, Extent, Fail, Io, Op, Remap, Target, Verdict, hookimpl
from dmtool.plugins.mirror import Context
from dmtool.plugins.mirror.copier import Copier
from dmtool.plugins.mirror.mirror import Mirror
from dmtool.targets.registry import TARGETS
from dmtool.testing import make_pattern

PATIENCE = 20.0  # seconds until a test that waits in vain fails

# Mirrors of 32 regions, and what is done to them.
REGION = 16
SECTORS = 32 * REGION
SYNCING = "core 1 16 2 {a} 0 {b} 0"
NOSYNC = "core 2 16 nosync 2 {a} 0 {b} 0"
HANDLE = " 1 handle_errors"
KEEP = " 2 handle_errors keep_log"
DEAD = {Op.READ, Op.WRITE, Op.DISCARD, Op.WRITE_ZEROES}
DATA = b"\xee" * 512


@dataclass
class Faults:
    """What goes wrong on one device. ``gate``: I/O of the kind ``gated`` waits until it is set."""

    failing: set[Op] = field(default_factory=set)
    bad_sectors: set[int] = field(default_factory=set)  # writes to them fail
    gate: threading.Event | None = None
    gated: Op = Op.WRITE
    seen: list[tuple[Op, int, int]] = field(default_factory=list)  # op, sector, count
    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def arrived(self) -> None:
        """Wait for one more to wait at the gate."""
        assert self.waiting.acquire(timeout=PATIENCE)


_FAULTS: dict[str, Faults] = {}


def _map(ti: Target[tuple[Faults, Extent]], io: Io) -> Verdict:
    faults, extent = ti.context
    faults.seen.append((io.op, io.sector, io.count))

    def answer() -> Verdict:
        bad = faults.bad_sectors.intersection(range(io.sector, io.sector + io.count))
        if io.op in faults.failing or (io.op is not Op.READ and bad):
            return Fail(errno.EIO)
        return Remap(extent.device, extent.start + io.sector)

    def wait() -> Verdict:
        assert faults.gate is not None
        faults.waiting.release()
        assert faults.gate.wait(PATIENCE)
        return answer()

    return Defer(wait) if faults.gate is not None and io.op is faults.gated else answer()


def _ctr(ti: Target[tuple[Faults, Extent]], args: Args) -> tuple[Faults, Extent]:
    ti.ops = frozenset(Op)
    return _FAULTS[args.word()], args.extent()


def _register() -> None:
    module = ModuleType("dmtool_faulty")
    for name, function in (("ctr", _ctr), ("map", _map)):
        setattr(module, name, hookimpl(specname=name)(function))
    TARGETS.register(module, "faulty", "under test")


class Bench:
    """Images of ``sectors`` sectors with a device of type `faulty` on each, and one mirror.

    In tables ``{a}``, ``{b}``, ``{c}`` are those devices and ``{log}`` is a fourth.
    """

    def __init__(self, folder: Path, sectors: int, names: str = "abc") -> None:
        _register()
        self.sectors = sectors
        self.stack = ExitStack()
        self.faults: dict[str, Faults] = {}
        self.paths: dict[str, Path] = {}
        self.lower: dict[str, Device] = {}
        for name in [*names, "log"]:
            self.paths[name] = folder / f"{name}.img"
            self.paths[name].write_bytes(bytes(sectors * SECTOR))
            key = f"{name}{id(self)}"
            self.faults[name] = _FAULTS[key] = Faults()
            self.stack.callback(_FAULTS.pop, key)
            table = f"0 {sectors} faulty {key} {self.paths[name]} 0"
            self.lower[name] = self.stack.enter_context(Device.from_table(table))
        self.device: Device | None = None

    def close(self) -> None:
        for faults in self.faults.values():
            if faults.gate is not None:
                faults.gate.set()
        if self.device is not None:
            self.device.close()
        self.stack.close()

    def make(self, arguments: str) -> Device:
        """A mirror over the whole length; the device is closed with the bench."""
        self.device = Device.from_table(self.table(arguments), below=self.lower)
        return self.device

    def table(self, arguments: str) -> str:
        names = {name: f"/dev/mapper/{name}" for name in self.lower}
        return f"0 {self.sectors} mirror {arguments.format_map(names)}"

    def content(self, name: str) -> bytes:
        return self.paths[name].read_bytes()


@contextmanager
def bench(folder: Path, sectors: int = 128, names: str = "abc") -> Iterator[Bench]:
    made = Bench(folder, sectors, names)
    try:
        yield made
    finally:
        made.close()


def context(device: Device) -> Context:
    """The context of a device's only target."""
    assert device.mapped.live is not None
    found = device.mapped.live.targets[0].context
    assert isinstance(found, Context)
    return found


def mirror_of(device: Device) -> Mirror:
    return context(device).mirror


def copier_of(device: Device) -> Copier:
    return context(device).copier


def status(device: Device) -> str:
    assert device.mapped.live is not None
    return device.mapped.live.status(0)


def health(device: Device) -> str:
    """``32/32 AA`` of a status."""
    _, _, rest = status(device).partition(" ")
    words = rest.split()
    at = next(i for i, word in enumerate(words) if "/" in word and word[0].isdigit())
    return f"{words[at]} {words[at + 2]}"


def until(device: Device, what: Callable[[Mirror], bool]) -> None:
    """Wait for a state of the mirror. Every change of it that tests wait for is notified."""
    mirror = mirror_of(device)
    with mirror.lock:
        assert mirror.lock.wait_for(lambda: what(mirror), PATIENCE)


def copied(device: Device) -> None:
    """Wait for the copier's thread to have nothing left to do; not for logs on disk."""
    thread = copier_of(device)._thread  # noqa: SLF001
    if thread is not None:
        thread.join(PATIENCE)
        assert not thread.is_alive()


class SteppedCopier(Copier):
    """A copier without a thread; put it in place of the other."""

    def start(self) -> None:
        with self._mirror.lock:
            self._stopping = False
            self._single_until = 0

    def step(self, window: int = 8 << 20) -> bool:
        """Copy one window of so many bytes, or tell that all is copied. False: there is nothing
        to do."""
        with mock.patch("dmtool.plugins.mirror.copier._WINDOW", window):
            if not self._mirror.complete and (self._window() is None or self._throttle.paused):
                return False
            todo = self._next()
            assert todo is not None
            todo()
            return True


def stepped(device: Device) -> SteppedCopier:
    copier = copier_of(device)
    assert isinstance(copier, SteppedCopier)
    return copier


class Started:
    """A call on a thread of its own: ``outcome`` is what came of it, once it is ``done``."""

    def __init__(self, call: Callable[[], Any], tell: threading.Condition | None = None) -> None:
        self.outcome: Any = None
        self.done = threading.Event()

        def run() -> None:
            try:
                self.outcome = call()
            except OSError as error:
                self.outcome = error.errno
            self.done.set()
            if tell is not None:
                with tell:
                    tell.notify_all()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        assert self.done.wait(PATIENCE)
        self._thread.join()
        return self.outcome


@contextmanager
def patterned(folder: Path) -> Iterator[Bench]:
    """A bench whose images have patterns, each its own."""
    with bench(folder, SECTORS) as made:
        for index, name in enumerate("abc", 1):
            make_pattern(made.paths[name], index, SECTORS)
        yield made


def alike(made: Bench) -> None:
    """All images with one pattern: for mirrors that are in sync from the start."""
    for name in "bc":
        make_pattern(made.paths[name], 1, SECTORS)


def write(device: Device) -> Started:
    return Started(lambda: device.pwrite(DATA, 0), mirror_of(device).lock)


def held(device: Device, count: int = 1) -> None:
    until(device, lambda mirror: mirror.held == count)


def plan(device: Device) -> object:
    assert device.mapped.live is not None
    return device.mapped.live.plans[0]
