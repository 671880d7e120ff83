# SPDX-License-Identifier: Apache-2.0
"""The gate that I/O passes on its way into a device, so that a suspend can wait for it.

While the gate is closed nothing enters; ``close`` returns when all that had entered has left.
Who has something else to wait for at the same time (a socket) polls the two descriptors:
``closed_fd`` is readable while the gate is closed, ``open_fd`` while it is open or gone.

Threads: every method from any thread; nobody may call ``close`` or ``drain`` from inside.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress


class Gate:
    """Open at first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._closed = 0  # how many want it closed: a suspend, and a drain beside it
        self._gone = False
        self._closed_fd = -1
        self._open_fd = -1

    def enter(self) -> bool:
        """Go in, waiting while the gate is closed; False if it is gone."""
        with self._lock:
            while self._closed and not self._gone:
                self._changed.wait()
            if self._gone:
                return False
            self._inside += 1
            return True

    def try_enter(self) -> bool | None:
        """Go in; None while the gate is closed, False if it is gone. Does not wait."""
        with self._lock:
            if self._gone:
                return False
            if self._closed:
                return None
            self._inside += 1
            return True

    def leave(self) -> None:
        """Go out; once for each time that enter or try_enter answered True."""
        with self._lock:
            self._inside -= 1
            if not self._inside and self._closed:
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more; returns when nobody is inside. Each close wants an open."""
        with self._lock:
            self._closed += 1
            self._signal()
            while self._inside:
                self._changed.wait()

    def open(self) -> None:
        """Take one close back; who waits goes in when the last one is."""
        with self._lock:
            self._closed -= 1
            self._signal()
            if not self._closed:
                self._changed.notify_all()

    def drain(self) -> None:
        """Wait for all that is inside now; who comes meanwhile waits outside."""
        self.close()
        self.open()

    def destroy(self) -> None:
        """The device is removed: who waits, and who comes, is turned away."""
        with self._lock:
            self._gone = True
            self._signal()
            self._changed.notify_all()

    @property
    def closed_fd(self) -> int:
        with self._lock:
            if self._closed_fd < 0:
                self._closed_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._signal()
            return self._closed_fd

    @property
    def open_fd(self) -> int:
        with self._lock:
            if self._open_fd < 0:
                self._open_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._signal()
            return self._open_fd

    def _signal(self) -> None:
        _set(self._closed_fd, bool(self._closed) or self._gone)
        _set(self._open_fd, not self._closed or self._gone)

    def __del__(self) -> None:
        # closed with the last reference, not before: a poll may still hold the numbers
        for fd in (self._closed_fd, self._open_fd):
            if fd >= 0:
                os.close(fd)


def _set(fd: int, readable: bool) -> None:
    if fd < 0:
        return
    with suppress(BlockingIOError):
        os.eventfd_read(fd)
    if readable:
        os.eventfd_write(fd, 1)
