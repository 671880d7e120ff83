# SPDX-License-Identifier: Apache-2.0
"""The plain requests of a connection in C, without the GIL (native/lane.c, ``dmtool._nbd``).

What they are: reads and writes of what lies in image files and disks, on a connection that has
nothing with the workers, and whose device has no mapped device below (and, if it is counted, is
counted in C). All else, and what comes up in the middle, is for connection.py, which does all of
it, more slowly, where there was no C compiler. docs/adr/0006-nbd-lane.md says why, and how the
suspend gate knows of a thread that does not ask for it.

The environment variable ``DMTOOL_LANE`` set to ``python`` leaves it alone; ``native`` makes its
absence an error.
"""

from __future__ import annotations

import os
import socket
from array import array
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from dmtool.backing import Backing
from dmtool.backing.descriptor import Descriptor
from dmtool.device.meter import METER, Meter
from dmtool.export.nbd import commands as c
from dmtool.export.nbd import largewrite
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.batch import Batch
from dmtool.export.nbd.handedover import HandedOver
from dmtool.export.nbd.incoming import Incoming
from dmtool.export.nbd.largeread import LargeRead
from dmtool.export.nbd.outgoing import Gone
from dmtool.export.nbd.passage import Passage
from dmtool.export.nbd.residency import Residency
from dmtool.export.nbd.spin import SPIN
from dmtool.native import in_c
from dmtool.table import Table
from dmtool.table.segments import Chunked, Mirror, Run, Single

if TYPE_CHECKING:
    from dmtool import _nbd

# Why a run has ended: native/lane.h has the same numbers.
OTHER, CLOSED, GONE, WAITED, WARM, ANSWERING, READING, WRITING = range(8)

# Tables with more are left to Python: to lay one out takes longer than it is worth.
LINES_MOST = 1 << 16
BACKINGS_MOST = 1 << 10

_plains: WeakKeyDictionary[Table, tuple[int, _nbd.Plain | None]] = WeakKeyDictionary()


class Lane:
    """The way of one connection. ``ready``: prepared for the device as it is, or was a moment
    ago; a run finds out.

    Threads: the connection's own.
    """

    def __init__(
        self,
        sock: socket.socket,
        inc: Incoming,
        session: c.Session,
        passage: Passage,
        handed: HandedOver,
    ) -> None:
        assert NATIVE is not None
        self._gate = gate = passage.device.gate
        self._native = NATIVE.Lane(sock.fileno(), inc.view, session.structured, gate.turn, SPIN)
        self._session = session
        self._inc = inc
        self._handed = handed
        self.ready = False
        self._meter: Meter | None = None
        self._prepared: tuple[int | None, int | None] = (None, None)
        gate.visit(self._native)

    def close(self) -> None:
        """The connection is at its end."""
        self._gate.forget(self._native)

    def run(self, *, receive: bool) -> tuple[int, int, int]:
        """Receive, do and answer: why it ended, the first byte in the buffer of the batch or
        request that it ended in, and how many bytes of that are done. After ANSWERING, READING and
        WRITING it is inside the gate: ``batch``, ``large_read`` or ``large_write`` must follow.
        What is left besides, replies that the client has not taken and reads that failed, has been
        handed over. Without ``receive`` it begins with what is in the buffer. Raises Gone."""
        inc = self._inc
        why, inc.pos, inc.end, first, done, left = self._native.run(inc.pos, inc.end, receive)
        if why == CLOSED:
            self._gate.left()
        elif why == GONE:
            raise Gone
        if left is not None:
            unsent, failed = left
            if unsent:
                self._handed.add_reply(unsent)
            for _, flags, command, cookie, offset, length in p.REQUEST.iter_unpack(failed):
                self._handed.add_read(c.Request(flags, command, cookie, offset, length))
        return why, first, done

    def prepare(self, passage: Passage, residency: Residency) -> bool:
        """Look whether the device has changed, or whether reads are cached; from inside its
        gate. True: something has, and it is ready for that."""
        table = passage.table
        turn = self._gate.turn_if_open()
        wanted = residency.wanted
        if (turn, wanted) == self._prepared:
            return False
        self._prepared = turn, wanted
        self.ready = False
        # not the passage's, which may be older than the turn: who changes it raises that afterwards
        meter = passage.device.stats.meter
        if (
            turn is None
            or table is None
            or passage.stacked
            or not (meter is None or METER == "native")
        ):
            return False
        plain = plain_of(table)
        if plain is not None:
            writable = 0 if table.readonly or self._session.readonly else table.size
            readable = 0 if wanted is None else table.size
            closed_fd = self._gate.closed_fd
            self._native.prepare(plain, closed_fd, turn, readable, writable, wanted or 0, meter)
            self._meter = meter
            self.ready = True
        return self.ready

    def large_write(self, passage: Passage, first: int, done: int) -> c.Request:
        """The write at byte ``first`` of the buffer, of whose payload so many bytes are where they
        belong. From here on ``passage`` is inside, in the place of the lane."""
        request = self._request(passage, first)
        if done < request.length:  # else it has been counted
            passage.meter, passage.since = self._meter, self._native.since
        return request

    def _request(self, passage: Passage, first: int) -> c.Request:
        passage.admit(self._native)
        header = p.REQUEST.unpack_from(self._inc.view, first)
        return c.Request(*header[1:])

    def large_read(self, passage: Passage, first: int, done: int) -> Batch:
        """The reply to the read there, of which so many bytes have been sent. Likewise."""
        request = self._request(passage, first)
        segments = passage.segments(request.offset, request.length)
        assert segments is not None
        batch = Batch(first)
        batch.large = LargeRead.begun(self._session, request, segments, done)
        return batch

    def batch(self, passage: Passage, first: int) -> Batch:
        """The replies to the requests from byte ``first`` of the buffer to ``pos``, which are
        done: what is read is all in mappings. Likewise."""
        passage.admit(self._native)
        batch = Batch(first)
        while first < self._inc.pos:
            header = p.REQUEST.unpack_from(self._inc.view, first)
            _, _, command, cookie, offset, length = header
            first += p.REQUEST.size
            if command == p.CMD_WRITE:
                batch.acks += c.done(cookie)
                first += length
                continue
            where = passage.extent(offset, length)
            assert where is not None
            mapped = where[0].view
            assert mapped is not None
            head = c.data_header(self._session, cookie, offset, length)
            batch.iov += head, mapped[where[1] : where[1] + length]
            batch.offsets.append(offset)
            batch.total += len(head) + length
        return batch


