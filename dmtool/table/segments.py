# SPDX-License-Identifier: Apache-2.0
"""From plan to segments: which bytes of which backing a run of a target's bytes is.

Everything here is in bytes, counted from the target's (or piece's) start. A segment is a plain
tuple ``(backing, offset, length)``: millions are made a second.

Threads: immutable, any thread.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from typing import Protocol

from dmtool.backing import Backing
from dmtool.backing.null import ZEROS, Failing
from dmtool.plan import Extent, Fail, Pieces, Plan, Striped, Zero
from dmtool.sectors import to_bytes

Segment = tuple[Backing, int, int]


class Run(Protocol):
    """A plan, ready to be asked where bytes are."""

    def one(self, offset: int, length: int) -> tuple[Backing, int] | None:
        """(backing, offset there) if the whole range lies in one piece, else None."""

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        """Append the range's segments, in order."""


class Single:
    """All on one backing, from its byte ``start`` on."""

    __slots__ = ("backing", "start")

    def __init__(self, backing: Backing, start: int = 0) -> None:
        self.backing = backing
        self.start = start

    def one(self, offset: int, length: int) -> tuple[Backing, int] | None:
        return self.backing, self.start + offset

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        out.append((self.backing, self.start + offset, length))


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


class Sequence:
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

    def split(self, offset: int, length: int, out: list[Segment]) -> None:
        i = bisect_right(self.ends, offset)
        while length:
            begin = self.ends[i - 1] if i else 0
            size = min(self.ends[i] - offset, length)
            self.runs[i].split(offset - begin, size, out)
            offset += size
            length -= size
            i += 1


def compile_plan(plan: Plan) -> Run:
    """The run of a plan."""
    match plan:
        case Extent(device, start):
            return Single(device, to_bytes(start))
        case Striped((extent,), _):
            return Single(extent.device, to_bytes(extent.start))
        case Striped(extents, chunk):
            legs = tuple((e.device, to_bytes(e.start)) for e in extents)
            return Chunked(legs, to_bytes(chunk))
        case Fail(errno):
            return Single(Failing(errno))
        case Zero():
            return Single(ZEROS)
        case Pieces(pieces):
            ends = list(accumulate(to_bytes(length) for length, _ in pieces))
            return Sequence(ends, [compile_plan(piece) for _, piece in pieces])


def uses(plan: Plan, length: int, fn: Callable[[Backing, int, int], None]) -> None:
    """Call ``fn(device, start, length)``, in sectors, for each run of a device that a plan of
    ``length`` sectors uses."""
    match plan:
        case Extent(device, start):
            fn(device, start, length)
        case Striped(extents, _):
            for extent in extents:
                fn(extent.device, extent.start, length // len(extents))
        case Pieces(pieces):
            for size, piece in pieces:
                uses(piece, size, fn)
