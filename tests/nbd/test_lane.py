# SPDX-License-Identifier: Apache-2.0
"""Plain requests in C: where they go, when they are left to Python, and that the device's gate,
tables and statistics are heeded by a thread that never asks for them."""

from __future__ import annotations

import importlib
import os
import random
import select
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from typing import Any

import pytest

from dmtool.backing.descriptor import Descriptor
from dmtool.export.nbd import lane, largewrite
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.connection import Connection
from dmtool.export.nbd.largeread import LARGE
from tests.nbd.conftest import in_c, wait_until

MIB = 1 << 20

pytestmark = in_c


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An item for each batch that is done in Python, an empty one too."""
    made: list[int] = []
    real = Connection._batch

    def batch(self: Connection) -> Any:
        made.append(self._in.end - self._in.pos)
        return real(self)

    monkeypatch.setattr(Connection, "_batch", batch)
    return made


def asleep(wire: Any) -> None:
    """Until a plain request has been answered, so that the connection is in its lane."""
    for _ in range(2):
        assert not wire.ask(p.CMD_READ, 0, 512).error


def lengths(way: str) -> tuple[int, ...]:
    """Of plain requests; large reads that may have to wait for a disk are none."""
    return (512, 4096) if way == "cold" else (512, 4096, LARGE, 2 * MIB)


class TestPlain:
    TABLE = """
        0 100 linear a.img 8
        100 56 zero
        156 1536 striped 3 32 a.img 200 b.img 0 c.img 64
        1692 200 linear b.img 1000
        1892 8 error
        1900 52 linear a.img 900
    """

    def test_it_finds_what_the_table_finds(self, served: Any) -> None:
        for name in "abc":
            served.image(f"{name}.img", MIB, seed=1)
        served.table(self.TABLE)
        table = served.device.live
        plain = lane.plain_of(table)
        assert plain is not None
        # in the order in which they are first used
        numbers = dict(enumerate(table.backings))
        rnd = random.Random(5)
        known = 0
        for _ in range(5000):
            offset = rnd.randrange(table.size)
            length = rnd.choice((1, 512, 4096, 20_000, table.size - offset))
            length = min(length, table.size - offset)
            wanted = table.extent(offset, length)
            found = plain.find(offset, length)
            if wanted is None or not isinstance(wanted[0], Descriptor):
                assert found is None
            else:
                assert found is not None
                assert (numbers[found[0]], found[1], found[2]) == (*wanted, True)
                known += 1
        assert 1000 < known < 5000
        with pytest.raises(ValueError, match="not within"):
            plain.find(table.size - 1, 2)

    def test_once_a_table(self, served: Any) -> None:
        served.image("a.img", MIB, seed=1)
        served.table("0 2048 linear a.img 0")
        table = served.device.live
        assert lane.plain_of(table) is lane.plain_of(table)

    def test_tables_that_gain_nothing(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        served.image("a.img", MIB, seed=1)
        served.table("0 2048 zero")
        assert lane.plain_of(served.device.live) is None
        monkeypatch.setattr(lane, "LINES_MOST", 1)
        served.table("0 8 linear a.img 0\n8 8 linear a.img 16")
        assert lane.plain_of(served.device.live) is None

    @pytest.mark.parametrize(
        ("lines", "legs", "backings", "error"),
        [
            ([], [0, 0], 1, ValueError),
            ([8], [0, 0], 1, ValueError),
            ([8, 0, 0, 1, 1, 8, 0, 0, 1, 1], [0, 0], 1, ValueError),
            ([1 << 63, 0, 0, 1, 1], [0, 0], 1, ValueError),
            ([8, 0, 0, 2, 1], [0, 0], 1, ValueError),
            ([8, 0, 1 << 63, 1 << 63, 1], [0, 0], 1, ValueError),
            ([8, 0, 0, 1, 1], [1, 0], 1, ValueError),
            ([8, 0, 0, 1, 1], [0, 1 << 63], 1, ValueError),
        ],
    )
    def test_numbers_that_lead_nowhere(
        self, lines: list[int], legs: list[int], backings: int, error: type[Exception]
    ) -> None:
        made = ((0, 4096, None, False),) * backings
        with pytest.raises(error):
            lane.NATIVE.Plain(array("Q", lines), array("Q", legs), made)

    def test_a_view_that_is_too_short(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            lane.NATIVE.Plain(
                array("Q", [8, 0, 0, 1, 1]), array("Q", [0, 0]), ((0, 9, bytearray(8), False),)
            )

    def test_a_place_beyond_its_backing_is_not_known(self) -> None:
        plain = lane.NATIVE.Plain(
            array("Q", [16, 0, 0, 1, 1]), array("Q", [0, 8]), ((0, 16, bytearray(16), False),)
        )
        assert plain.find(0, 8) == (0, 8, True)
        assert plain.find(4, 8) is None


def test_python_does_nothing_of_what_is_plain(
    served: Any, structured: bool, batches: list[int], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(largewrite, "in_memory", lambda backing: True)
    for name, seed in (("a.img", 1), ("b.img", 2)):
        served.image(name, 4 * MIB, seed=seed)
    served.table("0 8192 striped 2 128 a.img 0 b.img 0")
    wire = served.wire(structured=structured)
    asleep(wire)
    before = len(batches)
    for length in lengths(way):
        data = os.urandom(length)
        for offset in (0, 8_192 + 345):
            assert not wire.ask(p.CMD_WRITE, offset, data=data).error
            assert wire.ask(p.CMD_READ, offset, length).data == data
    assert batches[before:] == []
    # and what is not, is
    assert not wire.ask(p.CMD_FLUSH).error
    assert wire.ask(p.CMD_READ, 4 * MIB, 1).error == p.EINVAL
    assert wire.ask(p.CMD_WRITE, 4 * MIB, data=b"x").error == p.ENOSPC
    assert wire.ask(p.CMD_READ, 0, 512).data == served.device.read(0, 512)
    assert len(batches) > before


def test_batches_of_all_kinds(served: Any, structured: bool) -> None:
    """Many requests, plain and others, in one stream; what each finds is what came before it."""
    for name, seed in (("a.img", 1), ("b.img", 2)):
        served.image(name, 2 * MIB, seed=seed)
    served.table("0 2048 linear a.img 0\n2048 8 zero\n2056 2048 linear b.img 0")
    model = bytearray(served.device.read(0, 4104 * 512))
    wire = served.wire(structured=structured)
    asleep(wire)
    rnd = random.Random(3)
    stream = b""
    wanted = {}
    for number in range(3000):
        offset = rnd.randrange(len(model) - 4096)
        length = rnd.choice((1, 512, 3000, 4096))
        at = number * 16  # apart from each other: what is under way together has no order
        if rnd.random() < 0.1:
            data = rnd.randbytes(16)
            if not 2048 <= at // 512 < 2056:
                stream += wire.header(p.CMD_WRITE, at, 16) + data
                wanted[wire._cookie] = (at, data)
        elif rnd.random() < 0.02:
            stream += wire.header(p.CMD_FLUSH)
        else:
            stream += wire.header(p.CMD_READ, len(model) // 2 + offset // 2, length // 8 or 1)
    sending = wire.send_all(stream)
    replies = wire.replies(len(wire._pending))
    sending.ends()
    assert not any(reply.error for reply in replies.values())
    for at, data in wanted.values():
        model[at : at + 16] = data
    assert served.device.read(0, len(model)) == model


class TestGate:
    def test_a_suspend_under_load(self, served: Any, structured: bool) -> None:
        """Swapped under three connections: what is read is wholly of one table, and a write is
        where the table that was live when it was answered has it."""
        old = served.image("old.img", MIB, seed=1)
        new = served.image("new.img", MIB, seed=2)
        tables = ["0 2048 linear old.img 0", "0 2048 linear new.img 0"]
        served.table(tables[0])
        over = threading.Event()
        counts = [0, 0, 0]

        def load(number: int) -> None:
            wire = served.wire(structured=structured)
            rnd = random.Random(number)
            while not over.is_set():
                places = [rnd.randrange(256) * 4096 for _ in range(16)]
                wire.sock.sendall(b"".join(wire.header(p.CMD_READ, at, 4096) for at in places))
                first = wire._cookie - 15
                for cookie, reply in wire.replies(16).items():
                    at = places[cookie - first]
                    assert reply.data in (old[at : at + 4096], new[at : at + 4096])
                counts[number] += 1

        loads = [served.in_thread(lambda n=n: load(n)) for n in range(3)]
        for swap in range(200):
            before = list(counts)
            served.load(tables[(swap + 1) % 2])
            served.device.resume()
            if not swap % 20:
                wait_until(lambda before=before: all(map(int.__gt__, counts, before)))
        over.set()
        for running in loads:
            running.ends()

    def test_a_suspended_device_is_left_alone(self, served: Any) -> None:
        served.image("a.img", MIB, seed=1)
        served.table("0 2048 linear a.img 0")
        wire = served.wire()
        asleep(wire)
        served.device.suspend()
        wire.send(p.CMD_WRITE, 0, data=b"x" * 512)
        wire.sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            wire.sock.recv(1)
        wire.sock.settimeout(20)
        image = served.folder / "a.img"
        assert image.read_bytes()[:512] != b"x" * 512
        served.device.resume()
        assert not wire.reply()[1].error
        assert image.read_bytes()[:512] == b"x" * 512

    def test_mappings_go_with_their_table(self, served: Any) -> None:
        """Though the connection has the last request still in hand, and does nothing more."""
        served.image("old.img", MIB, seed=1)
        served.image("new.img", MIB, seed=2)
        served.table("0 2048 linear old.img 0")
        wire = served.wire()
        asleep(wire)
        maps = Path("/proc/self/maps")
        assert str(served.folder / "old.img") in maps.read_text()
        served.table("0 2048 linear new.img 0")
        assert str(served.folder / "old.img") not in maps.read_text()
        asleep(wire)


class TestStatistics:
    def test_what_is_asked_from_then_on_is_counted(self, served: Any) -> None:
        served.image("a.img", MIB, seed=1)
        served.table("0 2048 linear a.img 0")
        wire = served.wire()
        asleep(wire)
        assert served.device.stats.message(["@stats_create", "-", "/1"], 2048) == "0"
        for _ in range(5):
            wire.ask(p.CMD_READ, 0, 1024)
        printed = served.device.stats.message(["@stats_print", "0"], 2048)
        assert printed is not None
        assert printed.split()[1:4] == ["5", "0", "10"]  # reads, merged, sectors
        served.device.stats.message(["@stats_delete", "0"], 2048)
        asleep(wire)

    @pytest.fixture(autouse=True)
    def mapped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(largewrite, "in_memory", lambda backing: True)

    def counted(self, served: Any, structured: bool) -> Any:
        """A connection to a device that is counted, in its lane."""
        served.image("a.img", 4 * MIB, seed=1)
        served.table("0 8192 linear a.img 0")
        assert served.device.stats.message(["@stats_create", "-", "/1"], 8192) == "0"
        wire = served.wire(structured=structured)
        asleep(wire)
        assert self.counts(served) == [2, 2, 0, 0, 0]
        served.device.stats.message(["@stats_clear", "0"], 8192)
        return wire

    def counts(self, served: Any) -> list[int]:
        """Reads and their sectors, writes and theirs, and what is in flight."""
        words = served.device.stats.message(["@stats_print", "0"], 8192).split()[1:]
        return [int(words[at]) for at in (0, 2, 4, 6, 8)]

    def test_python_does_nothing_of_it(
        self, served: Any, structured: bool, batches: list[int], way: str
    ) -> None:
        wire = self.counted(served, structured)
        before = len(batches)
        sectors = 0
        for number, length in enumerate(lengths(way), 1):
            sectors += length // 512
            assert len(wire.ask(p.CMD_READ, 512, length).data) == length
            assert self.counts(served)[:2] == [number, sectors]
            assert not wire.ask(p.CMD_WRITE, 512, data=bytes(length)).error
            assert self.counts(served) == [number, sectors, number, sectors, 0]
        assert batches[before:] == []

    @pytest.mark.parametrize("sent", [MIB // 2, MIB - 1])
    def test_a_large_write_that_python_ends_is_counted_once(
        self, served: Any, structured: bool, sent: int
    ) -> None:
        wire = self.counted(served, structured)
        data = os.urandom(MIB)
        wire.sock.sendall(wire.header(p.CMD_WRITE, 0, MIB) + data[:sent])
        wire.wait_until_received()
        suspending = served.in_thread(served.device.suspend)
        wait_until(lambda: bool(select.select([served.device.closed_fd], [], [], 0)[0]))
        wire.sock.sendall(data[sent:])
        suspending.ends()
        served.device.resume()
        assert not wire.reply()[1].error
        assert self.counts(served) == [0, 0, 1, MIB // 512, 0]
        assert served.device.read(0, MIB) == data

    def test_connections_at_once(self, served: Any, structured: bool) -> None:
        self.counted(served, structured)
        each = 64 * 32

        def load() -> None:
            wire = served.wire(structured=structured)
            for _ in range(64):
                wire.sock.sendall(b"".join(wire.header(p.CMD_READ, 0, 1024) for _ in range(32)))
                wire.replies(32)
                assert self.counts(served)[4] == 0

        for running in [served.in_thread(load) for _ in range(4)]:
            running.ends()
        assert self.counts(served) == [4 * each, 8 * each, 0, 0, 0]

    def test_a_meter_of_python_is_none(self, served: Any) -> None:
        served.image("a.img", MIB, seed=1)
        served.table("0 2048 linear a.img 0")
        plain = lane.plain_of(served.device.live)
        importlib.import_module("dmtool._stats")  # whose Meter is meant, chosen or not
        way = lane.NATIVE.Lane(0, bytearray(1 << 18), False, array("Q", [0]), 0)
        with pytest.raises(TypeError, match="not a Meter"):
            way.prepare(plain, 0, 0, 0, 0, 0, object())
        way.prepare(plain, 0, 0, 0, 0, 0, None)


def test_the_choice() -> None:
    def chosen(word: str) -> str:
        program = "from dmtool.export.nbd import lane; print(lane.NATIVE)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "DMTOOL_LANE": word},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert "dmtool._nbd" in chosen("")
    assert "dmtool._nbd" in chosen("native")
    assert chosen("python") == "None\n"
    assert "neither native nor python" in chosen("both")


@pytest.mark.parametrize(
    ("word", "spin"), [("", 30), ("0", 0), ("200", 200), ("123456", 1000), ("soon", 30)]
)
def test_the_spin_is_a_setting(word: str, spin: int) -> None:
    program = (
        "import os; os.sched_getaffinity = lambda pid: {0, 1};"
        "from dmtool.export.nbd.spin import SPIN; print(SPIN)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DMTOOL_NBD_SPIN": word},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == spin
