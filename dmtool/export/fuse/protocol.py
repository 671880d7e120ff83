# SPDX-License-Identifier: Apache-2.0
"""Numbers and layouts of the FUSE protocol, version 7 (include/uapi/linux/fuse.h).

All integers are in the machine's own byte order, offsets and sizes in bytes. Every request begins
with a HEAD, every reply with an OUT.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

VERSION = 7
MINOR_LEAST = 28  # Linux 4.20: FUSE_MAX_PAGES
MINOR = 36  # Linux 5.17: the second word of flags

# -- requests -----------------------------------------------------------------------------------

LOOKUP = 1
FORGET = 2
GETATTR = 3
SETATTR = 4
SYMLINK = 6
MKNOD = 8
MKDIR = 9
UNLINK = 10
RMDIR = 11
RENAME = 12
LINK = 13
OPEN = 14
READ = 15
WRITE = 16
STATFS = 17
RELEASE = 18
FSYNC = 20
FLUSH = 25
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
FSYNCDIR = 30
CREATE = 35
INTERRUPT = 36
DESTROY = 38
POLL = 40
BATCH_FORGET = 42
FALLOCATE = 43
RENAME2 = 45
LSEEK = 46

# These have no reply.
SILENT = frozenset((FORGET, BATCH_FORGET, INTERRUPT, DESTROY))

# These change what is in a directory.
CHANGES = (CREATE, LINK, MKDIR, MKNOD, RENAME, RENAME2, RMDIR, SYMLINK, UNLINK)

ROOT = 1  # the node of a file system's root

# length, opcode, unique, node, uid, gid, pid, and two fields not used here
HEAD = Struct("=IIQQIIIHH")
HEAD_SIZE = HEAD.size
FRONT = Struct("=IIQQ")  # as much of it as every request needs
PID = Struct("=I")
PID_AT = 32

OUT = Struct("=IiQ")  # length, error (negative errno), unique
OUT_SIZE = OUT.size

# major, minor, max_readahead, flags; then flags2, since 7.36
INIT_IN = Struct("=IIII")
INIT_FLAGS2 = Struct("=I")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
# max_pages, map_alignment, flags2, and room
INIT_OUT = Struct("=IIIIHHIIHHI28x")

FORGET_IN = Struct("=Q")  # nlookup
BATCH_FORGET_IN = Struct("=II")  # count, -
FORGET_ONE = Struct("=QQ")  # node, nlookup
SETATTR_IN = Struct("=IIQQ")  # valid, -, fh, size, and what nobody may change
OPEN_IN = Struct("=II")  # flags, -
OPEN_OUT = Struct("=QII")  # fh, FOPEN_*, -
READ_IN = Struct("=QQIIQI")  # fh, offset, size, -, lock owner, flags of the open file
WRITE_IN = READ_IN  # the same fields; the data follows
WRITE_DATA = HEAD_SIZE + 40
WRITE_OUT = Struct("=II")  # size, -
RELEASE_IN = Struct("=Q")  # fh, and more
FSYNC_IN = RELEASE_IN
FLUSH_IN = RELEASE_IN
MKDIR_IN = Struct("=II")  # mode, umask; the name follows
RENAME_IN = Struct("=Q")  # the new directory; the two names follow
RENAME2_IN = Struct("=QII")  # the new directory, flags, -; the two names follow
INTERRUPT_IN = Struct("=Q")  # unique of the request that is given up
POLL_IN = Struct("=QQII")  # fh, kh, flags, events
POLL_OUT = Struct("=II")  # revents, -
FALLOCATE_IN = Struct("=QQQI")  # fh, offset, length, mode
LSEEK_IN = Struct("=QQI")  # fh, offset, whence
LSEEK_OUT = Struct("=Q")  # offset
DIRENT = Struct("=QQII")  # ino, offset of the next, length of the name, type; padded to 8
# blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, and room
STATFS_OUT = Struct("=QQQQQIII28x")

# ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, -
_ATTR = "QQQQQQIIIIIIIIII"
ATTR_OUT = Struct("=QII" + _ATTR)  # seconds and nanoseconds that it is valid, -, the attributes
# node, generation, seconds that the entry and the attributes are valid, nanoseconds of both
ENTRY_OUT = Struct("=QQQQII" + _ATTR)

NOTIFY_POLL = 1  # in the error field of a reply to no request
NOTIFY_POLL_OUT = Struct("=Q")  # kh

# -- flags --------------------------------------------------------------------------------------

INIT_ASYNC_READ = 1 << 0
INIT_BIG_WRITES = 1 << 5
INIT_ASYNC_DIO = 1 << 15
INIT_PARALLEL_DIROPS = 1 << 18
INIT_MAX_PAGES = 1 << 22
INIT_EXT = 1 << 30  # there is a second word of flags
INIT2_DIRECT_IO_ALLOW_MMAP = 1 << 4  # bit 36, Linux 6.6

FOPEN_DIRECT_IO = 1 << 0
FOPEN_NONSEEKABLE = 1 << 2
FOPEN_STREAM = 1 << 4
FOPEN_NOFLUSH = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES = 1 << 6

SETATTR_MODE = 1 << 0
SETATTR_UID = 1 << 1
SETATTR_GID = 1 << 2
SETATTR_SIZE = 1 << 3
SETATTR_FH = 1 << 6

POLL_SCHEDULE_NOTIFY = 1 << 0

RENAME_NOREPLACE = 1 << 0  # linux/fs.h; the other flags exchange files, or leave one behind

# linux/falloc.h
FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_ZERO_RANGE = 0x10

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Attributes:
    """What ``stat`` shows; ``mode`` with the type, ``size`` in bytes, ``time`` in seconds."""

    ino: int
    mode: int
    size: int = 0
    links: int = 1
    uid: int = 0
    gid: int = 0
    time: int = 0

    def _fields(self) -> tuple[int, ...]:
        time = self.time
        blocks = -(-self.size // 512)
        return (
            *(self.ino, self.size, blocks, time, time, time, 0, 0, 0),
            *(self.mode, self.links, self.uid, self.gid, 0, PAGE, 0),
        )

    def reply(self) -> bytes:
        """To GETATTR and SETATTR; valid for no time at all: devices change any time."""
        return ATTR_OUT.pack(0, 0, 0, *self._fields())

    def entry(self) -> bytes:
        """To LOOKUP and MKDIR."""
        return ENTRY_OUT.pack(self.ino, 0, 0, 0, 0, 0, *self._fields())
