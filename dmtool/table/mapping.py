# SPDX-License-Identifier: Apache-2.0
"""A target without a plan: its ``map`` is asked for every I/O.

Seen from the engine it is a backing like any other, whose byte offsets are those of the mapped
device.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from typing import Any

from dmtool.backing import Backing, Bytes
from dmtool.errors import PluginError
from dmtool.plan import Fail, Zero
from dmtool.sectors import SECTOR, to_bytes
from dmtool.targets.io import (
    Defer,
    Delay,
    Done,
    Fanout,
    Io,
    Op,
    Remap,
    Requeue,
    Verdict,
    outcome,
)
from dmtool.targets.target import Target
from dmtool.targets.waiting import MustWait, check

log = logging.getLogger(__name__)


class PythonMap(Backing):
    """What a target's ``map`` and ``end_io`` make of reads and writes.

    I/O that is not aligned to sectors is widened to whole sectors: reads are cut afterwards,
    writes read the sectors first. Such writes go one after the other; against whole-sector
    writes to the very same sector at the same time they are not ordered.

    On a thread that must not wait a Defer or Delay raises MustWait: ``map`` is then asked again
    for the same I/O, on another thread.

    Threads: any, several at once.
    """

    def __init__(self, target: Target[Any]) -> None:
        self.target = target
        self.size = to_bytes(target.begin + target.len)
        self._map = target.type.map
        self._end_io = target.type.end_io
        self._partial_write = threading.Lock()

    def pread(self, length: int, offset: int) -> bytes:
        parts = self.pread_parts(length, offset)
        failed: OSError | None = None
        for _, part in parts:
            if isinstance(part, OSError):
                failed = outcome(failed, part)
        if failed:
            raise failed
        return b"".join(part for _, part in parts)  # type: ignore[misc]  # errors were raised

    def take(self, offset: int, length: int) -> tuple[Backing, int] | None:
        """One whole read as ``map`` answers it: where its bytes are to be taken from, at once.

        Spares the copy that ``pread`` makes. None: it was not asked, or it has failed; it is for
        ``pread`` then, which asks from the beginning.
        """
        target = self.target
        whole = not (offset | length) % SECTOR and not target.max_io_len
        if not whole or target.blocks or self._end_io is not None or self._map is None:
            return None
        io = Io(Op.READ, offset // SECTOR, length // SECTOR)
        try:
            verdict = self._map(target, io)
            if type(verdict) is Remap and verdict.count is None:
                device, at = verdict.device, verdict.sector * SECTOR
                if device.view is not None and 0 <= at <= device.size - length:
                    return device, at
            self._answer(io, verdict)
        except Exception:  # noqa: BLE001  # pread finds out what it means
            return None
        if io.data is None or len(io.data) != length:
            return None
        return _Taken(io.data), 0

    def pread_parts(self, length: int, offset: int) -> list[tuple[int, bytes | OSError]]:
        skip = offset % SECTOR
        parts: list[tuple[int, bytes | OSError]] = []
        todo = length
        for io in self._ios(Op.READ, offset - skip, length + skip):
            size = min(to_bytes(io.count) - skip, todo)
            try:
                self._do(io)
                assert io.data is not None
                parts.append((size, bytes(io.data[skip : skip + size])))
            except OSError as error:
                parts.append((size, error))
            skip = 0
            todo -= size
        return parts

    def pwrite(self, data: Bytes, offset: int) -> None:
        self.write(data, offset, fua=False)

    def write(self, data: Bytes, offset: int, *, fua: bool) -> None:
        """Write; with ``fua`` each I/O is told so."""
        head, tail = offset % SECTOR, -(offset + len(data)) % SECTOR
        if head or tail:
            if not self._partial_write.acquire(blocking=False):
                check()
                self._partial_write.acquire()
            try:
                self._write_partial(data, offset, head, tail, fua)
            finally:
                self._partial_write.release()
        else:
            self._write(data, offset, fua)

    def _write_partial(self, data: Bytes, offset: int, head: int, tail: int, fua: bool) -> None:
        whole = bytearray(data)
        if tail:
            whole += self.pread(tail, offset + len(data))
        if head:
            whole[:0] = self.pread(head, offset - head)
        self._write(whole, offset - head, fua)

    def _write(self, data: Bytes, offset: int, fua: bool) -> None:
        view = memoryview(data)
        first: OSError | None = None
        for io in self._ios(Op.WRITE, offset, len(data)):
            at = to_bytes(io.sector) - offset
            io.data = view[at : at + to_bytes(io.count)]
            io.fua = fua
            try:
                self._do(io)
            except OSError as error:
                first = outcome(first, error)
        if first:
            raise first

    def flush(self) -> None:
        if Op.FLUSH in self.target.ops:
            self._do(Io(Op.FLUSH, self.target.begin, 0))

    def flush_failed(self, device: Backing, error: OSError) -> OSError | None:
        """Tell the target that a flush of ``device`` below it failed; what is to be reported."""
        if self._end_io is None:
            return error
        io = Io(Op.FLUSH, self.target.begin, 0, device=device)
        try:
            number = self.target.type.call("end_io", self.target, io, error.errno or errno.EIO)
        except PluginError:
            return error
        except OSError as other:
            return other
        if number == error.errno:
            return error
        return OSError(number, os.strerror(number)) if number else None

    def discard(self, offset: int, length: int) -> None:
        if Op.DISCARD in self.target.ops:
            head = -offset % SECTOR
            whole = (length - head) // SECTOR * SECTOR
            for io in self._ios(Op.DISCARD, offset + head, max(whole, 0)):
                self._do(io)

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        if Op.WRITE_ZEROES in self.target.ops and not (offset | length) % SECTOR:
            for io in self._ios(Op.WRITE_ZEROES, offset, length):
                io.allocate = allocate
                self._do(io)
            return
        step = 1 << 20
        for at in range(offset, offset + length, step):
            self.pwrite(bytes(min(step, offset + length - at)), at)

    def _ios(self, op: Op, offset: int, length: int) -> list[Io]:
        """Whole sectors that cover the range, cut at the target's max_io_len."""
        sector, end = offset // SECTOR, -(-(offset + length) // SECTOR)
        most = self.target.max_io_len
        ios = []
        while sector < end:
            count = end - sector
            if most:
                count = min(count, most - (sector - self.target.begin) % most)
            ios.append(Io(op, sector, count))
            sector += count
        return ios

    def _do(self, io: Io) -> None:
        """Carry one I/O out, end_io included. Raises OSError."""
        error = 0
        try:
            self._mapped(io)
        except Requeue:
            raise
        except OSError as failed:
            error = failed.errno or errno.EIO
        if self._end_io:
            try:
                error = self._end_io(self.target, io, error)
            except (Requeue, MustWait):
                raise
            except Exception as bug:  # noqa: BLE001  # a plugin may raise anything
                error = self._bug("end_io", bug)
        if error:
            raise OSError(error, os.strerror(error))
        if io.op is Op.READ and (io.data is None or len(io.data) != to_bytes(io.count)):
            self._bug("map", ValueError(f"a read of {io.count} sectors gave other data"))
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _mapped(self, io: Io) -> None:
        try:
            assert self._map is not None
            verdict: Verdict = self._map(self.target, io)
        except (OSError, MustWait):
            raise
        except Exception as bug:  # a plugin may raise anything
            raise OSError(self._bug("map", bug), "") from bug
        self._answer(io, verdict)

    def _answer(self, io: Io, verdict: Verdict) -> None:
        while isinstance(verdict, Defer | Delay):
            self.target.blocks = True
            check()
            if isinstance(verdict, Delay):
                # a thread of its own waits here: the exports see `blocks` and hand such I/O to
                # their worker pools
                time.sleep(verdict.seconds)
                verdict = verdict.answer
            else:
                try:
                    verdict = verdict.function()
                except OSError:
                    raise
                except Exception as bug:  # a plugin may raise anything
                    raise OSError(self._bug("Defer", bug), "") from bug
        match verdict:
            case Remap():
                self._remap(io, verdict)
            case Fanout(to) if to:
                self._fanout(io, to)
            case Fail(number):
                raise OSError(number, os.strerror(number))
            case Zero():
                if io.op is Op.READ:
                    io.data = bytes(to_bytes(io.count))
            case Done(data):
                if io.op is Op.READ:
                    io.data = data
            case _:
                raise OSError(self._bug("map", TypeError(f"answered {verdict!r}")), "")

    def _remap(self, io: Io, to: Remap) -> None:
        count = io.count if to.count is None else to.count
        if not 0 <= count <= io.count or (count == 0 and io.count):
            raise OSError(self._bug("map", ValueError(f"{count} of {io.count} sectors")), "")
        if count == io.count:
            self._to(io, to)
            return
        after = io.sector + count
        rest = Io(io.op, after, io.count - count, fua=io.fua, allocate=io.allocate)
        front = Io(io.op, io.sector, count, fua=io.fua, allocate=io.allocate)
        if io.data is not None:
            view = memoryview(io.data)
            front.data, rest.data = view[: to_bytes(count)], view[to_bytes(count) :]
        self._to(front, to)
        self._mapped(rest)
        io.device = to.device
        if io.op is Op.READ:
            io.data = bytes(front.data or b"") + bytes(rest.data or b"")

    def _fanout(self, io: Io, to: tuple[Remap, ...]) -> None:
        first: OSError | None = None
        for one in to:
            try:
                self._to(io, one)
            except OSError as error:
                first = outcome(first, error)
            else:
                if io.op is Op.READ:
                    return
        if first:
            raise first

    def _to(self, io: Io, to: Remap) -> None:
        device, offset, length = to.device, to_bytes(to.sector), to_bytes(io.count)
        io.device = device
        if to.sector < 0 or offset + length > device.size:
            what = f"{io.count} sectors at {to.sector} are beyond the end of {device}"
            raise OSError(self._bug("map", ValueError(what)), "")
        match io.op:
            case Op.READ:
                io.data = device.pread(length, offset)
            case Op.WRITE:
                assert io.data is not None
                device.pwrite(io.data, offset)
                if io.fua:
                    device.flush()
            case Op.FLUSH:
                device.flush()
            case Op.DISCARD:
                device.discard(offset, length)
            case Op.WRITE_ZEROES:
                device.write_zeroes(offset, length, allocate=io.allocate)

    def _bug(self, hook: str, error: Exception) -> int:
        try:
            self.target.type.bug(hook, error)
        except PluginError:
            return errno.EIO


class _Taken(Backing):
    """The bytes of one read that a target has made up."""

    def __init__(self, data: Bytes) -> None:
        self.size = len(data)
        self.view = memoryview(data)

    def pread(self, length: int, offset: int) -> bytes:
        assert self.view is not None
        return bytes(self.view[offset : offset + length])

    def pwrite(self, data: Bytes, offset: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
