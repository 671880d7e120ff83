# SPDX-License-Identifier: Apache-2.0
"""Block devices: disks, partitions, loop devices. Their limits are asked of the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from dmtool.backing.descriptor import Descriptor
from dmtool.backing.fallocate import CANNOT, KEEP_SIZE, PUNCH_HOLE, fallocate
from dmtool.backing.lock import Hold

# linux/fs.h
_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_BLKGETSIZE64 = 0x80081272
_BLKDISCARD = 0x1277
_BLKZEROOUT = 0x127F
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


def limits(fd: int) -> tuple[int, int, bool]:
    """(size in bytes, logical block size in bytes, read-only) of an open block device."""
    size = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    block_size = struct.unpack("i", fcntl.ioctl(fd, _BLKSSZGET, bytes(4)))[0]
    readonly = struct.unpack("i", fcntl.ioctl(fd, _BLKROGET, bytes(4)))[0]
    return size, block_size, bool(readonly)


def name_of(devno: tuple[int, int]) -> str:
    """The kernel's name of a block device ("loop0"); "MAJ:MIN" where sysfs does not know it."""
    try:
        return os.path.basename(os.readlink(f"/sys/dev/block/{devno[0]}:{devno[1]}"))
    except OSError:
        return f"{devno[0]}:{devno[1]}"


class BlockDevice(Descriptor):
    """A whole block device; printed as MAJ:MIN, as dmsetup does."""

    kind = "block"

    def __init__(self, fd: int, devno: tuple[int, int], hold: Hold, *, readonly: bool) -> None:
        size, self.block_size, write_protected = limits(fd)
        super().__init__(fd, size, name_of(devno), hold, readonly=readonly or write_protected)
        self.devno = devno

    def __str__(self) -> str:
        assert self.devno is not None
        return f"{self.devno[0]}:{self.devno[1]}"

    def discard(self, offset: int, length: int) -> None:
        self._range(_BLKDISCARD, offset, length)

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        if not allocate and self._unmap(offset, length):
            return
        # BLKZEROOUT never unmaps, so what was asked to stay allocated does
        if self.readonly or not self._range(_BLKZEROOUT, offset, length):
            super().write_zeroes(offset, length, allocate=allocate)

    def _unmap(self, offset: int, length: int) -> bool:
        """Zeros without space (blkdev_fallocate, block/fops.c); False: the device has no such
        command, or not for these bytes."""
        if self.readonly or (offset | length) % self.block_size:
            return False
        try:
            fallocate(self.fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            return False
        return True

    def _range(self, request: int, offset: int, length: int) -> bool:
        if self.readonly:
            raise OSError(errno.EIO, f"{self.name} is read-only")
        if (offset | length) % self.block_size:
            return False
        try:
            fcntl.ioctl(self.fd, request, struct.pack("QQ", offset, length))
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            return False
        return True
