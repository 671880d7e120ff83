# SPDX-License-Identifier: Apache-2.0
"""Removals that come late, fail, or take for ever."""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.api import Args, Extent, Target, Zero, hookimpl
from dmtool.core.devices import Devices
from dmtool.core.entry import Entry, Reference
from dmtool.core.process import Core
from dmtool.device import MappedDevice
from dmtool.targets.registry import TARGETS

if TYPE_CHECKING:
    from tests.core.conftest import Client, Refused

Call = Callable[..., Any]
Connect = Callable[[], "Client"]
A = {"name": "a"}


@hookimpl
def ctr(ti: Target[Any], args: Args) -> None: ...


@hookimpl
def plan(ti: Target[Any]) -> Zero:
    return Zero()


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """Targets of type ``slow`` can be suspended, and so removed, when this is set."""
    event = threading.Event()
    module = ModuleType("slow")

    @hookimpl
    def postsuspend(ti: Target[Any]) -> None:
        event.wait()

    for hook in (ctr, plan, postsuspend):
        setattr(module, hook.__name__, hook)
    TARGETS.register(module, "slow", "tests 1")
    yield event
    event.set()


def device(core: Core, name: str) -> MappedDevice:
    return next(e.device for e in core.devices.all() if e.device.name == name)


def test_a_removal_that_waits_holds_up_nobody_else(
    call: Call, core: Core, let_go: threading.Event
) -> None:
    call("create", name="a", table="0 8 slow")
    going = device(core, "a")
    going.open()
    call("remove", device=A, deferred=True)
    watch = going.watch()
    going.close()  # as an NBD client does: no command waits for what follows
    assert select.select([going.closed_fd], [], [], 30)[0]
    for n in range(3):
        call("create", name=f"b{n}", table="0 8 zero")
        call("rename", device={"name": f"b{n}"}, new_name=f"c{n}")
        call("remove", device={"name": f"c{n}"})
    assert call("list") == []
    assert select.select([watch], [], [], 0)[0] == []
    let_go.set()
    assert select.select([watch], [], [], 30)[0]
    going.unwatch(watch)


def test_only_the_command_that_closed_it_waits(
    client: Client, connect: Connect, core: Core, let_go: threading.Event
) -> None:
    client.call("create", name="low", table="0 8 slow")
    client.call("create", name="top", table="0 8 linear 1000:0 0")
    low = device(core, "low")
    client.call("remove", device={"name": "low"}, deferred=True)
    removing = connect()
    removing.send("remove", device={"name": "top"})
    assert select.select([low.closed_fd], [], [], 30)[0]
    assert client.call("list") == []
    let_go.set()
    assert removing.result()["name"] == "top"
    assert client.call("create", name="low")["minor"] == 0


def test_a_device_that_is_closed_while_it_is_marked(
    call: Call, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", name="a", table="0 8 zero")
    going = device(core, "a")
    going.open()
    save = Devices.save

    def closed_before(self: Devices, entry: Entry, **changes: Any) -> None:
        if "deferred_remove" in changes:
            going.close()
        save(self, entry, **changes)

    monkeypatch.setattr(Devices, "save", closed_before)
    call("remove", device=A, deferred=True)
    assert call("list") == []


def test_a_busy_device_goes_when_its_command_is_done(
    client: Client, connect: Connect, core: Core
) -> None:
    client.call("create", name="a", table="0 8 zero")
    going = device(core, "a")
    going.open()
    client.call("remove", device=A, deferred=True)
    going.begin()
    suspending = connect()
    suspending.send("suspend", device=A)
    assert select.select([going.closed_fd], [], [], 30)[0]
    watch = going.watch()
    going.close()
    assert [info["name"] for info in client.call("list")] == ["a"]
    going.end()
    suspending.receive()
    assert select.select([watch], [], [], 30)[0]
    going.unwatch(watch)
    assert client.call("list") == []


def test_a_target_that_fails_to_end_is_gone_all_the_same(
    call: Call, refused: Callable[..., Refused], image: Call, caplog: pytest.LogCaptureFixture
) -> None:
    module = ModuleType("clinging")

    @hookimpl
    def ctr(ti: Target[Any], args: Args) -> Extent:
        return args.extent()

    @hookimpl
    def plan(ti: Target[Extent]) -> Extent:
        return ti.context

    @hookimpl
    def dtr(ti: Target[Any]) -> None:
        raise ZeroDivisionError("no way out")

    for hook in (ctr, plan, dtr):
        setattr(module, hook.__name__, hook)
    TARGETS.register(module, "clinging", "tests 1")
    path = image()
    table = f"0 8 clinging {path} 0"
    before = _opened(path)
    with caplog.at_level(logging.CRITICAL, "dmtool.targets.registry"):
        call("create", name="a", table=table)
        call("load", device=A, table=table)
        call("load", device=A, table=table)
        call("clear", device=A)
        call("load", device=A, table=table)
        call("resume", device=A)
        call("load", device=A, table=table)
        call("remove", device=A)
        assert refused("create", name="a", table=f"{table}\n8 8 nosuch").message
    assert (_opened(path), call("list")) == (before, [])
    assert call("create", name="a")["minor"] == 0


def _opened(path: str) -> int:
    fds = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum(os.path.realpath(fd) == path for fd in fds)


def test_remove_all_leaves_a_device_that_is_opened_meanwhile(
    call: Call, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", name="a", table="0 8 zero")
    call("create", name="b", table="0 8 zero")
    opened = device(core, "a")
    retire = opened.retire

    def opened_before() -> int:
        opened.open()
        monkeypatch.setattr(opened, "retire", retire)
        return retire()

    monkeypatch.setattr(opened, "retire", opened_before)
    assert call("remove_all") == {"left": 1}
    opened.close()


def test_a_name_that_has_gone_to_another_while_a_command_waited(
    client: Client, connect: Connect, core: Core
) -> None:
    """Who found the device under its old name must not work on it under its new one."""
    client.call("create", name="a", table="0 8 zero")
    busy = device(core, "a")
    busy.begin()
    suspending, renaming, removing = connect(), connect(), connect()
    suspending.send("suspend", device=A)
    assert select.select([busy.closed_fd], [], [], 30)[0]
    found = threading.Semaphore(0)
    find = core.devices.find

    def finding(reference: Reference) -> Entry:
        entry = find(reference)
        found.release()
        return entry

    core.devices.find = finding  # type: ignore[method-assign]
    renaming.send("rename", device=A, new_name="b")
    removing.send("remove", device=A)
    found.acquire()
    found.acquire()
    busy.end()
    assert suspending.result()["suspended"]
    answers = [renaming.receive(), removing.receive()]
    (refused,) = (answer["error"] for answer in answers if "error" in answer)
    assert refused["data"]["errno"] == errno.ENXIO
    left = [info["name"] for info in client.call("list")]
    assert left == (["b"] if "error" in answers[1] else [])
