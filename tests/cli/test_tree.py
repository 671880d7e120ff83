# SPDX-License-Identifier: Apache-2.0
"""ls --tree: the drawings of the recordings, and the styles that they do not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dmtool.cli.getopt import CommandLineError
from dmtool.cli.tree import Drawing, Node, Style

Run = Callable[..., Any]


@pytest.fixture
def snapshots(words: Any) -> Any:
    """Recorded: snapshot-lifecycle."""
    for minor, name in enumerate(("base", "o", "s")):
        words.add(name, "0 512 linear ", minor=minor)
    words.deps["base"] = [words.block("ram0", 1, 0)]
    words.deps["o"] = [words.mapped("base")]
    words.deps["s"] = [words.block("ram1", 1, 1), words.mapped("base")]
    return words


def test_a_device_below_two(run: Run, snapshots: Any) -> None:
    assert run("ls", "--tree", "-o", "ascii").out == (
        "o (1000:1)\n `-base (1000:0)\n    `- (1:0)\n"
        "s (1000:2)\n |- (1:1)\n `-base (1000:0)\n    `- (1:0)\n"
    )
    assert run("ls", "--tree", "-o", "utf").out == (
        "o (1000:1)\n └─base (1000:0)\n    └─ (1:0)\n"
        "s (1000:2)\n ├─ (1:1)\n └─base (1000:0)\n    └─ (1:0)\n"
    )
    assert run("ls", "--tree", "-o", "vt100,nodev").out.splitlines()[1] == " \x1b(0\x0fmq\x1b(Bbase"


def test_compact(run: Run, snapshots: Any) -> None:
    assert run("ls", "--tree", "-o", "ascii,compact,blkdevname,nodevice").out == (
        "o <dm-1>---base <dm-0>--- <ram0>\ns <dm-2>-+- <ram1>\n         `-base <dm-0>--- <ram0>\n"
    )


def test_attributes(run: Run, words: Any) -> None:
    words.add("a", readonly=True, suspended=True, open_count=3, uuid="has\\x20space")
    line = "a (1000:0) [SUSPENDED, RO, 3, has space]\n"
    assert run("ls", "--tree", "-o", "uuid,active,open,rw").out == line
    assert run("ls", "--tree", "-o", "active,compact").out == "a (1000:0) [SUSPENDED]\n"


def drawn(name: str, width: int, options: str = "") -> str:
    style = Style.of(f"nodevice,ascii,{options}")
    return Drawing(style, width).draw([Node("1000:0", name, "1000:0", "dm-0", {"minor": 0})])


def test_lines_are_cut_to_the_width() -> None:
    """Recorded: uuid, with a width of 80: 79 characters and three dots, or 80."""
    assert drawn("n" * 80, 80) == "n" * 80 + "\n"
    assert drawn("n" * 81, 80) == "n" * 79 + "...\n"
    assert drawn("n" * 81, 80, "notrunc") == "n" * 81 + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("foo", "Tree options not recognised: foo."),
        ("active,foo,bar", "Tree options not recognised: foo,bar."),
    ],
)
def test_unknown_options(options: str, message: str) -> None:
    with pytest.raises(CommandLineError) as raised:
        Style.of(options)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("environment", "symbols"),
    [
        ({}, " `-"),
        ({"LANG": "C.UTF-8"}, " └─"),
        ({"LANG": "C.UTF-8", "LC_ALL": "C"}, " `-"),
        ({"LC_CTYPE": "C.UTF-8"}, " └─"),
    ],
)
def test_the_locale_chooses_the_symbols(
    shell: Any, environment: dict[str, str], symbols: str
) -> None:
    """Also where Python takes UTF-8 for itself, as it does in the locale C."""
    shell("create", "low", "--table", "0 8 zero")
    shell("create", "top", "--table", "0 8 linear /dev/mapper/low 0")
    shell.environment.pop("LANG")
    shell.environment.update(environment)
    assert shell("ls", "--tree", "-o", "nodevice").out == f"top\n{symbols}low\n"
