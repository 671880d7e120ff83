#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How fast a mirror copies, next to cp, dd and qemu-img doing the same, and what it costs others.

Each copies one image to a new one, in turn, round by round, so that all see the same machine; the
mirror is timed from its creation to the event that says that it is in sync. What counts is the
ratio. No one waits for the disk: put --dir where what you care about is, a tmpfs to measure the
copier, a disk to measure the disk.

    python benchmarks/mirror.py --dir /dev/shm --size 2048 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dmtool import Device

MIB = 1 << 20
SECTOR = 512
REGION = 1024  # sectors: what LVM takes

Copy = Callable[[Path, Path], None]


def make_image(path: Path, size: int, dense: float) -> None:
    """``size`` MiB, of which a share of ``dense`` is data and the rest holes, in runs of 1 MiB."""
    place = random.Random(path.name)
    with path.open("wb") as image:
        image.truncate(size * MIB)
        for at in range(size):
            if place.random() < dense:
                image.seek(at * MIB)
                image.write(os.urandom(MIB))


def command(*words: str) -> Copy:
    def run(source: Path, target: Path) -> None:
        named = [word.format(source=source, target=target) for word in words]
        subprocess.run(named, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def mirror(source: Path, target: Path) -> None:
    with mirrored(source, target) as device:
        device.mapped.wait(0)


def mirrored(source: Path, target: Path) -> Device:
    size = source.stat().st_size
    target.touch()
    os.truncate(target, size)
    table = f"0 {size // SECTOR} mirror core 1 {REGION} 2 {source} 0 {target} 0"
    return Device.from_table(table)


COPIES: dict[str, Copy] = {
    "mirror": mirror,
    "cp": command("cp", "--sparse=auto", "{source}", "{target}"),
    "dd": command("dd", "if={source}", "of={target}", "bs=1M"),
    "qemu-img": command("qemu-img", "convert", "-O", "raw", "{source}", "{target}"),
}


def rates(source: Path, rounds: int) -> dict[str, list[float]]:
    """MiB a second, of the image's size, of each that is there, a number a round."""
    size = source.stat().st_size / MIB
    there = {name: copy for name, copy in COPIES.items() if name == "mirror" or shutil.which(name)}
    found: dict[str, list[float]] = {name: [] for name in there}
    target = source.with_suffix(".copy")
    for turn in range(rounds + 1):
        for name, copy in there.items():
            begun = time.perf_counter()
            copy(source, target)
            taken = time.perf_counter() - begun
            if turn:  # the first is for the caches
                found[name].append(size / taken)
            elif name in ("mirror", "cp"):
                subprocess.run(["cmp", source, target], check=True)
            target.unlink()
    return found


def compare(source: Path, rounds: int) -> float:
    """Print a line each; the mirror's share of cp's rate."""
    found = rates(source, rounds)
    base = statistics.median(found["cp"])
    for name, numbers in found.items():
        middle = statistics.median(numbers)
        low, high = min(numbers), max(numbers)
        print(
            f"  {name:10} {middle:8.0f} MiB/s  {middle / base:5.2f} of cp  ({low:.0f}..{high:.0f})"
        )
    return statistics.median(found["mirror"]) / base


def foreground(device: Device, until: Callable[[], bool], write: bool) -> tuple[float, float]:
    """I/Os a second, one after the other, 4 KiB each, at random places; the slowest in ms."""
    place, data = random.Random(1), os.urandom(4096)
    pages = device.size // 4096
    count, slowest, begun = 0, 0.0, time.perf_counter()
    now = begun
    while not until():
        at = place.randrange(pages) * 4096
        if write:
            device.pwrite(data, at)
        else:
            device.pread(4096, at)
        count += 1
        before, now = now, time.perf_counter()
        slowest = max(slowest, now - before)
    return count / (now - begun), slowest * 1000


def tell(device: Device, done: threading.Event) -> None:
    device.mapped.wait(0)
    done.set()


def elapsed(end: float) -> bool:
    return time.perf_counter() > end


def cost(source: Path, seconds: float) -> None:
    """What a foreground load has of a device while it is copied, and after, and what copying has
    beside it."""
    target = source.with_suffix(".copy")
    size = source.stat().st_size / MIB
    for write in (False, True):
        device = mirrored(source, target)
        done = threading.Event()
        watcher = threading.Thread(target=tell, args=(device, done))
        begun = time.perf_counter()
        watcher.start()
        while_copied = foreground(device, done.is_set, write)
        taken = time.perf_counter() - begun
        watcher.join()
        end = time.perf_counter() + seconds
        after = foreground(device, partial(elapsed, end), write)
        device.close()
        target.unlink()
        word = "writes" if write else "reads"
        print(
            f"  4K {word:6}  {while_copied[0]:7.0f}/s, slowest {while_copied[1]:5.1f} ms while copied "
            f"at {size / taken:.0f} MiB/s;  {after[0]:7.0f}/s, slowest {after[1]:5.1f} ms after"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=None, help="where images are made")
    parser.add_argument("--size", type=int, default=1024, help="of an image, in MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.0, help="fail below this share of cp")
    options = parser.parse_args()
    shares = []
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        for dense, name in ((1.0, "all data"), (0.3, "7 of 10 MiB are holes")):
            source = Path(folder, f"{dense}.img")
            make_image(source, options.size, dense)
            print(f"{options.size} MiB, {name}:")
            shares.append(compare(source, options.rounds))
            if dense == 1.0:
                cost(source, 1.0)
            source.unlink()
    return int(min(shares) < options.least)


if __name__ == "__main__":
    sys.exit(main())
