# SPDX-License-Identifier: Apache-2.0
"""A whole move under a load that verifies what it wrote, while cores, and clients, are killed.

2 GiB, of which an eighth is data and the rest holes. The load writes blocks all over the device and
reads them back over NBD; when the core is killed it connects to the next one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.client import Client, nbd
from dmtool.client.follow import Arrival
from dmtool.directory import Directory
from dmtool.errors import CoreError, DmtoolError

if TYPE_CHECKING:
    from tests.clients.conftest import Core

SECTOR, BLOCK, MIB = 512, 4096, 1 << 20
SIZE = 2048 * MIB
SHARE = 8  # of the image's MiB one is data
AHEAD = 1 * MIB  # of others, before the device begins in the image
BLOCKS, WRITERS, KILLS = 1500, 2, 5
PATIENCE = 60.0  # seconds


class Writer(threading.Thread):
    """Writes blocks of its own, somewhere on the device, reads them back, flushes.

    A sector says who wrote it, which block, and at which turn. ``written`` is the last turn that
    was acknowledged of a block, ``open`` a later one that was sent to a core that died; either may be
    there, but it is one for good once it was read.

    Threads: after ``join`` everything is the caller's; before, it may look at ``rounds``.
    """

    def __init__(self, core: Core, number: int, seed: int) -> None:
        super().__init__()
        self.number = number
        self.places = random.Random(f"places {seed}").sample(
            range(SIZE // BLOCK), BLOCKS * WRITERS
        )[number::WRITERS]
        self.written = [0] * BLOCKS
        self.open: dict[int, int] = {}
        self.deaths = 0
        self.rounds = 0
        self.error: Exception | None = None
        self.enough = threading.Event()
        self.progress = threading.Condition()
        self._core = core
        self._turn = 0
        self._chance = random.Random(f"writer {number} {seed}")

    def content(self, block: int, turn: int) -> bytes:
        return b"".join(
            f"{self.number} {block} {turn} {sector} ".encode().ljust(SECTOR, b"=")
            for sector in range(BLOCK // SECTOR)
        )

    def run(self) -> None:
        try:
            with Arrival(Directory(str(self._core.path))) as arrival:
                while not self.enough.is_set():
                    try:
                        self._connected()
                    except (OSError, DmtoolError):
                        # the core was killed; what else may be wrong comes again
                        self.deaths += 1
                        self._wait_for_core(arrival)
        except Exception as error:  # noqa: BLE001  # the test that joins looks at it
            self.error = error
        self._tell(1 << 30)  # nobody need wait for this one

    def _wait_for_core(self, arrival: Arrival) -> None:
        """Until one answers, which it does when its devices are served."""
        with Client(arrival.directory, start=False) as client:
            while not self.enough.is_set():
                try:
                    client.call("version")
                except CoreError:
                    arrival.wait()
                else:
                    return

    def _connected(self) -> None:
        with nbd.connect(self._core.nbd, "pool", timeout=PATIENCE) as disk:
            for block in list(self.open):
                self._settle(block, disk.pread(BLOCK, self.places[block] * BLOCK))
            while not self.enough.is_set():
                self._round(disk)
                self._tell(1)

    def _round(self, disk: nbd.Nbd) -> None:
        for _ in range(8):
            block = self._chance.randrange(BLOCKS)
            self._turn += 1
            self.open[block] = self._turn
            fua = self._chance.random() < 0.1
            disk.pwrite(self.content(block, self._turn), self.places[block] * BLOCK, fua=fua)
            self.written[block] = self.open.pop(block)
            block = self._chance.randrange(BLOCKS)
            if self.written[block]:
                self.check(block, disk.pread(BLOCK, self.places[block] * BLOCK))
        disk.flush()

    def check(self, block: int, found: bytes | bytearray) -> None:
        wanted = self.content(block, self.written[block])
        if found != wanted:
            raise AssertionError(f"{self.number}: block {block}: {bytes(found[:40])!r}")

    def _settle(self, block: int, found: bytearray) -> None:
        """Of a write that was not acknowledged all is there, or nothing."""
        turn = self.open.pop(block)
        if found == self.content(block, turn):
            self.written[block] = turn
        elif self.written[block]:
            self.check(block, found)

    def _tell(self, rounds: int) -> None:
        with self.progress:
            self.rounds += rounds
            self.progress.notify_all()

    def wait_for(self, rounds: int) -> None:
        """Until it has done so many rounds more, or has ended."""
        with self.progress:
            wanted = self.rounds + rounds
            assert self.progress.wait_for(lambda: self.rounds >= wanted, PATIENCE)


def make_image(path: Path, seed: int) -> None:
    chance = random.Random(f"image {seed}")
    with path.open("wb") as image:
        image.write(b"before".ljust(AHEAD, b"!"))
        image.truncate(AHEAD + SIZE)
        for at in range(0, SIZE, MIB):
            if chance.randrange(SHARE) == 0:
                image.seek(AHEAD + at)
                image.write(chance.randbytes(MIB))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_byte_is_lost(dmtool: Core) -> None:
    seed = int(os.environ.get("DMTOOL_TEST_SEED", time.time_ns()))
    sys.stdout.write(f"DMTOOL_TEST_SEED={seed}\n")  # pytest shows it of a test that fails
    chance = random.Random(seed)
    old, new = dmtool.files / "old.img", dmtool.files / "new.img"
    make_image(old, seed)
    table = f"0 {SIZE // SECTOR} linear old.img {AHEAD // SECTOR}\n"
    # so slow that it is not over before the last kill
    dmtool.environ["DMTOOL_MIRROR_RATE"] = "5MiB"
    dmtool("create", "pool", stdin=table)
    command = ("move", "pool", "--from", "old.img", "--to", "new.img")
    writers = [Writer(dmtool, number, seed) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        mover = dmtool.start(*command, "--json")
        try:
            wait_until_copying(mover)
            for _ in range(KILLS):
                chance.choice(writers).wait_for(chance.randrange(1, 200))
                assert mover.poll() is None, "it is over already"
                dmtool.kill()
                for writer in writers:
                    # it is the move that has to start a core: nobody else does
                    writer.wait_for(2)
            mover.send_signal(signal.SIGKILL)
        finally:
            mover.kill()
            mover.communicate()
        for writer in writers:
            writer.wait_for(20)
        assert "pool-move0" in dmtool("ls")
        dmtool.kill()
        del dmtool.environ["DMTOOL_MIRROR_RATE"]
        assert dmtool(*command) == f"pool lies on {new}\n"
        for writer in writers:
            writer.wait_for(20)
    finally:
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join(PATIENCE)
    for writer in writers:
        assert writer.error is None
        assert not writer.open
        assert writer.deaths >= KILLS
    assert dmtool("table", "pool") == table.replace("old.img", str(new))
    assert dmtool("ls") == "pool\t(1000:0)\n"
    compare(dmtool, old, new, writers)


def wait_until_copying(mover: subprocess.Popen[bytes]) -> None:
    """Until it says so for the first time."""
    assert mover.stdout is not None
    line = mover.stdout.readline()
    assert line, mover.communicate()
    said: dict[str, Any] = json.loads(line)
    assert said["state"] == "copying"


def compare(core: Core, old: Path, new: Path, writers: list[Writer]) -> None:
    """The device, the image that it lies on now, and the one on which it lay before: what the load
    wrote is what it knows, and all else is the same in all three."""
    known: dict[int, tuple[Writer, int]] = {
        place: (writer, block)
        for writer in writers
        for block, place in enumerate(writer.places)
        if writer.written[block]
    }
    piece = 8 * MIB
    with (
        nbd.connect(core.nbd, "pool", timeout=PATIENCE) as disk,
        old.open("rb") as source,
        new.open("rb") as target,
    ):
        for at in range(0, SIZE, piece):
            source.seek(AHEAD + at)
            target.seek(AHEAD + at)
            before, after = bytearray(source.read(piece)), target.read(piece)
            assert disk.pread(piece, at) == after
            for place in range(at // BLOCK, (at + piece) // BLOCK):
                if place in known:
                    writer, block = known.pop(place)
                    here = slice(place * BLOCK - at, (place + 1) * BLOCK - at)
                    writer.check(block, after[here])
                    before[here] = after[here]
            assert before == after, f"bytes {at} to {at + piece}"
    assert not known
    # what is not the device's has not been touched
    with new.open("rb") as target:
        assert not any(target.read(AHEAD))
