# SPDX-License-Identifier: Apache-2.0
"""Tables are swapped, and the core is killed, while clients write and verify what they wrote.

The layouts that take turns put the same bytes at the same sectors, by different tables.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.client import nbd

if TYPE_CHECKING:
    from tests.clients.conftest import Core

SECTOR, BLOCK = 512, 4096
FIRST = 5001  # sectors of the device that are in one.img
SECTORS = 8192
WRITERS = 2
BLOCKS = SECTORS * SECTOR // BLOCK // (WRITERS + 1)  # blocks of each; as many are fio's
PATIENCE = 60.0  # seconds

WHOLE = f"0 {FIRST} linear one.img 64\n{FIRST} {SECTORS - FIRST} linear two.img 7\n"


def cut_up(seed: int) -> str:
    """The same as WHOLE in many targets, some of them striped over one file in both places."""
    chance = random.Random(seed)
    lines = []
    start = 0
    while start < SECTORS:
        end = FIRST if start < FIRST else SECTORS
        length = min(chance.randrange(1, 400), end - start)
        name, offset = ("one.img", start + 64) if start < FIRST else ("two.img", start - FIRST + 7)
        if length % 2 == 0 and length > 2:
            # two stripes of one chunk each are what one linear target is
            half = length // 2
            lines.append(
                f"{start} {length} striped 2 {half} {name} {offset} {name} {offset + half}"
            )
        else:
            lines.append(f"{start} {length} linear {name} {offset}")
        start += length
    return "\n".join(lines) + "\n"


def sectors() -> str:
    """Every sector is a target: as much text as is built in bulk."""
    one = [f"{i} 1 linear one.img {i + 64}\n" for i in range(FIRST)]
    return "".join(one + [f"{i} 1 linear two.img {i - FIRST + 7}\n" for i in range(FIRST, SECTORS)])


LAYOUTS = [WHOLE, cut_up(1), sectors(), cut_up(2)]


class Writer(threading.Thread):
    """Writes blocks of its part of the device, reads them back, flushes, over one connection.

    A sector says who wrote it, where, and at which turn, so that no other can be taken for it.
    ``written`` is the last turn of each block that was acknowledged, ``begun`` the last one that
    was sent, ``flushed`` the last one that was acknowledged before a flush was.

    Threads: after ``join`` everything is the caller's; before, it may look at ``rounds``.
    """

    def __init__(self, core: Core, number: int) -> None:
        super().__init__()
        self.core = core
        self.number = number
        self.first = number * BLOCKS
        self.written = [0] * BLOCKS
        self.begun = [0] * BLOCKS
        self.flushed = [0] * BLOCKS
        self.rounds = 0
        self.requests = 0
        self.error: Exception | None = None
        self.enough = threading.Event()
        self.progress = threading.Condition()
        self._turn = 0
        self._chance = random.Random(number)

    def content(self, block: int, turn: int) -> bytes:
        if not turn:
            return bytes(BLOCK)
        return b"".join(
            f"{self.number} {block} {turn} {sector} ".encode().ljust(SECTOR, b"=")
            for sector in range(BLOCK // SECTOR)
        )

    def run(self) -> None:
        try:
            with nbd.connect(self.core.nbd, "load", timeout=PATIENCE) as client:
                client.write_zeroes(BLOCKS * BLOCK, self.first * BLOCK, fua=True)
                while not self.enough.is_set():
                    self._round(client)
                    with self.progress:
                        self.rounds += 1
                        self.progress.notify_all()
        except Exception as error:  # noqa: BLE001  # the test that joins looks at it
            self.error = error
        with self.progress:
            self.rounds = max(self.rounds, 1 << 30)  # nobody need wait for this one
            self.progress.notify_all()

    def _round(self, client: nbd.Nbd) -> None:
        """Some blocks written one by one or a few together, one of them with FUA, all read, one
        flush."""
        for _ in range(8):
            block = self._chance.randrange(BLOCKS - 3)
            number = self._chance.choice((1, 1, 3))
            fua = self._chance.random() < 0.1
            self._turn += 1
            these = range(block, block + number)
            for each in these:
                self.begun[each] = self._turn
            data = b"".join(self.content(each, self._turn) for each in these)
            client.pwrite(data, (self.first + block) * BLOCK, fua=fua)
            for each in these:
                self.written[each] = self._turn
                if fua:
                    self.flushed[each] = self._turn
            block = self._chance.randrange(BLOCKS)
            got = client.pread(BLOCK, (self.first + block) * BLOCK)
            assert got == self.content(block, self.written[block]), f"block {block}"
            self.requests += 2
        before = list(self.written)
        client.flush()
        self.flushed = before

    def wait_for(self, rounds: int) -> None:
        """Until it has done so many rounds more, or has ended."""
        with self.progress:
            wanted = self.rounds + rounds
            assert self.progress.wait_for(lambda: self.rounds >= wanted, PATIENCE)

    def check(self, image: bytes, least: list[int]) -> None:
        """Every sector of its blocks is of a turn between ``least`` and the last one begun."""
        for block in range(BLOCKS):
            at = (self.first + block) * BLOCK
            got = image[at : at + BLOCK]
            if got == self.content(block, least[block]):
                continue
            for sector in range(0, BLOCK, SECTOR):
                words = got[sector : sector + SECTOR].split()
                assert len(words) > 3, f"block {block}: {got[sector : sector + 40]!r}"
                turn = int(words[2])
                assert least[block] <= turn <= self.begun[block], f"block {block}"
                assert (
                    got[sector : sector + SECTOR]
                    == (self.content(block, turn)[sector : sector + SECTOR])
                )


@pytest.fixture
def load(dmtool: Core) -> Core:
    """A core with the device ``load``, over two images with something of others' around it."""
    dmtool.files = dmtool.parent / "files"
    dmtool.files.mkdir()
    for name, before, number in (("one.img", 64, FIRST), ("two.img", 7, SECTORS - FIRST)):
        around = b"\xee" * SECTOR
        content = around * before + bytes(number * SECTOR) + around * 9
        (dmtool.files / name).write_bytes(content)
    dmtool("create", "load", "-u", "LOAD-1", "-j", "1000", "-m", "9", stdin=WHOLE)
    return dmtool


