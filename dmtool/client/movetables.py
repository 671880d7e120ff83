# SPDX-License-Identifier: Apache-2.0
"""The tables of a move: those of the device that is moved, with one device in place of another,
and those of the device that is put under it meanwhile (docs/adr/0008-move.md).

All numbers are sectors. Devices are words as the core prints them in a table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dmtool.errors import DmtoolError
from dmtool.sectors import SECTOR

REGION = 1024  # what LVM takes
_WORD = re.compile(r"(?:\\.|[^\s\\])+", re.ASCII | re.DOTALL)

Line = dict[str, Any]  # "start", "length", "type", "params", as the core answers them
Run = tuple[int, int]  # first sector, and the one after the last


class MoveError(DmtoolError):
    """{reason}

    A move that cannot be made, or not now; nothing is lost.
    """

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason=reason, hint=hint)


def words(params: str) -> list[str]:
    """The words of a target's parameters as they stand there, backslashes and all."""
    return _WORD.findall(params)


def names(lines: Iterable[Line], device: str) -> bool:
    """Whether a table names the device."""
    return any(device in words(line["params"]) for line in lines)


def replaced(lines: Iterable[Line], old: str, new: str) -> str:
    """The text of a table with another device in place of one, at the same offsets."""
    return "".join(
        _line(
            line["start"],
            line["length"],
            line["type"],
            *(new if word == old else word for word in words(line["params"])),
        )
        for line in lines
    )


def same(lines: Iterable[Line], text: str) -> bool:
    """Whether a table is what a text says, up to white space."""
    return replaced(lines, "", "") == text


def _line(start: int, length: int, type: str, *params: str) -> str:
    return " ".join([str(start), str(length), type, *params]) + "\n"


# -- the device that is put under it ----------------------------------------------------------


def runs(
    lines: Sequence[Line], areas: Sequence[dict[str, int]], number: int, device: str
) -> list[Run]:
    """The sectors of a device (``number`` in ``areas``, as the method of that name answers) that a
    table uses, in order. Raises MoveError for a target of which that is not known."""
    times = Counter(area["target"] for area in areas if area["device"] == number)
    for line in lines:
        if words(line["params"]).count(device) != times[line["start"]]:
            raise MoveError(
                f"the {line['type']} target at sector {line['start']} does not say what it uses "
                f"of {device}",
                "only what targets say they use can be moved (iterate_devices)",
            )
    return used(areas, number)


def used(areas: Iterable[dict[str, int]], number: int) -> list[Run]:
    """All areas of one device."""
    return merged(
        (area["start"], area["start"] + area["length"])
        for area in areas
        if area["device"] == number
    )


def merged(found: Iterable[Run]) -> list[Run]:
    """Runs in order; what overlaps or touches is one."""
    out: list[Run] = []
    for low, high in sorted(found):
        if out and low <= out[-1][1]:
            out[-1] = out[-1][0], max(out[-1][1], high)
        else:
            out.append((low, high))
    return out


def overlap(one: Sequence[Run], other: Sequence[Run]) -> bool:
    """Whether two lists of runs have a sector in common."""
    total = sum(high - low for low, high in [*merged(one), *merged(other)])
    return sum(high - low for low, high in merged([*one, *other])) < total


def plain(found: Sequence[Run], device: str) -> str:
    """A table that has each sector of the runs where ``device`` has it, and errors elsewhere."""
    return _laid_out(found, lambda low, _: ("linear", device, str(low)))


def mirrored(found: Sequence[Run], source: str, target: str) -> str:
    """The same, copied from one device to the other. Raises MoveError for a run too short.

    With ``keep_log`` a write that fails on the new device is done where the old one has it; with
    ``handle_errors`` what could not be copied does not count as copied.
    """
    for low, high in found:
        if high - low < 2:
            raise MoveError(f"a single sector, {low} of {source}, cannot be moved by itself")
    return _laid_out(
        found,
        lambda low, high: (
            *("mirror", "core", "1", str(_region(high - low)), "2"),
            *(source, str(low), target, str(low), "2", "handle_errors", "keep_log"),
        ),
    )


def _region(length: int) -> int:
    """A power of two, and not more than there is."""
    return int(min(REGION, 1 << (length.bit_length() - 1)))


def _laid_out(found: Sequence[Run], target: Callable[[int, int], tuple[str, ...]]) -> str:
    at = 0
    text = []
    for low, high in found:
        if low > at:
            text.append(_line(at, low - at, "error"))
        text.append(_line(low, high - low, *target(low, high)))
        at = high
    return "".join(text)


@dataclass(frozen=True)
class Underlay:
    """What the table of the device below says: its sectors lie on ``source``, and are being
    copied to ``target``, or (None) are not."""

    source: str
    target: str | None
    runs: tuple[Run, ...]

    @classmethod
    def of(cls, lines: Sequence[Line]) -> Underlay | None:
        """None for a table that is not one of ours."""
        places: set[tuple[str, str | None]] = set()
        found: list[Run] = []
        for line in lines:
            start, args = line["start"], words(line["params"])
            if line["type"] == "error":
                continue
            if line["type"] == "linear":
                places.add((args[0], None))
            elif line["type"] == "mirror" and args[0] == "core" and len(args) > 6:
                places.add((args[4], args[6]))
            else:
                return None
            found.append((start, start + line["length"]))
        if len(places) != 1:
            return None
        ((source, target),) = places
        return cls(source, target, tuple(found))


@dataclass(frozen=True)
class Copied:
    """How far the mirrors of an underlay are: bytes. ``failed``: the letters of legs, source and
    target, of which one is not well; "" otherwise."""

    done: int
    total: int
    failed: str = ""

    @property
    def complete(self) -> bool:
        return self.done == self.total and not self.failed

    def error(self, source: str, target: str) -> MoveError:
        """What to say of a leg that failed."""
        leg = target if self.failed.startswith("A") else source
        return MoveError(
            f"{leg} failed ({self.failed}); the device goes on with {source}",
            "see the core's log; the same command tries again, --abort puts back what was",
        )

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Copied:
        """From what `status` says."""
        done = total = 0
        failed = ""
        for line in lines:
            if line["type"] != "mirror":
                continue
            _, _, _, regions, _, letters, *_ = words(line["params"])
            in_sync, count = map(int, regions.split("/"))
            length = line["length"] * SECTOR
            total += length
            # the last region may be a short one
            done += (
                length
                if in_sync == count
                else min(in_sync * _region(line["length"]) * SECTOR, length)
            )
            if letters != "AA":
                failed = failed or letters
        return cls(done, total, failed)
