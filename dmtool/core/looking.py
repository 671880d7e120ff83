# SPDX-License-Identifier: Apache-2.0
"""Looking at a device's table while it is in use, and perhaps exchanged."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from dmtool.backing import Backing
from dmtool.core.entry import Entry
from dmtool.errors import DeviceError, DmtoolError
from dmtool.table import Table
from dmtool.table.outline import Outline, outline

# Of an outline.
PARTS_MAX = 1 << 16

T = TypeVar("T")


def looked(entry: Entry, at: Callable[[Table], T], *, inactive: bool) -> T | None:
    """What ``at`` makes of the live or inactive table; None where there is none."""
    device = entry.device
    while True:
        table = device.inactive if inactive else device.live
        if table is None:
            return None
        try:
            return at(table)
        except (DmtoolError, OSError):
            # no lock is held, for a suspend may hold it for long: a table that was destroyed
            # while its targets were asked is not the one that was asked for
            if table is (device.inactive if inactive else device.live):
                raise


def outlined(
    entry: Entry,
    parts: int,
    runs: int,
    dependency: Callable[[Backing], dict[str, Any]],
    *,
    inactive: bool,
) -> dict[str, Any]:
    """The answer of the method ``outline``, but for *info*. ``dependency`` tells of a device
    below. Raises DeviceError EINVAL for no parts, or too many."""
    if not 0 < parts <= PARTS_MAX:
        reason = f"parts are at least 1 and at most {PARTS_MAX}"
        raise DeviceError(reason, errno=errno.EINVAL)
    found = looked(entry, lambda table: outline(table, parts, runs), inactive=inactive)
    found = found or Outline(0, 0, [], 0, [], [])
    kinds = [
        {
            "type": kind.type,
            "ends": kind.ends,
            "devices": [dependency(device) for device in kind.devices],
            "targets": kind.targets,
            "runs": kind.runs,
            "sectors": kind.sectors,
        }
        for kind in found.kinds
    ]
    return {
        "size": found.sectors,
        "target_count": found.targets,
        "run_count": found.runs,
        "kinds": kinds,
        "runs": [stretch._asdict() for stretch in found.stretches],
        "parts": [list(share.items()) for share in found.parts],
    }


def areas(
    entry: Entry, dependency: Callable[[Backing], dict[str, Any]], *, inactive: bool
) -> dict[str, Any]:
    """The answer of the method ``areas``, but for *info*: what each target says that it uses
    (iterate_devices). ``dependency`` tells of a device below."""
    devices, found = looked(entry, _areas, inactive=inactive) or ([], [])
    return {"devices": [dependency(device) for device in devices], "areas": found}


def _areas(table: Table) -> tuple[list[Backing], list[dict[str, int]]]:
    devices = list(table.backings)
    numbers = {id(device): number for number, device in enumerate(devices)}
    found: list[dict[str, int]] = []
    for number, target in enumerate(table.targets):
        begin = target.begin

        def area(device: Backing, start: int, length: int, begin: int = begin) -> None:
            place = {"target": begin, "device": numbers[id(device)]}
            found.append({**place, "start": start, "length": length})

        table.uses(number, area)
    return devices, found
