# SPDX-License-Identifier: Apache-2.0
"""The concise form of devices, as in ``create --concise``: ``name,uuid,minor,flags,table[,table]``.

Entries are parted by ``;``; a backslash takes the meaning from the character behind it; white space
after a field's comma and after a semicolon does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dmtool.cli.clib import atoi

_FIELDS = 5
_SPACE = " \t\n\v\f\r"


class ConciseError(Exception):
    """An entry that cannot be read; the arguments are dmsetup's lines."""


class Entry(NamedTuple):
    """One device. ``minor`` None: any; ``table`` has a line a target."""

    name: str
    uuid: str
    minor: int | None
    readonly: bool
    table: str


def entries(text: str) -> Iterator[Entry]:
    """The entries one by one, so that those before an error are made. Raises ConciseError."""
    fields = [""]
    place, end = 0, len(text)
    while place < end:
        character = text[place]
        place += 1
        if character == "\\":
            if place == end:
                raise ConciseError(
                    "Backslash must be followed by another character at end of string.",
                    _parsed(fields),
                )
            fields[-1] += text[place]
            place += 1
            continue
        if character == "," and len(fields) < _FIELDS:
            fields.append("")
            place = _skip(text, place)
            continue
        if character == ",":
            fields[-1] += "\n"
            continue
        if character != ";":
            fields[-1] += character
            if place < end:
                continue
        if len(fields) != _FIELDS:
            raise ConciseError(
                "Five comma-separated fields are required for each device", _parsed(fields)
            )
        yield _entry(fields)
        fields = [""]
        place = _skip(text, place)
    if fields != [""]:
        raise ConciseError(
            "Incomplete entry: five comma-separated fields are required for each device",
            _parsed(fields),
        )


def _entry(fields: list[str]) -> Entry:
    name, uuid, minor, flags, table = fields
    if flags not in {"", "ro", "rw"}:
        raise ConciseError(f"Invalid flags parameter '{flags}' must be 'ro' or 'rw' or empty.")
    return Entry(name, uuid, atoi(minor) if minor else None, flags == "ro", table)


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _parsed(fields: list[str]) -> str:
    """Dmsetup's second line; its C library prints fields that are not there as ``(null)``."""
    shown = fields + ["(null)"] * (_FIELDS - len(fields))
    names = ("name", "uuid", "minor", "flags", "table")
    pairs = " ".join(f"{name}: {value}" for name, value in zip(names, shown, strict=True))
    return f"Parsed {len(fields)} fields: {pairs}"
