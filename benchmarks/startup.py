# SPDX-License-Identifier: Apache-2.0
"""How soon a command is done: `dmtool table NAME`, beside Python importing click."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks import servers
from benchmarks.bench import Bench, Measurement

IMPORTING = 1.5
CLICK = "python -c 'import click'"
TABLE = "dmtool table NAME"
_EACH = 10  # of each in one round


def run(bench: Bench) -> None:
    folder = bench.settings.folder
    (image,) = servers.make_images(folder, "startup", 1, 1)
    with servers.Core(folder) as core:
        core.create("one", servers.joined([image], 1))
        environment = dict(os.environ, DMTOOL_DIR=core.directory.path)
        commands = {
            TABLE: [*dmtool(), "table", "one"],
            "dmtool --version": [*dmtool(), "--version"],
            CLICK: [sys.executable, "-c", "import click"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        runs = {name: partial(_time, words, environment) for name, words in commands.items()}
        values = bench.turns(runs)
    measured = bench.add(
        Measurement(
            "startup", "a command, from start to end", "ms", values, {}, False, "Command line"
        )
    )
    bench.ratio(TABLE, CLICK, IMPORTING, measured, TABLE, [CLICK], at_most=True)


def dmtool() -> list[str]:
    """The command as it is installed beside this Python, or else the module."""
    script = Path(sys.executable).with_name("dmtool")
    return [str(script)] if script.exists() else [sys.executable, "-m", "dmtool"]


def _time(words: list[str], environment: dict[str, str]) -> float:
    """Milliseconds of the quickest of some: what a command takes that nothing else got in the
    way of."""
    best = float("inf")
    for _ in range(_EACH):
        begin = time.perf_counter()
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - begin)
    return best * 1e3
