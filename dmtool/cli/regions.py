# SPDX-License-Identifier: Apache-2.0
"""The regions and groups of one device's statistics, as a client of ``@stats_`` messages sees them.

Groups are dmstats' own: the region of a group that has the lowest id carries, in its auxiliary
data, ``DMS_GROUP=ALIAS:MEMBERS#`` before what the user put there (libdm-stats.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Literal

from dmtool.cli.histogram import MS, Histogram
from dmtool.cli.session import Device, Failed, Session

PROGRAM = "dmstats"  # the program id of regions that dmstats makes
TAG, MEMBERS, REST = "DMS_GROUP=", ":", "#"
COUNTERS = 13
_TIMES = frozenset((3, 7, 9, 10, 11, 12))
_LINE = re.compile(r"(\d+): (\d+)\+(\d+) (\d+) (\S+) (\S*) ?(.*)", re.ASCII)
_RUN = re.compile(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", re.ASCII)


@dataclass
class Region:
    """One region; start, length and step in sectors. ``counters`` and ``bins`` have an item for
    each area once it was sampled; times in nanoseconds."""

    id: int
    start: int
    length: int
    step: int
    program_id: str
    user_data: str
    precise: bool
    bounds: tuple[int, ...]
    group: int | None = None
    counters: list[tuple[int, ...]] = field(default_factory=list)
    bins: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def areas(self) -> int:
        return -(-self.length // self.step) if self.length and self.step else 1

    def histogram(self, area: int | None) -> Histogram | None:
        """Of one area, or of all together; None without bounds."""
        if not self.bounds:
            return None
        areas = [Histogram(self.bounds, bins) for bins in self.bins]
        if not areas:
            return Histogram(self.bounds)
        return areas[area] if area is not None else reduce(add, areas)

    def sample(self, text: str) -> None:
        """Take in what ``@stats_print`` answered."""
        self.counters, self.bins = [], []
        scale = 1 if self.precise else MS
        rows = [line.split() for line in text.splitlines()]
        for words in rows:
            numbers = map(int, words[1 : 1 + COUNTERS])
            scaled = (n * scale if place in _TIMES else n for place, n in enumerate(numbers))
            self.counters.append(tuple(scaled))
            if self.bounds:
                self.bins.append(tuple(map(int, words[1 + COUNTERS].split(":"))))
        (self.start, self.step), (last, length) = (
            map(int, rows[place][0].split("+")) for place in (0, -1)
        )
        self.length = last + length - self.start


@dataclass
class Group:
    """Regions under a name."""

    id: int
    alias: str
    regions: list[int]

    @property
    def tag(self) -> str:
        return f"{TAG}{self.alias}{MEMBERS}{ranges(self.regions)}{REST}"


@dataclass(frozen=True)
class Item:
    """What one row of a report is about."""

    type: Literal["area", "region", "group"]
    region: Region  # of a group the first
    area: int = 0
    group: Group | None = None


class Listing:
    """The regions of one device that a program made; "" for all programs. Raises Failed."""

    def __init__(self, session: Session, device: Device, program_id: str = PROGRAM) -> None:
        self._session = session
        self._device = device
        self.regions: dict[int, Region] = {}
        self.groups: dict[int, Group] = {}
        for line in self.message(f"@stats_list {program_id}").splitlines():
            self._take(line)
        for group in self.groups.values():
            self._check(group)

    def message(self, text: str) -> str:
        """Send a message; what was answered."""
        answer = self._session.ioctl("message", self._device, "message", sector=0, message=text)
        return answer.get("response") or ""

    @property
    def largest(self) -> int:
        """The largest id of a region, 0 if there are none."""
        return max(self.regions, default=0)

    def _take(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        if found is None:
            raise Failed("Could not parse @stats_list response.")
        number, start, length, step = map(int, found.groups()[:4])
        program_id, aux, options = found.groups()[4:]
        precise = "precise_timestamps" in options
        histogram = re.search(r"histogram:([\d,]+)", options, re.ASCII)
        scale = 1 if precise else MS
        bounds = tuple(int(n) * scale for n in histogram[1].split(",")) if histogram else ()
        region = Region(
            number, start, length, step, _given(program_id), _given(aux), precise, bounds
        )
        self.regions[number] = region
        if TAG in region.user_data:
            self._group(region)

    def _group(self, region: Region) -> None:
        """Find out what group the region leads."""
        try:
            _, _, text = region.user_data.partition(TAG)
            alias, colon, rest = text.partition(MEMBERS)
            members, _, user_data = rest.partition(REST)
            if not colon:
                raise Failed("Found malformed group tag while reading aux_data")
            found = parse_ranges(members)
            if found is None:
                raise Failed("Could not parse member list while reading group aux_data")
            if not found or found[0] != region.id:
                raise Failed(f"Found invalid group descriptor in region {region.id} aux_data.")
        except Failed as failure:
            what = f"Failed to parse group descriptor from region_id {region.id} aux_data:"
            self._session.error(*failure.args, f"{what}'{region.user_data}'")
            return
        region.user_data = "" if user_data == "-" else user_data
        self.groups[region.id] = Group(region.id, alias, found)

    def _check(self, group: Group) -> None:
        for number in [number for number in group.regions if number not in self.regions]:
            self._session.error(
                f"Group descriptor {group.id} contains non-existent region_id {number}."
            )
            group.regions.remove(number)
        for number in group.regions:
            self.regions[number].group = group.id

    # -- sampling and walking -----------------------------------------------------------------

    def sample(self) -> None:
        """Read the counters of all regions, and set them to zero."""
        for region in self.regions.values():
            region.sample(self.message(f"@stats_print_clear {region.id} "))

    def items(self, types: set[str], *, skip_single: bool = False) -> Iterator[Item]:
        """Areas, then regions, then groups, as far as ``types`` has them. ``skip_single`` leaves
        out the regions of one area."""
        if "area" in types:
            for region in self.regions.values():
                yield from (Item("area", region, area) for area in range(region.areas))
        if "region" in types:
            for region in self.regions.values():
                if not skip_single or region.areas > 1:
                    yield Item("region", region)
        if "group" in types:
            for group in self.groups.values():
                yield Item("group", self.regions[group.id], 0, group)

    def set_aux(self, number: int) -> None:
        """Store a region's user data, behind the tag of the group that it leads."""
        tag = self.groups[number].tag if number in self.groups else ""
        self.message(f"@stats_set_aux {number} {tag}{self.regions[number].user_data or '-'} ")


def _given(word: str) -> str:
    return "" if word.startswith("-") else word


def ranges(numbers: list[int]) -> str:
    """``0-2,5`` for numbers in ascending order."""
    runs: list[list[int]] = []
    for before, number in pairwise([-2, *numbers]):
        if number == before + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def parse_ranges(text: str) -> list[int] | None:
    """The reverse, ascending and each number once; None for what is no list of numbers."""
    found: set[int] = set()
    for word in text.split(",") if text else []:
        run = _RUN.fullmatch(word)
        if run is None or int(run[2] or run[1]) < int(run[1]):
            return None
        found |= set(range(int(run[1]), int(run[2] or run[1]) + 1))
    return sorted(found)
