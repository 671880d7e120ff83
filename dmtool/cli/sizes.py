# SPDX-License-Identifier: Apache-2.0
"""Sizes with units, as libdm reads and prints them: ``--units``, ``--start 1g``, ``2.00m``."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from dmtool.cli.session import Failed
from dmtool.sectors import SECTOR, U64

_STRTOULL = re.compile(r"[ \t\n\v\f\r]*\+?([0-9]{1,40})", re.ASCII)
# Powers of 1024 in small letters and of 1000 in capitals, largest first.
_PREFIXES = "eptgmk"
_FACTORS = {
    **{letter: 1024 ** (6 - place) for place, letter in enumerate(_PREFIXES)},
    **{letter.upper(): 1000 ** (6 - place) for place, letter in enumerate(_PREFIXES)},
    **dict.fromkeys("hHrRbB", 1),
    **dict.fromkeys("sS", SECTOR),
}


class Units(NamedTuple):
    """A unit. ``letter``: one of dmsetup's, ``U`` for so many bytes; ``factor`` in bytes. Sizes are
    printed with a letter only where each has the unit that suits it: in ``h`` and its like."""

    letter: str
    factor: int

    @classmethod
    def of(cls, text: str) -> Units | None:
        """From ``--units``: a letter, with a number before it or without; None if it is none."""
        found = re.match(r"([0-9]*)(\.[0-9]*)?", text, re.ASCII)
        assert found is not None
        letter = text[found.end() : found.end() + 1]
        if not letter or letter not in _FACTORS:
            return None
        if letter in "hHrR":
            return cls(letter, 1)
        whole = int(found[1] or (0 if found[2] else 1))
        exact = float(found[0]) if found[2] not in (None, ".") else whole
        return cls(letter if whole == 1 else "U", int(exact * _FACTORS[letter]))

    def show(self, sectors: int) -> str:
        """A number of sectors in this unit."""
        if not sectors:
            return "0"
        size = sectors * SECTOR
        if self.letter in "hHrR":
            return self._human(size)
        places = 0 if self.letter in "bBsS" else 2
        return f"{size / self.factor:.{places}f}"

    def _human(self, size: int) -> str:
        """In the largest unit of which there is one."""
        capital = self.letter.isupper()
        unit = 1000 if capital else 1024
        power = 6
        while power and size < unit**power:
            power -= 1
        letter = "b" if not power else _PREFIXES[6 - power]
        letter = letter.upper() if capital else letter
        value = size / unit**power
        less = ""
        if self.letter in "rR" and power and math.floor(100 * value) != round(100 * value):
            less = "<"  # more digits would show less
        return f"{less}{value:.{2 if power else 0}f}{letter}"


def sectors_of(text: str, name: str) -> int:
    """What ``--start``, ``--length`` and ``--areasize`` mean, in sectors: a number of them, or of a
    unit; a letter that is none means bytes. Raises Failed."""
    found = _STRTOULL.match(text)
    if found is None or int(found[1]) > U64:
        raise Failed(f'Invalid {name} argument: "{text}"')
    number, rest = int(found[1]), text[found.end() :]
    if not rest:
        return number
    units = Units.of(rest)
    return number * (units.factor if units else 1) // SECTOR
