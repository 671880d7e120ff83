# SPDX-License-Identifier: Apache-2.0
"""The thread that copies what is not in sync, and notes in the log what is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from dmtool.api import SECTOR
from dmtool.plugins.mirror.mirror import NEVER, Mirror
from dmtool.plugins.mirror.throttle import Throttle, first_rate
from dmtool.plugins.mirror.transfer import Transfer

log = logging.getLogger(__name__)

# Bytes of one window: what a writer may have to wait for.
_WINDOW = 8 << 20


class Copier:
    """Runs while the device does and there is something to do.

    Threads: ``start`` and ``stop`` on the one that resumes and suspends; ``pause`` and ``set_rate``
    on any.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._throttle = Throttle(first_rate())
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._single_until = 0  # a window failed: up to here, a region at a time
        self._transfer: tuple[int, Transfer] | None = None

    def start(self) -> None:
        """Copy what the regions say is next."""
        mirror = self._mirror
        self.stop()
        with mirror.lock:
            self._stopping = False
            self._single_until = 0
            if mirror.ti.readonly or (mirror.in_sync and not mirror.log.persistent):
                return
        self._thread = threading.Thread(target=self._run, name="mirror copier", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when no copy is under way; the one that is ends at its next block."""
        with self._mirror.lock:
            self._stopping = True
            self._mirror.lock.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def pause(self, paused: bool) -> None:
        with self._mirror.lock:
            self._throttle.paused = paused
            self._mirror.lock.notify_all()

    def set_rate(self, rate: int) -> None:
        """Bytes a second; 0: no limit."""
        with self._mirror.lock:
            self._throttle.set_rate(rate)
            self._mirror.lock.notify_all()

    def _run(self) -> None:
        try:
            while step := self._next():
                step()
        except Exception:
            log.exception("%s: the copier has ended", self._mirror)

    def _next(self) -> Callable[[], None] | None:
        """Wait for something to do. None: nothing will be until the next resume."""
        mirror = self._mirror
        with mirror.lock:
            while not self._stopping:
                if mirror.complete:
                    return mirror.finish
                now = time.monotonic()
                clean = mirror.clean_due()
                if clean <= now:
                    return mirror.clean
                window = self._window()
                copy = self._throttle.due() if window else NEVER
                if window and copy <= now:
                    return partial(self._copy, *window)
                if not window and not mirror.log.persistent:
                    return None
                due = min(clean, copy)
                mirror.lock.wait(None if due == NEVER else due - now)
        return None

    def _window(self) -> tuple[int, int] | None:
        regions = self._mirror.regions
        most = max(self._throttle.step(_WINDOW) // SECTOR, 1)
        window = regions.next(most, single=False)
        if window and window[0] < self._single_until:
            window = regions.next(most, single=True)
        return window

    def _stopped(self) -> bool:
        return self._stopping

    def _copy(self, lo: int, hi: int) -> None:
        mirror = self._mirror
        with mirror.lock:
            if not mirror.regions.open(lo, hi, self._stopped):
                return
            source = mirror.legs.default
        begun = time.monotonic()
        try:
            copied = self._transfer_from(source).copy(lo, hi, self._stopped)
        except BaseException:
            with mirror.lock:
                mirror.regions.cancel()
            raise
        with mirror.lock:
            self._throttle.spent(copied.moved, begun)
            size = mirror.regions.size
            if copied.failed and lo // size != (hi - 1) // size:
                # of several regions: each by itself, so that one bad sector costs one region
                self._single_until = hi
                mirror.regions.cancel()
                return
        if copied.failed:
            mirror.copy_failed(copied.failed)
        else:
            mirror.copied(copied.done)

    def _transfer_from(self, source: int) -> Transfer:
        mirror = self._mirror
        if self._transfer is None or self._transfer[0] != source:
            self._transfer = source, Transfer(mirror.legs.places, mirror.regions.length, source)
        return self._transfer[1]
