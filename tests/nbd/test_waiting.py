# SPDX-License-Identifier: Apache-2.0
"""Who waits, and who does not: whatever a request waits for, its connection goes on."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from dmtool.api import Args, Defer, Delay, Extent, Io, Remap, Target
from dmtool.client.nbd import connect
from dmtool.export.nbd import NbdServer
from dmtool.export.nbd import protocol as p
from tests.nbd.conftest import Wire
from tests.nbd.holding import MIB, SECONDS, Holding, register


def test_first_of_all_that_waits_holds_up_nobody(served: Any, structured: bool) -> None:
    """Whatever it is, and whatever it waits for: a function, a lock, a device below."""
    gate = threading.Event()
    arrived = threading.Semaphore(0)

    def map(ti: Target[Extent], io: Io) -> Defer | Remap:
        to = Remap(ti.context.device, ti.context.start + io.sector - ti.begin)

        def wait() -> Remap:
            arrived.release()
            assert gate.wait(SECONDS)
            return to

        return to if io.sector >= 4096 else Defer(lambda: Delay(0.0, Defer(wait)))

    register("slow", ctr=lambda ti, args: args.extent(), map=map)
    data = served.image("a.img", 4 * MIB, seed=1)
    for command, offset, length in (
        (p.CMD_READ, 0, 512),
        (p.CMD_READ, 7, 100),
        (p.CMD_READ, 512, MIB),
        (p.CMD_WRITE, 0, 512),
        (p.CMD_WRITE, 7, 100),
        (p.CMD_WRITE, 512, MIB),
    ):
        gate.clear()
        served.table("0 8192 slow a.img 0")
        wire = served.wire(structured=structured)
        new = os.urandom(length) if command == p.CMD_WRITE else b""
        cookie = wire.send(command, offset, length, new)
        assert arrived.acquire(timeout=SECONDS)
        for _ in range(2):
            assert wire.ask(p.CMD_READ, 3 * MIB, 512).data == data[3 * MIB : 3 * MIB + 512]
            assert wire.ask(p.CMD_WRITE, 3 * MIB - 512, data=bytes(512)).error == 0
        gate.set()
        answered, reply = wire.reply()
        assert (answered, reply.error) == (cookie, 0)
        if new:
            data[offset : offset + length] = new
        else:
            assert reply.data == data[offset : offset + length]
        assert wire.ask(p.CMD_READ, 0, 2 * MIB).data == data[: 2 * MIB]


@pytest.mark.parametrize("kind", ["mirror", "mapped"])
def test_suspended_device_below_what_is_not_linear(
    served: Any, structured: bool, kind: str
) -> None:
    """A leg of a mirror, and what a map leads to: the connection goes on."""
    register(
        "mapped",
        ctr=lambda ti, args: args.extent(),
        map=lambda ti, io: Remap(ti.context.device, ti.context.start + io.sector - ti.begin),
    )
    data = served.image("a.img", 4 * MIB, seed=1)
    (served.folder / "b.img").write_bytes(data)
    low = served.lower("low", "0 4096 linear a.img 0")
    served.lower("other", "0 4096 linear b.img 0")
    upper = {
        "mirror": "mirror core 2 1024 nosync 2 /dev/mapper/other 0 /dev/mapper/low 0",
        "mapped": "mapped /dev/mapper/low 0",
    }[kind]
    served.table(f"0 4096 {upper}\n4096 4096 linear a.img 4096")
    for length in (512, 100_000):
        wire = served.wire(structured=structured)
        low.suspend(noflush=True)
        new = os.urandom(length)
        cookie = wire.send(p.CMD_WRITE, 0, data=new)
        for _ in range(3):
            assert wire.ask(p.CMD_READ, 3 * MIB, 512).data == data[3 * MIB : 3 * MIB + 512]
        low.resume()
        answered, reply = wire.reply()
        assert (answered, reply.error) == (cookie, 0)
        data[:length] = new
        assert served.device.read(0, 2 * MIB) == data[: 2 * MIB]
        for name in ("a.img", "b.img") if kind == "mirror" else ("a.img",):
            assert (served.folder / name).read_bytes()[:length] == new


def test_lower_device_has_it_done_again(served: Any, structured: bool) -> None:
    """The upper one knows nothing of it; its suspend waits."""
    lower = Holding("lower")
    a = served.image("a.img", 4 * MIB, seed=1)
    b = served.image("b.img", 4 * MIB, seed=2)
    served.lower("low", "0 8192 lower a.img 0")
    served.table("0 4096 linear /dev/mapper/low 0\n4096 4096 linear a.img 4096")
    low = served.devices["low"]
    wire = served.wire(structured=structured)
    cookies = {wire.send(p.CMD_WRITE, i * 4096, data=bytes([i]) * 4096) for i in range(10)}
    lower.wait(10)
    assert wire.ask(p.CMD_READ, 3 * MIB, 512).data == a[3 * MIB : 3 * MIB + 512]
    suspend = served.in_thread(served.device.suspend)
    served.in_thread(lambda: low.suspend(noflush=True)).ends()
    assert suspend.runs
    served.lower("low", "0 8192 linear b.img 0")
    suspend.ends()
    assert set(wire.replies(10)) == cookies
    served.device.resume()
    for i in range(10):
        b[i * 4096 : (i + 1) * 4096] = bytes([i]) * 4096
    assert (served.folder / "b.img").read_bytes() == b


@pytest.mark.parametrize("declared", [True, False])
def test_who_says_that_it_waits_is_asked_once(served: Any, declared: bool) -> None:
    asked: list[str] = []

    def ctr(ti: Target[Extent], args: Args) -> Extent:
        ti.blocks = declared
        return args.extent()

    def map(ti: Target[Extent], io: Io) -> Defer:
        asked.append(threading.current_thread().name)
        to = Remap(ti.context.device, ti.context.start + io.sector - ti.begin)
        return Defer(lambda: to)

    register("declaring", ctr=ctr, map=map)
    data = served.image("a.img", MIB, seed=1)
    served.table("0 2048 declaring a.img 0")
    wire = served.wire()
    for _ in range(2):
        assert wire.ask(p.CMD_READ, 0, 512).data == data[:512]
    assert asked == [*(["nbd"] * (not declared)), "nbd-waiter", "nbd-waiter"]


@pytest.mark.parametrize("noflush", [True, False])
def test_more_held_than_workers(
    served: Any, monkeypatch: pytest.MonkeyPatch, noflush: bool
) -> None:
    """The device is suspended all the same, and no other one waits."""
    monkeypatch.setattr("dmtool.export.nbd.server._WAITERS_MOST", 2)
    holding = Holding()
    served.image("a.img", MIB)
    held = served.lower("held", "0 2048 holding a.img 0")
    served.lower("free", "0 2048 linear a.img 0")
    path = served.folder / "more.sock"
    with NbdServer(served.devices.get, list) as server:
        server.listen_unix(path)
        server.start()
        with connect(path, "held") as nbd, connect(path, "free") as free:
            wire = Wire(nbd)
            for at in range(8):
                wire.send(p.CMD_WRITE, at * 512, data=bytes(512))
            holding.wait(2)
            free.pwrite(b"free", 0, fua=True)
            free.flush()
            if noflush:
                # again and again, though those that wait for resume are more than the workers
                for _ in range(2):
                    served.in_thread(lambda: held.suspend(noflush=True)).ends()
                    held.resume()
                    holding.wait(2)
                served.in_thread(lambda: held.suspend(noflush=True)).ends()
                served.lower("held", "0 2048 linear a.img 0")
            else:
                served.in_thread(held.suspend).ends()
                held.resume()
            error = 0 if noflush else p.EIO
            assert [reply.error for reply in wire.replies(8).values()] == [error] * 8
