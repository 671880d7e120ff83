# SPDX-License-Identifier: Apache-2.0
"""New devices: names, uuids, minors. The kernel's rules are those of dm-ioctl.c; what dmsetup
prints of them is in tests/kernel."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.core.conftest import Client, Refused

Call = Callable[..., Any]
Refuse = Callable[..., "Refused"]
A = {"name": "a"}


def names(call: Call) -> list[str]:
    return [info["name"] for info in call("list")]


def test_a_new_device(call: Call) -> None:
    info = call("create", name="a", uuid="U", table="0 8 zero\n8 8 error")
    assert info == {
        "name": "a",
        "uuid": "U",
        "major": 1000,
        "minor": 0,
        "suspended": False,
        "readonly": False,
        "live": True,
        "inactive": False,
        "open_count": 0,
        "event_nr": 0,
        "target_count": 2,
        "size": 16,
        "inactive_target_count": 0,
        "inactive_readonly": False,
        "read_ahead": 256,
        "deferred_remove": False,
        "mode": None,
        "uid": None,
        "gid": None,
        "error": None,
    }
    for reference in (A, {"uuid": "U"}, {"minor": 0}):
        assert call("info", device=reference) == info
    assert call("list") == [info]


@pytest.mark.parametrize("table", [None, "", "\n # nothing\n"])
def test_a_device_without_table(call: Call, table: str | None) -> None:
    info = call("create", name="a", table=table, readonly=True)
    assert (info["live"], info["inactive"], info["suspended"]) == (False, False, False)
    assert (info["readonly"], info["size"], info["target_count"]) == (False, 0, 0)
    assert call("table", device=A)["targets"] == []
    assert call("deps", device=A)["deps"] == []
    # resume without any table does nothing (recorded: notable)
    assert call("resume", device=A) == info


def test_what_create_was_told_is_kept(call: Call) -> None:
    info = call("create", name="a", read_ahead=64, mode=0o600, uid=5, gid=6)
    assert [info[k] for k in ("read_ahead", "mode", "uid", "gid")] == [64, 0o600, 5, 6]
    assert call("resume", device=A, read_ahead=0)["read_ahead"] == 0


@pytest.mark.parametrize(
    "name",
    [".", "..", "control", "A", "a:b", "123", "x" * 127, "sp\\x20ace", "new\nline", "ü", "\udcff"],
)
def test_names_that_can_be(call: Call, name: str) -> None:
    assert call("create", name=name, uuid=name)["name"] == name
    assert names(call) == [name]
    assert call("info", device={"uuid": name})["name"] == name


@pytest.mark.parametrize("name", ["", "sl/ash", "x" * 128, "nu\0l", "ü" * 64])
def test_names_that_cannot_be(refused: Refuse, call: Call, name: str) -> None:
    for data in (refused("create", name=name).data, refused("create", name=name).data):
        assert (data["errno"], data["step"], data["devno"]) == (errno.EINVAL, "create", None)
    assert names(call) == []


def test_names_are_listed_by_their_bytes(call: Call) -> None:
    order = [".", "123", "A", "a", "a#b", "b", "\\x20", "x", "ü"]
    for name in reversed(order):
        call("create", name=name)
    assert names(call) == sorted(order, key=str.encode)


def test_a_name_is_taken_once(call: Call, refused: Refuse) -> None:
    call("create", name="a", table="0 8 zero")
    for params in ({}, {"table": "0 8 zero"}, {"table": "0 8 nosuch"}):
        data = refused("create", name="a", **params).data
        assert (data["errno"], data["step"], data["devno"]) == (errno.EBUSY, "create", None)
    assert call("table", device=A)["targets"][0]["type"] == "zero"


def test_a_uuid_is_taken_once(call: Call, refused: Refuse) -> None:
    call("create", name="a", uuid="U")
    assert refused("create", name="b", uuid="U").data["errno"] == errno.EBUSY
    assert names(call) == ["a"]
    call("create", name="b", uuid="")
    call("create", name="c", uuid="")
    assert refused("create", name="d", uuid="u" * 129).data["errno"] == errno.EINVAL
    call("create", name="d", uuid="u" * 128)


def test_the_lowest_free_minor(call: Call) -> None:
    assert [call("create", name=n)["minor"] for n in "abc"] == [0, 1, 2]
    call("remove", device={"name": "b"})
    assert [call("create", name=n)["minor"] for n in "de"] == [1, 3]


def test_a_minor_as_asked(call: Call, refused: Refuse) -> None:
    assert call("create", name="a", minor=5)["minor"] == 5
    assert refused("create", name="b", minor=5).data["errno"] == errno.EBUSY
    assert call("create", name="b", minor=(1 << 20) - 1)["minor"] == (1 << 20) - 1
    assert refused("create", name="c", minor=1 << 20).data["errno"] == errno.EINVAL


def test_create_does_all_or_nothing(call: Call, refused: Refuse, image: Call) -> None:
    path = image()
    error = refused("create", name="a", uuid="U", source="T", table=f"0 8 linear {path} 0\n8 8 no")
    assert error.message == "unknown target type"
    data = error.data
    assert (data["error"], data["errno"], data["step"]) == ("TableErrors", errno.EINVAL, "reload")
    assert data["devno"] == "1000:0"
    (cause,) = data["causes"]
    assert (cause["source"], cause["line"], cause["column"]) == ("T", 2, 5)
    assert (cause["type"], cause["reason"]) == ("no", "unknown target type")
    assert names(call) == []
    call("create", name="a", uuid="U", minor=0)


def test_all_errors_of_a_table_are_told(refused: Refuse) -> None:
    data = refused("create", name="a", table="0 8 zero\n8 0 zero\n8 8 nosuch\n").data
    assert [cause["line"] for cause in data["causes"]] == [2, 3]


def test_dmsetup_looks_at_the_lines_before_it_asks_the_kernel(call: Call, refused: Refuse) -> None:
    call("create", name="a")
    for method, params in (
        ("create", {"name": "a"}),
        ("create", {"name": "a/b"}),
        ("load", {"device": {"name": "nosuch"}}),
    ):
        (cause,) = refused(method, table="rubbish", source="T", **params).data["causes"]
        assert (cause["syntax"], cause["line"]) == (True, 1)


def test_a_device_that_is_being_made_is_not_seen(call: Call, refused: Refuse) -> None:
    data = refused("create", name="a", table="0 8 linear 1000:0 0").data
    assert data["causes"][0]["cause"] == "1000:0: no mapped device 1000:0"
    assert names(call) == []


def test_creators_of_one_name_at_once(client: Client, connect: Callable[[], Client]) -> None:
    clients = [connect() for _ in range(8)]
    barrier = threading.Barrier(len(clients))
    answers: list[Any] = []

    def create(one: Client) -> None:
        barrier.wait()
        one.send("create", name="a", table="0 8 zero")
        answers.append(one.receive())

    threads = [threading.Thread(target=create, args=(one,)) for one in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refusals = [answer["error"]["data"]["errno"] for answer in answers if "error" in answer]
    assert refusals == [errno.EBUSY] * 7
    assert len(client.call("list")) == 1
