# SPDX-License-Identifier: Apache-2.0
"""The same command line to dmsetup and to us under its name, where it answers without a driver."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.tools("dmsetup")

LINES = Path(__file__).with_name("command-lines.txt").read_text("utf-8").splitlines()
# Command lines in one test.
BATCH = 20


def wanted() -> list[list[str]]:
    """Batches of the lines in the file; ``#`` begins a remark."""
    lines = [line for line in LINES if not line.startswith("#")]
    return [lines[start : start + BATCH] for start in range(0, len(lines), BATCH)]


@pytest.mark.parametrize("lines", wanted(), ids=lambda lines: lines[0])
def test_says_the_same(
    lines: list[str], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dmsetup = shutil.which("dmsetup")
    assert dmsetup
    monkeypatch.delenv("POSIXLY_CORRECT", raising=False)
    # an error's text is in the user's language
    monkeypatch.setenv("LC_ALL", "C")
    for line in lines:
        words = shlex.split(line)
        theirs = subprocess.run(
            ["dmsetup", *words],
            executable=dmsetup,
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        told = (theirs.returncode, theirs.stdout.decode(), theirs.stderr.decode())
        assert run(*words, prog="dmsetup") == told, line
