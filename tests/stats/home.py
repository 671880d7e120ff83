# SPDX-License-Identifier: Apache-2.0
"""A core in the test's own process, what is counted on its devices, and Debian's dmstats on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from dmtool.client import Client
from dmtool.core.process import Core
from dmtool.device import MappedDevice
from dmtool.directory import Directory


class Done(NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str


class Home:
    """A core in a directory of its own."""

    def __init__(self) -> None:
        # not tmp_path: the path of a unix socket has 107 bytes and no more
        self.path = Path(tempfile.mkdtemp(prefix="dmtool-stats-"))
        self.directory = Directory(str(self.path / "run"))
        self.core = Core(self.directory, idle=None)
        assert self.core.start()
        self._client = Client(self.directory)

    def call(self, method: str, **params: Any) -> Any:
        return self._client.call(method, **params)

    def create(self, name: str, table: str) -> MappedDevice:
        self.call("create", name=name, table=table)
        return self.device(name)

    def device(self, name: str) -> MappedDevice:
        minor: int = self.call("info", device={"name": name})["minor"]
        with self.core.devices.lock:
            entry = self.core.devices.by_minor(minor)
        assert entry is not None
        return entry.device

    def message(self, name: str, text: str) -> str:
        answer = self.call("message", device={"name": name}, sector=0, message=text)
        return answer["response"] or ""

    def close(self) -> None:
        self._client.close()
        self.core.close()
        shutil.rmtree(self.path)


def real_dmstats(control: Path, socket: Path, *args: str) -> Done:
    """Debian's dmstats, with a driver at ``socket``."""
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("LC_")},
        "LANG": "C",
        "LD_PRELOAD": str(control),
        "DMTOOL_TEST_DRIVER": str(socket),
    }
    done = subprocess.run(
        ["dmstats", *args], env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def count(device: MappedDevice, *requests: tuple[bool, int, int, int, int]) -> None:
    """Have requests counted: ``(write, offset, length, begun, took)``, nanoseconds long ago."""
    meter = device.stats.meter
    assert meter is not None
    for write, offset, length, begun, took in requests:
        meter.end(write, offset, length, meter.begin(write, offset, length, begun), begun + took)
