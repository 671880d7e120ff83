# SPDX-License-Identifier: Apache-2.0
"""From text to table: the checks of dm-table.c, in its order and with its words."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dmtool.backing import Backing
from dmtool.errors import (
    DmtoolError,
    TableError,
    TableErrors,
    TargetError,
    UnknownTarget,
    os_reason,
)
from dmtool.plan import Extent, Plan
from dmtool.sectors import LARGEST_DEVICE, SECTOR, U64
from dmtool.table import bulk
from dmtool.table.columns import check as check_rows
from dmtool.table.opener import MappedDevices, NoMappedDevices, Opener
from dmtool.table.rows import ODD, Rows, read
from dmtool.table.table import Table
from dmtool.table.text import MOST_ERRORS, Line, parse
from dmtool.targets.args import Args
from dmtool.targets.registry import TARGETS, TargetType
from dmtool.targets.target import Target


def load(
    text: str | bytes,
    *,
    source: str = "",
    cwd: str | None = None,
    readonly: bool = False,
    devices: MappedDevices | None = None,
) -> Table | None:
    """The table that ``text`` describes, with its devices open; None for a text without lines.

    ``source`` names the text in errors; relative paths start at ``cwd``. Raises TableErrors
    with all that is wrong; then nothing stays open.
    """
    built = _Build(source, cwd or os.getcwd(), readonly, devices or NoMappedDevices())
    table = built.build(text)
    if built.errors:
        if table is not None:
            table.close()
        raise TableErrors(built.errors)
    return table


@dataclass(frozen=True, slots=True)
class Checked:
    """What ``check`` found: all errors, and what the table would be."""

    errors: list[TableError]
    targets: int
    sectors: int


def check(
    text: str | bytes,
    *,
    source: str = "",
    cwd: str | None = None,
    readonly: bool = False,
    devices: MappedDevices | None = None,
) -> Checked:
    """Everything that ``load`` would say of ``text``; nothing stays open."""
    built = _Build(source, cwd or os.getcwd(), readonly, devices or NoMappedDevices())
    built.all_errors = True
    table = built.build(text)
    if table is None:
        return Checked(built.errors, 0, 0)
    found = Checked(built.errors, built.targets, built.end)
    table.close()
    return found


class _Build:
    """One table being built; used by one thread."""

    def __init__(self, source: str, cwd: str, readonly: bool, devices: MappedDevices) -> None:
        self.source = source
        self.errors: list[TableError] = []
        # `load` reports what dmsetup's own parser refuses before anything is opened
        self.all_errors = False
        self.end = 0  # the sector behind the last line
        self.targets = 0  # how many lines became targets
        self._table = Table(readonly=readonly)
        self._rows: Rows | None = None
        # of each target that is an object the line, and the number among all
        self._lines: list[Line] = []
        self._numbers: list[int] = []
        self._targets: list[Target[Any]] = []
        self._table.targets = self._targets
        self._plans: list[Plan | None] = []
        self._table.plans = self._plans
        self._palette: list[bulk.Kind | None] = []
        self._opener = Opener(cwd, devices, readonly=readonly)
        self._table.backings = self._opener.backings
        self._known: bool = True  # whether `end` is known: not after a line that did not parse
        self._types: dict[str, TargetType] = {}

    def build(self, text: str | bytes) -> Table | None:
        if len(text) >= bulk.WORTH:
            try:
                self._rows = rows = read(text, self.source)
            except UnicodeEncodeError:
                self._rows = None
            else:
                return self._build([error for _, error in rows.errors], rows.count, self._add_rows)
        lines = parse(text, self.source)
        wrong = [line for line in lines if isinstance(line, TableError)]
        return self._build(wrong, len(lines), partial(self._add_lines, lines))

    def _build(self, wrong: list[TableError], lines: int, add: Callable[[], bool]) -> Table | None:
        """``wrong``: the errors of a text that has so many lines besides. ``add`` adds them all;
        False when it did not come to the last."""
        if wrong and not self.all_errors and any(e.syntax or e.too_long for e in wrong):
            self.errors = [e for e in wrong if e.syntax or e.too_long]
            return None
        if not lines and not wrong:
            return None
        if not add():
            return self._table
        self._check_areas()
        if self.errors:
            return self._table
        self._table.block_size = self._check_alignment()
        if not self.errors:
            self._to_bulk()
            self._table.index()
        return self._table

    def _add_lines(self, lines: list[Line | TableError]) -> bool:
        for line in lines:
            if len(self.errors) >= MOST_ERRORS:
                return False
            if isinstance(line, TableError):
                self.errors.append(line)
                self._known = False
            else:
                self._add(line)
        return True

    def _add_rows(self) -> bool:
        """The same of rows. Most are added without a look at each: a row that is, and of a kind
        of which all are alike, stays a row; any other is added as the line that it was."""
        rows = self._rows
        assert rows is not None
        self._palette = [None] * len(rows.words)
        limits = array("Q", bytes(8 * len(rows.words)))  # sectors; 0: such a row is to be looked at
        beyond = 0
        row = 0
        for stop, error in [*rows.errors, (rows.count, None)]:
            while row < stop:
                if len(self.errors) >= MOST_ERRORS:
                    return False
                if self._known:
                    good, self.end = check_rows(*rows.columns, limits, row, stop, self.end)
                    self.targets += good - row
                    row = good
                    if row == stop:
                        break
                kind = rows.kinds[row]
                if kind != ODD and not limits[kind]:
                    limits[kind] = self._limit(kind, rows.words[kind])
                    if limits[kind]:
                        continue
                number = self.targets
                known = self._known
                self._add(rows.line(row))
                if self.targets > number:
                    rows.kinds[row] = ODD
                    # no more than so many of them will be reported
                    beyond += known and kind != ODD and limits[kind] > 0
                    if beyond >= MOST_ERRORS:
                        limits = array("Q", [U64 if limit else 0 for limit in limits])
                row += 1
            if error is not None:
                if len(self.errors) >= MOST_ERRORS:
                    return False
                self.errors.append(error)
                self._known = False
        return True

    def _limit(self, kind: int, words: str) -> int:
        """Take a kind into the palette: the size in sectors of the device that its rows are on.
        0 where each has to be constructed."""
        name, _, word = words.partition(" ")
        try:
            type = self._type(name)
            if type.bulk is None or (type.bulk is Extent) != bool(word):
                return 0
            device = self._opener.open(word) if word else None
        except (DmtoolError, OSError):
            return 0
        if device is not None and device.block_size != SECTOR:
            return 0
        self._palette[kind] = (type, device)
        return device.size // SECTOR if device is not None else U64

    def _to_bulk(self) -> None:
        """Give the table the rows; it has the targets that are objects."""
        rows, table = self._rows, self._table
        if rows is None:
            return
        rows.begins.append(self.end)
        odd = dict(zip(self._numbers, self._targets, strict=True))
        table.plans = dict(zip(self._numbers, self._plans, strict=True))
        table.bulk = bulk.Bulk(rows.begins, rows.kinds, rows.starts, self._palette, odd)

    def _refuse(self, line: Line, column: int, reason: str, **more: Any) -> None:
        self.errors.append(TableError(reason, line.at(column), **more))

    def _add(self, line: Line) -> None:
        expected, known = self.end, self._known
        self.end, self._known = line.start + line.length, True
        if not line.length:
            self._refuse(line, line.length_column, "zero-length target", hint=line.hint)
            return
        if self.end > LARGEST_DEVICE:
            cause = f"it would end at sector {self.end}, beyond 2^63-1 bytes"
            self._refuse(line, line.length_column, "too large device", cause=cause)
            return
        try:
            type = self._type(line.type)
        except DmtoolError as error:
            self._refuse(
                line,
                line.type_column,
                str(error),
                type=line.type,
                hint=line.hint or error.hint or _list_hint(error),
                errno=error.errno,
            )
            return
        if known and line.start != expected:
            self._refuse(
                line,
                line.start_column,
                "Gap in table",
                type=line.type,
                cause=_gap(line.start, expected),
            )
            return
        self._construct(line, type)

    def _type(self, name: str) -> TargetType:
        type = self._types.get(name)
        if type is None:
            type = self._types[name] = TARGETS[name]
        return type

    def _construct(self, line: Line, type: TargetType) -> None:
        target: Target[Any] = Target(type, line.start, line.length, self._table)
        args = Args(line.args, self._opener.open)
        try:
            target.context = type.call("ctr", target, args)
            target.text = args.text
            plan = type.call("plan", target)
        except TargetError as error:
            at = error.word
            column = line.words[at].column if at is not None else line.type_column
            self._refuse(
                line,
                column,
                str(error),
                type=type.name,
                cause=error.cause,
                hint=error.hint or self._device_hint(error),
                errno=error.errno,
            )
            return
        except (DmtoolError, OSError) as error:
            text = os_reason(error) if isinstance(error, OSError) else str(error)
            number = error.errno or 5
            self._refuse(line, line.type_column, text, type=type.name, errno=number)
            return
        self._targets.append(target)
        self._plans.append(plan)
        self._lines.append(line)
        self._numbers.append(self.targets)
        self.targets += 1

    def _device_hint(self, error: TargetError) -> str | None:
        """What helps against the commonest mistakes of a device's name."""
        cause = error.__cause__
        if isinstance(cause, PermissionError) and not self._table.readonly:
            return "with --readonly it need not be writable"
        if isinstance(cause, OSError) and cause.errno == 16:
            return "another core process, qemu or a mount has it"
        return None

    def _check_areas(self) -> None:
        """Each target's parts of devices exist and are aligned (device_area_is_invalid). The
        kernel looks at this only at resume, and leaves the device suspended."""
        for number, line in enumerate(self._lines):
            said = len(self.errors)
            if said >= MOST_ERRORS:
                return

            def area(device: Backing, start: int, length: int, line: Line = line) -> None:
                if len(self.errors) > said:  # noqa: B023  # called at once, below
                    return
                self._check_area(line, device, start, length)

            try:
                self._table.uses(number, area)
            except DmtoolError as error:
                self._refuse(line, line.type_column, str(error), type=line.type)

    def _check_area(self, line: Line, device: Backing, start: int, length: int) -> None:
        name = getattr(device, "name", str(device))
        size = device.size // SECTOR
        reason = None
        if start >= size or start + length > size:
            reason = f"{name} too small for target: start={start}, len={length}, dev_size={size}"
        block = device.block_size // SECTOR
        if reason is None and start % block:
            reason = (
                f"start={start} not aligned to h/w logical block size {device.block_size} of {name}"
            )
        if reason is None and length % block:
            reason = (
                f"len={length} not aligned to h/w logical block size {device.block_size} of {name}"
            )
        if reason is not None:
            self._refuse(line, self._device_column(line, device), reason)

    def _device_column(self, line: Line, device: Backing) -> int:
        """Where in the line the device is named; the type where no word does."""
        for word in line.words:
            if self._opener.is_named(device, word.text):
                return word.column
        return line.type_column

    def _check_alignment(self) -> int:
        """Targets begin and end on the blocks of the devices below them
        (validate_hardware_logical_block_alignment); returns the largest block size, in bytes."""
        table = self._table
        sizes = [self._block_size(number) for number in range(len(table.targets))]
        largest = max(sizes, default=SECTOR)
        if largest == SECTOR:
            return largest
        blocks = largest // SECTOR
        for line, number, size in zip(self._lines, self._numbers, sizes, strict=True):
            before = -line.start % blocks  # sectors to the next block
            if before < line.length and before % (size // SECTOR):
                self._misaligned(line, number, largest)
                return largest
        if self.end % blocks:
            last = self._rows.line(self._rows.count - 1) if self._rows else self._lines[-1]
            self._misaligned(last, self.targets - 1, largest)
        return largest

    def _misaligned(self, line: Line, number: int, block: int) -> None:
        reason = (
            f"table line {number + 1} (start sect {line.start} len {line.length}) "
            f"not aligned to h/w logical block size {block}"
        )
        self._refuse(line, line.start_column, reason)

    def _block_size(self, number: int) -> int:
        sizes = [
            SECTOR,
            self._table.targets[number].type.call("io_hints", self._table.targets[number])
            or SECTOR,
        ]
        self._table.uses(number, lambda device, _start, _length: sizes.append(device.block_size))
        return max(sizes)


def _gap(start: int, expected: int) -> str:
    if expected == 0:
        return f"the first target starts at sector {start}, not 0"
    relation = "before that" if start < expected else "after that"
    return f"the line before ends at sector {expected}, this one starts {relation}, at {start}"


def _list_hint(error: DmtoolError) -> str | None:
    return "`dmtool targets` lists them" if isinstance(error, UnknownTarget) else None
