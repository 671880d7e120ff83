# SPDX-License-Identifier: Apache-2.0
"""Mirrors that lose a leg under their clients: what they hold is lost by no suspend."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import Any

import pytest

from dmtool.api import Mirrored
from dmtool.export.nbd import protocol as p
from tests.nbd.conftest import wait_until
from tests.nbd.holding import MIB, SECONDS, assert_silent

HANDLE = "mirror core 2 1024 nosync 2 {} 0 {} 0 1 handle_errors"


@pytest.fixture
def mirror(served: Any) -> Any:
    """`dev` mirrors `/dev/mapper/a` and `/dev/mapper/b`, which are a.img and b.img."""
    served.data = served.image("a.img", 4 * MIB, seed=1)
    for name in ("b.img", "c.img"):
        (served.folder / name).write_bytes(served.data)
    served.lower("a", "0 8192 linear a.img 0")
    served.lower("b", "0 8192 linear b.img 0")
    served.table("0 8192 " + HANDLE.format("/dev/mapper/a", "/dev/mapper/b"))
    return served


def held(served: Any, count: int) -> None:
    """Wait until the mirror holds so many writes."""
    mirror = served.device.live.targets[0].context.mirror
    with mirror.lock:
        assert mirror.lock.wait_for(lambda: mirror.held == count, SECONDS)


def legs(served: Any, *names: str) -> list[bytes]:
    return [(served.folder / f"{name}.img").read_bytes() for name in names]


@pytest.mark.parametrize("size", [69_632, 70_000])
def test_writes_a_mirror_holds_are_done_when_it_has_a_good_leg(
    mirror: Any, structured: bool, size: int
) -> None:
    wire = mirror.wire(structured=structured)
    assert isinstance(mirror.device.live.plans[0], Mirrored)
    mirror.lower("b", "0 8192 error")
    wrote = {}
    for i in range(20):
        wrote[wire.send(p.CMD_WRITE, i * size, data=bytes([i + 1]) * size)] = i
    # of parts of sectors one after the other is written
    held(mirror, 1 if size % 512 else 20)
    # what needs no second leg goes on
    assert wire.ask(p.CMD_READ, 3 * MIB, 4096).data == mirror.data[3 * MIB : 3 * MIB + 4096]
    mirror.in_thread(lambda: mirror.device.suspend(noflush=True)).ends()
    assert_silent(wire)
    mirror.load("0 8192 " + HANDLE.format("/dev/mapper/a", "c.img"))
    mirror.device.resume()
    replies = wire.replies(20)
    assert {cookie: reply.error for cookie, reply in replies.items()} == dict.fromkeys(wrote, 0)
    for i in range(20):
        mirror.data[i * size : (i + 1) * size] = bytes([i + 1]) * size
    assert legs(mirror, "a", "c") == [bytes(mirror.data)] * 2
    assert wire.ask(p.CMD_READ, 0, 4 * MIB).data == mirror.data


def test_a_leg_as_good_as_before(mirror: Any, structured: bool) -> None:
    """The same table goes on after a suspend without flush: what was held is tried again."""
    wire = mirror.wire(structured=structured)
    mirror.lower("b", "0 8192 error")
    cookie = wire.send(p.CMD_WRITE, 0, data=b"x" * 4096)
    held(mirror, 1)
    mirror.lower("b", "0 8192 linear b.img 0")
    mirror.in_thread(lambda: mirror.device.suspend(noflush=True)).ends()
    mirror.device.resume()
    answered, reply = wire.reply()
    assert (answered, reply.error) == (cookie, 0)
    mirror.data[:4096] = b"x" * 4096
    assert legs(mirror, "a", "b") == [bytes(mirror.data)] * 2


@pytest.mark.parametrize("command", [p.CMD_WRITE, p.CMD_WRITE_ZEROES, p.CMD_TRIM])
def test_suspend_with_flush_fails_what_a_mirror_holds(
    mirror: Any, structured: bool, command: int
) -> None:
    wire = mirror.wire(structured=structured)
    mirror.lower("b", "0 8192 error")
    data = bytes(4096) if command == p.CMD_WRITE else b""
    wire.send(command, 0, 4096, data)
    held(mirror, 1)
    suspend = mirror.in_thread(mirror.device.suspend)
    assert wire.reply()[1].error == p.EIO
    suspend.ends()
    mirror.device.resume()


@pytest.mark.tools("nbdcopy")
@pytest.mark.parametrize("noflush", [True, False])
def test_nbdcopy_to_a_mirror_that_loses_a_leg(mirror: Any, noflush: bool) -> None:
    source = mirror.folder / "source"
    source.write_bytes(os.urandom(4 * MIB))
    mirror.lower("b", "0 8192 error")
    uri = f"nbd+unix:///dev?socket={mirror.socket}"
    with subprocess.Popen(
        ["nbdcopy", "--request-size=65536", source, uri], stderr=subprocess.PIPE
    ) as copy:
        assert copy.stderr
        live = mirror.device.live.targets[0].context.mirror
        with live.lock:
            assert live.lock.wait_for(lambda: live.held > 10, SECONDS)
        mirror.in_thread(lambda: mirror.device.suspend(noflush=noflush)).ends()
        if noflush:
            mirror.load("0 8192 " + HANDLE.format("/dev/mapper/a", "c.img"))
        mirror.device.resume()
        errors = copy.stderr.read().decode()
        if not noflush:
            assert copy.wait(SECONDS)
            assert "Input/output error" in errors
            return
        assert copy.wait(SECONDS) == 0, errors
    assert legs(mirror, "a", "c") == [source.read_bytes()] * 2


class Writer(threading.Thread):
    """Writes blocks of its own over one connection, several at a time, and reads them back."""

    def __init__(self, wire: Any, number: int) -> None:
        super().__init__()
        self.content = [b""] * 16
        self.rounds = 0
        self.enough = threading.Event()
        self.wrong: list[object] = []
        self._wire = wire
        self._first = number * 16

    def run(self) -> None:
        wire = self._wire
        while not self.enough.is_set() and not self.wrong:
            self.rounds += 1
            asked = {}
            for block in range(16):
                self.content[block] = os.urandom(16) * 256
                offset = (self._first + block) * 4096
                asked[wire.send(p.CMD_WRITE, offset, data=self.content[block])] = block
            replies = wire.replies(16)
            self.wrong += [reply for reply in replies.values() if reply.error]
            whole = wire.ask(p.CMD_READ, self._first * 4096, 16 * 4096)
            if whole.data != b"".join(self.content):
                self.wrong.append(whole)


def test_no_byte_is_lost_while_a_leg_goes_and_comes(mirror: Any) -> None:
    """Over and over, while some write: what is held is done when the leg is back."""
    again = "0 8192 mirror core 1 1024 2 /dev/mapper/a 0 /dev/mapper/b 0 1 handle_errors"
    writers = [Writer(mirror.wire(), number) for number in range(3)]
    for writer in writers:
        writer.start()
    for _ in range(8):
        live = mirror.device.live.targets[0].context.mirror
        mirror.lower("b", "0 8192 error")
        with live.lock:
            assert live.lock.wait_for(lambda live=live: live.held > 0, SECONDS)
        mirror.in_thread(lambda: mirror.device.suspend(noflush=True)).ends()
        mirror.lower("b", "0 8192 linear b.img 0")
        mirror.load(again)
        mirror.device.resume()
        live = mirror.device.live.targets[0].context.mirror
        with live.lock:
            assert live.lock.wait_for(lambda live=live: live.in_sync, SECONDS)
        seen = [writer.rounds for writer in writers]
        # what was held has been done, and more
        wait_until(lambda seen=seen: all(w.rounds > seen[i] + 1 for i, w in enumerate(writers)))
    for writer in writers:
        writer.enough.set()
        writer.join(SECONDS)
        assert not writer.wrong
    mirror.in_thread(mirror.device.suspend).ends()
    mirror.data[: 48 * 4096] = b"".join(b"".join(writer.content) for writer in writers)
    assert legs(mirror, "a", "b") == [bytes(mirror.data)] * 2
