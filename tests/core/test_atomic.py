# SPDX-License-Identifier: Apache-2.0
"""A core that is killed in the middle of a command finds the state before it, or after it.

What a killed process leaves is what it has committed; so the store is read after each commit of
a command, by a connection of its own.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.core.process import Core
from dmtool.core.state import State
from dmtool.device import MappedDevice
from dmtool.directory import Directory

if TYPE_CHECKING:
    from tests.core.conftest import Client

Call = Callable[..., Any]
A = {"name": "a"}


def stored(directory: Directory) -> list[tuple[Any, ...]]:
    """What the next core would find: a row for each device, with its tables' lines."""
    lines = "(SELECT group_concat(text, '') FROM table_text t WHERE t.id = d.{0})"
    with sqlite3.connect(directory.state) as db:
        found = db.execute(
            f"SELECT minor, name, uuid, {lines.format('live')}, {lines.format('inactive')},"
            " suspended, event_nr, read_ahead, deferred_remove FROM devices d ORDER BY minor"
        ).fetchall()
    db.close()
    return found


@pytest.fixture
def commits(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[Any, ...]]]:
    """What was stored after each commit."""
    seen: list[list[tuple[Any, ...]]] = []

    def watched(do: Call) -> Call:
        def committed(*args: Any, **more: Any) -> Any:
            result = do(*args, **more)
            seen.append(stored(directory))
            return result

        return committed

    for method in (State.store, State.save, State.save_events, State.delete):
        monkeypatch.setattr(State, method.__name__, watched(method))
    return seen


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("create", {"name": "n", "uuid": "N", "table": "0 8 zero\n8 8 error"}),
        ("load", {"table": "0 8 zero\n8 8 error"}),
        ("clear", {}),
        ("suspend", {}),
        ("resume", {"read_ahead": 7}),
        ("resume", {"noflush": True, "read_ahead": 7}),
        ("rename", {"new_name": "n"}),
        ("set_uuid", {"uuid": "N"}),
        ("wipe", {}),
        ("remove", {}),
        ("remove", {"force": True}),
        ("remove", {"force": True, "device": {"name": "low"}}),
        ("remove", {"deferred": True, "device": {"name": "low"}}),
    ],
)
def test_all_or_nothing(
    call: Call,
    client: Client,
    directory: Directory,
    commits: list[list[tuple[Any, ...]]],
    method: str,
    params: dict[str, Any],
) -> None:
    call("create", name="low", table="0 8 error\n8 64 zero")
    call("create", name="a", table="0 64 linear 1000:0 8")
    call("load", device=A, table="0 64 zero")
    before = stored(directory)
    commits.clear()
    client.send(method, **({} if method == "create" else {"device": A}) | params)
    client.receive()  # a low that is open refuses to go, but not to be wiped first
    after = stored(directory)
    assert after != before
    assert [state for state in commits if state not in (before, after)] == []


def test_a_name_comes_with_its_event(call: Call, directory: Directory) -> None:
    call("create", name="a", table="0 8 zero")
    call("rename", device=A, new_name="b")
    call("set_uuid", device={"name": "b"}, uuid="U")
    ((_, name, uuid, *_, event_nr, _, _),) = stored(directory)
    assert (name, uuid, event_nr) == (b"b", b"U", 2)


def test_what_cannot_be_stored_is_stored_with_the_next_change(
    call: Call, core: Core, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", name="a", table="0 8 zero")
    with monkeypatch.context() as patched:
        patched.setattr(core.devices.state, "save", _full)
        with pytest.raises(Exception, match="full"):
            call("wipe", device=A)
    # I/O goes to the new table: there is no way back
    assert call("table", device=A)["targets"][0]["type"] == "error"
    assert call("load", device=A, table="0 24 zero")["inactive"]
    ((_, _, _, live, inactive, *_),) = stored(directory)
    assert (live, inactive) == ("0 8 error \n", "0 24 zero \n")


def test_a_resume_that_cannot_be_stored_is_none(
    call: Call, core: Core, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte may reach a table that a crash would take back."""
    call("create", name="a", table="0 8 zero")
    call("load", device=A, table="0 16 zero")
    with monkeypatch.context() as patched:
        patched.setattr(core.devices.state, "save", _full)
        with pytest.raises(Exception, match="full"):
            call("resume", device=A)
    info = call("info", device=A)
    assert (info["size"], info["inactive"], info["suspended"]) == (8, True, False)
    ((_, _, _, live, inactive, *_),) = stored(directory)
    assert (live, inactive) == ("0 8 zero \n", "0 16 zero \n")
    assert call("resume", device=A)["size"] == 16


def test_a_table_is_stored_before_io_reaches_it(
    call: Call, core: Core, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", name="a", table="0 8 zero")
    call("load", device=A, table="0 16 zero")
    found: list[Any] = []
    reopen = MappedDevice._reopen

    def reopened(device: MappedDevice) -> None:
        found.append(stored(directory)[0][3:6])
        reopen(device)

    monkeypatch.setattr(MappedDevice, "_reopen", reopened)
    call("resume", device=A)
    assert found == [("0 16 zero \n", None, 0)]


@pytest.mark.parametrize("noflush", [False, True])
def test_a_resume_that_something_came_before_is_none(
    call: Call, refused: Callable[..., Any], noflush: bool
) -> None:
    call("create", name="a", table="0 8 zero")
    call("set_uuid", device=A, uuid="U")
    call("load", device=A, table="0 16 zero")
    data = refused("resume", device=A, event_nr=0, noflush=noflush).data
    assert (data["errno"], data["reason"]) == (errno.ESTALE, "event 1 came after 0")
    info = call("info", device=A)
    assert (info["size"], info["inactive"], info["suspended"]) == (8, True, False)
    assert call("resume", device=A, event_nr=1, durable=True)["size"] == 16


def test_a_suspend_that_cannot_be_stored_is_none(
    call: Call, core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", name="a", table="0 8 zero")
    with monkeypatch.context() as patched:
        patched.setattr(core.devices.state, "save", _full)
        with pytest.raises(Exception, match="full"):
            call("suspend", device=A)
    assert not call("info", device=A)["suspended"]


def _full(*_: object, **__: object) -> None:
    from dmtool.errors import CoreError

    raise CoreError("the disk is full")
