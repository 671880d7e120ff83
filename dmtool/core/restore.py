# SPDX-License-Identifier: Apache-2.0
"""The devices of the state store are made again when a core starts.

The lower device of a stack is made first. Where a table cannot be made (its image is gone, or
the device below it) the device is there without it, says why, and keeps its definition: the
next start, or a ``resume``, tries again.
"""

from __future__ import annotations

import logging

from dmtool.core.devices import Devices
from dmtool.core.entry import Entry
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
    # not before: a target may read the device that it lies on as it is made
    for entry in entries.values():
        if entry.definition.suspended:
            entry.device.suspend(noflush=True)
    with devices.settling.command():
        for entry in entries.values():
            # who had it open did not outlive the last core
            devices.settling.idle(entry)


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
        if entry.definition.suspended:
            device.reinstate()
        else:
            device.resume()
    except Exception as error:  # noqa: BLE001  # one must not keep all others away
        device.clear()
        return _reason(entry, error)
    return None


def _prepare(tables: Tables, entry: Entry, stored: StoredTable) -> None:
    try:
        tables.put(entry, stored)
    except Exception as error:  # noqa: BLE001  # as above
        _reason(entry, error)


def _reason(entry: Entry, error: Exception) -> str:
    """Log why a table cannot be made; the words for it."""
    if not isinstance(error, DmtoolError | OSError):
        log.error("%s", entry.device.name, exc_info=error)
        return f"a bug in dmtool, see the log: {type(error).__name__}: {error}"
    reason = describe(error)
    log.warning("%s: %s", entry.device.name, reason)
    return reason


def describe(error: DmtoolError | OSError) -> str:
    """An error in one line; of a table the first."""
    if isinstance(error, TableErrors):
        first = error.errors[0]
        return ": ".join(part for part in (first.type, str(first), first.cause) if part)
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
