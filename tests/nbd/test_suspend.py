# SPDX-License-Identifier: Apache-2.0
"""Suspend and resume under clients: no client holds a suspend up, no request is lost or torn."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from dmtool.export.nbd import largewrite
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.largeread import LARGE

MIB = 1 << 20


@pytest.fixture
def two(served: Any) -> Any:
    """A device on `old.img`, with a table on `new.img` ready to be loaded: ``switch()``."""
    served.old = served.image("old.img", 4 * MIB, seed=1)
    served.new = served.image("new.img", 4 * MIB, seed=2)
    served.table("0 8192 linear old.img 0")
    served.switch = lambda: served.load("0 8192 linear new.img 0")
    return served


@pytest.mark.parametrize("length", [4096, LARGE // 2, MIB])
@pytest.mark.parametrize("warm", [False, True])
def test_client_that_does_not_read(two: Any, structured: bool, length: int, warm: bool) -> None:
    wire = two.wire(structured=structured)
    if warm:
        wire.warm_up()
    # more than any socket holds
    count = (16 << 20) // length
    stream = b"".join(wire.header(p.CMD_READ, 0, length) for _ in range(count))
    sending = wire.send_all(stream)
    wire.wait_for_a_reply()
    suspend = two.in_thread(two.device.suspend)
    suspend.ends()
    two.switch()
    two.device.resume()
    replies = wire.replies(count)
    sending.ends()
    got = {bytes(reply.data) for reply in replies.values()}
    # each wholly of one table
    assert got <= {bytes(two.old[:length]), bytes(two.new[:length])}
    assert wire.ask(p.CMD_READ, 0, length).data == two.new[:length]


@pytest.mark.parametrize(
    ("length", "sent"),
    [(60_000, 28), (60_000, 28 + 5000), (MIB, 28), (MIB, 28 + 5000), (MIB, 28 + 300_000)],
)
@pytest.mark.parametrize("memory", [False, True])
def test_client_that_sends_half_a_write(
    two: Any, sent: int, length: int, memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(largewrite, "in_memory", lambda backing: memory)
    wire = two.wire()
    data = os.urandom(length)
    stream = wire.header(p.CMD_WRITE, 5000, length) + data
    wire.sock.sendall(stream[:sent])
    wire.wait_until_received()
    two.in_thread(two.device.suspend).ends()
    two.switch()
    rest = wire.send_all(stream[sent:])
    assert_silent(wire)
    two.device.resume()
    assert wire.reply()[1].error == 0
    rest.ends()
    # all of it is where a reader finds it, whatever went to the old image before
    assert (two.folder / "new.img").read_bytes()[5000 : 5000 + length] == data
    assert wire.ask(p.CMD_READ, 5000, length).data == data


def test_half_a_write_whose_place_is_gone(two: Any, structured: bool) -> None:
    """The table that comes is shorter, or read-only."""
    for table, readonly, error in (
        ("0 2048 linear new.img 0", False, p.ENOSPC),
        ("0 8192 linear new.img 0", True, p.EPERM),
    ):
        two.table("0 8192 linear old.img 0")
        wire = two.wire(structured=structured)
        stream = wire.header(p.CMD_WRITE, MIB, MIB) + bytes(MIB)
        wire.sock.sendall(stream[:300_000])
        wire.wait_until_received()
        two.in_thread(two.device.suspend).ends()
        two.load(table, readonly=readonly)
        two.device.resume()
        wire.sock.sendall(stream[300_000:])
        assert wire.reply()[1].error == error
        assert wire.ask(p.CMD_READ, 0, 512).data == two.new[:512]


@pytest.mark.parametrize("length", [512, 4096, LARGE, MIB])
def test_requests_wait_for_resume(two: Any, structured: bool, length: int) -> None:
    wire = two.wire(structured=structured)
    two.device.suspend()
    data = os.urandom(length)
    stream = wire.header(p.CMD_READ, 0, length) + wire.header(p.CMD_WRITE, 2 * MIB, length) + data
    sending = wire.send_all(stream + wire.header(p.CMD_FLUSH))
    assert_silent(wire)
    two.switch()
    assert_silent(wire)
    two.device.resume()
    read, write, flush = (reply for _, reply in sorted(wire.replies(3).items()))
    sending.ends()
    assert read.data == two.new[:length]
    assert write.error == flush.error == 0
    assert wire.ask(p.CMD_READ, 2 * MIB, length).data == data


def assert_silent(wire: Any) -> None:
    """Nothing comes, from a server that has taken part of what was sent."""
    wire.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        wire.sock.recv(1)
    wire.sock.settimeout(20)


@pytest.mark.parametrize("asked", ["nothing", "a read", "half a write", "a flush"])
def test_client_that_goes_while_suspended(two: Any, asked: str) -> None:
    gone = threading.Event()
    two.device.on_idle = lambda device: gone.set()
    wire = two.wire()
    two.device.suspend()
    if asked == "a read":
        wire.send(p.CMD_READ, 0, 4096)
    elif asked == "a flush":
        wire.send(p.CMD_FLUSH)
    elif asked == "half a write":
        wire.sock.sendall(wire.header(p.CMD_WRITE, 0, MIB) + bytes(300_000))
    wire.sock.close()
    assert gone.wait(20)
    two.device.resume()


def test_client_that_disconnects_while_suspended_is_served_first(two: Any) -> None:
    """libnbd shuts its sending half down after DISC; that is not gone."""
    wire = two.wire()
    two.device.suspend()
    wire.send(p.CMD_WRITE, 0, data=b"x" * 512)
    wire.sock.sendall(wire.header(p.CMD_DISC))
    wire.sock.shutdown(1)
    assert_silent(wire)
    two.device.resume()
    assert wire.reply()[1].error == 0
    assert wire.at_end()
    assert (two.folder / "old.img").read_bytes()[:512] == b"x" * 512


def test_suspend_waits_for_what_is_with_the_workers(two: Any, blocking: Any) -> None:
    memory = two.below["mem"] = blocking(MIB)
    two.table("0 2048 linear /dev/mapper/mem 0")
    memory.hold()
    wire = two.wire()
    wire.send(p.CMD_WRITE, 0, data=b"m" * 4096)
    memory.wait_for(1)
    suspend = two.in_thread(lambda: two.device.suspend(noflush=True))
    # a request that comes now waits outside
    wire.send(p.CMD_READ, 0, 512)
    assert_silent(wire)
    assert suspend.runs
    memory.let_go()
    assert wire.reply()[1].error == 0
    suspend.ends()
    assert_silent(wire)
    two.device.resume()
    assert wire.reply()[1].data == b"m" * 512


def test_swap_back_and_forth_under_load(two: Any, structured: bool) -> None:
    """Writers and readers on several connections while the table is changed all the time."""
    wires = [two.wire(structured=structured) for _ in range(3)]
    over = threading.Event()
    done = [0] * len(wires)

    def work(number: int) -> None:
        wire = wires[number]
        place = number * MIB
        while not over.is_set():
            for i in range(20):
                wire.send(p.CMD_WRITE, place + 8192 * i, data=bytes([i]) * 8192)
                wire.send(p.CMD_READ, place, 8192)
            wire.send(p.CMD_WRITE, place + 400_000, data=b"L" * 400_000)
            for reply in wire.replies(41).values():
                assert reply.error == 0
            done[number] += 1

    workers = [two.in_thread(lambda number=i: work(number)) for i in range(len(wires))]
    swaps = 0
    while min(done) < 5 or swaps < 20:
        two.load(f"0 8192 linear {('old', 'new')[swaps % 2]}.img 0")
        two.device.resume()
        swaps += 1
        assert all(worker.runs for worker in workers)
    over.set()
    for worker in workers:
        worker.ends()


def test_device_that_shrinks_and_grows(two: Any, structured: bool) -> None:
    wire = two.wire(structured=structured)
    two.table("0 8 linear new.img 0")
    assert wire.ask(p.CMD_READ, 4096, 512).error == p.EINVAL
    assert wire.ask(p.CMD_READ, 0, 4096).data == two.new[:4096]
    two.table("0 8192 linear new.img 0")
    assert wire.ask(p.CMD_READ, 4096, 512).data == two.new[4096:4608]


def test_device_that_is_removed_under_its_clients(two: Any, structured: bool) -> None:
    """The core refuses to, but a core that ends does it."""
    waiting, asking = two.wire(structured=structured), two.wire(structured=structured)
    two.device.suspend()
    stream = waiting.header(p.CMD_READ, 0, 512) + waiting.header(p.CMD_WRITE, 0, MIB) + bytes(MIB)
    sending = waiting.send_all(stream)
    assert_silent(waiting)
    two.device.destroy()
    assert [reply.error for reply in waiting.replies(2).values()] == [p.ESHUTDOWN] * 2
    sending.ends()
    for length in (512, MIB):
        assert asking.ask(p.CMD_READ, 0, length).error == p.ESHUTDOWN
        assert asking.ask(p.CMD_WRITE, 0, data=bytes(length)).error == p.ESHUTDOWN
    assert asking.ask(p.CMD_FLUSH).error == p.ESHUTDOWN
