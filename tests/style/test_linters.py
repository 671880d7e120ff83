# SPDX-License-Identifier: Apache-2.0
"""ruff, mypy and shellcheck find nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def clean(*command: str) -> None:
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    clean(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_has_formatted_everything() -> None:
    clean(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.timeout(300)
def test_types_of_the_package() -> None:
    # by package, not by folder: plugins/ and grammar/ would be seen twice through the symlinks
    clean(sys.executable, "-m", "mypy", "-p", "dmtool", "-p", "benchmarks")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "file", sorted(str(p.relative_to(TOP)) for p in TOP.glob("examples/*/dmtool_*.py"))
)
def test_types_of_the_examples(file: str) -> None:
    clean(sys.executable, "-m", "mypy", "--cache-dir=.mypy_cache/examples", file)


@pytest.mark.tools("shellcheck")
def test_shellcheck_finds_nothing() -> None:
    scripts = [*TOP.glob("examples/*.sh"), *TOP.glob("completion/bash/*")]
    clean("shellcheck", ".ci/run", *map(str, scripts))


@pytest.mark.tools("zsh", "fish")
def test_the_other_shells_can_read_their_completion() -> None:
    clean("zsh", "-n", "completion/zsh/_dmtool")
    clean("fish", "--no-execute", "completion/fish/dmtool.fish")