def table(core: Core) -> str:
    """The live table of ``load``, as it was written."""
    return core("table", "load").replace(f"{core.files}/", "")


def image(folder: Path) -> bytes:
    """What the device has, from the files; what lies around it must be as it was."""
    around = b"\xee" * SECTOR
    one, two = (folder / "one.img").read_bytes(), (folder / "two.img").read_bytes()
    assert one[: 64 * SECTOR] == around * 64
    assert two[: 7 * SECTOR] == around * 7
    assert one[-9 * SECTOR :] == two[-9 * SECTOR :] == around * 9
    return one[64 * SECTOR : -9 * SECTOR] + two[7 * SECTOR : -9 * SECTOR]


class Fio(threading.Thread):
    """Runs fio again and again on the last part of the device: random writes of 512 bytes to
    16 kB, sixteen at a time, then all read back and verified.

    Threads: after ``join`` everything is the caller's.
    """

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.enough = threading.Event()
        self.failures: list[str] = []
        self.requests = 0
        self._core = core
        self._command = [
            "fio", "--name=verify", "--ioengine=nbd", f"--uri={core.uri('load')}", "--rw=randwrite",
            "--bsrange=512-16k", "--blockalign=512", "--iodepth=16", "--loops=5",
            f"--offset={WRITERS * BLOCKS * BLOCK}", f"--size={BLOCKS * BLOCK}", "--verify=crc32c",
            "--verify_fatal=1", "--verify_state_save=0", "--output-format=json", "--output=fio.json",
            # microseconds after each request: they leave the commands some of the processor
            "--thinktime=500",
        ]  # fmt: skip

    def run(self) -> None:
        while not self.enough.is_set() and not self.failures:
            done = subprocess.run(
                self._command, cwd=self._core.files, capture_output=True, text=True, check=False
            )
            if done.returncode:
                self.failures.append(done.stdout + done.stderr)
                return
            (job,) = json.loads((self._core.files / "fio.json").read_text())["jobs"]
            self.requests += job["write"]["total_ios"] + job["read"]["total_ios"]
            if job["error"] or job["write"]["total_ios"] != job["read"]["total_ios"]:
                self.failures.append(str(job))


class Swapper(threading.Thread):
    """Loads and resumes one layout after the other, by commands, until it is told to stop.

    Threads: after ``join`` everything is the caller's; before, it may look at ``swaps``.
    """

    def __init__(self, core: Core, most: int | None = None) -> None:
        super().__init__()
        self.enough = threading.Event()
        self.failures: list[str] = []
        self.swaps = 0
        self._most = most
        self._core = core

    def run(self) -> None:
        for layout in itertools.islice(itertools.cycle(LAYOUTS), self._most):
            # a resume suspends by itself, and yet many scripts do it before
            first = [["suspend", "load"]] if self.swaps % 10 == 9 else []
            for args in (*first, ["load", "load"], ["resume", "load"]):
                done = self._core.try_(*args, stdin=layout if args[0] == "load" else b"")
                if done.returncode:
                    self.failures.append(f"{args}: {done.stderr.decode()}")
                    return
            self.swaps += 1
            if self.enough.is_set():
                return


