#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast a device's file is, next to the FUSE exports of qemu-storage-daemon and xmount.

All serve the same bytes, each from images of its own (they lock them), by turns, round by round, to the same fio with O_DIRECT; what counts is
the ratio. The processor time of the server for one request is measured too: it hardly depends on
what else the machine does. Images are made in --dir, which should be on tmpfs: this measures
servers, not disks. Needs fio; qemu-storage-daemon (Debian: qemu-system-common) and xmount where
they are to be compared.

    python benchmarks/fuse.py --dir /dev/shm --rounds 5
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SIZE = 256 << 20
SECTORS = SIZE >> 9
DEADLINE = 20.0
BYTES = os.urandom(1 << 20)
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """One way to use a file."""

    name: str
    rw: str
    size: str
    depth: int


LOADS = [
    Load("4K read QD1", "randread", "4k", 1),
    Load("4K read QD32", "randread", "4k", 32),
    Load("4K write QD1", "randwrite", "4k", 1),
    Load("4K write QD32", "randwrite", "4k", 32),
    Load("1M read", "read", "1M", 1),
    Load("1M write", "write", "1M", 1),
]


@dataclass
class Server:
    """Something that serves the image as ``file``."""

    name: str
    file: Path
    pid: int
    writable: bool = True
    results: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


Start = Callable[[Path, Path], Generator[Server]]


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{process.args!r} does not serve")
        time.sleep(0.01)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(DEADLINE)


def images(space: Path, name: str, sizes: list[int]) -> list[Path]:
    """Image files of a server's own, full of bytes that are not zero."""
    made = []
    for number, size in enumerate(sizes):
        made.append(space / f"{name}{number}.img")
        with made[-1].open("wb") as file:
            for _ in range(size >> 20):
                file.write(BYTES)
    return made