def plain_of(table: Table) -> _nbd.Plain | None:
    """Where the bytes of a table are, as a lane knows it; None if nothing is to be gained."""
    version = table.watch.version
    known = _plains.get(table)
    if known is None or known[0] != version:
        known = _plains[table] = version, _lay_out(table)
    return known[1]


def _lay_out(table: Table) -> _nbd.Plain | None:
    assert NATIVE is not None
    begins, runs = table.layout()
    if len(runs) > LINES_MOST or len(table.backings) > BACKINGS_MOST:
        return None
    lines, legs = array("Q"), array("Q")
    numbers: dict[Backing, int] = {}
    for end, run in zip(begins[1:], runs, strict=True):
        found, chunk, writable = _legs(run)
        lines.extend((end, chunk, len(legs) // 2, len(found), writable))
        for backing, start in found:
            legs.extend((numbers.setdefault(backing, len(numbers)), start))
    if not legs:
        return None
    backings = tuple(
        (b.fd, b.size, b.view, largewrite.in_memory(b)) for b in numbers if b.fd is not None
    )
    plain = NATIVE.Plain(lines, legs, backings)
    # with the table its mappings must go, whoever still has it in hand
    table.watch.on_close.append(plain.close)
    return plain


def _legs(run: Run) -> tuple[tuple[tuple[Backing, int], ...], int, bool]:
    """(backing, start) of each leg of a run, its chunk, and whether it may be written; in bytes.
    No legs: it is no plain one."""
    legs: tuple[tuple[Backing, int], ...] = ()
    chunk, writable = 0, True
    match run:
        case Single():
            legs = ((run.backing, run.start),)
        case Chunked():
            legs, chunk = run.legs, run.chunk
        case Mirror():
            legs, writable = (run.legs.read_from,), False
    if not all(isinstance(backing, Descriptor) for backing, _ in legs):
        return (), 0, False
    return legs, chunk, writable and not any(backing.readonly for backing, _ in legs)


if TYPE_CHECKING:
    NATIVE = _nbd
else:
    NATIVE = in_c("_nbd", "DMTOOL_LANE", os.environ.get("DMTOOL_LANE", ""))

LANE = "python" if NATIVE is None else "native"
