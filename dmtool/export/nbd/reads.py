# SPDX-License-Identifier: Apache-2.0
"""Reads that are not plain, not small, not warm, or not in one piece of a file."""

from __future__ import annotations

from dmtool.backing import Bytes
from dmtool.backing.null import ZEROS
from dmtool.export.nbd import commands as c
from dmtool.export.nbd.batch import Batch
from dmtool.export.nbd.handedover import HandedOver
from dmtool.export.nbd.largeread import LARGE, LargeRead
from dmtool.export.nbd.passage import Passage, Place
from dmtool.export.nbd.residency import Residency
from dmtool.export.nbd.workers import Workers
from dmtool.table.segments import Segment


class Reads:
    """What a connection does with one of them, inside the gate.

    Threads: the connection's own.
    """

    def __init__(
        self,
        session: c.Session,
        passage: Passage,
        residency: Residency,
        handed: HandedOver,
        waiters: Workers,
    ) -> None:
        self._session = session
        self._passage = passage
        self._residency = residency
        self._handed = handed
        self._waiters = waiters

    def do(self, batch: Batch, request: c.Request) -> bool | None:
        """Put the reply into the batch, or hand the request over. False: it must wait until there
        is room among the workers, or the gate is open; None: it has to take the table's way."""
        passage, offset, length = self._passage, request.offset, request.length
        if self._residency.cold and passage.asks:
            where = passage.asked(offset, length)
            if where is not None:
                return self._asked(batch, request, where)
            if passage.table is None or passage.table.blocks(offset, length):
                return None  # it has been found out just now
        where = passage.extent(offset, length)
        if where is not None:
            return self._segments(batch, request, [(*where, length)])
        segments = passage.segments(offset, length)
        return None if segments is None else self._segments(batch, request, segments)

    def _asked(self, batch: Batch, request: c.Request, where: Place) -> bool:
        """One whose target has said where it goes: it is not asked again, so nobody else can do
        this."""
        (backing, at), length = where, request.length
        try:
            cached = None
            if backing.fd is not None:
                cached = self._residency.read(backing, at, length)
            data: Bytes = cached or backing.pread(length, at)
        except Exception:  # noqa: BLE001  # a worker finds out what it means, the table's way
            return self._handed.add(self._waiters, request)
        self._add(batch, request, [data])
        return True

    def _segments(self, batch: Batch, request: c.Request, segments: list[Segment]) -> bool:
        session = self._session
        files = [segment for segment in segments if segment[0].fd is not None]
        zeros = [segment for segment in segments if segment[0] is ZEROS]
        if self._passage.stacked and len(files) + len(zeros) < len(segments):
            return self._handed.add(self._waiters, request)
        large = request.length >= LARGE or segments[0][0] is ZEROS
        data: list[Bytes] = []
        if self._residency.cold and files:
            if large or len(segments) > 1:
                if not all(self._residency.cached(*file) for file in files):
                    return self._handed.add_read(request)
            else:
                cached = self._residency.read(*files[0])
                if cached is None:
                    return self._handed.add_read(request)
                data.append(cached)
        if large:
            batch.large = LargeRead.plan(session, request, segments)
            if batch.large is not None:
                return True
        try:
            data = data or [backing.pread(size, at) for backing, at, size in segments]
        except Exception:  # noqa: BLE001  # likewise
            return self._handed.add(self._waiters, request)
        self._add(batch, request, data)
        return True

    def _add(self, batch: Batch, request: c.Request, data: list[Bytes]) -> None:
        head = c.data_header(self._session, request.cookie, request.offset, request.length)
        batch.add([head, *data])
