# SPDX-License-Identifier: Apache-2.0
"""I/O that a target holds: done again on another table, and never on the reader's own thread."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmtool.backing.descriptor import Descriptor
from dmtool.export.fuse.transfer import WORKERS_MOST
from tests.fuse.conftest import MIB, SECONDS, refused
from tests.nbd.holding import Holding

Images = Callable[..., Path]
SECTORS = MIB // 512
DATA = b"held" * 128


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("noflush", [False, True])
def test_held_io_is_done_on_the_next_table(
    served: Any, images: Images, stacked: bool, noflush: bool
) -> None:
    holding = Holding()
    holding.reads = range(8, 9)
    device = served.add("low", f"0 {SECTORS} holding {images('a.img')} 0")
    if stacked:
        served.add("up", f"0 {SECTORS} linear /dev/mapper/low 0")
    fd = os.open(served.mapper / ("up" if stacked else "low"), os.O_RDWR)
    calls = [
        served.run(lambda: os.pwrite(fd, b"held", 0)),
        served.run(lambda: os.pread(fd, 512, 4096)),
    ]
    holding.wait(2)
    assert os.pread(fd, 4, 512) == bytes(4)
    device.suspend(noflush=noflush)
    if noflush:
        assert all(call.running for call in calls)
        image = images("b.img", content=b"B" * MIB)
        served.core.load("low", f"0 {SECTORS} linear {image} 0", "low", "/")
        device.resume()
        assert [call.get() for call in calls] == [4, b"B" * 512]
        assert image.read_bytes()[:6] == b"heldBB"
    else:
        assert [refused(call.get) for call in calls] == [errno.EIO] * 2
        device.resume()
    os.close(fd)


def test_what_is_held_keeps_no_reader_waiting(served: Any, images: Images) -> None:
    """Though more is held than there are threads for it, and reads are a worker's, too."""
    holding = Holding()
    device = served.add("vol", f"0 {SECTORS} holding {images('a.img', content=b'A' * MIB)} 0")
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    count = 2 * WORKERS_MOST
    writes = [served.run(lambda at=at: os.pwrite(fd, DATA, at * 4096)) for at in range(count)]
    holding.wait(WORKERS_MOST)
    assert os.pread(fd, 4, 512) == b"AAAA"
    image = images("b.img", content=b"B" * MIB)
    device.suspend(noflush=True)
    served.core.load("vol", f"0 {SECTORS} linear {image} 0", "vol", "/")
    device.resume()
    assert [write.get() for write in writes] == [512] * count
    assert image.read_bytes() == b"".join(
        (DATA if at < count else b"B" * 512) + b"B" * 3584 for at in range(MIB // 4096)
    )
    os.close(fd)


def test_a_mirror_of_files_that_loses_one(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (images(f"{name}.img") for name in "abc")
    table = "0 {} mirror core 2 1024 nosync 2 {} 0 {} 0 1 handle_errors"
    device = served.add("vol", table.format(SECTORS, a, b))
    pwrite = Descriptor.pwrite

    def fail(self: Descriptor, data: Any, offset: int) -> None:
        if self.name == str(b):
            raise OSError(errno.EIO, "no more")
        pwrite(self, data, offset)

    fd = os.open(served.mapper / "vol", os.O_RDWR)
    assert os.pwrite(fd, b"before", 512) == 6
    c.write_bytes(a.read_bytes())
    monkeypatch.setattr(Descriptor, "pwrite", fail)
    writes = [served.run(lambda at=at: os.pwrite(fd, b"held" * 128, at)) for at in (0, 8192)]
    mirror = device.live.targets[0].context.mirror
    with mirror.lock:
        assert mirror.lock.wait_for(lambda: mirror.held == 2, SECONDS)
    assert holders() == {"fuse-io"}
    assert os.pread(fd, 6, 512) == b"before"
    device.suspend(noflush=True)
    served.core.load("vol", table.format(SECTORS, a, c), "vol", "/")
    device.resume()
    assert [write.get() for write in writes] == [512, 512]
    assert a.read_bytes() == c.read_bytes()
    assert a.read_bytes()[8192:8704] == b"held" * 128
    os.close(fd)


def holders() -> set[str]:
    """The names of the threads that a mirror holds."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = set()
    for ident, frame in sys._current_frames().items():
        at: Any = frame
        while at is not None:
            if at.f_code.co_name == "_hold":
                found.add(names[ident])
            at = at.f_back
    return found