@contextmanager
def under_load(core: Core) -> Iterator[list[Writer]]:
    """Writers that have got going; at the end they are stopped, whatever happened."""
    writers = [Writer(core, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        for writer in writers:
            writer.wait_for(3)
        yield writers
    finally:
        for writer in writers:
            writer.enough.set()
        for writer in writers:
            writer.join(PATIENCE)
    assert not [writer for writer in writers if writer.is_alive()], "a request is lost"


@pytest.mark.timeout(300)
@pytest.mark.tools("fio")
def test_a_hundred_swaps_lose_and_fail_no_request(load: Core) -> None:
    assert table(load) == WHOLE
    verify, swapper = Fio(load), Swapper(load, most=100)
    with under_load(load) as writers:
        verify.start()
        swapper.start()
        swapper.join()
        verify.enough.set()
        for writer in writers:
            writer.wait_for(2)  # nobody is left behind
        verify.join(PATIENCE)
    assert not verify.is_alive(), "a request is lost"
    assert swapper.failures == []
    assert swapper.swaps == 100
    assert verify.failures == []
    assert verify.requests > 1000
    for writer in writers:
        assert writer.error is None
        assert writer.requests > 500
        writer.check(image(load.files), writer.written)
    assert load.info("load")["event_nr"] == 0
    # the layout of the last one
    assert table(load) == LAYOUTS[99 % len(LAYOUTS)]


def definitions(core: Core) -> dict[str, Any]:
    """All that is to be as it was: of every device the info, and both tables."""
    found = {one["name"]: one for one in json.loads(core("info", "--json"))["devices"]}
    for options in ([], ["--inactive"]):
        for one in json.loads(core("table", "--json", *options))["devices"]:
            found[one["name"]].setdefault("tables", []).append(one["targets"])
    return found


def test_killed_in_the_middle(load: Core) -> None:
    """Twice. All devices are back, and all that was flushed."""
    for name in ("third.img", "fourth.img"):
        (load.files / name).write_bytes(b"3" * 100 * SECTOR)
    (load.files / "third.img").chmod(0o444)
    load("create", "over", "--table", "0 4000 linear /dev/mapper/load 96")
    load("create", "readonly", "-r", "-u", "R", "--table", "0 100 linear third.img 0")
    load("create", "first name", "--table", "0 100 linear fourth.img 0")
    load("rename", "first name", "second name")
    load("rename", "second name", "--setuuid", "set later")
    load("create", "stopped", "-j", "1000", "-m", "77", "--table", "0 50 linear fourth.img 50")
    load("suspend", "stopped")
    load("load", "stopped", "--table", "0 20 zero")
    load("create", "bare", "--notable")
    before = definitions(load)
    assert set(before) == {"load", "over", "readonly", "second name", "stopped", "bare"}
    assert before["second name"]["event_nr"] == 2
    assert before["second name"]["uuid"] == "set later"
    assert (before["stopped"]["suspended"], before["stopped"]["minor"]) == (True, 77)
    assert before["readonly"]["readonly"] is True
    assert before["load"]["open_count"] == 1

    for _ in range(2):
        swapper = Swapper(load)
        with under_load(load) as writers:
            swapper.start()
            for writer in writers:
                writer.wait_for(5)
            load.kill()
            for writer in writers:
                writer.join(PATIENCE)
        # its next command has started a core, and goes on
        swapper.enough.set()
        swapper.join()
        assert swapper.failures == []
        assert swapper.swaps > 0

        after = definitions(load)
        assert table(load) in LAYOUTS
        assert after["load"]["tables"][1] == []
        for changing in ("target_count", "tables"):
            after["load"][changing] = before["load"][changing]
        assert after == before

        content = image(load.files)
        assert load.output("read", "load") == content
        assert load.output("read", "over") == content[96 * SECTOR : 4096 * SECTOR]
        for writer in writers:
            assert isinstance(writer.error, ConnectionError), writer.error
            assert max(writer.flushed) > 0
            writer.check(content, writer.flushed)
