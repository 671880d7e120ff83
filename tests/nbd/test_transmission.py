# SPDX-License-Identifier: Apache-2.0
"""Requests and replies, one by one."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import pytest

from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.incoming import WHOLE
from dmtool.export.nbd.largeread import LARGE

MIB = 1 << 20


PLACES = [0, 512, 4095, 1 << 20]


@pytest.mark.parametrize("flags", [0, p.CMD_FLAG_FUA, p.CMD_FLAG_DF])
def test_reads(disk: Any, structured: bool, flags: int) -> None:
    wire = disk.wire(structured=structured)
    flags &= -1 if structured else ~p.CMD_FLAG_DF
    lengths = [1, 512, 4096, LARGE - 1, LARGE, MIB + 3]
    for warm in (False, True):
        if warm:
            wire.warm_up()
        for offset, length in itertools.product(PLACES, lengths):
            reply = wire.ask(p.CMD_READ, offset, length, flags=flags)
            assert reply.data == disk.data[offset : offset + length]
            if structured:
                assert reply.chunks == [(p.REPLY_TYPE_OFFSET_DATA, offset, length)]


@pytest.mark.parametrize("flags", [0, p.CMD_FLAG_FUA])
def test_writes(disk: Any, structured: bool, flags: int) -> None:
    wire = disk.wire(structured=structured)
    lengths = [1, 512, 4096, WHOLE, WHOLE + 1, MIB, MIB + 3]
    for offset, length in itertools.product(PLACES, lengths):
        data = os.urandom(length)
        assert wire.ask(p.CMD_WRITE, offset, data=data, flags=flags).error == 0
        disk.data[offset : offset + length] = data
        assert (disk.folder / "a.img").read_bytes() == disk.data


def test_the_largest_read_and_write(served: Any, structured: bool) -> None:
    served.image("a.img", 33 << 20)
    served.table(f"0 {66 << 10} linear a.img 0\n{66 << 10} 1024 linear a.img 0")
    wire = served.wire(structured=structured)
    data = os.urandom(p.BLOCK_MOST)
    assert wire.ask(p.CMD_WRITE, MIB, data=data).error == 0
    assert wire.ask(p.CMD_READ, MIB, len(data)).data == data
    assert wire.ask(p.CMD_READ, 0, len(data) + 1).error == p.EINVAL
    # the payload of a write that is too large is read, and the stream goes on
    assert wire.ask(p.CMD_WRITE, 0, data=data + b"x").error == p.EINVAL
    assert wire.ask(p.CMD_READ, 0, 512).data == bytes(512)
    # of what has no payload, more at once
    assert wire.ask(p.CMD_WRITE_ZEROES, 0, len(data) + MIB).error == 0
    assert wire.ask(p.CMD_READ, MIB, 4096).data == bytes(4096)


def test_nothing_at_all(disk: Any, structured: bool) -> None:
    wire = disk.wire(structured=structured)
    commands = [p.CMD_READ, p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES, p.CMD_CACHE]
    for offset in (0, 1000, wire.size):
        for command in commands:
            reply = wire.ask(command, offset, 0)
            assert (reply.error, reply.data) == (0, b"")
    assert wire.ask(p.CMD_BLOCK_STATUS, 0, 0).error == p.EINVAL


@pytest.mark.parametrize("offset", [-511, 0, 1 << 40, (1 << 64) - 512 - (4 << 20)])
@pytest.mark.parametrize("length", [512, 70_000])
def test_beyond_the_end(disk: Any, structured: bool, offset: int, length: int) -> None:
    wire = disk.wire(structured=structured)
    offset += wire.size
    errors = {
        p.CMD_READ: p.EINVAL,
        p.CMD_WRITE: p.ENOSPC,
        p.CMD_TRIM: p.EINVAL,
        p.CMD_CACHE: p.EINVAL,
        p.CMD_WRITE_ZEROES: p.ENOSPC,
        p.CMD_BLOCK_STATUS: p.EINVAL,
    }
    for command, error in errors.items():
        data = bytes(length) if command == p.CMD_WRITE else b""
        assert wire.ask(command, offset, length, data).error == error
    assert wire.ask(p.CMD_READ, 0, 512).data == disk.data[:512]


def test_errors_come_with_words(disk: Any) -> None:
    wire = disk.wire()
    assert wire.ask(p.CMD_READ, 4 << 20, 1).message == "beyond the end of the device at 4194304"
    assert wire.ask(99).message == "unknown command 99"
    assert wire.ask(p.CMD_FLUSH, 0, 1).message == "a flush has no offset and no length"


def test_commands_and_flags_that_are_not_known(disk: Any, structured: bool) -> None:
    wire = disk.wire(structured=structured)
    for command in (8, 9, 0xFFFF):
        assert wire.ask(command, 0, 512).error == p.EINVAL
    valid = {
        p.CMD_READ: {0} | ({2} if structured else set()),
        p.CMD_WRITE: {0},
        p.CMD_FLUSH: {0},
        p.CMD_TRIM: {0},
        p.CMD_CACHE: {0},
        p.CMD_WRITE_ZEROES: {0, 1},
        p.CMD_BLOCK_STATUS: {0, 3},
    }
    for command, bits in valid.items():
        for bit in range(16):
            # FAST_ZERO, bit 4, is not offered; PAYLOAD_LEN, bit 5, is of another protocol
            length = 0 if command == p.CMD_FLUSH else 512
            data = bytes(512) if command == p.CMD_WRITE else b""
            reply = wire.ask(command, 0, length, data, flags=1 << bit)
            status = command == p.CMD_BLOCK_STATUS and not structured
            assert bool(reply.error) == (bit not in bits or status), (command, bit)


@pytest.mark.parametrize("ask", [(1, 0), (0, 1), (512, 512)])
def test_flush_has_no_place(disk: Any, ask: tuple[int, int]) -> None:
    assert disk.wire().ask(p.CMD_FLUSH, *ask).error == p.EINVAL


def test_wrong_magic_ends_the_connection(disk: Any) -> None:
    wire = disk.wire()
    good = wire.send(p.CMD_READ, 0, 512)
    assert wire.reply()[0] == good
    wire.sock.sendall(wire.header(p.CMD_READ, 0, 512, magic=0x25609512))
    assert wire.at_end()


def test_what_came_before_a_wrong_magic_is_answered(disk: Any, structured: bool) -> None:
    wire = disk.wire(structured=structured)
    requests = [wire.header(p.CMD_READ, 512 * i, 512) for i in range(20)]
    wire.sock.sendall(b"".join(requests) + bytes(28))
    for i, (_, reply) in enumerate(sorted(wire.replies(20).items())):
        assert reply.data == disk.data[512 * i : 512 * i + 512]
    assert wire.at_end()


def test_disconnect_waits_for_what_is_under_way(disk: Any) -> None:
    wire = disk.wire()
    headers = [wire.header(p.CMD_FLUSH) for _ in range(50)]
    wire.sock.sendall(b"".join(headers) + wire.header(p.CMD_DISC))
    assert not any(reply.error for reply in wire.replies(50).values())
    assert wire.at_end()


def test_disconnect_and_close_without_reading(disk: Any) -> None:
    wire = disk.wire()
    wire.sock.sendall(b"".join(wire.header(p.CMD_READ, 0, MIB) for _ in range(50)))
    wire.sock.close()
    assert disk.nbd().pread(512, 0) == disk.data[:512]


@pytest.mark.parametrize("cut", [1, 4, 27])
def test_requests_in_pieces(disk: Any, structured: bool, cut: int) -> None:
    wire = disk.wire(structured=structured)
    data = os.urandom(3000)
    stream = wire.header(p.CMD_READ, 512, 512) + wire.header(p.CMD_WRITE, 8192, 3000) + data
    stream += wire.header(p.CMD_READ, 0, 512)
    for at in range(0, len(stream), 28 * 20 + cut):
        wire.sock.sendall(stream[at : at + 28 * 20 + cut])
        wire.wait_until_received()
    (_, first), (_, second), (_, third) = sorted(wire.replies(3).items())
    assert first.data == disk.data[512:1024]
    assert second.error == 0
    assert third.data == disk.data[:512]
    assert wire.ask(p.CMD_READ, 8192, 3000).data == data


def test_half_a_request_and_gone(disk: Any) -> None:
    before = bytes(disk.data)
    for cut in (1, 27, 28, 100, 28 + 70_000):
        wire = disk.wire()
        wire.sock.sendall((wire.header(p.CMD_WRITE, 1, 600_000) + b"x" * 600_000)[:cut])
        wire.wait_until_received()
        wire.sock.close()
    after = disk.nbd().pread(4 << 20, 0)
    # a write that has not wholly come may have been done in part, but in whole blocks
    blocks = {i // 4096 for i in range(len(after)) if after[i] != before[i]}
    for block in blocks:
        begin = max(block * 4096, 1)
        assert set(after[begin : block * 4096 + 4096]) == {ord("x")}


def test_read_only(disk: Any, structured: bool) -> None:
    disk.table("0 8192 linear a.img 0", readonly=True)
    wire = disk.wire(structured=structured)
    for length in (512, 70_000):
        assert wire.ask(p.CMD_WRITE, 0, data=bytes(length)).error == p.EPERM
    assert wire.ask(p.CMD_TRIM, 0, 512).error == p.EPERM
    assert wire.ask(p.CMD_WRITE_ZEROES, 0, 512).error == p.EPERM
    assert wire.ask(p.CMD_FLUSH).error == 0
    assert wire.ask(p.CMD_READ, 0, 4096).data == disk.data[:4096]
    # a client that was told read-only is held to it, whatever table comes
    disk.table("0 8192 linear a.img 0")
    assert wire.ask(p.CMD_WRITE, 0, data=bytes(512)).error == p.EPERM
    writer = disk.wire(structured=structured)
    assert writer.ask(p.CMD_WRITE, 0, data=bytes(512)).error == 0
    disk.table("0 8192 linear a.img 0", readonly=True)
    assert writer.ask(p.CMD_WRITE, 0, data=bytes(512)).error == p.EPERM


def test_flush_and_fua_reach_the_disk(served: Any, structured: bool) -> None:
    synced: list[int] = []
    real = os.fdatasync
    served.image("a.img", MIB)
    served.image("b.img", MIB)
    served.table("0 1024 linear a.img 0\n1024 1024 linear b.img 0")
    a, b = (backing.fd for backing in served.device.live.backings)
    wire = served.wire(structured=structured)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real(fd)))
        assert wire.ask(p.CMD_WRITE, 0, data=bytes(512)).error == 0
        assert synced == []
        assert wire.ask(p.CMD_FLUSH).error == 0
        assert sorted(synced) == sorted([a, b])
        synced.clear()
        for length in (512, 70_000):
            assert wire.ask(p.CMD_WRITE, 0, data=bytes(length), flags=p.CMD_FLAG_FUA).error == 0
            assert synced == [a]
            synced.clear()
        assert wire.ask(p.CMD_WRITE_ZEROES, 524288, 512, flags=p.CMD_FLAG_FUA).error == 0
        assert synced == [b]
        synced.clear()
        assert wire.ask(p.CMD_TRIM, 0, 512, flags=p.CMD_FLAG_FUA).error == 0
        assert a in synced


@pytest.mark.parametrize(
    ("number", "error"),
    [(28, p.ENOSPC), (122, p.ENOSPC), (27, p.ENOSPC), (12, p.ENOMEM), (30, p.EPERM), (6, p.EIO)],
)
def test_errors_on_the_wire(disk: Any, blocking: Any, number: int, error: int) -> None:
    memory = blocking(8192)
    disk.below["mem"] = memory

    def fail(*_: object) -> None:
        raise OSError(number, "")

    memory.pwrite = fail
    disk.table("0 16 linear /dev/mapper/mem 0")
    assert disk.wire().ask(p.CMD_WRITE, 0, data=bytes(512)).error == error


def test_a_bug_in_a_target_is_an_error_not_the_end(disk: Any, blocking: Any) -> None:
    memory = blocking(8192)
    disk.below["mem"] = memory

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    memory.pread = memory.pwrite = fail
    disk.table("0 16 linear /dev/mapper/mem 0\n16 16 linear a.img 0")
    wire = disk.wire()
    reply = wire.ask(p.CMD_WRITE, 0, data=bytes(512))
    assert (reply.error, reply.message) == (p.EIO, "ZeroDivisionError: a bug")
    assert wire.ask(p.CMD_READ, 0, 512).error == p.EIO
    assert wire.ask(p.CMD_READ, 8192, 512).data == disk.data[:512]


def test_many_connections(disk: Any) -> None:
    wires = [disk.wire(structured=bool(i % 2)) for i in range(40)]
    assert disk.server.connections == disk.device.open_count == 40
    for i, wire in enumerate(wires):
        wire.send(p.CMD_WRITE, 8192 * i, data=bytes([i]) * 8192)
    for wire in wires:
        assert wire.reply()[1].error == 0
    for i in range(40):
        wires[-1 - i].send(p.CMD_READ, 8192 * i, 8192)
    for i in range(40):
        assert wires[-1 - i].reply()[1].data == bytes([i]) * 8192


def test_more_connections_than_allowed(disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmtool.export.nbd.server.CONNECTIONS_MOST", 3)
    wires = [disk.wire() for _ in range(3)]
    sock = disk.raw()
    assert sock.recv(1) == b""
    assert all(wire.ask(p.CMD_FLUSH).error == 0 for wire in wires)


def test_server_closes_under_its_clients(disk: Any, structured: bool) -> None:
    idle, stuck = disk.wire(structured=structured), disk.wire(structured=structured)
    shaking = disk.raw()
    assert shaking.recv(18)  # accepted: who still waits for that only sees the socket close
    stuck.sock.sendall(b"".join(stuck.header(p.CMD_READ, 0, MIB) for _ in range(100)))
    stuck.wait_until_received()
    disk.server.close()
    assert idle.at_end()
    assert shaking.recv(1) == b""
    assert disk.device.open_count == 0


def test_its_thread_gives_way_to_clients(disk: Any) -> None:
    wire = disk.wire()
    assert not wire.ask(p.CMD_READ, 0, 512).error
    (ours,) = [thread for thread in threading.enumerate() if thread.name == "nbd"]
    assert ours.native_id is not None
    assert os.sched_getscheduler(ours.native_id) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
