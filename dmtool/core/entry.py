# SPDX-License-Identifier: Apache-2.0
"""A mapped device as the core knows it, and how a client names one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Literal

from dmtool.core.state import Definition
from dmtool.device import MAJOR, MappedDevice
from dmtool.device.events import Event


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
    now being built has opened; ``error`` is why the live table of the definition is not there;
    ``unwritten``: changes of the definition are collected (Devices.at_once); ``early``: events
    from before it was ``published``.

    Threads: ``definition`` and ``error`` are put in place under ``control``, ``removed``,
    ``published`` and ``loading`` under the registry's lock; anybody may read them.
    """

    device: MappedDevice
    definition: Definition
    control: threading.RLock = field(default_factory=threading.RLock)
    messages: threading.Lock = field(default_factory=threading.Lock)
    error: str | None = None
    loading: set[int] = field(default_factory=set)
    unwritten: bool = False
    early: list[Event] = field(default_factory=list)
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


def info(entry: Entry) -> dict[str, Any]:
    """*info* of docs/control-protocol.md."""
    device, definition = entry.device, entry.definition
    live, inactive = device.live, device.inactive
    return {
        "name": device.name,
        "uuid": device.uuid,
        "major": MAJOR,
        "minor": device.minor,
        "suspended": device.suspended,
        "readonly": live.readonly if live else False,
        "live": live is not None,
        "inactive": inactive is not None,
        "open_count": device.open_count,
        "event_nr": device.event_nr,
        "target_count": len(live.targets) if live else 0,
        "size": live.sectors if live else 0,
        "inactive_target_count": len(inactive.targets) if inactive else 0,
        "inactive_readonly": inactive.readonly if inactive else False,
        "read_ahead": definition.read_ahead,
        "deferred_remove": definition.deferred_remove,
        "mode": definition.mode,
        "uid": definition.uid,
        "gid": definition.gid,
        "error": entry.error,
    }
