# SPDX-License-Identifier: Apache-2.0
"""A connection's way through the suspend gates: of its device, and of mapped devices below it.

A table's I/O to a mapped device below goes through that device's gate on its own, each time, and
may have to wait there. A batch does better: it goes in once, without waiting, finds the image
file at the bottom, and does its I/O there. Where that cannot be, None is the answer, and the
request takes the table's way, on a thread that may wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from dmtool.backing import Backing
from dmtool.device import MappedBacking, MappedDevice
from dmtool.export.nbd import commands as c
from dmtool.table import Table
from dmtool.table.segments import Segment

Place = tuple[Backing, int]
Find = Callable[[int, int], Place | None]


class Passage:
    """``table`` is the device's, while inside; ``stacked``: it has mapped devices below.
    ``extent`` answers as Table.extent, but never with a mapped device; ``place`` the same for
    writes.

    Whoever is inside must not wait for a gate: it may be one that waits for this thread to leave.

    Threads: one.
    """

    def __init__(self, device: MappedDevice) -> None:
        self.device = device
        self.table: Table | None = None
        self.stacked = False
        self.extent: Find = self._bottom
        self.place: Find = self._writable_bottom
        self._below: dict[MappedDevice, Table] = {}
        self._known: Table | None = None  # for which the three were found out

    def enter(self) -> bool:
        """Go inside; False while the device is suspended. Raises OSError where nobody can."""
        table = self.device.try_begin()
        if table is None:
            return False
        self.table = table
        if table is not self._known:
            self._known = table
            self.stacked = any(backing.kind == "dm" for backing in table.backings)
            self.extent = self._bottom if self.stacked else table.extent
            self.place = self._writable_bottom if self.stacked else table.extent
        return True

    def leave(self) -> None:
        """Leave all gates; more than once does no harm."""
        if self._below:
            self.leave_below()
        if self.table is not None:
            self.table = None
            self.device.end()

    def leave_below(self) -> None:
        """Leave all gates but the device's own."""
        while self._below:
            device, _ = self._below.popitem()
            device.end()

    @property
    def closed_fds(self) -> list[int]:
        """Descriptors of which one is readable when somebody waits for this thread to leave."""
        return [self.device.closed_fd, *(device.closed_fd for device in self._below)]

    def segments(self, offset: int, length: int) -> list[Segment] | None:
        """As Table.segments, for reading, without mapped devices; None where one of them cannot
        be entered now."""
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
                lower += table.segments(at, size)
            found = lower
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the device. Leaves the gates below, and waits for them, only if it cannot be
        had otherwise. Raises OSError."""
        where = self.extent(offset, length)
        if where is not None:
            with contextlib.suppress(OSError):  # the table's way tells what it means
                return where[0].pread(length, where[1])
        self.leave_below()
        assert self.table is not None
        return self.table.read(offset, length)

    def execute(self, session: c.Session, request: c.Request) -> c.Reply:
        """Do a request by way of the table, which may wait for gates below. Raises nothing."""
        self.leave_below()
        assert self.table is not None
        return c.execute(session, request, self.table)

    def _bottom(self, offset: int, length: int, write: bool = False) -> Place | None:
        assert self.table is not None
        where = self.table.extent(offset, length)
        while where is not None and where[0].kind == "dm":
            backing, at = where
            table = self._enter_below(backing)
            if table is None or at + length > table.size:
                return None
            if write and (table.readonly or backing.readonly):
                return None
            where = table.extent(at, length)
        return where

    def _writable_bottom(self, offset: int, length: int) -> Place | None:
        return self._bottom(offset, length, write=True)

    def _enter_below(self, backing: Backing) -> Table | None:
        if type(backing) is not MappedBacking:
            return None
        device = backing.device
        table = self._below.get(device)
        if table is None:
            try:
                table = device.try_begin()
            except OSError:
                return None
            if table is not None:
                self._below[device] = table
        return table
