# SPDX-License-Identifier: Apache-2.0
"""What is printed when the core refuses: dmsetup's own line first, then where and why.

The kernel says why in its log only; here it follows on stderr, a table's errors each with the
place in the table, the line and a caret.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from typing import Any

from dmtool.cli.session import Device
from dmtool.cli.terminal import BOLD, RED, painted
from dmtool.client import ClientError

# Columns of a table's line that are shown around the caret.
WINDOW = 96
_INDENT = "  "

# How we call a table that is not in a file, and how dmsetup does.
STDIN, TABLE, CONCISE = "<stdin>", "--table", "--concise"
DMSETUP_SOURCES = {STDIN: "on stdin", TABLE: "", CONCISE: ""}


def refusal(word: str | None, device: Device, error: ClientError) -> Iterator[str]:
    """The lines for one refused request. ``word``: the ioctl; None: the one that the core names."""
    data = error.data
    if error.code != -32000 or not error.errno:
        yield f"dmtool: {error}"
        return
    first = next(filter(None, map(_parse_line, error.causes)), None)
    yield first or ioctl_line(
        word or data.get("step") or "", device, error.errno, data.get("devno") or device.devno
    )
    if error.causes:
        for cause in error.causes:
            yield from cause_lines(cause)
    else:
        reason = str(error)
        told = reason == os.strerror(error.errno) or data.get("error") == "NoSuchDevice"
        words = [] if told else [reason]
        why = ": ".join(part for part in [*words, data.get("cause")] if part)
        if why:
            yield why
        if data.get("hint"):
            yield f"hint: {data['hint']}"


def ioctl_line(word: str, device: Device, number: int, devno: str | None) -> str:
    """Libdm's line for a failed ioctl (libdm-iface.c); two blanks where neither uuid nor number."""
    # Once the device exists libdm works on its name and number, no longer on its uuid.
    uuid = "" if devno and device.name else device.uuid
    where = f"({devno})" if devno else ""
    return (
        f"device-mapper: {word} ioctl on {device.name} {uuid}{where} failed: {os.strerror(number)}"
    )


def _parse_line(cause: dict[str, Any]) -> str | None:
    """What dmsetup's own parser says of a line that it refuses; None if it does not."""
    if cause.get("too_long"):
        return f"Target type name {cause['too_long']} is too long."
    if not cause.get("syntax"):
        return None
    source = cause.get("source") or ""
    source = DMSETUP_SOURCES.get(source, source)
    return f"Invalid format on line {cause.get('line')} of table {source}."


def cause_lines(cause: dict[str, Any]) -> Iterator[str]:
    """One error of a table: place and reason, the line, a caret, a hint."""
    place = f"{cause.get('source') or 'table'}:{cause.get('line')}:{cause.get('column')}"
    parts = [painted(place, BOLD), cause.get("type"), cause.get("reason"), cause.get("cause")]
    yield ": ".join(part for part in parts if part)
    text = cause.get("text") or ""
    if text:
        yield from _pointed(text.rstrip("\r\n"), int(cause.get("column") or 1) - 1)
    if cause.get("hint"):
        yield f"hint: {cause['hint']}"


def _pointed(text: str, place: int) -> Iterator[str]:
    """A line and the caret below its character ``place`` (from 0); of a long line a window."""
    first = 0
    if len(text) > WINDOW and place > WINDOW // 2:
        first = min(place - WINDOW // 2, len(text) - WINDOW)
    shown = text[first : first + WINDOW]
    before = "..." if first else ""
    after = "..." if first + WINDOW < len(text) else ""
    yield _INDENT + before + printable(shown) + after
    yield (
        _INDENT
        + " " * len(before)
        + "".join(map(_blank, shown[: place - first]))
        + painted("^", RED)
    )


def printable(text: str) -> str:
    """``text`` without characters that a terminal would obey; tabs stay."""
    return "".join("?" if (ord(c) < 0x20 and c != "\t") or c == "\x7f" else c for c in text)


def _blank(character: str) -> str:
    """White space as wide as ``character``."""
    if character == "\t":
        return "\t"
    if character.isascii():
        return " "
    if unicodedata.combining(character):
        return ""
    return "  " if unicodedata.east_asian_width(character) in "WF" else " "
