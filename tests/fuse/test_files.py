# SPDX-License-Identifier: Apache-2.0
"""A mapped device is a regular file: what ``stat``, ``open`` and their like see of it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmtool.export.fuse import Access
from tests.fuse.conftest import refused

MIB = 1 << 20
Images = Callable[..., Path]


def test_names_sizes_and_modes(served: Any, images: Images) -> None:
    image = images("a.img")
    served.add("a", f"0 2048 linear {image} 0")
    served.add("b", "0 8 zero\n8 8 error", readonly=True)
    assert sorted(os.listdir(served.mapper)) == ["a", "b"]
    a, b = (served.mapper / "a").stat(), (served.mapper / "b").stat()
    assert stat.S_ISREG(a.st_mode)
    assert (a.st_size, stat.S_IMODE(a.st_mode), a.st_uid) == (MIB, 0o600, os.getuid())
    assert (b.st_size, stat.S_IMODE(b.st_mode)) == (16 * 512, 0o400)
    assert a.st_ino != b.st_ino
    assert {e.name: e.inode() for e in os.scandir(served.mapper)} == {"a": a.st_ino, "b": b.st_ino}


def test_owner_and_mode_may_be_others(served: Any) -> None:
    served.add("a", "0 8 zero")
    served.core.owners["a"] = Access(mode=0o660, uid=7, gid=8)
    info = (served.mapper / "a").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid) == (0o660, 7, 8)


def test_bytes_are_those_of_the_image(served: Any, images: Images) -> None:
    one, two = images("one.img"), images("two.img")
    served.add("ab", f"0 8 linear {one} 8\n8 8 linear {two} 0\n16 8 zero\n24 8 linear {one} 0")
    path = served.mapper / "ab"
    data = os.urandom(32 * 512)
    path.write_bytes(data)
    expected = data[: 16 * 512] + bytes(8 * 512) + data[24 * 512 :]
    assert path.read_bytes() == expected
    assert one.read_bytes()[: 16 * 512] == data[24 * 512 :] + data[: 8 * 512]
    assert two.read_bytes()[: 8 * 512] == data[8 * 512 : 16 * 512]
    with path.open("r+b", buffering=0) as file:
        file.seek(8 * 512 - 3)
        assert file.write(b"across") == 6
        assert os.pread(file.fileno(), 8, 8 * 512 - 4) == expected[8 * 512 - 4 :][:1] + (
            b"across" + expected[8 * 512 + 3 :][:1]
        )


def test_devices_come_change_and_go_at_once(served: Any, images: Images) -> None:
    path = served.mapper / "vol"
    assert not path.exists()
    device = served.add("vol", f"0 8 linear {images('a.img')} 0")
    assert path.stat().st_size == 8 * 512
    inode = path.stat().st_ino
    with path.open("rb", buffering=0) as file:
        served.core.load("vol", "0 16 zero", "vol", "/")
        assert path.stat().st_size == 8 * 512
        device.resume()
        assert path.stat().st_size == 16 * 512
        assert os.fstat(file.fileno()).st_size == 16 * 512
        assert len(file.read()) == 16 * 512
        assert file.seek(0, os.SEEK_END) == 16 * 512
        served.core.rename("vol", "other")
        assert os.listdir(served.mapper) == ["other"]
        assert not path.exists()
        assert (served.mapper / "other").stat().st_ino == inode
        assert os.pread(file.fileno(), 4, 0) == bytes(4)
    assert served.opened(device) == 0
    served.core.remove("other")
    assert os.listdir(served.mapper) == []
    assert not (served.mapper / "other").exists()
    served.add("vol", "0 8 zero")
    assert path.stat().st_ino != inode


def test_an_open_file_makes_the_device_busy(served: Any) -> None:
    device = served.add("vol", "0 8 zero")
    with (served.mapper / "vol").open("rb"), (served.mapper / "vol").open("r+b"):
        assert device.open_count == 2
        with pytest.raises(Exception, match="is open"):
            served.core.remove("vol")
    assert served.opened(device) == 0
    served.core.remove("vol")


def test_without_a_table_there_is_nothing_to_open(served: Any) -> None:
    served.core.create("empty")
    path = served.mapper / "empty"
    assert path.stat().st_size == 0
    assert refused(lambda: path.open("rb")) == errno.ENXIO


def test_a_read_only_device(served: Any, images: Images) -> None:
    served.add("ro", f"0 8 linear {images('a.img')} 0", readonly=True)
    path = served.mapper / "ro"
    assert path.read_bytes() == bytes(8 * 512)
    # mode bits are for others than root
    assert refused(lambda: path.open("r+b")) in (errno.EROFS, errno.EACCES)


def test_mangled_names(served: Any) -> None:
    served.add(r"my\x20vol", "0 8 zero")
    assert os.listdir(served.mapper) == [r"my\x20vol"]
    assert (served.mapper / "my vol").read_bytes() == (served.mapper / r"my\x20vol").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("other")),
        lambda path: path.with_name("dir").mkdir(),
        lambda path: path.chmod(0o666),
        lambda path: os.chown(path, 1, 1),
        lambda path: path.with_name("new").write_bytes(b""),
        lambda path: path.with_name("link").symlink_to(path),
        lambda path: path.with_name("hard link").hardlink_to(path),
        lambda path: os.mkfifo(path.with_name("fifo")),
    ],
)
def test_the_directory_is_the_cores(served: Any, change: Callable[[Path], object]) -> None:
    served.add("vol", "0 8 zero")
    assert refused(lambda: change(served.mapper / "vol")) == errno.EPERM
    assert os.listdir(served.mapper) == ["vol"]


@pytest.mark.parametrize("sectors", [1 << 50, (1 << 54) - 1])
def test_huge_devices(served: Any, sectors: int) -> None:
    """Up to the largest that there can be: no file is longer."""
    served.add("huge", f"0 {sectors} zero")
    path = served.mapper / "huge"
    size = sectors * 512
    assert path.stat().st_size == size
    fd = os.open(path, os.O_RDWR)
    try:
        assert os.lseek(fd, 0, os.SEEK_END) == size
        assert os.pread(fd, 4096, size - 4096) == bytes(4096)
        assert os.pwrite(fd, b"x" * 4096, size - 4096) == 4096
        assert os.lseek(fd, size - 4096, os.SEEK_HOLE) == size - 4096
    finally:
        os.close(fd)


def test_the_ends(served: Any, images: Images) -> None:
    image = images("a.img")
    served.add("vol", f"0 8 linear {image} 0")
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    try:
        assert os.pread(fd, 10, 4096) == b""
        assert os.pread(fd, 10, 1 << 40) == b""
        assert os.pread(fd, 100, 4090) == bytes(6)
        # as a block device: what has room is written
        assert os.pwrite(fd, b"0123456789", 4090) == 6
        assert refused(lambda: os.pwrite(fd, b"x", 4096)) == errno.ENOSPC
    finally:
        os.close(fd)
    assert image.read_bytes()[4088:4098] == b"\0\x00012345\0\0"
    assert (served.mapper / "vol").stat().st_size == 4096


def test_errors_are_those_of_the_device(served: Any) -> None:
    served.add("bad", "0 8 zero\n8 8 error")
    fd = os.open(served.mapper / "bad", os.O_RDWR)
    try:
        assert os.pread(fd, 4096, 0) == bytes(4096)
        assert refused(lambda: os.pread(fd, 512, 4096)) == errno.EIO
        assert refused(lambda: os.pwrite(fd, bytes(512), 4096)) == errno.EIO
    finally:
        os.close(fd)


def test_the_size_is_the_tables(served: Any) -> None:
    """Nobody makes it longer or shorter."""
    served.add("vol", "0 8 zero")
    path = served.mapper / "vol"
    with path.open("r+b") as file:
        for size in (0, 512, 4096, 8192):
            assert refused(lambda size=size: file.truncate(size)) == errno.EINVAL
    for size in (0, 512, 4096, 8192):
        assert refused(lambda size=size: os.truncate(path, size)) == errno.EINVAL
    assert path.stat().st_size == 4096


def test_o_trunc_leaves_what_is_not_written(served: Any, images: Images) -> None:
    image = images("a.img", content=b"\xaa" * MIB)
    served.add("vol", f"0 2048 linear {image} 0")
    path = served.mapper / "vol"
    with path.open("wb", buffering=0) as file:
        assert path.stat().st_size == MIB
        file.write(b"new")
    assert image.read_bytes() == b"new" + b"\xaa" * (MIB - 3)
    assert path.stat().st_size == MIB


def test_a_sparse_image_can_be_copied_over_it(served: Any, images: Images) -> None:
    """Programs leave out the holes where they have just emptied a file."""
    image = images("a.img", content=b"\xaa" * MIB)
    served.add("vol", f"0 2048 linear {image} 0")
    sparse = images("sparse.img", size=MIB - 8192)
    with sparse.open("r+b") as file:
        os.pwrite(file.fileno(), b"first" * 1000, 128 << 10)
        os.pwrite(file.fileno(), b"second" * 1000, 512 << 10)
    assert sparse.stat().st_blocks * 512 < 128 << 10
    shutil.which("cp") or pytest.skip("needs cp (Debian: coreutils)")
    pid = os.spawnlp(os.P_NOWAIT, "cp", "cp", str(sparse), str(served.mapper / "vol"))
    _, status = served.run(lambda: os.waitpid(pid, 0)).get()
    assert os.waitstatus_to_exitcode(status) == 0
    assert image.read_bytes() == sparse.read_bytes() + b"\xaa" * 8192
    # the next opener owes nothing to anybody
    with (served.mapper / "vol").open("r+b") as file:
        file.seek(MIB - 1)
        file.write(b"x")
    assert image.read_bytes()[-3:] == b"\xaa\xaax"
