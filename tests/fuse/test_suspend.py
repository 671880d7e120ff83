# SPDX-License-Identifier: Apache-2.0
"""A suspended device holds its I/O, and nothing else is held by it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dmtool.backing.descriptor import Descriptor
from dmtool.export.fuse.session import Session
from dmtool.export.fuse.transfer import WORKERS_MOST, Lane
from tests.fuse.conftest import refused, run

MIB = 1 << 20
SECONDS = 30
Images = Callable[..., Path]


class Arrivals:
    """Counts the I/O that comes to a device's gate on a worker."""

    def __init__(self, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._came = threading.Semaphore(0)
        begin = device.begin

        def counted() -> Any:
            self._came.release()
            return begin()

        monkeypatch.setattr(device, "begin", counted)

    def wait(self, count: int) -> None:
        for _ in range(count):
            assert self._came.acquire(timeout=SECONDS)


def test_reads_and_writes_wait_for_resume(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = images("a.img")
    device = served.add("vol", f"0 2048 linear {image} 0")
    served.add("other", "0 8 zero")
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    arrivals = Arrivals(device, monkeypatch)
    device.suspend()
    write = served.run(lambda: os.pwrite(fd, b"held", 0))
    read = served.run(lambda: os.pread(fd, 4, 512))
    flush = served.run(lambda: os.fsync(fd))
    arrivals.wait(2)  # the flush waits in the kernel for the write
    # the rest of the mount goes on, and so does what is no I/O
    assert (served.mapper / "other").read_bytes() == bytes(4096)
    assert os.fstat(fd).st_size == MIB
    assert write.running
    assert read.running
    assert flush.running
    assert image.read_bytes()[:4] == bytes(4)
    served.core.load("vol", f"0 2048 linear {images('b.img', content=b'B' * MIB)} 0", "vol", "/")
    device.resume()
    assert write.get() == 4
    assert read.get() == b"BBBB"
    flush.get()
    assert os.pread(fd, 6, 0) == b"heldBB"
    os.close(fd)


def test_more_waiters_than_threads(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device = served.add("vol", "0 8 zero")
    served.add("other", "0 8 zero")
    arrivals = Arrivals(device, monkeypatch)
    device.suspend()
    readers = [served.run((served.mapper / "vol").read_bytes) for _ in range(3 * WORKERS_MOST)]
    arrivals.wait(WORKERS_MOST)
    assert (served.mapper / "other").read_bytes() == bytes(4096)
    assert all(reader.running for reader in readers)
    device.resume()
    assert all(reader.get() == bytes(4096) for reader in readers)


@pytest.mark.tools("fio")
def test_asynchronous_io_of_a_suspended_device(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts it for all files of a mount together, and holds back what is too much:
    that of one device must leave room for the others."""
    device = served.add("vol", f"0 8192 linear {images('a.img', 4 * MIB)} 0")
    served.add("other", "0 8192 zero")
    came = threading.Semaphore(0)
    submit = Lane.submit

    def counted(self: Lane, job: Callable[[], None]) -> None:
        submit(self, job)
        came.release()

    monkeypatch.setattr(Lane, "submit", counted)
    fio = [
        *("fio", "--name=load", "--ioengine=libaio", "--iodepth=1000", "--rw=randwrite", "--bs=4k"),
        *("--direct=1", "--size=4M"),
    ]
    device.suspend()
    held, other = (
        served.run(partial(run, *fio, f"--filename={served.mapper / name}"))
        for name in ("vol", "other")
    )
    for _ in range(500):
        assert came.acquire(timeout=SECONDS)
    other.get()
    assert held.running
    device.resume()
    held.get()


def test_a_suspended_device_below(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = images("a.img", content=b"A" * MIB)
    low = served.add("low", f"0 2048 linear {image} 0")
    served.add("up", "0 2040 linear /dev/mapper/low 8")
    served.add("other", "0 8 zero")
    fd = os.open(served.mapper / "up", os.O_RDWR)
    assert os.pread(fd, 4, 0) == b"AAAA"
    assert os.pwrite(fd, b"up", 0) == 2
    assert image.read_bytes()[4096:4099] == b"upA"
    arrivals = Arrivals(low, monkeypatch)
    low.suspend()
    waiting = [served.run(lambda: os.pread(fd, 2, 0)) for _ in range(2 * WORKERS_MOST)]
    arrivals.wait(WORKERS_MOST)
    assert (served.mapper / "other").read_bytes() == bytes(4096)
    low.resume()
    assert all(read.get() == b"up" for read in waiting)
    os.close(fd)


def test_suspend_waits_for_what_is_under_way(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = served.add("vol", f"0 2048 linear {images('a.img')} 0")
    began, go = threading.Event(), threading.Event()
    pwrite = Descriptor.pwrite

    def slow(self: Descriptor, data: Any, offset: int) -> None:
        began.set()
        assert go.wait(SECONDS)
        pwrite(self, data, offset)

    fd = os.open(served.mapper / "vol", os.O_RDWR)
    with monkeypatch.context() as patch:
        patch.setattr(Descriptor, "pwrite", slow)
        write = served.run(lambda: os.pwrite(fd, b"under way", 0))
        assert began.wait(SECONDS)
        suspend = served.run(device.suspend)
        while device._gate.try_enter():  # until the suspend has closed it
            device._gate.leave()
        assert suspend.running
        go.set()
        suspend.get()
        assert write.get() == 9
    device.resume()
    assert os.pread(fd, 9, 0) == b"under way"
    os.close(fd)


def test_a_reader_that_waits_is_replaced(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it waits for: other files, and other I/O of the same one, are served."""
    image = images("a.img")
    served.add("vol", f"0 2048 linear {image} 0")
    served.add("other", f"0 8 linear {images('b.img')} 0")
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    began, go = threading.Semaphore(0), threading.Event()
    pwrite = Descriptor.pwrite
    threads = set()

    def slow(self: Descriptor, data: Any, offset: int) -> None:
        if bytes(data) == b"stuck":
            threads.add(threading.current_thread().name)
            began.release()
            assert go.wait(SECONDS)
        pwrite(self, data, offset)

    monkeypatch.setattr(Descriptor, "pwrite", slow)
    stuck = served.run(lambda: os.pwrite(fd, b"stuck", 0))
    assert began.acquire(timeout=SECONDS)
    # the next ones on the same device do not stop one reader each
    more = [served.run(lambda: os.pwrite(fd, b"stuck", 0)) for _ in range(8)]
    for _ in more:
        assert began.acquire(timeout=SECONDS)
    assert [thread.name for thread in threading.enumerate()].count("fuse") <= 3
    with (served.mapper / "other").open("r+b", buffering=0) as other:
        assert other.write(b"goes on") == 7
    assert os.pwrite(fd, b"so does this", 512) == 12
    assert stuck.running
    go.set()
    assert [write.get() for write in (stuck, *more)] == [5] * 9
    assert threads == {"fuse", "fuse-io"}
    assert image.read_bytes()[:8] == b"stuck\0\0\0"
    for number in range(100):  # with the old reader gone
        assert os.pwrite(fd, b"%d" % number, 1024) == len(str(number))
    os.close(fd)


def test_a_reader_that_cannot_be_replaced_at_once(
    served: Any, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has no thread to give: it is asked again."""
    served.add("vol", f"0 8 linear {images('a.img')} 0")
    served.add("other", "0 8 zero")
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    go, refusals = threading.Event(), iter(range(3))
    pwrite, start = Descriptor.pwrite, Session._start

    def slow(self: Descriptor, data: Any, offset: int) -> None:
        assert go.wait(SECONDS)
        pwrite(self, data, offset)

    def refuse(self: Session, name: str, *args: Any) -> None:
        if next(refusals, None) is not None:
            raise RuntimeError("can't start new thread")
        start(self, name, *args)

    monkeypatch.setattr(Descriptor, "pwrite", slow)
    monkeypatch.setattr(Session, "_start", refuse)
    stuck = served.run(lambda: os.pwrite(fd, b"stuck", 0))
    assert (served.mapper / "other").read_bytes() == bytes(4096)
    assert next(refusals, None) is None
    go.set()
    assert stuck.get() == 5
    os.close(fd)


def test_the_end_lets_nobody_wait_for_ever(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core ends while a device is suspended and somebody waits for it."""
    device = served.add("vol", "0 8 zero")
    arrivals = Arrivals(device, monkeypatch)
    fd = os.open(served.mapper / "vol", os.O_RDONLY)
    device.suspend()
    read = served.run(lambda: os.pread(fd, 4, 0))
    arrivals.wait(1)
    served.export.close()
    assert refused(read.get) in (errno.ENOTCONN, errno.ECONNABORTED)
    os.close(fd)
    assert device.open_count == 0
