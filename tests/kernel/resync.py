# SPDX-License-Identifier: Apache-2.0
"""Recordings made while a mirror was being copied: how far it was is chance, all else is not."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from tests.kernel.disks import SECTOR

# in a status: how many of how many regions are in sync, while no leg has failed
_PROGRESS = re.compile(r"(?<= )(\d+)/(\d+)(?= 1 A+ )")
_LOG_BITS = 2  # the sector of a disk log at which the bits begin


def progress(status: str) -> tuple[int, int] | None:
    """``(regions in sync, regions)`` of a mirror that is being copied; else None."""
    found = _PROGRESS.search(status)
    if found is None or found[1] == found[2]:
        return None
    return int(found[1]), int(found[2])


def without_progress(known: str, here: str) -> tuple[str, str]:
    """A recorded status, and ours, less what is chance: where a mirror here is being copied, or
    was when it was recorded, how far it is."""
    known_lines, here_lines = known.splitlines(keepends=True), here.splitlines(keepends=True)
    if len(known_lines) == len(here_lines):
        for at, pair in enumerate(zip(known_lines, here_lines, strict=True)):
            if any(progress(line) for line in pair):
                known_lines[at], here_lines[at] = (_PROGRESS.sub(r"?/\2", line) for line in pair)
    return "".join(known_lines), "".join(here_lines)


def without_events(info: str) -> str:
    """A line of `info -c` less how many events there were: being done is one."""
    return re.sub(r":\d+(?=:[^:]*$)", ":?", info)


def changed_at(
    known: dict[str, Any], region: int, here: dict[str, dict[int, bytes]]
) -> dict[str, Any]:
    """What was ``changed`` by a copy from the first region (of ``region`` sectors) on, with a log
    on another disk, had it got as far as the one here, of which that much is taken.

    Raises AssertionError where the recorded log does not have set the bits of just those regions
    that were copied when it was recorded.
    """
    ((log, bits),) = (
        (name, runs) for name, runs in known.items() if runs[0][2].startswith("other")
    )
    ((leg, ((first, count, source, start),)),) = ((n, r) for n, r in known.items() if n != log)
    assert first == start == count % region == 0
    copied = len(here.get(leg, {})) // region
    changed: dict[str, Any] = {leg: [[0, copied * region, source, 0]], log: []}
    for sector, one, recorded, _ in bits:
        assert one == 1
        kind = recorded
        if sector >= _LOG_BITS:
            assert recorded == _kind(_clean(count // region, sector))
            kind = _kind(_clean(copied, sector))
        changed[log].append([sector, 1, kind, None])
    return changed


def _clean(regions: int, sector: int) -> bytes:
    """A sector of a log that says that the first ``regions`` are clean."""
    begin = (sector - _LOG_BITS) * SECTOR
    return ((1 << regions) - 1).to_bytes(begin + SECTOR + regions, "little")[begin:][:SECTOR]


def _kind(content: bytes) -> str:
    """How a recording has it."""
    if not any(content):
        return "zero"
    return f"other:{hashlib.sha256(content).hexdigest()[:16]}:{content[:16].hex()}"
