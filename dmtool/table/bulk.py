# SPDX-License-Identifier: Apache-2.0
"""The targets of a large table: columns of numbers instead of an object a line.

A target type says by ``BULK`` (see hookspecs.py) that its lines need no ``ctr`` of their own. In a
text of many lines those of such types become rows of columns, some 30 bytes a line; the others
are targets like any other, and only they have a life of their own.

Threads: any, while ``put`` is for one at a time.
"""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, overload

from dmtool.backing import Backing
from dmtool.plan import Extent, Fail, Plan, Zero
from dmtool.sectors import to_bytes
from dmtool.table import columns
from dmtool.table.segments import Run, Single, compile_constant
from dmtool.targets.registry import TargetType
from dmtool.targets.target import Owner, Target

# Below this many bytes of text a table is not worth the second way.
WORTH = 1 << 16
_PART = 1 << 14  # rows of text at a time

# begin and length in sectors, target type, what is printed after the type
Row = tuple[int, int, str, str]
# A type, and the device that all rows of the kind are on; None where the type has none.
Kind = tuple[TargetType, Backing | None]


class Bulk:
    """Targets as columns, all numbers in sectors.

    ``begins`` has one more entry than there are targets: where the device ends. ``kinds`` number
    the entries of ``palette``, in which there is None for a kind that no target has; ``starts``
    are sectors on the device. ``odd`` are the targets that are objects, by their numbers,
    ascending; each has a kind of its own, behind the palette's.
    """

    def __init__(
        self,
        begins: array[int],
        kinds: array[int],
        starts: array[int],
        palette: Sequence[Kind | None],
        odd: Mapping[int, Target[Any]],
    ) -> None:
        self.begins = begins
        self.kinds = kinds
        self.starts = starts
        self.palette = palette
        self.odd = odd
        for kind, number in enumerate(odd, len(palette)):
            kinds[number] = kind

    def __len__(self) -> int:
        return len(self.kinds)

    def kind(self, number: int) -> Kind:
        """The kind of a target that is not odd."""
        kind = self.palette[self.kinds[number]]
        assert kind is not None, "a kind that a target has"
        return kind

    def uses(self, device: Backing) -> bool:
        """Whether any target that is not odd is on this device."""
        return any(kind is not None and kind[1] is device for kind in self.palette)

    def plan(self, number: int) -> Plan:
        """The plan of a target that is not odd."""
        type, device = self.kind(number)
        if device is not None:
            return Extent(device, self.starts[number])
        assert isinstance(type.bulk, Zero | Fail)
        return type.bulk

    def text(self, number: int) -> str:
        """The arguments of such a target as `dmtool table` prints them."""
        _, device = self.kind(number)
        return f"{device} {self.starts[number]}" if device is not None else ""

    def lines(self, odd: Callable[[int], Row]) -> Iterator[Row]:
        """All targets in order; ``odd`` gives the row of an odd one, by its number."""
        names = [
            (kind[0].name, "" if kind[1] is None else f"{kind[1]} ") if kind else ("", "")
            for kind in self.palette
        ]
        ends = islice(self.begins, 1, None)
        columns = zip(self.begins, ends, self.kinds, self.starts, strict=False)
        for number, (begin, end, kind, start) in enumerate(columns):
            if kind >= len(names):
                yield odd(number)
            else:
                name, device = names[kind]
                yield begin, end - begin, name, f"{device}{start}" if device else ""

    def parts(self, odd: Callable[[int], Row]) -> Iterator[str]:
        """The same as text, many lines in a part."""
        names: list[bytes | None] = [_name(*kind) if kind else None for kind in self.palette]
        names += [None] * len(self.odd)
        row = 0
        while row < len(self):
            end = min(row + _PART, len(self))
            text, row = columns.lines(self.begins, self.starts, self.kinds, names, row, end)
            if text:
                yield text.decode("utf-8", "surrogateescape")
            if row < end:
                yield printed(odd(row))
                row += 1


def printed(row: Row) -> str:
    """A row as a line of text."""
    begin, length, type, params = row
    return f"{begin} {length} {type} {params}\n"


def _name(type: TargetType, device: Backing | None) -> bytes:
    name = f"{type.name} " if device is None else f"{type.name} {device} "
    return name.encode("utf-8", "surrogateescape")


class BulkTargets(Sequence[Target[Any]]):
    """Targets made when they are asked for, but for the odd ones; they keep no state.

    The table that owns them has this; it is not kept from going, and its columns with it.
    """

    def __init__(self, bulk: Bulk, owner: weakref.ref[Owner]) -> None:
        self._bulk = bulk
        self._owner = owner

    def __len__(self) -> int:
        return len(self._bulk)

    @overload
    def __getitem__(self, at: int) -> Target[Any]: ...
    @overload
    def __getitem__(self, at: slice) -> list[Target[Any]]: ...
    def __getitem__(self, at: int | slice) -> Target[Any] | list[Target[Any]]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        bulk = self._bulk
        odd = bulk.odd.get(number)
        if odd is not None:
            return odd
        type, device = bulk.kind(number)
        begin = bulk.begins[number]
        owner = self._owner()
        assert owner is not None, "who asks has the table"
        target: Target[Any] = Target(type, begin, bulk.begins[number + 1] - begin, owner)
        target.context = bulk.plan(number) if device is not None else None
        target.text = bulk.text(number)
        return target


class BulkRuns(Sequence[Run]):
    """Runs, made when they are asked for; of odd targets those that were put there."""

    def __init__(self, bulk: Bulk) -> None:
        self._kinds = bulk.kinds
        self._starts = bulk.starts
        self._devices = [kind[1] if kind else None for kind in bulk.palette] + [None] * len(
            bulk.odd
        )
        self._whole: list[Run | None] = [
            compile_constant(kind[0].bulk)
            if kind and isinstance(kind[0].bulk, Zero | Fail)
            else None
            for kind in bulk.palette
        ]
        self._whole += [None] * len(bulk.odd)

    def __len__(self) -> int:
        return len(self._kinds)

    @overload
    def __getitem__(self, at: int) -> Run: ...
    @overload
    def __getitem__(self, at: slice) -> list[Run]: ...
    def __getitem__(self, at: int | slice) -> Run | list[Run]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        kind = self._kinds[at]
        device = self._devices[kind]
        if device is not None:
            return Single(device, to_bytes(self._starts[at]))
        run = self._whole[kind]
        assert run is not None
        return run

    def __setitem__(self, at: int, run: Run) -> None:
        """For an odd target. One store into a list: others see the old run or the new one."""
        self._whole[self._kinds[at]] = run


Runs = list[Run] | BulkRuns
