# SPDX-License-Identifier: Apache-2.0
"""What stands in for the disks of the recordings: image files, or loop devices on them.

Every 512-byte sector of a disk holds one 64-bit little-endian word 64 times,
``index << 56 | sector``, so that a sector's content tells where it was read from.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

SECTOR = 512

# name: (number, sectors, index byte)
RECORDED = {
    "ram0": ("1:0", 16384, 0x10),
    "ram1": ("1:1", 16384, 0x11),
    "ram2": ("1:2", 16384, 0x12),
    "ram3": ("1:3", 16384, 0x13),
    "loop0": ("7:0", 4096, 0x20),
    "loop1": ("7:1", 2048, 0x21),
    "loop2": ("7:2", 100, 0x22),
    "loop3": ("7:3", 1, 0x23),
    "loop4": ("7:4", 4096, 0x24),  # 4096-byte logical blocks
    "loop5": ("7:5", 4096, 0x25),  # read-only
    "loop6": ("7:6", 4096, 0x26),
    "loop7": ("7:7", 4096, 0x27),
}
LOOP_OPTIONS = {"loop4": ["-b", "4096"], "loop5": ["-r"]}
NEED_LOOPS = LOOP_OPTIONS.keys()

WRITTEN = 0xEE  # index byte of what a replay writes: sector of the mapped device


def word(index: int, sector: int) -> bytes:
    """The content of one sector."""
    return struct.pack("<Q", index << 56 | sector) * 64


@cache
def pattern(name: str) -> bytes:
    """The content of a whole disk."""
    _, sectors, index = RECORDED[name]
    return b"".join(word(index, sector) for sector in range(sectors))


class Disk:
    """One disk, at ``path``. Test and core see each other's writes: both use the page cache."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.writable = name != "loop5"
        self._fd = os.open(path, os.O_RDWR if self.writable else os.O_RDONLY)

    def close(self) -> None:
        os.close(self._fd)

    def write(self, sector: int, data: bytes) -> None:
        os.pwrite(self._fd, data, sector * SECTOR)

    def changed(self) -> dict[int, bytes]:
        """Sectors that differ from the pattern: their number and content."""
        whole = pattern(self.name)
        content = os.pread(self._fd, len(whole) + 1, 0)
        assert len(content) == len(whole)
        if content == whole:
            return {}
        return {
            at // SECTOR: content[at : at + SECTOR]
            for at in range(0, len(whole), SECTOR)
            if content[at : at + SECTOR] != whole[at : at + SECTOR]
        }

    def restore(self) -> None:
        for sector in self.changed() if self.writable else ():
            self.write(sector, pattern(self.name)[sector * SECTOR : (sector + 1) * SECTOR])


class Images:
    """Image files in ``root``/dev, called as the recorded disks are.

    An image file has neither a number nor a short name: its path is printed where dmsetup prints
    one of these. So ``theirs`` (for what we print) and ``recorded`` (for what was recorded) both
    put ``<ram0>`` for whatever means that disk. ``ours`` is for tables and commands.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self.disks: dict[str, Disk] = {}
        printed: dict[str, str] = {}
        recorded: dict[str, str] = {}
        for name in RECORDED.keys() - NEED_LOOPS:
            path = root / "dev" / name
            path.write_bytes(pattern(name))
            self.disks[name] = Disk(name, str(path))
            printed |= {str(path): f"<{name}>", f"Device {name}": f"Device <{name}>"}
            recorded |= dict.fromkeys(_spellings(f"/dev/{name}", RECORDED[name][0]), f"<{name}>")
        # under this name the recorder had the image of that disk
        (root / "w" / "loop0.img").hardlink_to(root / "dev" / "loop0")
        self._printed, self.recorded = _translation(printed), _translation(recorded)

    def ours(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/dev/(?!mapper/|null\b|zero\b)", f"{self._root}/dev/", text)

    def theirs(self, text: str) -> str:
        return self._printed(text).replace(self._root, "")

    def close(self) -> None:
        for disk in self.disks.values():
            disk.close()


class Loops:
    """Loop devices; names and numbers are translated one for one."""

    def __init__(self, root: Path) -> None:
        (root / "loops").mkdir()
        self.disks: dict[str, Disk] = {}
        there: dict[str, str] = {}
        here: dict[str, str] = {}
        for name, (number, _, _) in RECORDED.items():
            image = root / "loops" / name
            image.write_bytes(pattern(name))
            self.disks[name] = _attach(name, image)
            path = self.disks[name].path
            node = os.stat(path).st_rdev
            ours = _spellings(path, f"{os.major(node)}:{os.minor(node)}")
            theirs = _spellings(f"/dev/{name}", number)
            there |= dict(zip(ours, theirs, strict=True))
            here |= dict(zip(theirs, ours, strict=True))
        self.ours, self.theirs = _translation(here), _translation(there)

    def recorded(self, text: str) -> str:
        return text

    def close(self) -> None:
        for disk in self.disks.values():
            disk.close()


def _attach(name: str, image: Path) -> Disk:
    command = ["losetup", "--find", "--show", *LOOP_OPTIONS.get(name, []), str(image)]
    attached = subprocess.run(command, capture_output=True, text=True, check=True)
    path = attached.stdout.strip()
    try:
        return Disk(name, path)
    finally:
        # Detaching a device that is open waits for its last close; so none stays behind,
        # however this process ends.
        subprocess.run(["losetup", "--detach", path], check=True)


def _spellings(path: str, number: str) -> tuple[str, ...]:
    """All that means a disk: path, number, its two forms, short name."""
    return path, number, number.replace(":", ", "), os.path.basename(path)


def _translation(words: dict[str, str]) -> Callable[[str], str]:
    any_of = "|".join(map(re.escape, words))
    pattern = re.compile(rf"(?<![\w:/])(?:{any_of})(?![\w:])")
    return lambda text: pattern.sub(lambda found: words[found[0]], text)


Disks = Images | Loops
