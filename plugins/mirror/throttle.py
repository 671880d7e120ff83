# SPDX-License-Identifier: Apache-2.0
"""How fast the copier may go."""

from __future__ import annotations

import logging
import os
import re

from dmtool.api import SECTOR, TargetError

VARIABLE = "DMTOOL_MIRROR_RATE"

log = logging.getLogger(__name__)

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_RATE = re.compile(r"([0-9]{1,19})([A-Za-z]*)(?:/s)?")

NEVER = float("inf")
# A throttled copier makes so many steps a second, so that writers wait shortly and often rather
# than long and seldom; but no step is smaller than this.
_STEPS = 10
_LEAST = 64 << 10


class Throttle:
    """``rate``: bytes a second, 0 for as fast as can be; ``paused``: not at all.

    Times are seconds of any one clock. Threads: its owner's lock.
    """

    def __init__(self, rate: int = 0) -> None:
        self.rate = rate
        self.paused = False
        self._next = 0.0

    def set_rate(self, rate: int) -> None:
        self.rate = rate
        self._next = 0.0

    def step(self, most: int) -> int:
        """How many bytes the next step may have, of ``most`` that it would have unthrottled."""
        if not self.rate:
            return most
        return min(most, max(self.rate // _STEPS, _LEAST)) // SECTOR * SECTOR

    def due(self) -> float:
        """When the next step may begin."""
        return NEVER if self.paused else self._next

    def spent(self, amount: int, begun: float) -> None:
        """A step that began at ``begun`` moved ``amount`` bytes."""
        if self.rate:
            self._next = max(self._next, begun) + amount / self.rate


def first_rate() -> int:
    """The rate of a mirror to which nobody has said another, in bytes a second: as dm-raid1's
    module parameter raid1_resync_throttle one for all, DMTOOL_MIRROR_RATE in the environment."""
    word = os.environ.get(VARIABLE, "none")
    try:
        return parse_rate(word)
    except TargetError as error:
        log.warning("%s: %s: %s", VARIABLE, error, error.cause)
        return 0


def parse_rate(word: str) -> int:
    """Bytes a second from ``50MiB`` or ``none``. Raises TargetError."""
    if word == "none":
        return 0
    found = _RATE.fullmatch(word)
    if not found or found[2] not in _UNITS:
        raise TargetError(
            "Invalid rate",
            cause=f"{word!r} is no rate",
            hint="bytes a second: a number, with KiB, MiB or GiB behind it or not; 0: no limit",
        )
    return int(found[1]) * _UNITS[found[2]]
