# SPDX-License-Identifier: Apache-2.0
"""New names and uuids, with the words of dm_hash_rename (dm-ioctl.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.core.process import Core

if TYPE_CHECKING:
    from tests.core.conftest import Refused

Call = Callable[..., Any]
Refuse = Callable[..., "Refused"]
A = {"name": "a"}


def names(call: Call) -> list[str]:
    return [info["name"] for info in call("list")]


def test_rename(call: Call, refused: Refuse) -> None:
    call("create", name="a", table="0 8 zero")
    info = call("rename", device=A, new_name="b")
    assert (info["name"], info["event_nr"]) == ("b", 1)
    assert refused("info", device=A).data["errno"] == errno.ENXIO
    assert call("info", device={"name": "b"}) == info
    call("create", name="a")


def test_rename_without_table_is_no_event(call: Call) -> None:
    call("create", name="a")
    assert call("rename", device=A, new_name="b")["event_nr"] == 0
    assert call("set_uuid", device={"name": "b"}, uuid="U")["event_nr"] == 0


@pytest.mark.parametrize(
    ("device", "new_name", "number", "reason"),
    [
        ("no", "new", errno.ENXIO, "Unable to rename non-existent device, no to new"),
        (
            "no",
            "b",
            errno.EBUSY,
            "Unable to change name on mapped device no to one that already exists: b",
        ),
        (
            "a",
            "a",
            errno.EBUSY,
            "Unable to change name on mapped device a to one that already exists: a",
        ),
        (
            "a",
            "",
            errno.EINVAL,
            "Invalid new mapped device name or uuid string supplied.",
        ),
        ("a", "x/y", errno.EINVAL, "device name cannot contain '/'"),
        ("a", "x" * 128, errno.EINVAL, "a name has at most 127 bytes"),
    ],
)
def test_rename_refused(
    call: Call, refused: Refuse, device: str, new_name: str, number: int, reason: str
) -> None:
    call("create", name="a")
    call("create", name="b")
    error = refused("rename", device={"name": device}, new_name=new_name)
    assert (error.message, error.data["errno"], error.data["step"]) == (reason, number, "rename")
    assert names(call) == ["a", "b"]


def test_set_uuid(call: Call, refused: Refuse) -> None:
    call("create", name="a", table="0 8 zero")
    call("create", name="b", uuid="B")
    error = refused("set_uuid", device=A, uuid="B")
    assert error.data["errno"] == errno.EBUSY
    info = call("set_uuid", device=A, uuid="U")
    assert (info["uuid"], info["event_nr"]) == ("U", 1)
    assert call("info", device={"uuid": "U"}) == info
    error = refused("set_uuid", device=A, uuid="V")
    assert (error.message, error.data["errno"], error.data["step"]) == (
        "Unable to change uuid of mapped device a to V because uuid is already set to U",
        errno.EINVAL,
        "rename",
    )
    error = refused("set_uuid", device={"name": "no"}, uuid="W")
    assert (error.message, error.data["errno"]) == (
        "Unable to rename non-existent device, no to uuid W",
        errno.ENXIO,
    )
    assert refused("set_uuid", device=A, uuid="").data["errno"] == errno.EINVAL


def test_uri(call: Call, core: Core) -> None:
    call("create", name="a b/?".replace("/", "\\x2f"))
    socket = core.directory.nbd
    assert call("uri", device={"minor": 0}) == {
        "uri": f"nbd+unix:///a%20b%5Cx2f%3F?socket={socket}"
    }
