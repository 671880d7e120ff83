# SPDX-License-Identifier: Apache-2.0
"""What I/O threads leave to be done: event numbers to be written, and devices that were to be
removed when their last opener went.

A thread in the middle of an I/O, or of closing a table, neither writes the store nor removes a
device: it makes a note. Every command settles the notes before it answers, so what it says is
stored and what it closed is gone; a thread of its own settles those that come between commands.

A removal may wait for I/O, and for long: for that of a mirror whose leg is suspended. So each is
waited for by one thread only, that of the command which closed the device, or the one in here;
other commands see it done, unless it takes long.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dmtool.core.state import State
from dmtool.core.step import CommandFailed
from dmtool.errors import DmtoolError

if TYPE_CHECKING:
    from dmtool.core.entry import Entry

log = logging.getLogger(__name__)

# Seconds that a command, and the end of the core, waits for removals that are not its own.
_OTHERS, _LAST = 0.1, 1.0


class _Command(threading.local):
    """What the command that runs on this thread has closed; None outside of commands."""

    idle: set[Entry] | None = None


class Settling:
    """The notes, and who settles them.

    Threads: ``event`` and ``idle`` from any thread, with any lock held; ``command`` and
    ``write`` from any thread without one. ``writing`` is held while event numbers are written,
    and by who makes a device's minor free. A device's ``control`` is only ever tried for in
    here: who holds it is in the middle of a command, which sees to the rest at its end.
    """

    def __init__(self, state: State, remove: Callable[[Entry], object]) -> None:
        """``remove(entry)`` removes an entry whose ``control`` is held, unless it is open."""
        self.writing = threading.Lock()
        self._state = state
        self._remove = remove
        self._command = _Command()
        self._noted = threading.Condition()
        self._fresh = False
        self._stopped = False
        self._events: set[Entry] = set()
        self._idle: set[Entry] = set()
        self._trying = False  # the thread has notes of `_idle` in its hands
        self._thread: threading.Thread | None = None

    def event(self, entry: Entry) -> None:
        """The device's event number has changed."""
        with self._noted:
            self._events.add(entry)
            self._wake()

    def idle(self, entry: Entry) -> None:
        """The device's last opener has gone."""
        if not entry.definition.deferred_remove:
            return
        if self._command.idle is not None:
            self._command.idle.add(entry)
            return
        with self._noted:
            self._idle.add(entry)
            self._wake()

    @contextmanager
    def command(self) -> Iterator[None]:
        """What is noted on this thread meanwhile is settled at the end."""
        if self._command.idle is not None:
            yield  # part of another one
            return
        self._command.idle = set()
        try:
            yield
        finally:
            try:
                self._settle_command()
            finally:
                self._command.idle = None

    def write(self) -> None:
        """Write the event numbers. What fails is logged, and tried again at the next note."""
        with self.writing:
            with self._noted:
                events, self._events = self._events, set()
            numbers = {e.minor: e.device.event_nr for e in events if e.published and not e.removed}
            try:
                if numbers:
                    self._state.save_events(numbers)
            except DmtoolError:
                log.exception("event numbers")
                with self._noted:
                    self._events |= events

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="settle", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, unless it waits for a device that will not go, and write for the last
        time. Devices that were to be removed are removed by the next core."""
        with self._noted:
            self._stopped = True
            self._wake()
        if self._thread is not None:
            self._thread.join(_LAST)
        self.write()

    def _wake(self) -> None:
        self._fresh = True
        self._noted.notify_all()

    def _settle_command(self) -> None:
        idle = self._command.idle
        assert idle is not None
        while idle:  # removing the upper device closes the one below
            entry = idle.pop()
            if not self._done_with(entry):
                with self._noted:
                    self._idle.add(entry)
        self.write()
        with self._noted:
            if self._idle or self._trying:
                # one may have been left since this command had its device
                self._wake()
                self._noted.wait_for(lambda: not (self._fresh or self._trying), _OTHERS)

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

    def _run(self) -> None:
        while True:
            with self._noted:
                self._noted.wait_for(lambda: self._stopped or self._fresh)
                if self._stopped:
                    return
                self._fresh = False
                idle, self._idle = self._idle, set()
                self._trying = bool(idle)
            self.write()
            left = {entry for entry in idle if not self._done_with(entry)}
            with self._noted:
                self._idle |= left
                self._trying = False
                self._noted.notify_all()
