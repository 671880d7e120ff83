# SPDX-License-Identifier: Apache-2.0
"""Suspended devices come back suspended: nothing of theirs runs in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.api import Args, Extent, Target, Zero, hookimpl
from dmtool.core.process import Core
from dmtool.core.tables import Tables
from dmtool.targets.registry import TARGETS

if TYPE_CHECKING:
    from tests.core.conftest import Client, Process

Connect = Callable[[], "Client"]
Restart = Callable[[], "Client"]
A = {"name": "a"}


@pytest.fixture
def restart(start: Callable[[], Core], connect: Connect) -> Restart:
    """End the core, if there is one; a client of the next."""
    cores: list[Core] = []

    def restart() -> Client:
        if cores:
            cores.pop().close()
        cores.append(start())
        return connect()

    return restart


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What targets of type ``told`` are told."""
    words: list[str] = []
    module = ModuleType("told")

    @hookimpl
    def ctr(ti: Target[Any], args: Args) -> None:
        words.append("ctr")

    @hookimpl
    def plan(ti: Target[Any]) -> Zero:
        return Zero()

    def teller(name: str) -> Any:
        def hook(ti: Target[Any]) -> None:
            words.append(name)

        hook.__name__ = name
        return hookimpl(hook)

    hooks = [teller(name) for name in ("presuspend", "postsuspend", "preresume", "resume", "dtr")]
    for function in (ctr, plan, *hooks):
        setattr(module, function.__name__, function)
    TARGETS.register(module, "told", "tests 1")
    yield words
    words.clear()


def test_no_target_of_a_suspended_device_is_resumed(restart: Restart, told: list[str]) -> None:
    client = restart()
    client.call("create", name="a", table="0 8 told")
    client.call("load", device=A, table="0 8 zero\n8 8 error")
    client.call("suspend", device=A)
    told.clear()
    client = restart()
    assert told == ["dtr", "ctr"]
    info = client.call("info", device=A)
    assert (info["suspended"], info["live"], info["inactive"]) == (True, True, True)
    assert info["size"] == 8
    client.call("clear", device=A)
    client.call("resume", device=A)
    assert told[2:] == ["preresume", "resume"]
    client.call("suspend", device=A)
    assert told[4:] == ["presuspend", "postsuspend"]
    client = restart()
    client.call("remove", device=A)
    assert told[6:] == ["dtr", "ctr", "dtr"]


def test_a_table_that_reads_a_suspended_device_as_it_is_made(restart: Restart) -> None:
    """As a mirror does whose log is on it."""
    module = ModuleType("reading")

    @hookimpl
    def ctr(ti: Target[Any], args: Args) -> Extent:
        extent = args.extent()
        extent.device.pread(512, 0)
        return extent

    @hookimpl
    def plan(ti: Target[Extent]) -> Extent:
        return ti.context

    for hook in (ctr, plan):
        setattr(module, hook.__name__, hook)
    TARGETS.register(module, "reading", "tests 1")
    client = restart()
    client.call("create", name="low", table="0 64 zero")
    client.call("create", name="a", table="0 8 reading 1000:0 0")
    client.call("load", device=A, table="0 16 reading 1000:0 0")
    client.call("create", name="b", table=None)
    client.call("load", device={"name": "b"}, table="0 8 reading 1000:1 0")
    for name in ("b", "a", "low"):
        client.call("suspend", device={"name": name})
    before = client.call("list")
    assert restart().call("list") == before


def test_a_bug_keeps_one_device_away_and_no_other(
    restart: Restart, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = restart()
    client.call("create", name="a", table="0 8 zero")
    client.call("load", device=A, table="0 16 zero")
    client.call("create", name="b", table="0 24 zero")
    put = Tables.put

    def broken(self: Tables, entry: Any, stored: Any) -> None:
        if entry.device.name == "a":
            raise ZeroDivisionError("oh")
        put(self, entry, stored)

    with monkeypatch.context() as patched:
        patched.setattr(Tables, "put", broken)
        client = restart()
        a, b = client.call("list")
        assert (a["live"], a["inactive"], b["live"]) == (False, False, True)
        assert "ZeroDivisionError: oh" in a["error"]
        assert "Traceback" in caplog.text
    assert client.call("resume", device=A)["size"] == 16


def test_suspended_when_it_was_killed(
    spawn: Callable[..., Process], connect: Connect, image: Callable[..., str]
) -> None:
    process = spawn()
    assert process.report() == "ready"
    client = connect()
    path = image()
    client.call("create", name="low", table=f"0 64 linear {path} 0")
    client.call("create", name="a", table="0 32 linear 1000:0 0")
    client.call("load", device={"name": "low"}, table=f"0 64 linear {path} 64")
    client.call("load", device=A, table="0 32 linear 1000:0 32\n32 8 error", readonly=True)
    for name in ("a", "low"):
        client.call("suspend", device={"name": name})
    client.call("remove", device={"name": "low"}, deferred=True)
    client.call("rename", device=A, new_name="b")

    def seen(client: Client) -> list[Any]:
        devices = client.call("list")
        tables = [
            client.call("table", device={"minor": info["minor"]}, inactive=inactive)["targets"]
            for info in devices
            for inactive in (False, True)
        ]
        return [devices, tables]

    before = seen(client)
    process.popen.kill()
    process.wait()
    assert spawn().report() == "ready"
    client = connect()
    assert seen(client) == before
    for name in ("low", "b"):
        assert not client.call("resume", device={"name": name})["inactive"]
    assert client.call("info", device={"name": "b"})["event_nr"] == 1
    client.call("remove", device={"name": "b"})
    assert client.call("list") == []
