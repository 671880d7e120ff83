# SPDX-License-Identifier: Apache-2.0
"""What a core finds in its directory when it starts."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.core.process import Core
from dmtool.core.state import Definition, State
from dmtool.directory import Directory
from dmtool.errors import CoreError

if TYPE_CHECKING:
    from tests.core.conftest import Client

Start = Callable[[], Core]
Connect = Callable[[], "Client"]


@pytest.fixture
def restart(start: Start, connect: Connect) -> Callable[[], Client]:
    """End the core, if there is one; a client of the next."""
    cores: list[Core] = []

    def restart() -> Client:
        if cores:
            cores.pop().close()
        cores.append(start())
        return connect()

    return restart


def seen(client: Client) -> list[Any]:
    """All that can be seen of all devices."""
    return [
        (
            info,
            client.call("table", device={"minor": info["minor"]})["targets"],
            client.call("table", device={"minor": info["minor"]}, inactive=True)["targets"],
            client.call("deps", device={"minor": info["minor"]})["deps"],
        )
        for info in client.call("list")
    ]


def test_everything_is_back(restart: Callable[[], Client], image: Callable[..., str]) -> None:
    client = restart()
    one, two = image("o ne.img"), image("two.img")
    escaped = one.replace(" ", "\\ ")
    call = client.call
    call("create", name="top", minor=0, table=None, uuid="T")
    call("create", name="l\\x20ow", minor=9, uuid="U", table=f"0 64 linear {escaped} 0\n64 8 zero")
    call("load", device={"name": "top"}, table="0 8 linear 1000:9 8")
    call("resume", device={"name": "top"})
    call("load", device={"name": "top"}, table=f"0 16 linear {two} 0\n16 8 error", readonly=True)
    call("create", name="ro", readonly=True, table=f"0 8 striped 1 8 {two} 0", read_ahead=5)
    call("create", name="sus", table="0 8 zero", mode=0o600, uid=1, gid=2)
    call("suspend", device={"name": "sus"})
    call("rename", device={"name": "sus"}, new_name="suspended")
    call("create", name="bare")
    call("suspend", device={"name": "bare"})
    call("remove", device={"minor": 9}, deferred=True)
    before = seen(client)
    assert [info["name"] for info, *_ in before] == ["bare", "l\\x20ow", "ro", "suspended", "top"]
    for _ in range(2):
        client = restart()
        assert seen(client) == before
    client.call("resume", device={"name": "top"})
    # nothing is on top of it any more, and it was to go
    assert [info["name"] for info in client.call("list")] == ["bare", "ro", "suspended", "top"]
    after = seen(client)
    client = restart()
    assert seen(client) == after


def test_data_is_where_it_was(restart: Callable[[], Client], start: Start) -> None:
    client = restart()
    client.call("create", name="a", table="0 8 zero")
    client.call("remove", device={"name": "a"})
    client = restart()
    assert client.call("list") == []


def test_a_lower_device_with_a_higher_minor_is_made_first(
    restart: Callable[[], Client],
) -> None:
    client = restart()
    for n in range(5):
        client.call("create", name=f"d{n}", minor=4 - n, table="0 8 zero")
    for n in range(1, 5):
        client.call("load", device={"name": f"d{n}"}, table=f"0 8 linear 1000:{5 - n} 0")
        client.call("resume", device={"name": f"d{n}"})
    before = seen(client)
    assert [info["open_count"] for info, *_ in before] == [1, 1, 1, 1, 0]
    assert seen(restart()) == before


def test_a_device_whose_image_is_gone(
    restart: Callable[[], Client], image: Callable[..., str]
) -> None:
    client = restart()
    path = image("gone.img")
    client.call("create", name="low", uuid="U", table=f"0 64 linear {path} 0")
    client.call("create", name="top", table="0 64 linear 1000:0 0")
    client.call("create", name="other", table="0 8 zero")
    client.call("load", device={"name": "other"}, table=f"0 64 linear {path} 64")
    client.call("suspend", device={"name": "other"})
    before = seen(client)
    os.rename(path, path + ".away")
    for _ in range(2):
        client = restart()
        low, other, top = client.call("list")
        assert (low["uuid"], low["minor"]) == ("U", 0)
        assert (low["live"], top["live"], other["live"]) == (False, False, True)
        assert low["error"] == (f"linear: Device lookup failed: {path}: No such file or directory")
        assert top["error"] == (
            "linear: Device lookup failed: 1000:0: mapped device low has no live table"
        )
        assert (other["error"], other["inactive"], other["suspended"]) == (None, False, True)
        # other things are done to it meanwhile
        client.call("suspend", device={"name": "low"})
    os.rename(path + ".away", path)
    client = restart()
    client.call("resume", device={"name": "low"})
    assert seen(client) == before


def test_resume_tries_a_table_again_that_could_not_be_made(
    restart: Callable[[], Client], image: Callable[..., str], refused_by: Callable[..., Any]
) -> None:
    client = restart()
    path = image("gone.img")
    client.call("create", name="low", table=f"0 64 linear {path} 0")
    client.call("create", name="top", table="0 64 linear 1000:0 0")
    client.call("load", device={"name": "top"}, table=f"0 64 linear {path} 64")
    before = seen(client)
    os.rename(path, path + ".away")
    client = restart()
    for name in ("low", "top"):
        data = refused_by(client, "resume", device={"name": name})
        assert (data["step"], data["errno"]) == ("resume", errno.ENOENT)
    os.rename(path + ".away", path)
    client.call("resume", device={"name": "low"})
    assert [info["error"] is None for info in client.call("list")] == [True, False]
    client.call("resume", device={"name": "top"})
    (low, top) = seen(client)
    assert low[0] == {**before[0][0], "open_count": 0}
    assert (top[0]["live"], top[0]["inactive"], top[0]["error"]) == (True, False, None)
    assert top[1] == before[1][2]


def test_another_table_takes_the_place_of_one_that_could_not_be_made(
    restart: Callable[[], Client], image: Callable[..., str]
) -> None:
    client = restart()
    path = image("gone.img")
    client.call("create", name="a", table=f"0 64 linear {path} 0")
    client.call("create", name="b", table=f"0 64 linear {path} 64")
    os.unlink(path)
    client = restart()
    client.call("load", device={"name": "a"}, table="0 8 zero")
    # until that is resumed the old definition counts
    assert client.call("info", device={"name": "a"})["error"]
    info = client.call("resume", device={"name": "a"})
    assert (info["error"], info["size"]) == (None, 8)
    client.call("remove", device={"name": "b"})
    client = restart()
    (info,) = client.call("list")
    assert (info["name"], info["error"], info["size"]) == ("a", None, 8)


def test_no_device_slips_below_a_table_that_waits_for_another(
    restart: Callable[[], Client], image: Callable[..., str]
) -> None:
    client = restart()
    path = image("gone.img")
    client.call("create", name="low", table=f"0 64 linear {path} 0")
    client.call("create", name="top", table="0 64 linear 1000:0 0")
    os.unlink(path)
    client = restart()
    client.call("remove", device={"name": "low"})
    assert client.call("create", name="new", table="0 64 zero")["minor"] == 2


def test_a_stored_loop_is_survived(directory: Directory, start: Start, connect: Connect) -> None:
    """No load makes one; a store that was tampered with must not hang the start."""
    state = State(directory.state)
    for minor, lower in ((0, 1), (1, 2), (2, 0), (3, 3), (4, 0)):
        line = f"0 8 linear 1000:{lower} 0\n"
        table = state.store(minor, [line], readonly=False, lower=frozenset({lower}))
        state.save(Definition(minor=minor, name=f"d{minor}", live=table))
    state.close()
    start()
    infos = connect().call("list")
    assert [info["live"] for info in infos] == [False] * 5
    assert all(info["error"] for info in infos)


def test_a_store_that_cannot_be_read_leaves_nothing_behind(directory: Directory) -> None:
    Path(directory.state).write_bytes(b"no database" * 1000)
    with pytest.raises(CoreError, match="not a database"):
        Core(directory).start()
    assert not os.path.exists(directory.control)
    os.unlink(directory.state)
    core = Core(directory)
    assert core.start()
    core.close()


def test_a_full_store_refuses_and_changes_nothing(
    restart: Callable[[], Client],
    start: Start,
    refused_by: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = restart()
    client.call("create", name="a", uuid="", table="0 8 zero")
    before = seen(client)

    def full(*_: Any, **__: Any) -> None:
        raise CoreError("disk full", errno=errno.ENOSPC)

    with monkeypatch.context() as patch:
        for name in ("save", "store", "delete", "save_events"):
            patch.setattr(State, name, full)
        a = {"name": "a"}
        for method, params in (
            ("create", {"name": "b", "uuid": "U", "table": "0 8 zero"}),
            ("create", {"name": "b"}),
            ("load", {"device": a, "table": "0 8 error"}),
            ("rename", {"device": a, "new_name": "b"}),
            ("set_uuid", {"device": a, "uuid": "U"}),
            ("remove", {"device": a}),
            ("remove", {"device": a, "force": True}),
            ("clear", {"device": a}),
        ):
            assert refused_by(client, method, **params)["errno"] == errno.ENOSPC
            assert seen(client) == before
    client.call("create", name="b", uuid="U", minor=1)
    client.call("rename", device={"name": "a"}, new_name="c")


@pytest.fixture
def refused_by() -> Callable[..., Any]:
    """``refused_by(client, method, **params)`` is the data of the error that it is answered."""

    def refused_by(client: Client, method: str, **params: Any) -> Any:
        client.send(method, **params)
        answer = client.receive()
        assert "error" in answer, answer
        return answer["error"]["data"]

    return refused_by
