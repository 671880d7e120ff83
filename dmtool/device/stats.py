# SPDX-License-Identifier: Apache-2.0
"""The statistics of a mapped device: regions, and the messages that make, show and remove them.

The messages, their answers and what is refused are those of drivers/md/dm-stats.c (Linux 6.12;
Documentation/admin-guide/device-mapper/statistics.rst); the counting is in meter.py. Counters
live as long as the device does in its core process: they are not stored.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dmtool.device.meter import COUNTERS, Areas, Meter
from dmtool.errors import DeviceError
from dmtool.sectors import U64

# dm-stats.c: DM_STAT_MAX_ENTRIES, DM_STAT_MAX_HISTOGRAM_ENTRIES, DM_STATS_MEMORY_FACTOR
AREAS_MOST = 8388608
BOUNDS_MOST = 134217728
MEMORY_FACTOR = 4

_MS = 1_000_000  # nanoseconds
_ID_MOST = (1 << 31) - 1
_NONE = "-"  # a program id or auxiliary data that was not given
_NUMBER = re.compile(r"[0-9]{1,20}", re.ASCII)
_RANGE = re.compile(r"([0-9]{1,20})\+([0-9]{1,20})", re.ASCII)
# Which of the 13 counters are times.
_TIMES = frozenset((3, 7, 9, 10, 11, 12))

USAGE = {
    "@stats_create": "<range> <step> [<number of options> <options>...] [<program id> [<aux data>]]",
    "@stats_delete": "<region id>",
    "@stats_clear": "<region id>",
    "@stats_list": "[<program id>]",
    "@stats_print": "<region id> [<starting line> <number of lines>]",
    "@stats_print_clear": "<region id> [<starting line> <number of lines>]",
    "@stats_set_aux": "<region id> <aux data>",
}


T = TypeVar("T")


def _nothing() -> None:
    pass


class _Invalid(Exception):
    """What the kernel answers with EINVAL."""


@dataclass(slots=True)
class Region:
    """A region and its counters; sectors. ``bounds`` are as they were given: in milliseconds, or
    nanoseconds if ``precise``."""

    start: int
    end: int
    step: int
    precise: bool
    bounds: tuple[int, ...]
    program_id: str
    aux_data: str
    areas: Areas

    def line(self, number: int) -> str:
        """As ``@stats_list`` shows it."""
        words = [f"{number}: {self.start}+{self.end - self.start} {self.step}"]
        words += [self.program_id, self.aux_data]
        if self.precise:
            words.append("precise_timestamps")
        if self.bounds:
            words.append("histogram:" + ",".join(map(str, self.bounds)))
        return " ".join(words) + "\n"

    def rows(self, first: int, count: int, *, clear: bool) -> str:
        """As ``@stats_print`` shows its areas, a line for each."""
        first = min(first, len(self.areas))
        found = self.areas.rows(first, min(first + count, len(self.areas)), clear)
        return "".join(self._row(number, row) for number, row in enumerate(found, first))

    def _row(self, number: int, row: tuple[int, ...]) -> str:
        start = self.start + number * self.step
        counters = row[:COUNTERS]
        if not self.precise:
            counters = tuple(
                value // _MS if place in _TIMES else value for place, value in enumerate(counters)
            )
        words = [f"{start}+{min(self.step, self.end - start)}", *map(str, counters)]
        if self.bounds:
            words.append(":".join(map(str, row[COUNTERS:])))
        return " ".join(words) + "\n"


class Stats:
    """The statistics of one device. ``meter`` is what its I/O is to be counted with, None while
    there are no regions; who begins a request with one ends it with the same one. ``on_meter`` is
    called when it is another.

    Threads: any.
    """

    def __init__(self) -> None:
        self.meter: Meter | None = None
        self.on_meter: Callable[[], None] = _nothing
        self._regions: dict[int, Region] = {}  # by id, ascending
        self._turn = threading.Lock()

    def timed(self, do: Callable[[], T], write: bool, offset: int, length: int) -> T:
        """Call ``do`` and count it as an I/O on these bytes, also if it raises."""
        meter = self.meter
        if meter is None or not length:
            return do()
        begun = meter.begin(write, offset, length)
        try:
            return do()
        finally:
            meter.end(write, offset, length, begun)

    def message(self, argv: Sequence[str], sectors: int) -> str | None:
        """Answer a message, one of ``USAGE``, to a device of so many sectors; None where the
        kernel does not answer. Raises DeviceError.
        """
        name = argv[0].lower()
        answers: dict[str, Callable[[Sequence[str], int], str | None]] = {
            "@stats_create": self._create,
            "@stats_delete": self._delete,
            "@stats_clear": self._clear,
            "@stats_list": self._list,
            "@stats_print": self._print,
            "@stats_print_clear": self._print_clear,
            "@stats_set_aux": self._set_aux,
        }
        try:
            with self._turn:
                return answers[name](argv[1:], sectors)
        except _Invalid:
            reason = f"Invalid parameters for message {argv[0]}"
            hint = f"{name} {USAGE[name]}"
            raise DeviceError(reason, errno=errno.EINVAL, hint=hint) from None
        except MemoryError:
            raise DeviceError("no memory for the counters", errno=errno.ENOMEM) from None

    # -- messages: called in turn -------------------------------------------------------------

    def _create(self, argv: Sequence[str], sectors: int) -> str:
        if len(argv) < 2:
            raise _Invalid
        start, end = _range(argv[0], sectors)
        step = _step(argv[1], end - start)
        rest = list(argv[2:])
        precise = False
        bounds: tuple[int, ...] = ()
        if rest and _NUMBER.fullmatch(rest[0]):
            options = rest[1 : 1 + int(rest[0])]
            if len(options) < int(rest[0]):
                raise _Invalid
            del rest[: 1 + len(options)]
            precise, bounds = _options(options)
        program_id, aux_data, *more = [*rest, *[_NONE] * (2 - len(rest))]
        if more:
            raise _Invalid
        areas = self._areas(start, end, step, [_nanoseconds(b, precise=precise) for b in bounds])
        region = Region(start, end, step, precise, bounds, program_id, aux_data, areas)
        number = next(n for n in range(len(self._regions) + 1) if n not in self._regions)
        self._regions = dict(sorted([*self._regions.items(), (number, region)]))
        self._changed()
        return str(number)

    def _areas(self, start: int, end: int, step: int, bounds: list[int]) -> Areas:
        """New counters. Raises DeviceError where they are too many, MemoryError."""
        number = (end - start - 1) // step + 1
        if number > AREAS_MOST or len(bounds) > BOUNDS_MOST:
            what = f"{number} areas" if number > AREAS_MOST else f"{len(bounds)} bounds"
            most = AREAS_MOST if number > AREAS_MOST else BOUNDS_MOST
            raise DeviceError(f"{what} are more than {most}", errno=errno.EOVERFLOW)
        words = sum(_words(len(r.areas), len(r.bounds)) for r in self._regions.values())
        words += _words(number, len(bounds))
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if words * 8 > memory // MEMORY_FACTOR:
            raise MemoryError
        return Areas(start, end, step, bounds)

    def _delete(self, argv: Sequence[str], _sectors: int) -> None:
        number, _ = self._one(argv)
        del self._regions[number]
        self._changed()

    def _clear(self, argv: Sequence[str], _sectors: int) -> None:
        _, region = self._one(argv)
        region.areas.rows(0, len(region.areas), True)

    def _list(self, argv: Sequence[str], _sectors: int) -> str:
        if len(argv) > 1:
            raise _Invalid
        return "".join(
            region.line(number)
            for number, region in self._regions.items()
            if not argv or argv[0] == region.program_id
        )

    def _print(self, argv: Sequence[str], _sectors: int) -> str:
        return self._rows(argv, clear=False)

    def _print_clear(self, argv: Sequence[str], _sectors: int) -> str:
        return self._rows(argv, clear=True)

    def _rows(self, argv: Sequence[str], *, clear: bool) -> str:
        if len(argv) not in (1, 3):
            raise _Invalid
        first, count = 0, U64
        if len(argv) == 3:
            first = 0 if argv[1] == _NONE else _number(argv[1])
            count = U64 if argv[2] == _NONE else _number(argv[2])
        _, region = self._one(argv[:1])
        return region.rows(first, count, clear=clear)

    def _set_aux(self, argv: Sequence[str], _sectors: int) -> None:
        if len(argv) != 2:
            raise _Invalid
        _, region = self._one(argv[:1])
        region.aux_data = argv[1]

    def _one(self, argv: Sequence[str]) -> tuple[int, Region]:
        """The region whose id is the only argument."""
        if len(argv) != 1:
            raise _Invalid
        number = _number(argv[0], _ID_MOST)
        region = self._regions.get(number)
        if region is None:
            raise DeviceError(f"there is no region {number}", errno=errno.ENOENT)
        return number, region

    def _changed(self) -> None:
        areas = [region.areas for region in self._regions.values()]
        self.meter = Meter(areas) if areas else None
        self.on_meter()


def _number(word: str, most: int = U64) -> int:
    if not _NUMBER.fullmatch(word) or int(word) > most:
        raise _Invalid
    return int(word)


def _range(word: str, sectors: int) -> tuple[int, int]:
    """Start and end. ``-``: the whole device, or one sector of a device that has none."""
    if word == _NONE:
        return 0, sectors or 1
    found = _RANGE.fullmatch(word)
    start, length = map(int, found.groups()) if found else (0, 0)
    if not length or start + length > U64:
        raise _Invalid
    return start, start + length


def _step(word: str, length: int) -> int:
    """``N`` sectors, or ``/N``: what makes N areas."""
    if word.startswith("/"):
        divisor = _number(word[1:], (1 << 32) - 1)
        if not divisor:
            raise _Invalid
        return -(-length // divisor)
    step = _number(word)
    if not step:
        raise _Invalid
    return step


def _options(words: list[str]) -> tuple[bool, tuple[int, ...]]:
    precise = False
    bounds: tuple[int, ...] = ()
    for word in words:
        if word.lower() == "precise_timestamps":
            precise = True
        elif word.lower().startswith("histogram:") and not bounds:
            bounds = tuple(map(_number, word.partition(":")[2].split(",")))
            if any(b <= a for a, b in zip((0, *bounds), bounds, strict=False)):
                raise _Invalid
        else:
            raise _Invalid
    return precise, bounds


def _nanoseconds(bound: int, *, precise: bool) -> int:
    return bound if precise else min(bound * _MS, U64)


def _words(areas: int, bounds: int) -> int:
    """64-bit words that the counters of a region take, as near as matters."""
    return areas * (17 + (bounds + 1 if bounds else 0))
