# SPDX-License-Identifier: Apache-2.0
"""map: the picture of a device, with a core that has it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmtool.cli.map import _bytes, _signs, joined
from tests.cli.conftest import Shell

THREE = """\
three: 14341 sectors (7 MiB), 3 targets

     0 |AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA!BBBBBBBBBBBBBBBBBBBBBBBBBBBBBB|

One sign is about 202 sectors.

   Start  Length  Share  Targets  Type      At  On
A      0    8192  57.1%        1  linear     0  one (1000:0)
!   8192       5  <0.1%        1  error
B   8197    6144  42.8%        1  linear  2048  two (1000:1)
"""
THREE_UTF8 = """\
     0 │A───────────────────────────────────────!B─────────────────────────────│
"""

MANY = """\
many: 600000 sectors (293 MiB), 30000 targets in 19001 runs

      0 |AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA|
  75000 |AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA|
 150000 |AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAaababaabbababbaababaabb|
 225000 |ababbaababaabbababba!babaabbababbaababaabbababbaababaabbababbaababaabb|
 300000 |ababbaababaabbababbaababaabbababbaababaabbababbaababaabbababbaababaabb|
 375000 |ababbaababaabbababbaababaabbababbaababaabbababbaababaabbababbaababaabb|
 450000 |ababbaababaabbabab!aababaabbababbaababaabbababbaababaabbababbaababaabb|
 525000 |ababbaababaabbababbaababaabbababbaababaabbababbaabab..................|

One sign is about 1072 sectors.
A small letter: mostly that, with others.

   Sectors  Share  Targets  Runs  Type    On
