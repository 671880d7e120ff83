# SPDX-License-Identifier: Apache-2.0
"""Backings: what holds bytes under a table.

A backing is an image file, a block device, or another mapped device; Zero and Fail are
backings too, and so is a target that maps in Python. The engine cuts every I/O into segments
``(backing, offset, length)`` and does nothing else: so this interface, in **bytes**, is the
whole of what moves data.

Threads: every method may be called from any thread at any time until ``close``, which the
table calls once, after the last I/O has left the suspend gate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

# Flags of one allocation extent, as NBD's base:allocation has them (proto.md, NBD_STATE_*).
HOLE = 1
ZERO = 2

Bytes = bytes | bytearray | memoryview


class Backing(ABC):
    """Bytes that a table maps to.

    ``size``        bytes. Image files and block devices: fixed at open. Mapped devices: live.
    ``block_size``  logical block size in bytes, a power of two of 512 or more for block
                    devices, 512 for all others: sectors of a table must be aligned to it.
    ``readonly``    writes are refused with EIO (as the kernel does below a read-only disk).
    ``fd``          a descriptor that has these bytes at the same offsets, or None.
    ``view``        the whole of it mapped as memory, or None. **Only ever hand slices of it to
                    system calls**: past the end of a truncated file those answer EFAULT, while
                    Python touching such a page dies of SIGBUS.
    ``str(b)``      how `dmtool table` prints it: an absolute path (white space and backslash
                    escaped with backslash), or MAJ:MIN.

    Errors of all methods are OSError with the errno of the system call. Offsets and lengths
    that reach past ``size`` are a caller's bug.
    """

    size: int
    block_size: int = 512
    readonly: bool = False
    fd: int | None = None
    view: memoryview | None = None
    # (major, minor) of a block or mapped device, None for a file
    devno: tuple[int, int] | None = None
    # "file", "block" or "dm"; "" for what no user can name (Zero, Fail, a Python map)
    kind: ClassVar[str] = ""

    @abstractmethod
    def pread(self, length: int, offset: int) -> bytes:
        """Exactly ``length`` bytes at byte ``offset``."""

    def pread_parts(self, length: int, offset: int) -> list[tuple[int, bytes | OSError]]:
        """The same, part by part where only some parts fail: ``[(length, bytes or error), ...]``.
        Raises nothing."""
        try:
            return [(length, self.pread(length, offset))]
        except OSError as error:
            return [(length, error)]

    @abstractmethod
    def pwrite(self, data: Bytes, offset: int) -> None:
        """All of ``data`` at byte ``offset``."""

    def write(self, data: Bytes, offset: int, *, fua: bool) -> None:
        """pwrite; with ``fua`` the data is on stable storage when this returns."""
        self.pwrite(data, offset)
        if fua:
            self.flush()

    def flush(self) -> None:
        """What was written is on stable storage when this returns (fdatasync)."""

    def discard(self, offset: int, length: int) -> None:
        """The bytes are no longer needed; they may read as anything afterwards. Never an error
        where the backing cannot discard: then it does nothing."""

    @abstractmethod
    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        """The bytes read as zeros afterwards; ``allocate``: and stay allocated."""

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Allocation of a range: ``[(bytes, flags), ...]`` adding up to ``length``; flags are
        HOLE and ZERO or-ed. Not knowing is allowed: ``[(length, 0)]``."""
        return [(length, 0)]

    def close(self) -> None:
        """Give up descriptors and mappings."""
