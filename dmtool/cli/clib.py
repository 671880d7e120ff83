# SPDX-License-Identifier: Apache-2.0
"""Numbers as C's library reads them, for options whose oddities scripts may rest on."""

from __future__ import annotations

import errno
import os
import re

_INT_MAX = (1 << 31) - 1
_LONG_MAX = (1 << 63) - 1
_DECIMAL = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_OCTAL = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-7]+)")


def atoi(text: str) -> int:
    """atoi(3): leading digits after white space and a sign, 0 if there are none.

    What does not fit an int is cut to its 32 low bits, as glibc's strtol cast to int does.
    """
    found = _DECIMAL.match(text)
    if not found:
        return 0
    value = max(-_LONG_MAX - 1, min(int(found[1]), _LONG_MAX)) & 0xFFFFFFFF
    return value - (1 << 32) if value > _INT_MAX else value


def strtol_octal(text: str) -> int:
    """strtol(text, &end, 8) where nothing may follow: 0 if something does.

    Raises OverflowError with the system's words for ERANGE.
    """
    found = _OCTAL.fullmatch(text)
    if not found:
        return 0
    value = int(found[1], 8)
    if not -_LONG_MAX - 1 <= value <= _LONG_MAX:
        raise OverflowError(os.strerror(errno.ERANGE))
    return value


def strtoull(text: str, base: int = 10) -> int | None:
    """An unsigned 64-bit number that is the whole of ``text``; None if it is none.

    Unlike strtoull(3) a negative number is refused, not wrapped.
    """
    digits = text.lstrip(" \t\n\v\f\r").removeprefix("+")
    if base == 0:
        base, digits = _base(digits)
    allowed = "0123456789abcdef"[:base]
    if not digits or any(c not in allowed for c in digits.lower()):
        return None
    value = int(digits, base)
    return value if value < 1 << 64 else None


def cookie_value(text: str) -> int:
    """A udev cookie: a 32-bit number in C's notations; 0 if it is none."""
    value = strtoull(text, 0)
    return value if value is not None and value < 1 << 32 else 0


def _base(digits: str) -> tuple[int, str]:
    """Base 0: hexadecimal after 0x, octal after 0, else decimal."""
    if digits[:2].lower() == "0x" and len(digits) > 2:
        return 16, digits[2:]
    return (8, digits) if digits.startswith("0") else (10, digits)
