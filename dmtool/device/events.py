# SPDX-License-Identifier: Apache-2.0
"""The events of a mapped device: their number, and who waits for the next one (dm.c, dm_wait_event)."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from dmtool.targets.target import Target


class Event(NamedTuple):
    """What happened. ``kind``: ``target`` (``type`` is its target type, ``sector`` where it begins,
    ``what`` its own words), ``rename`` (``what``: the old name) or ``uuid``."""

    kind: str
    event_nr: int
    type: str = ""
    sector: int | None = None
    what: str = ""


class Events:
    """``event_nr`` counts from 0. ``on_event(event)`` is called for each, in their order, on any
    thread; it must not wait, nor raise or watch events itself.

    Threads: every method from any thread.
    """

    def __init__(self) -> None:
        self.event_nr = 0
        self.on_event: Callable[[Event], None] | None = None
        self._gone = False  # there will be no event any more
        self._counting = threading.Lock()
        self._watchers: set[int] = set()

    def raise_event(
        self, kind: str = "target", type: str = "", sector: int | None = None, what: str = ""
    ) -> None:
        """Count an event, tell of it, and wake who waits for one."""
        with self._counting:
            self.event_nr += 1
            if self.on_event is not None:
                self.on_event(Event(kind, self.event_nr, type, sector, what))
        self._wake()

    def target_event(self, target: Target[Any], what: str) -> None:
        """The event of a target."""
        self.raise_event("target", target.type.name, target.begin, what)

    def wait(self, event_nr: int, cancel_fd: int = -1) -> int | None:
        """Wait until the event number is another than ``event_nr``, and return it.

        None if ``cancel_fd`` became readable (or hung up) first. Raises OSError ENXIO when the
        device is removed.
        """
        fd = self.watch()
        try:
            while True:
                self._check()
                if self.event_nr != event_nr:
                    return self.event_nr
                poll = select.poll()
                poll.register(fd, select.POLLIN)
                if cancel_fd >= 0:
                    poll.register(cancel_fd, select.POLLIN | select.POLLRDHUP)
                ready = [number for number, _ in poll.poll()]
                if cancel_fd in ready:
                    return None
                os.eventfd_read(fd)
        finally:
            self.unwatch(fd)

    def watch(self) -> int:
        """An eventfd of the caller's own that becomes readable at every event, rename and at
        removal; give it back with ``unwatch``."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self._counting:
            self._watchers.add(fd)
        return fd

    def unwatch(self, fd: int) -> None:
        with self._counting:
            self._watchers.discard(fd)
        os.close(fd)

    def _wake(self) -> None:
        with self._counting:
            for fd in self._watchers:
                os.eventfd_write(fd, 1)

    def _check(self) -> None:
        if self._gone:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
