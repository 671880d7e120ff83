# SPDX-License-Identifier: Apache-2.0
"""Cores for tests of statistics, and dmstats on them: ours, and the real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from dmtool.cli import main
from dmtool.device.stats import Region
from tests.stats.home import Done, Home

HERE = Path(__file__).parent


@pytest.fixture
def homes() -> Generator[Callable[[], Home]]:
    """Make cores; closes them all."""
    made: list[Home] = []

    def make() -> Home:
        made.append(Home())
        return made[-1]

    yield make
    for home in made:
        home.close()


@pytest.fixture
def home(homes: Callable[[], Home]) -> Home:
    return homes()


Dmstats = Callable[..., Done]


@pytest.fixture
def call_as(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """``call_as(program, home, *args)``: our command line, in this process."""

    def call(prog: str, home: Home, *args: str) -> Done:
        monkeypatch.setattr(sys, "argv", [prog])
        monkeypatch.setenv("DMTOOL_DIR", home.directory.path)
        monkeypatch.setenv("LANG", "C")
        status = main(args)
        captured = capsys.readouterr()
        return Done(status, captured.out, captured.err)

    return call


@pytest.fixture
def dmstats(home: Home, call_as: Callable[..., Done]) -> Dmstats:
    """``dmstats(*args)`` on the core of ``home``."""
    return lambda *args: call_as("dmstats", home, *args)


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What brings the ioctls of the real dmstats to a core."""
    library = tmp_path_factory.mktemp("control") / "control.so"
    command = ["cc", "-shared", "-fPIC", str(HERE / "control.c"), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters stay when a report has read them, so that the next one says the same."""
    rows = Region.rows

    def kept(self: Region, first: int, count: int, *, clear: bool) -> str:
        return rows(self, first, count, clear=False)

    monkeypatch.setattr(Region, "rows", kept)
