# SPDX-License-Identifier: Apache-2.0
"""Large tables whose lines are all plain: columns of numbers instead of an object a line.

A target type says by ``BULK`` (see hookspecs.py) that its lines need no ``ctr`` of their own. A text
of many lines, all plain and all of such types, becomes arrays: some 30 bytes a line. What is
different about any line sends the whole text the ordinary way, which also finds the words for
what is wrong with it.

Threads: a Bulk is immutable, any thread; building is for one.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from operator import add
from typing import Any, overload

from dmtool.backing import Backing
from dmtool.errors import DmtoolError
from dmtool.plan import Extent, Fail, Plan, Zero
from dmtool.sectors import LARGEST_DEVICE, SECTOR, to_bytes
from dmtool.table.segments import Run, Single, compile_constant
from dmtool.targets.registry import TargetType
from dmtool.targets.target import Owner, Target

# Below this many bytes of text a table is not worth the second way.
WORTH = 1 << 16
_CHUNK = 1 << 20  # bytes of text at a time, to bound what is in memory at once

# A plain line as text.py has it, with no arguments or with a device and a sector. No escapes,
# no comments, no sign, and no number that might pass 2^64.
_ROW = re.compile(
    r"^([0-9]{1,19}) ([0-9]{1,19}) ([!\"$-\[\]-~]{1,15})(?: ([!\"$-\[\]-~]+) ([0-9]{1,19}))? ?$",
    re.MULTILINE,
)


class NotBulk(Exception):
    """The text is none of these: build it line by line."""


class _Palette(dict[tuple[str, str], int]):
    """(type, device word) to a number; what the number stands for is in ``entries``."""

    def __init__(
        self, find: Callable[[str], TargetType], open_device: Callable[[str], Backing]
    ) -> None:
        self.entries: list[tuple[TargetType, Backing | None]] = []
        self._find = find
        self._open = open_device

    def __missing__(self, key: tuple[str, str]) -> int:
        name, word = key
        try:
            type = self._find(name)
            wants_device = type.bulk is Extent
            if type.bulk is None or wants_device != bool(word):
                raise NotBulk
            backing = self._open(word) if wants_device else None
        except (DmtoolError, OSError) as error:
            raise NotBulk from error
        self.entries.append((type, backing))
        self[key] = number = len(self.entries) - 1
        return number


class Bulk:
    """Targets as columns, all numbers in sectors.

    ``begins`` has one more entry than there are targets: where the device ends. ``kinds`` number
    the entries of ``palette``: (type, device or None); ``starts`` are sectors on the device.
    """

    def __init__(
        self,
        begins: array[int],
        kinds: array[int],
        starts: array[int],
        palette: list[tuple[TargetType, Backing | None]],
        owner: Owner,
    ) -> None:
        self.begins = begins
        self.kinds = kinds
        self.starts = starts
        self.palette = palette
        self.targets = _Targets(self, owner)
        self.runs = _Runs(self)

    def __len__(self) -> int:
        return len(self.kinds)

    def plan(self, number: int) -> Plan:
        type, device = self.palette[self.kinds[number]]
        if device is not None:
            return Extent(device, self.starts[number])
        assert isinstance(type.bulk, Zero | Fail)
        return type.bulk

    def text(self, number: int) -> str:
        """The arguments of a target as `dmtool table` prints them."""
        _, device = self.palette[self.kinds[number]]
        return f"{device} {self.starts[number]}" if device is not None else ""

    def lines(self) -> Iterator[tuple[int, int, str, str]]:
        """(begin, length, type, arguments) of all targets, in order."""
        names = [(type.name, f"{device} ") for type, device in self.palette]
        devices = [device is not None for _, device in self.palette]
        begins = iter(self.begins)
        begin = next(begins)
        for kind, start, end in zip(self.kinds, self.starts, begins, strict=True):
            name, device = names[kind]
            yield begin, end - begin, name, f"{device}{start}" if devices[kind] else ""
            begin = end


class _Targets(Sequence[Target[Any]]):
    """Targets made when they are asked for; they keep no state."""

    def __init__(self, bulk: Bulk, owner: Owner) -> None:
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
        type, device = bulk.palette[bulk.kinds[number]]
        begin = bulk.begins[number]
        target: Target[Any] = Target(type, begin, bulk.begins[number + 1] - begin, self._owner)
        target.context = bulk.plan(number) if device is not None else None
        target.text = bulk.text(number)
        return target


class _Runs(Sequence[Run]):
    def __init__(self, bulk: Bulk) -> None:
        self._kinds = bulk.kinds
        self._starts = bulk.starts
        self._devices = [device for _, device in bulk.palette]
        self._constants = [
            compile_constant(type.bulk) if isinstance(type.bulk, Zero | Fail) else None
            for type, _ in bulk.palette
        ]

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
        constant = self._constants[kind]
        assert constant is not None
        return constant


def read(
    text: str,
    find: Callable[[str], TargetType],
    open_device: Callable[[str], Backing],
    owner: Owner,
) -> Bulk:
    """The whole of ``text`` as a Bulk. Raises NotBulk, having opened devices perhaps."""
    palette = _Palette(find, open_device)
    begins, lengths, starts = array("Q"), array("Q"), array("Q")
    kinds = array("I")
    for chunk in _chunks(text):
        rows = _ROW.findall(chunk)
        if len(rows) != chunk.count("\n") + (not chunk.endswith("\n")):
            raise NotBulk
        begin, length, types, words, offsets = zip(*rows, strict=True)
        begins.extend(map(int, begin))
        lengths.extend(map(int, length))
        starts.extend([int(offset) if offset else 0 for offset in offsets])
        kinds.extend(map(palette.__getitem__, zip(types, words, strict=True)))
    _check(begins, lengths, starts, kinds, palette.entries)
    begins.append(begins[-1] + lengths[-1])
    return Bulk(begins, kinds, starts, palette.entries, owner)


def _chunks(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = text.find("\n", at + _CHUNK) + 1 or len(text)
        yield text[at:end]
        at = end


def _check(
    begins: array[int],
    lengths: array[int],
    starts: array[int],
    kinds: array[int],
    palette: list[tuple[TargetType, Backing | None]],
) -> None:
    """NotBulk for whatever the ordinary way would refuse."""
    if 0 in lengths or begins[0] != 0:
        raise NotBulk
    try:
        ends = array("Q", map(add, begins, lengths))
    except OverflowError as error:
        raise NotBulk from error
    if ends[-1] > LARGEST_DEVICE or ends[:-1].tobytes() != begins[1:].tobytes():
        raise NotBulk
    if any(device is not None and device.block_size != SECTOR for _, device in palette):
        raise NotBulk
    limits = [device.size // SECTOR if device is not None else 1 << 65 for _, device in palette]
    if len(limits) == 1:
        fits = max(map(add, starts, lengths)) <= limits[0]
    else:
        room = map(limits.__getitem__, kinds)
        fits = all(s + n <= limit for s, n, limit in zip(starts, lengths, room, strict=True))
    if not fits:
        raise NotBulk
