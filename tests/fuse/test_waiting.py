# SPDX-License-Identifier: Apache-2.0
"""``control/``: who waits for an event, or for a suspend, and who gives up."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmtool.backing.descriptor import Descriptor
from tests.fuse.conftest import SECONDS, refused, write

Images = Callable[..., Path]


def test_a_read_waits_for_the_next_event(served: Any, vol: Path) -> None:
    device = served.core.lookup("vol")
    device.raise_event()
    with (vol / "events").open("rb", buffering=0) as file:
        read = served.run(lambda: file.read(100))
        device.raise_event()
        assert read.get() == b"2\n"
        device.raise_event()
        device.raise_event()
        assert file.read(1) == b"4"
        assert file.read(1) == b"\n"


def test_files_that_come_and_go(served: Any, vol: Path) -> None:
    """Numbers of descriptors are given anew while events are on their way."""
    device = served.core.lookup("vol")
    going = threading.Event()

    def come_and_go() -> None:
        while not going.is_set():
            (vol / "events").open("rb", buffering=0).close()

    other = served.run(come_and_go)
    with (vol / "events").open("rb", buffering=0) as file:
        for number in range(1, 500):
            read = served.run(lambda: file.read(100))
            device.raise_event()
            assert read.get() == b"%d\n" % number
    going.set()
    other.get()


def test_everybody_who_waits_is_told(served: Any, vol: Path) -> None:
    files = [(vol / "events").open("rb", buffering=0) for _ in range(3)]
    reads = [served.run(lambda file=file: file.read(100)) for file in files]
    served.core.lookup("vol").raise_event()
    assert [read.get() for read in reads] == [b"1\n"] * 3
    for file in files:
        file.close()


def test_poll_tells_of_events(served: Any, vol: Path) -> None:
    device = served.core.lookup("vol")
    fd = os.open(vol / "events", os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(0) == []
    assert refused(lambda: os.read(fd, 10)) == errno.EAGAIN
    for number in range(1, 4):
        waiting = served.run(lambda: poll.poll(SECONDS * 1000))
        device.raise_event()
        assert waiting.get()[0][0] == fd
        assert os.read(fd, 10) == b"%d\n" % number
        assert poll.poll(0) == []
    os.close(fd)


def test_the_stream_ends_with_the_device(served: Any, vol: Path) -> None:
    with (vol / "events").open("rb", buffering=0) as file:
        read = served.run(lambda: file.read(100))
        vol.rmdir()
        assert read.get() == b""
        assert file.read(1) == b""


def test_a_rename_is_an_event(served: Any, vol: Path) -> None:
    with (vol / "events").open("rb", buffering=0) as file:
        read = served.run(lambda: file.read(100))
        vol.rename(served.control / "other")
        assert read.get() == b"1\n"


def test_who_waits_can_be_interrupted(serve: Any) -> None:
    """In a process of its own: this one must not be the server while its child starts."""
    process = serve("vol=0 8 zero")
    cat = subprocess.Popen(
        ["bash", "-c", 'exec 3<"$0"; echo open; exec cat <&3', process.control / "vol" / "events"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert cat.stdout is not None
    assert cat.stdout.readline() == "open\n"
    cat.terminate()
    assert cat.wait(SECONDS) == -15
    cat.stdout.close()
    process.stop()


@pytest.mark.parametrize("file", ["state", "table"])
def test_who_waits_for_a_suspend_can_be_interrupted(
    served: Any, vol: Path, images: Images, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    write(vol / "table", f"0 8 linear {images('a.img')} 0\n")
    device = served.core.lookup("vol")
    began, go = threading.Event(), threading.Event()
    pwrite = Descriptor.pwrite

    def slow(self: Descriptor, data: Any, offset: int) -> None:
        began.set()
        assert go.wait(SECONDS)
        pwrite(self, data, offset)

    monkeypatch.setattr(Descriptor, "pwrite", slow)
    fd = os.open(served.mapper / "vol", os.O_RDWR)
    io = served.run(lambda: os.pwrite(fd, b"x", 0))
    assert began.wait(SECONDS)
    text = {"state": "suspend", "table": "0 16 zero"}[file]
    shell = subprocess.Popen(["bash", "-c", 'exec echo "$1" >"$0"', vol / file, text])
    while device._gate.try_enter():  # until the suspend has closed it
        device._gate.leave()
    shell.terminate()
    ended = served.run(lambda: shell.wait(SECONDS))
    assert ended.get()
    assert io.running
    assert (vol / "state").read_text() == "active\n"
    go.set()
    assert io.get() == 1
    assert os.pread(fd, 1, 0) == b"x"
    os.close(fd)
