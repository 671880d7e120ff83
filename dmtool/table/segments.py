# SPDX-License-Identifier: Apache-2.0
"""From plan to segments: which bytes of which backing a run of a target's bytes is.

Everything here is in bytes, counted from the target's (or piece's) start. A segment is a plain
tuple ``(backing, offset, length)``: millions are made a second.

Threads: immutable, any thread.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

from dmtool.backing import Backing, Bytes
from dmtool.backing.null import ZEROS, Failing
from dmtool.plan import Extent, Fail, Mirrored, Pieces, Plan, Striped, Zero
from dmtool.sectors import to_bytes
from dmtool.table.mapping import PythonMap

Segment = tuple[Backing, int, int]


class Run(Protocol):
    """A plan, ready to be asked where bytes are."""

    def one(self, offset: int, length: int) -> tuple[Backing, int] | None:
        """(backing, offset there) if the whole range lies in one piece, else None."""

    def one_read(self, offset: int, length: int) -> tuple[Backing, int] | None:
        """The same, for reads only: where they go while all goes well."""

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        """Append the range's segments, in order."""

    def ranges(self, offset: int, length: int, out: list[Segment]) -> None:
        """The same in any order, and as few as can be: for discards."""


class Single:
    """All on one backing, from its byte ``start`` on."""

    __slots__ = ("backing", "start")

    def __init__(self, backing: Backing, start: int = 0) -> None:
        self.backing = backing
        self.start = start

    def one(self, offset: int, length: int) -> tuple[Backing, int] | None:
        return self.backing, self.start + offset

    one_read = one

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        out.append((self.backing, self.start + offset, length))

    ranges = split


class Chunked:
    """Chunks dealt out in turn to ``legs``: ``(backing, start)``."""

    __slots__ = ("chunk", "legs")

    def __init__(self, legs: tuple[tuple[Backing, int], ...], chunk: int) -> None:
        self.legs = legs
        self.chunk = chunk

    def one(self, offset: int, length: int) -> tuple[Backing, int] | None:
        number, within = divmod(offset, self.chunk)
        if within + length > self.chunk:
            return None
        row, leg = divmod(number, len(self.legs))
        backing, start = self.legs[leg]
        return backing, start + row * self.chunk + within

    one_read = one

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        chunk, legs = self.chunk, self.legs
        number, within = divmod(offset, chunk)
        while length:
            row, leg = divmod(number, len(legs))
            backing, start = legs[leg]
            size = min(chunk - within, length)
            out.append((backing, start + row * chunk + within, size))
            length -= size
            number += 1
            within = 0

    def ranges(self, offset: int, length: int, out: list[Segment]) -> None:
        # what a leg has of a range is one run of bytes there (dm-stripe.c, stripe_map_range)
        for leg, (backing, start) in enumerate(self.legs):
            begin, end = self._before(offset, leg), self._before(offset + length, leg)
            if end > begin:
                out.append((backing, start + begin, end - begin))

    def _before(self, offset: int, leg: int) -> int:
        """How many of the first ``offset`` bytes are on a leg."""
        row, within = divmod(offset, self.chunk * len(self.legs))
        return row * self.chunk + min(max(within - leg * self.chunk, 0), self.chunk)


class Joined:
    """Runs one after the other; ``ends`` are the bytes at which each ends."""

    __slots__ = ("ends", "runs")

    def __init__(self, ends: list[int], runs: list[Run]) -> None:
        self.ends = ends
        self.runs = runs

    def one(self, offset: int, length: int) -> tuple[Backing, int] | None:
        i = bisect_right(self.ends, offset)
        if offset + length > self.ends[i]:
            return None
        return self.runs[i].one(offset - (self.ends[i - 1] if i else 0), length)

    def one_read(self, offset: int, length: int) -> tuple[Backing, int] | None:
        i = bisect_right(self.ends, offset)
        if offset + length > self.ends[i]:
            return None
        return self.runs[i].one_read(offset - (self.ends[i - 1] if i else 0), length)

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        i = bisect_right(self.ends, offset)
        while length:
            begin = self.ends[i - 1] if i else 0
            size = min(self.ends[i] - offset, length)
            self.runs[i].split(offset - begin, size, out)
            offset += size
            length -= size
            i += 1

    def ranges(self, offset: int, length: int, out: list[Segment]) -> None:
        i = bisect_right(self.ends, offset)
        while length:
            begin = self.ends[i - 1] if i else 0
            size = min(self.ends[i] - offset, length)
            self.runs[i].ranges(offset - begin, size, out)
            offset += size
            length -= size
            i += 1


