# SPDX-License-Identifier: Apache-2.0
"""One bit a region, laid out as dm-log has them on disk: bit 0 is the lowest of the first byte."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The first byte in which a bit is set, or clear.
_HAS_ONE = re.compile(rb"[^\x00]")
_HAS_ZERO = re.compile(rb"[^\xff]")


class Bits:
    """``size`` bits, all clear at first; ``count`` of them are set.

    ``data`` are the bytes, a multiple of 8; those that are given are used in place, and every bit
    of them from ``size`` on is clear.

    Threads: none of its own; its owner's lock.
    """

    def __init__(self, size: int, data: bytearray | memoryview | None = None) -> None:
        self.size = size
        self.data = bytearray(octets(size)) if data is None else data
        self.count = self.mask().bit_count()

    def __getitem__(self, at: int) -> bool:
        return bool(self.data[at >> 3] >> (at & 7) & 1)

    def fill(self, first: int, end: int, value: bool) -> None:
        """Set or clear the bits from ``first`` up to, not including, ``end``."""
        if first >= end:
            return
        low, high = first >> 3, (end + 7) >> 3
        old = int.from_bytes(self.data[low:high], "little")
        mask = ((1 << (end - first)) - 1) << (first & 7)
        new = old | mask if value else old & ~mask
        self.data[low:high] = new.to_bytes(high - low, "little")
        self.count += new.bit_count() - old.bit_count()

    def find(self, value: bool, start: int, end: int) -> int:
        """The first bit from ``start`` on that is ``value``; ``end`` where there is none before."""
        if start >= end:
            return end
        flip = 0 if value else 0xFF
        byte = start >> 3
        bits = (self.data[byte] ^ flip) & (0xFF << (start & 7))
        if not bits:
            found = (_HAS_ONE if value else _HAS_ZERO).search(self.data, byte + 1, (end + 7) >> 3)
            if found is None:
                return end
            byte = found.start()
            bits = self.data[byte] ^ flip
        return min((byte << 3) + (bits & -bits).bit_length() - 1, end)

    def runs(self, first: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """``(first, end, value)`` of neighbours with one value, in order."""
        while first < end:
            value = self[first]
            stop = self.find(not value, first, end)
            yield first, stop, value
            first = stop

    def mask(self) -> int:
        """All of them as one number, bit 0 its lowest."""
        return int.from_bytes(self.data, "little")

    def load(self, mask: int) -> None:
        """What ``mask`` was for: all of them anew."""
        self.data[:] = mask.to_bytes(len(self.data), "little")
        self.count = mask.bit_count()


def octets(size: int) -> int:
    """Bytes that ``size`` bits take up: whole 64-bit words, as in the kernel."""
    return (size + 63) // 64 * 8


def span(first: int, end: int) -> int:
    """The mask of the bits from ``first`` up to, not including, ``end``."""
    return ((1 << (end - first)) - 1) << first
