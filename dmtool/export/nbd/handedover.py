# SPDX-License-Identifier: Apache-2.0
"""The requests of one connection that workers have in their hands."""

from __future__ import annotations

import select
import time

from dmtool.device.stats import Stats
from dmtool.export.nbd import commands as c
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.incoming import Incoming
from dmtool.export.nbd.outgoing import Cost, Outgoing
from dmtool.export.nbd.passage import Passage
from dmtool.export.nbd.workers import Workers
from dmtool.table import Table

MOST = 128
BYTES_MOST = 64 << 20
# Small reads that one worker does one after the other: the disk has been told of all of them, so
# that they are under way together, and a thread for each would cost more than it waits.
_GROUP = 8
_GROUP_BYTES = 256 << 10
_LONG = 0.001  # seconds; what is ready goes out before the rest of a group that takes so long


class HandedOver:
    """``count`` of them; it falls only when the connection's own thread looks (``settle``).

    Threads: the connection's own; the jobs run on workers.
    """

    def __init__(self, passage: Passage, session: c.Session, inc: Incoming, out: Outgoing) -> None:
        self.count = 0
        self._bytes = 0
        self._no_room_for = 0
        self.reads: list[c.Request] = []  # added, not yet started
        self._passage = passage
        self._session = session
        self._in = inc
        self._out = out

    def add(self, workers: Workers, request: c.Request) -> bool:
        """Have a worker do a request, inside the gate on its own account, and send its reply.
        False: there is no room, or the gate is closing."""
        if not self._room_for(request):
            return False
        if self._start(workers, [request]):
            return True
        self._count([request], -1)
        return False

    def add_read(self, request: c.Request) -> bool:
        """The same for one of several reads; they begin with ``start_reads``. False: no room."""
        if not self._room_for(request):
            return False
        self.reads.append(request)
        return True

    def start_reads(self, workers: Workers) -> None:
        """Hand the reads over that were added; from inside the gate."""
        reads, self.reads = self.reads, []
        while reads:
            size = end = 0
            while end < min(len(reads), _GROUP) and (not end or size < _GROUP_BYTES):
                size += reads[end].length
                end += 1
            if not self._start(workers, reads[:end]):
                # the gate is closing; whoever closes it waits for this thread in any case
                for request in reads[:end]:
                    reply = self._passage.execute(self._session, request)
                    self._passage.count_one(request)
                    self._out.post(reply, (1, _cost(request)))
            del reads[:end]

    def _start(self, workers: Workers, requests: list[c.Request]) -> bool:
        session, device, out = self._session, self._passage.device, self._out
        try:
            entered = device.try_begin()
        except OSError:
            return False  # removed: the connection finds that out when it enters
        if entered is None:
            return False
        table = entered

        def job() -> None:
            try:
                last = _do_in_turn(session, device.stats, table, out, requests)
            finally:
                device.end()
            out.post(*last)

        workers.submit(job)
        return True

    def settle(self) -> None:
        """Take what has been answered off the count."""
        released = self._out.released
        while released:
            count, size = released.popleft()
            self.count -= count
            self._bytes -= size

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

    def _room_for(self, request: c.Request) -> bool:
        """Count a request in, if there is room for it."""
        self.settle()
        request.handed_over = True
        cost = _cost(request)
        if self._full(cost):
            self._no_room_for = cost
            return False
        self._count([request], 1)
        return True

    def _count(self, requests: list[c.Request], sign: int) -> None:
        self.count += sign * len(requests)
        self._bytes += sign * sum(map(_cost, requests))

    def _full(self, cost: int) -> bool:
        return self.count >= MOST or (self.count > 0 and self._bytes + cost > BYTES_MOST)


def _cost(request: c.Request) -> int:
    return request.length if request.command in (p.CMD_READ, p.CMD_WRITE) else 0


def _do_in_turn(
    session: c.Session, stats: Stats, table: Table, out: Outgoing, requests: list[c.Request]
) -> tuple[c.Reply, Cost]:
    """Do requests one after the other; what is to be posted when the gate has been left."""
    reply: c.Reply = []
    count = size = 0
    begun = time.monotonic()
    for request in requests:
        if count and time.monotonic() - begun > _LONG:
            out.post(reply, (count, size))
            reply, count, size = [], 0, 0
        reply += _do(session, stats, table, request)
        count += 1
        size += _cost(request)
    return reply, (count, size)


def _do(session: c.Session, stats: Stats, table: Table, request: c.Request) -> c.Reply:
    if not request.counts:
        return c.execute(session, request, table)
    write = request.command != p.CMD_READ
    return stats.timed(
        lambda: c.execute(session, request, table), write, request.offset, request.length
    )
