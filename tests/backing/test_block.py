# SPDX-License-Identifier: Apache-2.0
"""Block devices, on real loop devices: limits, claims, discard, misalignment."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmtool.backing.block import BlockDevice
from dmtool.backing.open import open_backing
from dmtool.errors import TableErrors
from dmtool.table import load
from dmtool.testing import make_pattern, pattern

pytestmark = [pytest.mark.root, pytest.mark.tools("losetup")]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """``loop(sectors, *losetup_options)`` attaches a pattern image and returns /dev/loopN."""
    attached: list[str] = []

    def attach(sectors: int, *options: str) -> str:
        image = make_pattern(tmp_path / f"image{len(attached)}", len(attached) + 1, sectors)
        command = ["losetup", "--find", "--show", *options, image]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        attached.append(done.stdout.strip())
        return attached[-1]

    yield attach
    for device in attached:
        subprocess.run(["losetup", "--detach", device], check=True)


def _numbers(device: str) -> str:
    node = os.stat(device).st_rdev
    return f"{os.major(node)}:{os.minor(node)}"


def _open(word: str, *, readonly: bool = False) -> BlockDevice:
    backing = open_backing(word, "/", readonly=readonly)
    assert isinstance(backing, BlockDevice)
    return backing


def test_by_path_and_by_numbers(loop: Callable[..., str]) -> None:
    device = loop(100)
    for word in (device, _numbers(device)):
        backing = _open(word)
        assert (backing.size, backing.block_size, backing.readonly) == (51200, 512, False)
        assert str(backing) == _numbers(device)
        assert backing.name == Path(device).name
        assert backing.pread(1000, 77) == pattern(1, 77, 1000)
        backing.close()


def test_claimed_by_one_process_shared_within(loop: Callable[..., str]) -> None:
    device = loop(100)
    first, second = _open(device), _open(device, readonly=True)
    with pytest.raises(OSError, match="busy"):
        os.open(device, os.O_RDONLY | os.O_EXCL)
    first.close()
    with pytest.raises(OSError, match="busy"):
        os.open(device, os.O_RDONLY | os.O_EXCL)
    second.close()
    os.close(os.open(device, os.O_RDONLY | os.O_EXCL))


def test_write_protected(loop: Callable[..., str]) -> None:
    backing = _open(loop(16, "--read-only"))
    assert backing.readonly
    assert backing.pread(512, 0) == pattern(1, 0, 512)
    with pytest.raises(OSError, match="read-only") as caught:
        backing.pwrite(b"x" * 512, 0)
    assert caught.value.errno == errno.EIO
    backing.close()


def test_discard_and_zeroes(loop: Callable[..., str], tmp_path: Path) -> None:
    backing = _open(loop(4096))
    image = tmp_path / "image0"
    before = image.stat().st_blocks
    backing.discard(1 << 20, 1 << 20)
    assert image.stat().st_blocks < before
    backing.write_zeroes(512, 1024)
    backing.write_zeroes(100, 50)
    backing.flush()
    expected = pattern(1, 0, 100) + bytes(50) + pattern(1, 150, 362) + bytes(1024)
    assert backing.pread(len(expected), 0) == expected
    backing.close()


def test_zeroes_take_up_space_only_where_they_are_to(
    loop: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backing = _open(loop(8192))
    image = tmp_path / "image0"
    before = image.stat().st_blocks
    backing.write_zeroes(0, 1 << 20, allocate=True)
    assert image.stat().st_blocks == before
    backing.write_zeroes(1 << 20, 1 << 20)
    assert image.stat().st_blocks < before
    assert backing.pread(2 << 20, 0) == bytes(2 << 20)
    assert backing.pread(512, 2 << 20) == pattern(1, 2 << 20, 512)

    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    # a device that cannot unmap with zeros
    monkeypatch.setattr("dmtool.backing.block.fallocate", refuse)
    backing.write_zeroes(2 << 20, 4096)
    assert backing.pread(4608, 2 << 20) == bytes(4096) + pattern(1, (2 << 20) + 4096, 512)
    backing.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 8 linear {0} 1", "start=1 not aligned to h/w logical block size 4096 of {1}"),
        ("0 4 linear {0} 8", "len=4 not aligned to h/w logical block size 4096 of {1}"),
        (
            "0 8 linear {0} 0\n8 9 zero",
            "table line 2 (start sect 8 len 9) not aligned to h/w logical block size 4096",
        ),
    ],
)
def test_4096_byte_blocks(loop: Callable[..., str], text: str, reason: str) -> None:
    device = loop(4096, "--sector-size", "4096")
    with pytest.raises(TableErrors) as caught:
        load(text.format(device))
    assert str(caught.value.errors[0]) == reason.format(None, Path(device).name)
    table = load(f"0 8 linear {device} 8\n8 8 zero")
    assert table is not None
    assert table.block_size == 4096
    assert table.read(0, 4096) == pattern(1, 4096, 4096)
    table.close()
