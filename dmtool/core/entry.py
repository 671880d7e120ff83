# SPDX-License-Identifier: Apache-2.0
"""A mapped device as the core knows it, and how a client names one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

from dmtool.core.state import Definition
from dmtool.device import MAJOR, MappedDevice


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
    ``unwritten``: changes of the definition are collected (Devices.at_once).

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
