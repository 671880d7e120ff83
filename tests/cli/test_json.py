# SPDX-License-Identifier: Apache-2.0
"""--json: every command that prints data has it, and docs/json.md has every field of it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmtool.cli import main
from dmtool.cli.commands import COMMANDS
from dmtool.cli.stats import SUBCOMMANDS
from tests.cli.conftest import Done
from tests.stats.home import Home

PAGE = Path(__file__).parents[2] / "docs" / "json.md"

# Command: what prints data, on devices that `home` makes.
DATA = {
    "create": "create new -v --table '0 8 zero'",
    "suspend": "suspend top -v",
    "resume": "resume top -v",
    "load": "load top -v --table '0 8 zero'",
    "reload": "reload top -v --table '0 8 zero'",
    "clear": "clear top -v",
    "wait": "wait top 99 -v",
    "measure": "measure top",
    "message": "message low 0 @stats_list",
    "ls": "ls",
    "info": "info",
    "deps": "deps",
    "status": "status top",
    "table": "table",
    "mangle": "mangle top",
    "udevflags": "udevflags 0x30000",
    "udevcomplete": "udevcomplete 0x30000",
    "udevcookies": "udevcookies",
    "target-version": "target-version linear",
    "targets": "targets",
    "version": "version",
    "splitname": "splitname vg-lv",
    "check": "check --table '0 8 nosuch'",
    "explain": "explain top 0+70",
    "map": "map top",
    "uri": "uri top",
    "path": "path top",
    "mount-point": "mount-point",
    "attach": "attach top",
    "daemon": "daemon status",
    "stats list": "stats list low",
    "stats report": "stats report low",
    "stats print": "stats print --allregions low",
    "stats create": "stats create --segments top",
    "stats group": "stats group --regions 1-2 low",
    "stats delete": "stats delete --groupid 3 low",
    "stats ungroup": "stats ungroup --groupid 3 low",
    "stats version": "stats version",
}
# Command: what prints nothing on standard output.
SILENT = {
    "remove": "remove top",
    "remove_all": "remove_all",
    "wipe_table": "wipe_table top",
    "rename": "rename top other",
    "setgeometry": "setgeometry top 1 1 1 0",
    "mknodes": "mknodes",
    "udevcreatecookie": "udevcreatecookie",
    "udevreleasecookie": "udevreleasecookie 0x1",
    "udevcomplete_all": "udevcomplete_all",
    "help": "help",
    "detach": "detach top",
    "stats help": "stats help",
    "stats clear": "stats clear --allregions low",
    "stats update_filemap": "stats update_filemap --groupid 3 /nosuch",
}
# What moves the bytes of a device.
BYTES = {"read", "write"}
# What goes on, and prints an object a line: their own tests compare these with the page.
LINES = {"events", "move"}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Generator[Home]:
    """Two devices, and regions of statistics; the files of devices are words."""
    monkeypatch.setenv("DMTOOL_FUSE", "never")
    made = Home()
    monkeypatch.setattr("dmtool.core.methods.Methods._files", _files)
    monkeypatch.setattr("dmtool.export.fuse.loop.attach", lambda *_, **__: "/dev/loop7")
    monkeypatch.setattr("dmtool.export.fuse.loop.attached", lambda *_: ["/dev/loop7"])
    monkeypatch.setattr("dmtool.export.fuse.loop.detach", lambda *_: True)
    made.call("create", name="low", uuid="LVM-1", table="0 64 zero\n64 64 error")
    made.call("create", name="top", table="0 70 linear /dev/mapper/low 0\n70 8 zero")
    for message in (
        "@stats_create - /2 2 precise_timestamps histogram:5,10 dmstats",
        "@stats_create 0+8 8 dmstats",
        "@stats_create 8+8 8 dmstats",
        "@stats_create 16+8 8 dmstats DMS_GROUP=grp:3-3#-",
    ):
        made.call("message", device={"name": "low"}, sector=0, message=message)
    yield made
    made.close()


def _files(_: object) -> dict[str, str]:
    return {"directory": "/run/x", "mapper": "/run/x/mapper", "control": "/run/x/control"}


Run = Callable[..., Done]


@pytest.fixture
def run_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process, for the core of a home."""
    monkeypatch.setattr(sys, "argv", ["dmtool"])

    def run(home: Home, *args: str) -> Done:
        monkeypatch.setenv("DMTOOL_DIR", home.directory.path)
        capfd.readouterr()
        status = main(args)
        return Done(status, *capfd.readouterr())

    return run


def names() -> Iterator[str]:
    """All commands; those of `stats` one by one."""
    yield from (command.name for command in COMMANDS if command.name != "stats")
    yield from dict.fromkeys(f"stats {command.name}" for command in SUBCOMMANDS)


def test_every_command_is_tried() -> None:
    assert sorted(names()) == sorted([*DATA, *SILENT, *BYTES, *LINES])


def test_what_prints_data_is_declared() -> None:
    tried = {name.split()[0] for name in DATA} | LINES
    assert {command.name for command in COMMANDS if command.data} == tried
    for command in COMMANDS:
        assert command.data == ("json" in command.options), command.name


@pytest.mark.parametrize("name", SILENT)
def test_what_prints_no_data(name: str, home: Home, run_on: Run) -> None:
    assert run_on(home, *shlex.split(SILENT[name])).out == ""


@pytest.mark.parametrize("name", DATA)
def test_json(name: str, home: Home, run_on: Run) -> None:
    line = shlex.split(DATA[name])
    document = json.loads(run_on(home, *line, "--json").out)
    assert document.pop("version") == 1
    assert document, "nothing but a version"
    assert set(fields(document)) <= documented(name)


@pytest.mark.parametrize("name", DATA)
def test_without_json_there_are_words(name: str, home: Home, run_on: Run) -> None:
    done = run_on(home, *shlex.split(DATA[name]))
    told = done.out or done.err  # `check` says on standard error what is wrong
    assert told
    assert not told.startswith("{")


def fields(value: Any) -> Iterator[str]:
    """All names of fields in a document, at whatever depth."""
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner)


def documented(name: str) -> set[str]:
    """The words that the page sets in code where it speaks of a command."""
    text = PAGE.read_text()
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    found = [part for part in sections if f"`{name}`" in part.partition("\n")[0]]
    if not found:
        (others,) = (part for part in sections if part.startswith("Others\n"))
        rows = [line for line in others.splitlines() if line.startswith("| `")]
        found = [row for row in rows if re.search(rf"`{name}[` ]", row.split("|")[1])]
    assert len(found) == 1, f"{PAGE.name} has no place for {name}, or several"
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", found[0]))))


def test_the_page_has_no_unknown_command() -> None:
    headings = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    known = {name for heading in headings for name in re.findall(r"`([^`]+)`", heading)}
    assert known <= set(DATA) | LINES


def test_a_field_that_is_not_in_the_page_would_be_seen() -> None:
    assert "open_count" in documented("info")
    assert "nosuch" not in documented("info")
    assert set(fields({"a": [{"b": 1}], "c": {"d": None}})) == {"a", "b", "c", "d"}
