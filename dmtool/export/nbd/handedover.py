# SPDX-License-Identifier: Apache-2.0
"""The requests of one connection that workers have in their hands."""

from __future__ import annotations

import errno
import select
import threading
import time
from collections.abc import Callable
from functools import partial

from dmtool.export.nbd import commands as c
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.incoming import Incoming
from dmtool.export.nbd.largeread import LARGE
from dmtool.export.nbd.outgoing import Cost, Outgoing
from dmtool.export.nbd.passage import Passage
from dmtool.export.nbd.workers import Workers
from dmtool.table import Table
from dmtool.targets.io import Requeue

MOST = 128
BYTES_MOST = 64 << 20
# Small reads that one worker does one after the other: the disk has been told of all of them, so
# that they are under way together, and a thread for each would cost more than it waits.
_GROUP = 8
_GROUP_BYTES = 256 << 10
_LONG = 0.001  # seconds; what is ready goes out before the rest of a group that takes so long
# After so many in a row, and nothing else in hand, no more is handed over until they are done.
_STUCK = 64
_HUNG_UP = select.POLLHUP | select.POLLERR

_Execute = Callable[[c.Session, c.Request, Table], c.Reply]


class HandedOver:
    """``count`` of them; it falls only when the connection's own thread looks (``settle``).

    Threads: the connection's own; the jobs run on workers.
    """

    def __init__(self, passage: Passage, session: c.Session, inc: Incoming, out: Outgoing) -> None:
        self.count = 0
        self._cold = 0  # of them, only wait for a disk
        self._bytes = 0
        self._small = 0  # small reads, since there was something else
        self._no_room_for = 0
        self.reads: list[c.Request] = []  # added, not yet started
        self._passage = passage
        self._session = session
        self._in = inc
        self._out = out
        self._lock = threading.Lock()
        self._again: list[tuple[Workers, c.Request]] = []  # to be done when there is a resume
        self._waiting = False  # a thread, for that
        self._gone = False  # the client

    def add(self, workers: Workers, request: c.Request) -> bool:
        """Have a worker do a request, inside the gate on its own account, and send its reply.
        False: there is no room, or the gate is closing."""
        if not self._room_for(request):
            return False
        self._small = 0
        if self._start(workers, [request]):
            return True
        self._count(_cost(request), -1)
        return False

    def add_read(self, request: c.Request) -> bool:
        """The same for one of several reads; they begin with ``start_reads``. False: no room."""
        request.cold = True
        if not self._room_for(request):
            return False
        self._small = self._small + 1 if request.length < LARGE else 0
        self.reads.append(request)
        return True

    @property
    def stuck(self) -> bool:
        """Whether nothing but small cold reads has been handed over for some time: if there were
        none for a moment, a lane could go on with them."""
        return self._small >= _STUCK and self._cold == self.count

    def add_reply(self, reply: bytes) -> None:
        """Have replies sent as soon as the client takes them, and nothing before that."""
        self.count += 1
        self._out.post([reply], (1, 0, 0))

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
                    self._out.post(reply, _cost(request))
            del reads[:end]

    def _start(self, workers: Workers, requests: list[c.Request]) -> bool:
        try:
            table = self._passage.device.try_begin()
        except OSError:
            return False  # removed: the connection finds that out when it enters
        if table is None:
            return False
        workers.submit(partial(self._do_in_turn, workers, table, requests))
        return True

    def settle(self) -> None:
        """Take what has been answered off the count."""
        released = self._out.released
        while released:
            self._count(released.popleft(), -1)

    def wait_for_room(self) -> None:
        """Until what was refused last for want of room has some. Raises Gone."""
        self._wait(lambda: not self._full(self._no_room_for))
        self._no_room_for = 0

    def wait_for_all(self) -> None:
        """Until none is left. Raises Gone."""
        self._wait(lambda: not self.count)
        self._small = 0

    def _wait(self, over: Callable[[], bool]) -> None:
        self.settle()
        while not over():
            self._out.wanted = True
            self.settle()  # what was released before `wanted` was seen has woken nobody
            if not over():
                self._in.wait_released()
                self.settle()
        self._out.wanted = False

    def finish(self) -> None:
        """Wait for all of them, whether the client is there or not; but of a client that is gone
        nothing is done again after resume, as nothing is that it sent while suspended."""
        out = self._out
        out.wanted = True
        self.settle()
        while self.count:
            poll = select.poll()
            poll.register(out.wake_fd, select.POLLIN)
            if out.blocked or not self._gone:
                poll.register(out.sock, select.POLLOUT if out.blocked else 0)
            ready = dict(poll.poll())
            if ready.get(out.sock.fileno(), 0) & _HUNG_UP and not self._gone:
                self._gone = True
                self._passage.device.wake()
            out.woken()
            out.pump()
            self.settle()

    def _room_for(self, request: c.Request) -> bool:
        """Count a request in, if there is room for it."""
        self.settle()
        request.handed_over = True
        cost = _cost(request)
        if self._full(cost[2]):
            self._no_room_for = cost[2]
            return False
        self._count(cost, 1)
        return True

    def _count(self, cost: Cost, sign: int) -> None:
        count, cold, size = cost
        self.count += sign * count
        self._cold += sign * cold
        self._bytes += sign * size

    def _full(self, cost: int) -> bool:
        return self.count >= MOST or (self.count > 0 and self._bytes + cost > BYTES_MOST)

    # -- on a worker -----------------------------------------------------------------------------

    def _do_in_turn(self, workers: Workers, table: Table, requests: list[c.Request]) -> None:
        """Do requests one after the other and send their replies; the device was entered."""
        out = self._out
        reply: c.Reply = []
        left: list[c.Request] = []
        sent = done = 0
        begun = time.monotonic()
        try:
            for request in requests:
                if done > sent and time.monotonic() - begun > _LONG:
                    out.post(reply, _cost(*requests[sent:done]))
                    reply, sent = [], done
                reply += self._do(c.execute, table, request)
                done += 1
        except Requeue:
            left = requests[done:]
        finally:
            self._passage.device.end()
        if done > sent:
            out.post(reply, _cost(*requests[sent:done]))
        if left:
            self._later(workers, left)

    def _later(self, workers: Workers, requests: list[c.Request]) -> None:
        """Do requests again when the device lets I/O in.

        No worker waits for that, nor is the device entered until there is one: what has been
        entered and is still queued may need all of them, so that a suspend can end.
        """
        with self._lock:
            self._again += [(workers, request) for request in requests]
            waiting, self._waiting = self._waiting, True
        if waiting:
            return
        try:
            threading.Thread(target=self._wait_for_resume, name="nbd-again", daemon=True).start()
        except RuntimeError:  # the system has no thread left for us
            self._wait_for_resume()

    def _wait_for_resume(self) -> None:
        device = self._passage.device
        failed: OSError | None = None
        try:
            device.begin_again(lambda: self._gone)
            device.end()
        except OSError as error:
            failed = error
        with self._lock:
            again, self._again = self._again, []
            self._waiting = False
        for workers, request in again:
            if failed is None:
                workers.submit(partial(self._redo, workers, request))
            else:
                self._fail(request, failed)

    def _redo(self, workers: Workers, request: c.Request) -> None:
        device = self._passage.device
        try:
            table = device.try_begin()
        except OSError as failed:
            self._fail(request, failed)
            return
        reply: c.Reply | None = None
        if table is not None:
            try:
                reply = self._do(c.execute_again, table, request)
            except Requeue:
                pass
            finally:
                device.end()
        if reply is None:
            self._later(workers, [request])
        else:
            self._out.post(reply, _cost(request))

    def _fail(self, request: c.Request, failed: OSError) -> None:
        reply = c.os_error(self._session, request.cookie, unable(failed))
        self._out.post([reply], _cost(request))

    def _do(self, execute: _Execute, table: Table, request: c.Request) -> c.Reply:
        session = self._session
        if not request.counts:
            return execute(session, request, table)
        write = request.command != p.CMD_READ
        return self._passage.device.stats.timed(
            lambda: execute(session, request, table), write, request.offset, request.length
        )


def unable(failed: OSError) -> OSError:
    """What clients are told of a device that cannot be entered."""
    gone = failed.errno == errno.ENXIO
    return OSError(errno.ESHUTDOWN, "the device is removed") if gone else failed


def _cost(*requests: c.Request) -> Cost:
    carry = (p.CMD_READ, p.CMD_WRITE)
    size = sum(request.length for request in requests if request.command in carry)
    return len(requests), sum(request.cold for request in requests), size