class Legs(Backing):
    """The legs of a mirror as one backing; what fails on a leg is handed to the target's map."""

    def __init__(self, legs: Sequence[tuple[Backing, int]], plan: Mirrored, map: PythonMap) -> None:
        self.legs = legs
        self.read_from = legs[plan.read_from]
        self.writes = plan.writes
        self.map = map
        self.begin = to_bytes(map.target.begin)
        self.size = to_bytes(map.target.len)

    def pread(self, length: int, offset: int) -> bytes:
        backing, start = self.read_from
        try:
            return backing.pread(length, start + offset)
        except OSError:
            return self.map.pread(length, self.begin + offset)

    def pwrite(self, data: Bytes, offset: int) -> None:
        self.write(data, offset, fua=False)

    def write_plain(self, data: Bytes, offset: int) -> bool:
        """Write to all legs. False: not all of it was, and the target does not know."""
        return self._all(lambda leg, at: leg.pwrite(data, at), offset)

    def write(self, data: Bytes, offset: int, *, fua: bool) -> None:
        if not self._all(lambda leg, at: leg.pwrite(data, at), offset):
            self.map.write(data, self.begin + offset, fua=fua)
        elif fua:
            self.flush()

    def _flush(self, leg: Backing) -> None:
        # apart from the write: a flush that fails may have lost more than this write's data
        try:
            leg.flush()
        except OSError as error:
            failed = self.map.flush_failed(leg, error)
            if failed:
                raise failed from None

    def flush(self) -> None:
        for leg in {id(leg): leg for leg, _ in self.legs}.values():
            self._flush(leg)

    def discard(self, offset: int, length: int) -> None:
        if not self._all(lambda leg, at: leg.discard(at, length), offset):
            self.map.discard(self.begin + offset, length)

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        if not self._all(lambda leg, at: leg.write_zeroes(at, length, allocate=allocate), offset):
            self.map.write_zeroes(self.begin + offset, length, allocate=allocate)

    def _all(self, do: Callable[[Backing, int], None], offset: int) -> bool:
        if not self.writes:
            return False
        try:
            for leg, start in self.legs:
                do(leg, start + offset)
        except OSError:
            return False
        return True

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        backing, start = self.read_from
        return backing.extents(start + offset, length)


class Mirror:
    """Reads from one leg, writes to all."""

    __slots__ = ("legs",)

    def __init__(self, legs: Legs) -> None:
        self.legs = legs

    def one(self, offset: int, length: int) -> tuple[Backing, int] | None:
        return self.legs, offset

    def one_read(self, offset: int, length: int) -> tuple[Backing, int] | None:
        backing, start = self.legs.read_from
        return backing, start + offset

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        out.append((self.legs, offset, length))

    ranges = split


def compile_constant(plan: Fail | Zero) -> Run:
    """The run of a plan that maps to nothing."""
    return Single(Failing(plan.errno) if isinstance(plan, Fail) else ZEROS)


def compile_plan(plan: Plan, map: PythonMap) -> Run:
    """The run of a plan; ``map`` is the same target's map, for what a plan does not say."""
    match plan:
        case Extent(device, start):
            return Single(device, to_bytes(start))
        case Striped((extent,), _):
            return Single(extent.device, to_bytes(extent.start))
        case Striped(extents, chunk):
            legs = tuple((e.device, to_bytes(e.start)) for e in extents)
            return Chunked(legs, to_bytes(chunk))
        case Mirrored(extents):
            starts = [(e.device, to_bytes(e.start)) for e in extents]
            return Mirror(Legs(starts, plan, map))
        case Fail() | Zero():
            return compile_constant(plan)
        case Pieces(pieces):
            ends = list(accumulate(to_bytes(length) for length, _ in pieces))
            return Joined(ends, [compile_plan(piece, map) for _, piece in pieces])


def uses(plan: Plan, length: int, fn: Callable[[Backing, int, int], None]) -> None:
    """Call ``fn(device, start, length)``, in sectors, for each run of a device that a plan of
    ``length`` sectors uses."""
    match plan:
        case Extent(device, start):
            fn(device, start, length)
        case Striped(extents, _):
            for extent in extents:
                fn(extent.device, extent.start, length // len(extents))
        case Mirrored(extents):
            for extent in extents:
                fn(extent.device, extent.start, length)
        case Pieces(pieces):
            for size, piece in pieces:
                uses(piece, size, fn)
