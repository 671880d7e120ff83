# SPDX-License-Identifier: Apache-2.0
"""A mapped device as the backing of another one's table."""

from __future__ import annotations

import errno
import os

from dmtool.backing import Backing, Bytes
from dmtool.device.mapped import MappedDevice
from dmtool.names import unmangle


class MappedBacking(Backing):
    """A mapped device from above; printed as its MAJ:MIN. Counts as an opener of it.

    Its I/O goes through the lower device's own gate, so that each can be suspended by itself.

    Threads: any.
    """

    kind = "dm"

    def __init__(self, device: MappedDevice, *, readonly: bool = False) -> None:
        """Raises OSError ENXIO where ``device`` has no live table."""
        device.open()
        self.device = device
        self.devno = device.devno
        self.readonly = readonly

    @property
    def size(self) -> int:  # type: ignore[override]  # changes with the live table below
        return self.device.size

    @property
    def block_size(self) -> int:  # type: ignore[override]
        live = self.device.live
        return live.block_size if live else 512

    @property
    def name(self) -> str:
        """The kernel's name for such a device."""
        return f"dm-{self.device.minor}"

    @property
    def mapped_name(self) -> str:
        return unmangle(self.device.name)

    def __str__(self) -> str:
        return f"{self.device.devno[0]}:{self.device.minor}"

    def pread(self, length: int, offset: int) -> bytes:
        return self.device.read(offset, length)

    def pread_parts(self, length: int, offset: int) -> list[tuple[int, bytes | OSError]]:
        try:
            parts = self.device.read_parts(offset, length)
        except OSError as error:
            return [(length, error)]
        return [(size, data) for _, size, data in parts]

    def pwrite(self, data: Bytes, offset: int) -> None:
        self._may_write()
        self.device.write(offset, data)

    def write(self, data: Bytes, offset: int, *, fua: bool) -> None:
        self._may_write()
        self.device.write(offset, data, fua=fua)

    def flush(self) -> None:
        if not self.readonly:
            self.device.flush()

    def discard(self, offset: int, length: int) -> None:
        self._may_write()
        self.device.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        self._may_write()
        self.device.write_zeroes(offset, length, allocate=allocate)

    def extents(self, offset: int, length: int) -> list[tuple[int, int]]:
        return self.device.block_status(offset, length)

    def close(self) -> None:
        self.device.close()

    def _may_write(self) -> None:
        # as below any write-protected disk: the kernel lets bios through to a read-only mapped
        # device; here its image files are not even open for writing
        if self.readonly or self.device.readonly:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
