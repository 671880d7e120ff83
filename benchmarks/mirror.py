# SPDX-License-Identifier: Apache-2.0
"""How fast a mirror copies, beside cp, dd and qemu-img doing the same, and what it costs others.

Each copies one image to a new one; the mirror is timed from its creation to the event that says that
it is in sync, and to its end. On tmpfs, where nobody waits for a disk: it is the copier that is seen.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Measurement
from dmtool import Device

MIRROR, CP = "dmtool mirror", "cp --sparse=auto"
AGAINST_CP = 0.8
MIB = 1 << 20
SECTOR, PAGE = 512, 4096
REGION = 1024  # sectors: what LVM takes
LARGER = 4  # than the device of other benchmarks: to copy less takes no time
# How much of the image is data; the rest is holes. In runs of 1 MiB.
IMAGES = {"all data": 1.0, "7 of 10 MiB are holes": 0.3}
COMMANDS = {
    CP: ["cp", "--sparse=auto", "{source}", "{target}"],
    "dd": ["dd", "if={source}", "of={target}", "bs=1M"],
    "qemu-img": ["qemu-img", "convert", "-O", "raw", "{source}", "{target}"],
}
COPIED, IN_SYNC = "while copied", "in sync"


def run(bench: Bench) -> None:
    folder, size = bench.settings.folder, bench.settings.size * LARGER
    copies = {MIRROR: mirror}
    for name, words in COMMANDS.items():
        if shutil.which(words[0]):
            copies[name] = partial(command, words)
        else:
            bench.note(f"{words[0]} is missing: sudo apt install qemu-utils")
    for title, share in IMAGES.items():
        source, target = folder / "mirror.img", folder / "mirror.copy"
        make_image(source, size, share)
        for copy in copies.values():
            # whose copy is none is not measured, and what is measured finds warm caches
            copy(source, target)
            subprocess.run(["cmp", source, target], check=True)
            target.unlink()
        values = bench.turns({name: partial(rate, copy, source) for name, copy in copies.items()})
        key = f"mirror-copy-{share:g}"
        group = f"Copying an image of {size} MiB"
        measured = bench.add(Measurement(key, title, "GB/s", values, group=group))
        bench.ratio(f"mirror, copying, {title}", CP, AGAINST_CP, measured, MIRROR, [CP])
        if share == 1.0:
            beside(bench, source, values[MIRROR])
        source.unlink()


def make_image(path: Path, size: int, share: float) -> None:
    """``size`` MiB, the same ones each time."""
    place = random.Random(share)
    with path.open("wb") as image:
        image.truncate(size * MIB)
        for at in range(size):
            if place.random() < share:
                image.seek(at * MIB)
                image.write(os.urandom(MIB))


Copy = Callable[[Path, Path], None]


def command(words: list[str], source: Path, target: Path) -> None:
    named = [word.format(source=source, target=target) for word in words]
    subprocess.run(named, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def mirror(source: Path, target: Path) -> None:
    with mirrored(source, target) as device:
        device.mapped.wait(0)


def mirrored(source: Path, target: Path) -> Device:
    size = source.stat().st_size
    target.touch()
    os.truncate(target, size)
    return Device.from_table(f"0 {size // SECTOR} mirror core 1 {REGION} 2 {source} 0 {target} 0")


def rate(copy: Copy, source: Path) -> float:
    """GB a second, of the image's size, holes and all."""
    target = source.with_suffix(".copy")
    begin = time.perf_counter()
    copy(source, target)
    took = time.perf_counter() - begin
    target.unlink()
    return source.stat().st_size / took / 1e9


def beside(bench: Bench, source: Path, alone: list[float]) -> None:
    """What others have of a device while it is copied, and what the copier has beside them."""
    copying: dict[str, list[float]] = {"alone": alone}
    slowest: dict[str, dict[str, list[float]]] = {}
    group = "A mirror that is used while it is copied"
    for kind in ("read", "write"):
        waits: dict[str, list[float]] = {COPIED: [], IN_SYNC: []}
        copied: list[float] = []
        runs = {
            COPIED: partial(used_while_copied, source, kind, waits[COPIED], copied),
            IN_SYNC: partial(used_in_sync, source, kind, waits[IN_SYNC], bench.settings.seconds),
        }
        values = bench.turns(runs)
        title = f"4K random {kind}, 1 deep"
        bench.add(Measurement(f"mirror-{kind}", title, "k/s", values, group=group))
        slowest[f"slowest 4K {kind}"] = waits
        copying[f"beside {kind}s"] = copied
    for title, waits in slowest.items():
        key = title.replace(" ", "-")
        bench.add(Measurement(f"mirror-{key}", title, "ms", waits, {}, False, group))
    bench.add(
        Measurement("mirror-beside", "copying", "GB/s", copying, group="Copying beside a load")
    )


def used_while_copied(source: Path, kind: str, slowest: list[float], copied: list[float]) -> float:
    target = source.with_suffix(".copy")
    with mirrored(source, target) as device:
        done = threading.Event()
        begin = time.perf_counter()
        watcher = threading.Thread(target=wait, args=(device, done))
        watcher.start()
        value = load(device, kind, done.is_set, slowest)
        copied.append(device.size / (time.perf_counter() - begin) / 1e9)
        watcher.join()
    target.unlink()
    return value


def used_in_sync(source: Path, kind: str, slowest: list[float], seconds: float) -> float:
    target = source.with_suffix(".copy")
    with mirrored(source, target) as device:
        device.mapped.wait(0)
        end = time.perf_counter() + seconds
        value = load(device, kind, lambda: time.perf_counter() > end, slowest)
    target.unlink()
    return value


def wait(device: Device, done: threading.Event) -> None:
    device.mapped.wait(0)
    done.set()


def load(device: Device, kind: str, until: Callable[[], bool], slowest: list[float]) -> float:
    """Thousands of I/Os a second, one after the other, at random places; how long the slowest took
    in ms."""
    place, data = random.Random(1), os.urandom(PAGE)
    pages = device.size // PAGE
    count, longest = 0, 0.0
    begin = now = time.perf_counter()
    while not until():
        at = place.randrange(pages) * PAGE
        if kind == "write":
            device.pwrite(data, at)
        else:
            device.pread(PAGE, at)
        count += 1
        before, now = now, time.perf_counter()
        longest = max(longest, now - before)
    slowest.append(longest * 1e3)
    return count / (now - begin) / 1e3
