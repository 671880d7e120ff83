# SPDX-License-Identifier: Apache-2.0
"""I/O that a target holds, and that is done again on another table."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest

from dmtool.api import Extent, Io, Requeue, Target
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.largeread import LARGE
from dmtool.export.nbd.outgoing import Outgoing
from tests.nbd.conftest import wait_until
from tests.nbd.holding import MIB, SECONDS, Holding, assert_silent, register, switch


@pytest.fixture
def holding(served: Any) -> Holding:
    """`dev` is of that type, on `a.img`; `b.img` is to be the next table's."""
    served.a = served.image("a.img", 4 * MIB, seed=1)
    served.b = served.image("b.img", 4 * MIB, seed=2)
    made = Holding()
    served.table("0 8192 holding a.img 0")
    return made


WRITES = [(0, 512), (100, 900), (4096, 65536), (MIB, MIB)]


@pytest.mark.parametrize(("offset", "length"), WRITES)
@pytest.mark.parametrize("flags", [0, p.CMD_FLAG_FUA])
def test_held_write_is_done_on_the_next_table(
    served: Any, holding: Holding, structured: bool, offset: int, length: int, flags: int
) -> None:
    wire = served.wire(structured=structured)
    data = os.urandom(length)
    cookie = wire.send(p.CMD_WRITE, offset, data=data, flags=flags)
    holding.wait()
    # the connection's own thread is free, though it was the first write of all
    assert wire.ask(p.CMD_READ, 3 * MIB, 512).data == served.a[3 * MIB : 3 * MIB + 512]
    served.in_thread(lambda: served.device.suspend(noflush=True)).ends()
    served.load("0 8192 linear b.img 0")
    assert_silent(wire)
    served.device.resume()
    answered, reply = wire.reply()
    assert (answered, reply.error) == (cookie, 0)
    served.b[offset : offset + length] = data
    assert (served.folder / "b.img").read_bytes() == served.b
    assert (served.folder / "a.img").read_bytes() == served.a


def test_many_held_at_once_and_again(served: Any, holding: Holding, structured: bool) -> None:
    """By a second table of the same type, too; none is lost, none is done twice in between."""
    wire = served.wire(structured=structured)
    blocks = [os.urandom(4096) for _ in range(50)]
    for i, data in enumerate(blocks):
        wire.send(p.CMD_WRITE, i * 4096, data=data)
    holding.wait(50)
    switch(served, "0 8192 holding a.img 0")
    holding.wait(50)
    switch(served)
    assert all(reply.error == 0 for reply in wire.replies(50).values())
    assert wire.ask(p.CMD_READ, 0, 50 * 4096).data == b"".join(blocks)
    assert (served.folder / "a.img").read_bytes() == served.a


def test_held_reads_and_ranges(served: Any, holding: Holding, structured: bool) -> None:
    holding.reads = range(100)
    wire = served.wire(structured=structured)
    read = wire.send(p.CMD_READ, 0, 8192)
    # of one that is held in part: all is of the new table
    across = wire.send(p.CMD_READ, 99 * 512, LARGE)
    zeroes = wire.send(p.CMD_WRITE_ZEROES, MIB, 8192)
    holding.wait(3)
    switch(served)
    replies = wire.replies(3)
    assert replies[read].data == served.b[:8192]
    assert replies[across].data == served.b[99 * 512 : 99 * 512 + LARGE]
    assert replies[zeroes].error == 0
    assert wire.ask(p.CMD_READ, MIB, 8192).data == bytes(8192)


def test_suspend_with_flush_fails_what_is_held(
    served: Any, holding: Holding, structured: bool
) -> None:
    wire = served.wire(structured=structured)
    for offset in (0, MIB):
        wire.send(p.CMD_WRITE, offset, data=bytes(512))
    holding.wait(2)
    served.in_thread(served.device.suspend).ends()
    assert [reply.error for reply in wire.replies(2).values()] == [p.EIO] * 2
    served.device.resume()


@pytest.mark.parametrize(
    ("table", "readonly", "error"),
    [("0 8 linear b.img 0", False, p.ENOSPC), ("0 8192 linear b.img 0", True, p.EPERM)],
)
def test_the_next_table_may_refuse(
    served: Any, holding: Holding, structured: bool, table: str, readonly: bool, error: int
) -> None:
    wire = served.wire(structured=structured)
    wire.send(p.CMD_WRITE, MIB, data=bytes(512))
    holding.wait()
    switch(served, table, readonly=readonly)
    assert wire.reply()[1].error == error


