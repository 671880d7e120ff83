# SPDX-License-Identifier: Apache-2.0
"""A connection's way through the suspend gates: of its device, and of mapped devices below it.

A table's I/O to a mapped device below goes through that device's gate on its own, each time, and
may have to wait there. A batch does better: it goes in once, without waiting, finds the image
file at the bottom, and does its I/O there. Where that cannot be, None is the answer, and the
request takes the table's way, on a thread that may wait.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from time import monotonic_ns
from typing import TypeVar

from dmtool.backing import Backing, Bytes
from dmtool.device import MappedBacking, MappedDevice
from dmtool.device.gate import Visitor
from dmtool.device.meter import Meter
from dmtool.export.nbd import commands as c
from dmtool.export.nbd import protocol as p
from dmtool.table import Table
from dmtool.table.mapping import PythonMap
from dmtool.table.segments import Segment, Single
from dmtool.targets.io import Requeue
from dmtool.targets.waiting import patience

T = TypeVar("T")

Place = tuple[Backing, int]
Find = Callable[[int, int], Place | None]

_LINES_MOST = 1 << 16


class Passage:
    """``table`` is the device's, while inside; ``stacked``: it has mapped devices below.
    ``extent`` answers as Table.read_extent, but never with a mapped device; ``place`` as
    Table.extent, for writes. ``asked`` is ``extent`` for a read that is then taken from there:
    where a target maps in Python it has been asked by then (``asks``: there is one).

    ``meter``: what the device's I/O is to be counted with, from when it was entered, ``since``;
    ``meters``: the same of devices below, each with the byte there at which this one begins.

    Whoever is inside must not wait for a gate: it may be one that waits for this thread to leave.

    Threads: one.
    """

    def __init__(self, device: MappedDevice) -> None:
        self.device = device
        self.table: Table | None = None
        self.stacked = False
        self.meter: Meter | None = None
        self.since = 0
        self._stats = device.stats
        self.meters: list[tuple[Meter, int]] = []
        self.extent: Find = self._bottom
        self.asked: Find = self._bottom
        self.asks = False
        self.place: Find = self._writable_bottom
        self._below: dict[MappedDevice, Table] = {}
        self._known: Table | None = None  # for which the three were found out

    def enter(self) -> bool:
        """Go inside; False while the device is suspended. Raises OSError where nobody can."""
        table = self.device.try_begin()
        if table is None:
            return False
        self.table = table
        self.meter = self._stats.meter
        if self.meter is not None:
            self.since = monotonic_ns()
        if table is not self._known:
            self._know(table)
        return True

    def _know(self, table: Table) -> None:
        self._known = table
        self.stacked = any(backing.kind == "dm" for backing in table.backings)
        self.extent = self.asked = self._bottom if self.stacked else table.read_extent
        self.asks = not self.stacked and _asks(table)
        if self.asks:
            self.asked = self._ask
        self.place = self._writable_bottom if self.stacked else table.extent

    def admit(self, visitor: Visitor) -> None:
        """Be inside in the place of a visitor, which was prepared for what was found out here."""
        self.device.gate.admit(visitor)
        self.table = self._known
        self.meter = None

    def leave(self) -> None:
        """Leave all gates; more than once does no harm."""
        if self._below:
            self.leave_below()
        if self.table is not None:
            self.table = None
            self.device.end()

    def leave_below(self) -> None:
        """Leave all gates but the device's own."""
        self.meters.clear()
        while self._below:
            device, _ = self._below.popitem()
            device.end()

    def count_below(
        self, requests: Bytes, first: int, end: int, apart: tuple[int, ...] = ()
    ) -> None:
        """Count requests that were done, on the devices that they went through: as Meter.count."""
        for meter, place in self.meters:
            meter.count(requests, first, end, apart, self.since, 0, place)

    def count_one(self, request: c.Request) -> None:
        """Count one request that was done since the device was entered."""
        if (self.meter is not None or self.meters) and request.counts:
            header = p.REQUEST.pack(0, 0, request.command, bytes(8), request.offset, request.length)
            if self.meter is not None:
                self.meter.count(header, 0, len(header), (), self.since)
            self.count_below(header, 0, len(header))

    @property
    def closed_fds(self) -> list[int]:
        """Descriptors of which one is readable when somebody waits for this thread to leave."""
        return [self.device.closed_fd, *(device.closed_fd for device in self._below)]

    def segments(self, offset: int, length: int, *, write: bool = False) -> list[Segment] | None:
        """As Table.segments, without mapped devices; None where one of them cannot be entered
        now, or not for writing."""
        assert self.table is not None
        found = self.table.segments(offset, length)
        while self.stacked and any(backing.kind == "dm" for backing, _, _ in found):
            lower: list[Segment] = []
            for backing, at, size in found:
                if backing.kind != "dm":
                    lower.append((backing, at, size))
                    continue
                table = self._enter_below(backing)
                if table is None or at + size > table.size:
                    return None
                if write and (table.readonly or backing.readonly):
                    return None
                lower += table.segments(at, size)
            found = lower
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the device. Leaves the gates below, and waits for them, only if it cannot be
        had otherwise. Raises OSError."""
        if self.table is not None:
            where = self.extent(offset, length)
            if where is not None:
                with contextlib.suppress(OSError):  # the table's way tells what it means
                    return where[0].pread(length, where[1])

        def read(table: Table) -> bytes:
            if offset + length > table.size:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return table.read(offset, length)

        return self._by_table(read)

    def execute(self, session: c.Session, request: c.Request) -> c.Reply:
        """Do a request by way of the table, which may wait for gates below. Raises nothing."""
        try:
            return self._by_table(lambda table: c.execute_again(session, request, table))
        except OSError as failed:
            return [c.os_error(session, request.cookie, failed)]

    def _by_table(self, do: Callable[[Table], T]) -> T:
        """Leaves the gate after a Requeue, and is back inside, perhaps with another table, after
        resume. Raises OSError, outside if nobody can enter any more."""
        self.leave_below()
        with patience():
            while True:
                if self.table is None:
                    self.table = self.device.begin()
                    self._know(self.table)
                try:
                    return do(self.table)
                except Requeue:
                    if not self.table.noflush:
                        raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
                    self.leave()

    def _ask(self, offset: int, length: int) -> Place | None:
        assert self.table is not None
        where = self.table.read_extent(offset, length)
        if where is not None and type(where[0]) is PythonMap:
            return where[0].take(where[1], length)
        return where

    def _bottom(self, offset: int, length: int, write: bool = False) -> Place | None:
        assert self.table is not None
        table = self.table
        where = table.extent(offset, length) if write else table.read_extent(offset, length)
        while where is not None and where[0].kind == "dm":
            backing, at = where
            below = self._enter_below(backing)
            if below is None or at + length > below.size:
                return None
            if write and (below.readonly or backing.readonly):
                return None
            where = below.extent(at, length) if write else below.read_extent(at, length)
        return where

    def _writable_bottom(self, offset: int, length: int) -> Place | None:
        return self._bottom(offset, length, write=True)

    def _enter_below(self, backing: Backing) -> Table | None:
        if type(backing) is not MappedBacking:
            return None
        device = backing.device
        table = self._below.get(device)
        if table is None:
            meter = device.stats.meter
            place = 0 if meter is None else self._place_below(device)
            if place is None:
                return None  # the table's way goes through the device, and is counted there
            try:
                table = device.try_begin()
            except OSError:
                return None
            if table is not None:
                self._below[device] = table
                if meter is not None:
                    if self.meter is None and not self.meters:
                        self.since = monotonic_ns()
                    self.meters.append((meter, place))
        return table

    def _place_below(self, device: MappedDevice) -> int | None:
        """Where on a device below, which is entered next, all of this one lies; None where it
        does not lie there in one piece."""
        table, at = self.table, 0
        assert table is not None
        size = table.size
        while (where := table.extent(at, size)) is not None:
            backing, at = where
            if type(backing) is not MappedBacking or backing.device is device:
                return at if type(backing) is MappedBacking else None
            if (below := self._below.get(backing.device)) is None or at + size > below.size:
                return None
            table = below
        return None


def _asks(table: Table) -> bool:
    """Whether a target of a table maps in Python; not looked for in the largest."""
    _, runs = table.layout()
    return len(runs) <= _LINES_MOST and any(
        type(run) is Single and type(run.backing) is PythonMap for run in runs
    )
