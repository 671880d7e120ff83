# SPDX-License-Identifier: Apache-2.0
"""The legs of a mirror: I/O on each of them, what failed there, and which one counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import Enum

from dmtool.api import SECTOR, Extent, Io, Op

log = logging.getLogger(__name__)


class Failure(Enum):
    """What a leg failed at, worst first; the value is its letter in `status`."""

    FLUSH = "F"
    WRITE = "D"
    SYNC = "S"
    READ = "R"


class Legs:
    """``places`` on devices, one a leg; a leg is its number among them.

    ``default``  the leg whose bytes count where legs differ. It changes only while they do not.

    Threads: ``read``, ``write`` and ``flush`` on any; the rest with the mirror's lock held.
    """

    def __init__(self, places: tuple[Extent, ...]) -> None:
        self.places = places
        self.default = 0
        self.everyone = frozenset(range(len(places)))
        self._errors: list[set[Failure]] = [set() for _ in places]
        self._last = ["copying failed"] * len(places)

    def __str__(self) -> str:
        return " and ".join(str(place) for place in self.places)

    # -- I/O, in sectors of the target ------------------------------------------------------------

    def read(self, leg: int, lo: int, hi: int) -> bytes | None:
        """None where that failed."""
        place = self.places[leg]
        try:
            return place.device.pread((hi - lo) * SECTOR, (place.start + lo) * SECTOR)
        except OSError as error:
            self._note("read", leg, error)
            return None

    def write(self, leg: int, io: Io, lo: int, hi: int, skip: int) -> bool:
        """Sectors ``lo`` to ``hi`` of a write, a discard or zeros; its data begins ``skip`` sectors
        before ``lo``. Whether that went well."""
        device = self.places[leg].device
        at, length = (self.places[leg].start + lo) * SECTOR, (hi - lo) * SECTOR
        try:
            match io.op:
                case Op.DISCARD:
                    device.discard(at, length)
                case Op.WRITE_ZEROES:
                    device.write_zeroes(at, length, allocate=io.allocate)
                case _:
                    assert io.data is not None
                    begin = skip * SECTOR
                    device.pwrite(memoryview(io.data)[begin : begin + length], at)
        except OSError as error:
            self._note(io.op, leg, error)
            return False
        return True

    def flush(self, legs: Iterable[int]) -> set[int]:
        """The legs of which that failed."""
        failed = set()
        for leg in legs:
            try:
                self.places[leg].device.flush()
            except OSError as error:
                self._note("flush", leg, error)
                failed.add(leg)
        return failed

    def _note(self, what: str, leg: int, error: OSError) -> None:
        self._last[leg] = f"{what} failed: {error.strerror or error}"

    # -- failures ---------------------------------------------------------------------------------

    @property
    def letters(self) -> str:
        return "".join(
            next((failure.value for failure in Failure if failure in errors), "A")
            for errors in self._errors
        )

    @property
    def failed(self) -> bool:
        """One or more of them have."""
        return any(self._errors)

    def fail(self, legs: Iterable[int], failure: Failure, *, alike: bool) -> bool:
        """Legs failed. ``alike``: until now all legs had the same bytes, so that another one may
        be the default. Whether any leg has a new letter."""
        bad = set(legs)
        new = [leg for leg in bad if failure not in self._errors[leg]]
        for leg in new:
            self._errors[leg].add(failure)
            letter = failure.value
            log.warning(
                "mirror of %s: %s: %s (%s)", self, self.places[leg], self._last[leg], letter
            )
        if self.default in bad and alike:
            others = sorted(self.everyone - bad)
            good = [leg for leg in others if not self._errors[leg]]
            if failure is not Failure.READ:
                good += others  # with errors of reading: better than the one without the data
            self.default = good[0] if good else self.default
        return bool(new)

    def told(self, legs: Iterable[int], failure: Failure) -> str:
        """A failure in words."""
        return " and ".join(
            f"{self.places[leg].device}: {self._last[leg]} ({failure.value})" for leg in legs
        )

    def candidates(self) -> list[int]:
        """Legs to read from where all are alike: first those without an error, from the default
        one on downwards."""
        count = len(self.places)
        order = [(self.default - i) % count for i in range(count)]
        return sorted(order, key=lambda leg: bool(self._errors[leg]))

    def forgive(self) -> None:
        """Nothing has failed."""
        for errors in self._errors:
            errors.clear()
