# SPDX-License-Identifier: Apache-2.0
"""Mirrors under load from several threads: nothing is lost, and legs in sync are alike."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

import pytest

from dmtool import Device
from dmtool.api import Op
from dmtool.plugins.mirror.testbed import HANDLE, KEEP, Bench, Started, bench, mirror_of, until
from dmtool.testing import make_pattern

SECTORS, WRITERS = 256, 3


class Load:
    """Writers, each on sectors of its own, that check what they wrote. ``model``: the bytes that
    reads are to give."""

    def __init__(self, device: Device, start: bytes) -> None:
        self.model = bytearray(start)
        self.failed = 0
        self._device = device
        self._stop = threading.Event()
        self._threads = [Started(partial(self._work, number)) for number in range(WRITERS)]

    def finish(self) -> int:
        """How many writes were done."""
        self._stop.set()
        return sum(thread.result() for thread in self._threads)

    def _work(self, number: int) -> int:
        random, count = Random(number), 0
        while not self._stop.is_set():
            at = (random.randrange(SECTORS // WRITERS) * WRITERS + number) * 512
            data = random.randbytes(512)
            try:
                self._device.pwrite(data, at)
            except OSError:
                self.failed += 1
                before = bytes(self.model[at : at + 512])
                now = self._read(at)
                assert now in (before, data)
                data = now
            else:
                assert self._read(at) == data
            self.model[at : at + 512] = data
            count += 1
        return count

    def _read(self, at: int) -> bytes:
        """A leg that cannot be read may be the only one with the data; not for ever."""
        while True:
            try:
                return self._device.pread(512, at)
            except OSError:
                os.sched_yield()


@pytest.mark.parametrize("window", [5, 24])
def test_writers_and_copier_at_once(
    window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While all is copied, suspended and loaded anew, over and over."""
    monkeypatch.setattr("dmtool.plugins.mirror.copier._WINDOW", window * 512)
    images = [tmp_path / name for name in "abc"]
    for image in images:
        make_pattern(image, ord(image.name), SECTORS)
    legs = " ".join(f"{image} 0" for image in images)
    table = f"0 {SECTORS} mirror core 2 16 sync 3 {legs}"
    with Device.from_table(table) as device:
        load = Load(device, images[0].read_bytes())
        event = 0
        for turn in range(25):
            found = device.mapped.wait(event)
            assert found is not None
            event = found
            device.mapped.suspend(noflush=bool(turn % 2))
            first = images[0].read_bytes()
            assert all(image.read_bytes() == first for image in images[1:])
            device.mapped.resume()
            device.reload(table)
        assert load.finish() > 0
        device.mapped.wait(event)
        assert device.pread(SECTORS * 512, 0) == load.model
    assert load.failed == 0
    assert all(image.read_bytes() == load.model for image in images)


@pytest.mark.parametrize("options", ["", HANDLE, KEEP])
@pytest.mark.parametrize("log", ["core 1 16", "disk 2 {log} 16"])
def test_legs_fail_and_come_back(
    log: str, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmtool.plugins.mirror.copier._WINDOW", 24 * 512)
    with bench(tmp_path, SECTORS) as made:
        make_pattern(made.paths["a"], 1, SECTORS)
        device = made.make(f"{log} 3 {{a}} 0 {{b}} 0 {{c}} 0{options}")
        load = Load(device, made.content("a"))
        _break_things(made, device, Random(options))
        # once more, so that what is held now is done, and what failed is copied
        for noflush in (True, False):
            device.mapped.suspend(noflush=noflush)
            device.mapped.resume()
        until(device, lambda mirror: mirror.in_sync)
        assert load.finish() > 0
        assert device.pread(SECTORS * 512, 0) == load.model
        device.mapped.suspend()
        assert mirror_of(device).in_sync
        if not mirror_of(device).regions.ragged.count:
            for name in "abc":
                assert made.content(name) == load.model


def _break_things(made: Bench, device: Device, random: Random) -> None:
    """Legs that cannot be written, one of which at a time cannot be read either; then none."""
    for turn in range(40):
        for name in "abc":
            made.faults[name].failing = {Op.WRITE} if random.random() < 0.3 else set()
        made.faults[random.choice("bc")].failing |= {Op.READ}
        with suppress(OSError):
            device.pread(SECTORS * 512, 0)
        if turn % 4 == 3:
            device.mapped.suspend(noflush=True)
            device.mapped.resume()
    for faults in made.faults.values():
        faults.failing = set()
