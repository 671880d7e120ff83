# SPDX-License-Identifier: Apache-2.0
"""What is offered for the last word of a command line. The shells are in test_shells.py."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from dmtool.cli import completion
from dmtool.cli.command import Command
from dmtool.cli.commands import COMMANDS
from dmtool.cli.completion import complete
from dmtool.cli.options import OPTIONS
from dmtool.cli.parameters import HELP, parameters
from dmtool.cli.stats import SUBCOMMANDS
from dmtool.cli.summaries import COMMANDS as SUMMARIES
from dmtool.cli.summaries import STATS
from tests.cli.conftest import Shell, Words

Offered = Callable[..., list[str]]


@pytest.fixture
def offered(words: Words, monkeypatch: pytest.MonkeyPatch) -> Offered:
    """What is offered after some words for the last one, with a core that has two devices."""
    words.add("pool", "0 8 zero ", uuid="LVM-1")
    words.add("po\\x20nd", "0 8 zero ")
    words.answers["targets"] = [{"name": name} for name in ("striped", "linear")]
    monkeypatch.setattr("dmtool.client.Client", lambda **_: words)

    def offered(*args: str, prog: str = "dmtool") -> list[str]:
        return [word.text for word in complete(args, prog).words]

    return offered


def test_commands(offered: Offered) -> None:
    assert offered("su") == ["suspend"]
    assert {"read", "remove", "remove_all", "rename", "reload", "resume"} <= set(offered("re"))
    assert offered("") == [command.name for command in COMMANDS]
    assert offered("--js", "table", "po") == []
    assert offered("nosuch", "") == []


def test_options(offered: Offered) -> None:
    assert offered("suspend", "--no") == ["--noflush", "--nolockfs"]
    assert offered("suspend", "pool", "--noflush", "--no") == ["--nolockfs"]
    assert offered("check", "--h") == ["--help"]
    assert "--select" in offered("table", "-")
    assert offered("--v") == ["--verbose", "--version"]
    for ended in (["suspend", "--", "--no"], ["-o", "--", "info", "--", "--no"]):
        assert offered(*ended) == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_every_option_of_every_command(offered: Offered, command: Any) -> None:
    found = set(offered(command.name, "--"))
    assert {f"--{name}" for name in command.options} <= found


def test_options_of_statistics(offered: Offered) -> None:
    ungroup = ["--alldevices", "--allprograms", "--groupid", "--programid"]
    assert offered("stats", "ungroup", "--") == ungroup
    report = set(offered("stats", "report", "--"))
    assert {"--units", "--histogram", "--relative", "--options", "--json"} <= report
    assert not {"--bounds", "--alias"} & report
    assert offered("create", "--pre", prog="dmstats") == ["--precise"]


def test_names(offered: Offered) -> None:
    assert offered("table", "po") == ["po nd", "pool"]
    assert offered("remove", "pool", "po") == ["po nd"]
    assert offered("remove", "--", "po") == ["po nd", "pool"]
    assert offered("table", "--uuid", "") == ["LVM-1"]
    assert offered("table", "-uL") == ["-uLVM-1"]
    assert offered("info", "-cu", "L") == ["LVM-1"]
    assert offered("table", "-j", "") == ["1000"]
    assert offered("table", "-j", "1000", "-m", "") == ["1", "0"]
    assert offered("wait", "-u", "LVM-1", "") == []
    assert offered("create", "po") == []
    assert offered("setgeometry", "pool", "") == []
    assert offered("splitname", "vg-lv", "") == ["LVM"]


def test_types_and_actions(offered: Offered) -> None:
    assert offered("ls", "--target", "l") == ["linear"]
    assert offered("ls", "--target=") == ["--target=linear", "--target=striped"]
    assert offered("target-version", "linear", "s") == ["striped"]
    assert offered("info", "--format", "gith") == ["github"]
    assert offered("daemon", "") == ["run", "status", "stop"]
    assert offered("mangle", "--manglename", "") == ["none", "hex", "auto"]


def test_formats(offered: Offered) -> None:
    assert offered("info", "--format", "gith") == ["github"]
    assert "grid" in offered("ls", "--format", "")


def test_statistics(offered: Offered) -> None:
    assert offered("stats", "up") == ["update_filemap"]
    assert offered("up", prog="dmstats") == ["update_filemap"]
    assert offered("stats", "list", "poo") == ["pool"]
    assert offered("list", "poo", prog="dmstats") == ["pool"]


def test_columns(offered: Offered) -> None:
    assert offered("info", "-c", "-o", "maj") == ["major"]
    assert offered("info", "-c", "-o", "name,ma") == [
        "name,mangled_name", "name,mangled_uuid", "name,major"
    ]  # fmt: skip
    assert offered("info", "-c", "-o", "major,maj") == []
    assert offered("info", "-c", "-o+maj") == ["-o+major"]
    assert offered("info", "-c", "--sort=-open,-maj") == ["--sort=-open,-major"]
    assert offered("info", "-c", "-S", "sele") == []
    assert offered("info", "-c", "-S", "even") == ["events"]
    assert offered("info", "-c", "-o", "util") == []
    assert offered("stats", "report", "-o", "util") == ["util"]
    assert offered("splitname", "-o", "") == [
        "subsystem", "vg_name", "lv_name", "lv_layer", "all", "help"
    ]  # fmt: skip
    assert offered("ls", "-o", "dev") == ["devno", "devname"]
    assert offered("deps", "-o", "b") == ["blkdevname"]
    assert offered("ls", "--tree", "-o", "ascii,c") == ["ascii,compact"]


def test_what_the_shell_knows_better() -> None:
    assert complete(["create", "vol", ""], "dmtool").modes == ("files",)
    assert complete(["check", ""], "dmtool").modes == ("files",)
    assert complete(["ls", "--exec", ""], "dmtool").modes == ("commands",)
    assert complete(["info", "-o", "na"], "dmtool").modes == ("nospace",)


def test_an_option_whose_argument_is_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = Command("copy", "copy:copy", "--target <image_file>", options=("target",))
    monkeypatch.setitem(completion.BY_NAME, "copy", declared)
    assert complete(["copy", "--target", "x"], "dmtool").modes == ("files",)
    assert complete(["ls", "--target", "x"], "dmtool").modes == ()


def test_lines_are_modes_and_words(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    words.add("pool", "0 8 zero ")
    words.add("two\\x0alines", "0 8 zero ")
    monkeypatch.setattr("dmtool.client.Client", lambda **_: words)
    assert complete(["table", ""], "dmtool").lines() == "\npool\t1000:0\n"


@pytest.mark.parametrize("wrong", [["--nosuch", ""], ["table", "-Z", ""], ["info", "--j=1", ""]])
def test_a_line_that_cannot_be_read(offered: Offered, wrong: list[str]) -> None:
    assert offered(*wrong) == []


def completed(shell: Shell, *args: str) -> list[str]:
    """The lines of an answer, from a process."""
    done = subprocess.run(
        shell.command(*args),
        env={**shell.environment, "_DMTOOL_COMPLETE": "test"},
        cwd=shell.cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_no_core_is_started(shell: Shell) -> None:
    assert completed(shell, "table", "") == [""]
    assert "linear\t" in completed(shell, "ls", "--target", "")
    assert completed(shell, "sus") == ["", f"suspend\t{SUMMARIES['suspend']}"]
    assert not os.path.exists(shell.directory.path)


def test_devices_of_a_core(shell: Shell) -> None:
    shell("create", "vol", "--table", "0 8 zero")
    assert completed(shell, "table", "") == ["", "vol\t1000:0"]
    assert completed(shell, "remove", "vol") == ["", "vol\t1000:0"]
    assert shell("ls").out == "vol\t(1000:0)\n"


def test_a_core_that_hangs_is_not_waited_for(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(shell.directory.path, 0o700)
    monkeypatch.setenv("DMTOOL_DIR", shell.directory.path)
    monkeypatch.setattr(completion, "PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(shell.directory.control)
        silent.listen()
        assert completion.answer(["table", ""], "dmtool") == "\n"
    os.unlink(shell.directory.control)


def test_every_command_declares_options_that_exist() -> None:
    names = {option.name for option in OPTIONS}
    for command in COMMANDS:
        assert set(command.options) <= names, command.name
        assert len({p.name for p in parameters(command)}) == len(parameters(command))
        assert callable(command.load())


def test_everything_has_a_few_words() -> None:
    assert not {option.name for option in OPTIONS} - set(HELP)
    assert not {known.name for known in SUBCOMMANDS} - set(STATS)
    assert not {c.name for c in COMMANDS if not c.own} - set(SUMMARIES)
    assert all(command.summary for command in COMMANDS if command.own)
