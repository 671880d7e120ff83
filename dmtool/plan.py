# SPDX-License-Identifier: Apache-2.0
"""Plans: a target's mapping as immutable data, so that the engine can do the I/O itself.

All numbers are sectors. A plan covers its target from the target's first sector on; a piece of
a plan covers its piece from the piece's first sector on. The vocabulary is closed: a target
whose mapping cannot be said with it has no plan, and its ``map`` is called for every I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmtool.backing import Backing


@dataclass(frozen=True, slots=True)
class Extent:
    """One run of sectors on ``device``, from its sector ``start`` on."""

    device: Backing
    start: int

    def __str__(self) -> str:
        return f"{self.device} {self.start}"


@dataclass(frozen=True, slots=True)
class Striped:
    """Chunks of ``chunk`` sectors dealt out in turn to ``extents`` (RAID-0)."""

    extents: tuple[Extent, ...]
    chunk: int


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The same bytes on each of ``extents``: reads come from number ``read_from``, writes go to
    all, in order.

    It says what happens while all goes well: an I/O that fails on a leg is handed to the
    target's ``map``, whole, which must be there. ``writes`` False: all writes are.
    """

    extents: tuple[Extent, ...]
    read_from: int = 0
    writes: bool = True


@dataclass(frozen=True, slots=True)
class Fail:
    """Every I/O fails with ``errno``."""

    errno: int


@dataclass(frozen=True, slots=True)
class Zero:
    """Reads give zeros; writes are dropped."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Plans one after the other, each with its length in sectors (all > 0)."""

    pieces: tuple[tuple[int, Plan], ...]


Plan = Extent | Striped | Mirrored | Fail | Zero | Pieces
