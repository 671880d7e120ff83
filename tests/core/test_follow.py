# SPDX-License-Identifier: Apache-2.0
"""The method ``events``: what is told, to whom, and that who only listens keeps nobody alive."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.api import Args, Target, Zero, hookimpl
from dmtool.core import news
from dmtool.core.process import Core
from dmtool.targets.registry import TARGETS

if TYPE_CHECKING:
    from dmtool.directory import Directory
    from tests.core.conftest import Client, Process

A = {"name": "a"}


@hookimpl
def ctr(ti: Target[Any], args: Args) -> None:
    args.exactly(0)


@hookimpl
def plan(ti: Target[Any]) -> Zero:
    return Zero()


@hookimpl
def message(ti: Target[Any], argv: list[str]) -> None:
    ti.event(" ".join(argv))


@pytest.fixture
def talking() -> None:
    """A target type that raises events as it is told."""
    module = ModuleType("talking")
    module.ctr, module.plan, module.message = ctr, plan, message  # type: ignore[attr-defined]
    TARGETS.register(module, "talking", "tests 1")


class Following:
    """A connection that follows, and what it was told first."""

    def __init__(self, client: Client, **params: Any) -> None:
        self.client = client
        client.send("events", **params)
        self.first = self.next()

    def next(self) -> dict[str, Any]:
        line = self.client.receive()
        assert line["method"] == "event", line
        told: dict[str, Any] = line["params"]
        return told

    def kinds(self, count: int) -> list[tuple[str, str, int]]:
        events = [self.next() for _ in range(count)]
        return [(event["kind"], event["name"], event["event_nr"]) for event in events]


@pytest.mark.usefixtures("talking")
def test_all_that_happens(client: Client, connect: Callable[[], Client]) -> None:
    client.call("create", name="b", uuid="B", table="0 8 zero")
    following = Following(connect())
    (info,) = following.first["devices"]
    assert (following.first["kind"], info) == ("follow", client.call("info", device={"name": "b"}))
    client.call("create", name="a", table="0 8 zero\n8 8 talking")
    client.call("message", device=A, sector=9, message="so it is")
    client.call("suspend", device=A)
    client.call("suspend", device={"name": "b"})
    client.call("load", device=A, table="0 8 zero")
    client.call("clear", device=A)
    client.call("resume", device=A)
    client.call("set_uuid", device=A, uuid="U")
    client.call("rename", device=A, new_name="c")
    client.call("remove", device={"name": "c"})
    assert following.next() == {
        "kind": "create",
        "name": "a",
        "uuid": "",
        "major": 1000,
        "minor": 1,
        "event_nr": 0,
    }
    target = following.next()
    assert (target["kind"], target["event_nr"]) == ("target", 1)
    assert (target["type"], target["sector"], target["what"]) == ("talking", 8, "so it is")
    assert following.kinds(6) == [
        ("suspend", "a", 1),
        ("suspend", "b", 0),
        ("load", "a", 1),
        ("clear", "a", 1),
        ("resume", "a", 1),
        ("uuid", "a", 2),
    ]
    renamed = following.next()
    assert (renamed["kind"], renamed["name"], renamed["old_name"]) == ("rename", "c", "a")
    assert following.kinds(1) == [("remove", "c", 3)]


@pytest.mark.usefixtures("talking")
def test_one_device_until_it_is_removed(client: Client, connect: Callable[[], Client]) -> None:
    client.call("create", name="a", table="0 8 talking")
    client.call("create", name="b", table="0 8 talking")
    following = Following(connect(), device=A)
    assert [info["name"] for info in following.first["devices"]] == ["a"]
    client.call("message", device={"name": "b"}, sector=0, message="not for us")
    client.call("rename", device=A, new_name="c")
    client.call("remove", device={"name": "c"})
    assert following.kinds(2) == [("rename", "c", 1), ("remove", "c", 1)]
    assert following.client.result() == {}
    # the connection is as good as before
    assert following.client.call("version")["protocol"] == 1


def test_a_device_that_is_not_there(refused: Callable[..., Any]) -> None:
    assert refused("events", device=A).data["errno"] == errno.ENXIO


@pytest.mark.usefixtures("talking")
def test_none_is_lost_and_none_overtakes(client: Client, connect: Callable[[], Client]) -> None:
    """Of several that raise events at the same time; a device has each number once."""
    followers = [Following(connect()) for _ in range(3)]
    client.call("create", name="a", table="0 8 talking")

    def talk(mine: Client) -> None:
        for _ in range(200):
            mine.call("message", device=A, sector=0, message="x")

    talkers = [threading.Thread(target=talk, args=(connect(),)) for _ in range(4)]
    for talker in talkers:
        talker.start()
    for talker in talkers:
        talker.join()
    for follower in followers:
        assert [number for _, _, number in follower.kinds(801)] == list(range(801))


@pytest.mark.usefixtures("talking")
def test_one_who_does_not_read_is_told_so(
    client: Client, connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "MOST", 100)
    client.call("create", name="a", table="0 8 talking")
    following = Following(connect())
    # what the socket holds comes besides
    for _ in range(200):
        client.call("message", device=A, sector=0, message="x" * 100_000)
    count = 0
    while "method" in (line := following.client.receive()):
        count += 1
        assert line["params"]["event_nr"] == count
    assert count >= 100
    assert line["error"]["data"]["errno"] == errno.ENOBUFS


def test_who_left_is_forgotten(client: Client, connect: Callable[[], Client], core: Core) -> None:
    following = Following(connect())
    (thread,) = [t for t in threading.enumerate() if t.name == "control-client"][1:]
    following.client.close()
    thread.join()
    assert client.call("daemon_status")["connections"] == 1
    client.call("create", name="a", table="0 8 zero")
    assert core.devices.news._followers == []


def test_the_core_ends_at_once(connect: Callable[[], Client], core: Core) -> None:
    """Though one follows, and one of them does not read."""
    following = Following(connect())
    Following(connect())
    begun = time.monotonic()
    core.close()
    assert time.monotonic() - begun < 5  # and not LAST_REQUESTS
    answer = following.client.receive()
    assert answer is None or answer["error"]["code"] == -32001


def test_a_core_that_is_only_followed_is_idle(
    spawn: Callable[..., Process], connect: Callable[[], Client], directory: Directory
) -> None:
    process = spawn("--idle", "1.5")
    assert process.report() == "ready"
    following = Following(connect())
    with_device = connect()
    with_device.call("create", name="a", table="0 8 zero")
    with_device.close()
    assert following.kinds(1) == [("create", "a", 0)]
    removing = connect()
    removing.call("remove", device=A)
    removing.close()
    assert following.kinds(1) == [("remove", "a", 0)]
    assert process.wait() == 0
    answer = following.client.receive()
    assert answer is None or answer["error"]["code"] == -32001
