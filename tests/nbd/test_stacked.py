# SPDX-License-Identifier: Apache-2.0
"""Devices on other mapped devices, each with a gate of its own."""

from __future__ import annotations

import os
from typing import Any

import pytest

from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.handedover import HandedOver
from dmtool.export.nbd.largeread import LARGE

MIB = 1 << 20


@pytest.fixture
def stack(served: Any) -> Any:
    """`dev` on `middle` and `bottom`, `middle` on `bottom` too. ``data``: what `dev` has."""
    a = served.image("a.img", 4 * MIB, seed=1)
    b = served.image("b.img", 4 * MIB, seed=2)
    served.lower("bottom", "0 4096 linear a.img 0\n4096 4096 linear b.img 0")
    served.lower("middle", "0 4096 linear /dev/mapper/bottom 2048\n4096 2048 zero")
    served.table(
        "0 6144 linear /dev/mapper/middle 0\n6144 2048 linear /dev/mapper/bottom 0\n"
        "8192 2048 linear b.img 6144"
    )
    served.data = bytearray(a[MIB : 2 * MIB] + b[:MIB] + bytes(MIB) + a[:MIB] + b[3 * MIB :])
    assert served.device.read(0, 5 * MIB) == served.data
    return served


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be left to a worker."""

    def add(*_: object) -> bool:
        raise AssertionError("left to a worker")

    monkeypatch.setattr(HandedOver, "add", add)


PLACES = [(0, 512), (MIB - 512, 1024), (100, 4096), (2 * MIB, 4096), (0, LARGE), (5, 5 * MIB - 9)]


def test_reads(stack: Any, structured: bool, direct: None) -> None:
    wire = stack.wire(structured=structured)
    for warm in (False, True):
        for offset, length in PLACES:
            assert wire.ask(p.CMD_READ, offset, length).data == stack.data[offset : offset + length]
        if not warm:
            wire.warm_up()


@pytest.mark.parametrize("length", [512, 60_000, MIB // 2])
def test_writes(stack: Any, structured: bool, direct: None, length: int) -> None:
    wire = stack.wire(structured=structured)
    for offset in (0, MIB + 5, 3 * MIB):
        data = os.urandom(length)
        assert wire.ask(p.CMD_WRITE, offset, data=data).error == 0
        stack.data[offset : offset + length] = data
    assert stack.device.read(0, 5 * MIB) == stack.data


def test_what_a_worker_does(stack: Any, structured: bool) -> None:
    wire = stack.wire(structured=structured)
    for offset, length in ((MIB - 512, 1024), (MIB - 5, 200_000), (0, 5 * MIB)):
        data = os.urandom(length)
        assert wire.ask(p.CMD_WRITE, offset, data=data, flags=p.CMD_FLAG_FUA).error == 0
        assert wire.ask(p.CMD_WRITE, offset, data=data).error == 0
        stack.data[offset : offset + length] = data
        stack.data[2 * MIB : 3 * MIB] = bytes(MIB)  # of the target zero
        assert wire.ask(p.CMD_READ, offset, length).data == stack.data[offset : offset + length]
    assert wire.ask(p.CMD_FLUSH).error == 0
    assert wire.ask(p.CMD_TRIM, 0, MIB).error == 0
    assert wire.ask(p.CMD_READ, 0, MIB).data == bytes(MIB)


@pytest.mark.parametrize("length", [4096, LARGE // 2, MIB])
def test_reader_that_is_stuck_holds_no_lower_suspend_up(
    stack: Any, structured: bool, length: int
) -> None:
    new = stack.image("new.img", 4 * MIB, seed=3)
    wire = stack.wire(structured=structured)
    wire.warm_up()
    count = (16 << 20) // length
    sending = wire.send_all(b"".join(wire.header(p.CMD_READ, 0, length) for _ in range(count)))
    wire.wait_for_a_reply()
    bottom = stack.devices["bottom"]
    stack.in_thread(bottom.suspend).ends()
    stack.lower("bottom", "0 8192 linear new.img 0")
    old, now = bytes(stack.data[:length]), bytes(new[MIB : MIB + length])
    replies = wire.replies(count)
    sending.ends()
    assert {bytes(reply.data) for reply in replies.values()} <= {old, now}
    assert wire.ask(p.CMD_READ, 0, length).data == now


def test_half_a_write_follows_the_lower_table(stack: Any, structured: bool) -> None:
    stack.image("new.img", 4 * MIB, seed=3)
    wire = stack.wire(structured=structured)
    data = os.urandom(MIB)
    stream = wire.header(p.CMD_WRITE, 0, MIB) + data
    wire.sock.sendall(stream[:300_000])
    wire.wait_until_received()
    bottom = stack.devices["bottom"]
    stack.in_thread(bottom.suspend).ends()
    rest = wire.send_all(stream[300_000:])
    stack.lower("bottom", "0 8192 linear new.img 0")
    assert wire.reply()[1].error == 0
    rest.ends()
    assert (stack.folder / "new.img").read_bytes()[MIB : 2 * MIB] == data


def test_lower_suspend_stops_what_goes_there_and_nothing_else(stack: Any, structured: bool) -> None:
    wire = stack.wire(structured=structured)
    bottom = stack.devices["bottom"]
    bottom.suspend()
    waits = [
        wire.send(p.CMD_READ, 0, 512),
        wire.send(p.CMD_READ, 3 * MIB, LARGE),
        wire.send(p.CMD_WRITE, 0, data=b"x" * 4096),
        wire.send(p.CMD_WRITE, 3 * MIB, data=b"y" * 100_000),
    ]
    for _ in range(3):
        assert wire.ask(p.CMD_READ, 4 * MIB, 4096).data == stack.data[4 * MIB : 4 * MIB + 4096]
        assert wire.ask(p.CMD_WRITE, 5 * MIB - 512, data=bytes(512)).error == 0
    bottom.resume()
    assert set(wire.replies(4)) == set(waits)
    assert wire.ask(p.CMD_READ, 0, 4096).data == b"x" * 4096


def test_lower_device_that_changes(stack: Any, structured: bool) -> None:
    wire = stack.wire(structured=structured)
    stack.lower("bottom", "0 8192 linear a.img 0", readonly=True)
    assert wire.ask(p.CMD_READ, 0, 512).data == stack.data[:512]
    for length in (512, 100_000):
        assert wire.ask(p.CMD_WRITE, 0, data=bytes(length)).error == p.EIO
    stack.lower("bottom", "0 2056 linear a.img 0")
    assert wire.ask(p.CMD_READ, 0, 4096).data == stack.data[:4096]
    for length in (512, LARGE):
        assert wire.ask(p.CMD_READ, 4096, length).error
        assert wire.ask(p.CMD_WRITE, 4096, data=bytes(length)).error
    stack.devices["bottom"].destroy()
    assert wire.ask(p.CMD_READ, 0, 512).error == p.EIO
    assert wire.ask(p.CMD_WRITE, 0, data=bytes(512)).error == p.EIO
    assert wire.ask(p.CMD_READ, 4 * MIB, 512).data == stack.data[4 * MIB : 4 * MIB + 512]


@pytest.mark.parametrize("length", [4096, LARGE])
def test_truncated_file_below(stack: Any, structured: bool, length: int) -> None:
    wire = stack.wire(structured=structured)
    wire.warm_up()
    os.truncate(stack.folder / "a.img", MIB + MIB // 2)
    for offset in (0, MIB - length, MIB):
        reply = wire.ask(p.CMD_READ, offset, length)
        if offset == MIB - length:
            assert reply.error == p.EIO
        else:
            assert reply.data == stack.data[offset : offset + length]
