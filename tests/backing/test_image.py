# SPDX-License-Identifier: Apache-2.0
"""Image files: bytes at any offset, holes kept, truncation an error and not a crash."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dmtool.backing import HOLE, ZERO
from dmtool.backing.image import ImageFile
from dmtool.backing.open import open_backing
from dmtool.testing import make_pattern, pattern


def _open(path: Path, *, readonly: bool = False) -> ImageFile:
    backing = open_backing(str(path), "/", readonly=readonly)
    assert isinstance(backing, ImageFile)
    return backing


def test_bytes_at_any_offset(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make_pattern(path, 1, 8)
    image = _open(path)
    assert image.pread(1000, 77) == pattern(1, 77, 1000)
    image.pwrite(b"abc", 511)
    assert image.pread(5, 510) == pattern(1, 510, 1) + b"abc" + pattern(1, 514, 1)
    image.write_zeroes(100, 50)
    assert image.pread(52, 99) == pattern(1, 99, 1) + bytes(50) + pattern(1, 150, 1)
    image.close()


def test_a_tail_of_less_than_a_sector_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1300))
    image = _open(path)
    assert image.size == 1024
    image.close()


def test_sparse_stays_sparse(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 1 << 40)
    image = _open(path)
    image.pwrite(b"x" * 4096, 1 << 39)
    assert image.pread(4097, (1 << 39) - 1) == b"\0" + b"x" * 4096
    assert image.extents(0, image.size) == [
        (1 << 39, 3),
        (4096, 0),
        ((1 << 39) - 4096, 3),
    ]
    image.discard(1 << 39, 4096)
    assert image.extents(0, image.size) == [(image.size, 3)]
    image.write_zeroes(0, 1 << 30)
    assert path.stat().st_blocks == 0
    image.write_zeroes(0, 8192, allocate=True)
    assert path.stat().st_blocks == 16
    assert image.pread(8192, 0) == bytes(8192)
    image.close()


def test_truncated_below(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make_pattern(path, 1, 32)
    image = _open(path)
    view = image.view
    assert view is not None
    os.truncate(path, 4096)
    with pytest.raises(OSError, match="shorter") as caught:
        image.pread(8192, 0)
    assert caught.value.errno == errno.EIO
    assert image.pread(4096, 0) == pattern(1, 0, 4096)
    # what the exports rely on: a system call on the view answers EFAULT
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="Bad address"):
        os.write(writing, view[8192:8292])
    os.close(reading)
    os.close(writing)
    del view
    image.close()


def test_allocation_of_what_is_cut_off(tmp_path: Path) -> None:
    """Zeros are not told of where a read fails."""
    path = tmp_path / "image"
    make_pattern(path, 1, 64)
    image = _open(path)
    os.truncate(path, 4096)
    assert image.extents(0, 32768) == [(4096, 0), (28672, 0)]
    assert image.extents(8192, 4096) == [(4096, 0)]
    os.truncate(path, 16384)
    assert image.extents(0, 32768) == [(4096, 0), (12288, HOLE | ZERO), (16384, 0)]
    assert image.extents(4096, 12288) == [(12288, HOLE | ZERO)]
    os.truncate(path, 65536)
    assert image.extents(0, 32768) == [(4096, 0), (28672, HOLE | ZERO)]
    image.close()


def test_readonly(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make_pattern(path, 1, 8)
    image = _open(path, readonly=True)
    for write in (
        lambda: image.pwrite(b"x", 0),
        lambda: image.discard(0, 512),
        lambda: image.write_zeroes(0, 512),
    ):
        with pytest.raises(OSError, match="read-only"):
            write()
    assert image.view is not None
    assert image.view.readonly
    image.close()


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("nosuch", errno.ENOENT),
        (".", errno.ENOTBLK),
        ("/dev/null", errno.ENOTBLK),
        ("image/", errno.ENOTDIR),
        ("250:77", errno.ENXIO),
        ("1:1048576", errno.EOVERFLOW),
        ("4096:0", errno.EOVERFLOW),
        ("new\nline", errno.EINVAL),
    ],
)
def test_what_is_no_backing(tmp_path: Path, word: str, number: int) -> None:
    for name in ("image", "new\nline"):
        make_pattern(tmp_path / name, 1, 8)
    with pytest.raises(OSError, match=r".") as caught:
        open_backing(word, str(tmp_path), readonly=False)
    assert caught.value.errno == number
