# SPDX-License-Identifier: Apache-2.0
"""`make demo` says well when all is well, and only then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.sh"
TOOLS = "bash cat cmp dd head mktemp printf rm sed seq sha256sum tail".split()


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with what the demo uses, and without any NBD client."""
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    (tmp_path / "dmtool").symlink_to(Path(sys.executable).parent / "dmtool")
    return tmp_path


def demo(programs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", DEMO],
        env={**os.environ, "PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.tools("nbdcopy")
def test_with_an_nbd_client(programs: Path) -> None:
    (programs / "nbdcopy").symlink_to(str(shutil.which("nbdcopy")))
    done = demo(programs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "$ nbdcopy nbd+unix:///joined?socket=" in done.stdout
    assert done.stdout.endswith("(The device and the files are removed again.)\n")


def test_without_one(programs: Path) -> None:
    done = demo(programs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "$ dmtool read joined >copy.img" in done.stdout


def test_one_wrong_byte_is_a_failure(programs: Path) -> None:
    liar = programs / "nbdcopy"
    liar.write_text('#!/usr/bin/env bash\n{ dmtool read joined | head -c -1; printf X; } >"$2"\n')
    liar.chmod(0o755)
    done = demo(programs)
    assert done.returncode == 1
    assert "NO. That is a bug in dmtool." in done.stdout
    assert "All bytes are right" not in done.stdout