A   389980  65.0%    19499  9499  linear  one (1000:0)
B   189980  31.7%     9499  9499  linear  two (1000:1)
!       40  <0.1%        2     2  error
.    20000   3.3%     1000     1  zero
"""


@pytest.fixture
def lower(shell: Shell) -> Shell:
    """Two devices for others to stand on; their names are as long on every machine."""
    shell("create", "one", "--table", "0 1000000 zero")
    shell("create", "two", "--table", "0 1000000 error")
    return shell


@pytest.fixture
def three(lower: Shell) -> Shell:
    table = "0 8192 linear {0}/one 0\n8192 5 error\n8197 6144 linear {0}/two 2048"
    lower("create", "three", "--table", table.format("/dev/mapper"))
    return lower


def many() -> str:
    """30,000 targets of 20 sectors: a third of them side by side on one device, the others on two
    devices in turn, with zeros at the end and two that fail."""
    lines = []
    for number in range(30_000):
        at = number * 20
        below = "two" if number >= 10_000 and number % 2 else "one"
        what = f"linear /dev/mapper/{below} {at}"
        if number in (12_345, 23_456):
            what = "error"
        elif number >= 29_000:
            what = "zero"
        lines.append(f"{at} 20 {what}\n")
    return "".join(lines)


def test_three_targets(three: Shell) -> None:
    assert three("map", "three").out == THREE
    three.environment["LANG"] = "C.UTF-8"
    assert three("map", "three").out.splitlines()[2] == THREE_UTF8.rstrip("\n")


def test_thirty_thousand_targets(lower: Shell) -> None:
    (lower.cwd / "many.table").write_text(many())
    lower("create", "many", "many.table")
    assert lower("map", "many").out == MANY


@pytest.mark.parametrize("columns", [20, 40, 80, 132, 250])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_it_is_as_wide_as_the_terminal(three: Shell, columns: int, locale: str) -> None:
    long = three.image("a" * 120, 64)
    three("create", "long", "--table", f"0 64 linear {long} 0")
    for name in ("three", "long"):
        out = three.terminal("map", name, columns=columns, LANG=locale)
        widths = [len(line) for line in out.splitlines()]
        assert widths[2] == max(columns, 40)
        assert max(widths) <= max(columns, 43)  # 43: the line below the bar
    assert out.splitlines()[-1].endswith("aaa")


def test_a_device_of_few_sectors(lower: Shell) -> None:
    lower("create", "tiny", "--table", "0 1 linear /dev/mapper/one 0\n1 1 zero\n2 1 error")
    lines = lower("map", "tiny").out.splitlines()
    assert lines[2] == f" 0 |{'A' * 25}{'.' * 25}{'!' * 25}|"
    assert "One sign" not in "".join(lines)


def test_one_bad_sector_in_a_large_device_is_seen(lower: Shell) -> None:
    table = "0 999 zero\n999 1 error\n1000 999000000 zero"
    lower("create", "bad", "--table", table)
    assert lower("map", "bad").out.splitlines()[2].count("!") == 1


def test_without_a_table(lower: Shell) -> None:
    lower("create", "none", "--notable")
    assert lower("map", "none").out == "none: no live table\n"
    assert lower("map", "none", "--inactive").out == "none: no inactive table\n"
    lower("load", "none", "--table", "0 8 zero")
    assert lower("map", "none", "--inactive").out.startswith("none: 8 sectors (4 KiB), 1 target\n")
    done = lower("map", "nosuch", status=1)
    assert done.err.startswith("device-mapper: table ioctl on nosuch  failed: No such device")
    assert lower("map", status=1).err == "No device specified.\nCommand failed.\n"


def test_json(three: Shell) -> None:
    told: dict[str, Any] = json.loads(three("map", "three", "--json").out)
    assert (told["version"], told["name"], told["size"]) == (1, "three", 14341)
    assert [kind["type"] for kind in told["kinds"]] == ["linear", "error", "linear"]
    assert [kind["devices"][0]["name"] for kind in told["kinds"][::2]] == ["one", "two"]
    assert told["runs"][2] == {"start": 8197, "length": 6144, "kind": 2, "targets": 1, "at": [2048]}
    assert sum(part["length"] for part in told["parts"]) == told["size"]
    shares = [share for part in told["parts"] for share in part["shares"]]
    assert sum(share["sectors"] for share in shares if share["kind"] == 0) == 8192


def test_many_devices_below(lower: Shell) -> None:
    for number in range(8):
        lower("create", f"a-rather-long-name-{number}", "--table", "0 1000 zero")
    names = [f"/dev/mapper/a-rather-long-name-{n} 0" for n in range(8)]
    lower("create", "wide", "--table", f"0 800 striped 8 4 {' '.join(names)}")
    line = lower("map", "wide").out.splitlines()[-1]
    assert line.split("striped")[1] == "  0, 0, ...  ...-0 (1000:2) and 7 more"
    assert len(line) <= 80
    table = lower("map", "wide", "--format", "pipe").out
    assert all(f"a-rather-long-name-{number} (1000:{number + 2})" in table for number in range(8))


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (None, "/a/first.img, /a/second.img"),
        (27, "/a/first.img, /a/second.img"),
        (26, "/a/first.img, ...econd.img"),
        (25, "...irst.img, ...cond.img"),
        (5, "...rst.img and 1 more"),
    ],
)
def test_names_are_shortened(room: int | None, text: str) -> None:
    assert joined(["/a/first.img", "/a/second.img"], room) == text


def test_letters_go_to_the_largest() -> None:
    kinds = [{"ends": "devices", "sectors": 100 - n} for n in range(30)]
    kinds[3] = {"ends": "error", "sectors": 1}
    drawn = "".join(sign.whole for sign in _signs(kinds))
    assert drawn == "ABC!DEFGHIJKLMNOPQRSTUVWXYZ###"


@pytest.mark.parametrize(
    ("sectors", "size"),
    [(1, "512 B"), (2, "1 KiB"), (3, "1.5 KiB"), (1 << 21, "1 GiB"), ((1 << 54) - 1, "8 EiB")],
)
def test_sizes(sectors: int, size: str) -> None:
    assert _bytes(sectors) == size
