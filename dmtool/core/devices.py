# SPDX-License-Identifier: Apache-2.0
"""The mapped devices of the core by name, uuid and minor: the kernel's hash tables of
dm-ioctl.c, with what is stored of each device."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from dmtool.core.entry import Entry, Reference
from dmtool.core.news import News
from dmtool.core.settle import Settling
from dmtool.core.state import Definition, State
from dmtool.device import MappedDevice
from dmtool.device.events import Event
from dmtool.errors import CoreError, DeviceError, NoSuchDevice
from dmtool.names import NAME_MAX, UUID_MAX

MINORS = 1 << 20  # the kernel's MINORBITS


class Devices:
    """The registry.

    Threads: any. ``lock`` guards the maps and is never held while anything may block; it comes
    after an entry's ``control``.
    """

    def __init__(self, state: State, changed: Callable[[], None] = lambda: None) -> None:
        """``changed`` is called, from any thread, when a device has been removed."""
        self.state = state
        self.lock = threading.Lock()
        self._changed = changed
        # waits until what programs have closed is closed here too
        self.settle_openers: Callable[[], None] = lambda: None
        self._names: dict[str, Entry] = {}
        self._uuids: dict[str, Entry] = {}
        self._minors: dict[int, Entry] = {}
        self.settling = Settling(state, lambda entry: self.remove(entry, deferred=True))
        self.news = News()

    # -- looking up ---------------------------------------------------------------------------

    def find(self, reference: Reference) -> Entry:
        """The device that is meant. Raises NoSuchDevice."""
        with self.lock:
            value = reference.value
            if reference.kind == "minor":
                entry = self._minors.get(int(value))
            elif reference.kind == "uuid":
                entry = self._uuids.get(str(value))
            else:
                entry = self._names.get(str(value))
            if entry is None or entry.removed or not entry.published:
                raise NoSuchDevice(str(reference))
            return entry

    def by_minor(self, minor: int) -> Entry | None:
        """The same for code that holds ``lock``."""
        entry = self._minors.get(minor)
        return entry if entry and entry.published and not entry.removed else None

    def by_name(self, name: str) -> Entry | None:
        """The same for code that holds ``lock``."""
        entry = self._names.get(name)
        return entry if entry and entry.published and not entry.removed else None

    def entries(self) -> list[Entry]:
        """All devices, in no order, for code that holds ``lock``."""
        return [e for e in self._minors.values() if e.published and not e.removed]

    def all(self) -> list[Entry]:
        """All devices, sorted by the bytes of their mangled names, as the kernel's."""
        with self.lock:
            found = self.entries()
        return sorted(found, key=lambda e: os.fsencode(e.device.name))

    def __len__(self) -> int:
        with self.lock:
            return len(self._minors)

    @contextmanager
    def held(self, reference: Reference) -> Iterator[Entry]:
        """The device with its control lock. Raises NoSuchDevice, also where the device went, or
        got another name, while this waited for the lock."""
        while True:
            entry = self.find(reference)
            with entry.control:
                if self.find(reference) is entry:
                    yield entry
                    return

    # -- coming -------------------------------------------------------------------------------

    def reserve(self, definition: Definition, minor: int | None) -> Entry:
        """Take name, uuid and minor (None: the lowest free) for a device that is being made.

        It is seen by nobody until ``publish``. Raises DeviceError: EINVAL for a name that
        cannot be, EBUSY for what is taken.
        """
        name, uuid = definition.name, definition.uuid
        if not name:
            raise DeviceError("name not supplied when creating device", errno=errno.EINVAL)
        check_name(name)
        if uuid:
            check_uuid(uuid)
        with self.lock:
            if name in self._names:
                raise DeviceError(f"a mapped device {name} exists already", errno=errno.EBUSY)
            if uuid and uuid in self._uuids:
                other = self._uuids[uuid].device.name
                raise DeviceError(f"uuid {uuid} is that of {other}", errno=errno.EBUSY)
            definition = replace(definition, minor=self._free(minor))
            device = MappedDevice(name, uuid, definition.minor)
            return self._enter(Entry(device, definition))

    def _free(self, minor: int | None) -> int:
        if minor is not None:
            if minor >= MINORS:
                raise DeviceError(f"minor {minor} is beyond {MINORS - 1}", errno=errno.EINVAL)
            if minor in self._minors:
                other = self._minors[minor].device.name
                raise DeviceError(f"minor {minor} is that of {other}", errno=errno.EBUSY)
            return minor
        # a stored table that could not be made may wait for a device that was removed: another
        # device must not slip in below it
        awaited: set[int] = set()
        for entry in self._minors.values():
            awaited |= entry.lower()
        minor = 0
        while minor in self._minors or minor in awaited:
            minor += 1
        if minor >= MINORS:
            raise DeviceError("all minors are taken", errno=errno.EBUSY)
        return minor

    def restored(self, definition: Definition) -> Entry:
        """Enter a device from the store; called before anybody else can ask."""
        device = MappedDevice(definition.name, definition.uuid, definition.minor)
        device.event_nr = definition.event_nr
        with self.lock:
            entry = self._enter(Entry(device, definition))
            entry.published = True
        return entry

    def _enter(self, entry: Entry) -> Entry:
        self._minors[entry.minor] = entry
        self._names[entry.device.name] = entry
        if entry.device.uuid:
            self._uuids[entry.device.uuid] = entry
        entry.device.on_event = lambda event: self._evented(entry, event)
        entry.device.on_idle = lambda _: self.settling.idle(entry)
        return entry

    def publish(self, entry: Entry) -> None:
        """Everybody may see the device now."""
        with self.lock:
            entry.published = True
            early, entry.early = entry.early, []
            self.news.tell(entry, "create", 0)
            for event in early:
                self._tell(entry, event)
        if entry.device.event_nr != entry.definition.event_nr:
            self.settling.event(entry)  # a target was quick

    def _evented(self, entry: Entry, event: Event) -> None:
        self.settling.event(entry)
        with self.lock:
            if entry.published:
                self._tell(entry, event)
            else:
                entry.early.append(event)

    def _tell(self, entry: Entry, event: Event) -> None:
        more: dict[str, Any] = {}
        if event.kind == "target":
            more = {"type": event.type, "sector": event.sector, "what": event.what}
        elif event.kind == "rename":
            more = {"old_name": event.what}
        self.news.tell(entry, event.kind, event.event_nr, **more)

    def discard(self, entry: Entry) -> None:
        """A device could not be made: leave nothing of it."""
        try:
            entry.device.destroy()
            with suppress(CoreError):  # then its table goes when a core starts
                self.state.delete(entry.minor)
        finally:
            self.forget(entry)

    def save(self, entry: Entry, **changes: Any) -> None:
        """Write a device's definition with some fields changed; the caller holds ``control``.

        Raises CoreError; then the definition is as it was.
        """
        changed = replace(entry.definition, **{"event_nr": entry.device.event_nr, **changes})
        if not entry.unwritten:
            self.state.save(changed)
        entry.definition = changed

    def write_ahead(self, entry: Entry, *, durable: bool, **changes: Any) -> None:
        """As ``save``, and written now, inside of ``at_once`` too; ``durable``: on stable storage."""
        changed = replace(entry.definition, **{"event_nr": entry.device.event_nr, **changes})
        self.state.save(changed, durable=durable)
        entry.definition = changed

    @contextmanager
    def at_once(self, entry: Entry) -> Iterator[None]:
        """What is saved inside is written together at the end, after an error too, or not at all
        if the device is removed: a crash leaves what was there before, or all of it.

        Raises CoreError; then what has happened is written with the next change.
        """
        entry.unwritten = True
        try:
            yield
        except BaseException:
            with suppress(CoreError):  # the first error is the one to tell
                self._write(entry)
            raise
        self._write(entry)

    def _write(self, entry: Entry) -> None:
        entry.unwritten = False
        if not entry.removed:
            self.save(entry)

    # -- names --------------------------------------------------------------------------------

    def rename(self, reference: Reference, name: str) -> Entry:
        """Raises DeviceError in the order, and with the words, of dm_hash_rename."""
        check_name(name)
        with self._renaming(reference, "name", self._names, name) as entry:
            old = entry.device.name
            if self._set(entry, self._names, name=name):
                entry.device.rename(name)
            else:
                entry.device.name = name
                self.news.tell(entry, "rename", entry.device.event_nr, old_name=old)
            with self.lock:
                del self._names[old]
            return entry

    def set_uuid(self, reference: Reference, uuid: str) -> Entry:
        """Raises DeviceError in the order, and with the words, of dm_hash_rename."""
        check_uuid(uuid)
        with self._renaming(reference, "uuid", self._uuids, uuid) as entry:
            if entry.device.uuid:
                raise DeviceError(
                    f"Unable to change uuid of mapped device {entry.device.name} to {uuid} "
                    f"because uuid is already set to {entry.device.uuid}",
                    errno=errno.EINVAL,
                )
            if self._set(entry, self._uuids, uuid=uuid):
                entry.device.set_uuid(uuid)
            else:
                entry.device.uuid = uuid
                self.news.tell(entry, "uuid", entry.device.event_nr)
            return entry

    @contextmanager
    def _renaming(
        self, reference: Reference, word: str, names: dict[str, Entry], new: str
    ) -> Iterator[Entry]:
        if not new:
            reason = "Invalid new mapped device name or uuid string supplied."
            raise DeviceError(reason, errno=errno.EINVAL)
        with self.lock:
            if new in names:
                raise DeviceError(
                    f"Unable to change {word} on mapped device {reference} to one that "
                    f"already exists: {new}",
                    errno=errno.EBUSY,
                )
        with ExitStack() as stack:
            try:
                entry = stack.enter_context(self.held(reference))
            except NoSuchDevice:
                to = new if word == "name" else f"uuid {new}"
                reason = f"Unable to rename non-existent device, {reference} to {to}"
                raise DeviceError(reason, errno=errno.ENXIO) from None
            yield entry

    def _set(self, entry: Entry, names: dict[str, Entry], **change: str) -> bool:
        """Take a new name or uuid and store it; whether that is an event. The event's number is
        stored in the same step."""
        evented = entry.device.live is not None  # events are the tables' in the kernel
        (new,) = change.values()
        with self.lock:
            if new in names:  # somebody was quicker
                raise DeviceError(f"{new} exists already", errno=errno.EBUSY)
            names[new] = entry
        try:
            self.save(entry, event_nr=entry.device.event_nr + evented, **change)
        except CoreError:
            with self.lock:
                del names[new]
            raise
        return evented

    # -- going --------------------------------------------------------------------------------

    def remove(self, entry: Entry, *, deferred: bool = False) -> bool:
        """Remove a device whose ``control`` the caller holds; False if it was only marked.

        Raises DeviceError EBUSY if it is open and ``deferred`` is not given.
        """
        if entry.device.open_count:
            self.settle_openers()
        with self.lock:
            # tables are opened on top of it under the same lock
            busy = entry.device.retire()
            entry.removed = not busy
        if busy:
            if not deferred:
                raise DeviceError(
                    f"{entry.device.name} is open {busy} time{'s' * (busy > 1)}",
                    errno=errno.EBUSY,
                    hint="see `dmtool ls --tree` for mapped devices on top of it; "
                    "--deferred removes it when it is closed",
                )
            self.save(entry, deferred_remove=True)
            if not entry.device.open_count:
                self.settling.idle(entry)  # it was closed before there was a mark to see
            return False
        try:
            with self.settling.writing:  # an event number of this device must not be written later
                self.state.delete(entry.minor)
        except CoreError:
            entry.removed = False
            entry.device.unretire()
            raise
        try:
            entry.device.destroy()
        finally:
            self.news.tell(entry, "remove", entry.device.event_nr)
            self.forget(entry)
        return True

    def forget(self, entry: Entry) -> None:
        """Take a device out of the maps: it is removed, or could not be made."""
        with self.lock:
            entry.removed = True
            del self._minors[entry.minor]
            del self._names[entry.device.name]
            if entry.device.uuid:
                del self._uuids[entry.device.uuid]
        # who still has the device has nobody to tell; it goes with its last reference
        entry.device.on_event = entry.device.on_idle = None
        self._changed()

    def remove_all(self, *, deferred: bool = False) -> list[Entry]:
        """Remove all that are not open, again and again until nothing more goes; what is left.

        (dm_hash_remove_all.) Removing the upper device is what makes the lower one free.
        """
        self.settle_openers()
        while True:
            gone = 0
            left = []
            for entry in self.all():
                with entry.control:
                    if entry.removed:
                        continue
                    try:
                        removed = self.remove(entry, deferred=deferred)
                    except DeviceError:  # it is open
                        removed = False
                    if removed:
                        gone += 1
                    else:
                        left.append(entry)
            if not gone:
                return left


def check_name(name: str) -> None:
    """Raise DeviceError EINVAL for a name that no device can have (dm-ioctl.c, check_name)."""
    if "/" in name or "\0" in name:
        raise DeviceError("device name cannot contain '/'", errno=errno.EINVAL)
    if len(os.fsencode(name)) > NAME_MAX:
        raise DeviceError(f"a name has at most {NAME_MAX} bytes", errno=errno.EINVAL)


def check_uuid(uuid: str) -> None:
    """Raise DeviceError EINVAL for a uuid that no device can have."""
    if "\0" in uuid:
        raise DeviceError("a uuid cannot contain NUL", errno=errno.EINVAL)
    if len(os.fsencode(uuid)) > UUID_MAX:
        raise DeviceError(f"a uuid has at most {UUID_MAX} bytes", errno=errno.EINVAL)
