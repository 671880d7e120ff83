# SPDX-License-Identifier: Apache-2.0
"""The state store by itself."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dmtool.core import state as module
from dmtool.core.state import Definition, State
from dmtool.errors import CoreError


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


@pytest.fixture
def state(path: str) -> Iterator[State]:
    state = State(path)
    yield state
    state.close()


def again(state: State, path: str) -> list[Definition]:
    """What another process would find, without the first one closing anything."""
    with closing(State(path)) as other:
        return other.devices()


def test_a_device_is_found_as_it_was_saved(state: State, path: str) -> None:
    live = state.store(3, ["0 8 zero \n"], readonly=True, lower=frozenset({1, 2}))
    inactive = state.store(3, ["0 8 error \n"], readonly=False, lower=frozenset())
    device = Definition(
        minor=3,
        name="n\udcff\n",
        uuid="ü",
        live=live,
        inactive=inactive,
        suspended=True,
        event_nr=7,
        read_ahead=0,
        deferred_remove=True,
        mode=0o640,
        uid=1,
        gid=2,
    )
    state.save(device)
    assert again(state, path) == [device]
    assert state.text(live) == "0 8 zero \n"


def test_text_of_any_size(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 100)
    lines = [f"{n} 1 linear /\udce4 {n}\n" for n in range(1000)]
    table = state.store(0, iter(lines), readonly=False, lower=frozenset())
    assert state.text(table) == "".join(lines)
    empty = state.store(1, [], readonly=False, lower=frozenset())
    assert state.text(empty) == ""


def test_tables_that_nobody_names_are_dropped(state: State, path: str) -> None:
    first = state.store(0, ["1"], readonly=False, lower=frozenset())
    device = Definition(minor=0, name="a", live=first)
    state.save(device)
    second = state.store(0, ["2"], readonly=False, lower=frozenset())
    other = state.store(1, ["3"], readonly=False, lower=frozenset())
    state.save(Definition(minor=1, name="b", live=other))
    state.save(replace(device, live=second))
    assert [state.text(t) for t in (first, second, other)] == ["", "2", "3"]
    state.delete(0)
    assert [state.text(t) for t in (second, other)] == ["", "3"]
    # stored, and then the core was killed
    lost = state.store(0, ["4"], readonly=False, lower=frozenset())
    again(state, path)
    assert [state.text(t) for t in (lost, other)] == ["", "3"]


def test_event_numbers_only_rise(state: State, path: str) -> None:
    device = Definition(minor=0, name="a", event_nr=3)
    state.save(device)
    state.save_events({0: 5, 9: 1})
    state.save(replace(device, event_nr=4, suspended=True))
    state.save_events({0: 2})
    assert again(state, path) == [replace(device, event_nr=5, suspended=True)]


def test_names_can_change_places(state: State, path: str) -> None:
    a, b = Definition(minor=0, name="a"), Definition(minor=1, name="b")
    for device in (a, b, replace(a, name="c"), replace(b, name="a"), replace(a, name="b")):
        state.save(device)
    assert [d.name for d in again(state, path)] == ["b", "a"]


def test_a_name_is_never_stored_twice(state: State, path: str) -> None:
    state.save(Definition(minor=0, name="a"))
    with pytest.raises(CoreError):
        state.save(Definition(minor=1, name="a"))
    assert [d.minor for d in again(state, path)] == [0]


def test_a_store_of_a_newer_dmtool_is_left_alone(state: State, path: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(CoreError, match="newer dmtool") as caught:
        State(path)
    assert caught.value.hint is not None


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(CoreError, match="not a database") as caught:
        State(str(path))
    assert "move" in (caught.value.hint or "")
    assert path.read_bytes().startswith(b"no database")


def test_a_full_disk_is_told_and_changes_nothing(state: State, path: str) -> None:
    device = Definition(minor=0, name="a")
    state.save(device)
    with closing(sqlite3.connect(path)) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    state._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(CoreError) as caught:
        state.store(0, ["x" * (1 << 20)], readonly=False, lower=frozenset())
    assert caught.value.errno == errno.ENOSPC
    state._db.execute("PRAGMA max_page_count = 1000000")
    state.save(replace(device, suspended=True))
    assert again(state, path) == [replace(device, suspended=True)]


def test_the_room_of_large_tables_is_given_back(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM_MOST", 1 << 20)
    with closing(State(path)) as state:
        live = state.store(1, ["0 8 zero \n"], readonly=False, lower=frozenset())
        kept = Definition(minor=1, name="kept", live=live)
        state.save(kept)
        large = state.store(2, ["x" * 4096] * 1024, readonly=False, lower=frozenset())
        state.save(Definition(minor=2, name="large", live=large))
        state.delete(2)
    assert Path(path).stat().st_size < 1 << 20
    with closing(State(path)) as state:
        assert state.devices() == [kept]
        assert state.text(live) == "0 8 zero \n"
