# SPDX-License-Identifier: Apache-2.0
"""What I/O threads leave to be done: event numbers to be written, and devices that were to be
removed when their last opener went.

A thread in the middle of an I/O, or of closing a table, neither writes the store nor removes a
device: it makes a note. Every command settles the notes before it answers, so what it says is
stored and what it closed is gone; a thread of its own settles those that come between commands.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dmtool.core.state import State
from dmtool.core.step import CommandFailed
from dmtool.errors import DmtoolError

if TYPE_CHECKING:
    from dmtool.core.devices import Entry

log = logging.getLogger(__name__)


class Settling:
    """The notes, and who settles them.

    Threads: ``event`` and ``idle`` from any thread, with any lock held; ``settle`` from any
    thread without one. ``writing`` is held while notes are settled; a device's ``control`` comes
    before it, so in here that is only ever tried for: who holds it settles when done with it.
    """

    def __init__(self, state: State, remove: Callable[[Entry], object]) -> None:
        """``remove(entry)`` removes an entry whose ``control`` is held, unless it is open."""
        self.writing = threading.RLock()
        self._state = state
        self._remove = remove
        self._noted = threading.Condition()
        self._fresh = False
        self._stopped = False
        self._events: set[Entry] = set()
        self._idle: set[Entry] = set()
        self._thread: threading.Thread | None = None

    def event(self, entry: Entry) -> None:
        """The device's event number has changed."""
        self._note(self._events, entry)

    def idle(self, entry: Entry) -> None:
        """The device's last opener has gone."""
        if entry.definition.deferred_remove:
            self._note(self._idle, entry)

    def _note(self, where: set[Entry], entry: Entry) -> None:
        with self._noted:
            where.add(entry)
            self._fresh = True
            self._noted.notify()

    def settle(self) -> None:
        """Do all that is noted. What fails is logged, and tried again when there is a new note."""
        with self.writing:
            with self._noted:
                self._fresh = False
                events = set(self._events)
                self._events.clear()
            try:
                self._write(events)
            except DmtoolError:
                log.exception("event numbers")
                with self._noted:
                    self._events |= events
            self._remove_idle()

    def _remove_idle(self) -> None:
        stuck: set[Entry] = set()
        while True:  # removing the upper device closes the one below
            with self._noted:
                idle = self._idle - stuck
                self._idle &= stuck
            if not idle:
                return
            stuck |= {entry for entry in idle if not self._done_with(entry)}
            with self._noted:
                self._idle |= stuck

    def _write(self, events: set[Entry]) -> None:
        numbers = {e.minor: e.device.event_nr for e in events if e.published and not e.removed}
        if numbers:
            self._state.save_events(numbers)

    def _done_with(self, entry: Entry) -> bool:
        """Whether nothing is left to do for an idle device."""
        if not entry.control.acquire(blocking=False):
            return False
        try:
            if not entry.removed and entry.definition.deferred_remove:
                self._remove(entry)
        except (DmtoolError, OSError, CommandFailed):
            log.exception("%s: deferred removal", entry.device.name)
            return False
        finally:
            entry.control.release()
        return True

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="settle", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Settle for the last time and end the thread."""
        with self._noted:
            self._stopped = True
            self._noted.notify()
        if self._thread is not None:
            self._thread.join()
        self.settle()

    def _run(self) -> None:
        while True:
            with self._noted:
                self._noted.wait_for(lambda: self._stopped or self._fresh)
                if self._stopped:
                    return
            self.settle()
