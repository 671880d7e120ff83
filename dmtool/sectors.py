# SPDX-License-Identifier: Apache-2.0
"""Sectors and bytes: the one place where the two are converted.

A sector is 512 bytes, whatever a device's block size (Linux ``SECTOR_SHIFT``). Sector numbers
and counts are unsigned 64-bit: everything a user writes is checked against 2^64, and so is
every sum and product. Byte counts are plain Python ints and may pass 2^64.
"""

from __future__ import annotations

SECTOR_SHIFT = 9
SECTOR = 1 << SECTOR_SHIFT
U64 = (1 << 64) - 1
# The kernel keeps byte offsets in a signed 64-bit loff_t, as NBD does (dm-table.c refuses
# "too large device" beyond LLONG_MAX >> SECTOR_SHIFT).
LARGEST_DEVICE = ((1 << 63) - 1) >> SECTOR_SHIFT


class SectorOverflow(ArithmeticError):
    """A sector number, or a sum or product of sectors, that does not fit 64 bits unsigned."""


def to_bytes(sectors: int) -> int:
    """Sectors to bytes."""
    return sectors << SECTOR_SHIFT


def to_sectors(length: int) -> int:
    """Bytes to whole sectors, rounded down: a device's tail of under 512 bytes is not part of it."""
    return length >> SECTOR_SHIFT


def u64(value: int) -> int:
    """``value`` itself if it is an unsigned 64-bit number, else SectorOverflow."""
    if not 0 <= value <= U64:
        raise SectorOverflow(value)
    return value


def parse(word: str) -> int:
    """An unsigned decimal number as C's ``%llu`` reads it, refusing what does not fit.

    Accepts a leading ``+`` (``sscanf`` does) and leading zeros (never octal). Raises ValueError
    for anything that is not wholly a number, SectorOverflow for numbers that are negative or
    beyond 2^64-1 (``%llu`` wraps the first and saturates or wraps the second).
    """
    digits = word[1:] if word[:1] in ("+", "-") else word
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(word)
    # int() of a very long digit string is quadratic and, beyond 4300 digits, refused by Python
    digits = digits.lstrip("0")
    if len(digits) > 20:
        raise SectorOverflow(word)
    value = int(digits or "0")
    return u64(-value if word[0] == "-" else value)
