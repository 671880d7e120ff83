# SPDX-License-Identifier: Apache-2.0
"""A table: targets side by side, the index that finds them, and the I/O that goes through."""

from __future__ import annotations

import errno
import logging
import os
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dmtool.backing import Backing, Bytes
from dmtool.btree import Index
from dmtool.errors import DmtoolError
from dmtool.plan import Mirrored, Pieces, Plan
from dmtool.sectors import to_bytes, to_sectors
from dmtool.table.bulk import Bulk
from dmtool.table.mapping import PythonMap
from dmtool.table.segments import Run, Segment, Single, compile_plan, uses
from dmtool.table.watch import Watch, nothing
from dmtool.targets.io import Io, Op, Requeue, outcome
from dmtool.targets.target import Target

Part = tuple[int, int, bytes | OSError]

log = logging.getLogger(__name__)


class Table:
    """Targets from sector 0 on, without gaps; built by ``load``.

    ``targets``     in order of their sectors; ``plans`` beside them. Of a table built in ``bulk``
                    the targets are made as they are asked for, and ``plans`` is empty.
    ``sectors``     length of the device; ``size`` the same in bytes.
    ``backings``    the devices opened for it, each once, in order of first use; the table owns
                    them.
    ``block_size``  bytes, the largest logical block size below.
    ``noflush``     the suspend under way is one without flush.
    ``on_event``    called when a target raises an event; ``drain``: waits until all I/O that
                    is under way is done. The mapped device that takes the table sets both.
    ``watch``       for those who keep what they have worked out of it.

    All offsets and lengths of I/O are bytes and lie within ``size``. Reads and writes do all
    the parts that can be done; then the first part's OSError is raised, a Requeue before all
    others. On a thread that must not wait all I/O may raise MustWait.

    Threads: I/O from any thread, several at once; the rest from one at a time.
    """

    def __init__(self, *, readonly: bool) -> None:
        self.readonly = readonly
        self.noflush = False
        self.targets: Sequence[Target[Any]] = []
        self.plans: list[Plan | None] = []
        self.bulk: Bulk | None = None
        self.backings: list[Backing] = []
        self.block_size = 512
        self.sectors = 0
        self.size = 0
        self.on_event: Callable[[], None] = nothing
        self.drain: Callable[[], None] = nothing
        self.watch = Watch()
        self._runs: Sequence[Run] = []
        # of every target, with a plan or without: what it serialises holds across a replan
        self._maps: list[PythonMap] = []
        self._mapped = False  # whether any target may be asked through its map
        self._begins = array("Q", [0])  # bytes; one more than there are targets
        self._find: Callable[[int], int] = Index([]).find
        self._replan = threading.Lock()

    # -- building -----------------------------------------------------------------------------

    def index(self) -> None:
        """Lay out runs and index, once ``targets`` and ``plans``, or ``bulk``, are complete."""
        if self.bulk is None:
            self._maps = [PythonMap(target) for target in self.targets]
            self._runs = [self._run(number, plan) for number, plan in enumerate(self.plans)]
            begins = array("Q", [ti.begin for ti in self.targets])
            begins.append(self.targets[-1].begin + self.targets[-1].len)
        else:
            self.targets, self._runs, begins = self.bulk.targets, self.bulk.runs, self.bulk.begins
        self.sectors = begins[-1]
        self.size = to_bytes(self.sectors)
        # a device has less than 2^63 bytes, so its byte offsets fit 64 bits too
        self._begins = array("Q", map(to_bytes, begins))
        self._find = Index(array("Q", [begin - 1 for begin in begins[1:]])).find

    def event(self) -> None:
        self.on_event()

    def replan(self, target: Target[Any], wait: bool) -> None:
        with self._replan:
            assert isinstance(self._runs, list)
            i = self._find(target.begin)
            plan = target.type.call("plan", target)
            self.plans[i] = plan
            target.blocks = False  # it was the old plan that was seen to
            # one store into a list: I/O sees the old run or the new one
            self._runs[i] = self._run(i, plan)
            self.watch.replanned()
        if wait:
            self.drain()

    def _run(self, number: int, plan: Plan | None) -> Run:
        mapped = self._maps[number]
        if plan is None or isinstance(plan, Mirrored | Pieces):
            self._mapped = True
        if plan is None:
            return Single(mapped, to_bytes(mapped.target.begin))
        return compile_plan(plan, mapped)

    def close(self) -> None:
        """Destroy the targets and close the backings; no I/O may be under way. What fails is
        logged: the table is gone, and so is all that can be closed."""
        self.watch.closed()
        for target in self.having("dtr"):
            try:
                target.type.call("dtr", target)
            except (DmtoolError, OSError) as error:
                log.warning("dtr of target type %s: %s", target.type.name, error)
        for backing in self.backings:
            try:
                backing.close()
            except OSError as error:
                log.warning("close of %s: %s", backing, error)

    # -- looking ------------------------------------------------------------------------------

    def layout(self) -> tuple[array[int], Sequence[Run]]:
        """The byte at which each target begins, and that behind the last; the run of each."""
        return self._begins, self._runs

    def target_at(self, sector: int) -> Target[Any] | None:
        """The target that has this sector of the device, None beyond the end."""
        return self.targets[self._find(sector)] if 0 <= sector < self.sectors else None

    def number_at(self, sector: int) -> int:
        """Index into ``targets`` of the one that has this sector of the device."""
        return self._find(sector)

    def having(self, hook: str) -> Iterator[Target[Any]]:
        """The targets whose type has ``hook``, in order."""
        if self.bulk is None:
            yield from (target for target in self.targets if target.type.has(hook))

    def lines(self) -> Iterator[tuple[int, int, str, str]]:
        """(begin, length, type, arguments as `table` prints them) of all targets, in sectors."""
        if self.bulk is not None:
            yield from self.bulk.lines()
            return
        for number, target in enumerate(self.targets):
            yield target.begin, target.len, target.type.name, self.text(number)

    def uses(self, number: int, fn: Callable[[Backing, int, int], None]) -> None:
        """Call fn(device, start, length), in sectors, for all that target ``number`` uses."""
        target = self.targets[number]
        plan = self.bulk.plan(number) if self.bulk is not None else self.plans[number]
        if target.type.has("iterate_devices"):
            target.type.call("iterate_devices", target, fn)
        elif plan is not None:
            uses(plan, target.len, fn)

    def status(self, number: int) -> str:
        """What `status` prints after the type of target ``number``."""
        target = self.targets[number]
        return target.type.call("status", target) or ""

    def text(self, number: int) -> str:
        """What `table` prints after the type of target ``number``; ctr reads it back."""
        target = self.targets[number]
        if target.type.has("table"):
            return str(target.type.call("table", target))
        return target.text

    # -- I/O ----------------------------------------------------------------------------------

    def extent(self, offset: int, length: int) -> tuple[Backing, int] | None:
        """(backing, offset there) where the whole range is one piece of one backing."""
        i = self._find(offset >> 9)
        if offset + length > self._begins[i + 1]:
            return None
        return self._runs[i].one(offset - self._begins[i], length)

    def read_extent(self, offset: int, length: int) -> tuple[Backing, int] | None:
        """The same, for reads only: a mirror reads from one leg while all goes well. Where such
        a read fails, ``read`` is what knows more."""
        i = self._find(offset >> 9)
        if offset + length > self._begins[i + 1]:
            return None
        return self._runs[i].one_read(offset - self._begins[i], length)

    def segments(self, offset: int, length: int) -> list[Segment]:
        """The range as ``(backing, offset there, length)``, in order, split at targets, chunks
        and pieces."""
        out: list[Segment] = []
        i = self._find(offset >> 9)
        begins = self._begins
        while length:
            size = min(begins[i + 1] - offset, length)
            self._runs[i].split(offset - begins[i], size, out)
            offset += size
            length -= size
            i += 1
        return out

    def ranges(self, offset: int, length: int) -> list[Segment]:
        """As ``segments``, for what has no data to be in order: of a target's chunks those that
        lie side by side are one. Each target's add up to its part."""
        out: list[Segment] = []
        i = self._find(offset >> 9)
        begins = self._begins
        while length:
            size = min(begins[i + 1] - offset, length)
            self._runs[i].ranges(offset - begins[i], size, out)
            offset += size
            length -= size
            i += 1
        return out

    def blocks(self, offset: int, length: int) -> bool:
        """Whether a target in the range has been seen to block (Defer, Delay)."""
        if not self._mapped:
            return False
        last = self._find((offset + max(length, 1) - 1) >> 9)
        return any(self.targets[i].blocks for i in range(self._find(offset >> 9), last + 1))

    def read(self, offset: int, length: int) -> bytes:
        parts = self.read_parts(offset, length)
        failed: OSError | None = None
        for _, _, data in parts:
            if isinstance(data, OSError):
                failed = outcome(failed, data)
        if failed:
            raise failed
        if len(parts) == 1:
            return parts[0][2]  # type: ignore[return-value]  # errors were raised above
        return b"".join(data for _, _, data in parts)  # type: ignore[misc]

    def read_parts(self, offset: int, length: int) -> list[Part]:
        """``[(offset, length, bytes or OSError), ...]`` in order; raises nothing."""
        parts: list[Part] = []
        for backing, at, size in self.segments(offset, length):
            for part, read in backing.pread_parts(size, at):
                data: bytes | OSError = read
                if isinstance(read, OSError):
                    data = self._failed(Op.READ, offset, part, backing, read) or bytes(part)
                parts.append((offset, part, data))
                offset += part
        return parts

    def write(self, offset: int, data: Bytes, *, fua: bool = False) -> None:
        """``fua``: on stable storage when this returns."""
        self._may_write()
        where = self.extent(offset, len(data))
        if where is not None:
            backing, at = where
            try:
                backing.write(data, at, fua=fua)
            except OSError as error:
                failed = self._failed(Op.WRITE, offset, len(data), backing, error)
                if failed:
                    raise failed from None
            return
        view = memoryview(data)
        to_flush: dict[int, Backing] = {}

        def put(backing: Backing, at: int, size: int, done: int) -> None:
            piece = view[done : done + size]
            if fua and backing.kind:
                # flushed once, when all is written: a write may have thousands of pieces
                backing.pwrite(piece, at)
                to_flush[id(backing)] = backing
            else:
                backing.write(piece, at, fua=fua)

        failed = self._each(Op.WRITE, self.segments(offset, len(data)), offset, put)
        self._flush_each(to_flush, failed)

    def flush(self) -> None:
        """All that was written is on stable storage: every target, then every backing."""
        if self.readonly:
            return
        first: OSError | None = None
        for mapped in self._maps:
            try:
                mapped.flush()
            except OSError as error:
                first = outcome(first, error)
        for backing in self.backings:
            try:
                backing.flush()
            except OSError as error:
                first = first or self._flush_failed(backing, error)
        if first:
            raise first

    def _flush_failed(self, backing: Backing, error: OSError) -> OSError | None:
        """What is to be reported: nothing where every target that uses the backing says so."""
        left = []
        for number, mapped in enumerate(self._maps):
            used: list[Backing] = []
            self.uses(number, lambda device, _start, _length, used=used: used.append(device))  # type: ignore[misc]
            if any(device is backing for device in used):
                left.append(mapped.flush_failed(backing, error))
        return next((one for one in left if one), None) if left else error

    def discard(self, offset: int, length: int) -> None:
        self._may_write()
        failed = self._each(
            Op.DISCARD,
            self.ranges(offset, length),
            offset,
            lambda b, at, size, _: b.discard(at, size),
        )
        if failed:
            raise failed

    def write_zeroes(
        self, offset: int, length: int, *, allocate: bool = False, fua: bool = False
    ) -> None:
        """``allocate``: the zeros take up space. ``fua``: on stable storage on return."""
        self._may_write()

        to_flush: dict[int, Backing] = {}

        def zero(backing: Backing, at: int, size: int, _: int) -> None:
            backing.write_zeroes(at, size, allocate=allocate)
            if fua:
                # where a map has put them, nobody knows
                below = self.backings if type(backing) is PythonMap else [backing]
                to_flush.update((id(one), one) for one in below)

        failed = self._each(Op.WRITE_ZEROES, self.ranges(offset, length), offset, zero)
        self._flush_each(to_flush, failed)

    def block_status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """``[(length, flags), ...]`` with HOLE and ZERO; neighbours differ in their flags."""
        merged: list[tuple[int, int]] = []
        for backing, at, size in self.segments(offset, length):
            for part, flags in backing.extents(at, size):
                if merged and merged[-1][1] == flags:
                    merged[-1] = (merged[-1][0] + part, flags)
                else:
                    merged.append((part, flags))
        return merged

    def _may_write(self) -> None:
        if self.readonly:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def _each(
        self,
        op: Op,
        segments: list[Segment],
        offset: int,
        do: Callable[[Backing, int, int, int], None],
    ) -> OSError | None:
        """Call ``do(backing, offset there, length, bytes done before)`` for all ``segments`` of
        what begins at ``offset``; the first failure."""
        first: OSError | None = None
        done = 0
        for backing, at, size in segments:
            try:
                do(backing, at, size, done)
            except OSError as error:
                if first is None or isinstance(error, Requeue):
                    first = self._failed(op, offset + done, size, backing, error)
            done += size
        return first

    def _flush_each(self, backings: dict[int, Backing], first: OSError | None) -> None:
        """Flush, also after a failure: what is written is to be stable. Raises ``first``, else
        the first failure."""
        for backing in backings.values():
            try:
                backing.flush()
            except OSError as error:
                first = first or self._flush_failed(backing, error)
        if first:
            raise first

    def _failed(
        self, op: Op, offset: int, length: int, backing: Backing, error: OSError
    ) -> OSError | None:
        """Tell the target of a failed I/O that its plan did; what is to be reported."""
        target = self.targets[self._find(offset >> 9)]
        told = type(backing) is PythonMap or isinstance(error, Requeue)
        if target.type.end_io is None or told:
            return error
        sector = to_sectors(offset)
        io = Io(op, sector, to_sectors(offset + length + 511) - sector, device=backing)
        try:
            number = target.type.call("end_io", target, io, error.errno or errno.EIO)
        except OSError as other:
            return other
        if number == error.errno:
            return error
        return OSError(number, os.strerror(number)) if number else None
