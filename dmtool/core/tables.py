# SPDX-License-Identifier: Apache-2.0
"""What is done to the tables of one mapped device, and what is stored of it: the ioctls of
dm-ioctl.c that work on a device rather than on names."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dmtool.core.devices import Devices
from dmtool.core.entry import Entry, Reference, info
from dmtool.core.looking import looked
from dmtool.core.stack import Resolver
from dmtool.core.state import Definition, StoredTable
from dmtool.core.step import step
from dmtool.device.stats import USAGE as STATS_MESSAGES
from dmtool.errors import (
    DeviceError,
    NoSuchDevice,
    TableError,
    TableErrors,
    TargetError,
    Where,
)
from dmtool.sectors import SECTOR
from dmtool.table import Table, load
from dmtool.table.bulk import Row, printed
from dmtool.table.text import parse

# dm_split_args (dm-table.c): white space separates, a backslash takes the next character as it is
_ARGUMENT = re.compile(r"(?:\\.|[^\s\\])+|\\\Z", re.DOTALL | re.ASCII)
_QUOTED = re.compile(r"\\(.)", re.DOTALL)


class Tables:
    """The operations; each takes the device's ``control`` for itself.

    Threads: any.
    """

    def __init__(self, devices: Devices, mapper: str) -> None:
        """``mapper`` is the directory that stands for /dev/mapper."""
        self.devices = devices
        self.mapper = mapper

    def resolver(self, entry: Entry | None, *, readonly: bool) -> Resolver:
        """What finds the mapped devices that a table of ``entry`` (None: of none) names."""
        return Resolver(self.devices, self.mapper, entry, readonly=readonly)

    # -- making -------------------------------------------------------------------------------

    def create(
        self, definition: Definition, minor: int | None, text: str, source: str, cwd: str,
        *, readonly: bool,
    ) -> Entry:  # fmt: skip
        """A new device, with a live table if ``text`` has any line; all or nothing."""
        with step("create"), _syntax_first(text, source):
            entry = self.devices.reserve(definition, minor)
        try:
            with entry.control:
                with step("reload", entry.devno):
                    live = self._fill(entry, text, source, cwd, readonly=readonly)
                if live is not None:
                    with step("resume", entry.devno):
                        entry.device.resume()
                with step("create", entry.devno):
                    self.devices.save(entry, live=live)
                self.devices.publish(entry)
        except BaseException:
            self.devices.discard(entry)
            raise
        return entry

    def load(
        self, reference: Reference, text: str, source: str, cwd: str, *, readonly: bool
    ) -> Entry:
        """Fill the inactive slot."""
        with step("reload"), _syntax_first(text, source), self.devices.held(reference) as entry:
            if self._fill(entry, text, source, cwd, readonly=readonly) is None:
                where = Where(source, 1, 1)
                raise TableErrors([TableError("no targets specified", where)])
            return entry

    def _fill(
        self, entry: Entry, text: str, source: str, cwd: str, *, readonly: bool
    ) -> StoredTable | None:
        """Build a table into the inactive slot, and store it; None for a text without lines."""
        with self._loading(entry):
            table = self._build(entry, text, source, cwd, readonly)
            if table is None:
                return None
            try:
                stored = self.devices.state.store(
                    entry.minor, table.parts(), readonly=table.readonly, lower=lower(table)
                )
                if entry.published:
                    self.devices.save(entry, inactive=stored)
            except BaseException:
                table.close()
                raise
            entry.device.load(table)
            if entry.published:
                self._tell(entry, "load")
            return stored

    @contextmanager
    def _loading(self, entry: Entry) -> Iterator[None]:
        """While a table is built, what it has opened counts as below its device."""
        try:
            yield
        finally:
            with self.devices.lock:
                entry.loading.clear()

    def _build(
        self, entry: Entry, text: str, source: str, cwd: str, readonly: bool
    ) -> Table | None:
        resolver = self.resolver(entry, readonly=readonly)
        return load(text, source=source, cwd=cwd, readonly=readonly, devices=resolver)

    # -- changing -----------------------------------------------------------------------------

    def clear(self, reference: Reference) -> Entry:
        """Empty the inactive slot."""
        with step("clear"), self.devices.held(reference) as entry:
            self.devices.save(entry, inactive=None)
            entry.device.clear()
            self._tell(entry, "clear")
            return entry

    def suspend(self, reference: Reference, *, noflush: bool, client_fd: int = -1) -> Entry:
        """Returns when the I/O under way has ended; raises OSError EINTR when the other end of
        the socket ``client_fd`` is closed before that."""
        with step("suspend"), self.devices.held(reference) as entry:
            # stored first: to undo a suspend would be to let I/O in, and targets work
            self.devices.save(entry, suspended=True)
            try:
                entry.device.suspend(noflush=noflush, client_fd=client_fd)
            except BaseException:
                self.devices.save(entry, suspended=entry.device.suspended)
                raise
            self._tell(entry, "suspend")
            return entry

    def resume(
        self,
        reference: Reference,
        *,
        noflush: bool = False,
        read_ahead: int | None = None,
        client_fd: int = -1,
        event_nr: int | None = None,
        durable: bool = False,
    ) -> Entry:
        """Swap the inactive table in, if there is one, and let I/O in.

        What is stored then has the new table before any I/O reaches that: a crash never takes
        back a table that has been written to. ``durable``: nor does a power cut. ``event_nr``: only
        if that is still the number of the last event when no I/O is under way; else DeviceError
        ESTALE, and all is as it was. A stored table that could not be made at the start is tried
        again. Raises OSError EINTR as ``suspend``.
        """
        with step("resume"), self.devices.held(reference) as entry, self.devices.at_once(entry):
            if read_ahead is not None:
                self.devices.save(entry, read_ahead=read_ahead)
            self.remake(entry)

            def confirm() -> None:
                _check_event(entry, event_nr)
                self.devices.write_ahead(entry, durable=durable, **_swapped(entry))

            self._resume(entry, noflush=noflush, client_fd=client_fd, confirm=confirm)
            return entry

    def remake(self, entry: Entry) -> None:
        """Build the table that a resume would make live, where it is stored but not there."""
        definition, device = entry.definition, entry.device
        if device.inactive is not None:
            return
        if definition.inactive is not None:
            self.put(entry, definition.inactive)
        elif definition.live is not None and device.live is None:
            self.put(entry, definition.live)

    def put(self, entry: Entry, stored: StoredTable) -> None:
        """Build a stored table into the inactive slot."""
        text = self.devices.state.text(stored)
        with self._loading(entry):
            source = f"the stored table of {entry.device.name}"
            table = self._build(entry, text, source, "/", stored.readonly)
        if table is not None:
            entry.device.load(table)

    def _resume(
        self,
        entry: Entry,
        *,
        noflush: bool,
        client_fd: int,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        """For use inside ``at_once``; ``confirm`` as in MappedDevice.resume."""
        device = entry.device
        idle = not device.suspended and device.inactive is None
        try:
            device.resume(noflush=noflush, client_fd=client_fd, confirm=confirm)
        finally:
            changes: dict[str, Any] = {"suspended": device.suspended}
            if entry.definition.inactive is not None and device.inactive is None:
                changes |= _swapped(entry)
            if device.live is not None:
                entry.error = None
            self.devices.save(entry, **changes)
        if not idle:
            self._tell(entry, "resume")

    def _tell(self, entry: Entry, kind: str) -> None:
        self.devices.news.tell(entry, kind, entry.device.event_nr)

    def wipe(self, reference: Reference, *, noflush: bool, client_fd: int = -1) -> Entry:
        """One error target over the whole size (``_error_device`` of dmsetup.c). Raises OSError
        EINTR as ``suspend``."""
        with step("table"), self.devices.held(reference) as entry, self.devices.at_once(entry):
            self._wipe(entry, noflush=noflush, client_fd=client_fd)
            return entry

    def _wipe(self, entry: Entry, *, noflush: bool, client_fd: int = -1) -> None:
        """For use inside ``at_once``."""
        live = entry.device.live
        with step("reload"):
            if live is None:
                raise DeviceError("the device has no live table", errno=errno.EINVAL)
            self._fill(entry, f"0 {live.sectors} error", "wipe_table", "/", readonly=False)
        with step("resume"):
            self._resume(entry, noflush=noflush, client_fd=client_fd)

    # -- removing -----------------------------------------------------------------------------

    def remove(
        self, reference: Reference, *, force: bool, deferred: bool, client_fd: int = -1
    ) -> dict[str, Any]:
        """The last *info*. With ``force`` the waiting I/O is let go, and fails; that of targets
        below is waited for, and OSError EINTR raised as by ``suspend``."""
        with step("remove"), self.devices.held(reference) as entry, self.devices.at_once(entry):
            before = info(entry)
            if force and entry.device.live is not None:
                self._wipe(entry, noflush=True, client_fd=client_fd)
            gone = self.devices.remove(entry, deferred=deferred)
            return before if gone else info(entry)

    def remove_all(self, *, force: bool, deferred: bool) -> int:
        """How many are left: those that are open."""
        with step("remove_all"):
            left = self.devices.remove_all(deferred=deferred)
            if left and force:
                for entry in left:
                    with entry.control:
                        if not entry.removed and entry.device.live is not None:
                            with self.devices.at_once(entry):
                                self._wipe(entry, noflush=True)
                left = self.devices.remove_all(deferred=deferred)
            return len(left)

    # -- looking and talking ------------------------------------------------------------------

    def lines(
        self, entry: Entry, what: str, *, inactive: bool, type: str | None = None
    ) -> list[Row]:
        """The rows (of targets of that type) that ``table`` or ``status`` prints."""
        return looked(entry, lambda table: list(_rows(table, what, type)), inactive=inactive) or []

    def text(self, entry: Entry, what: str, *, inactive: bool, type: str | None = None) -> str:
        """The same as lines, each with its newline."""

        def printed_rows(table: Table) -> str:
            if what == "table" and type is None:
                return "".join(table.parts())
            return "".join(map(printed, _rows(table, what, type)))

        return looked(entry, printed_rows, inactive=inactive) or ""

    def message(self, reference: Reference, sector: int, text: str) -> str | None:
        """The target's answer. Raises DeviceError with the words of dm-ioctl.c."""
        entry = self.devices.find(reference)
        words = [_QUOTED.sub(r"\1", word) for word in _ARGUMENT.findall(text)]
        if not words:
            raise DeviceError("Empty message received.", errno=errno.EINVAL)
        if words[0].startswith("@"):
            return self._core_message(entry, words)
        # messages to one device take turns, but never wait for its suspend
        with entry.messages:
            live = entry.device.live
            if live is None:
                raise DeviceError("The device has no table.", errno=errno.EINVAL)
            target = live.target_at(sector)
            if target is None:
                raise DeviceError(
                    "Target message sector outside device.",
                    errno=errno.EINVAL,
                    hint=f"the device has {live.sectors} sectors",
                )
            if not target.type.has("message"):
                raise TargetError(
                    "Target type does not support messages",
                    cause=f"sector {sector} is of type {target.type.name}",
                )
            answer = target.type.call("message", target, words)
            return None if answer is None else str(answer)

    def _core_message(self, entry: Entry, words: list[str]) -> str | None:
        name, device = words[0].lower(), entry.device
        if name in STATS_MESSAGES:
            return device.stats.message(words, device.size // SECTOR)
        if name != "@cancel_deferred_remove":
            reason = f"Unsupported message sent to DM core: {words[0]}"
            raise DeviceError(reason, errno=errno.EINVAL)
        if len(words) != 1:
            reason = "Invalid arguments for @cancel_deferred_remove"
            raise DeviceError(reason, errno=errno.EINVAL)
        with entry.control:
            if entry.removed:
                raise NoSuchDevice(entry.device.name)
            self.devices.save(entry, deferred_remove=False)
        return None


@contextmanager
def _syntax_first(text: str, source: str) -> Iterator[None]:
    """As dmsetup, which parses a table before the first ioctl: a line that it refuses itself is
    reported rather than that the device is there already, or is not there."""
    try:
        yield
    except DeviceError:
        refused = [
            line
            for line in parse(text, source)
            if isinstance(line, TableError) and (line.syntax or line.too_long)
        ]
        if refused:
            raise TableErrors(refused) from None
        raise


def _swapped(entry: Entry) -> dict[str, Any]:
    """What a resume changes in a definition."""
    changes: dict[str, Any] = {"suspended": False}
    if entry.definition.inactive is not None:
        changes |= {"live": entry.definition.inactive, "inactive": None}
    return changes


def _check_event(entry: Entry, event_nr: int | None) -> None:
    now = entry.device.event_nr
    if event_nr is not None and now != event_nr:
        raise DeviceError(
            f"event {now} came after {event_nr}",
            errno=errno.ESTALE,
            hint="look at the device again",
        )


def _rows(table: Table, what: str, type: str | None) -> Iterator[Row]:
    rows = table.lines() if what == "table" else _status(table)
    return (row for row in rows if type is None or row[2] == type)


def _status(table: Table) -> Iterator[Row]:
    if table.bulk is not None:
        # most are of types that have no status, and made only when they are looked at
        odd = table.bulk.odd
        for number, (begin, length, type, _) in enumerate(table.lines()):
            yield begin, length, type, table.status(number) if number in odd else ""
        return
    for number, ti in enumerate(table.targets):
        yield ti.begin, ti.len, ti.type.name, table.status(number)


def lower(table: Table) -> frozenset[int]:
    """The minors of the mapped devices that a table lies on."""
    return frozenset(b.devno[1] for b in table.backings if b.kind == "dm" and b.devno)
