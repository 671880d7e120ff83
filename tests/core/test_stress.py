# SPDX-License-Identifier: Apache-2.0
"""Many clients at once, on the same few names, with I/O: nobody waits for ever, nothing is left.

The order in which threads run differs each time; what each client asks does not. A hang ends in
pytest's time-out, which shows the stack of every thread.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.client import nbd
from dmtool.core.process import Core
from dmtool.directory import Directory

if TYPE_CHECKING:
    from tests.core.conftest import Client, Process

Connect = Callable[[], "Client"]
NAMES = ["a", "b", "c", "d"]
CLIENTS, COMMANDS, TRANSFERS = 6, 300, 300


class Chooser:
    """What one client asks, in an order that is the same each time."""

    def __init__(self, seed: int, image: str) -> None:
        self._random = Random(seed)
        self._image = image

    def name(self) -> str:
        return self._random.choice(NAMES)

    def command(self) -> tuple[str, dict[str, Any]]:
        choose = self._random.choice
        device = choose([{"name": self.name()}, {"name": self.name()}, {"minor": choose(range(4))}])
        commands: list[tuple[str, dict[str, Any]]] = [
            ("create", {"name": self.name(), "table": self._table()}),
            ("create", {"name": self.name(), "table": self._table(), "uuid": choose("UVW")}),
            ("load", {"device": device, "table": self._table()}),
            ("load", {"device": device, "table": self._table(), "readonly": True}),
            ("suspend", {"device": device}),
            ("suspend", {"device": device, "noflush": True}),
            ("resume", {"device": device}),
            ("resume", {"device": device, "noflush": True}),
            ("remove", {"device": device}),
            ("remove", {"device": device, "deferred": True}),
            ("remove", {"device": device, "force": True}),
            ("rename", {"device": device, "new_name": self.name()}),
            ("set_uuid", {"device": device, "uuid": choose("UVW")}),
            ("message", {"device": device, "sector": 0, "message": "@cancel_deferred_remove"}),
            ("wait", {"device": device, "event_nr": 1 << 32}),  # any other number will do
            ("table", {"device": device}),
            ("status", {"device": device}),
            ("deps", {"device": device}),
            ("clear", {"device": device}),
            ("wipe", {"device": device}),
            ("explain", {"device": device, "sector": 0, "count": 8}),
            ("list", {}),
            ("remove_all", {}),
        ]
        return choose(commands)

    def _table(self) -> str:
        return self._random.choice(
            [
                "",
                "0 64 zero",
                f"0 64 linear {self._image} 0",
                f"0 32 linear {self._image} 64\n32 32 error",
                f"0 64 linear /dev/mapper/{self.name()} 0",
                f"0 32 linear 1000:{self._random.randrange(4)} 0",
            ]
        )


def ask(client: Client, chooser: Chooser, failed: list[Any]) -> None:
    for _ in range(COMMANDS):
        method, params = chooser.command()
        client.send(method, **params)
        answer = client.receive()
        # a refusal is an answer, too; a bug, or the end of the connection, is none
        if answer is None or answer.get("error", {}).get("code", -32000) != -32000:
            failed.append((method, params, answer))


def transfer(directory: Directory, chooser: Chooser) -> None:
    for number in range(TRANSFERS):
        # refused, removed under our feet, too small, failing, read-only
        with suppress(OSError, nbd.NbdError), nbd.connect(directory.nbd, chooser.name()) as disk:
            if number % 3:
                disk.pread(1024, 15 * 512)
            else:
                disk.pwrite(b"x" * 1024, 512)


def resume(client: Client, minor: int, done: threading.Event) -> None:
    """What is suspended below holds up what is above, until some client takes care of it. One
    client a device: each may be held up by its own."""
    while not done.wait(0.005):
        client.send("info", device={"minor": minor})
        if client.receive().get("result", {}).get("suspended"):
            client.send("resume", device={"minor": minor})
            client.receive()


@pytest.mark.timeout(60)
def test_clients_at_once(
    core: Core, connect: Connect, directory: Directory, image: Callable[..., str]
) -> None:
    path = image(sectors=256)
    failed: list[Any] = []
    done = threading.Event()
    before = set(threading.enumerate())
    threads = [
        threading.Thread(target=ask, args=(connect(), Chooser(seed, path), failed))
        for seed in range(CLIENTS)
    ]
    threads += [
        threading.Thread(target=transfer, args=(directory, Chooser(seed, path)))
        for seed in (100, 101)
    ]
    resuming = [
        threading.Thread(target=resume, args=(connect(), minor, done))
        for minor in range(len(NAMES))
    ]
    for thread in (*threads, *resuming):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    for thread in resuming:
        thread.join()
    assert failed == []

    client = connect()
    for info in client.call("list"):
        client.call("resume", device={"minor": info["minor"]})
    # an NBD connection that has just ended closes its device in its own time
    while client.call("remove_all", deferred=True)["left"]:
        pass
    while core.devices.all():
        pass
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert names <= {"control-client", "nbd", "nbd-reader", "nbd-waiter"}


def used(process: Process) -> tuple[dict[str, int], int]:
    """Open descriptors, by what they are, and the number of threads."""
    proc = f"/proc/{process.popen.pid}"
    fds: dict[str, int] = {}
    for fd in os.listdir(f"{proc}/fd"):
        name = os.readlink(f"{proc}/fd/{fd}").partition("[")[0]
        fds[name] = fds.get(name, 0) + 1
    return fds, len(os.listdir(f"{proc}/task"))


def test_nothing_adds_up(
    spawn: Callable[..., Process],
    connect: Connect,
    directory: Directory,
    image: Callable[..., str],
) -> None:
    process = spawn()
    assert process.report() == "ready"
    client = connect()
    path = image()
    low, top = {"name": "low"}, {"name": "top"}

    def once() -> None:
        client.call("create", name="low", table=f"0 64 linear {path} 0")
        client.call("create", name="top", table="0 32 linear /dev/mapper/low 0\n32 8 error")
        client.call("suspend", device=top)
        client.call("load", device=top, table=f"0 64 linear {path} 8")
        client.call("resume", device=top)
        for bad in ("0 8 nosuch", "0 8", "0 999 linear 1000:0 0", f"0 8 zero\n8 999 linear {path}"):
            for method, more in (("load", {"device": top}), ("create", {"name": "x"})):
                client.send(method, table=bad, **more)
                assert "error" in client.receive()
        client.call("remove", device=top)
        client.call("remove", device=low, force=True)

    once()
    before = used(process)
    for _ in range(150):
        once()
    assert used(process) == before
    with sqlite3.connect(directory.state) as db:
        assert db.execute("SELECT count(*) FROM tables").fetchone() == (0,)
    db.close()
