# SPDX-License-Identifier: Apache-2.0
"""--format, and colour: what people see, and programs do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from tabulate import tabulate_formats

from dmtool.cli.commands import COMMANDS
from tests.cli.conftest import Shell

Run = Callable[..., Any]


@pytest.fixture
def two(words: Any) -> Any:
    words.add("low", "0 64 linear 1:0 0", minor=0, open_count=1)
    words.add("sp\\x20ace", "0 8 zero ", "8 8 error ", minor=1)
    words.deps["low"] = [words.block("ram0", 1, 0)]
    words.deps["sp\\x20ace"] = [words.mapped("low"), words.file("/img/a")]
    linear = {"name": "linear", "version": [1, 4, 0], "distribution": "dmtool 1", "error": None}
    words.answers["targets"] = [linear, linear | {"name": "bad", "error": "broken"}]
    return words


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("ls", ["|Name|Device|", "|low|1000:0|", "|sp ace|1000:1|"]),
        ("ls -o blkdevname --target zero", ["|Name|Device|", "|sp ace|1000, 1|"]),
        ("info", ["|Name|Maj|Min|Stat|Open|Targ|Event|UUID|", "|low|1000|0|L--w|1|1|0||",
                  "|sp ace|1000|1|L--w|0|2|0||"]),
        ("info -c -o name,open -S open=1", ["|Name|Open|", "|low|1|"]),
        ("info -o name -O -name --noheadings", ["|sp ace|", "|low|"]),
        ("splitname vg-lv", ["|VG|LV|LVLayer|", "|vg|lv||"]),
        ("table", ["|Name|Start|Length|Type|Parameters|", "|low|0|64|linear|1:0 0|",
                   "|sp ace|0|8|zero||", "|sp ace|8|8|error||"]),
        ("status low --target linear",
         ["|Name|Start|Length|Type|Parameters|", "|low|0|64|linear|1:0 0|"]),
        ("deps", ["|Name|Kind|Device|Path|", "|low|block|1, 0|/dev/ram0|",
                  "|sp ace|dm|1000, 0||", "|sp ace|file|/img/a|/img/a|"]),
        ("targets", ["|Name|Version|Distribution|Error|", "|linear|1.4.0|dmtool 1||",
                     "|bad|1.4.0|dmtool 1|broken|"]),
        ("target-version linear", ["|Name|Version|Distribution|Error|",
                                   "|linear|1.4.0|dmtool 1||"]),
    ],
)  # fmt: skip
def test_tables(run: Run, two: Any, line: str, rows: list[str]) -> None:
    done = run(*line.split(), "--format", "pipe")
    assert (done.status, done.err) == (0, "")
    lines = [re.sub(r" *\| *", "|", row) for row in done.out.splitlines()]
    assert [row for row in lines if not re.fullmatch(r"[|:-]+", row)] == rows


@pytest.mark.parametrize("name", tabulate_formats)
def test_every_format(run: Run, two: Any, name: str) -> None:
    for command in ("info", "table", "ls"):
        done = run(command, "--format", name)
        assert (done.status, done.err) == (0, "")
        assert "low" in done.out
        assert "sp ace" in done.out


def test_what_is_no_format(run: Run, two: Any) -> None:
    done = run("remove", "low", "--format", "markdown")
    assert done.status == 1
    first, *rest, last = done.err.splitlines()
    assert first == "Unknown format: markdown."
    assert set(re.split("[ ,.]+", " ".join(rest))) >= set(tabulate_formats)
    assert last == "Couldn't process command line."
    assert two.asked == []


def test_what_does_not_go_together(run: Run, two: Any) -> None:
    for option in ("--rows", "--nameprefixes", "--separator=,"):
        done = run("info", "--format", "github", option)
        assert done.status == 1
        assert done.err.startswith("--format is incompatible with --nameprefixes, --separator and")


def test_without_devices(run: Run) -> None:
    for command in ("ls", "info", "table"):
        assert run(command, "--format", "github") == (0, "No devices found\n", "")


def test_the_commands_that_take_it_say_so() -> None:
    declared = {command.name for command in COMMANDS if "format" in command.options}
    assert declared == {
        "ls", "info", "deps", "stats", "status", "table", "measure", "targets", "target-version",
        "splitname", "explain", "map", "daemon",
    }  # fmt: skip


# -- colour ----------------------------------------------------------------------------------------

WRONG = ("check", "--table", "0 8 linaer x")
PLAIN = """\
--table:1:5: linaer: unknown target type
  0 8 linaer x
      ^
hint: did you mean linear?
"""
COLOURED = """\
\033[1m--table:1:5\033[0m: linaer: unknown target type
  0 8 linaer x
      \033[31m^\033[0m
hint: did you mean linear?
"""


def test_errors_have_colour_on_a_terminal(shell: Shell) -> None:
    assert shell.terminal(*WRONG, TERM="xterm") == COLOURED
    absent = shell.terminal("info", "nosuch", TERM="xterm")
    assert absent == "\033[31mDevice does not exist.\033[0m\nCommand failed.\n"
    misused = shell.terminal("--nosuch", TERM="xterm")
    assert misused.startswith("\033[31mdmtool: unrecognized option '--nosuch'\033[0m\n")


@pytest.mark.parametrize(
    "environment", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}]
)
def test_colour_can_be_switched_off(shell: Shell, environment: dict[str, str]) -> None:
    assert shell.terminal(*WRONG, **environment) == PLAIN


def test_an_empty_no_color_says_nothing(shell: Shell) -> None:
    assert shell.terminal(*WRONG, TERM="xterm", NO_COLOR="") == COLOURED


def test_without_a_terminal_there_is_no_colour(shell: Shell) -> None:
    shell.environment["TERM"] = "xterm"
    assert shell(*WRONG, status=1).err == PLAIN
    shell("create", "a", "--table", "0 8 zero\n8 8 error")
    assert "\033" not in shell("map", "a").out


def test_the_map_has_colour_on_a_terminal(shell: Shell) -> None:
    shell("create", "low", "--table", "0 64 zero")
    shell("create", "a", "--table", "0 8 linear /dev/mapper/low 0\n8 8 error")
    bare = shell("map", "a").out
    drawn = shell.terminal("map", "a", TERM="xterm")
    assert "\033[36m" + "A" * 37 in drawn
    assert "\033[1;31m" + "!" * 36 in drawn
    assert re.sub(r"\033\[[\d;]*m", "", drawn) == bare
