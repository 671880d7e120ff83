# SPDX-License-Identifier: Apache-2.0
"""What is known of the regions, and the right of way between writers and the copier.

A region is in sync, or it is not: then its default leg has the bytes and the others are to get
them. The copier copies one window at a time, of one region or of several, or of a part of one: a
region may be large, and who writes must not wait long.

The rules (dm-region-hash.c has them by the region):
- Who writes where the window is waits until it is closed.
- A window is opened first, and copied when nobody who came before it writes there any more.
- Where the copier has been, in a region that it has not finished (``prefix``), writes go to all
  legs, as in a region in sync; ahead of it they go to the default leg only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from dmtool.plugins.mirror.bits import Bits


class State(Enum):
    """How a part of a write is done."""

    SYNC = auto()  # to all legs
    COPIED = auto()  # to all legs, but it is the default leg that counts
    NOSYNC = auto()  # to the default leg


class Part(NamedTuple):
    """Sectors of the target, ``hi`` not included."""

    lo: int
    hi: int
    state: State


class Regions:
    """``length`` sectors in regions of ``size``; ``total`` regions.

    ``sync``    a bit for each region in sync.
    ``ragged``  those of them that only count as in sync: copying failed, and errors are not
                handled. Their default leg is the one to read from.
    ``epoch``   changes when all regions are lost at once.

    Threads: any, with ``lock`` held, which is let go while ``enter`` and ``open`` wait.
    """

    def __init__(self, length: int, size: int, in_sync: bool, lock: threading.Condition) -> None:
        self.length = length
        self.size = size
        self.total = -(-length // size)
        self.sync = Bits(self.total)
        self.sync.fill(0, self.total, in_sync)
        self.ragged = Bits(self.total)
        self.epoch = 0
        self._lock = lock
        self._writes: dict[int, tuple[int, int]] = {}
        self._ticket = 0
        self._window: tuple[int, int] | None = None
        self._window_epoch = 0
        self._prefix: tuple[int, int] | None = None
        self._cursor = 0

    @property
    def whole(self) -> bool:
        """All legs have the same bytes everywhere."""
        return self.sync.count == self.total and not self.ragged.count

    def covering(self, lo: int, hi: int) -> tuple[int, int]:
        """First region and the one after the last of sectors ``lo`` to ``hi``."""
        return lo // self.size, -(-hi // self.size)

    # -- writers --------------------------------------------------------------------------------

    def enter(self, lo: int, hi: int) -> int:
        """A write of these sectors begins, now or when the window is closed; for ``leave``."""
        while self._window and lo < self._window[1] and self._window[0] < hi:
            self._lock.wait()
        self._ticket += 1
        self._writes[self._ticket] = (lo, hi)
        return self._ticket

    def leave(self, ticket: int) -> None:
        del self._writes[ticket]
        if self._window:
            self._lock.notify_all()

    def writing(self) -> list[tuple[int, int]]:
        """Sectors that are being written."""
        return list(self._writes.values())

    def parts(self, lo: int, hi: int) -> list[Part]:
        """The sectors by how they are written, in order."""
        found: list[Part] = []
        for first, end, in_sync in self.sync.runs(*self.covering(lo, hi)):
            begin, stop = max(lo, first * self.size), min(hi, end * self.size)
            if in_sync or not self._prefix:
                found.append(Part(begin, stop, State.SYNC if in_sync else State.NOSYNC))
                continue
            copied = max(begin, min(self._prefix[0], stop)), max(begin, min(self._prefix[1], stop))
            found += [
                Part(part_lo, part_hi, state)
                for part_lo, part_hi, state in (
                    (begin, copied[0], State.NOSYNC),
                    (copied[0], copied[1], State.COPIED),
                    (copied[1], stop, State.NOSYNC),
                )
                if part_lo < part_hi
            ]
        return found

    def alike(self, lo: int, hi: int) -> list[tuple[int, int, bool]]:
        """``(lo, hi, whether any leg will do)`` for a read, in order."""
        found: list[tuple[int, int, bool]] = []
        for first, end, in_sync in self.sync.runs(*self.covering(lo, hi)):
            for low, high, ragged in self.ragged.runs(first, end):
                part = max(lo, low * self.size), min(hi, high * self.size)
                found.append((*part, in_sync and not ragged))
        return found

    def lose(self, lo: int, hi: int) -> None:
        """A write of these sectors failed on a leg: their regions are not in sync any more."""
        first, end = self.covering(lo, hi)
        self.sync.fill(first, end, False)
        self.ragged.fill(first, end, False)

    def lose_all(self) -> None:
        """Nobody knows what is on a leg."""
        self.lose(0, self.length)
        self._prefix = None
        self.epoch += 1

    def lose_copied(self) -> None:
        """A write failed where the copier has been: it does the region again."""
        self._prefix = None

    # -- the copier -----------------------------------------------------------------------------

    def restart(self) -> None:
        """Look for regions to copy from the first on; what failed before is tried again. Those
        that fall out of sync from now on are not looked for before the next time."""
        self._cursor = self.sync.find(False, 0, self.total)

    def next(self, most: int, *, single: bool) -> tuple[int, int] | None:
        """The sectors to be copied next, up to ``most`` or, so as to end with a region, less;
        ``single``: of one region. None: no region is left."""
        region = self.sync.find(False, self._cursor, self.total)
        if region == self.total:
            return None
        lo = begin = region * self.size
        if self._prefix and self._prefix[0] == begin:
            lo = self._prefix[1]
        end = region + 1 if single else self.sync.find(True, region, self.total)
        hi = min(lo + most, end * self.size)
        if hi >= begin + self.size:
            hi = hi // self.size * self.size
        return lo, min(hi, self.length)

    def open(self, lo: int, hi: int, stopped: Callable[[], bool]) -> bool:
        """Open the window; returns when nobody writes there. False: ``stopped()``, no window."""
        self._window = (lo, hi)
        self._window_epoch = self.epoch
        while any(lo < end and begin < hi for begin, end in self._writes.values()):
            if stopped():
                self._close()
                return False
            self._lock.wait()
        return True

    def close(self, done: int) -> None:
        """Close the window; it was copied up to sector ``done``."""
        window = self._close()
        begin = window[0] // self.size * self.size
        mine = window[0] == begin or self._prefix == (begin, window[0])
        if not mine or self._window_epoch != self.epoch:
            self._prefix = None
            return
        first, end = begin // self.size, done // self.size
        if done == self.length:
            end = self.total
        self.sync.fill(first, end, True)
        self._prefix = (end * self.size, done) if end * self.size < done < self.length else None
        self._cursor = end

    def close_failed(self, *, ignore: bool) -> None:
        """Close the window, which is of one region: copying it failed. ``ignore``: it counts as
        in sync, but is ragged."""
        region = self._close()[0] // self.size
        self._prefix = None
        self._cursor = region + 1
        if ignore and self._window_epoch == self.epoch:
            self.sync.fill(region, region + 1, True)
            self.ragged.fill(region, region + 1, True)

    def cancel(self) -> None:
        """Close the window; it is to be copied again."""
        self._close()

    def _close(self) -> tuple[int, int]:
        assert self._window is not None
        window, self._window = self._window, None
        self._lock.notify_all()
        return window
