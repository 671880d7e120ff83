# SPDX-License-Identifier: Apache-2.0
"""Large tables: a million plain lines, and with --large ten million.

Every second line maps to the other of two images, so that no two lines are one run; the images
are sparse, since nothing but one block of them is read.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import servers
from benchmarks.bench import Bench, Measurement, Row
from dmtool.client.nbd import connect
from dmtool.sectors import SECTOR

GROUP = "Large tables"
LINES = 1_000_000
LARGE = 10_000_000
LENGTH = 8  # sectors of a line
PARSED = 500_000.0  # lines a second
WHOLE, WHOLE_LARGE = 5.0, 60.0  # seconds
RESIDENT = 300.0  # bytes a line
PEAK_LARGE = 4.0  # GiB

_PROGRAM = """
import sys, time
from dmtool.table import load
text = open(sys.argv[1], encoding="ascii").read()
begin = time.thread_time()
table = load(text)
took = time.thread_time() - begin
assert table is not None
print(len(table.targets) / took)
"""


def run(bench: Bench) -> None:
    _table(bench, LINES, PARSED, WHOLE)
    if bench.settings.large:
        _table(bench, LARGE, PARSED, WHOLE_LARGE)
    else:
        bench.note("a table of 10,000,000 lines was left out: --large")


def _table(bench: Bench, lines: int, parsed: float, whole: float) -> None:
    path = _write(bench.settings.folder, lines)
    rounds = bench.settings.rounds if lines == LINES else 1
    rates = bench.turns({"dmtool": lambda: _parse(path)}, rounds)
    title = f"table of {lines:,} plain lines"
    key = f"table-{lines}"
    bench.add(
        Measurement(f"{key}-parsed", f"{title}: text to table", "lines/s", rates, group=GROUP)
    )
    bench.row(Row(f"{title}: parsed", "", parsed, rates["dmtool"], "lines/s"))
    seconds, resident, peak = [], [], []
    for _ in range(rounds):
        took, before, after, most = _create(bench.settings.folder, path, lines)
        seconds.append(took)
        resident.append((after - before) / lines)
        peak.append(most / (1 << 30))
    one = {"dmtool": seconds}
    bench.add(
        Measurement(
            f"{key}-create", f"{title}: `dmtool create` to a first read", "s", one, {}, False, GROUP
        )
    )
    bench.row(Row(f"{title}: `dmtool create` to readable", "", whole, seconds, "s", at_most=True))
    bench.row(Row(f"{title}: resident, a line", "", RESIDENT, resident, "bytes", at_most=True))
    if lines == LARGE:
        bench.row(Row(f"{title}: peak memory", "", PEAK_LARGE, peak, "GiB", at_most=True))


def _write(folder: Path, lines: int) -> Path:
    images = [folder / "even.img", folder / "odd.img"]
    for image in images:
        with image.open("wb") as file:
            file.truncate(LARGE * LENGTH * SECTOR)
    path = folder / f"{lines}.table"
    with path.open("w", encoding="ascii") as file:
        file.writelines(_lines(images, lines))
    return path


def _lines(images: list[Path], lines: int) -> Iterator[str]:
    # backwards on the images: a line is never the continuation of the one before
    for number in range(lines):
        begin, place = number * LENGTH, (LARGE - 1 - number) * LENGTH
        yield f"{begin} {LENGTH} linear {images[number % 2]} {place}\n"


def _parse(path: Path) -> float:
    """Lines a second of the core's own loader, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, path], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def _create(folder: Path, path: Path, lines: int) -> tuple[float, int, int, int]:
    """Seconds until the device is there and read from; the core's memory before, after and at
    most, in bytes."""
    with servers.Core(folder) as core:
        small = f"0 8 linear {folder / 'even.img'} 0"
        core.create("small", small)  # what the first table of all brings with it
        before = _memory(core.pid, "VmRSS")
        environment = dict(os.environ, DMTOOL_DIR=core.directory.path)
        begin = time.perf_counter()
        command = [sys.executable, "-m", "dmtool", "create", "large", str(path)]
        subprocess.run(command, check=True, env=environment)
        with connect(core.directory.nbd, "large") as nbd:
            nbd.pread(4096, (lines // 2) * LENGTH * SECTOR)
        took = time.perf_counter() - begin
        return took, before, _memory(core.pid, "VmRSS"), _memory(core.pid, "VmHWM")


def _memory(pid: int, field: str) -> int:
    """A field of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10
    raise KeyError(field)
