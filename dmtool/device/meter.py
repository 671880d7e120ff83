# SPDX-License-Identifier: Apache-2.0
"""What counts the I/O of a device: the counters of drivers/md/dm-stats.c, kept in nanoseconds.

``Areas`` holds the counters of one region, which is cut into areas of equal size. ``Meter`` is
what the I/O path calls: it finds the areas that a request touches, in all regions of a device.
Both exist twice, here, as the specification and the fallback, and in C (native/stats.c,
``dmtool._stats``), with the same methods and numbers. ``METER`` names the ones in use,
``"native"`` or ``"python"``; the environment variable ``DMTOOL_METER`` forces one.

*When a request is in flight.* A request that takes time is announced (``begin``) and taken back
(``end``), as in the kernel. Those that are done at once, many together, are told afterwards in one
call (``count``): all of them were in flight from the beginning of their batch to that call. What
such a call says of time that is accounted already, since another thread was faster, adds to the
time in the queue (which is the sum of all durations) but not to the time in which the area was
busy. So that last number may be low where several connections are at work at once; it is never
high. The kernel's is "racy" for the same reason (dm_stat_round).

Times are those of CLOCK_MONOTONIC, time.monotonic_ns(), in nanoseconds; where a method has a
parameter ``now``, 0 means to look at the clock.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from struct import Struct
from time import monotonic_ns
from typing import TYPE_CHECKING, Final, final

from dmtool.native import in_c

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

COUNTERS: Final = 13  # of an area, besides its histogram
_U64: Final = 8  # bytes
_SHIFT: Final = 9  # a sector has 512 bytes

# The words of an area. Where there are two, that of reads is first and that of writes follows.
_IOS, _MERGES, _SECTORS, _TICKS, _BUSY = 0, 2, 4, 6, 8
_BUSY_ANY, _QUEUE = 10, 11
_CLEARED = 12  # words from here to the histogram outlive `clear`
_IN_FLIGHT, _STAMP, _STAMP_ANY = 12, 14, 16
_HISTOGRAM = 17

_REQUEST = Struct(">4xHH8xQI")  # an NBD request: flags, command, offset, length
_READ, _WRITE, _TRIM, _WRITE_ZEROES = 0, 1, 4, 6

# In C a mutex keeps the numbers together; here this does.
_turn = threading.Lock()


@final
class Areas:
    """The counters of the sectors from ``start`` to before ``end``, in areas of ``step``.

    ``bounds`` are the boundaries of the latency histogram in nanoseconds, ascending; it has one
    bin more. Raises MemoryError; ValueError for an empty range or no step.

    Threads: any.
    """

    def __init__(self, start: int, end: int, step: int, bounds: Sequence[int] = ()) -> None:
        if start >= end or not step:
            raise ValueError("a region has sectors, and its areas too")
        self.start, self.end, self.step = start, end, step
        self._bounds = tuple(bounds)
        self._size = _HISTOGRAM + (len(self._bounds) + 1 if self._bounds else 0)
        self._len = (end - start - 1) // step + 1
        self._words = array("Q", bytes(self._len * self._size * _U64))

    def __len__(self) -> int:
        return self._len

    def rows(
        self, first: int, last: int, clear: bool = False, now: int = 0
    ) -> list[tuple[int, ...]]:
        """The areas from ``first`` to before ``last``: the kernel's 13 counters, times in
        nanoseconds, and the bins of the histogram. ``clear`` sets them to zero afterwards, but
        for what is in flight.
        """
        found = []
        with _turn:
            now = now or monotonic_ns()
            for area in range(first, min(last, self._len)):
                at = area * self._size
                for write in (0, 1):
                    self._advance(at, write, now)
                self._advance_any(at, now)
                words = self._words[at : at + self._size]
                found.append(
                    (
                        *(words[field] for field in (_IOS, _MERGES, _SECTORS, _TICKS)),
                        *(words[field + 1] for field in (_IOS, _MERGES, _SECTORS, _TICKS)),
                        words[_IN_FLIGHT] + words[_IN_FLIGHT + 1],
                        words[_BUSY_ANY],
                        words[_QUEUE],
                        words[_BUSY],
                        words[_BUSY + 1],
                        *words[_HISTOGRAM:],
                    )
                )
                if clear:
                    self._clear(at)
        return found

    def _clear(self, at: int) -> None:
        words = self._words
        words[at : at + _CLEARED] = array("Q", bytes(_CLEARED * _U64))
        bins = self._size - _HISTOGRAM
        words[at + _HISTOGRAM : at + self._size] = array("Q", bytes(bins * _U64))

    # -- for Meter, which has the turn --------------------------------------------------------

    def pieces(self, first: int, end: int) -> list[tuple[int, int]]:
        """Where the words of each area are that has sectors of a request, and how many of them."""
        first, end = max(first, self.start), min(end, self.end)
        found = []
        while first < end:
            area = (first - self.start) // self.step
            beyond = min(end, self.start + (area + 1) * self.step)
            found.append((area * self._size, beyond - first))
            first = beyond
        return found

    def begin(self, at: int, write: int, now: int) -> None:
        self._advance(at, write, now)
        self._advance_any(at, now)
        self._words[at + _IN_FLIGHT + write] += 1

    def end_one(self, at: int, write: int, now: int) -> None:
        self._advance(at, write, now)
        self._advance_any(at, now)
        self._words[at + _IN_FLIGHT + write] -= 1

    def was_busy(self, at: int, write: int, since: int, now: int) -> None:
        """One request was in flight from ``since`` to ``now``; see the module on what counts."""
        words = self._words
        self._advance(at, write, since)
        if now > words[at + _STAMP + write]:
            words[at + _BUSY + write] += now - words[at + _STAMP + write]
            words[at + _STAMP + write] = now
        self._advance_any(at, since)
        if now > words[at + _STAMP_ANY]:
            new = now - words[at + _STAMP_ANY]
            words[at + _BUSY_ANY] += new
            words[at + _QUEUE] += new * self._in_flight(at)
            words[at + _STAMP_ANY] = now
        words[at + _QUEUE] += now - since

    def done(self, at: int, write: int, sectors: int, merged: bool, duration: int) -> None:
        words = self._words
        words[at + _IOS + write] += 1
        words[at + _MERGES + write] += merged
        words[at + _SECTORS + write] += sectors
        words[at + _TICKS + write] += duration
        if self._bounds:
            words[at + _HISTOGRAM + bisect_right(self._bounds, duration)] += 1

    def _advance(self, at: int, write: int, now: int) -> None:
        words = self._words
        stamp = words[at + _STAMP + write]
        if now > stamp:
            if words[at + _IN_FLIGHT + write]:
                words[at + _BUSY + write] += now - stamp
            words[at + _STAMP + write] = now

    def _advance_any(self, at: int, now: int) -> None:
        words = self._words
        stamp = words[at + _STAMP_ANY]
        if now > stamp:
            in_flight = self._in_flight(at)
            if in_flight:
                words[at + _BUSY_ANY] += now - stamp
                words[at + _QUEUE] += in_flight * (now - stamp)
            words[at + _STAMP_ANY] = now

    def _in_flight(self, at: int) -> int:
        return self._words[at + _IN_FLIGHT] + self._words[at + _IN_FLIGHT + 1]


@final
class Meter:
    """Counts I/O in all ``regions`` of a device; offsets and lengths are in bytes.

    A request is *merged* if it goes on where the one before it ended, in the same direction.

    Threads: any.
    """

    def __init__(self, regions: Sequence[Areas]) -> None:
        self._regions = tuple(regions)
        self._next: tuple[int, bool] | None = None  # a merged request begins here

    def count(
        self,
        requests: ReadableBuffer,
        first: int,
        end: int,
        apart: Sequence[int],
        since: int,
        now: int = 0,
        place: int = 0,
    ) -> None:
        """Count the NBD requests in ``requests[first:end]``, each a header and what payload it
        has, but not those that begin at the bytes that ``apart`` names, ascending. All began at
        ``since`` and end ``now``. What they call byte 0 is byte ``place`` of the device.
        """
        view = memoryview(requests).cast("B")
        skipped = iter([*apart, -1])
        skip = next(skipped)
        with _turn:
            now = max(now or monotonic_ns(), since)
            at = first
            while end - at >= _REQUEST.size:
                _, command, offset, length = _REQUEST.unpack_from(view, at)
                here = at
                at += _REQUEST.size + (length if command == _WRITE else 0)
                if here == skip:
                    skip = next(skipped)
                elif length and command in (_READ, _WRITE, _TRIM, _WRITE_ZEROES):
                    self._count(command != _READ, offset + place, length, since, now)

    def _count(self, write: bool, offset: int, length: int, since: int, now: int) -> None:
        sector, beyond = _sectors(offset, length)
        merged = self._merged(write, sector, beyond)
        for areas in self._regions:
            for at, sectors in areas.pieces(sector, beyond):
                areas.was_busy(at, write, since, now)
                areas.done(at, write, sectors, merged, now - since)

    def begin(self, write: bool, offset: int, length: int, now: int = 0) -> int:
        """A request, of at least one byte, is under way. What comes back is for ``end``."""
        sector, beyond = _sectors(offset, length)
        with _turn:
            now = now or monotonic_ns()
            for areas in self._regions:
                for at, _ in areas.pieces(sector, beyond):
                    areas.begin(at, write, now)
            return now << 1 | self._merged(write, sector, beyond)

    def end(self, write: bool, offset: int, length: int, begun: int, now: int = 0) -> None:
        """The request that ``begin`` answered ``begun`` to is done, whether it failed or not."""
        sector, beyond = _sectors(offset, length)
        since, merged = begun >> 1, bool(begun & 1)
        with _turn:
            now = max(now or monotonic_ns(), since)
            for areas in self._regions:
                for at, sectors in areas.pieces(sector, beyond):
                    areas.end_one(at, write, now)
                    areas.done(at, write, sectors, merged, now - since)

    def _merged(self, write: bool, sector: int, beyond: int) -> bool:
        merged = self._next == (sector, bool(write))
        self._next = beyond, bool(write)
        return merged


def _sectors(offset: int, length: int) -> tuple[int, int]:
    """The first sector that a request touches, and the first behind it."""
    return offset >> _SHIFT, (offset + length + (1 << _SHIFT) - 1) >> _SHIFT


PythonAreas, PythonMeter = Areas, Meter

if TYPE_CHECKING:
    # To a type checker the specification is what counts; dmtool/_stats.pyi has the same methods.
    METER = "python"
else:

    def _choose(wanted):
        native = in_c("_stats", "DMTOOL_METER", wanted)
        if native is None:
            return PythonAreas, PythonMeter, "python"
        return native.Areas, native.Meter, "native"

    Areas, Meter, METER = _choose(os.environ.get("DMTOOL_METER", ""))
