# SPDX-License-Identifier: Apache-2.0
"""A table in outline: which kinds of targets it has, and what part of the device each of them is.

A table of a million lines is too much to look at, and to send. Its outline is as large as the
picture that is to be drawn of it. Where it can it works on whole columns (``Bulk``).

Threads: any; the table may be in use.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, count, islice, pairwise
from operator import ne
from typing import Literal, NamedTuple

from dmtool.backing import Backing
from dmtool.plan import Fail, Plan, Zero
from dmtool.table.bulk import Bulk
from dmtool.table.table import Table

Ends = Literal["devices", "zero", "error", "none"]


@dataclass(slots=True)
class Kind:
    """All targets of one type that lie on the same devices.

    ``ends``: on ``devices``; in zeros, in errors; or in none of these, as far as the type says.
    ``sectors`` are all of its targets' together, ``runs`` the pieces that they are side by side.
    """

    type: str
    ends: Ends
    devices: tuple[Backing, ...]
    targets: int = 0
    runs: int = 0
    sectors: int = 0


class Stretch(NamedTuple):
    """Targets of one kind side by side: sectors of the mapped device.

    ``at`` has for each device the sector there with which it begins, or None where it is not one
    straight piece there.
    """

    start: int
    length: int
    kind: int
    targets: int
    at: list[int | None]


@dataclass(slots=True)
class Outline:
    """``kinds`` are in the order in which the device has them. ``parts`` are the device in equal
    parts: of each {number of a kind: sectors}.

    Part i of n begins at sector ceil(sectors * i / n); of a small device some are empty.
    ``stretches`` is empty where there are more of them than was asked for.
    """

    sectors: int
    targets: int
    kinds: list[Kind]
    runs: int
    stretches: list[Stretch]
    parts: list[dict[int, int]]


def outline(table: Table, parts: int, most: int) -> Outline:
    """The outline in so many ``parts``, with at ``most`` so many stretches."""
    columns = _Bulk(table, table.bulk) if table.bulk is not None else _Targets(table)
    numbers, begins = columns.numbers, columns.begins
    edges = array("Q", chain([0], _edges(numbers), [len(numbers)]))
    # where the runs begin, and the last ends; and their kinds
    starts = array("Q", map(begins.__getitem__, edges))
    runs = array("I", map(numbers.__getitem__, edges[:-1]))
    # in the order of the device, without those that no target has
    order = {kind: place for place, kind in enumerate(dict.fromkeys(runs))}
    kinds = [columns.kinds[kind] for kind in order]
    for kind, targets in Counter(numbers).items():
        kinds[order[kind]].targets = targets
    runs = array("I", map(order.__getitem__, runs))
    for kind, found in Counter(runs).items():
        kinds[kind].runs = found
    shares = _shares(starts, runs, parts)
    for share in shares:
        for kind, sectors in share.items():
            kinds[kind].sectors += sectors
    stretches = []
    if len(runs) <= most:
        for (first, last), (start, end), kind in zip(
            pairwise(edges), pairwise(starts), runs, strict=True
        ):
            at = columns.at(first, last)
            stretches.append(Stretch(start, end - start, kind, last - first, at))
    return Outline(begins[-1], len(numbers), kinds, len(runs), stretches, shares)


def _edges(numbers: Sequence[int]) -> Iterator[int]:
    """Where a number differs from the one before it."""
    return compress(count(1), map(ne, numbers, islice(numbers, 1, None)))


def _shares(starts: Sequence[int], kinds: Sequence[int], parts: int) -> list[dict[int, int]]:
    """What each part has of each kind; ``starts`` has one more than there are runs."""
    limits = [-(-starts[-1] * (part + 1) // parts) for part in range(parts)]
    shares: list[dict[int, int]] = [{} for _ in limits]
    part = 0
    for start, end, kind in zip(starts, islice(starts, 1, None), kinds, strict=False):
        at = start
        while at < end:
            while limits[part] <= at:
                part += 1
            upto = min(end, limits[part])
            share = shares[part]
            share[kind] = share.get(kind, 0) + upto - at
            at = upto
    return shares


@dataclass(slots=True)
class _Place:
    """Where on one device targets are: from ``first`` to before ``end``, in sectors."""

    first: int
    end: int
    straight: bool = True

    def go_on(self, start: int, length: int) -> None:
        self.straight &= start == self.end
        self.end = start + length


@dataclass(slots=True)
class _Used:
    """The devices that one target uses, by identity, in order."""

    places: dict[int, _Place] = field(default_factory=dict)
    devices: list[Backing] = field(default_factory=list)

    def __call__(self, device: Backing, start: int, length: int) -> None:
        place = self.places.get(id(device))
        if place is None:
            self.places[id(device)] = _Place(start, start + length)
            self.devices.append(device)
        else:
            place.go_on(start, length)


class _Columns:
    """The kinds of a table's targets, and the kind of each by its number in ``kinds``."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.begins: Sequence[int] = []
        self.kinds: list[Kind] = []
        self.numbers: Sequence[int] = []
        self._known: dict[tuple[str, Ends, tuple[int, ...]], int] = {}

    def at(self, first: int, last: int) -> list[int | None]:
        """Where targets of one kind that are side by side begin on each of its devices."""
        places = self._used(first).places
        for number in range(first + 1, last):
            for device, place in self._used(number).places.items():
                known = places.get(device)
                if known is not None:  # a target may have changed meanwhile
                    known.straight &= place.straight
                    known.go_on(place.first, place.end - place.first)
        return [place.first if place.straight else None for place in places.values()]

    def _used(self, number: int) -> _Used:
        used = _Used()
        self._table.uses(number, used)
        return used

    def _number(self, type: str, plan: Plan | None, devices: Sequence[Backing]) -> int:
        ends = _ends(plan, devices)
        key = (type, ends, tuple(map(id, devices)))
        if key not in self._known:
            self._known[key] = len(self.kinds)
            self.kinds.append(Kind(type, ends, tuple(devices)))
        return self._known[key]

    def _number_of(self, number: int) -> int:
        target = self._table.targets[number]
        plan = self._table.plans[number]
        return self._number(target.type.name, plan, self._used(number).devices)


