# SPDX-License-Identifier: Apache-2.0
"""A link to ``dmtool`` is, by its name, dmsetup, dmstats or devmap_name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.cli.conftest import Done, Shell

# What pip makes of the entry point.
SCRIPT = """\
#!{python}
import sys
from dmtool.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
Linked = Callable[..., Done]


@pytest.fixture
def linked(shell: Shell) -> Linked:
    """Run a command line by the link of that name."""
    script = shell.cwd / "dmtool"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)

    def linked(name: str, *words: str) -> Done:
        link = shell.cwd / name
        if not link.exists():
            link.symlink_to(script)
        done = subprocess.run(
            [link, *words],
            env=shell.environment,
            cwd=shell.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return linked


def test_usage(linked: Linked) -> None:
    ours = linked("dmtool", "help").err
    theirs = linked("dmsetup", "help").err
    assert "--json" in ours
    assert "explain" in ours
    assert theirs.startswith("Usage:\n\ndmsetup\n")
    assert "--json" not in theirs
    assert "explain" not in theirs
    assert linked("dmsetup", "stats", "help").err.startswith("Usage:\n\ndmsetup stats\n")
    assert linked("dmstats", "help").err.startswith("Usage:\n\ndmstats\n")
    usage = "Usage: devmap_name <major> <minor>\n\nCouldn't process command line.\n"
    assert linked("devmap_name") == (1, "", usage)
    assert linked("dmsetup", "--nosuch").err.startswith("dmsetup: unrecognized option")


def test_commands(linked: Linked) -> None:
    assert linked("dmsetup", "create", "vol", "--table", "0 8 zero") == (0, "", "")
    assert linked("dmtool", "table", "vol").out == "0 8 zero \n"
    assert linked("dmsetup", "uri", "vol").out.startswith("nbd+unix:///vol?")
    assert linked("devmap_name", "1000", "0") == (0, "vol\n", "")
    assert linked("devmap_name", "1000:1") == (1, "", "Device does not exist.\nCommand failed.\n")
    created = "vol: Created new region with 1 area(s) as region ID 0\n"
    assert linked("dmstats", "create", "vol").out == created
    assert linked("dmstats", "list", "--noheadings", "-o", "region_id").out == "0\n"
