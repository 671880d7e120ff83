# SPDX-License-Identifier: Apache-2.0
"""Options are read as glibc's getopt_long reads them."""

from __future__ import annotations

import pytest

from dmtool.cli.getopt import CommandLineError, Option, scan
from dmtool.cli.options import OPTIONS, Switches

SOME = (
    Option("force", short="f"),
    Option("foreground"),
    Option("columns", short="cC"),
    Option("options", argument=True, short="o"),
    Option("target", argument=True),
    Option("json", own=True),
)


def read(*args: str) -> tuple[list[tuple[str, str]], list[str]]:
    found: list[tuple[str, str]] = []
    operands = scan(args, SOME, "prog", lambda option, value: found.append((option.name, value)))
    return found, operands


def error(*args: str) -> str:
    with pytest.raises(CommandLineError) as raised:
        read(*args)
    return str(raised.value)


@pytest.mark.parametrize(
    ("args", "options", "operands"),
    [
        (["ls", "-f", "a"], [("force", "")], ["ls", "a"]),
        (["-f", "ls", "--target", "x", "a"], [("force", ""), ("target", "x")], ["ls", "a"]),
        (["ls", "--target=x", "--tar", "y"], [("target", "x"), ("target", "y")], ["ls"]),
        (["-cC"], [("columns", ""), ("columns", "")], []),
        (["-cofoo"], [("columns", ""), ("options", "foo")], []),
        (["-co", "foo"], [("columns", ""), ("options", "foo")], []),
        (["ls", "--", "-f", "--"], [], ["ls", "-f", "--"]),
        (["-", "-f"], [("force", "")], ["-"]),
        (["--target="], [("target", "")], []),
        (["--target", "--force"], [("target", "--force")], []),
        (["--json"], [("json", "")], []),
    ],
)
def test_reads(args: list[str], options: list[tuple[str, str]], operands: list[str]) -> None:
    assert read(*args) == (options, operands)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nosuch"], "prog: unrecognized option '--nosuch'"),
        (["--nosuch=3"], "prog: unrecognized option '--nosuch=3'"),
        (["--js"], "prog: unrecognized option '--js'"),
        (["--target"], "prog: option '--target' requires an argument"),
        (["--tar"], "prog: option '--target' requires an argument"),
        (["-o"], "prog: option requires an argument -- 'o'"),
        (["-cV"], "prog: invalid option -- 'V'"),
        (["--force=1"], "prog: option '--force' doesn't allow an argument"),
        (
            ["--fo=1"],
            "prog: option '--fo=1' is ambiguous; possibilities: '--force' '--foreground'",
        ),
    ],
)
def test_refuses(args: list[str], message: str) -> None:
    assert error(*args) == message


def test_what_stands_before_an_error_was_accepted() -> None:
    """So that of two errors the first is reported."""
    with pytest.raises(CommandLineError, match="Count must be zero or greater"):
        Switches.of(["--count", "-1", "--nosuch"], "dmtool")


def test_posix_ends_options_at_the_first_operand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSIXLY_CORRECT", "1")
    assert read("-f", "ls", "-f") == ([("force", "")], ["ls", "-f"])


def test_names_are_unique() -> None:
    names = [option.name for option in OPTIONS]
    letters = "".join(option.short for option in OPTIONS)
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)


def test_the_last_of_several_counts() -> None:
    switches, _ = Switches.of(["-vvv", "-u", "a", "--uuid", "b"], "dmtool")
    assert switches.count("verbose") == 3
    assert switches.value("uuid") == "b"
    assert "force" not in switches


@pytest.mark.parametrize(
    ("value", "sectors", "minimum"),
    [
        ("auto", None, False),
        ("NONE", 0, False),
        ("64", 64, False),
        (" +9", 9, True),
        ("x", 0, False),
    ],
)
def test_readahead(value: str, sectors: int | None, minimum: bool) -> None:
    switches, _ = Switches.of(["--readahead", value], "dmtool")
    assert switches.readahead() == (sectors, minimum)
