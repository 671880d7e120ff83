# SPDX-License-Identifier: Apache-2.0
"""Mirrors that lose a leg under their clients: what they hold is lost by no suspend."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from dmtool.api import Mirrored
from dmtool.export.nbd import protocol as p
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
