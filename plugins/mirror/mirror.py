# SPDX-License-Identifier: Apache-2.0
"""One mirror: what I/O does to its legs, and what becomes of it when a leg fails (dm-raid1.c)."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dmtool.api import Done, Extent, Io, Mirrored, Requeue, Target
from dmtool.plugins.mirror.bits import span
from dmtool.plugins.mirror.legs import Failure, Legs
from dmtool.plugins.mirror.log import NOSYNC, DiskLog, Log
from dmtool.plugins.mirror.regions import Part, Regions, State

log = logging.getLogger(__name__)

NEVER = float("inf")
# A region is noted as clean so long after the last write to the mirror, and while there is no
# end to them, so long after the first.
_CLEAN_IDLE = 0.25
_CLEAN_BUSY = 5.0


@dataclass(frozen=True)
class Options:
    """``handle_errors``: a write that fails on a leg is held until the device is suspended, and
    that leg failures raise events; ``keep_log`` with it: such a write is done all the same."""

    handle_errors: bool = False
    keep_log: bool = False

    @property
    def hold(self) -> bool:
        return self.handle_errors and not self.keep_log

    def __str__(self) -> str:
        words = [word for word in ("handle_errors", "keep_log") if getattr(self, word)]
        return f" {len(words)} {' '.join(words)}" if words else ""


class Mirror:
    """``legs`` of the target ``ti``; all numbers are sectors of the target.

    ``in_sync``   all regions were copied, and no write failed since; then there is a plan.
    ``held``      how many writes and flushes wait for the device to be suspended.
    ``regions``   and all else here that changes: under ``lock``, which is let go while waiting.

    A write is told to have been done only if it was on the default leg, and reads never come
    from a leg that may have other bytes.

    Threads: ``read``, ``write`` and ``flush_failed`` on any that does I/O; the rest where said.
    ``lock`` is never held while a leg is read or written, nor while an event is raised.
    """

    def __init__(self, ti: Target[Any], legs: tuple[Extent, ...], dirty: Log, options: Options):
        self.ti = ti
        self.legs = Legs(legs)
        self.log = dirty
        self.options = options
        self.lock = threading.Condition()
        self.in_sync = dirty.sync == NOSYNC
        self.regions = Regions(ti.len, dirty.region_size, self.in_sync, self.lock)
        self.held = 0
        self._suspending = False
        self._events: list[str] = []
        self._planned = (self.in_sync, self.legs.default)
        self._settling = threading.Lock()
        self._touched: list[tuple[int, int]] | None = None  # written while regions are cleaned
        self._unclean_since = NEVER
        self._written = 0.0
        self._lost_mark = 0
        dirty.on_failure = self._log_failed

    def __str__(self) -> str:
        return f"mirror of {self.legs}"

    # -- what is seen from outside ----------------------------------------------------------------

    def plan(self) -> Mirrored | None:
        with self.lock:
            if not self.in_sync:
                return None
            places, default = self.legs.places, self.legs.default
            return Mirrored(places, default, writes=not self.log.persistent)

    def status(self) -> str:
        with self.lock:
            places, regions = self.legs.places, self.regions
            devices = " ".join(str(place.device) for place in places)
            return (
                f"{len(places)} {devices} {regions.sync.count}/{regions.total} 1 "
                f"{self.legs.letters} {self.log.status()}"
            )

    def settle(self) -> None:
        """Carry out what was decided under the lock: the log and the plan that go with the state,
        before anybody is told of what changed it, and events. Not with the lock held."""
        with self._settling:
            if self._lost_mark:
                mark, self._lost_mark = self._lost_mark, 0
                self.log.commit(mark)
            with self.lock:
                planned = (self.in_sync, self.legs.default)
                changed, self._planned = planned != self._planned, planned
                events, self._events = self._events, []
            if changed:
                # Nobody waits for I/O of the old plan: what is held would never end. It writes to
                # all legs, so it does no harm but to a copy; and what was in sync while there was
                # a plan is copied only after a suspend, which did wait.
                self.ti.replan(wait=False)
        for what in events:
            self.ti.event(what)

    # -- reading ----------------------------------------------------------------------------------

    def read(self, io: Io) -> Done:
        """Raises OSError EIO where no leg that may be asked has an answer."""
        lo = io.sector - self.ti.begin
        with self.lock:
            parts = [
                (part_lo, part_hi, self.legs.candidates() if alike else [self.legs.default])
                for part_lo, part_hi, alike in self.regions.alike(lo, lo + io.count)
            ]
        data = [self._read(*part) for part in parts]
        return Done(data[0] if len(data) == 1 else b"".join(data))

    def _read(self, lo: int, hi: int, candidates: list[int]) -> bytes:
        for leg in candidates:
            data = self.legs.read(leg, lo, hi)
            if data is not None:
                return data
            with self.lock:
                self._fail([leg], Failure.READ)
            self.settle()
        raise _eio()

    # -- writing ----------------------------------------------------------------------------------

    def write(self, io: Io) -> Done:
        """A write, a discard or zeros. Raises OSError EIO, or Requeue."""
        if not self.log.started:
            raise _eio()  # the device has never been resumed
        lo = io.sector - self.ti.begin
        hi = lo + io.count
        with self.lock:
            ticket = self.regions.enter(lo, hi)
            if self._touched is not None:
                self._touched.append((lo, hi))
            parts = self.regions.parts(lo, hi)
            default = self.legs.default
            hold = self._holds(parts)
        try:
            if hold or not self._mark(parts):
                done, hold = False, hold or self.options.hold
            else:
                done, hold = self._write_parts(io, parts, default)
        finally:
            with self.lock:
                self._note_written(parts)
                self.regions.leave(ticket)
        self.settle()
        if hold:
            self._hold()
        if not done:
            raise _eio()
        return Done()

    def _holds(self, parts: list[Part]) -> bool:
        """Whether a write is not even tried: it would be on one leg, and one has failed."""
        differ = any(part.state is not State.SYNC for part in parts)
        return self.options.hold and self.legs.failed and differ

    def _mark(self, parts: list[Part]) -> bool:
        """Note in the log what is about to be written; False: it is not to be."""
        handled = self.options.handle_errors
        for part in parts:
            if part.state is not State.SYNC:
                continue  # marked since it is not in sync
            if self.log.failed and handled:
                return False
            mark = self.log.mark(*self.regions.covering(part.lo, part.hi))
            if mark and not self.log.commit(mark) and handled:
                return False
        return True

    def _write_parts(self, io: Io, parts: list[Part], default: int) -> tuple[bool, bool]:
        """Whether the write is done, and whether it is to be held."""
        skip = io.sector - self.ti.begin
        everyone = self.legs.everyone
        wanted = [everyone if p.state is not State.NOSYNC else frozenset([default]) for p in parts]
        bad = [
            {leg for leg in legs if not self.legs.write(leg, io, p.lo, p.hi, p.lo - skip)}
            for p, legs in zip(parts, wanted, strict=True)
        ]
        unflushed: set[int] = set()
        if io.fua:
            unflushed = self.legs.flush(set().union(*wanted) - set().union(*bad))
        hold = False
        with self.lock:
            for part, failed in zip(parts, bad, strict=True):
                if failed and part.state is State.SYNC:
                    self._fail(failed, Failure.WRITE)
                    self.regions.lose(part.lo, part.hi)
                    self.in_sync = False
                    hold = hold or failed != everyone
                elif failed and part.state is State.COPIED:
                    self.regions.lose_copied()
            if unflushed:
                self._lose_all(unflushed)
                hold = True
            done = all(
                self.legs.default in legs - failed - unflushed
                for legs, failed in zip(wanted, bad, strict=True)
            )
        return done, hold and self.options.hold

    def flush_failed(self, device: object, error: int) -> int:
        """A flush of ``device`` by others failed: the errno that they are to report. Raises
        OSError EIO, or Requeue, after having held them."""
        bad = {leg for leg, place in enumerate(self.legs.places) if place.device is device}
        if not bad:
            return error
        with self.lock:
            self._lose_all(bad)
            done = self.legs.default not in bad
            hold = done and self.options.hold and not self._suspending
        self.settle()
        if hold:
            self._hold()
        return 0 if done else error

    def _hold(self) -> None:
        """Wait until the device is suspended. Raises OSError EIO; Requeue where it is without
        flush, so that the write is done anew, on another table perhaps."""
        with self.lock:
            self.held += 1
            self.lock.notify_all()
            while not self._suspending:
                self.lock.wait()
            self.held -= 1
        raise Requeue if self.ti.noflush else _eio()

    # -- failures ---------------------------------------------------------------------------------

    def _fail(self, legs: Iterable[int], failure: Failure) -> None:
        """Legs failed, of one kind or another; what that means for the default leg. With the lock
        held; ``settle`` is to follow."""
        bad = sorted(legs)
        if self.legs.fail(bad, failure, alike=self.regions.whole) and self.options.handle_errors:
            self._events.append(self.legs.told(bad, failure))

    def _lose_all(self, legs: set[int]) -> None:
        """What was written to legs may be lost, nobody knows since when."""
        self._fail(legs, Failure.FLUSH)
        self.regions.lose_all()
        self.in_sync = False
        self._lost_mark = self.log.mark(0, self.regions.total)

    def _log_failed(self) -> None:
        log.warning("%s: the log failed: %s", self, self.log.status())
        with self.lock:
            self._events.append(f"log failed: {self.log.status()}")

    # -- copying, on the copier's thread ----------------------------------------------------------

    def copied(self, done: int) -> None:
        """The window was copied up to ``done``."""
        with self.lock:
            self.regions.close(done)
            self._note_unclean()

    def copy_failed(self, legs: Iterable[int]) -> None:
        """The window, of one region, could not be copied because of ``legs``."""
        with self.lock:
            self._fail(legs, Failure.SYNC)
            self.regions.close_failed(ignore=not self.options.handle_errors)
        self.settle()

    @property
    def complete(self) -> bool:
        """All regions are copied, and nobody has been told."""
        return not self.in_sync and self.regions.sync.count == self.regions.total

    def finish(self) -> None:
        """Tell that all is in sync, if it still is when the log says so."""
        self.clean()
        with self.lock:
            # a flush may have failed
            if self.complete:
                self.in_sync = True
                self.legs.forgive()
                self._events.append("in sync")
                self.lock.notify_all()
        self.settle()

    # -- the log, on the copier's thread or while suspended ---------------------------------------

    def _note_written(self, parts: list[Part]) -> None:
        if self.log.persistent and any(part.state is State.SYNC for part in parts):
            self._note_unclean()

    def _note_unclean(self) -> None:
        if self.log.persistent:
            self._written = time.monotonic()
            if self._unclean_since == NEVER:
                self._unclean_since = self._written
                self.lock.notify_all()

    def clean_due(self) -> float:
        """When ``clean`` should be called, on the clock of time.monotonic. With the lock held."""
        if self._unclean_since == NEVER:
            return NEVER
        return min(self._unclean_since + _CLEAN_BUSY, self._written + _CLEAN_IDLE)

    def clean(self) -> None:
        """Note in the log which regions need not be copied should there be no tomorrow."""
        dirty = self.log
        if not isinstance(dirty, DiskLog):
            return
        with self.lock:
            idle = dirty.unclean(self.regions.sync.mask() & ~self.regions.ragged.mask())
            idle &= ~self._mask(self.regions.writing())
            self._touched = []
        unflushed = self.legs.flush(self.legs.everyone if idle else ())
        with self.lock:
            touched, self._touched = self._touched, None
            if unflushed:
                self._lose_all(unflushed)
            regions = self.regions
            dirty.set_clean(idle & regions.sync.mask() & ~self._mask(touched or []))
            left = dirty.unclean(regions.sync.mask() & ~regions.ragged.mask())
            self._unclean_since = time.monotonic() if left else NEVER
        dirty.commit(0, flush=False)
        self.settle()
        with self.lock:
            self.lock.notify_all()

    def _mask(self, ranges: Iterable[tuple[int, int]]) -> int:
        mask = 0
        for lo, hi in ranges:
            mask |= span(*self.regions.covering(lo, hi))
        return mask

    # -- suspend and resume, on the thread that does it -------------------------------------------

    def start(self, *, again: bool) -> None:
        """The device is resumed; ``again``: the suspend did not happen after all. Then I/O of a
        plan that was given up may still be under way: what failed is not tried again."""
        with self.lock:
            self._suspending = False
            if not again:
                self.regions.restart()

    def load_log(self) -> None:
        """Take the state of the regions from the log, at the first resume."""
        dirty = self.log
        if isinstance(dirty, DiskLog) and not dirty.started:
            dirty.start(write=not self.ti.readonly)
            with self.lock:
                self.regions.sync.load(dirty.clean.mask())
        self.settle()

    def release(self) -> None:
        """The device is about to be suspended: nothing is held any longer."""
        with self.lock:
            self._suspending = True
            self.lock.notify_all()

    def save_log(self) -> None:
        """The device is suspended."""
        dirty = self.log
        if isinstance(dirty, DiskLog) and dirty.started and not self.ti.readonly:
            self.clean()
            dirty.save()
            self.settle()


def _eio() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))
