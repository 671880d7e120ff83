# SPDX-License-Identifier: Apache-2.0
"""The requests of one connection that workers have in their hands."""

from __future__ import annotations

import select

from dmtool.device import MappedDevice
from dmtool.export.nbd import commands as c
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.incoming import Incoming
from dmtool.export.nbd.outgoing import Outgoing
from dmtool.export.nbd.workers import Workers

MOST = 128
BYTES_MOST = 64 << 20


class HandedOver:
    """``count`` of them; it falls only when the connection's own thread looks (``settle``).

    Threads: the connection's own; the jobs run on workers.
    """

    def __init__(
        self, device: MappedDevice, session: c.Session, inc: Incoming, out: Outgoing
    ) -> None:
        self.count = 0
        self._bytes = 0
        self._no_room_for = 0
        self._device = device
        self._session = session
        self._in = inc
        self._out = out

    def add(self, workers: Workers, request: c.Request) -> bool:
        """Have a worker do a request, inside the gate on its own account, and send its reply.
        False: there is no room, or the gate is closing."""
        session, device, out = self._session, self._device, self._out
        cost = request.length if request.command in (p.CMD_READ, p.CMD_WRITE) else 0
        self.settle()
        if self._full(cost):
            self._no_room_for = cost
            return False
        try:
            entered = device.try_begin()
        except OSError:
            return False  # removed: the connection finds that out when it enters
        if entered is None:
            return False
        table = entered
        self.count += 1
        self._bytes += cost

        def job() -> None:
            try:
                reply = c.execute(session, request, table)
            finally:
                device.end()
            out.post(reply, cost)

        workers.submit(job)
        return True

    def settle(self) -> None:
        """Take what has been answered off the count."""
        released = self._out.released
        while released:
            self._bytes -= released.popleft()
            self.count -= 1

    def wait_for_room(self) -> None:
        """Until what was refused last for want of room has some. Raises Gone."""
        self.settle()
        while self._full(self._no_room_for):
            self._out.wanted = True
            self.settle()  # what was released before `wanted` was seen has woken nobody
            if self._full(self._no_room_for):
                self._in.wait_released()
                self.settle()
        self._out.wanted = False
        self._no_room_for = 0

    def finish(self) -> None:
        """Wait for all of them, whether the client is there or not."""
        out = self._out
        out.wanted = True
        self.settle()
        while self.count:
            poll = select.poll()
            poll.register(out.wake_fd, select.POLLIN)
            if out.blocked:
                poll.register(out.sock, select.POLLOUT)
            poll.poll()
            out.pump()
            self.settle()

    def _full(self, cost: int) -> bool:
        return self.count >= MOST or (self.count > 0 and self._bytes + cost > BYTES_MOST)
