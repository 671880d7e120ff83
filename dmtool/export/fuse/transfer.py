# SPDX-License-Identifier: Apache-2.0
"""Reads and writes of a mapped device: what the reader does at once, what a worker does.

The reader does what lies in files and block devices, is cached, and need not wait for a gate.
All else (a suspended device, a disk that has to be waited for, targets that map in Python, I/O
that is counted for statistics) is done on the device's own workers, so that it holds up no other
device.

A reply to a read is made of private memory, filled inside the device's gate: what a suspended
device holds is never sent later.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dmtool.backing import Backing
from dmtool.backing.null import ZEROS
from dmtool.device import MappedDevice
from dmtool.device.stacked import MappedBacking
from dmtool.export.fuse.emptied import Emptied
from dmtool.export.fuse.session import READ_MOST
from dmtool.export.nbd.residency import Residency
from dmtool.export.nbd.workers import Workers
from dmtool.table import Table
from dmtool.table.segments import Legs

# Threads that one device may keep waiting.
WORKERS_MOST = 16
# A write that took longer than this has waited for something; the next ones are not the reader's.
_SLOW = 2e-3  # seconds
_SLOW_FOR = 64  # writes
_ZEROES = bytes(READ_MOST)

Segments = list[tuple[Backing, int, int]]


@dataclass(eq=False)
class Lane:
    """What is known of the I/O of one device, however often it is open.

    ``readers`` are apart from the other ``workers``: a target may hold writes for long (a mirror
    that has lost a leg), and be read meanwhile.

    Threads: the reader's; ``emptied``, ``workers`` and ``readers`` any.
    """

    device: MappedDevice
    workers: Workers = field(default_factory=lambda: Workers("fuse-io", WORKERS_MOST))
    readers: Workers = field(default_factory=lambda: Workers("fuse-io", WORKERS_MOST))
    residency: Residency = field(default_factory=Residency)
    slow_writes: int = 0
    user: Transfer | None = None  # whose thread is at an I/O of it
    emptied: Emptied | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Have a job done by a worker."""
        self.workers.submit(job)

    def submit_read(self, job: Callable[[], None]) -> None:
        """The same for one that changes nothing, and waits for no change."""
        self.readers.submit(job)

    def close(self) -> None:
        """Let the workers end when they have done what is queued."""
        self.workers.close()
        self.readers.close()


class Transfer:
    """The reader's own buffer for what it reads; ``read`` and ``write`` answer whether they did
    it, and leave nothing behind if not: a worker does it again, and knows what errors mean.

    Threads: one.
    """

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, READ_MOST))  # from a page on

    def read(self, lane: Lane, offset: int, length: int) -> memoryview | None:
        """The bytes of a range, fewer at the end of the device, valid until the next call."""
        device = lane.device
        # a reader that was replaced waits there still: no second one is to
        if lane.user is not None or device.stats.meter is not None:
            return None
        if (table := device.try_begin()) is None:
            return None
        lane.user = self
        try:
            if offset + length > table.size:
                length = max(0, table.size - offset)
            memory = self._memory[:length]
            if not length:
                return memory
            where = table.read_extent(offset, length)
            if where is None or where[0].fd is None or lane.residency.cold:
                return self._gather(lane, table, offset, memory)
            if os.preadv(where[0].fd, [memory], where[1]) != length:
                return None
            lane.residency.was_warm(1)
            return memory
        except OSError:
            return None
        finally:
            lane.user = None
            device.end()

    def _gather(
        self, lane: Lane, table: Table, offset: int, memory: memoryview
    ) -> memoryview | None:
        """The same for what lies in several pieces, or further down, or may not be cached."""
        entered: list[MappedDevice] = []
        try:
            where = locate(table, offset, len(memory), entered, read=True)
            if where is None:
                return None
            done = 0
            for backing, at, size in where:
                if not self._piece(lane.residency, backing, at, memory[done : done + size]):
                    return None
                done += size
            return memory
        finally:
            leave(entered)

    def _piece(self, residency: Residency, backing: Backing, at: int, memory: memoryview) -> bool:
        if backing.fd is None:
            memory[:] = _ZEROES[: len(memory)]
        elif residency.cold:
            data = residency.read(backing, at, len(memory))
            if data is None:
                return False
            memory[:] = data
        else:
            residency.was_warm(1)
            return os.preadv(backing.fd, [memory], at) == len(memory)
        return True

    def write(self, lane: Lane, offset: int, data: memoryview) -> bool:
        """Raises OSError EPERM, ENOSPC."""
        if lane.slow_writes:
            lane.slow_writes -= 1
            return False
        device = lane.device
        if lane.user is not None or device.stats.meter is not None:
            return False
        if (table := device.try_begin()) is None:
            return False
        lane.user = self
        began = time.monotonic()
        try:
            check_write(table, offset, len(data))
            where = table.extent(offset, len(data))
            if where is None or where[0].fd is None:
                return _scatter(table, offset, data)
            try:
                where[0].pwrite(data, where[1])
            except OSError:
                return False
            return True
        finally:
            lane.user = None
            device.end()
            if time.monotonic() - began > _SLOW:
                lane.slow_writes = _SLOW_FOR


def _scatter(table: Table, offset: int, data: memoryview) -> bool:
    """Write what lies in several pieces, or further down."""
    entered: list[MappedDevice] = []
    try:
        where = locate(table, offset, len(data), entered, read=False)
        if where is None:
            return _mirrored(table, offset, data)
        done = 0
        for backing, at, size in where:
            if backing.fd is not None:
                try:
                    backing.pwrite(data[done : done + size], at)
                except OSError:
                    return False
            done += size
        return True
    finally:
        leave(entered)


def locate(
    table: Table, offset: int, length: int, entered: list[MappedDevice], *, read: bool
) -> Segments | None:
    """The bytes of a range as pieces of files, block devices and zeros, down through the stack;
    None where that cannot be said without waiting, or not at all. Whose gates were entered for
    it is appended to ``entered``."""
    where = table.read_extent(offset, length) if read else table.extent(offset, length)
    pieces = [(*where, length)] if where else table.segments(offset, length)
    found: Segments = []
    for backing, at, size in pieces:
        if backing.fd is not None or backing is ZEROS:
            found.append((backing, at, size))
        elif isinstance(backing, MappedBacking):
            below = _below(backing, at, size, entered, read)
            if below is None:
                return None
            found += below
        else:
            return None
    return found


def _below(
    backing: MappedBacking, at: int, size: int, entered: list[MappedDevice], read: bool
) -> Segments | None:
    device = backing.device
    if device.stats.meter is not None:
        return None
    try:
        table = device.try_begin()
    except OSError:
        return None
    if table is None:
        return None
    entered.append(device)
    if at + size > table.size or not (read or not (backing.readonly or table.readonly)):
        return None
    return locate(table, at, size, entered, read=read)


def leave(entered: list[MappedDevice]) -> None:
    for device in entered:
        device.end()


def _mirrored(table: Table, offset: int, data: memoryview) -> bool:
    """Write to all legs of a mirror, if these are files."""
    where = table.extent(offset, len(data))
    if where is None:
        return False
    legs, at = where
    if not isinstance(legs, Legs):
        return False
    # what fails on a leg is for a worker: the mirror may hold such a write, or have it done again
    return all(leg.fd is not None for leg, _ in legs.legs) and legs.write_plain(data, at)


def check_write(table: Table, offset: int, length: int) -> None:
    """Raise OSError where a write of these bytes cannot be."""
    if table.readonly:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    if offset + length > table.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
