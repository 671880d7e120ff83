# SPDX-License-Identifier: Apache-2.0
"""The gate that I/O passes on its way into a device, so that a suspend can wait for it.

While the gate is closed nothing enters; ``close`` returns when all that had entered has left, or
when the client that wants it closed has gone. Who has something else to wait for at the same time
(a socket) polls the two descriptors: ``closed_fd`` is readable while the gate is closed,
``open_fd`` while it is open or gone.

A *visitor* enters and leaves without asking: it has a number from ``turn_if_open``, says that it is
``inside``, looks whether ``turn`` is still that number, and goes out at once if not. When it has
gone out and the number is another, it calls ``left``.

Threads: every method from any thread; nobody may call ``close`` or ``drain`` from inside.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from dmtool.targets import waiting


class Visitor(Protocol):
    """Who enters and leaves by a flag of its own."""

    @property
    def inside(self) -> bool:
        """Whether it is inside, or is about to find out that it must not be. What was written
        before, by whoever asks, is seen by a visitor that is not."""

    def left(self) -> None:
        """It is not inside any more."""


def _never() -> bool:
    return False


class Gate:
    """Open at first. ``turn``: one unsigned number, which rises when the gate is closed or opened,
    and when all visitors are to come and look (``recall``)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self.turn = array("Q", [0])
        self._visitors: list[Visitor] = []
        self._closed = 0  # how many want it closed: a suspend, and a drain beside it
        self._gone = False
        self._closed_fd = -1
        self._open_fd = -1
        self._empty_fds: set[int] = set()  # of those who wait in `close` with a client

    def enter(self, given_up: Callable[[], bool] = _never) -> bool:
        """Go in, waiting while the gate is closed; False if it is gone.

        Raises OSError ECANCELED once ``given_up()``, which is asked again after ``wake``, and
        MustWait on a thread that must not wait.
        """
        with self._lock:
            while self._closed and not self._gone:
                waiting.check()
                if given_up():
                    raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
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

    def wake(self) -> None:
        """Have who waits in ``enter`` ask whether it has given up."""
        with self._lock:
            self._changed.notify_all()

    def leave(self) -> None:
        """Go out; once for each time that enter or try_enter answered True."""
        with self._lock:
            self._inside -= 1
            self._tell_if_empty()

    def visit(self, visitor: Visitor) -> None:
        """There is a visitor, until ``forget``."""
        with self._lock:
            self._visitors.append(visitor)

    def forget(self, visitor: Visitor) -> None:
        with self._lock:
            self._visitors.remove(visitor)
            self._tell_if_empty()

    def turn_if_open(self) -> int | None:
        """The number for a visitor; None while the gate is closed or gone."""
        with self._lock:
            return None if self._closed or self._gone else self.turn[0]

    def recall(self) -> None:
        """Have all visitors look what has changed, the next time that they would enter."""
        with self._lock:
            self.turn[0] += 1

    def left(self) -> None:
        """A visitor has gone out, perhaps as the last."""
        with self._lock:
            self._tell_if_empty()

    def admit(self, visitor: Visitor) -> None:
        """Let a visitor that is inside go on as one that has entered: to ``leave``."""
        with self._lock:
            self._inside += 1
            visitor.left()

    def _empty(self) -> bool:
        return not self._inside and not any(visitor.inside for visitor in self._visitors)

    def _tell_if_empty(self) -> None:
        if self._closed and self._empty():
            self._changed.notify_all()
            for fd in self._empty_fds:
                os.eventfd_write(fd, 1)

    def close(self, client_fd: int = -1) -> bool:
        """Let nobody in any more; True when nobody is inside. Each such close wants an open.

        False, and all is as it was before, if the other end of the socket ``client_fd`` is closed
        while somebody is inside.
        """
        with self._lock:
            self._closed += 1
            self.turn[0] += 1
            self._signal()
            if client_fd < 0:
                while not self._empty():
                    self._changed.wait()
                return True
        if self._emptied(client_fd):
            return True
        self.open()
        return False

    def _emptied(self, client_fd: int) -> bool:
        """Wait until nobody is inside (True) or the client has gone (False)."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            with self._lock:
                if self._empty():
                    return True
                self._empty_fds.add(fd)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.register(client_fd, 0)  # only for what is always told: POLLHUP, POLLERR
            # nobody goes in meanwhile: once empty it stays so
            return fd in {number for number, _ in poll.poll()}
        finally:
            with self._lock:
                self._empty_fds.discard(fd)
            os.close(fd)

    def open(self) -> None:
        """Take one close back; who waits goes in when the last one is."""
        with self._lock:
            self._closed -= 1
            self.turn[0] += 1
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

    def free(self) -> None:
        """Close the descriptors, which nobody polls any more. (Else they go with the last
        reference, and a device may be part of a cycle.)"""
        with self._lock:
            fds = self._closed_fd, self._open_fd
            self._closed_fd = self._open_fd = -1
        _close(fds)

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
        # no lock: the garbage collector may call this anywhere
        _close((self._closed_fd, self._open_fd))


def _close(fds: tuple[int, ...]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _set(fd: int, readable: bool) -> None:
    if fd < 0:
        return
    with suppress(BlockingIOError):
        os.eventfd_read(fd)
    if readable:
        os.eventfd_write(fd, 1)


def hung_up(client_fd: int) -> bool:
    """Whether the other end of a socket is closed; never so of -1."""
    if client_fd < 0:
        return False
    poll = select.poll()
    poll.register(client_fd, 0)
    return bool(poll.poll(0))
