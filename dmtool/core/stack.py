# SPDX-License-Identifier: Apache-2.0
"""Mapped devices one on top of the other: how a table finds those below it, that none lies
below itself, and where a sector ends up."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from dmtool.backing import Backing
from dmtool.backing.null import Failing, Zeros
from dmtool.backing.open import devno
from dmtool.core.devices import Devices
from dmtool.core.entry import Entry
from dmtool.device import MAJOR, MappedBacking, MappedDevice
from dmtool.errors import DeviceError
from dmtool.names import mangle
from dmtool.sectors import SECTOR, to_bytes

# An I/O goes down the stack on the Python stack, some four calls a device; far below the limit
# of 1000 calls, and far above what anybody stacks.
DEEPEST = 64

PIECES_MAX = 100_000
_DEV_MAPPER = "/dev/mapper/"


class Resolver:
    """Finds, for one table that is being loaded, the mapped devices that it names.

    Threads: the one that builds the table.
    """

    def __init__(
        self, devices: Devices, mapper: str, entry: Entry | None, *, readonly: bool
    ) -> None:
        """``entry`` is whose table it is, None for a check; ``mapper`` the directory that stands
        for /dev/mapper."""
        self._devices = devices
        self._mapper = mapper.rstrip("/") + "/"
        self._entry = entry
        self._readonly = readonly

    def mapped(self, word: str) -> Backing | None:
        """The device that ``word`` (MAJ:MIN or an absolute path) names, opened; else None.

        Raises OSError: ENXIO where there is no such number, ENODEV without a live table, ELOOP
        where the table's own device lies on it, or the stack would be too deep.
        """
        with self._devices.lock:
            lower = self._find(word)
            if lower is None:
                return None
            if self._entry is not None:
                self._check_loop(self._entry, lower)
            try:
                backing = MappedBacking(lower.device, readonly=self._readonly)
            except OSError:
                reason = f"mapped device {lower.device.name} has no live table"
                raise OSError(errno.ENODEV, reason) from None
            if self._entry is not None:
                # under the same lock as the check: two loads at once cannot close a loop
                self._entry.loading.add(lower.minor)
            return backing

    def _find(self, word: str) -> Entry | None:
        numbers = devno(word)
        if numbers is not None:
            if numbers[0] != MAJOR:
                return None
            lower = self._devices.by_minor(numbers[1])
            if lower is None:
                raise OSError(errno.ENXIO, f"no mapped device {word}")
            return lower
        for prefix in (self._mapper, _DEV_MAPPER):
            name = word.removeprefix(prefix)
            if name != word and "/" not in name:
                lower = self._devices.by_name(name) or self._devices.by_name(mangle(name, "hex"))
                if lower is not None:
                    return lower
        return None

    def _check_loop(self, entry: Entry, lower: Entry) -> None:
        chain = self._down_to(entry.minor, lower)
        if chain is not None:
            names = " -> ".join(e.device.name for e in (entry, *chain))
            raise OSError(errno.ELOOP, f"the device would lie below itself: {names}")
        depth = self._height(entry) + 2 + self._depth(lower)
        if depth > DEEPEST:
            reason = f"{depth} devices would lie one on the other, more than {DEEPEST}"
            raise OSError(errno.ELOOP, reason)

    def _below(self, entry: Entry) -> list[Entry]:
        found = (self._devices.by_minor(minor) for minor in sorted(entry.lower()))
        return [lower for lower in found if lower is not None]

    def _down_to(self, minor: int, start: Entry) -> list[Entry] | None:
        """The way from ``start`` down to the device of that minor, or None."""
        came: dict[int, Entry | None] = {start.minor: None}
        todo = [start]
        while todo:
            at = todo.pop()
            if at.minor == minor:
                way: list[Entry] = []
                step: Entry | None = at
                while step is not None:
                    way.append(step)
                    step = came[step.minor]
                return way[::-1]
            for lower in self._below(at):
                if lower.minor not in came:
                    came[lower.minor] = at
                    todo.append(lower)
        return None

    def _depth(self, entry: Entry) -> int:
        """How many devices lie below this one, at most; a loop counts as too many."""
        level, depth = self._below(entry), 0
        while level and depth <= DEEPEST:
            depth += 1
            level = list({lower for above in level for lower in self._below(above)})
        return depth

    def _height(self, entry: Entry) -> int:
        """How many devices lie on top of this one, at most; a loop counts as too many."""
        level, height = {entry.minor}, -1
        while level and height <= DEEPEST:
            height += 1
            level = {e.minor for e in self._devices.entries() if e.lower() & level}
        return height


Piece = dict[str, Any]
# the devices gone through, each with how far its sectors are ahead of those asked for
_Path = tuple[tuple[str, int], ...]


def explain(device: MappedDevice, sector: int, count: int) -> list[Piece]:
    """Where ``count`` sectors of a device from ``sector`` on are, as the method of that name
    answers. Raises DeviceError EINVAL beyond the end, E2BIG for too many pieces."""
    live = device.live
    end = live.sectors if live else 0
    if not count or sector + count > end:
        raise DeviceError(
            f"sectors {sector} to {sector + count - 1} are not all on the device, which has {end}"
            if count
            else "no sector is asked for",
            errno=errno.EINVAL,
        )
    pieces: list[Piece] = []
    for piece in _pieces(device, sector, count, sector, ()):
        if pieces and _continues(pieces[-1], piece):
            pieces[-1]["length"] += piece["length"]
            continue
        pieces.append(piece)
        if len(pieces) > PIECES_MAX:
            raise DeviceError(
                f"there are more than {PIECES_MAX} pieces",
                errno=errno.E2BIG,
                hint="ask for fewer sectors",
            )
    return pieces


def _pieces(
    device: MappedDevice, sector: int, count: int, start: int, path: _Path
) -> Iterator[Piece]:
    """Pieces of a device's sectors; ``start`` is where they are on the device asked for."""
    live = device.live
    path = (*path, (device.name, sector - start))
    if live is None or sector + count > live.sectors:  # it has shrunk, or is going
        yield _piece(start, count, path, "none", "", None, "")
        return
    window = 2048
    while count:
        part = min(window, count)
        segments = live.segments(to_bytes(sector), to_bytes(part))
        # large plain targets in few steps, finely striped ones in little memory
        window = window * 2 if len(segments) < 64 else max(window // 2, 2048)
        for backing, offset, length in segments:
            size = length // SECTOR
            target = live.target_at(sector)
            type = target.type.name if target else ""
            if isinstance(backing, MappedBacking):
                yield from _pieces(backing.device, offset // SECTOR, size, start, path)
            else:
                kind, name, at = _end(backing, offset)
                yield _piece(start, size, path, kind, name, at, type)
            sector += size
            start += size
        count -= part


def _end(backing: Backing, offset: int) -> tuple[str, str, int | None]:
    if backing.kind == "file":
        return "file", str(getattr(backing, "path", backing)), offset
    if backing.kind == "block":
        name = str(getattr(backing, "name", backing))
        path = f"/dev/{name}"
        return "block", path if os.path.exists(path) else str(backing), offset
    if isinstance(backing, Zeros):
        return "zero", "", None
    if isinstance(backing, Failing):
        return "error", "", None
    return "map", "", None


def _piece(
    start: int,
    length: int,
    path: _Path,
    kind: str,
    name: str,
    offset: int | None,
    type: str,
) -> Piece:
    return {
        "start": start,
        "length": length,
        "path": [{"device": device, "sector": start + ahead} for device, ahead in path],
        "kind": kind,
        "name": name,
        "offset": offset,
        "type": type,
    }


def _continues(piece: Piece, after: Piece) -> bool:
    """Whether ``after`` only goes on where ``piece`` ends."""
    if any(piece[key] != after[key] for key in ("kind", "name", "type")):
        return False
    length = piece["length"]
    if piece["offset"] is not None and piece["offset"] + to_bytes(length) != after["offset"]:
        return False
    path, going_on = piece["path"], after["path"]
    return len(path) == len(going_on) and all(
        a["device"] == b["device"] and a["sector"] + length == b["sector"]
        for a, b in zip(path, going_on, strict=True)
    )
