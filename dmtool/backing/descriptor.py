# SPDX-License-Identifier: Apache-2.0
"""What image files and block devices share: bytes behind one file descriptor."""

from __future__ import annotations

import errno
import mmap
import os
import threading

from dmtool.backing import Backing, Bytes
from dmtool.backing.lock import Hold

_PREAD_MOST = 0x7FFFF000  # Linux MAX_RW_COUNT: one read or write moves no more
_ZEROS = bytes(1 << 20)


class Descriptor(Backing):
    """Bytes behind one descriptor, which it owns; ``name`` is what messages call it.

    Threads: any; reads and writes carry their offset, so the descriptor's position is free for
    SEEK_DATA and SEEK_HOLE.
    """

    fd: int

    def __init__(self, fd: int, size: int, name: str, hold: Hold, *, readonly: bool) -> None:
        self.fd = fd
        self.size = size
        self.name = name
        self.readonly = readonly
        self._hold = hold
        self._view: memoryview | None = None
        self._mapped = False
        self._guard = threading.Lock()

    @property
    def view(self) -> memoryview | None:  # type: ignore[override]
        # mapped at the first use: Python's mmap keeps a duplicate of the descriptor, and most
        # devices of a large table are never exported
        if not self._mapped:
            with self._guard:
                if not self._mapped:
                    self._view = self._map()
                    self._mapped = True
        return self._view

    def _map(self) -> memoryview | None:
        access = mmap.ACCESS_READ if self.readonly else mmap.ACCESS_WRITE
        try:
            return memoryview(mmap.mmap(self.fd, self.size, access=access))
        except (OSError, ValueError, OverflowError):
            return None  # empty, or too large for the address space: pread and pwrite do it

    def pread(self, length: int, offset: int) -> bytes:
        data = os.pread(self.fd, min(length, _PREAD_MOST), offset)
        if len(data) == length:
            return data
        whole = bytearray(data)
        while len(whole) < length:
            more = os.pread(self.fd, min(length - len(whole), _PREAD_MOST), offset + len(whole))
            if not more:
                raise OSError(errno.EIO, f"{self.name} has become shorter")
            whole += more
        return bytes(whole)

    def pwrite(self, data: Bytes, offset: int) -> None:
        if self.readonly:
            raise OSError(errno.EIO, f"{self.name} is read-only")
        done = os.pwrite(self.fd, data, offset)
        if done == len(data):
            return
        rest = memoryview(data)
        while done < len(rest):
            done += os.pwrite(self.fd, rest[done : done + _PREAD_MOST], offset + done)

    def flush(self) -> None:
        if not self.readonly:
            os.fdatasync(self.fd)

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        if self.readonly:
            raise OSError(errno.EIO, f"{self.name} is read-only")
        end = offset + length
        while offset < end:
            step = min(len(_ZEROS), end - offset)
            self.pwrite(_ZEROS[:step], offset)
            offset += step

    def close(self) -> None:
        self._view = None
        self._mapped = True
        os.close(self.fd)
        self._hold.release()
