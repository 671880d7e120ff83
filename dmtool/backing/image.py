# SPDX-License-Identifier: Apache-2.0
"""Image files: regular files of any size; holes are kept."""

from __future__ import annotations

import errno
import os

from dmtool.backing import HOLE, ZERO
from dmtool.backing.descriptor import Descriptor
from dmtool.backing.fallocate import CANNOT, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from dmtool.backing.lock import Hold
from dmtool.names import escape


class ImageFile(Descriptor):
    """A regular file, from its first byte on; a tail of under 512 bytes is not used."""

    kind = "file"

    def __init__(self, fd: int, size: int, path: str, hold: Hold, *, readonly: bool) -> None:
        super().__init__(fd, size, path, hold, readonly=readonly)
        self.path = path

    def __str__(self) -> str:
        return escape(self.path)

    def discard(self, offset: int, length: int) -> None:
        if self.readonly:
            raise OSError(errno.EIO, f"{self.name} is read-only")
        try:
            fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in CANNOT:
                raise

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        if self.readonly:
            raise OSError(errno.EIO, f"{self.name} is read-only")
        mode = ZERO_RANGE if allocate else PUNCH_HOLE
        try:
            fallocate(self.fd, mode | KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            super().write_zeroes(offset, length, allocate=allocate)

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        end = offset + length
        found: list[tuple[int, int]] = []
        while offset < end:
            try:
                data = os.lseek(self.fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return [*found, (end - offset, 0)]
                # nothing but a hole up to the end of the file, and nothing behind that: who reads
                # there is told so
                data = min(max(os.fstat(self.fd).st_size, offset), end)
                if data > offset:
                    found.append((data - offset, HOLE | ZERO))
                return [*found, (end - data, 0)] if data < end else found
            if data > offset:
                found.append((min(data, end) - offset, HOLE | ZERO))
                offset = data
            if offset < end:
                hole = os.lseek(self.fd, offset, os.SEEK_HOLE)
                found.append((min(hole, end) - offset, 0))
                offset = hole
        return found
