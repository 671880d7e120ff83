# SPDX-License-Identifier: Apache-2.0
"""The transmission phase of one connection.

What makes it fast: all requests that have arrived are taken as one batch, inside the suspend
gate once, and answered with one system call; small reads are sent from the image file's mapping
and large ones with sendfile, so that no byte of them passes through Python.

What must not happen: that a client which stops reading or sending holds up a suspend; that a
read which waits for a disk holds up the other requests of its connection; that Python touches
bytes of a mapping (see Backing.view).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from struct import Struct

from dmtool.backing import Bytes
from dmtool.device import MappedDevice
from dmtool.export.nbd import commands as c
from dmtool.export.nbd import lane
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.batch import Batch
from dmtool.export.nbd.handedover import HandedOver, unable
from dmtool.export.nbd.incoming import WHOLE, Incoming
from dmtool.export.nbd.largeread import LARGE
from dmtool.export.nbd.largewrite import write_arriving
from dmtool.export.nbd.outgoing import IOV_MOST, Gone, Outgoing, rest
from dmtool.export.nbd.passage import Passage
from dmtool.export.nbd.reads import Reads
from dmtool.export.nbd.residency import Residency, Views
from dmtool.export.nbd.workers import Workers
from dmtool.table import Table
from dmtool.targets.io import Requeue
from dmtool.targets.waiting import MustWait, hurry

_BATCH_BYTES = 512 << 10

# REQUEST with magic, flags and command as one number: one comparison for each of the two
# requests that matter.
_REQUEST = Struct(">Q8sQI")
_HEADER = _REQUEST.size
_READ = p.REQUEST_MAGIC << 32 | p.CMD_READ
_WRITE = p.REQUEST_MAGIC << 32 | p.CMD_WRITE

# What to do before the next batch.
Step = Callable[[], None]


class Connection:
    """One client in the transmission phase. ``readers`` do reads that wait for a disk,
    ``waiters`` what may wait for anything else.

    Threads: ``serve`` is the connection's own thread. Workers run the jobs that it hands over.
    """

    def __init__(
        self,
        sock: socket.socket,
        device: MappedDevice,
        session: c.Session,
        readers: Workers,
        waiters: Workers,
    ) -> None:
        self._sock = sock
        self._passage = Passage(device)
        self._session = session
        self._readers = readers
        self._waiters = waiters
        self._out = Outgoing(sock)
        self._in = Incoming(sock, self._out)
        self._handed = HandedOver(self._passage, session, self._in, self._out)
        self._room: Step = self._handed.wait_for_room
        self._residency = Residency()
        self._reads = Reads(session, self._passage, self._residency, self._handed, waiters)
        self._lane: lane.Lane | None = None
        if lane.NATIVE is not None:
            self._lane = lane.Lane(sock, self._in, session, self._passage, self._handed)
        self._dead: OSError | None = None  # why no I/O can enter the device at all
        self._over = False

    def serve(self) -> None:
        """Until the client disconnects. The socket is closed then."""
        _give_way()
        try:
            with hurry():
                step: Step = self._more
                while not self._over:
                    step()
                    step = self._batch()
        except (Gone, OSError):
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        finally:
            self._passage.leave()
            if self._lane is not None:
                self._lane.close()
            self._handed.finish()
            self._out.close()

    # -- steps: what is waited for, outside the gate ---------------------------------------------

    def _more(self) -> None:
        """For more requests; those that are plain may be done, too."""
        way, handed = self._lane, self._handed
        if way is not None and way.ready and handed.stuck:
            handed.wait_for_all()
        if way is None or not way.ready or handed.count:
            self._in.receive(busy=handed.count > 0)
        else:
            self._plain(receive=True)

    def _plain(self, *, receive: bool = False) -> None:
        """What has arrived, and all that arrives, as long as it is plain."""
        way = self._lane
        assert way is not None
        why, first, done = way.run(receive=receive)
        if why == lane.WAITED:
            self._residency.was_cold()
        elif why == lane.WARM:
            self._residency.is_warm()
        elif why == lane.ANSWERING:
            way.batch(self._passage, first).finish(self._session, self._passage, self._out, done)
        elif why == lane.READING:
            batch = way.large_read(self._passage, first, done)
            batch.finish(self._session, self._passage, self._out)
        elif why == lane.WRITING:
            self._arriving(way.large_write(self._passage, first, done), done)

    def _payload(self) -> None:
        """For the payload of a write; a large one is written as it arrives."""
        inc, passage = self._in, self._passage
        word, cookie, offset, length = _REQUEST.unpack_from(inc.view, inc.pos)
        if length <= WHOLE:
            self._more()
            return
        inc.pos += _HEADER
        request = c.Request(word >> 16 & 0xFFFF, p.CMD_WRITE, cookie, offset, length)
        refused = self._refused(request, self._enter())
        if refused:
            passage.leave()
            inc.skip(length)
            self._send(refused)
            return
        self._arriving(request, 0)

    def _arriving(self, request: c.Request, done: int) -> None:
        """The payload of a large write, of which so many bytes are where they belong; from inside
        the gate."""
        inc, passage = self._in, self._passage
        cookie, offset, length = request.cookie, request.offset, request.length
        segments = None if request.flags else passage.segments(offset, length, write=True)
        if segments and all(backing.fd is not None for backing, _, _ in segments):
            done = write_arriving(inc, passage, segments, offset, done)
        if done == length:
            passage.count_one(request)
            passage.leave()
            self._send(c.done(cookie))
            return
        # All of it is written again, from the first byte on: its place may be elsewhere by then.
        request.data = data = memoryview(bytearray(length))
        try:
            data[:done] = passage.read(offset, done) if done else b""
        except OSError as failed:
            passage.leave()
            inc.skip(length - done)
            self._send(c.os_error(self._session, cookie, failed))
            return
        passage.leave()
        inc.take(data[done:])
        self._write_whole(request)

    def _write_whole(self, request: c.Request) -> None:
        """Do a write that has all its payload in memory of its own."""
        while True:
            table = self._enter()
            reply: list[Bytes] | None = None
            refused = self._refused(request, table)
            if table is None or refused:
                reply = [refused]
            elif not c.may_wait(table, request):
                try:
                    reply = c.execute(self._session, request, table)
                except (MustWait, Requeue):
                    pass  # a worker does it again, from its beginning
                else:
                    self._passage.count_one(request)
            handed_over = reply is None and self._handed.add(self._waiters, request)
            self._passage.leave()
            if reply is not None:
                self._send(b"".join(reply))
            if reply is not None or handed_over:
                return
            self._room()

    def _enter(self) -> Table | None:
        """Go inside, waiting while the device is suspended. None: I/O cannot enter any more."""
        passage = self._passage
        while True:
            try:
                if passage.enter():
                    return passage.table
            except OSError as error:
                self._dead = unable(error)
                return None
            self._in.wait(passage.device.open_fd)

    # -- a batch ---------------------------------------------------------------------------------

    def _batch(self) -> Step:
        """Take what has arrived, do it, answer it; what to do next."""
        if self._handed.count:
            self._handed.settle()
        table = self._enter()
        way = self._lane
        if (
            way is not None
            and way.prepare(self._passage, self._residency)
            and not self._handed.count
        ):
            self._passage.leave()
            return self._plain
        batch = Batch(self._in.pos)
        step = self._collect(table, batch)
        # before the answers, so that who has one finds the request counted
        inc, passage = self._in, self._passage
        if passage.meter is not None:
            passage.meter.count(inc.view, batch.first, inc.pos, batch.apart, passage.since)
        if passage.meters:
            passage.count_below(inc.view, batch.first, inc.pos, batch.apart)
        if self._handed.reads:
            self._handed.start_reads(self._readers)
        self._answer(batch)
        return step

    def _collect(self, table: Table | None, batch: Batch) -> Step:
        """Do the requests that are wholly in the buffer, as many as one batch takes."""
        # This loop is what a request costs. It knows plain reads and writes of what lies in one
        # piece of an image file; all else is for _one.
        inc = self._in
        view, pos, end = inc.view, inc.pos, inc.end
        acks, iov, offsets = batch.acks, batch.iov, batch.offsets
        unpack, pack = _REQUEST.unpack_from, p.DATA_CHUNK.pack
        chunk = self._session.structured
        magic, done, kind = p.STRUCTURED_REPLY_MAGIC, p.REPLY_FLAG_DONE, p.REPLY_TYPE_OFFSET_DATA
        readable = writable = -1
        if table is not None:
            extent, place = self._passage.asked, self._passage.place
            readable = -1 if self._residency.cold else table.size
            writable = -1 if table.readonly or self._session.readonly else table.size
        views = Views()
        total = 0
        step: Step | None = None
        while end - pos >= _HEADER and total < _BATCH_BYTES:
            word, cookie, offset, length = unpack(view, pos)
            if word == _READ:
                if offset + length <= readable and 0 < length < LARGE:
                    where = extent(offset, length)
                    if where is not None:
                        backing, at = where
                        mapped = views[backing]
                        if mapped is not None:
                            if chunk:
                                iov.append(pack(magic, done, kind, cookie, length + 8, offset))
                                total += 28 + length
                            else:
                                iov.append(c.OK + cookie)
                                total += 16 + length
                            iov.append(mapped[at : at + length])
                            offsets.append(offset)
                            pos += _HEADER
                            continue
            elif word == _WRITE and offset + length <= writable:
                begin = pos + _HEADER
                if 0 < length <= end - begin:
                    where = place(offset, length)
                    if where is not None and where[0].fd is not None:
                        try:
                            where[0].pwrite(view[begin : begin + length], where[1])
                        except OSError:
                            pass  # _one finds out what it means
                        else:
                            acks += c.OK + cookie
                            pos = begin + length
                            continue
            inc.pos = pos
            step = self._one(table, batch, word, cookie, offset, length)
            pos = inc.pos
            if step is not None:
                break
        inc.pos = pos
        batch.total += total
        return step or (self._more if end - pos < _HEADER else self._room)

    def _one(
        self, table: Table | None, batch: Batch, word: int, cookie: bytes, offset: int, length: int
    ) -> Step | None:
        """Do or hand over the request at ``pos``, and step over it. None: on with the next."""
        inc = self._in
        request = c.Request(word >> 16 & 0xFFFF, word & 0xFFFF, cookie, offset, length)
        if word >> 32 != p.REQUEST_MAGIC or request.command == p.CMD_DISC:
            self._over = True
            return self._more
        taken = _HEADER
        if request.command == p.CMD_WRITE:
            taken += length
            if taken > inc.end - inc.pos:
                return self._payload
            request.data = inc.view[inc.pos + _HEADER : inc.pos + taken]
        refused = self._refused(request, table)
        if table is None or refused:
            batch.acks += refused
        elif not self._do(table, batch, request):
            return self._room
        if refused or request.handed_over:
            batch.apart += (inc.pos,)
        inc.pos += taken
        return self._room if batch.large or batch.total >= _BATCH_BYTES else None

    def _refused(self, request: c.Request, table: Table | None) -> bytes:
        """The error reply to a request that cannot be done; empty if it can, by a table."""
        if table is None:
            assert self._dead is not None
            return c.os_error(self._session, request.cookie, self._dead)
        refusal = c.refusal(self._session, request, table)
        return c.error(self._session, request.cookie, *refusal) if refusal else b""

    def _do(self, table: Table, batch: Batch, request: c.Request) -> bool:
        """False: it must wait until there is room among the workers, or the gate is open."""
        offset, length = request.offset, request.length
        if request.command == p.CMD_READ and length and not table.blocks(offset, length):
            done = self._reads.do(batch, request)
            if done is not None:
                return done
        if not c.may_wait(table, request):
            try:
                batch.add(c.execute(self._session, request, table))
            except (MustWait, Requeue):
                pass  # a worker does it again, from its beginning
            else:
                return True
        if request.data:
            request.data = bytes(request.data)
        return self._handed.add(self._waiters, request)

    # -- answers ---------------------------------------------------------------------------------

    def _answer(self, batch: Batch) -> None:
        """Send a batch's replies and leave the gate."""
        iov = batch.iov
        if len(iov) == 2 and batch.large is None:
            self._passage.leave()
            self._send(batch.acks)
            return
        sent = 0
        total = batch.total + len(batch.acks)
        if total and not self._handed.count and len(iov) <= IOV_MOST:
            try:
                sent = self._sock.sendmsg(iov, (), socket.MSG_DONTWAIT)
            except ConnectionError as error:
                raise Gone from error
            except OSError:
                pass  # EAGAIN, or EFAULT from a mapping
        if batch.large is None and sent == total:
            self._passage.leave()
        else:
            batch.finish(self._session, self._passage, self._out, sent)
        if not self._residency.cold:
            self._residency.was_warm(len(batch.offsets))

    def _send(self, reply: bytes | bytearray) -> None:
        """Send a reply of private memory, outside the gate."""
        sent = 0
        if not self._handed.count:
            try:
                sent = self._sock.send(reply, socket.MSG_DONTWAIT) if reply else 0
            except BlockingIOError:
                sent = 0
        if sent < len(reply):
            left = rest([reply], sent)
            with self._out as out:
                while left:
                    left = rest(left, out.send(left))


def _give_way() -> None:
    """Have this thread not run at once when a request wakes it up, in the place of the client that
    is about to send more (sched(7), SCHED_BATCH): a few at a time cost less than one at a time."""
    with contextlib.suppress(OSError):  # a container may forbid it
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
