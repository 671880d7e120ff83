# SPDX-License-Identifier: Apache-2.0
"""A command starts with what it needs and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dmtool

# What the core needs to read tables and find plugins, and what only some commands print with.
HEAVY = {
    "dmtool.core",
    "dmtool.table",
    "dmtool.targets",
    "importlib.metadata",
    "lark",
    "platformdirs",
    "pluggy",
    "sqlite3",
    "subprocess",
    "tabulate",
    "tempfile",
    "traceback",
    "unittest",
}

SCRIPT = """
import json, sys
from dmtool.client import Client
import dmtool.client

class Words:
    def call(self, method, **params):
        info = dict(name="a", uuid="", major=1000, minor=0, suspended=False, readonly=False,
                    live=True, inactive=False, open_count=0, event_nr=0, target_count=1,
                    inactive_target_count=0, inactive_readonly=False, read_ahead=256,
                    deferred_remove=False, error=None)
        return [info] if method == "list" else dict(info, info=info, targets=[], text="", deps=[])
    def close(self):
        pass

dmtool.client.Client = Words
from dmtool.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]))
"""


@pytest.mark.parametrize(
    "line",
    ["table a", "status", "info", "info -c", "ls", "suspend a", "create b -n", "deps", "remove a"],
)
def test_imports(line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *line.split()],
        env={"PYTHONPATH": str(Path(dmtool.__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert HEAVY & set(modules) == set()
    assert "click" in modules
    reports = "-c" in line
    assert ("dmtool.cli.report" in modules) == reports
