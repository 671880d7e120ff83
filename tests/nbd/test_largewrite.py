# SPDX-License-Identifier: Apache-2.0
"""Payloads that are received straight into the mapping of an image on tmpfs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dmtool.export.nbd import largewrite
from dmtool.export.nbd import protocol as p

MIB = 1 << 20


@pytest.fixture
def memory(disk: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A disk that passes for one on tmpfs; ``written`` are the lengths that pwrite wrote."""
    monkeypatch.setattr(largewrite, "in_memory", lambda backing: True)
    disk.written = []
    (backing,) = disk.device.live.backings
    real = backing.pwrite

    def pwrite(data: Any, offset: int) -> None:
        disk.written.append(len(data))
        real(data, offset)

    backing.pwrite = pwrite
    return disk


def test_most_is_received_into_the_mapping(memory: Any, structured: bool) -> None:
    wire = memory.wire(structured=structured)
    for offset, length in ((0, MIB), (4097, MIB + 1), (3 * MIB - 1, MIB + 1), (0, 4 * MIB)):
        data = os.urandom(length)
        header = wire.header(p.CMD_WRITE, offset, length)
        wire.sock.sendall(header)
        wire.wait_until_received()
        wire.sock.sendall(data)
        assert wire.reply()[1].error == 0
        memory.data[offset : offset + length] = data
        assert wire.ask(p.CMD_READ, 0, 4 * MIB).data == memory.data
    assert sum(memory.written) < 2 * MIB


def test_requests_that_follow_at_once(memory: Any) -> None:
    wire = memory.wire()
    data = os.urandom(MIB)
    stream = b"".join(wire.header(p.CMD_WRITE, i * MIB, MIB) + data for i in range(4))
    sending = wire.send_all(stream + wire.header(p.CMD_READ, 0, 4 * MIB))
    replies = wire.replies(5)
    sending.ends()
    assert not any(reply.error for reply in replies.values())
    assert wire.ask(p.CMD_READ, 0, 4 * MIB).data == data * 4


def test_holes_are_written(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(largewrite, "in_memory", lambda backing: True)
    served.image("a.img", 2 * MIB)
    served.table("0 4096 linear a.img 0")
    (backing,) = served.device.live.backings
    assert not largewrite._mapped([(backing, 0, MIB)])
    data = os.urandom(MIB)
    wire = served.wire()
    assert wire.ask(p.CMD_WRITE, 0, data=data).error == 0
    assert list(map(len, largewrite._mapped([(backing, 0, MIB)]))) == [MIB]
    assert not largewrite._mapped([(backing, 0, MIB + 1)])
    assert wire.ask(p.CMD_READ, 0, 2 * MIB).data == data + bytes(MIB)


def test_stripes(served: Any, structured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for memory in (False, True):
        monkeypatch.setattr(largewrite, "in_memory", lambda backing, memory=memory: memory)
        for name, seed in (("a.img", 1), ("b.img", 2), ("c.img", 3)):
            served.image(name, 3 * MIB, seed=seed)
        served.table("0 9216 striped 3 8 a.img 8 b.img 0 c.img 16\n9216 1024 linear a.img 3088")
        model = bytearray(served.device.read(0, 5 * MIB))
        wire = served.wire(structured=structured)
        for offset, length in ((0, MIB), (4095, MIB + 2), (5 * MIB - 900_000, 900_000)):
            data = os.urandom(length)
            wire.sock.sendall(wire.header(p.CMD_WRITE, offset, length))
            wire.wait_until_received()
            wire.sock.sendall(data)
            assert wire.reply()[1].error == 0
            model[offset : offset + length] = data
            assert served.device.read(0, 5 * MIB) == model


def test_file_that_is_truncated_in_the_middle(memory: Any, structured: bool) -> None:
    """The mapping refuses what comes; pwrite makes the file longer again."""
    wire = memory.wire(structured=structured)
    data = os.urandom(2 * MIB)
    stream = wire.header(p.CMD_WRITE, MIB, 2 * MIB) + data
    wire.sock.sendall(stream[:400_000])
    wire.wait_until_received()
    os.truncate(memory.folder / "a.img", 2 * MIB)
    wire.sock.sendall(stream[400_000:])
    assert wire.reply()[1].error == 0
    assert wire.ask(p.CMD_READ, 0, 3 * MIB).data == memory.data[:MIB] + data


def test_client_that_dies_in_the_middle(memory: Any) -> None:
    wire = memory.wire()
    wire.sock.sendall(wire.header(p.CMD_WRITE, 0, MIB) + b"d" * 500_001)
    wire.wait_until_received()
    wire.sock.close()
    got = memory.nbd().pread(4 * MIB, 0)
    assert got[500_001:] == memory.data[500_001:]


def test_what_is_in_memory(disk: Any, tmp_path: Path) -> None:
    (backing,) = disk.device.live.backings
    kinds = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, source = line.partition(" - ")
        kinds[mount.split()[2]] = source.split()[0]
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    assert largewrite.in_memory(backing) == (kinds.get(number) == "tmpfs")
    fd = os.memfd_create("nowhere mounted")
    assert not largewrite._on_tmpfs(fd)
    os.close(fd)
