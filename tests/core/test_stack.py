# SPDX-License-Identifier: Apache-2.0
"""Mapped devices on top of each other: names in tables, loops, and ``explain``."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.core import stack
from dmtool.core.process import Core
from dmtool.directory import Directory

if TYPE_CHECKING:
    from tests.core.conftest import Client, Refused

Call = Callable[..., Any]
Refuse = Callable[..., "Refused"]


def cause(error: Refused) -> str:
    """What lies behind the one error of a table."""
    (told,) = error.data["causes"]
    assert told["reason"] == "Device lookup failed"
    return str(told["cause"])


def test_a_table_names_a_mapped_device_in_three_ways(call: Call, directory: Directory) -> None:
    call("create", name="lo\\x20w", table="0 8 zero", minor=3)
    for number, word in enumerate(
        (
            "1000:3",
            "/dev/mapper/lo\\\\x20w",
            "/dev/mapper/lo\\ w",
            f"{directory.mapper}/lo\\\\x20w",
            "mapper/../mapper/lo\\ w",
        )
    ):
        name = f"top{number}"
        call("create", name=name, table=f"0 8 linear {word} 0", cwd=directory.path)
        (target,) = call("table", device={"name": name})["targets"]
        assert target["params"] == "1000:3 0"
    assert call("info", device={"minor": 3})["open_count"] == 5


def test_one_opener_a_table(call: Call) -> None:
    call("create", name="low", table="0 8 zero")
    call("create", name="top", table="0 4 linear 1000:0 0\n4 4 linear /dev/mapper/low 4")
    assert call("info", device={"name": "low"})["open_count"] == 1
    call("load", device={"name": "top"}, table="0 8 linear 1000:0 0")
    assert call("info", device={"name": "low"})["open_count"] == 2
    call("resume", device={"name": "top"})
    assert call("info", device={"name": "low"})["open_count"] == 1


def test_what_cannot_be_below(call: Call, refused: Refuse, directory: Directory) -> None:
    call("create", name="empty")
    call("create", name="low", table="0 8 zero")
    for word, number, reason in (
        ("1000:7", errno.ENXIO, "no mapped device 1000:7"),
        ("1000:0", errno.ENODEV, "mapped device empty has no live table"),
        ("/dev/mapper/empty", errno.ENODEV, "mapped device empty has no live table"),
        (f"{directory.mapper}/no", errno.ENOENT, "No such file or directory"),
    ):
        error = refused("create", name="top", table=f"0 8 linear {word} 0")
        assert cause(error) == f"{word}: {reason}"
        assert error.data["errno"] == number
    assert call("info", device={"name": "low"})["open_count"] == 0


def test_a_device_cannot_lie_below_itself(call: Call, refused: Refuse) -> None:
    call("create", name="a", table="0 8 zero")
    call("create", name="b", table="0 8 linear 1000:0 0")
    call("create", name="c", table="0 8 zero")
    call("load", device={"name": "c"}, table="0 8 linear 1000:1 0")  # by an inactive table, too
    for lower, chain in ((0, "a -> a"), (1, "a -> b -> a"), (2, "a -> c -> b -> a")):
        error = refused("load", device={"name": "a"}, table=f"0 8 linear 1000:{lower} 0")
        assert error.data["errno"] == errno.ELOOP
        assert cause(error) == f"1000:{lower}: the device would lie below itself: {chain}"
    assert not call("info", device={"name": "a"})["inactive"]
    assert call("info", device={"name": "a"})["open_count"] == 1
    call("clear", device={"name": "c"})
    call("load", device={"name": "a"}, table="0 8 linear 1000:2 0")


def test_two_loads_at_once_close_no_loop(client: Client, connect: Callable[[], Client]) -> None:
    other = connect()
    for _ in range(20):
        for name in "ab":
            client.call("create", name=name, table="0 8 zero")
        answers = []

        def load(one: Client, name: str, lower: str) -> None:
            one.send("load", device={"name": name}, table=f"0 8 linear /dev/mapper/{lower} 0")
            answers.append(one.receive())  # noqa: B023  # joined in this turn

        threads = [
            threading.Thread(target=load, args=args)
            for args in ((client, "a", "b"), (other, "b", "a"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum("result" in answer for answer in answers) <= 1
        for name in "ab":
            client.call("clear", device={"name": name})
        assert client.call("remove_all") == {"left": 0}


def test_a_stack_has_a_limit(call: Call, refused: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "DEEPEST", 4)
    call("create", name="d0", table="0 8 zero")
    for n in range(1, 4):
        call("create", name=f"d{n}", table=f"0 8 linear 1000:{n - 1} 0")
    error = refused("create", name="d4", table="0 8 linear 1000:3 0")
    assert cause(error) == "1000:3: 5 devices would lie one on the other, more than 4"
    # the same from below
    call("create", name="low", table="0 8 zero")
    error = refused("load", device={"name": "d0"}, table="0 8 linear /dev/mapper/low 0")
    assert error.data["errno"] == errno.ELOOP


def test_the_deepest_stack_carries_io(call: Call, core: Core, image: Call) -> None:
    path = image(sectors=8)
    call("create", name="d0", table=f"0 8 linear {path} 0")
    for n in range(1, stack.DEEPEST):
        call("create", name=f"d{n}", table=f"0 8 linear 1000:{n - 1} 0")
    top = max((e.device for e in core.devices.all()), key=lambda device: device.minor)
    top.write(0, b"x" * 512)
    assert top.read(0, 512) == b"x" * 512
    (piece,) = call("explain", device={"minor": top.minor}, sector=3, count=5)
    assert len(piece["path"]) == stack.DEEPEST


# -- explain ----------------------------------------------------------------------------------


def test_explain(call: Call, image: Call) -> None:
    path = image(sectors=64)
    call("create", name="low", table=f"0 16 linear {path} 8\n16 8 error\n24 8 zero")
    call("create", name="top", table="0 24 linear 1000:0 8\n24 8 linear 1000:0 0")
    device = {"name": "top"}
    assert call("explain", device=device, sector=2, count=26) == [
        {
            "start": 2,
            "length": 6,
            "path": [{"device": "top", "sector": 2}, {"device": "low", "sector": 10}],
            "kind": "file",
            "name": path,
            "offset": (8 + 10) * 512,
            "type": "linear",
        },
        {
            "start": 8,
            "length": 8,
            "path": [{"device": "top", "sector": 8}, {"device": "low", "sector": 16}],
            "kind": "error",
            "name": "",
            "offset": None,
            "type": "error",
        },
        {
            "start": 16,
            "length": 8,
            "path": [{"device": "top", "sector": 16}, {"device": "low", "sector": 24}],
            "kind": "zero",
            "name": "",
            "offset": None,
            "type": "zero",
        },
        {
            "start": 24,
            "length": 4,
            "path": [{"device": "top", "sector": 24}, {"device": "low", "sector": 0}],
            "kind": "file",
            "name": path,
            "offset": 8 * 512,
            "type": "linear",
        },
    ]


def test_explain_joins_what_goes_on(call: Call, image: Call) -> None:
    path = image(sectors=64)
    lines = [f"{n} 1 linear {path} {n}" for n in range(64)]
    call("create", name="a", table="\n".join(lines))
    (piece,) = call("explain", device={"name": "a"}, sector=0, count=64)
    assert (piece["length"], piece["offset"]) == (64, 0)


def test_explain_a_very_large_device(call: Call) -> None:
    call("create", name="a", table=f"0 {1 << 53} zero")
    (piece,) = call("explain", device={"name": "a"}, sector=5, count=(1 << 53) - 5)
    assert piece["length"] == (1 << 53) - 5


def test_explain_stripes(call: Call, refused: Refuse, image: Call, monkeypatch: Any) -> None:
    one, two = image("1.img", 1024), image("2.img", 1024)
    call("create", name="a", table=f"0 2048 striped 2 8 {one} 0 {two} 0")
    pieces = call("explain", device={"name": "a"}, sector=4, count=2044)
    assert len(pieces) == 256
    assert [(p["length"], p["name"], p["offset"]) for p in pieces[:3]] == [
        (4, one, 4 * 512),
        (8, two, 0),
        (8, one, 8 * 512),
    ]
    assert pieces[-1]["start"] + pieces[-1]["length"] == 2048
    monkeypatch.setattr(stack, "PIECES_MAX", 100)
    error = refused("explain", device={"name": "a"}, sector=0, count=2048)
    assert error.data["errno"] == errno.E2BIG


def test_explain_refuses_what_is_beyond_the_end(call: Call, refused: Refuse) -> None:
    call("create", name="a", table="0 8 zero")
    call("create", name="empty")
    for name, sector, count in (("a", 8, 1), ("a", 0, 9), ("a", 0, 0), ("empty", 0, 1)):
        error = refused("explain", device={"name": name}, sector=sector, count=count)
        assert error.data["errno"] == errno.EINVAL
    assert call("explain", device={"name": "a"}, sector=7)[0]["length"] == 1


def test_explain_where_the_lower_device_has_shrunk(call: Call) -> None:
    call("create", name="low", table="0 64 zero")
    call("create", name="top", table="0 64 linear 1000:0 0")
    call("load", device={"name": "low"}, table="0 8 zero")
    call("resume", device={"name": "low"})
    (piece,) = call("explain", device={"name": "top"}, sector=32)
    assert (piece["kind"], len(piece["path"])) == ("none", 2)
