# SPDX-License-Identifier: Apache-2.0
"""Latency histograms: ``--bounds``, and how libdm shows bins and their boundaries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from dmtool.cli.session import Failed

MS = 1_000_000  # nanoseconds

# From the largest to the smallest, in nanoseconds.
_UNITS = {"s": 1_000_000_000, "ms": MS, "us": 1000, "ns": 1}
_VALID = frozenset("0123456789,muns")
_DIGITS = re.compile(r"[0-9]*", re.ASCII)
# Characters that a boundary, a count and a percentage take in a table.
_BOUND, _LONG_BOUND, _VALUE = 6, 10, 6


def parse_bounds(text: str) -> list[int]:
    """Boundaries in nanoseconds. A unit holds for those behind it too. Raises Failed."""
    found: list[int] = []
    unit = 1
    at = 0
    while at < len(text) or not found:
        if text[at : at + 1] not in _VALID:
            raise Failed(_invalid(text, at))
        if text[at] == ",":
            raise Failed(f"Empty histogram bin not allowed: {text}")
        digits = _DIGITS.match(text, at)
        assert digits is not None
        at = digits.end()
        suffix = text[at : at + 1] if text[at : at + 1] == "s" else text[at : at + 2]
        if suffix in _UNITS:
            unit = _UNITS[suffix]
            at += len(suffix)
        elif text[at : at + 1] not in ("", ","):
            raise Failed(_invalid(text, at))
        if text[at : at + 1] == ",":
            at += 1
        found.append(int(digits[0] or 0) * unit)
    return found


def _invalid(text: str, at: int) -> str:
    return f"Invalid character in histogram: {text[at : at + 1]}"


class Shape(NamedTuple):
    """How histograms are shown. ``padded``: columns of equal width; ``units``: 10ms, not 10000000."""

    padded: bool = True
    units: bool = True


class Histogram(NamedTuple):
    """``bounds`` in nanoseconds, ascending, and a count more than there are bounds; without
    ``counts`` only the bounds are known."""

    bounds: tuple[int, ...]
    counts: tuple[int, ...] = ()

    def __add__(self, other: tuple[object, ...]) -> Histogram:
        assert isinstance(other, Histogram)
        counts = map(sum, zip(self.counts, other.counts, strict=True))
        return Histogram(self.bounds, tuple(counts))

    def text(self, shape: Shape, *, values: str = "", bounds: str = "") -> str:
        """``values``: nothing, ``count`` or ``percent``; ``bounds``: nothing, ``lower`` or
        ``range``."""
        return "".join(self._bins(shape, values, bounds))

    def _bins(self, shape: Shape, values: str, bounds: str) -> Iterator[str]:
        last = len(self.bounds)
        widest = _VALUE if values and shape.padded else 0
        separator = ":" if values and not widest else ""
        for place in range(last + 1):
            width = widest
            shown = ""
            if bounds:
                least = (_BOUND if shape.units else _LONG_BOUND) if width else 0
                shown = self._bound(place, bounds, shape, least) + (":" if values else "")
                separator = "," if width or not values else ":"
                if width:
                    width = max(0, width - (len(shown) - (least + 1)))
            count = (self.counts or (0,) * (last + 1))[place]
            if values == "percent":
                shown += f"{self._percent(count):{width or ''}.2f}%"
            elif values:
                shown += f"{count:{width or ''}d}"
            yield shown + (separator if place < last else "")

    def _bound(self, place: int, bounds: str, shape: Shape, least: int) -> str:
        lower = _time((0, *self.bounds)[place], shape)
        if bounds == "lower":
            return lower.rjust(least)
        if place == len(self.bounds):
            return f">{lower}".rjust(least)
        return f"{lower}-{_time(self.bounds[place], shape)}"

    def _percent(self, count: int) -> float:
        total = sum(self.counts)
        return 100 * count / total if total else 0.0


def _time(nanoseconds: int, shape: Shape) -> str:
    """In the largest unit of which it is a whole number."""
    if not shape.units:
        return str(nanoseconds)
    unit = next(unit for unit, factor in _UNITS.items() if not nanoseconds % factor)
    return f"{nanoseconds // _UNITS[unit]}{unit}"
