# SPDX-License-Identifier: Apache-2.0
"""What may take its time leaves the way free for the rest."""

from __future__ import annotations

import threading
from typing import Any

from dmtool.export.nbd import protocol as p

MIB = 1 << 20


def test_others_overtake(disk: Any, blocking: Any, structured: bool) -> None:
    memory = disk.below["mem"] = blocking(MIB)
    disk.table("0 2048 linear /dev/mapper/mem 0\n2048 2048 linear a.img 0")
    memory.hold()
    wire = disk.wire(structured=structured)
    slow = [
        wire.send(p.CMD_READ, 0, 4096),
        wire.send(p.CMD_WRITE, 4096, data=b"w" * 4096),
        wire.send(p.CMD_WRITE, 8192, data=b"W" * 70_000),
        wire.send(p.CMD_WRITE_ZEROES, 0, 512),
        wire.send(p.CMD_FLUSH),
    ]
    memory.wait_for(5)
    data = b"q" * 70_000
    assert wire.ask(p.CMD_READ, MIB, 4096).data == disk.data[:4096]
    assert wire.ask(p.CMD_WRITE, MIB, data=data).error == 0
    assert wire.ask(p.CMD_READ, MIB, len(data)).data == data
    memory.let_go()
    assert set(wire.replies(5)) == set(slow)
    assert wire.ask(p.CMD_READ, 4096, 4096).data == b"w" * 4096
    assert wire.ask(p.CMD_READ, 8192, 70_000).data == b"W" * 70_000


def test_there_is_a_most(disk: Any, blocking: Any) -> None:
    memory = disk.below["mem"] = blocking(MIB)
    disk.table("0 2048 linear /dev/mapper/mem 0\n2048 2048 linear a.img 0")
    memory.hold()
    wire = disk.wire()
    requests = [wire.header(p.CMD_READ, 0, 512) for _ in range(200)]
    wire.sock.sendall(b"".join(requests) + wire.header(p.CMD_READ, MIB, 512))
    memory.wait_for(128)
    assert not memory.entered.acquire(timeout=0.05)
    memory.let_go()
    assert len(wire.replies(201)) == 201


def test_of_bytes_too(disk: Any, blocking: Any) -> None:
    memory = disk.below["mem"] = blocking(33 << 20)
    disk.table(f"0 {33 << 11} linear /dev/mapper/mem 0")
    memory.hold()
    wire = disk.wire()
    sent = [wire.send(p.CMD_READ, MIB, 30 << 20) for _ in range(5)]
    memory.wait_for(2)
    assert not memory.entered.acquire(timeout=0.05)
    memory.let_go()
    assert all(len(reply.data) == 30 << 20 for reply in wire.replies(5).values())
    assert len(sent) == 5


def test_client_goes_meanwhile(disk: Any, blocking: Any) -> None:
    memory = disk.below["mem"] = blocking(MIB)
    disk.table("0 2048 linear /dev/mapper/mem 0")
    memory.hold()
    idle = threading.Event()
    disk.device.on_idle = lambda device: idle.set()
    wire = disk.wire()
    for _ in range(10):
        wire.send(p.CMD_READ, 0, 4096)
    memory.wait_for(10)
    wire.sock.close()
    memory.let_go()
    assert idle.wait(20)


def test_client_does_not_take_the_replies(disk: Any, blocking: Any) -> None:
    """Workers do not wait for it; the connection's thread does."""
    memory = disk.below["mem"] = blocking(8 << 20)
    memory.data[:] = b"z" * len(memory.data)
    disk.table("0 16384 linear /dev/mapper/mem 0")
    wire, other = disk.wire(), disk.wire()
    sent = {wire.send(p.CMD_READ, 0, 8 << 20) for _ in range(20)}
    memory.wait_for(8)
    assert other.ask(p.CMD_READ, 0, 512).data == b"z" * 512
    replies = wire.replies(20)
    assert set(replies) == sent
    assert all(reply.data == memory.data for reply in replies.values())
