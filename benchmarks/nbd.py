#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast the NBD export is, next to `nbdkit file` serving the same image.

A light client keeps a number of requests in flight on one connection. Servers take turns, round
by round, so that both see the same machine; what counts is the ratio. Images are made in --dir,
which should be on tmpfs: this measures servers, not disks.

    python benchmarks/nbd.py --dir /dev/shm --rounds 5
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmtool.client.nbd import Nbd, connect
from dmtool.export.nbd import protocol as p

SECTOR = 512


@dataclass(frozen=True)
class Load:
    """One way to use a server: ``length`` bytes a request, ``depth`` requests in flight."""

    name: str
    command: int
    length: int
    depth: int
    unit: str


LOADS = [
    Load("4K read QD1", p.CMD_READ, 4 << 10, 1, "k/s"),
    Load("4K read QD32", p.CMD_READ, 4 << 10, 32, "k/s"),
    Load("4K write QD1", p.CMD_WRITE, 4 << 10, 1, "k/s"),
    Load("4K write QD32", p.CMD_WRITE, 4 << 10, 32, "k/s"),
    Load("64K read QD8", p.CMD_READ, 64 << 10, 8, "GB/s"),
    Load("64K write QD8", p.CMD_WRITE, 64 << 10, 8, "GB/s"),
    Load("1M read QD4", p.CMD_READ, 1 << 20, 4, "GB/s"),
    Load("1M write QD4", p.CMD_WRITE, 1 << 20, 4, "GB/s"),
]


def requests(load: Load, size: int, count: int, seed: int) -> list[bytes]:
    """Headers of ``count`` requests at random places."""
    where = random.Random(seed)
    blocks = size // load.length
    return [
        p.REQUEST.pack(
            p.REQUEST_MAGIC,
            0,
            load.command,
            i.to_bytes(8, "big"),
            where.randrange(blocks) * load.length,
            load.length,
        )
        for i in range(count)
    ]


def run(nbd: Nbd, load: Load, seconds: float, seed: int) -> float:
    """Requests a second."""
    sock = nbd.sock
    reply = p.SIMPLE_REPLY.size + (load.length if load.command == p.CMD_READ else 0)
    headers = requests(load, nbd.size, 4096, seed)
    if load.command == p.CMD_READ:
        # replies need not be looked at one by one: all have the same length
        stream = memoryview(b"".join(headers) * 2)
        step = p.REQUEST.size

        def send(first: int, count: int) -> None:
            begin = first % 4096 * step
            sock.sendall(stream[begin : begin + count * step])

    else:
        data = os.urandom(load.length)

        def send(first: int, count: int) -> None:
            buffers: list[bytes] = []
            for i in range(first, first + count):
                buffers += (headers[i % 4096], data)
            view = memoryview(b"".join(buffers)) if load.length <= SECTOR * 16 else None
            if view is not None:
                sock.sendall(view)
                return
            for buffer in buffers:
                sock.sendall(buffer)

    buffer = bytearray(256 << 10)
    sent = load.depth
    done = received = 0
    begin = time.perf_counter()
    end = begin + seconds
    send(0, sent)
    while True:
        received += sock.recv_into(buffer)
        new = received // reply - done
        if not new:
            continue
        done += new
        now = time.perf_counter()
        if now < end:
            send(sent, new)
            sent += new
        elif done == sent:
            return done / (now - begin)


@contextmanager
def served(command: list[str], path: Path) -> Generator[int]:
    """Run a server until it listens at ``path``; its process id."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    with socket.socket(socket.AF_UNIX) as sock:
                        sock.connect(str(path))
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"{command[0]} does not start") from None
                    time.sleep(0.01)
            yield process.pid
        finally:
            process.terminate()


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def serve(table: str, path: str) -> None:
    """Serve one device named `bench` until standard input ends."""
    from dmtool.device import MappedDevice
    from dmtool.export.nbd import NbdServer
    from dmtool.table import load

    device = MappedDevice("bench")
    made = load(table)
    assert made is not None
    device.load(made)
    device.resume()
    server = NbdServer(lambda name: device if name == "bench" else None, lambda: ["bench"])
    server.listen_unix(path)
    with server:
        sys.stdin.buffer.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where images are made")
    parser.add_argument("--size", type=int, default=512, help="MiB of the image")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each load and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", default="", help="only loads whose names have this in them")
    parser.add_argument("--structured", action="store_true", help="structured replies (ours only)")
    parser.add_argument(
        "--table",
        help="table to serve; {image} and {sectors} are filled in",
        default="0 {sectors} linear {image} 0",
    )
    parser.add_argument("--serve", nargs=2, metavar=("TABLE", "SOCKET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="dmtool-bench-") as folder:
        compare(arguments, Path(folder))


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    image = folder / "image"
    size = arguments.size << 20
    with image.open("wb") as file:
        for _ in range(arguments.size):
            file.write(os.urandom(1 << 20))
    table = arguments.table.format(image=image, sectors=size // SECTOR)
    servers: dict[str, tuple[list[str], Path, str]] = {}
    if shutil.which("nbdkit"):
        path = folder / "nbdkit.sock"
        servers["nbdkit"] = (["nbdkit", "-f", "-U", str(path), "file", str(image)], path, "")
    path = folder / "dmtool.sock"
    command = [sys.executable, __file__, "--serve", table, str(path)]
    servers["dmtool"] = (command, path, "bench")
    with ExitStack() as stack:
        pids = {}
        clients: dict[str, Callable[[], Nbd]] = {}
        for name, (command, path, export) in servers.items():
            pids[name] = stack.enter_context(served(command, path))
            clients[name] = lambda path=path, export=export, name=name: connect(  # type: ignore[misc]
                path, export, structured=arguments.structured and name == "dmtool"
            )
        for load in LOADS:
            if arguments.loads in load.name:
                measure(load, clients, pids, arguments)


def measure(
    load: Load,
    clients: dict[str, Callable[[], Nbd]],
    pids: dict[str, int],
    arguments: argparse.Namespace,
) -> None:
    rates: dict[str, list[float]] = {name: [] for name in clients}
    costs: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(arguments.rounds):
        for name, client in clients.items():
            with client() as nbd:
                run(nbd, load, min(0.2, arguments.seconds), number)
                before = cpu(pids[name])
                rate = run(nbd, load, arguments.seconds, number)
                costs[name].append((cpu(pids[name]) - before) / (rate * arguments.seconds) * 1e6)
                rates[name].append(rate)
    best = {name: statistics.median(values) for name, values in rates.items()}
    line = [f"{load.name:14}"]
    for name, rate in best.items():
        shown = rate * load.length / 1e9 if load.unit == "GB/s" else rate / 1e3
        line.append(f"{name} {shown:8.2f} {load.unit} {statistics.median(costs[name]):6.1f} us/op")
    if "nbdkit" in best:
        line.append(f"ratio {best['dmtool'] / best['nbdkit']:.2f}")
    print(" | ".join(line), flush=True)


if __name__ == "__main__":
    main()