def test_device_removed_while_it_is_to_be_done_again(
    served: Any, holding: Holding, structured: bool
) -> None:
    wire = served.wire(structured=structured)
    wire.send(p.CMD_WRITE, 0, data=bytes(512))
    holding.wait()
    served.in_thread(lambda: served.device.suspend(noflush=True)).ends()
    served.device.destroy()
    assert wire.reply()[1].error == p.ESHUTDOWN


def test_client_that_goes_leaves_the_suspended_device(served: Any, holding: Holding) -> None:
    """Nobody waits for what it asked for: it is not done any more, and the device is closed."""
    wire, other = served.wire(), served.wire()
    wire.send(p.CMD_WRITE, 0, data=b"x" * 512)
    holding.wait()
    assert wire.ask(p.CMD_READ, MIB, 512).data == served.a[MIB : MIB + 512]
    served.in_thread(lambda: served.device.suspend(noflush=True)).ends()
    idle = threading.Event()
    count = served.device.open_count
    close = served.device.close

    def closed() -> None:
        close()
        idle.set()

    served.device.close = closed
    wire.sock.close()
    assert idle.wait(SECONDS)
    assert served.device.open_count == count - 1
    served.load("0 8192 linear b.img 0")
    served.device.resume()
    assert other.ask(p.CMD_READ, 0, 512).data == served.b[:512]


def test_connection_that_ends_sleeps_while_it_waits(
    served: Any, holding: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one that is held, after another one was answered."""
    looks = []
    woken = Outgoing.woken
    monkeypatch.setattr(Outgoing, "woken", lambda out: (looks.append(out), woken(out)))
    wire, other = served.wire(), served.wire()
    for offset in (0, MIB):
        wire.send(p.CMD_WRITE, offset, data=bytes(512))
    holding.wait(2)
    wire.sock.close()
    wait_until(lambda: bool(looks))
    seen = len(looks)
    for _ in range(300):
        other.ask(p.CMD_READ, 0, 512)
    assert len(looks) - seen < 10
    served.in_thread(served.device.suspend).ends()
    served.device.resume()
    wait_until(lambda: served.server.connections == 1)


def test_descriptors_are_closed_with_the_connection(served: Any, holding: Holding) -> None:
    """Without the garbage collector's help."""
    served.wire().ask(p.CMD_READ, 0, 512)
    gc.collect()
    gc.disable()
    try:
        for number in range(5):
            wire = served.wire()
            wire.ask(p.CMD_FLUSH)  # by a worker
            wire.sock.close()
            wait_until(lambda: served.server.connections == 1)
            if not number:
                before = eventfds()
        assert eventfds() == before
    finally:
        gc.enable()


def eventfds() -> int:
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(link) and "eventfd" in os.readlink(link) for link in links)


# -- end_io, and targets with a plan ---------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
def test_end_io_may_have_it_done_again(served: Any, structured: bool, warm: bool) -> None:
    """Of a target with a plan, whose file was cut off; a large read that is taken for cached is
    the connection's own thread's."""
    suspending = threading.Event()
    asked = threading.Event()

    def end_io(ti: Target[Extent], io: Io, error: int) -> int:
        asked.set()
        assert suspending.wait(SECONDS)
        if ti.noflush:
            raise Requeue
        return error

    register(
        "ending",
        ctr=lambda ti, args: args.extent(),
        plan=lambda ti: ti.context,
        end_io=end_io,
        presuspend=lambda ti: suspending.set(),
    )
    served.image("a.img", 4 * MIB, seed=1)
    b = served.image("b.img", 4 * MIB, seed=2)
    for length in (512, MIB):
        suspending.clear()
        asked.clear()
        served.table("0 8192 ending a.img 0")
        wire = served.wire(structured=structured)
        if warm:
            wire.warm_up()
        os.truncate(served.folder / "a.img", 0)
        read = wire.send(p.CMD_READ, 4096, length)
        assert asked.wait(SECONDS)
        switch(served)
        answered, reply = wire.reply()
        assert (answered, reply.data) == (read, b[4096 : 4096 + length])
        os.truncate(served.folder / "a.img", 4 * MIB)
