# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is what happens: its `console` blocks are typed in and compared.

In a block, a line that begins with `$ ` is a command (`> ` continues it) and the lines below are
its output, standard error included. Words that differ from run to run are written as `...`, and
how wide a gap is does not count: the columns of a table are as wide as its paths. The blocks of one
file are one session, in a directory of its own that the text calls /home/me.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
HOME = "/home/me"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Files whose sessions are typed elsewhere, and where.
ELSEWHERE = {"examples/dmtool-xor/README.md": "tests/examples/test_xor.py"}


def documents() -> list[str]:
    """Every page with a session in it."""
    pages = [*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), *TOP.glob("plugins/*/*.md")]
    pages += TOP.glob("examples/*/*.md")
    names = {str(page.relative_to(TOP)) for page in pages if BLOCK.search(page.read_text())}
    return sorted(names - set(ELSEWHERE))


def session(text: str) -> list[tuple[str, str]]:
    """``(command, output)`` of all blocks of a page."""
    steps: list[tuple[str, str]] = []
    for line in "".join(BLOCK.findall(text)).splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif line.startswith("> "):
            steps[-1] = (steps[-1][0] + "\n" + line[2:], "")
        else:
            steps[-1] = (steps[-1][0], steps[-1][1] + line + "\n")
    return steps


def spaced(text: str) -> str:
    """Every run of blanks as one, none at the ends of lines."""
    return "\n".join(" ".join(re.split(" +", line)).strip(" ") for line in text.split("\n"))


@pytest.fixture
def home() -> Generator[Path]:
    # not tmp_path: the path of a unix socket has 107 bytes and no more, and `map` shortens paths
    made = Path(tempfile.mkdtemp(prefix="dm-"))
    yield made
    subprocess.run(["dmtool", "remove_all"], env=environment(made), check=True)
    subprocess.run(["dmtool", "daemon", "stop"], env=environment(made), check=True)
    shutil.rmtree(made)


def environment(home: Path) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    path = f"{scripts}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "DMTOOL_DIR": f"{home}/run", "HOME": str(home)}


@pytest.mark.tools("nbdcopy", "nbdinfo", "qemu-img", "mkfs.ext4")
@pytest.mark.parametrize("name", documents())
def test_a_page_tells_what_happens(name: str, home: Path) -> None:
    done = []
    for command, wanted in session((TOP / name).read_text()):
        ran = subprocess.run(
            ["bash", "-c", command.replace(HOME, str(home))],
            cwd=home,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        output = spaced(ran.stdout.replace(str(home), HOME))
        done.append(f"$ {command}\n{output}")
        pattern = ".*?".join(re.escape(part) for part in spaced(wanted).split("..."))
        assert re.fullmatch(pattern, output, re.DOTALL), f"wanted:\n{wanted}\n\n" + "".join(done)
