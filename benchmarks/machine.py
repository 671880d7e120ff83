# SPDX-License-Identifier: Apache-2.0
"""What the numbers depend on: the machine, the versions, and who else used the processor."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import dmtool
from dmtool import btree
from dmtool.export.nbd import lane
from dmtool.table import columns

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = (3, 4)  # the fields of a `cpu` line that are idle and iowait

# Processes that run for the benchmark and have not been waited for.
ALIVE: set[int] = set()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / _TICKS


def used_by_others() -> float:
    """Seconds of CPU, of all cores, that were used for something else, from some beginning on."""
    ours = sum(map(cpu_of, ALIVE))
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        ours += usage.ru_utime + usage.ru_stime
    fields = list(map(int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]))
    busy = sum(value for at, value in enumerate(fields) if at not in _IDLE)
    return busy / _TICKS - ours


def description() -> dict[str, str]:
    """The machine, as a list of properties."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{memory:.0f} GiB",
        "system": f"{_distribution()}, Linux {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Of dmtool, and of everything that is compared with it and is there."""
    found = {
        "dmtool": f"{dmtool.__version__} ({_commit()}), index {btree.INDEX}, NBD {lane.LANE},"
        f" tables {columns.COLUMNS}",
        "Python": platform.python_version(),
    }
    for command in ("nbdkit", "qemu-nbd", "qemu-storage-daemon", "xmount", "fio", "cc"):
        if shutil.which(command):
            found[command] = _version(command)
    for name in ("numpy", "click"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _version(command: str) -> str:
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return match[0] if match else "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return sys.platform


def _commit() -> str:
    top = Path(__file__).parents[1]
    git = ["git", "-C", str(top), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "no git"
    return done.stdout.strip() or "no git"
