# SPDX-License-Identifier: Apache-2.0
"""The receiving half of a connection's socket: one buffer, and all the waiting."""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import ClassVar

from dmtool.backing import Bytes
from dmtool.export.nbd.outgoing import IOV_MOST, Fds, GateCloses, Gone, Outgoing
from dmtool.export.nbd.spin import SPIN

BUFFER = 256 << 10  # bytes; small enough to stay in a core's cache until it is used
BLOCK = 4096
WHOLE = 64 << 10  # a payload of up to this many bytes is always received wholly into the buffer

# A spin looks so many times, for about a microsecond each. After so many for nothing in a row only
# every 64th wait begins with one: a client that pauses costs next to nothing.
_SPINS = SPIN
_MISSES = 4
_AGAIN = 63

_HUNG_UP = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Incoming:
    """``view[pos:end]`` is what has been received and not yet used.

    While it waits it sends, too, what workers have posted and the client did not take at once.

    Threads: the connection's own.
    """

    _latest: ClassVar[object] = None  # the `_self` of who, of all connections, was last to receive

    def __init__(self, sock: socket.socket, out: Outgoing) -> None:
        self.view = memoryview(bytearray(BUFFER))
        self.pos = 0
        self.end = 0
        self.sip = False  # receive little next time: a payload is better received elsewhere
        self._self = object()
        self._misses = 0  # spins in a row for nothing
        self._receives = 0  # that were waited for
        self._sock = sock
        self._out = out
        # The other end of a unix socket has hung up only when it is closed; of TCP there is
        # nothing but the end of its stream to be seen, which clients may shut down early.
        self._hung_up = _HUNG_UP if sock.family == socket.AF_UNIX else _HUNG_UP | select.POLLRDHUP

    def receive(self, *, busy: bool) -> None:
        """Wait for more. ``busy``: workers may post meanwhile. Raises Gone at the end."""
        self._compact()
        free = self.view[self.end :]
        if self.sip:
            self.sip = False
            free = free[:BLOCK]
        if busy:
            self._poll(select.POLLIN)
        elif self._may_spin() and self._spin(free):
            return
        self._got(self._sock.recv_into(free))

    def _may_spin(self) -> bool:
        # Where several connections are busy, spinning takes the GIL from those that have work.
        alone = Incoming._latest is self._self
        Incoming._latest = self._self
        self._receives += 1
        return alone and (self._misses < _MISSES or not self._receives & _AGAIN)

    def _spin(self, free: memoryview) -> bool:
        """Look for more for a short while before going to sleep: a client that waits for each
        reply before it asks again has its next request here sooner than this thread would be
        awake again. Whether something came."""
        for _ in range(_SPINS):
            try:
                self._got(self._sock.recv_into(free, 0, socket.MSG_DONTWAIT))
            except BlockingIOError:
                continue
            self._misses = 0
            return True
        self._misses += 1
        return False

    def receive_inside(self, closed_fds: Fds) -> None:
        """The same inside the gate. Raises GateCloses."""
        self._compact()
        free = self.view[self.end :]
        try:
            self._got(self._sock.recv_into(free, 0, socket.MSG_DONTWAIT))
        except BlockingIOError:
            if self._poll(select.POLLIN, closed_fds):
                raise GateCloses from None
            self._got(self._sock.recv_into(free))

    def wait(self, fd: int) -> None:
        """Until ``fd`` is readable. Raises Gone when the client has hung up."""
        while not self._poll(0, [fd]):
            pass

    def wait_released(self) -> None:
        """Until a posted reply has been sent. Raises Gone when the client has hung up."""
        while not self._out.released:
            self._poll(0)

    def take(self, data: memoryview) -> None:
        """Fill ``data`` with what comes next. Raises Gone at the end."""
        have = min(self.end - self.pos, len(data))
        data[:have] = self.view[self.pos : self.pos + have]
        self.pos += have
        while have < len(data):
            self._poll(select.POLLIN)
            got = self._sock.recv_into(data[have:])
            if not got:
                raise Gone
            have += got

    def skip(self, length: int) -> None:
        """Drop the next ``length`` bytes, received or not. Raises Gone at the end."""
        while length > self.end - self.pos:
            length -= self.end - self.pos
            self.pos = self.end = 0
            self.receive(busy=True)
        self.pos += length

    def receive_into(self, data: list[Bytes], closed_fds: Fds) -> int:
        """Receive into ``data`` inside the gate, past the buffer, which is empty; how much came,
        0 if ``data`` is memory that cannot be written to. Raises GateCloses."""
        while True:
            try:
                if len(data) == 1:
                    got = self._sock.recv_into(data[0], 0, socket.MSG_DONTWAIT)
                else:
                    got = self._sock.recvmsg_into(data[:IOV_MOST], 0, socket.MSG_DONTWAIT)[0]
            except BlockingIOError:
                if self._poll(select.POLLIN, closed_fds):
                    raise GateCloses from None
                continue
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
                return 0
            if not got:
                raise Gone
            return got

    def piece(self, offset: int, most: int, *, whole: bool) -> memoryview:
        """The next bytes of a payload that goes to the device's byte ``offset``, at most
        ``most``; with ``whole`` whole blocks, but for the last piece: a client that dies leaves
        none torn."""
        have = min(self.end - self.pos, most)
        if whole and have < most:
            have = max(have - (offset + have) % BLOCK, 0)
        piece = self.view[self.pos : self.pos + have]
        self.pos += have
        return piece

    def _got(self, count: int) -> None:
        if not count:
            raise Gone
        self.end += count

    def _compact(self) -> None:
        have = self.end - self.pos
        if have and BUFFER - self.end > WHOLE:
            return
        self.view[:have] = self.view[self.pos : self.end]
        self.pos, self.end = 0, have

    def _poll(self, events: int, fds: Fds = ()) -> bool:
        """Wait for ``events`` on the socket, or one of ``fds``; True if for these.

        Without events it may return for nothing, and the client's hanging up raises Gone.
        """
        out = self._out
        while True:
            poll = select.poll()
            unless = 0 if events else self._hung_up
            poll.register(self._sock, events | unless | (select.POLLOUT if out.blocked else 0))
            poll.register(out.wake_fd, select.POLLIN)
            for fd in fds:
                poll.register(fd, select.POLLIN)
            ready = dict(poll.poll())
            seen = ready.get(self._sock.fileno(), 0)
            if seen & unless:
                raise Gone
            if seen & select.POLLOUT and out.blocked:
                out.pump()
            if out.wake_fd in ready:
                os.eventfd_read(out.wake_fd)
                out.pump()
            if not ready.keys().isdisjoint(fds):
                return True
            if not events or seen & (events | _HUNG_UP):
                return False
