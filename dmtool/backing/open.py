# SPDX-License-Identifier: Apache-2.0
"""From the word in a table to an open backing (the kernel's ``dm_get_device``)."""

from __future__ import annotations

import errno
import os
import re
import stat

from dmtool.backing.block import BlockDevice
from dmtool.backing.descriptor import Descriptor
from dmtool.backing.image import ImageFile
from dmtool.backing.lock import hold
from dmtool.sectors import SECTOR

_DEVNO = re.compile(r"(\d{1,10}):(\d{1,10})\Z", re.ASCII)
_MAJOR_END, _MINOR_END = 1 << 12, 1 << 20  # the kernel's dev_t: 12 and 20 bits


def devno(word: str) -> tuple[int, int] | None:
    """``MAJ:MIN`` as numbers, or None if ``word`` is no such thing."""
    match = _DEVNO.match(word)
    return (int(match[1]), int(match[2])) if match else None


def open_backing(word: str, cwd: str, *, readonly: bool) -> Descriptor:
    """Open the image file or block device that ``word`` names.

    ``word`` is MAJ:MIN or a path, relative to ``cwd``. With ``readonly`` it is opened for
    reading only; a write-protected block device is so in any case, and its writes fail with
    EIO, as in the kernel. Raises OSError; its text says which system call's answer it is.
    """
    numbers = devno(word)
    path = _node(numbers) if numbers else os.path.join(cwd, word)
    kind = os.stat(path).st_mode
    path = os.path.realpath(path)
    if "\n" in path or "\0" in path:
        # `table` could not print it so that it is read back
        raise OSError(errno.EINVAL, "its path has a newline, which no table can hold")
    if stat.S_ISBLK(kind):
        return _open_block(path, readonly)
    if stat.S_ISREG(kind):
        return _open_image(path, readonly)
    raise OSError(errno.ENOTBLK, f"{_what(kind)} is neither a file nor a block device")


def _node(numbers: tuple[int, int]) -> str:
    major, minor = numbers
    if major >= _MAJOR_END or minor >= _MINOR_END:
        raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
    try:
        with open(f"/sys/dev/block/{major}:{minor}/uevent", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("DEVNAME="):
                    return "/dev/" + line[8:].strip()
    except OSError:
        pass
    raise OSError(errno.ENXIO, f"no block device {major}:{minor}")


def _open_block(path: str, readonly: bool) -> BlockDevice:
    mode = os.O_RDONLY if readonly else os.O_RDWR
    try:
        fd = os.open(path, mode | os.O_CLOEXEC)
    except OSError as error:
        # a write-protected device cannot be opened for writing from user space; the kernel's
        # own device-mapper can, and lets the writes fail
        if readonly or error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        readonly = True
    try:
        node = os.fstat(fd).st_rdev
        claim = hold(fd, path, writing=not readonly)
        try:
            return BlockDevice(fd, (os.major(node), os.minor(node)), claim, readonly=readonly)
        except OSError:
            claim.release()
            raise
    except OSError:
        os.close(fd)
        raise


def _open_image(path: str, readonly: bool) -> ImageFile:
    fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size // SECTOR * SECTOR
        claim = hold(fd, path, writing=not readonly)
    except OSError:
        os.close(fd)
        raise
    return ImageFile(fd, size, path, claim, readonly=readonly)


def _what(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISCHR(mode):
        return "a character device"
    return "it"
