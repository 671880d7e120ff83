# SPDX-License-Identifier: Apache-2.0
"""One mapped device: live and inactive table, suspend and resume, and the way in for I/O (dm.c).

Ours is major 1000: Linux gives block devices majors below 512 only (BLKDEV_MAJOR_MAX), so no
number of a mapped device can be taken for that of a disk.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from dmtool.backing import Bytes
from dmtool.device.events import Events
from dmtool.device.gate import Gate, hung_up
from dmtool.device.stats import Stats
from dmtool.table.table import Part, Table
from dmtool.targets.io import Requeue

MAJOR = 1000

T = TypeVar("T")

# Kinds of I/O: whether it counts as a write (None: not at all), and the error beyond the end.
_Kind = tuple[bool | None, int]
_READ, _WRITE, _DISCARD = (False, errno.EINVAL), (True, errno.ENOSPC), (True, errno.EINVAL)
_LOOK = (None, errno.EINVAL)

log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


class MappedDevice(Events):
    """A mapped device. ``name`` and ``uuid`` are mangled (see names.py); sizes are in bytes.

    Made without a table, not suspended. ``on_idle(device)`` is called, on any thread, when the
    open count has fallen to 0.

    Threads: every method from any thread. ``load``, ``clear``, ``suspend``, ``resume`` and
    ``destroy`` take turns. I/O may be under way on many threads at once; it holds the gate.
    """

    def __init__(self, name: str, uuid: str = "", minor: int = 0) -> None:
        super().__init__()
        self.name = name
        self.uuid = uuid
        self.minor = minor
        self.live: Table | None = None
        self.inactive: Table | None = None
        self.stats = Stats()
        self.suspended = False
        self.open_count = 0
        self.on_idle: Callable[[MappedDevice], None] | None = None
        self._gate = Gate()
        self.stats.on_meter = self._gate.recall
        self._control = threading.RLock()
        self._counts = threading.Lock()
        self._retired = False
        self._running = False  # the live table's targets are resumed

    @property
    def devno(self) -> tuple[int, int]:
        return MAJOR, self.minor

    @property
    def size(self) -> int:
        live = self.live
        return live.size if live else 0

    @property
    def readonly(self) -> bool:
        live = self.live
        return live.readonly if live else False

    # -- tables -------------------------------------------------------------------------------

    def load(self, table: Table) -> None:
        """Put ``table`` into the inactive slot; what was there is destroyed. The device owns it
        from here on."""
        with self._control:
            self._check()
            old, self.inactive = self.inactive, table
            table.on_event = self.target_event
            table.drain, table.watch.on_replan = self._gate.drain, self._gate.recall
        _destroy(old)

    def clear(self) -> None:
        """Destroy the table in the inactive slot, if there is one."""
        with self._control:
            self._check()
            old, self.inactive = self.inactive, None
        _destroy(old)

    def suspend(self, *, noflush: bool = False, client_fd: int = -1) -> None:
        """Let no I/O in and wait for all that is under way; what comes waits for resume.

        Unless ``noflush``, all that was written is on stable storage afterwards. A device that
        is suspended stays so. Raises OSError of the flush, DmtoolError of a target's hook, or
        OSError EINTR when the other end of the socket ``client_fd`` was closed meanwhile; the
        device is not suspended then.
        """
        with self._control:
            self._check()
            if self.suspended:
                return
            self._quiesce(noflush, client_fd)
            self.suspended = True

    def resume(
        self, *, noflush: bool = False, client_fd: int = -1, confirm: Callable[[], None] = _nothing
    ) -> None:
        """Make the inactive table, if there is one, the live one, and let I/O in.

        A device that is not suspended is so for that moment, as by ``suspend``. Without any
        table nothing happens, as in the kernel. If a target refuses (preresume), the old table
        cannot be suspended, or ``confirm()`` raises, everything is as it was before. ``confirm``
        is called last, while no I/O is under way and none may enter; after it nothing can fail.
        """
        old: Table | None = None
        with self._control:
            self._check()
            new = self.inactive
            if new is None and self.live is None:
                return
            if new is None and not self.suspended:
                return
            quiesced = not self.suspended
            if quiesced:
                self._quiesce(noflush, client_fd)
            try:
                table = new or self.live
                assert table is not None
                self._hook(table, "preresume")
                confirm()
            except BaseException:
                if quiesced:
                    self._reopen()
                raise
            if new is not None:
                old, self.live, self.inactive = self.live, new, None
            self.suspended = False
            self._reopen()
        _destroy(old)

    def reinstate(self) -> None:
        """Make the inactive table live as one that had been suspended: without resuming its
        targets. ``suspend`` is to follow; until then I/O may enter, for a table on top of this
        device may have to read as it is made."""
        with self._control:
            self._check()
            self.live, self.inactive = self.inactive, None

    def destroy(self) -> None:
        """The device is removed: both tables go, who waits for it is woken."""
        with self._control:
            if self._gone:
                return
            self._gone = True
            self._gate.destroy()
            live, self.live = self.live, None
            inactive, self.inactive = self.inactive, None
            running = live if self._running else None
            if running is not None:
                # first of all: a target may hold I/O until the device is suspended
                running.noflush = False
                self._hook(running, "presuspend", quiet=True)
            self._gate.close()
            if running is not None:
                self._hook(running, "postsuspend", quiet=True)
            if not self.open_count:  # only who has it open polls
                self._gate.free()
            self._wake()
        _destroy(live)
        _destroy(inactive)

    def _quiesce(self, noflush: bool, client_fd: int) -> None:
        live = self.live
        running = live if self._running else None
        closed = False
        try:
            if running is not None:
                running.noflush = noflush
                self._hook(running, "presuspend")
            closed = self._gate.close(client_fd)
            if live is not None and closed and not noflush:
                live.flush()
            # a flush may take its time, too: of a device below that is suspended
            if not closed or hung_up(client_fd):
                raise OSError(errno.EINTR, "the client has gone")
        except BaseException:
            if running is not None:
                self._hook(running, "presuspend_undo", quiet=True)
            if closed:
                self._gate.open()
            raise
        if running is not None:
            self._hook(running, "postsuspend", quiet=True)
        self._running = False

    def _reopen(self) -> None:
        self._running = self.live is not None
        if self.live is not None:
            self.live.noflush = False  # who raised Requeue has left by now
            self._hook(self.live, "resume", quiet=True)
        self._gate.open()

    def _hook(self, table: Table, hook: str, *, quiet: bool = False) -> None:
        """Call a life-cycle hook of all targets that have it; ``quiet`` errors are logged only:
        there is no way back any more."""
        for target in table.having(hook):
            try:
                target.type.call(hook, target)
            except Exception:  # a plugin may raise anything
                if not quiet:
                    raise
                log.exception("%s: %s of target type %s", self.name, hook, target.type.name)

    # -- names and openers --------------------------------------------------------------------

    def rename(self, name: str) -> None:
        old, self.name = self.name, name
        self.raise_event("rename", what=old)

    def set_uuid(self, uuid: str) -> None:
        """Set the uuid, which can be done once. Raises OSError EINVAL if it has one."""
        if self.uuid:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.uuid = uuid
        self.raise_event("uuid")

    def open(self) -> None:
        """Count an opener. Raises OSError ENXIO if the device is gone or has no live table."""
        with self._counts:
            if self._gone or self._retired or self.live is None:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            self.open_count += 1

    def retire(self) -> int:
        """Let nobody open the device any more, unless it is open; how often it is open
        (dm_lock_for_deletion). ``retire`` comes before ``destroy``."""
        with self._counts:
            self._retired = not self.open_count
            return self.open_count

    def unretire(self) -> None:
        """The removal did not happen: the device may be opened again."""
        with self._counts:
            self._retired = False

    def close(self) -> None:
        """One opener less."""
        with self._counts:
            self.open_count -= 1
            idle = not self.open_count
        if idle and self._gone:
            self._gate.free()
        on_idle = self.on_idle
        if idle and on_idle is not None:
            on_idle(self)

    # -- I/O ----------------------------------------------------------------------------------

    def begin(self) -> Table:
        """Enter for I/O, waiting while the device is suspended; the live table until ``end``.

        Raises OSError ENXIO when the device is removed, EIO when it has no live table; MustWait
        instead of waiting on a thread that must not.
        """
        if not self._gate.enter():
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return self._entered()

    def begin_again(self, given_up: Callable[[], bool]) -> Table:
        """As ``begin``, after a Requeue and ``end``; OSError ECANCELED once ``given_up()``, which
        is asked again after ``wake``."""
        if not self._gate.enter(given_up):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return self._entered()

    def wake(self) -> None:
        """See ``begin_again``."""
        self._gate.wake()

    def try_begin(self) -> Table | None:
        """As ``begin``, but None where that would wait."""
        entered = self._gate.try_enter()
        if entered is None:
            return None
        if not entered:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        return self._entered()

    def _entered(self) -> Table:
        live = self.live
        if live is None:
            self._gate.leave()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return live

    def end(self) -> None:
        """Leave; once for each begin."""
        self._gate.leave()

    @property
    def gate(self) -> Gate:
        """For visitors; all others use ``begin`` and ``end``."""
        return self._gate

    @property
    def closed_fd(self) -> int:
        """Readable while no I/O may enter: poll it beside what you wait for while inside."""
        return self._gate.closed_fd

    @property
    def open_fd(self) -> int:
        """Readable while I/O may enter, and when the device is gone."""
        return self._gate.open_fd

    def _io(self, do: Callable[[Table], T]) -> T:
        """Do one I/O inside the gate; once more after a suspend without flush that asked so."""
        while True:
            table = self.begin()
            try:
                return do(table)
            except Requeue:
                if not table.noflush:
                    raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
            finally:
                self.end()

    def _on(self, do: Callable[[Table], T], kind: _Kind, offset: int, length: int) -> T:
        """Do one I/O on a range, and count it where there are statistics."""
        write, beyond = kind

        def counted(table: Table) -> T:
            if offset < 0 or length < 0 or offset + length > table.size:
                raise OSError(beyond, os.strerror(beyond))
            if self.stats.meter is None or write is None or (write and table.readonly):
                return do(table)
            return self.stats.timed(lambda: do(table), write, offset, length)

        return self._io(counted)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes at byte ``offset``. Raises OSError: EINVAL beyond the end."""
        return self._on(lambda table: table.read(offset, length), _READ, offset, length)

    def read_parts(self, offset: int, length: int) -> list[Part]:
        """``[(offset, length, bytes or OSError), ...]``. Raises OSError EINVAL beyond the end."""

        def do(table: Table) -> list[Part]:
            parts = table.read_parts(offset, length)
            for _, _, data in parts:
                if isinstance(data, Requeue):
                    raise data
            return parts

        return self._on(do, _READ, offset, length)

    def write(self, offset: int, data: Bytes, *, fua: bool = False) -> None:
        """Raises OSError: ENOSPC beyond the end, EPERM on a read-only device."""
        self._on(lambda table: table.write(offset, data, fua=fua), _WRITE, offset, len(data))

    def flush(self) -> None:
        """All that was written is on stable storage. Raises OSError."""
        self._io(Table.flush)

    def discard(self, offset: int, length: int) -> None:
        """The range is no longer needed. Raises OSError."""
        self._on(lambda table: table.discard(offset, length), _DISCARD, offset, length)

    def write_zeroes(
        self, offset: int, length: int, *, allocate: bool = False, fua: bool = False
    ) -> None:
        """Raises OSError: ENOSPC beyond the end, EPERM on a read-only device."""

        def do(table: Table) -> None:
            table.write_zeroes(offset, length, allocate=allocate, fua=fua)

        self._on(do, _WRITE, offset, length)

    def block_status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """``[(length, flags), ...]``, see Table.block_status."""
        return self._on(lambda table: table.block_status(offset, length), _LOOK, offset, length)


def _destroy(table: Table | None) -> None:
    """Close a table, and let go of the device that it was in: a table is full of cycles, and who
    waits for the garbage collection to close descriptors has them open for long."""
    if table is not None:
        table.close()
        table.on_event = lambda _target, _what: None
        table.drain = _nothing
