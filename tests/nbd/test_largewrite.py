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
    assert largewrite._mapping(backing, 0, MIB) is None
    data = os.urandom(MIB)
    wire = served.wire()
    assert wire.ask(p.CMD_WRITE, 0, data=data).error == 0
    assert largewrite._mapping(backing, 0, MIB) is backing.view
    assert largewrite._mapping(backing, 0, MIB + 1) is None
    assert wire.ask(p.CMD_READ, 0, 2 * MIB).data == data + bytes(MIB)


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
