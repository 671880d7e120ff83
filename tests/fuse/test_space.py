# SPDX-License-Identifier: Apache-2.0
"""Holes: punched, looked for, and filled with zeros; and what reaches stable storage."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import refused

KIB, MIB = 1 << 10, 1 << 20
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 0x01, 0x02, 0x08, 0x10
Images = Callable[..., Path]

_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    done = _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    if done:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.fixture
def opened(served: Any, images: Images) -> Any:
    """(descriptor of the file, the image below it), 1 MiB of which nothing is zero."""
    image = images("a.img", content=b"\xaa" * MIB)
    served.add("vol", f"0 2048 linear {image} 0")
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    yield fd, image
    os.close(fd)


def test_punching_a_hole(opened: tuple[int, Path]) -> None:
    fd, image = opened
    before = image.stat().st_blocks
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 64 * KIB, 128 * KIB)
    assert os.pread(fd, 256 * KIB, 0) == (
        b"\xaa" * (64 * KIB) + bytes(128 * KIB) + b"\xaa" * (64 * KIB)
    )
    assert image.stat().st_blocks == before - 128 * KIB // 512


def test_zeroing_a_range(opened: tuple[int, Path]) -> None:
    fd, image = opened
    before = image.stat().st_blocks
    for mode in (ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
        fallocate(fd, mode, 1000, 5000)
        assert os.pread(fd, 7000, 0) == b"\xaa" * 1000 + bytes(5000) + b"\xaa" * 1000
        assert image.stat().st_blocks == before
        os.pwrite(fd, b"\xaa" * 5000, 1000)


def test_ranges_that_leave_the_device(opened: tuple[int, Path]) -> None:
    fd, image = opened
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, MIB - 512, MIB)
    assert image.read_bytes() == b"\xaa" * (MIB - 512) + bytes(512)
    for mode, offset in ((ZERO_RANGE, MIB - 512), (PUNCH_HOLE | KEEP_SIZE, MIB)):
        call = partial(fallocate, fd, mode, offset, 1024)
        assert refused(call) == errno.EINVAL


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, COLLAPSE_RANGE])
def test_what_a_device_cannot(opened: tuple[int, Path], mode: int) -> None:
    assert refused(lambda: fallocate(opened[0], mode, 0, 4096)) == errno.EOPNOTSUPP


def test_looking_for_holes(served: Any, images: Images) -> None:
    image = images("a.img", size=4 * MIB)
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), b"x" * 64 * KIB, MIB)
    served.add("vol", f"0 8192 linear {image} 0\n8192 8192 zero\n16384 2048 linear {image} 2048")
    fd = os.open(served.mapper / "vol", os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        assert os.lseek(fd, 0, os.SEEK_DATA) == MIB
        assert os.lseek(fd, MIB, os.SEEK_HOLE) == MIB + 64 * KIB
        assert os.lseek(fd, MIB + 64 * KIB, os.SEEK_DATA) == 8 * MIB
        assert os.lseek(fd, 8 * MIB + 1, os.SEEK_DATA) == 8 * MIB + 1
        assert os.lseek(fd, 8 * MIB + 1, os.SEEK_HOLE) == 8 * MIB + 64 * KIB
        for whence, offset in (
            (os.SEEK_DATA, 8 * MIB + 64 * KIB),
            (os.SEEK_DATA, 9 * MIB),
            (os.SEEK_HOLE, 9 * MIB),
        ):
            assert refused(partial(os.lseek, fd, offset, whence)) == errno.ENXIO
    finally:
        os.close(fd)


def test_the_end_of_the_device_is_a_hole(opened: tuple[int, Path]) -> None:
    fd, _ = opened
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    assert os.lseek(fd, 5, os.SEEK_HOLE) == MIB


def test_stripes_in_small_chunks(served: Any, images: Images) -> None:
    """More extents than can be asked for at a time."""
    one, two = images("one.img", 16 * MIB), images("two.img", 16 * MIB)
    served.add("vol", f"0 65536 striped 2 8 {one} 0 {two} 0")
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    try:
        assert refused(lambda: os.lseek(fd, 0, os.SEEK_DATA)) == errno.ENXIO
        os.pwrite(fd, b"x", 31 * MIB)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 31 * MIB
        assert os.lseek(fd, 31 * MIB, os.SEEK_HOLE) == 31 * MIB + 4 * KIB
    finally:
        os.close(fd)


def test_fsync_reaches_the_backing_files(
    opened: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, _ = opened
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda n: synced.append(os.readlink(f"/proc/self/fd/{n}")))
    os.pwrite(fd, b"x", 0)
    assert not synced
    os.fsync(fd)
    assert [Path(name).name for name in synced] == ["a.img"]


def test_o_dsync_writes_are_on_stable_storage(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.add("vol", f"0 8 linear {images('a.img')} 0")
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    fd = os.open(served.mapper / "vol", os.O_WRONLY | os.O_DSYNC)
    os.pwrite(fd, b"x", 0)
    os.close(fd)
    assert len(synced) == 1


def test_a_failed_flush_is_told(opened: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "")

    monkeypatch.setattr(os, "fdatasync", fail)
    assert refused(lambda: os.fsync(opened[0])) == errno.EIO
