# SPDX-License-Identifier: Apache-2.0
"""Image files: regular files of any size; holes are kept."""

from __future__ import annotations

import ctypes
import errno
import os

from dmtool.backing import HOLE, ZERO
from dmtool.backing.descriptor import Descriptor
from dmtool.backing.lock import Hold
from dmtool.names import escape

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10  # linux/falloc.h
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), which the os module lacks; bytes. Raises OSError."""
    while _fallocate(fd, mode, offset, length) != 0:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            raise OSError(error, os.strerror(error))


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
            fallocate(self.fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        if self.readonly:
            raise OSError(errno.EIO, f"{self.name} is read-only")
        mode = _ZERO_RANGE if allocate else _PUNCH_HOLE
        try:
            fallocate(self.fd, mode | _KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in _CANNOT:
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
                data = end  # nothing but a hole up to the end of the file
            if data > offset:
                found.append((min(data, end) - offset, HOLE | ZERO))
                offset = data
            if offset < end:
                hole = os.lseek(self.fd, offset, os.SEEK_HOLE)
                found.append((min(hole, end) - offset, 0))
                offset = hole
        return found
