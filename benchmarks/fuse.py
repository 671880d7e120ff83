# SPDX-License-Identifier: Apache-2.0
"""Files by FUSE: a device's file beside the FUSE exports of qemu-storage-daemon and xmount.

All serve the same amount of bytes, from images of their own, to the same fio with O_DIRECT.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import loads, servers
from benchmarks.bench import Bench, Measurement
from benchmarks.loads import Load
from benchmarks.machine import ALIVE, cpu_of

GROUP = "Files by FUSE, fio"
QEMU = "qemu-storage-daemon"
XMOUNT, XMOUNT_CACHE = "xmount", "xmount --cache"
LINEAR, STRIPED = "dmtool", "dmtool striped"
AGAINST_QEMU = 1.0

# 1 MiB goes from the beginning to the end
LOADS = [
    loads.READ_1,
    loads.READ_32,
    Load("write-4k-1", "4K random write, 1 deep", "write", 4 << 10, 1),
    loads.WRITE_32,
    Load("read-1m-1", "1 MiB read, one after the other", "read", 1 << 20, 1),
    Load("write-1m-1", "1 MiB write, one after the other", "write", 1 << 20, 1),
]
_PATIENCE = 20.0  # seconds for a server to serve, and more for a load than it should take


@dataclass(frozen=True, slots=True)
class Served:
    """A file, and who serves it."""

    path: Path
    pid: int
    writable: bool = True


def run(bench: Bench) -> None:
    """Everybody serves all the time; one at a time is asked for something."""
    if shutil.which("fio") is None:
        bench.note("fio is missing: sudo apt install fio")
        return
    folder, size = bench.settings.folder, bench.settings.size
    with ExitStack() as stack:
        core = stack.enter_context(servers.Core(folder))
        files = {}
        for name, text in (
            (LINEAR, servers.joined(servers.make_images(folder, "fuse-linear", 1, size), size)),
            (STRIPED, servers.striped(servers.make_images(folder, "fuse-leg", 2, size), size, 64)),
        ):
            end = core.create(name.replace(" ", "-"), text)
            path = core.call("path", device={"name": end.export})["path"]
            files[name] = Served(Path(path), core.pid)
        if shutil.which(QEMU):
            files[QEMU] = stack.enter_context(_qemu(folder, size))
        else:
            bench.note(f"{QEMU} is missing: sudo apt install qemu-system-common")
        if shutil.which(XMOUNT):
            files[XMOUNT] = stack.enter_context(_xmount(folder, size, cache=False))
            files[XMOUNT_CACHE] = stack.enter_context(_xmount(folder, size, cache=True))
        else:
            bench.note("xmount is missing: sudo apt install xmount")
        for load in LOADS:
            taking = {n: f for n, f in files.items() if f.writable or load.command == "read"}
            measured = _carried(bench, load, taking)
            for ours in (LINEAR, STRIPED):
                title = f"file by FUSE, {load.title}, {'striped' if ours == STRIPED else 'linear'}"
                bench.ratio(title, QEMU, AGAINST_QEMU, measured, ours, [QEMU])


def _carried(bench: Bench, load: Load, files: dict[str, Served]) -> Measurement:
    """One load, carried by each in turn."""
    costs: dict[str, list[float]] = {name: [] for name in files}

    def once(name: str) -> float:
        file, seconds = files[name], bench.settings.seconds
        before = cpu_of(file.pid)
        rate = _fio(load, file.path, seconds)
        # the time before it counts is the server's work too
        requests = rate / load.in_unit(1, 1) * (seconds + loads.WARMUP)
        costs[name].append((cpu_of(file.pid) - before) / requests)
        return rate

    values = bench.turns({name: partial(once, name) for name in files})
    key = f"fuse-{load.key}"
    return bench.add(Measurement(key, load.title, load.unit, values, costs, group=GROUP))


def _fio(load: Load, path: Path, seconds: float) -> float:
    """The rate of a load on a file, in the load's unit."""
    random = "" if load.length >= 1 << 20 else "rand"
    command = [
        *("fio", "--name=load", f"--filename={path}", "--direct=1", "--ioengine=libaio"),
        *(f"--rw={random}{load.command}", f"--bs={load.length}", f"--iodepth={load.depth}"),
        *("--time_based", f"--runtime={seconds * 1000:.0f}ms"),
        *(f"--ramp_time={loads.WARMUP * 1000:.0f}ms", "--norandommap", "--randrepeat=0"),
        *("--gtod_reduce=1", "--thread", "--output-format=json"),
    ]
    patience = seconds + loads.WARMUP + _PATIENCE
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=patience)
    if done.returncode:
        raise SystemExit(f"fio, {load.title}, {path}: {done.stderr.strip()}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0][load.command]
    return load.in_unit(job["iops"], 1)


@contextmanager
def _qemu(folder: Path, size: int) -> Generator[Served]:
    (image,) = servers.make_images(folder, "fuse-qemu", 1, size)
    file = folder / "fuse-qemu-served"
    file.touch()
    export = f"type=fuse,id=fuse,node-name=disk,mountpoint={file},writable=on"
    process = subprocess.Popen(
        [
            *(QEMU, "--blockdev", f"driver=file,node-name=file,filename={image}"),
            *("--blockdev", "driver=raw,node-name=disk,file=file", "--export", export),
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    ALIVE.add(process.pid)
    try:
        _until(lambda: file.stat().st_size > 0, QEMU)
        yield Served(file, process.pid)
    finally:
        ALIVE.discard(process.pid)
        process.terminate()
        process.wait()


@contextmanager
def _xmount(folder: Path, size: int, *, cache: bool) -> Generator[Served]:
    name = "fuse-xmount-cache" if cache else "fuse-xmount"
    (image,) = servers.make_images(folder, name, 1, size)
    place = folder / f"{name}-served"
    place.mkdir()
    options = ["--cache", str(folder / f"{name}-writes")] if cache else []
    command = [XMOUNT, *options, "--in", "raw", str(image), "--out", "raw", str(place)]
    # it goes into the background by itself
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    pid = next(
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if os.fsencode(place) in entry.read_bytes()
    )
    ALIVE.add(pid)
    file = place / f"{image.stem}.dd"
    try:
        _until(file.exists, XMOUNT)
        yield Served(file, pid, cache)
    finally:
        ALIVE.discard(pid)
        subprocess.run(["fusermount3", "-u", place], check=True)


def _until(ready: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{name} does not serve")
        time.sleep(0.01)
