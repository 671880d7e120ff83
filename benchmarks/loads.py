# SPDX-License-Identifier: Apache-2.0
"""Loads: requests of one kind, so many in flight, on an NBD export."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ALIVE
from benchmarks.servers import Endpoint

LIGHT = Path(__file__).with_name("light.c")
WARMUP = 0.25  # seconds before each load counts
_PATIENCE = 30.0  # seconds more than a load should take


@dataclass(frozen=True, slots=True)
class Load:
    """``command``: read, write, or flush (a write and a flush in turn). ``length`` in bytes."""

    key: str
    title: str
    command: str
    length: int
    depth: int
    connections: int = 1

    @property
    def unit(self) -> str:
        return "GB/s" if self.length >= 1 << 20 else "k/s"

    def in_unit(self, requests: float, seconds: float) -> float:
        scale = self.length / 1e9 if self.length >= 1 << 20 else 1e-3
        return requests / seconds * scale


READ_32 = Load("read-4k-32", "4K random read, 32 deep", "read", 4 << 10, 32)
WRITE_32 = Load("write-4k-32", "4K random write, 32 deep", "write", 4 << 10, 32)
READ_1M = Load("read-1m-4", "1 MiB read, 4 deep", "read", 1 << 20, 4)
WRITE_1M = Load("write-1m-4", "1 MiB write, 4 deep", "write", 1 << 20, 4)
READ_1 = Load("read-4k-1", "4K random read, 1 deep", "read", 4 << 10, 1)
READ_4X8 = Load("read-4k-4x8", "4K random read, 4 connections, 8 deep", "read", 4 << 10, 8, 4)
FLUSH = Load("flush", "4K write and flush in turn", "flush", 4 << 10, 1)
BASIC = [READ_32, WRITE_32, READ_1M, WRITE_1M, READ_1]


class Light:
    """The light client; compiled into ``folder`` first. None of it where there is no compiler.

    ``busy``: the part of a core that it used in its last run.
    """

    def __init__(self, folder: Path) -> None:
        self.busy = 0.0
        self._program = folder / "light"
        compile_c(LIGHT, self._program)

    def run(
        self, load: Load, to: Endpoint, seconds: float, warmup: float = WARMUP, most: int = 0
    ) -> float:
        """One connection's rate, in the load's unit; 0 or the ``most`` requests that are counted."""
        command = self._command(load, to, seconds, warmup)
        if most:
            command.append(str(most))
        patience = seconds + warmup + _PATIENCE
        done = subprocess.run(command, capture_output=True, check=False, timeout=patience)
        if done.returncode:
            raise SystemExit(f"{load.title}, {to.uri}: {done.stderr.decode().strip()}")
        requests, took, used = map(float, done.stdout.split())
        self.busy = used / took
        return load.in_unit(requests, took)

    @contextmanager
    def running(self, load: Load, to: Endpoint) -> Generator[None]:
        """The load in the background, for as long as it takes."""
        process = subprocess.Popen(
            self._command(load, to, 3600, 0), stdout=subprocess.DEVNULL, start_new_session=True
        )
        ALIVE.add(process.pid)
        try:
            yield
            if process.poll() is not None:
                raise SystemExit(f"{load.title}, {to.uri}: ended")
        finally:
            ALIVE.discard(process.pid)
            process.terminate()
            process.wait()

    def _command(self, load: Load, to: Endpoint, seconds: float, warmup: float) -> list[str]:
        words = [load.command, load.length, load.depth, warmup, seconds, random.getrandbits(48)]
        return [str(self._program), str(to.socket), to.export, *map(str, words)]


def compile_c(source: Path, program: Path, *options: str) -> None:
    """Compile one of the C files here."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit(f"{source.name} needs a C compiler: sudo apt install gcc libc6-dev")
    subprocess.run([compiler, "-O2", *options, "-o", program, source], check=True)


def fio_there() -> bool:
    """Whether there is a fio, with its nbd engine."""
    if shutil.which("fio") is None:
        return False
    done = subprocess.run(["fio", "--enghelp"], capture_output=True, text=True, check=False)
    return "nbd" in done.stdout.split()


def fio(load: Load, to: Endpoint, seconds: float) -> float:
    """All connections' rate together, in the load's unit, by fio's nbd engine."""
    command = [
        *("fio", "--name=load", "--ioengine=nbd", f"--uri={to.uri}", f"--rw=rand{load.command}"),
        *(f"--bs={load.length}", f"--iodepth={load.depth}", f"--numjobs={load.connections}"),
        *(
            "--time_based",
            f"--runtime={seconds * 1000:.0f}ms",
            f"--ramp_time={WARMUP * 1000:.0f}ms",
        ),
        *("--group_reporting", "--norandommap", "--randrepeat=0", "--output-format=json"),
        *("--gtod_reduce=1", "--thread"),
    ]
    patience = seconds + WARMUP + _PATIENCE
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience)
    if done.returncode:
        raise SystemExit(f"fio, {load.title}, {to.uri}: {done.stderr.strip()}")
    # libnbd's warnings may come before it
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0][load.command]
    return load.in_unit(job["iops"], 1)
