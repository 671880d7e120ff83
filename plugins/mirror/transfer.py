# SPDX-License-Identifier: Apache-2.0
"""Copying bytes of one leg to the others.

Between image files the kernel copies (copy_file_range(2)): a reflink where the file system can
share blocks, and no byte passes through Python in any case. Holes stay holes. On tmpfs, where
there is nothing to share, to read and write takes less time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from dmtool.api import SECTOR, ZERO, Backing, Extent

# Bytes between two looks at whether to stop; also the most that is in memory at once.
_BLOCK = 256 << 10
_KERNEL_BLOCK = 8 << 20
_LOOK_AHEAD = 1 << 30


class Copied(NamedTuple):
    """``done``: sectors of the target up to which all went well; ``moved`` bytes were data;
    ``failed``: the numbers of the legs that had an error, the source's for a read."""

    done: int
    moved: int
    failed: frozenset[int]


class Transfer:
    """From leg number ``source`` of ``legs`` to all others; legs have ``length`` sectors.

    Threads: used by one at a time.
    """

    def __init__(self, legs: Sequence[Extent], length: int, source: int) -> None:
        self._legs = legs
        self._length = length * SECTOR
        self._source = source
        origin = legs[source]
        # a leg that is the very same place needs no copy
        self._to = [
            number
            for number, leg in enumerate(legs)
            if number != source and (leg.device is not origin.device or leg.start != origin.start)
        ]
        self._in_kernel = {
            number
            for number in self._to
            if _plain(origin.device)
            and _plain(legs[number].device)
            and not (_on_tmpfs(origin.device) and _on_tmpfs(legs[number].device))
        }
        self._moved = 0
        self._seen = (0, 0)  # bytes that were no hole when last looked at

    def copy(self, lo: int, hi: int, stopped: Callable[[], bool]) -> Copied:
        """Copy sectors ``lo`` to ``hi`` of the target; ends early, between two blocks, when
        ``stopped()``, and at the first error."""
        self._moved = 0
        at = lo * SECTOR
        failed: set[int] = set()
        for length, hole in self._blocks(at, (hi - lo) * SECTOR):
            if stopped():
                break
            if self._to:
                failed = self._hole(at, length) if hole else self._data(at, length)
            if failed:
                break
            at += length
        return Copied(at // SECTOR, self._moved, frozenset(failed))

    def _blocks(self, at: int, length: int) -> Iterator[tuple[int, bool]]:
        """``(bytes, whether it is a hole)``, in order, cut into blocks."""
        extents = self._extents(at, length)
        block = _KERNEL_BLOCK if self._in_kernel.issuperset(self._to) else _BLOCK
        for size, flags in _whole_sectors(extents):
            if flags & ZERO:
                yield size, True
                continue
            for done in range(0, size, block):
                yield min(block, size - done), False

    def _extents(self, at: int, length: int) -> list[tuple[int, int]]:
        """As Backing.extents. What was seen ahead may have become a hole meanwhile, which costs no
        more than a hole; what was a hole is looked at again."""
        if self._seen[0] <= at and at + length <= self._seen[1]:
            return [(length, 0)]
        device, start = self._place(self._source)
        try:
            found = device.extents(start + at, length)
            if found == [(length, 0)]:
                # some file systems go through all that follows to find the next hole: seldom, then
                ahead = min(_LOOK_AHEAD, self._length - at)
                self._seen = (at, at + _data_length(device, start + at, ahead))
        except OSError:
            return [(length, 0)]
        return found

    def _place(self, leg: int) -> tuple[Backing, int]:
        """Device, and the byte of it at which the target begins."""
        return self._legs[leg].device, self._legs[leg].start * SECTOR

    def _hole(self, at: int, length: int) -> set[int]:
        source, start = self._place(self._source)
        try:
            # a file that was cut off has no holes behind its end, it has nothing there
            source.pread(1, start + at + length - 1)
        except OSError:
            return {self._source}
        return {leg for leg in self._to if not self._clear(leg, at, length)}

    def _clear(self, leg: int, at: int, length: int) -> bool:
        """Zeros on ``leg``, and nothing done where it has a hole already."""
        device, start = self._place(leg)
        try:
            offset = start + at
            for size, flags in device.extents(offset, length):
                if not flags & ZERO:
                    device.write_zeroes(offset, size)
                offset += size
            self._make_readable(device, offset - SECTOR)
        except OSError:
            return False
        return True

    @staticmethod
    def _make_readable(device: Backing, last: int) -> None:
        """The same for a leg that was cut off: what is beyond its end is no hole either."""
        try:
            device.pread(1, last)
        except OSError:
            device.pwrite(bytes(SECTOR), last)

    def _data(self, at: int, length: int) -> set[int]:
        left = [leg for leg in self._to if not self._copy_in_kernel(leg, at, length)]
        self._moved += length
        if not left:
            return set()
        source, start = self._place(self._source)
        failed: set[int] = set()
        for done in range(0, length, _BLOCK):
            try:
                data = source.pread(min(_BLOCK, length - done), start + at + done)
            except OSError:
                return {self._source}
            for leg in left:
                device, begin = self._place(leg)
                try:
                    device.pwrite(data, begin + at + done)
                except OSError:
                    failed.add(leg)
            if failed:
                break
        return failed

    def _copy_in_kernel(self, leg: int, at: int, length: int) -> bool:
        """False: not all of it was; reading and writing will tell which leg is at fault, if any
        is and not merely the pair of file systems."""
        if leg not in self._in_kernel:
            return False
        (source, source_start), (target, target_start) = self._place(self._source), self._place(leg)
        assert source.fd is not None
        assert target.fd is not None
        done = 0
        while done < length:
            try:
                count = os.copy_file_range(
                    source.fd,
                    target.fd,
                    length - done,
                    source_start + at + done,
                    target_start + at + done,
                )
            except OSError:
                self._in_kernel.discard(leg)
                return False
            if not count:
                return False
            done += count
        return True


def _data_length(device: Backing, offset: int, most: int) -> int:
    """How many bytes from ``offset`` on, at most so many, are no hole; there is none at once."""
    if device.kind == "file" and device.fd is not None:
        # not its extents: there may be thousands, and the first is all that is wanted
        return min(os.lseek(device.fd, offset, os.SEEK_HOLE) - offset, most)
    return device.extents(offset, most)[0][0]


def _plain(device: Backing) -> bool:
    return device.kind == "file" and device.fd is not None and not device.readonly


def _on_tmpfs(device: Backing) -> bool:
    """Files of no other file system have seals (F_GET_SEALS in fcntl(2))."""
    assert device.fd is not None
    try:
        fcntl.fcntl(device.fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def _whole_sectors(extents: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Extents that end on sectors; a sector that is zeros only in part counts as data."""
    open_bytes = 0
    for size, flags in extents:
        head = -open_bytes % SECTOR
        if head >= size:
            open_bytes += size
            continue
        if open_bytes:
            yield open_bytes + head, 0
        body = (size - head) // SECTOR * SECTOR
        if body:
            yield body, flags
        open_bytes = size - head - body
    if open_bytes:
        yield open_bytes, 0
