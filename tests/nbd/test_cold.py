# SPDX-License-Identifier: Apache-2.0
"""Reads that wait for a disk, in C: see native/cold.h, which says who does what."""

from __future__ import annotations

import os
import random
import select
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from dmtool.export.nbd import protocol as p
from dmtool.export.nbd import residency
from dmtool.export.nbd.connection import Connection
from dmtool.export.nbd.residency import Residency
from tests.nbd.conftest import in_cold, wait_until

MIB = 1 << 20
SIZE = 8 * MIB

pytestmark = in_cold


@pytest.fixture
def cold(served: Any) -> Any:
    """Two images, side by side; ``data`` is what is in them."""
    served.data = served.image("a.img", SIZE // 2, seed=1) + served.image(
        "b.img", SIZE // 2, seed=2
    )
    half = SIZE // 2 // 512
    served.table(f"0 {half} linear a.img 0\n{half} {half} linear b.img 0")
    return served


def evict(folder: Path) -> None:
    """Have the page cache forget the images; what is not there has to be waited for."""
    for path in sorted(folder.glob("*.img")):
        fd = os.open(path, os.O_RDWR)
        try:
            wait_until(lambda fd=fd: evicted(fd))
        finally:
            os.close(fd)


def evicted(fd: int) -> bool:
    """Whether the page cache has let go of a file; not while something is done with it."""
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    return False


