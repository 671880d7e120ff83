# SPDX-License-Identifier: Apache-2.0
"""Whether reads find their data in the page cache.

A read that waits for a disk must not hold up the others of its connection, so it is left to a
worker; a read that is cached must not pay for that, nor for the question. So a connection is
either *warm*: reads are just done, and now and then the thread's own counters are looked at; or
*cold*: every read is tried with RWF_NOWAIT first. A connection begins cold.
"""

from __future__ import annotations

import contextlib
import os
import resource

from dmtool.backing import Backing

# After so many reads in a row that were cached, a connection is warm.
_COLD = 64
# Where the file system knows no RWF_NOWAIT every read is taken to wait, for so many reads.
_BLIND = 256
_LOOK_EVERY = 32
# A large read is taken as cached if the pages at these distances are: bytes.
_PROBE_STEP = 128 << 10


def intact(backing: Backing) -> bool:
    """Whether a backing is still as long as when it was opened.

    Sending from the mapping of a file that somebody has truncated fails with EFAULT in any case;
    but a look beforehand makes an error reply of what may otherwise be found in the middle of a
    reply, when nothing is left but to end the connection.
    """
    return backing.fd is None or os.lseek(backing.fd, 0, os.SEEK_END) >= backing.size


class Views(dict[Backing, memoryview | None]):
    """The mappings that may be sent from, of backings that are looked at once each."""

    def __missing__(self, backing: Backing) -> memoryview | None:
        view = self[backing] = backing.view if intact(backing) else None
        return view


def _fetch(backing: Backing, at: int, length: int) -> None:
    """Have the disk begin to read; does not wait for it."""
    assert backing.fd is not None
    with contextlib.suppress(OSError):
        os.posix_fadvise(backing.fd, at, length, os.POSIX_FADV_WILLNEED)


class Residency:
    """What one connection knows of its reads.

    Threads: the connection's own.
    """

    def __init__(self) -> None:
        self.cold = _COLD
        self._blind = False
        self._waits = self._count()
        self._reads = 0

    def read(self, backing: Backing, at: int, length: int) -> bytearray | None:
        """The bytes, if they are cached; else they are on their way. Only while cold."""
        data = bytearray(length)
        if self._hit(self._try(backing, data, at) == length):
            return data
        _fetch(backing, at, length)
        return None

    def cached(self, backing: Backing, at: int, length: int) -> bool:
        """Whether the bytes seem to be cached; else they are on their way. Only while cold."""
        probe = bytearray(1)
        places = (*range(at, at + length, _PROBE_STEP), at + length - 1)
        hit = self._hit(all(self._try(backing, probe, place) for place in places))
        if not hit:
            _fetch(backing, at, length)
        return hit

    @property
    def wanted(self) -> int | None:
        """After how many more reads in a row that are cached it is warm, in a lane; 0: it is.
        None: a lane cannot tell."""
        if not self.cold:
            return 0
        return None if self._blind else _COLD

    def is_warm(self) -> None:
        """A lane has found so many."""
        self.cold = 0
        self._waits = self._count()

    def was_warm(self, reads: int) -> None:
        """After so many reads while warm: look whether the thread has had to wait for one."""
        self._reads += reads
        if self._reads >= _LOOK_EVERY:
            self._reads = 0
            if self._count() != self._waits:
                self.was_cold()

    def was_cold(self) -> None:
        """A read while warm had to wait."""
        self._waits = self._count()
        self.cold = _BLIND if self._blind else _COLD

    def _hit(self, hit: bool) -> bool:
        if hit or self._blind:
            self.cold -= 1
        else:
            self.cold = _COLD
        if not self.cold:
            self._waits = self._count()
        return hit

    def _try(self, backing: Backing, data: bytearray, at: int) -> int:
        assert backing.fd is not None
        try:
            return os.preadv(backing.fd, [data], at, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            # EOPNOTSUPP: a file system without it. Any other error is for the worker to find
            if not self._blind:
                self._blind = True
                self.cold = 1  # tmpfs is such a one and never waits: believe so at first
            return 0

    @staticmethod
    def _count() -> int:
        """Waits of this thread: pages that a mapping had to fetch, and blocks read."""
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return usage.ru_majflt + usage.ru_inblock
