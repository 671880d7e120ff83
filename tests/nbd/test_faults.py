# SPDX-License-Identifier: Apache-2.0
"""Image files that fail under the server, and data that is not in the page cache."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from dmtool.backing import Backing
from dmtool.backing.image import ImageFile
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.largeread import LARGE
from dmtool.export.nbd.residency import Residency, intact
from tests.nbd.conftest import in_python, warm

MIB = 1 << 20


def cut(disk: Any, size: int) -> None:
    os.truncate(disk.folder / "a.img", size)
    del disk.data[size:]


@pytest.mark.parametrize("length", [512, 4096, 60_000, LARGE, MIB])
@pytest.mark.parametrize("warm", [False, True])
def test_truncated_file(disk: Any, structured: bool, length: int, warm: bool) -> None:
    wire = disk.wire(structured=structured)
    if warm:
        wire.warm_up()
    cut(disk, 2 * MIB)
    offsets = [0, 3 * MIB, MIB, 2 * MIB - 512, 2 * MIB, 100]
    sent = {wire.send(p.CMD_READ, offset, length): offset for offset in offsets}
    for cookie, reply in wire.replies(len(offsets)).items():
        offset = sent[cookie]
        if offset + length <= 2 * MIB:
            assert reply.data == disk.data[offset : offset + length]
        else:
            assert reply.error == p.EIO
    assert wire.ask(p.CMD_READ, 0, 4096).data == disk.data[:4096]
    # a write makes it longer again, and what it jumps over is zeros
    assert wire.ask(p.CMD_WRITE, 4 * MIB - 512, data=b"e" * 512).error == 0
    assert wire.ask(p.CMD_READ, 4 * MIB - 1024, 1024).data == bytes(512) + b"e" * 512


@pytest.mark.parametrize("length", [4096, 200_000])
def test_file_truncated_between_look_and_send(
    disk: Any, structured: bool, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping answers EFAULT: good replies before it stay good, and no reply is wrong."""
    monkeypatch.setattr("dmtool.export.nbd.residency.intact", lambda backing: True)
    wire = disk.wire(structured=structured)
    wire.warm_up()
    cut(disk, 2 * MIB)
    offsets = [0, MIB, MIB + 512, 2 * MIB, 512, 3 * MIB, 1024]
    wire.sock.sendall(b"".join(wire.header(p.CMD_READ, o, length) for o in offsets))
    first = wire._cookie - len(offsets) + 1
    try:
        for cookie, reply in wire.replies(len(offsets)).items():
            offset = offsets[cookie - first]
            if offset + length <= 2 * MIB:
                assert reply.data == disk.data[offset : offset + length]
            else:
                assert reply.error == p.EIO
    except ConnectionResetError:
        # a reply had begun when the mapping failed: only the end of the connection is right
        assert wire.at_end()


@warm
@pytest.mark.parametrize("length", [LARGE, 2 * MIB])
def test_file_truncated_between_look_and_sendfile(
    disk: Any, structured: bool, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmtool.export.nbd.largeread.intact", lambda backing: True)
    monkeypatch.setattr(ImageFile, "extents", Backing.extents)
    wire = disk.wire(structured=structured)
    wire.warm_up()
    cut(disk, MIB)
    if not structured:
        wire.send(p.CMD_READ, MIB - 4096, length)
        with pytest.raises(ConnectionResetError):
            wire.reply()
        return
    # the chunk is completed with zeros, and an error says from where on they are not data
    reply = wire.ask(p.CMD_READ, MIB - 4096, length)
    assert reply.errors == [(p.EIO, MIB)]
    assert reply.data == disk.data[MIB - 4096 :] + bytes(length - 4096)
    assert wire.ask(p.CMD_READ, 0, length // 4).data == disk.data[: length // 4]


@in_python
def test_writes_that_fail(disk: Any, structured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = disk.wire(structured=structured)
    real = os.pwrite
    calls = []

    def full(fd: int, data: Any, offset: int) -> int:
        calls.append(offset)
        if offset + len(data) > MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    for length in (512, 4096, 70_000, MIB):
        assert wire.ask(p.CMD_WRITE, MIB, data=bytes(length)).error == p.ENOSPC
        assert wire.ask(p.CMD_WRITE, 0, data=bytes(length)).error == 0
    # one that fails in the middle is read to its end
    assert wire.ask(p.CMD_WRITE, MIB // 2, data=b"h" * MIB).error == p.ENOSPC
    assert wire.ask(p.CMD_READ, MIB // 2, 8192).data == b"h" * 8192


def evict(disk: Any) -> None:
    """Make the image's pages leave the page cache."""
    fd = os.open(disk.folder / "a.img", os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.mark.parametrize("length", [512, 4096, LARGE, MIB])
def test_cold_reads_are_right(disk: Any, structured: bool, length: int) -> None:
    wire = disk.wire(structured=structured)
    for warmed in (False, True):
        if warmed:
            wire.warm_up()
        evict(disk)
        offsets = [i * 16384 % (4 * MIB - length) for i in range(200)]
        first = wire._cookie + 1
        wire.sock.sendall(b"".join(wire.header(p.CMD_READ, o, length) for o in offsets))
        for cookie, reply in wire.replies(200).items():
            offset = offsets[cookie - first]
            assert reply.data == disk.data[offset : offset + length]


@in_python
class TestResidency:
    @pytest.fixture
    def backing(self, disk: Any) -> Any:
        (backing,) = disk.device.live.backings
        return backing

    def test_is_cold_at_first_and_warm_after_hits(self, backing: Any, disk: Any) -> None:
        residency = Residency()
        while residency.cold:
            assert residency.cold <= 64
            assert residency.read(backing, 512, 512) == disk.data[512:1024]

    def test_a_miss_begins_anew(self, backing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        residency = Residency()
        for _ in range(63):
            assert residency.cached(backing, 0, MIB)

        def miss(*_: object) -> int:
            raise BlockingIOError

        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", miss)
            assert residency.read(backing, 0, 512) is None
            assert not residency.cached(backing, 0, MIB)
        assert residency.cold == 64

    def test_a_part_that_is_cached_is_a_miss(
        self, backing: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "preadv", lambda *_: 100)
        assert Residency().read(backing, 0, 512) is None

    def test_where_nobody_can_ask(self, backing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """tmpfs, which never waits, and network file systems, which do."""
        residency = Residency()

        def unknown(*_: object) -> int:
            raise OSError(errno.EOPNOTSUPP, "")

        monkeypatch.setattr(os, "preadv", unknown)
        assert residency.read(backing, 0, 512) is None
        assert not residency.cold
        counts = iter([7, 7, 8, 8, 8])
        monkeypatch.setattr(residency, "_count", lambda: next(counts))
        residency._waits = 7
        for _ in range(2):
            residency.was_warm(32)
            assert not residency.cold
        residency.was_warm(31)
        assert not residency.cold
        residency.was_warm(1)
        assert residency.cold == 256
        while residency.cold:
            assert residency.read(backing, 0, 512) is None

    def test_intact(self, backing: Any, disk: Any) -> None:
        assert intact(backing)
        cut(disk, MIB)
        assert not intact(backing)
