# SPDX-License-Identifier: Apache-2.0
"""The sending half of a connection's socket.

Two kinds of threads send. The connection's own thread sends the replies of a batch, partly out
of mappings of image files, while it is inside the suspend gate; it may wait for the client, but
never so that a suspend waits for the client too. Workers send private memory and never wait:
what the client does not take at once stays queued for the connection's own thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Self

from dmtool.backing import Bytes

IOV_MOST = 1000  # Linux UIO_MAXIOV is 1024

# Descriptors that are readable when a suspend waits for this thread.
Fds = Sequence[int]

# Requests, how many of them only wait for a disk, and bytes of their replies or payloads.
Cost = tuple[int, int, int]

_DONTWAIT = socket.MSG_DONTWAIT


class Gone(Exception):
    """The client is gone, or the connection must end because its stream cannot go on."""


class GateCloses(Exception):
    """A suspend waits for this thread to leave."""


def rest(buffers: list[Bytes], sent: int) -> list[Bytes]:
    """What is left of ``buffers`` when their first ``sent`` bytes are gone."""
    for i, buffer in enumerate(buffers):
        if sent < len(buffer):
            left = buffers[i:]
            if sent:
                left[0] = memoryview(left[0])[sent:]
            return left
        sent -= len(buffer)
    return []


class Outgoing:
    """``released`` gets the cost of what was posted when it has been sent (or the client is
    gone): what that is of. ``wake_fd`` becomes readable when the connection's own thread is to look: something
    is ``blocked``, or ``wanted`` was set and a reply was released.

    Threads: ``post`` from any; the rest from the connection's own thread.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.released: deque[Cost] = deque()
        self.wanted = False
        self.blocked = False
        self._turn = threading.Lock()
        self._waking = threading.Lock()  # whoever uses ``wake_fd`` but on the connection's thread
        self._queue: deque[tuple[list[Bytes], Cost]] = deque()
        self._now: list[Bytes] = []  # under way; only for whoever has the turn
        self._cost: Cost = (0, 0, 0)
        self._dead = False

    def post(self, reply: list[Bytes], cost: Cost) -> None:
        """Send replies of private memory as soon as the client takes it; does not wait."""
        self._queue.append((reply, cost))
        if self.pump() or self.wanted:
            with self._waking:
                if self.wake_fd >= 0:  # else it was the last one, and is released already
                    os.eventfd_write(self.wake_fd, 1)

    def woken(self) -> None:
        """``wake_fd`` was seen, or may have been: it is readable no more."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)

    def pump(self) -> bool:
        """Send what is queued, as far as the client takes it now; whether it did not take all."""
        while self._queue or self._now:
            if not self._turn.acquire(blocking=False):
                return False  # whoever has the turn looks at the queue again after giving it up
            try:
                self.blocked = not self._drain()
            finally:
                self._turn.release()
            if self.blocked:
                return True
        self.blocked = False
        return False

    def __enter__(self) -> Self:
        """Take the turn, for a whole reply: no other may come in between its parts."""
        self._turn.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._turn.release()
        self.pump()

    def send(self, buffers: list[Bytes], closed_fds: Fds = ()) -> int:
        """Send, having the turn; the bytes that were sent. Less than all only because GateCloses
        or an OSError that is not the socket's (EFAULT) came up: ask again to learn which.

        Raises Gone; GateCloses and OSError if nothing at all was sent.
        """
        total = 0
        try:
            self._finish_now(closed_fds)
            while buffers:
                sent = self._some(buffers, closed_fds)
                total += sent
                buffers = rest(buffers, sent)
        except (GateCloses, OSError):
            if not total:
                raise
        return total

    def send_file(self, fd: int, offset: int, length: int, closed_fds: Fds) -> int:
        """sendfile(2); as ``send``. OSError EIO where the file has become shorter."""
        total = 0
        out = self.sock.fileno()
        os.set_blocking(out, False)  # there is no MSG_DONTWAIT for sendfile
        try:
            self._finish_now(closed_fds)
            while total < length:
                try:
                    sent = os.sendfile(out, fd, offset + total, length - total)
                except BlockingIOError:
                    self._wait(closed_fds)
                    continue
                if not sent:
                    raise OSError(errno.EIO, "the file has become shorter")
                total += sent
        except ConnectionError as error:
            raise Gone from error
        except (GateCloses, OSError):
            if not total:
                raise
        finally:
            os.set_blocking(out, True)
        return total

    def close(self) -> None:
        """Only when all that was posted is released; a worker may still be about to say so."""
        self.sock.close()
        with self._waking:
            os.close(self.wake_fd)
            self.wake_fd = -1

    def _some(self, buffers: list[Bytes], closed_fds: Fds) -> int:
        while True:
            try:
                return self.sock.sendmsg(buffers[:IOV_MOST], (), _DONTWAIT)
            except BlockingIOError:
                self._wait(closed_fds)
            except ConnectionError as error:
                raise Gone from error

    def _finish_now(self, closed_fds: Fds) -> None:
        """Send the rest of the posted reply of which a part has been sent. What else is queued
        must wait: this thread may be in the middle of a reply of its own."""
        while not self._push():
            self._wait(closed_fds)
        if self._dead:
            raise Gone

    def _drain(self) -> bool:
        """Send what is queued without waiting; whether all of it was sent."""
        while self._push():
            try:
                self._now, self._cost = self._queue.popleft()
            except IndexError:
                return True
        return False

    def _push(self) -> bool:
        """Send what is left of the posted reply under way, without waiting; whether that is all."""
        while self._now:
            try:
                if not self._dead:
                    sent = self.sock.sendmsg(self._now[:IOV_MOST], (), _DONTWAIT)
                    self._now = rest(self._now, sent)
            except BlockingIOError:
                return False
            except OSError:
                self._die()
            if self._dead:
                self._now = []
            if not self._now:
                self.released.append(self._cost)
        return True

    def _die(self) -> None:
        """The stream has a gap: nothing may follow. The connection's own thread learns of it
        from its next receive or send."""
        self._dead = True
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def _wait(self, closed_fds: Fds) -> None:
        """Until the client takes more. Raises GateCloses."""
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        for fd in closed_fds:
            poll.register(fd, select.POLLIN)
        if any(fd in closed_fds for fd, _ in poll.poll()):
            raise GateCloses
