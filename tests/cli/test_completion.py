# SPDX-License-Identifier: Apache-2.0
"""Shell completion: commands, options, names of devices."""

from __future__ import annotations

from typing import Any

import pytest
from click.shell_completion import ShellComplete

from dmtool.cli.app import CommandGroup
from dmtool.cli.commands import COMMANDS
from dmtool.cli.options import OPTIONS
from dmtool.cli.parameters import parameters


@pytest.fixture
def complete(words: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is offered after some words for the last one."""
    words.add("pool", "0 8 zero ")
    words.add("po\\x20nd", "0 8 zero ")
    words.answers["targets"] = [{"name": name} for name in ("linear", "striped")]
    monkeypatch.setattr("dmtool.client.Client", lambda **_: words)
    shell = ShellComplete(CommandGroup("dmtool"), {}, "dmtool", "_DMTOOL_COMPLETE")

    def complete(*args: str) -> list[str]:
        return [item.value for item in shell.get_completions(list(args[:-1]), args[-1])]

    return complete


def test_commands(complete: Any) -> None:
    assert complete("su") == ["suspend"]
    assert {"read", "remove", "remove_all", "rename", "reload", "resume"} <= set(complete("re"))


def test_options(complete: Any) -> None:
    assert complete("suspend", "--no") == ["--noflush", "--nolockfs"]


def test_names(complete: Any) -> None:
    assert complete("table", "po") == ["po nd", "pool"]
    assert complete("remove", "pool", "po") == ["po nd", "pool"]
    assert complete("ls", "--target", "l") == ["linear"]
    assert complete("info", "--format", "gith") == ["github"]
    assert complete("daemon", "") == ["run", "status", "stop"]


def test_every_command_declares_options_that_exist() -> None:
    names = {option.name for option in OPTIONS}
    for command in COMMANDS:
        assert set(command.options) <= names, command.name
        assert len({p.name for p in parameters(command)}) == len(parameters(command))
        assert callable(command.load())
