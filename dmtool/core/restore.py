# SPDX-License-Identifier: Apache-2.0
"""The devices of the state store are made again when a core starts.

The lower device of a stack is made first. Where a table cannot be made (its image is gone, or
the device below it) the device is there without it, says why, and keeps its definition: the
next start, or a ``resume``, tries again.
"""

from __future__ import annotations

import logging

from dmtool.core.devices import Devices, Entry
from dmtool.core.state import StoredTable
from dmtool.core.tables import Tables
from dmtool.errors import DmtoolError, TableErrors

log = logging.getLogger(__name__)


def restore(devices: Devices, tables: Tables) -> None:
    """Make all stored devices; called before anybody can ask for one. Raises CoreError if the
    store cannot be read, and nothing for what is wrong with a device."""
    entries = {d.minor: devices.restored(d) for d in devices.state.devices()}
    for entry in _lower_first(entries):
        if entry.definition.live is not None:
            entry.error = _make(tables, entry, entry.definition.live)
    # an inactive table opens live devices only, so their order is free
    for entry in entries.values():
        if entry.definition.inactive is not None:
            _prepare(tables, entry, entry.definition.inactive)
        if entry.definition.suspended:
            entry.device.suspend(noflush=True)
    for entry in entries.values():
        if entry.definition.deferred_remove:
            # who had it open did not outlive the last core
            devices.settling.idle(entry)
    devices.settling.settle()


def _lower_first(entries: dict[int, Entry]) -> list[Entry]:
    """Every device after those that its live table lies on; a loop, which no load lets come
    about, is cut somewhere, and what lies on it cannot be made."""
    order: dict[int, Entry] = {}
    entered: set[int] = set()
    for start in entries.values():
        todo = [start]
        while todo:
            entry = todo[-1]
            live = entry.definition.live
            lower = [] if entry.minor in entered else sorted(live.lower if live else ())
            entered.add(entry.minor)
            missing = [entries[m] for m in lower if m in entries and m not in entered]
            if missing:
                todo += missing
            else:
                todo.pop()
                order.setdefault(entry.minor, entry)
    return list(order.values())


def _make(tables: Tables, entry: Entry, stored: StoredTable) -> str | None:
    """Make the live table; why that cannot be, or None."""
    device = entry.device
    try:
        tables.put(entry, stored)
        device.resume()
    except (DmtoolError, OSError) as error:
        device.clear()
        reason = describe(error)
        log.warning("%s: %s", device.name, reason)
        return reason
    return None


def _prepare(tables: Tables, entry: Entry, stored: StoredTable) -> None:
    try:
        tables.put(entry, stored)
    except (DmtoolError, OSError) as error:
        log.warning("%s, inactive table: %s", entry.device.name, describe(error))


def describe(error: DmtoolError | OSError) -> str:
    """An error in one line; of a table the first."""
    if isinstance(error, TableErrors):
        first = error.errors[0]
        return ": ".join(part for part in (first.type, str(first), first.cause) if part)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
