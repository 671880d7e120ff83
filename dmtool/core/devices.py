# SPDX-License-Identifier: Apache-2.0
"""The mapped devices of the core by name, uuid and minor: the kernel's hash tables of
dm-ioctl.c, with what is stored of each device."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from dmtool.core.settle import Settling
from dmtool.core.state import Definition, State
from dmtool.device import MAJOR, MappedDevice
from dmtool.errors import CoreError, DeviceError, NoSuchDevice
from dmtool.names import NAME_MAX, UUID_MAX

MINORS = 1 << 20  # the kernel's MINORBITS


@dataclass(frozen=True, slots=True)
class Reference:
    """How a client names a device: by name, uuid (both mangled) or minor."""

    kind: Literal["name", "uuid", "minor"]
    value: str | int

    def __str__(self) -> str:
        return f"{MAJOR}:{self.value}" if self.kind == "minor" else str(self.value)


@dataclass(eq=False)
class Entry:
    """One mapped device of the core.

    ``control`` is held by whoever changes the device, for as long as that takes: a suspend
    that waits for I/O holds it. Looking needs no lock. ``loading`` are the minors that a table
    now being built has opened; ``error`` is why the live table of the definition is not there.

    Threads: ``definition`` and ``error`` are put in place under ``control``, ``removed``,
    ``published`` and ``loading`` under the registry's lock; anybody may read them.
    """

    device: MappedDevice
    definition: Definition
    control: threading.RLock = field(default_factory=threading.RLock)
    messages: threading.Lock = field(default_factory=threading.Lock)
    error: str | None = None
    loading: set[int] = field(default_factory=set)
    published: bool = False
    removed: bool = False

    @property
    def minor(self) -> int:
        return self.definition.minor

    @property
    def devno(self) -> str:
        return f"{MAJOR}:{self.minor}"

    def lower(self) -> set[int]:
        """Minors of the devices that any of its tables lies on, stored ones included."""
        tables = (self.definition.live, self.definition.inactive)
        return self.loading.union(*(table.lower for table in tables if table))


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
        self._names: dict[str, Entry] = {}
        self._uuids: dict[str, Entry] = {}
        self._minors: dict[int, Entry] = {}
        self.settling = Settling(state, lambda entry: self.remove(entry, deferred=True))

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
        """The device with its control lock. Raises NoSuchDevice, also where the device went
        while this waited for the lock."""
        entry = self.find(reference)
        with entry.control:
            if entry.removed:
                raise NoSuchDevice(str(reference))
            yield entry

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
        entry.device.on_event = lambda _: self.settling.event(entry)
        entry.device.on_idle = lambda _: self.settling.idle(entry)
        return entry

    def publish(self, entry: Entry) -> None:
        """Everybody may see the device now."""
        with self.lock:
            entry.published = True
        if entry.device.event_nr != entry.definition.event_nr:
            self.settling.event(entry)  # a target was quick

    def save(self, entry: Entry, **changes: Any) -> None:
        """Write a device's definition with some fields changed; the caller holds ``control``.

        Raises CoreError; then the definition is as it was.
        """
        changed = replace(entry.definition, event_nr=entry.device.event_nr, **changes)
        self.state.save(changed)
        entry.definition = changed

    # -- names --------------------------------------------------------------------------------

    def rename(self, reference: Reference, name: str) -> Entry:
        """Raises DeviceError in the order, and with the words, of dm_hash_rename."""
        if not name:
            raise DeviceError(
                "Invalid new mapped device name or uuid string supplied.", errno=errno.EINVAL
            )
        check_name(name)
        with self.lock:
            if name in self._names:
                raise DeviceError(
                    f"Unable to change name on mapped device {reference} to one that "
                    f"already exists: {name}",
                    errno=errno.EBUSY,
                )
        try:
            entry = self.find(reference)
        except NoSuchDevice:
            reason = f"Unable to rename non-existent device, {reference} to {name}"
            raise DeviceError(reason, errno=errno.ENXIO) from None
        with entry.control:
            old = entry.device.name
            self._take(self._names, name, entry)
            try:
                self.save(entry, name=name)
            except CoreError:
                self._give(self._names, name)
                raise
            if entry.device.live is None:
                entry.device.name = name  # events are the tables' in the kernel
            else:
                entry.device.rename(name)
            self._give(self._names, old)
        return entry

    def set_uuid(self, reference: Reference, uuid: str) -> Entry:
        """Raises DeviceError in the order, and with the words, of dm_hash_rename."""
        if not uuid:
            raise DeviceError(
                "Invalid new mapped device name or uuid string supplied.", errno=errno.EINVAL
            )
        check_uuid(uuid)
        with self.lock:
            if uuid in self._uuids:
                raise DeviceError(
                    f"Unable to change uuid on mapped device {reference} to one that "
                    f"already exists: {uuid}",
                    errno=errno.EBUSY,
                )
        try:
            entry = self.find(reference)
        except NoSuchDevice:
            reason = f"Unable to rename non-existent device, {reference} to uuid {uuid}"
            raise DeviceError(reason, errno=errno.ENXIO) from None
        with entry.control:
            if entry.device.uuid:
                raise DeviceError(
                    f"Unable to change uuid of mapped device {entry.device.name} to {uuid} "
                    f"because uuid is already set to {entry.device.uuid}",
                    errno=errno.EINVAL,
                )
            self._take(self._uuids, uuid, entry)
            try:
                self.save(entry, uuid=uuid)
            except CoreError:
                self._give(self._uuids, uuid)
                raise
            if entry.device.live is None:
                entry.device.uuid = uuid
            else:
                entry.device.set_uuid(uuid)
        return entry

    def _take(self, names: dict[str, Entry], new: str, entry: Entry) -> None:
        with self.lock:
            if entry.removed:
                raise NoSuchDevice(entry.device.name)
            if new in names:  # somebody was quicker
                raise DeviceError(f"{new} exists already", errno=errno.EBUSY)
            names[new] = entry

    def _give(self, names: dict[str, Entry], name: str) -> None:
        with self.lock:
            del names[name]

    # -- going --------------------------------------------------------------------------------

    def remove(self, entry: Entry, *, deferred: bool = False) -> bool:
        """Remove a device whose ``control`` the caller holds; False if it was only marked.

        Raises DeviceError EBUSY if it is open and ``deferred`` is not given.
        """
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
            return False
        try:
            with self.settling.writing:  # an event number of this device must not be written later
                self.state.delete(entry.minor)
        except CoreError:
            entry.removed = False
            entry.device.unretire()
            raise
        entry.device.destroy()
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
        self._changed()

    def remove_all(self, *, deferred: bool = False) -> list[Entry]:
        """Remove all that are not open, again and again until nothing more goes; what is left.

        (dm_hash_remove_all.) Removing the upper device is what makes the lower one free.
        """
        while True:
            gone = 0
            left = []
            for entry in self.all():
                with entry.control:
                    if entry.removed:
                        continue
                    if entry.device.open_count and not deferred:
                        left.append(entry)
                    elif self.remove(entry, deferred=deferred):
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
