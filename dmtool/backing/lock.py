# SPDX-License-Identifier: Apache-2.0
"""Locks that keep a second process from writing an image that is in use here.

Image files carry the byte-range locks of qemu (block/file-posix.c, ``RAW_LOCK_PERM_BASE``), as
open-file-description locks: each permission that is used, and each that is not shared with
others, is a shared lock on a byte of its own; a conflict is looked for after the locks are
taken, so that of two that start at once at most one goes on. qemu and other dmtool cores see
them. Block devices are opened with O_EXCL, the kernel's own claim.

The locks belong to the process, not to a table: mapped devices of one core may share an
image, as in the kernel. So each image is locked through one descriptor of its own, counted.

Threads: ``hold`` and ``Hold.release`` may be called from any thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import threading
from dataclasses import dataclass, field

_USED = 100  # qemu: RAW_LOCK_PERM_BASE
_UNSHARED = 200  # qemu: RAW_LOCK_SHARED_BASE
_READ, _WRITE, _RESIZE = 0, 1, 3  # bits of BLK_PERM_CONSISTENT_READ, _WRITE, _RESIZE

# (permissions used, permissions that nobody else may use)
_READER = ((_READ,), (_WRITE, _RESIZE))
_WRITER = ((_READ, _WRITE), (_WRITE, _RESIZE))

_FLOCK = "hhqqi0q"  # struct flock: l_type, l_whence, l_start, l_len, l_pid


@dataclass
class _Locked:
    fd: int
    readers: int = 0
    writers: int = 0


@dataclass
class Hold:
    """One table's claim on an image or block device; ``release`` gives it up, once."""

    key: tuple[str, int, int]
    writing: bool
    released: bool = field(default=False)

    def release(self) -> None:
        with _guard:
            if self.released:
                return
            self.released = True
            locked = _locked[self.key]
            if self.writing:
                locked.writers -= 1
            else:
                locked.readers -= 1
            if locked.readers == locked.writers == 0:
                del _locked[self.key]
                os.close(locked.fd)
            elif self.writing and locked.writers == 0 and self.key[0] == "file":
                _lock(locked.fd, fcntl.F_UNLCK, _USED + _WRITE)


_guard = threading.Lock()
_locked: dict[tuple[str, int, int], _Locked] = {}


def hold(fd: int, path: str, *, writing: bool) -> Hold:
    """Claim the image file or block device open as ``fd``.

    Raises OSError EBUSY where another process has it in a way that does not go together.
    """
    info = os.fstat(fd)
    block = stat.S_ISBLK(info.st_mode)
    key = ("block", info.st_rdev, 0) if block else ("file", info.st_dev, info.st_ino)
    with _guard:
        locked = _locked.get(key)
        if locked is None:
            locked = _Locked(_open(fd, path, block))
            try:
                if not block:
                    _claim(locked.fd, _WRITER if writing else _READER)
            except OSError:
                os.close(locked.fd)
                raise
            _locked[key] = locked
        elif writing and not locked.writers and not block:
            try:
                _claim(locked.fd, _WRITER)
            except OSError:
                _lock(locked.fd, fcntl.F_UNLCK, _USED + _WRITE)
                raise
        if writing:
            locked.writers += 1
        else:
            locked.readers += 1
        return Hold(key, writing)


def _open(fd: int, path: str, block: bool) -> int:
    # by way of /proc, so that it is the same inode even if the path was replaced meanwhile
    same = f"/proc/self/fd/{fd}"
    flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_EXCL if block else 0)
    return os.open(same if os.path.exists(same) else path, flags)


def _claim(fd: int, want: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    used, unshared = want
    try:
        for bit in used:
            _lock(fd, fcntl.F_RDLCK, _USED + bit)
        for bit in unshared:
            _lock(fd, fcntl.F_RDLCK, _UNSHARED + bit)
        busy = [b for b in used if _taken(fd, _UNSHARED + b)]
        busy += [b for b in unshared if _taken(fd, _USED + b)]
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY)) from None
        if error.errno in (errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            return  # a file system without locks cannot be guarded
        raise
    if busy:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _lock(fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))


def _taken(fd: int, byte: int) -> bool:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