def ask_for(wire: Any, places: list[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Send reads, all at once; the place, and the length, of each cookie."""
    asked = {}
    stream = b""
    for at, length in places:
        stream += wire.header(p.CMD_READ, at, length)
        asked[wire._cookie] = at, length
    wire.sock.sendall(stream)
    return asked


def check(wire: Any, asked: dict[int, tuple[int, int]], data: bytes) -> None:
    for cookie, reply in wire.replies(len(asked)).items():
        at, length = asked[cookie]
        assert not reply.error
        assert reply.data == data[at : at + length]


def places(seed: int, count: int, longest: int = 200_000) -> list[tuple[int, int]]:
    rnd = random.Random(seed)
    lengths = [rnd.choice((1, 512, 4096, longest)) for _ in range(count)]
    return [(rnd.randrange(SIZE - length), length) for length in lengths]


def test_more_than_may_be_under_way(cold: Any, structured: bool) -> None:
    wire = cold.wire(structured=structured)
    for seed in range(5):
        evict(cold.folder)
        check(wire, ask_for(wire, places(seed, 300)), cold.data)


def test_what_comes_meanwhile_is_done(cold: Any, structured: bool) -> None:
    """Writes, and requests that are left to Python, among reads that wait."""
    wire = cold.wire(structured=structured)
    rnd = random.Random(7)
    written = {}
    for _ in range(5):
        evict(cold.folder)
        asked, others = {}, set()
        stream = b""
        for number, (at, length) in enumerate(places(rnd.randrange(99), 200, 4096)):
            # reads are of the first half, writes of the second, each at a place of its own
            if number % 5 == 0:
                to = SIZE // 2 + number * 4096
                written[to] = rnd.randbytes(4096)
                stream += wire.header(p.CMD_WRITE, to, 4096) + written[to]
                others.add(wire._cookie)
            elif number % 31 == 0:
                stream += wire.header(p.CMD_FLUSH)
                others.add(wire._cookie)
            else:
                stream += wire.header(p.CMD_READ, at // 2, length)
                asked[wire._cookie] = at // 2, length
        sending = wire.send_all(stream)
        replies = wire.replies(len(asked) + len(others))
        sending.ends()
        for cookie, reply in replies.items():
            assert not reply.error
            if cookie in asked:
                at, length = asked[cookie]
                assert reply.data == cold.data[at : at + length]
    for to, data in written.items():
        assert cold.device.read(to, 4096) == data


def test_a_suspend_waits_for_them(cold: Any, structured: bool) -> None:
    wire = cold.wire(structured=structured)
    for seed in range(20):
        evict(cold.folder)
        asked = ask_for(wire, places(seed, 64, 8192))
        wire.wait_until_received()
        cold.in_thread(cold.device.suspend).ends()
        cold.device.resume()
        check(wire, asked, cold.data)


def test_a_suspend_does_not_wait_for_a_client(cold: Any, structured: bool) -> None:
    """What it does not take is sent when it does, whole, and before all that comes later."""
    assert cold.device.stats.message(["@stats_create", "-", "/1"], SIZE // 512) == "0"
    wire = cold.wire(structured=structured)
    evict(cold.folder)
    asked = ask_for(wire, [(at, 128 << 10) for at in range(0, SIZE, 128 << 10)])
    wire.wait_for_a_reply()
    cold.in_thread(cold.device.suspend).ends()
    late = ask_for(wire, [(0, 512), (SIZE - 512, 512)])
    cold.device.resume()
    check(wire, asked | late, cold.data)
    assert not wire.ask(p.CMD_FLUSH).error
    words = cold.device.stats.message(["@stats_print", "0"], SIZE // 512).split()
    assert (words[1], words[3], words[9]) == ("66", str(SIZE // 512 + 2), "0")


def test_one_that_fails_is_told_and_the_others_are_done(cold: Any, structured: bool) -> None:
    wire = cold.wire(structured=structured)
    evict(cold.folder)
    with (cold.folder / "b.img").open("r+b") as file:
        file.truncate(SIZE // 4)
    good = [(at * 8192, 4096) for at in range(64)]
    bad = [(SIZE - 4096 * number, 4096) for number in range(1, 9)]
    mixed = [*good[:20], *bad, *good[20:]]
    asked = ask_for(wire, mixed)
    for cookie, reply in wire.replies(len(mixed)).items():
        at, length = asked[cookie]
        assert reply.error == (p.EIO if (at, length) in bad else 0)
        assert reply.error or reply.data == cold.data[at : at + length]
    assert wire.ask(p.CMD_READ, 0, 4096).data == cold.data[:4096]


def test_where_nobody_can_ask(served: Any, structured: bool) -> None:
    """tmpfs knows no RWF_NOWAIT."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(os.urandom(MIB))
        file.flush()
        served.table(f"0 2048 linear {file.name} 0")
        wire = served.wire(structured=structured)
        for at in range(0, MIB, 4096):
            assert wire.ask(p.CMD_READ, at, 4096).data == os.pread(file.fileno(), 4096, at)


def test_a_client_that_leaves(cold: Any, structured: bool) -> None:
    for seed in range(10):
        evict(cold.folder)
        wire = cold.wire(structured=structured)
        ask_for(wire, places(seed, 64))
        wire.sock.close()
    wait_until(lambda: not any(thread.name == "nbd" for thread in threading.enumerate()))
    cold.in_thread(cold.device.suspend).ends()
    cold.device.resume()
    wire = cold.wire(structured=structured)
    assert wire.ask(p.CMD_READ, 0, 512).data == cold.data[:512]


def test_a_read_that_waits_holds_up_no_other(cold: Any, structured: bool) -> None:
    """Many connections at once, each with more than one thread reads at a time."""

    def load(seed: int) -> None:
        wire = cold.wire(structured=structured)
        for again in range(5):
            check(wire, ask_for(wire, places(seed * 10 + again, 100, 4096)), cold.data)

    for _ in range(3):
        evict(cold.folder)
        for running in [cold.in_thread(lambda n=n: load(n)) for n in range(8)]:
            running.ends()


def test_it_becomes_warm_and_cold_again(cold: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_COLD", 64)
    became: list[str] = []
    for name in ("is_warm", "was_cold"):
        real = getattr(Residency, name)

        def spy(self: Residency, real: Any = real, name: str = name) -> None:
            became.append(name)
            real(self)

        monkeypatch.setattr(Residency, name, spy)
    batches = []
    real_batch = Connection._batch
    monkeypatch.setattr(
        Connection, "_batch", lambda self: (batches.append(self._in.pos), real_batch(self))[1]
    )
    wire = cold.wire()
    evict(cold.folder)
    check(wire, ask_for(wire, places(1, 64, 4096)), cold.data)
    assert became == []
    wire.warm_up()
    assert became == ["is_warm"]
    before = len(batches)
    wire.warm_up()
    assert len(batches) == before
    assert select.select([wire.sock], [], [], 0)[0] == []


def test_it_is_not_left_to_python_for_good(
    cold: Any, structured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that always has reads under way, and once has asked for something else."""
    batches = []
    real = Connection._batch
    monkeypatch.setattr(
        Connection, "_batch", lambda self: (batches.append(self._in.pos), real(self))[1]
    )
    wire = cold.wire(structured=structured)
    evict(cold.folder)
    asked: dict[int, tuple[int, int]] = {}
    places = [(at, 512) for at in range(0, SIZE, 4096)]
    random.Random(1).shuffle(places)
    wire.send(p.CMD_FLUSH)
    counts = []
    for at in places[:32]:
        asked |= ask_for(wire, [at])
    for at in places[32:]:
        cookie, reply = wire.reply()
        if cookie in asked:
            begin, length = asked.pop(cookie)
            assert reply.data == cold.data[begin : begin + length]
        else:
            assert not reply.error
        asked |= ask_for(wire, [at])
        counts.append(len(batches))
    assert counts[0] > 0
    assert counts[-1] == counts[len(counts) // 2]
