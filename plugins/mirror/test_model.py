# SPDX-License-Identifier: Apache-2.0
"""A mirror against a plain byte array: whatever happens, reads give what was written, and in the
end all legs have the same bytes.

The copier takes a step when the test says so, so that runs can be repeated; test_regions.py has
it run by itself against writers on threads of their own.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dmtool import Device
from dmtool.api import Op
from dmtool.plugins.mirror.mirror import Mirror
from dmtool.plugins.mirror.testbed import (
    Bench,
    Started,
    SteppedCopier,
    health,
    mirror_of,
    stepped,
    until,
)

SECTORS = 48
SIZE = SECTORS * 512
NAMES = "abc"

places = st.tuples(st.integers(0, SECTORS - 1), st.integers(1, 12)).map(
    lambda place: (place[0] * 512, min(place[1], SECTORS - place[0]) * 512)
)
odd_places = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 3000)).map(
    lambda place: (place[0], min(place[1], SIZE - place[0]))
)
legs = st.sampled_from(NAMES)


class MirrorModel(RuleBasedStateMachine):
    """``model``: the bytes that reads are to give. ``order``: the legs, in the table's order;
    whoever loads a table anew puts the one with the data first."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dmtool-mirror-"))
        self.bench = Bench(self.folder, SECTORS, NAMES)
        self.model = bytearray(SIZE)
        self.order = NAMES
        self.written = 0
        self.patch = mock.patch("dmtool.plugins.mirror.Copier", SteppedCopier)
        self.patch.start()

    def teardown(self) -> None:
        try:
            if hasattr(self, "device"):
                self.make_good()
        finally:
            self.patch.stop()
            self.bench.close()
            shutil.rmtree(self.folder)

    # -- the mirror -----------------------------------------------------------------------------

    @initialize(
        log=st.sampled_from(["core", "disk"]),
        region=st.sampled_from([2, 4, 16, 32]),
        count=st.integers(2, 3),
        options=st.sampled_from(["", " 1 handle_errors", " 2 handle_errors keep_log"]),
        window=st.sampled_from([1, 3, 8, 100]),
        nosync=st.booleans(),
    )
    def make(
        self, log: str, region: int, count: int, options: str, window: int, nosync: bool
    ) -> None:
        self.log, self.region, self.options = log, region, options
        self.order = NAMES[:count]
        self.hold = options == " 1 handle_errors"
        self.window = window
        if not nosync:
            for number, name in enumerate(self.order):
                self.bench.paths[name].write_bytes(bytes([number + 1]) * SIZE)
            self.model[:] = self.bench.content("a")
        sync = "nosync" if nosync else ""
        self.device = self.bench.make(self.arguments(sync))
        self.mirror: Mirror = mirror_of(self.device)

    def arguments(self, sync: str) -> str:
        first = ["{log}"] if self.log == "disk" else []
        words = [*first, str(self.region), *filter(None, [sync])]
        devices = " ".join(f"{{{name}}} 0" for name in self.order)
        return (
            f"{self.log} {len(words)} {' '.join(words)} {len(self.order)} {devices}{self.options}"
        )

    @property
    def copier(self) -> SteppedCopier:
        return stepped(self.device)

    def step(self) -> bool:
        return self.copier.step(self.window * 512)

    @property
    def faulty(self) -> bool:
        return any(self.bench.faults[name].failing for name in [*self.order, "log"])

    # -- I/O --------------------------------------------------------------------------------------

    def change(self, offset: int, new: bytes, call: Any) -> None:
        """Do something to a range after which it is ``new``, or, where it fails, each sector of
        it new or as before."""
        started = Started(call, self.mirror.lock)
        until(self.device, lambda mirror: started.done.is_set() or bool(mirror.held))
        if not started.done.is_set():
            assert self.hold
            assert self.faulty or "A" * len(self.order) not in health(self.device)
            self.suspend()
            assert started.result() == errno.EIO
            self.device.mapped.resume()
        if started.result() == errno.EIO:
            self.adopt(offset, new)
        else:
            self.model[offset : offset + len(new)] = new

    def adopt(self, offset: int, new: bytes) -> None:
        """A write failed: what is there now is the old or the new, sector by sector, and stays."""
        saved = {name: self.bench.faults[name].failing for name in self.order}
        for name in saved:
            self.bench.faults[name].failing = set()
        now = self.device.pread(len(new), offset)
        for name, failing in saved.items():
            self.bench.faults[name].failing = failing
        end = offset + len(new)
        for low in range(offset // 512 * 512, end, 512):
            part = slice(max(low, offset), min(low + 512, end))
            here = now[part.start - offset : part.stop - offset]
            wanted = new[part.start - offset : part.stop - offset]
            assert here in (bytes(self.model[part]), wanted)
            self.model[part] = here

    @rule(place=places)
    def write(self, place: tuple[int, int]) -> None:
        offset, length = place
        self.written += 1
        data = self.written.to_bytes(4, "big") * (length // 4)
        self.change(offset, data, partial(self.device.pwrite, data, offset))

    @rule(place=odd_places)
    def write_odd(self, place: tuple[int, int]) -> None:
        if self.bench.faults and any(
            Op.READ in self.bench.faults[name].failing for name in self.order
        ):
            return  # it reads the rest of its sectors first
        offset, length = place
        self.written += 1
        data = bytes([self.written % 256]) * length
        self.change(offset, data, partial(self.device.pwrite, data, offset))

    @rule(place=places)
    def write_through(self, place: tuple[int, int]) -> None:
        offset, length = place
        self.written += 1
        data = self.written.to_bytes(4, "little") * (length // 4)
        self.change(offset, data, partial(self.device.mapped.write, offset, data, fua=True))

    @rule(place=places, discard=st.booleans())
    def zero(self, place: tuple[int, int], discard: bool) -> None:
        offset, length = place
        call = self.device.discard if discard else self.device.write_zeroes
        self.change(offset, bytes(length), partial(call, offset, length))

    @rule()
    def flush(self) -> None:
        self.change(0, b"", self.device.flush)

    @rule(place=odd_places)
    def read(self, place: tuple[int, int]) -> None:
        offset, length = place
        try:
            data = self.device.pread(length, offset)
        except OSError:
            assert any(Op.READ in self.bench.faults[name].failing for name in self.order)
        else:
            assert data == self.model[offset : offset + length]

    # -- what happens to it -----------------------------------------------------------------------

    @rule(steps=st.integers(1, 6))
    def copy(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    @rule()
    def clean(self) -> None:
        self.mirror.clean()

    @rule(name=legs, ops=st.sets(st.sampled_from([Op.READ, Op.WRITE, Op.FLUSH, Op.DISCARD])))
    def fail(self, name: str, ops: set[Op]) -> None:
        if name in self.order:
            self.bench.faults[name].failing = ops | (
                {Op.WRITE_ZEROES} if Op.WRITE in ops else set()
            )

    @rule()
    def heal(self) -> None:
        for name in self.order:
            self.bench.faults[name].failing = set()

    def suspend(self, **how: bool) -> None:
        with suppress(OSError):  # a flush may fail
            self.device.mapped.suspend(**how)

    @rule(noflush=st.booleans())
    def suspend_and_resume(self, noflush: bool) -> None:
        self.suspend(noflush=noflush)
        self.device.mapped.resume()

    @rule(noflush=st.booleans())
    def load_anew(self, noflush: bool) -> None:
        """The leg with the data comes first. Without a log everything is copied again."""
        before, default = self.order, self.order[self.mirror.legs.default]
        self.order = default + self.order.replace(default, "")
        self.suspend(noflush=noflush)
        # a disk log knows which regions are the same everywhere, in any order of the legs
        table = self.bench.table(self.arguments("" if self.log == "disk" else "sync"))
        try:
            self.device.reload(table, below=self.bench.lower)
        except OSError:  # the default leg cannot be flushed: all is as it was
            self.order = before
            self.device.mapped.clear()
        self.mirror = mirror_of(self.device)

    @precondition(lambda self: self.log == "disk" and self.mirror.legs.default == 0)
    @rule()
    def crash(self) -> None:
        """What is on the disks now is enough: a mirror made of copies of them has the data, and
        copies no more than what its log says."""
        (self.folder / "crash").mkdir()
        after = Bench(self.folder / "crash", SECTORS, self.order)
        try:
            for name in [*self.order, "log"]:
                after.paths[name].write_bytes(self.bench.content(name))
            clean = self.mirror.log.clean.mask()  # type: ignore[union-attr]
            regions = self.mirror.regions
            with Device.from_table(after.table(self.arguments("")), below=after.lower) as device:
                assert mirror_of(device).regions.sync.mask() == clean
                assert not clean & ~regions.sync.mask()
                assert device.pread(SIZE, 0) == self.model
                while stepped(device).step():
                    pass
                assert all(after.content(name) == self.model for name in self.order)
        finally:
            after.close()
            shutil.rmtree(self.folder / "crash")

    @invariant()
    def plan_only_if_in_sync(self) -> None:
        if hasattr(self, "device"):
            assert self.device.mapped.live is not None
            planned = self.device.mapped.live.plans[0] is not None
            assert planned == self.mirror.in_sync
            if planned:
                assert self.mirror.regions.sync.count == self.mirror.regions.total

    @rule()
    def make_good(self) -> None:
        """All legs work again: a resume, and everything is copied."""
        self.heal()
        self.device.mapped.suspend()
        self.device.mapped.resume()
        while self.step():
            pass
        regions = self.mirror.regions
        if not regions.ragged.count:
            assert health(self.device).startswith(f"{regions.total}/{regions.total} ")
            assert self.mirror.in_sync
            for name in self.order:
                assert self.bench.content(name) == self.model
        assert self.device.pread(SIZE, 0) == self.model


TestMirrorModel = MirrorModel.TestCase
TestMirrorModel.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, print_blob=True
)
pytestmark = pytest.mark.timeout(120)