def table(layout: str, space: Path) -> str:
    half = SECTORS // 2
    if layout == "linear":
        (a,) = images(space, layout, [SIZE])
        return f"0 {SECTORS} linear {a} 0"
    a, b = images(space, layout, [SIZE // 2, SIZE // 2])
    if layout == "striped":
        return f"0 {SECTORS} striped 2 128 {a} 0 {b} 0"
    return f"0 {half} linear {a} 0\n{half} {half} linear {b} 0"


@contextmanager
def ours(layout: str, work: Path, space: Path) -> Generator[Server]:
    place = work / f"dmtool-{layout}"
    place.mkdir()
    command = [sys.executable, __file__, "--serve", str(place), table(layout, space)]
    process = subprocess.Popen(command)
    file = place / "mapper" / "vol"
    until(file.exists, process)
    try:
        yield Server(f"dmtool {layout}", file, process.pid)
    finally:
        stop(process)


def serve(place: Path, text: str) -> None:
    """What ``ours`` starts: one device and its file."""
    from dmtool.device import MappedDevice
    from dmtool.export.fuse import Access, FuseExport
    from dmtool.table import load

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    device = MappedDevice("vol")

    class One:
        def names(self) -> list[str]:
            return ["vol"]

        def lookup(self, name: str) -> MappedDevice | None:
            return device if name == "vol" else None

        def access(self, _: MappedDevice) -> Access:
            return Access()

        def mapped(self, _: str) -> None:
            return None

    made = load(text, source="table", cwd="/", readonly=False, devices=One())
    assert made is not None
    device.load(made)
    device.resume()
    export = FuseExport(place, One())
    export.start()
    signal.sigwait({signal.SIGTERM})
    export.close()
    device.destroy()


@contextmanager
def qemu(work: Path, space: Path) -> Generator[Server]:
    (image,) = images(space, "qemu", [SIZE])
    file = work / "qemu.img"
    file.touch()
    process = subprocess.Popen(
        [
            *("qemu-storage-daemon", "--blockdev"),
            f"driver=file,node-name=file,filename={image}",
            *("--blockdev", "driver=raw,node-name=disk,file=file", "--export"),
            f"type=fuse,id=fuse,node-name=disk,mountpoint={file},writable=on",
        ]
    )
    until(lambda: file.stat().st_size > 0, process)
    try:
        yield Server("qemu-storage-daemon", file, process.pid)
    finally:
        stop(process)


@contextmanager
def xmount(work: Path, space: Path, *, cache: bool) -> Generator[Server]:
    name = "xmount-cache" if cache else "xmount"
    (image,) = images(space, name, [SIZE])
    place = work / name
    place.mkdir()
    options = ["--cache", str(space / "cache")] if cache else []
    # it goes into the background by itself
    command = ["xmount", *options, "--in", "raw", str(image), "--out", "raw", str(place)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    file = place / f"{image.stem}.dd"
    pid = next(
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if os.fsencode(place) in entry.read_bytes()
    )
    try:
        yield Server(name.replace("-", " --"), file, pid, cache)
    finally:
        subprocess.run(["fusermount3", "-u", place], check=True)


def seconds_used(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def measure(server: Server, load: Load, seconds: float) -> tuple[float, float]:
    """(bytes a second, microseconds of the server's processor time a request)."""
    before = seconds_used(server.pid)
    done = subprocess.run(
        [
            *("fio", "--name=load", f"--filename={server.file}", "--direct=1"),
            *("--ioengine=libaio", f"--rw={load.rw}", f"--bs={load.size}", f"--size={SIZE}"),
            *(f"--iodepth={load.depth}", "--time_based", f"--runtime={seconds}"),
            "--output-format=json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    used = seconds_used(server.pid) - before
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["write" if "write" in load.rw else "read"]
    return side["bw_bytes"], used * 1e6 / max(side["total_ios"], 1)


def show(servers: list[Server], loads: list[Load]) -> None:
    width = max(len(server.name) for server in servers)
    print(f"\n{'':{width}}" + "".join(f"{load.name:>20}" for load in loads))
    for server in servers:
        cells = []
        for load in loads:
            found = server.results.get(load.name)
            if not found:
                cells.append("-")
                continue
            rate, used = (statistics.median(values) for values in zip(*found, strict=True))
            small = load.size == "4k"
            amount = f"{rate / 4096e3:.1f}k/s" if small else f"{rate / 1e9:.2f}GB/s"
            cells.append(f"{amount} {used:.0f}us")
        print(f"{server.name:{width}}" + "".join(f"{cell:>20}" for cell in cells))
    base = next((s for s in servers if s.name.startswith("qemu")), None)
    if base is None:
        return
    print("\nratio to qemu-storage-daemon, round by round: median (least)")
    for server in servers:
        cells = []
        for load in loads:
            pairs = zip(server.results.get(load.name, []), base.results[load.name], strict=False)
            ratios = [ours[0] / theirs[0] for ours, theirs in pairs]
            found_any = bool(ratios) and server is not base
            cells.append(
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f})" if found_any else "-"
            )
        print(f"{server.name:{width}}" + "".join(f"{cell:>20}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"), help="where images are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load in a round")
    parser.add_argument("--layouts", default="linear,striped", help="linear, striped, joined")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(Path(options.serve[0]), options.serve[1])
        return
    if not shutil.which("fio"):
        sys.exit("needs fio (Debian: fio)")
    with ExitStack() as stack:
        space = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.dir)))
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [
            stack.enter_context(ours(layout, work, space)) for layout in options.layouts.split(",")
        ]
        if shutil.which("qemu-storage-daemon"):
            servers.append(stack.enter_context(qemu(work, space)))
        if shutil.which("xmount"):
            servers.append(stack.enter_context(xmount(work, space, cache=False)))
            servers.append(stack.enter_context(xmount(work, space, cache=True)))
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for load in LOADS:
                for server in servers:
                    if server.writable or "write" not in load.rw:
                        result = measure(server, load, options.seconds)
                        server.results.setdefault(load.name, []).append(result)
        show(servers, LOADS)


if __name__ == "__main__":
    main()
