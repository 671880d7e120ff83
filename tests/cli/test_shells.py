# SPDX-License-Identifier: Apache-2.0
"""Completion in the shells themselves: Tab is pressed at a terminal, or fish is asked."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.cli.test_links import SCRIPT

COMPLETION = Path(__file__).parents[2] / "completion"
READY = "ready> "


@pytest.fixture
def devices(shell: Shell) -> Shell:
    """A shell whose core has devices, and `dmtool` in its PATH."""
    script = shell.cwd / "bin" / "dmtool"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)
    shell.environment.update(
        PATH=f"{script.parent}:{shell.environment['PATH']}", TERM="dumb", HOME=str(shell.cwd)
    )
    (shell.cwd / "some.table").write_text("0 8 zero\n")
    for name in ("alpha", "be ta", "vg:x", "it's"):
        shell("create", name, "--table", "0 8 error")
    return shell


class Terminal:
    """An interactive shell at a terminal."""

    def __init__(self, shell: Shell, *command: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 400, 0, 0))
        self._fd = ours
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=shell.environment,
            cwd=shell.cwd,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, line: str) -> str:
        """Type a line and press Enter; everything on the terminal up to the next prompt."""
        os.write(self._fd, line.encode() + b"\r")
        seen = b""
        while not seen.endswith(READY.encode()):
            ready, _, _ = select.select([self._fd], [], [], 60)
            assert ready, seen
            seen += os.read(self._fd, 4096)
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()).replace("\r", "")

    def end(self) -> None:
        os.close(self._fd)  # the shell gets SIGHUP
        self._process.wait()


# What is typed, and what must then be seen: mostly what the completed command prints.
TYPED = [
    ("dmtool table alp\t", r"\n0 8 error \n"),
    ("dmtool table be\t", r"\n0 8 error \n"),
    ("dmtool table 'be t\t", r"\n0 8 error \n"),
    ("dmtool table vg:\t", r"\n0 8 error \n"),
    ("dmtool table it\t", r"\n0 8 error \n"),
    ("dmtool table v\t alp\t", r"vg:x: 0 8 error \nalpha: 0 8 error"),
    ("dmtool sus\talpha && dmtool info -c --noheadings -o susp\t alpha", r"\nSuspended\n"),
    ("dmtool info -c --noheadings --sort=-nam\t -o name", r"\nvg:x\n"),
    ("dmtool info -c --noheadings -o nam\t,maj\t alpha", r"\nalpha:1000\n"),
    ("~/bin/dmtool table alp\t", r"\n0 8 error \n"),
    ("dmtool check some.t\t; echo $?", r"\n0\n"),
    ("dmtool ls --exec ech\t", r"\n(nbd\+unix://|\S*/mapper)/alpha"),
    ("dmtool ls --target err\t", r"\nalpha\t?\s*\(1000, 0\)"),
    ("dmtool stats cr\talpha", r"\nalpha: Created new region"),
    ("dmtool table \t\t; dmtool ls --nosu", r"alpha.*be.*it.*vg:x"),
]


def check(terminal: Terminal) -> None:
    for typed, wanted in TYPED:
        seen = terminal.type(typed)
        assert re.search(wanted, seen, re.DOTALL), f"{typed!r} gave {seen}"


@pytest.fixture
def bash(devices: Shell) -> Generator[Terminal]:
    terminal = Terminal(devices, "bash", "--norc", "--noprofile", "-i")
    setup = f"bind 'set enable-bracketed-paste off'; source {COMPLETION}/bash/dmtool; "
    terminal.type(f"{setup} PS1='rea''dy> '")
    yield terminal
    terminal.end()


@pytest.fixture
def zsh(devices: Shell) -> Generator[Terminal]:
    terminal = Terminal(devices, "zsh", "-f", "-i")
    setup = f"unsetopt prompt_cr prompt_sp; unset zle_bracketed_paste; fpath+=({COMPLETION}/zsh); "
    terminal.type(f"{setup} autoload -Uz compinit; compinit -u -D; PS1='rea''dy> '")
    yield terminal
    terminal.end()


def test_bash(bash: Terminal) -> None:
    check(bash)


@pytest.mark.tools("zsh")
def test_zsh(zsh: Terminal) -> None:
    check(zsh)


def fish(shell: Shell, line: str) -> list[str]:
    """What fish offers for a line, without what it says about it."""
    quoted = line.replace("\\", "\\\\").replace("'", "\\'")
    script = f"source {COMPLETION}/fish/dmtool.fish; complete -C '{quoted}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=shell.environment,
        cwd=shell.cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]


@pytest.mark.tools("fish")
def test_fish(devices: Shell) -> None:
    assert fish(devices, "dmtool sus") == ["suspend"]
    assert fish(devices, "dmtool table ") == ["alpha", "be ta", "it's", "vg:x"]
    for typed in ("be", '"be t', "be\\ t"):
        assert fish(devices, f"dmtool table {typed}") == ["be ta"]
    assert fish(devices, "dmtool remove be\\ ta al") == ["alpha"]
    assert fish(devices, "dmtool info -c -o name,maj") == ["name,major"]
    assert fish(devices, "dmtool info --sort=-op") == ["--sort=-open"]
    assert fish(devices, "dmtool check some.") == ["some.table"]
    assert fish(devices, "dmtool ls --exec ech") == ["echo"]
    assert fish(devices, "dmtool suspend --no") == ["--noflush", "--nolockfs"]


NAMES = 'complete -p dmsetup dmstats 2>&1 | grep -c "_dmtool"'


@pytest.mark.tools("fish")
def test_other_names_only_where_they_are_ours(devices: Shell) -> None:
    def commands() -> tuple[str, list[str]]:
        script = f"source {COMPLETION}/bash/dmtool; {NAMES}"
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            env=devices.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.stdout, fish(devices, "dmstats li")

    elsewhere = devices.cwd / "bin" / "dmstats"
    elsewhere.write_text("#!/bin/sh\necho called >called\n")
    elsewhere.chmod(0o755)
    assert commands() == ("0\n", [])
    assert not (devices.cwd / "called").exists()
    elsewhere.unlink()
    for name in ("dmsetup", "dmstats"):
        (devices.cwd / "bin" / name).symlink_to("dmtool")
    assert commands() == ("2\n", ["list"])
