# SPDX-License-Identifier: Apache-2.0
"""Loop devices over the files of ``mapper/``, for what wants a block device. Needs root.

The ioctls of linux/loop.h; losetup does the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

_CONTROL = "/dev/loop-control"
_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A  # Linux 5.8
_CLR_FD = 0x4C01
_GET_STATUS = 0x4C05  # LOOP_GET_STATUS64
_READ_ONLY, _PARTSCAN, _DIRECT_IO = 1, 8, 16

# struct loop_config: fd, block size, struct loop_info64 (of it: flags, file name), and room
_CONFIG = struct.Struct("=II 48x 4x I 64s 64x 32x 16x 64x")
_STATUS = struct.Struct("=QQ")  # the head of struct loop_info64: device and inode of the file
_STATUS_SIZE = 232
_ATTEMPTS = 16
_SOON, _LOOK = 2.0, 0.01  # seconds


def attach(path: str, *, readonly: bool = False, block_size: int = 512) -> str:
    """A new loop device over the file at ``path``, its path. Partitions get devices too.

    Reads and writes go past the loop device's own cache: the file needs none, and a flush is one.
    Raises OSError.
    """
    mode = os.O_RDONLY if readonly else os.O_RDWR
    file = os.open(path, mode | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            loop = _free()
            flags = _DIRECT_IO | _PARTSCAN | (_READ_ONLY if readonly else 0)
            name = os.fsencode(path)[:63]
            try:
                _configure(loop, _CONFIG.pack(file, block_size, flags, name))
            except OSError as error:
                if error.errno == errno.EBUSY:
                    continue  # somebody else was quicker
                raise
            return loop
    finally:
        os.close(file)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _free() -> str:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
    finally:
        os.close(control)


def _configure(loop: str, config: bytes) -> None:
    device = os.open(loop, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _CONFIGURE, config)
    finally:
        os.close(device)


def attached(path: str) -> list[str]:
    """The loop devices over the file at ``path``, whatever it was called then. Raises OSError."""
    info = os.stat(path)
    wanted, directory = (info.st_dev, info.st_ino), os.path.dirname(os.path.realpath(path))
    found = []
    for place in Path("/sys/block").glob("loop*/loop/backing_file"):
        loop = f"/dev/{place.parts[3]}"
        try:
            name = place.read_text(errors="surrogateescape")
        except OSError:
            continue  # it has just gone
        # the name may be an old one. Those of others are not looked at any closer: who has one
        # open keeps it from being freed
        if os.path.dirname(name) == directory and _backing(loop) == wanted:
            found.append(loop)
    return sorted(found)


def _backing(loop: str) -> tuple[int, int] | None:
    """Device and inode of the file below a loop device; None if there is none any more."""
    device = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(device, _GET_STATUS, bytes(_STATUS_SIZE))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
    finally:
        os.close(device)
    where: tuple[int, int] = _STATUS.unpack_from(status)
    return where


def detach(loop: str) -> bool:
    """Free a loop device; False if that will happen when its last user has gone, and not soon:
    udev and its like only look at it. Raises OSError."""
    device = os.open(loop, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:  # it was free
            raise
    finally:
        os.close(device)
    backing = f"/sys/block/{os.path.basename(loop)}/loop/backing_file"
    deadline = time.monotonic() + _SOON
    while os.path.exists(backing):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK)
    return True
