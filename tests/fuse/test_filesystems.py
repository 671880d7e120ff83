# SPDX-License-Identifier: Apache-2.0
"""File systems on devices' files, mounted by way of loop devices; and what a crash leaves of them.

With DMTOOL_TEST_LONG=1 the trees have 10,000 files, and every file system is on every device.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmtool.export.fuse import loop
from tests.fuse.conftest import LONG, refused, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

MIB = 1 << 20
SECTORS = 320 << 11  # the least that mkfs.xfs takes is 300 MiB
FILES = 10_000 if LONG else 300
SECONDS = 300

TABLES = {
    "linear": f"0 {SECTORS // 2} linear a.img 0;{SECTORS // 2} {SECTORS // 2} linear b.img 2048",
    "striped": f"0 {SECTORS} striped 2 128 a.img 0 b.img 2048",
    "mirror": f"0 {SECTORS} mirror core 1 1024 2 a.img 0 b.img 2048",
}
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
CHECK = {
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n", "-f"),
    "btrfs": ("btrfs", "check", "--force"),
}

TOOLS = {kind: pytest.mark.tools(MAKE[kind][0], CHECK[kind][0]) for kind in MAKE}
# each kind and each table once, or all with all
PAIRS = [
    pytest.param(kind, table, marks=TOOLS[kind])
    for k, kind in enumerate(MAKE)
    for t, table in enumerate(TABLES)
    if LONG or t == k % len(TABLES)
]
CRASHES = PAIRS if LONG else [pytest.param("ext4", "mirror", marks=TOOLS["ext4"])]


@pytest.fixture
def two_images(images: Callable[..., Path]) -> None:
    for name in ("a.img", "b.img"):
        images(name, (SECTORS << 9) + MIB)


@contextmanager
def mounted(file: Path, at: Path, kind: str) -> Generator[Path]:
    """The file system in a file, by way of a loop device."""
    at.mkdir(exist_ok=True)
    device = loop.attach(str(file))
    try:
        run("mount", "-t", kind, device, at)
        try:
            yield at
        finally:
            # of a file system that has failed, too
            subprocess.run(["umount", at], capture_output=True, check=True)
    finally:
        if not loop.detach(device):
            # who is slow to let go of it, as a file system that has failed, frees it in the end
            deadline = time.monotonic() + SECONDS
            while str(file) in run("losetup", "--list", "--noheadings", "-O", "BACK-FILE"):
                assert time.monotonic() < deadline


def grow(top: Path, files: int) -> dict[str, str]:
    """Write a tree; what is in it."""
    for number in range(files):
        path = top / f"{number % 17}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(hashlib.sha256(b"%d" % number).digest() * (number * 37 % 900))
    return contents(top)


def contents(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(("kind", "table"), PAIRS)
def test_a_tree_of_files(
    serve: Any, two_images: None, tmp_path: Path, kind: str, table: str
) -> None:
    process = serve(f"vol={TABLES[table]}")
    file = process.mapper / "vol"
    run(*MAKE[kind], file)
    with mounted(file, tmp_path / "mnt", kind) as top:
        tree = grow(top, FILES)
    run(*CHECK[kind], file, timeout=SECONDS)
    with mounted(file, tmp_path / "mnt", kind) as top:
        assert contents(top) == tree
        run("fstrim", top)
    run(*CHECK[kind], file, timeout=SECONDS)
    process.stop()


@pytest.mark.parametrize(("kind", "table"), CRASHES)
def test_a_crash_costs_a_journal_replay(
    serve: Any, two_images: None, tmp_path: Path, kind: str, table: str
) -> None:
    """The core is killed while files are written; what was synced is there afterwards."""
    directory = tmp_path / "run"
    directory.mkdir()
    process = serve(f"vol={TABLES[table]}", at=directory)
    file = process.mapper / "vol"
    run(*MAKE[kind], file)
    with mounted(file, tmp_path / "mnt", kind) as top:
        tree = grow(top, FILES // 2)
        run("sync", "-f", top)
        later = top / "later"
        later.mkdir()
        (later / "begun").write_bytes(b"x" * 8 * MIB)
        process.kill()
        fd = os.open(later / "begun", os.O_RDWR)
        assert refused(lambda: os.fsync(fd))
        os.close(fd)
    (directory / "nbd.sock").unlink()
    again = serve(f"vol={TABLES[table]}", at=directory)
    with mounted(file, tmp_path / "mnt", kind) as top:  # replays the journal
        found = contents(top)
        assert {name: found[name] for name in tree} == tree
        assert set(found) - set(tree) <= {"later/begun"}
    run(*CHECK[kind], file, timeout=SECONDS)
    again.stop()


@pytest.mark.tools("mkfs.ext4")
def test_an_image_on_a_file_system_on_a_device_of_the_same_core(
    serve: Any, two_images: None, tmp_path: Path
) -> None:
    """Writing to the one waits for the other: the core must not wait for itself."""
    process = serve(f"low={TABLES['linear']}")
    run(*MAKE["ext4"], process.mapper / "low")
    with mounted(process.mapper / "low", tmp_path / "mnt", "ext4") as top:
        inner = top / "inner.img"
        with inner.open("wb") as file:
            file.truncate(160 * MIB)
        (process.control / "up").mkdir()
        (process.control / "up" / "table").write_text(f"0 {160 << 11} linear {inner} 0\n")
        up = process.mapper / "up"
        run("dd", "if=/dev/zero", f"of={up}", "bs=1M", "count=160", "conv=fsync", timeout=SECONDS)
        run(*MAKE["ext4"], up)
        with mounted(up, tmp_path / "mnt2", "ext4") as second:
            tree = grow(second, 50)
        with mounted(up, tmp_path / "mnt2", "ext4") as second:
            assert contents(second) == tree
        (process.control / "up").rmdir()
    process.stop()


def test_loop_devices(serve: Any, images: Callable[..., Path]) -> None:
    images("a.img", content=b"\xaa" * MIB)
    process = serve("vol=0 2048 linear a.img 0")
    path = str(process.mapper / "vol")
    device = loop.attach(path)
    try:
        assert loop.attached(path) == [device]
        assert run("blockdev", "--getsize64", device) == f"{MIB}\n"
        assert run("blockdev", "--getro", device) == "0\n"
        queue = Path("/sys/block") / Path(device).name / "queue"
        assert (queue / "discard_granularity").read_text() == "4096\n"
        assert refused((process.control / "vol").rmdir) == errno.EBUSY
        run("blkdiscard", "--offset", "65536", "--length", "65536", device)
        data = Path(path).read_bytes()
        assert data == b"\xaa" * 65536 + bytes(65536) + b"\xaa" * (MIB - 131072)
    finally:
        assert loop.detach(device)
    assert loop.attached(path) == []
    readonly = loop.attach(path, readonly=True)
    try:
        assert run("blockdev", "--getro", readonly) == "1\n"
    finally:
        loop.detach(readonly)
    (process.control / "vol").rmdir()
    process.stop()
