# SPDX-License-Identifier: Apache-2.0
"""One I/O as a target's ``map`` sees it, and the answers that ``map`` may give."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dmtool.plan import Fail, Zero  # the same words in plans and in answers

if TYPE_CHECKING:
    from dmtool.backing import Backing, Bytes


class Op(StrEnum):
    """What an I/O does (the kernel's REQ_OP_*)."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    WRITE_ZEROES = "write_zeroes"


@dataclass(slots=True)
class Io:
    """One I/O that lies within one target (the kernel's struct bio).

    ``sector``  first sector, counted from the mapped device's start: subtract ``ti.begin``.
    ``count``   sectors; 0 for a flush.
    ``data``    what is written; ``map`` may put other bytes of the same length in its place.
                For reads None until the I/O is done; ``end_io`` may change it then.
    ``fua``     a write that must be on stable storage before it is reported done.
    ``allocate``  zeros that are to take up space (the kernel's REQ_NOUNMAP).
    ``device``  the backing it was remapped to, None before that.
    """

    op: Op
    sector: int
    count: int
    data: Bytes | None = None
    fua: bool = False
    device: Backing | None = None
    allocate: bool = False


@dataclass(frozen=True, slots=True)
class Remap:
    """Do it on ``device`` from its ``sector`` on.

    ``count``: only the first so many sectors; ``map`` is asked again for the rest (the
    kernel's dm_accept_partial_bio). None: all of it.
    """

    device: Backing
    sector: int
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Fanout:
    """A write goes to all of these; a read to the first that answers without an error."""

    to: tuple[Remap, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The target served it; ``data`` is what was read (``count`` sectors), None otherwise."""

    data: Bytes | None = None


@dataclass(frozen=True, slots=True)
class Defer:
    """Blocking work: ``function()`` runs where it may block and returns another answer."""

    function: Callable[[], Verdict]


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait ``seconds``, then do ``answer``."""

    seconds: float
    answer: Verdict


class Requeue(OSError):
    """Raised by a deferred function, ``map`` or ``end_io`` while the device is being suspended
    without flush: the I/O is done again, from its beginning, on the table that is live after
    resume (DM_MAPIO_REQUEUE, DM_ENDIO_REQUEUE). At any other time it is the error EIO.

    Of several errors of one I/O it is the one that counts (dm_io_set_error)."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, os.strerror(errno.EAGAIN))


def outcome(first: OSError | None, error: OSError | None) -> OSError | None:
    """What an I/O ends with of which one part did so with ``first``, a later one with ``error``."""
    return error if first is None or isinstance(error, Requeue) else first


Verdict = Remap | Fanout | Fail | Zero | Done | Defer | Delay
