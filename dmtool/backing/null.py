# SPDX-License-Identifier: Apache-2.0
"""Backings without bytes: zeros, and nothing but errors."""

from __future__ import annotations

import os

from dmtool.backing import HOLE, ZERO, Backing, Bytes


class Zeros(Backing):
    """Reads give zeros, writes are dropped. ``size`` is unbounded."""

    size = 1 << 80

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(length)

    def pwrite(self, data: Bytes, offset: int) -> None:
        pass

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        pass

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        return [(length, HOLE | ZERO)]


class Failing(Backing):
    """Every I/O fails with ``errno``. ``size`` is unbounded."""

    size = 1 << 80

    def __init__(self, errno: int) -> None:
        self.errno = errno

    def _fail(self) -> OSError:
        return OSError(self.errno, os.strerror(self.errno))

    def pread(self, length: int, offset: int) -> bytes:
        raise self._fail()

    def pwrite(self, data: Bytes, offset: int) -> None:
        raise self._fail()

    def discard(self, offset: int, length: int) -> None:
        raise self._fail()

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        raise self._fail()


ZEROS = Zeros()