class _Bulk(_Columns):
    """Those of a table that is kept as columns."""

    def __init__(self, table: Table, bulk: Bulk) -> None:
        super().__init__(table)
        self._starts = bulk.starts
        self.begins = bulk.begins
        self._odd = list(bulk.odd)
        places = []
        for kind in bulk.palette:
            if kind is None:  # no target has it
                places.append(0)
                continue
            type, device = kind
            constant = type.bulk if isinstance(type.bulk, Zero | Fail) else None
            devices = () if device is None else (device,)
            places.append(self._number(type.name, constant, devices))
        places += map(self._number_of, self._odd)
        self.numbers = bulk.kinds
        if places != list(range(len(places))):  # one file by two names, and the like
            self.numbers = array("I", map(places.__getitem__, bulk.kinds))

    def at(self, first: int, last: int) -> list[int | None]:
        if bisect_left(self._odd, first) != bisect_left(self._odd, last):
            return super().at(first, last)
        if not self.kinds[self.numbers[first]].devices:
            return []
        starts, begins = self._starts, self.begins
        ahead = starts[first] - begins[first]
        straight = all(starts[i] - begins[i] == ahead for i in range(first, last))
        return [starts[first] if straight else None]


class _Targets(_Columns):
    """Those of a table whose targets are objects."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self.begins = [*(ti.begin for ti in table.targets), table.sectors]
        self.numbers = array("I", map(self._number_of, range(len(table.targets))))


def _ends(plan: Plan | None, devices: Sequence[Backing]) -> Ends:
    if isinstance(plan, Fail):
        return "error"
    if isinstance(plan, Zero):
        return "zero"
    return "devices" if devices else "none"
