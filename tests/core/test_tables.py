# SPDX-License-Identifier: Apache-2.0
"""Live and inactive tables, suspend and resume. "Recorded" names a scenario that was run against
a kernel."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.core.process import Core

if TYPE_CHECKING:
    from tests.core.conftest import Client, Refused

Call = Callable[..., Any]
Refuse = Callable[..., "Refused"]
A = {"name": "a"}


def lines(call: Call, what: str = "table", **params: Any) -> list[str]:
    """The targets of a device as the terminal shows them."""
    told = call(what, **{"device": A, **params})["targets"]
    found = ["{start} {length} {type} {params}".format(**target) for target in told]
    text = call(what, **{"device": A, **params}, text=True)["text"]
    assert text == "".join(f"{line}\n" for line in found)
    return found


def stat(call: Call) -> str:
    """dmsetup's "Stat" column."""
    info = call("info", device=A)
    return "".join(
        letter if info[key] else "-"
        for letter, key in (("L", "live"), ("I", "inactive"), ("s", "suspended"))
    ) + ("r" if info["readonly"] else "w")


# -- slots ------------------------------------------------------------------------------------


def test_suspend_load_resume(call: Call, image: Call) -> None:
    """Recorded: suspend-resume."""
    one, two = image("1.img"), image("2.img")
    call("create", name="a", table=f"0 64 linear {one} 0")
    assert stat(call) == "L--w"
    for _ in range(2):
        assert call("suspend", device=A)["suspended"]
        assert stat(call) == "L-sw"
    assert lines(call) == [f"0 64 linear {one} 0"]
    call("load", device=A, table=f"0 64 linear {two} 0")
    assert stat(call) == "LIsw"
    assert lines(call) == [f"0 64 linear {one} 0"]
    assert lines(call, inactive=True) == [f"0 64 linear {two} 0"]
    assert lines(call, "status", inactive=True) == ["0 64 linear "]
    for _ in range(2):
        call("resume", device=A)
        assert stat(call) == "L--w"
    assert lines(call) == [f"0 64 linear {two} 0"]
    assert lines(call, inactive=True) == []


def test_load_replaces_and_clear_empties_the_inactive_slot(call: Call) -> None:
    """Recorded: reload-live."""
    call("create", name="a", table="0 64 zero")
    call("load", device=A, table="0 8 error")
    info = call("load", device=A, table="0 16 error\n16 8 zero")
    assert (info["inactive"], info["inactive_target_count"], info["target_count"]) == (True, 2, 1)
    assert info["size"] == 64
    assert lines(call, inactive=True) == ["0 16 error ", "16 8 zero "]
    for _ in range(2):
        assert not call("clear", device=A)["inactive"]
    assert lines(call, inactive=True) == []
    assert call("resume", device=A)["size"] == 64


def test_a_bad_table_leaves_everything_as_it_was(call: Call, refused: Refuse) -> None:
    call("create", name="a", table="0 64 zero")
    call("load", device=A, table="0 8 error")
    error = refused("load", device=A, table="0 8 nosuch")
    assert (error.message, error.data["step"]) == ("unknown target type", "reload")
    assert error.data["devno"] is None
    error = refused("load", device=A, table="# nothing\n", source="T")
    assert error.message == "no targets specified"
    assert (error.data["errno"], error.data["causes"][0]["source"]) == (errno.EINVAL, "T")
    assert stat(call) == "LI-w"
    assert lines(call, inactive=True) == ["0 8 error "]


def test_readonly(call: Call, image: Call, core: Core) -> None:
    """Recorded: readonly."""
    path = image()
    call("create", name="a", readonly=True, table=f"0 64 linear {path} 0")
    assert stat(call) == "L--r"
    with pytest.raises(PermissionError):
        core.devices.all()[0].device.write(0, b"x")
    call("suspend", device=A)
    call("resume", device=A)
    assert stat(call) == "L--r"
    call("load", device=A, table=f"0 64 linear {path} 0")
    call("resume", device=A)
    assert stat(call) == "L--w"
    info = call("load", device=A, readonly=True, table=f"0 64 linear {path} 0")
    assert (info["readonly"], info["inactive_readonly"]) == (False, True)
    call("resume", device=A)
    assert stat(call) == "L--r"


def test_wipe(call: Call, refused: Refuse) -> None:
    """Recorded: wipe."""
    call("create", name="a", table="0 64 zero\n64 64 zero")
    call("suspend", device=A)
    call("wipe", device=A)
    assert lines(call) == ["0 128 error "]
    assert stat(call) == "L--w"
    call("create", name="b")
    data = refused("wipe", device={"name": "b"}).data
    assert (data["errno"], data["step"]) == (errno.EINVAL, "reload")


def test_table_and_status_of_one_type(call: Call) -> None:
    call("create", name="a", table="0 8 zero\n8 8 error\n16 8 zero")
    assert lines(call, target="zero") == ["0 8 zero ", "16 8 zero "]
    assert lines(call, "status", target="error") == ["8 8 error "]
    assert lines(call, target="nosuch") == []


def test_relative_paths_start_where_the_caller_is(call: Call, image: Call) -> None:
    path = image("sp ace.img")
    call("create", name="a", cwd=os.path.dirname(path), table="0 8 linear sp\\ ace.img 0")
    escaped = path.replace(" ", "\\ ")
    assert lines(call) == [f"0 8 linear {escaped} 0"]


def test_deps_are_told_last_opened_first(call: Call, image: Call) -> None:
    one, two = image("1.img"), image("2.img")
    call("create", name="low", table="0 8 zero")
    table = f"0 8 linear {one} 0\n8 8 linear {two} 0\n16 8 linear 1000:0 0\n24 8 linear {one} 8"
    call("create", name="a", table=table)
    assert call("deps", device=A)["deps"] == [
        {"kind": "dm", "path": None, "major": 1000, "minor": 0, "name": "low"},
        {"kind": "file", "path": two, "major": None, "minor": None, "name": two},
        {"kind": "file", "path": one, "major": None, "minor": None, "name": one},
    ]
    assert call("deps", device=A, inactive=True)["deps"] == []


def test_check_keeps_nothing(call: Call, image: Call) -> None:
    path = image()
    told = call("check", table=f"0 8 linear {path} 0\n8 8 zero")
    assert told == {"ok": True, "errors": [], "targets": 2, "size": 16}
    told = call("check", table=f"0 8 linear {path} 0\nrubbish\n8 8 nosuch", source="T")
    assert not told["ok"]
    assert [(e["source"], e["line"], e["syntax"]) for e in told["errors"]] == [
        ("T", 2, True),
        ("T", 3, False),
    ]
    assert call("list") == []
    assert call("daemon_status")["devices"] == 0


# -- io and suspend ---------------------------------------------------------------------------


def test_a_suspend_that_waits_holds_up_nobody_else(
    client: Client, connect: Callable[[], Client], core: Core
) -> None:
    call = client.call
    call("create", name="a", table="0 8 zero")
    device = core.devices.all()[0].device
    device.begin()
    waiting = connect()
    waiting.send("suspend", device=A)
    assert select.select([device.closed_fd], [], [], 30)[0]
    assert lines(call) == ["0 8 zero "]
    assert not call("info", device=A)["suspended"]
    call("create", name="b", table="0 8 zero")
    assert len(call("list")) == 2
    device.end()
    assert waiting.result()["suspended"]
