# SPDX-License-Identifier: Apache-2.0
"""Loads that meet something slow: a cold disk, and another connection's FLUSH.

The images are on a disk. Every round of the cold load has servers that were started for it, since
what a server has mapped stays in the page cache whatever is asked. It ends, if not before, when a
quarter of the device has been read, each block once: later on the system takes random reads for
sequential ones, which lie next to so much that is cached, and reads ahead.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from benchmarks import loads, servers
from benchmarks.bench import Bench, Measurement
from benchmarks.servers import DMTOOL, NBDKIT

GROUP = "NBD, images on a disk"
COLD_NBDKIT = 1.0
BESIDE_FLUSH = 0.5


def run(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(dir=bench.settings.disk, prefix="dmtool-benchmarks-") as name:
        folder = Path(name)
        if _on_memory(folder):
            bench.note(f"{bench.settings.disk} is no disk: name another with --disk")
            return
        light = loads.Light(bench.settings.folder)
        _cold(bench, light, folder)
        _beside_flush(bench, light, folder)


def _cold(bench: Bench, light: loads.Light, folder: Path) -> None:
    size = bench.settings.size
    peers = [peer for peer in servers.PEERS if peer.there()]

    def ours() -> float:
        images = servers.make_images(folder, "dmtool", 2, size)
        with servers.Core(bench.settings.folder) as core:
            end = core.create("cold", servers.joined(images, size))
            return _measure(end, images)

    def theirs(peer: servers.Peer) -> float:
        with servers.peer_serving(peer, folder, size) as end:
            return _measure(end, sorted(folder.glob(peer.name.replace(" ", "-") + "-?")))

    def _measure(end: servers.Endpoint, images: list[Path]) -> float:
        left = sum(map(drop, images))
        if left:
            bench.note(f"cold: {left >> 20} MiB of {end.export} stayed in the page cache")
        blocks = (size << 20) // loads.READ_32.length
        return light.run(loads.READ_32, end, bench.settings.seconds, 0, blocks // 4)

    runs: dict[str, Callable[[], float]] = {DMTOOL: ours}
    runs |= {peer.name: partial(theirs, peer) for peer in peers}
    title = f"{loads.READ_32.title}, page cache dropped"
    load = loads.READ_32
    measured = bench.add(Measurement("nbd-cold", title, load.unit, bench.turns(runs), group=GROUP))
    bench.ratio(f"NBD {title}, disk", "best nbdkit", COLD_NBDKIT, measured, DMTOOL, NBDKIT)


def _beside_flush(bench: Bench, light: loads.Light, folder: Path) -> None:
    size, seconds = bench.settings.size, bench.settings.seconds
    images = servers.make_images(folder, "dmtool", 2, size)
    beside, alone = "beside write and flush", "dmtool alone"
    with ExitStack() as stack:
        core = stack.enter_context(servers.Core(bench.settings.folder))
        end = core.create("warm", servers.joined(images, size))
        light.run(loads.READ_32, end, seconds)  # all of it is in the page cache after this

        def flushed() -> float:
            with light.running(loads.FLUSH, end):
                return light.run(loads.READ_32, end, seconds)

        values = bench.turns(
            {beside: flushed, alone: lambda: light.run(loads.READ_32, end, seconds)}
        )
    title = f"{loads.READ_32.title}, warm"
    measured = bench.add(Measurement("nbd-flush", title, loads.READ_32.unit, values, group=GROUP))
    bench.ratio(f"NBD {title}, disk, {beside}", alone, BESIDE_FLUSH, measured, beside, [alone])


def drop(path: Path) -> int:
    """Have the page cache forget a file; the bytes that it has kept all the same."""
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return resident(file.fileno())


def resident(fd: int) -> int:
    """Bytes of a file that are in the page cache (mincore(2))."""
    size = os.fstat(fd).st_size
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        pages = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
        begin = (ctypes.c_char * size).from_buffer(mapped)
        failed = libc.mincore(begin, ctypes.c_size_t(size), pages)
        del begin
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return sum(page & 1 for page in bytes(pages)) * mmap.PAGESIZE


def _on_memory(folder: Path) -> bool:
    """Whether a folder's file system has no disk below it."""
    kinds = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words, _, rest = line.partition(" - ")
        major_minor = words.split()[2]
        kinds[major_minor] = rest.split()[0]
    device = os.stat(folder).st_dev
    return kinds.get(f"{os.major(device)}:{os.minor(device)}") in ("tmpfs", "ramfs")
