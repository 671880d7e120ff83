# SPDX-License-Identifier: Apache-2.0
"""From text to table: the checks of dm-table.c, in its order and with its words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Protocol

from dmtool.backing import Backing
from dmtool.backing.open import devno, open_backing
from dmtool.errors import (
    DmtoolError,
    TableError,
    TableErrors,
    TargetError,
    UnknownTarget,
    os_reason,
)
from dmtool.sectors import LARGEST_DEVICE, SECTOR
from dmtool.table import bulk
from dmtool.table.table import Table
from dmtool.table.text import MOST_ERRORS, Line, parse
from dmtool.targets.args import Args
from dmtool.targets.registry import TARGETS, TargetType
from dmtool.targets.target import Target


class MappedDevices(Protocol):
    """Who knows the mapped devices that a table may name."""

    def mapped(self, word: str) -> Backing | None:
        """The mapped device that ``word`` (MAJ:MIN or an absolute path) names, opened; None if
        it names no mapped device. Raises OSError where it does but cannot be opened."""


class _NoMappedDevices:
    def mapped(self, word: str) -> Backing | None:
        return None


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
    built = _Build(source, cwd or os.getcwd(), readonly, devices or _NoMappedDevices())
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
    built = _Build(source, cwd or os.getcwd(), readonly, devices or _NoMappedDevices())
    built.all_errors = True
    table = built.build(text)
    if table is None:
        return Checked(built.errors, 0, 0)
    found = Checked(built.errors, len(table.targets), built.end)
    table.close()
    return found


class _Build:
    """One table being built; used by one thread."""

    def __init__(self, source: str, cwd: str, readonly: bool, devices: MappedDevices) -> None:
        self.source = source
        self.cwd = cwd
        self.devices = devices
        self.errors: list[TableError] = []
        # `load` reports what dmsetup's own parser refuses before anything is opened
        self.all_errors = False
        self.end = 0
        self._table = Table(readonly=readonly)
        self._lines: list[Line] = []
        self._targets: list[Target[Any]] = []
        self._table.targets = self._targets
        self._opened: dict[str, Backing] = {}
        self._refused: dict[str, OSError] = {}  # asked once, however many lines name it
        self._devices: dict[tuple[str, str], Backing] = {}
        self._known: bool = True  # whether `end` is known: not after a line that did not parse
        self._types: dict[str, TargetType] = {}

    def build(self, text: str | bytes) -> Table | None:
        if len(text) >= bulk.WORTH and self._build_bulk(text):
            return self._table
        lines = parse(text, self.source)
        wrong = [line for line in lines if isinstance(line, TableError)]
        if wrong and not self.all_errors and any(e.syntax or e.too_long for e in wrong):
            self.errors = [e for e in wrong if e.syntax or e.too_long]
            return None
        if not lines:
            return None
        for line in lines:
            if len(self.errors) >= MOST_ERRORS:
                return self._table
            if isinstance(line, TableError):
                self.errors.append(line)
                self._known = False
            else:
                self._add(line)
        self._check_areas()
        if self.errors:
            return self._table
        self._table.block_size = self._check_alignment()
        if not self.errors:
            self._table.index()
        return self._table

    def _build_bulk(self, text: str | bytes) -> bool:
        whole = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        table = self._table
        try:
            table.bulk = bulk.read(whole, self._type, self._open, table)
        except bulk.NotBulk:
            return False  # what it opened is cached here, for the lines that name it
        table.index()
        self.end = table.sectors
        return True

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
        args = Args(line.args, self._open)
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
        self._table.plans.append(plan)
        self._lines.append(line)

    def _device_hint(self, error: TargetError) -> str | None:
        """What helps against the commonest mistakes of a device's name."""
        cause = error.__cause__
        if isinstance(cause, PermissionError) and not self._table.readonly:
            return "with --readonly it need not be writable"
        if isinstance(cause, OSError) and cause.errno == 16:
            return "another core process, qemu or a mount has it"
        return None

    def _open(self, word: str) -> Backing:
        backing = self._opened.get(word)
        if backing is None:
            if word in self._refused:
                raise self._refused[word]
            try:
                backing = self._opened[word] = self._once(self._open_new(word))
            except OSError as error:
                self._refused[word] = error
                raise
        return backing

    def _open_new(self, word: str) -> Backing:
        name = word if devno(word) else os.path.normpath(os.path.join(self.cwd, word))
        mapped = self.devices.mapped(name)
        if mapped is not None:
            return mapped
        return open_backing(word, self.cwd, readonly=self._table.readonly)

    def _once(self, backing: Backing) -> Backing:
        """A device that the table has open under another name is opened no second time."""
        known = self._devices.setdefault((backing.kind, str(backing)), backing)
        if known is not backing:
            backing.close()
            return known
        self._table.backings.append(backing)
        return backing

    def _check_areas(self) -> None:
        """Each target's parts of devices exist and are aligned (device_area_is_invalid). The
        kernel looks at this only at resume, and leaves the device suspended."""
        for number, line in enumerate(self._lines):
            said = len(self.errors)

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
            opened = self._opened.get(word.text)
            if opened is device or (opened and str(opened) == str(device)):
                return word.column
        return line.type_column

    def _check_alignment(self) -> int:
        """Targets begin and end on the blocks of the devices below them
        (validate_hardware_logical_block_alignment); returns the largest block size, in bytes."""
        table = self._table
        sizes = [self._block_size(number) for number in range(len(table.targets))]
        largest = max(sizes)
        if largest == SECTOR:
            return largest
        blocks = largest // SECTOR
        remaining = 0
        wrong = len(self._lines) - 1
        for number, (target, size) in enumerate(zip(table.targets, sizes, strict=True)):
            if remaining < target.len and remaining % (size // SECTOR):
                wrong = number
                break
            remaining = -(target.begin + target.len) % blocks
        if remaining:
            line = self._lines[wrong]
            self._refuse(
                line,
                line.start_column,
                f"table line {wrong + 1} (start sect {line.start} len {line.length}) "
                f"not aligned to h/w logical block size {largest}",
            )
        return largest

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
