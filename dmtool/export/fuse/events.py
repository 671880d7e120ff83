# SPDX-License-Identifier: Apache-2.0
"""``control/NAME/events``: a read waits for the next event of the device, and so does a poll.

Who waits costs no thread: one waits for all.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from dmtool.device import MappedDevice
from dmtool.export.fuse.session import Session


class Events:
    """The open file: a stream of lines, each the number of an event.

    Several events since the last line are one line, as to `dmsetup wait`. At the end of the
    device the stream ends.

    Threads: any; ``_lock`` guards all that changes.
    """

    def __init__(
        self, session: Session, device: MappedDevice, gone: Callable[[], bool], *, waits: bool
    ) -> None:
        """``gone()``: whether the device was removed; ``waits``: not opened with O_NONBLOCK."""
        self.device = device
        self.watch_fd = device.watch()
        self._session = session
        self._gone = gone
        self._waits = waits
        self._lock = threading.Lock()
        self._seen = device.event_nr
        self._rest = b""
        self._readers: deque[tuple[int, int]] = deque()  # unique and size of requests
        self._polled: int | None = None

    def read(self, unique: int, size: int) -> None:
        """Reply now, or when there is an event."""
        with self._lock:
            if not self._waits and not self._ready():
                self._session.fail(unique, errno.EAGAIN)
                return
            self._readers.append((unique, size))
            self._serve()

    def poll(self, kh: int | None) -> int:
        """What the file is ready for; ``kh``: who asks wants to be told of a change."""
        with self._lock:
            ready = self._ready()
            if kh is not None and not ready:
                self._polled = kh
            return select.POLLIN | select.POLLRDNORM if ready else 0

    def interrupt(self, unique: int) -> bool:
        """Give up the read of that number, if there is one."""
        with self._lock:
            for reader in self._readers:
                if reader[0] == unique:
                    self._readers.remove(reader)
                    self._session.fail(unique, errno.EINTR)
                    return True
        return False

    def look(self) -> None:
        """There may be an event."""
        with self._lock:
            self._serve()
            if self._polled is not None and self._ready():
                self._session.notify_poll(self._polled)
                self._polled = None

    def close(self) -> None:
        self.device.unwatch(self.watch_fd)

    def _ready(self) -> bool:
        return bool(self._rest) or self.device.event_nr != self._seen or self._gone()

    def _serve(self) -> None:
        while self._readers and self._ready():
            if not self._rest and self.device.event_nr != self._seen:
                self._seen = self.device.event_nr
                self._rest = f"{self._seen}\n".encode()
            unique, size = self._readers.popleft()
            self._session.reply(unique, self._rest[:size])  # nothing left: the end
            self._rest = self._rest[size:]


class Waiting:
    """The one thread that waits for the events of all open files.

    Threads: ``add``, ``remove`` and ``close`` from any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[int, Events] = {}
        self._epoll = select.epoll()
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._stop_fd, select.EPOLLIN)
        self._thread: threading.Thread | None = None

    def add(self, file: Events) -> None:
        """Look after a file."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fuse-events", daemon=True)
                self._thread.start()
            self._files[file.watch_fd] = file
            self._epoll.register(file.watch_fd, select.EPOLLIN)

    def remove(self, file: Events) -> None:
        """Forget a file, and close it."""
        with self._lock:
            del self._files[file.watch_fd]
            self._epoll.unregister(file.watch_fd)
            file.close()

    def interrupt(self, unique: int) -> None:
        """Give up the read of that number, if there is one."""
        with self._lock:
            files = list(self._files.values())
        any(file.interrupt(unique) for file in files)

    def close(self) -> None:
        """End the thread; all files were removed."""
        os.eventfd_write(self._stop_fd, 1)
        if self._thread is not None:
            self._thread.join()
        self._epoll.close()
        os.close(self._stop_fd)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                if fd == self._stop_fd:
                    return
                with self._lock:
                    file = self._files.get(fd)
                    if file is None:
                        continue
                    # nothing to read: it may be another file by now, with the same number
                    with suppress(BlockingIOError):
                        os.eventfd_read(fd)
                    file.look()
