# SPDX-License-Identifier: Apache-2.0
"""``mapper/``: every mapped device is a regular file of its size, which any program can open.

Reads and writes go past the kernel's page cache, so that what was written over NBD, through a
device on top or below another table is seen at once, and nothing is cached twice. A shared
mapping of a file into memory is cached, as far as the kernel can do that (Linux 6.6).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from weakref import WeakKeyDictionary

from dmtool.backing import ZERO
from dmtool.device import MappedDevice
from dmtool.export.fuse import protocol as p
from dmtool.export.fuse.emptied import Emptied
from dmtool.export.fuse.session import Incoming
from dmtool.export.fuse.transfer import Lane, Transfer
from dmtool.export.fuse.tree import Directory, Node, Tree, error
from dmtool.export.fuse.views import Access, DevicesView
from dmtool.names import mangle

_OPEN = p.FOPEN_DIRECT_IO | p.FOPEN_PARALLEL_DIRECT_WRITES | p.FOPEN_NOFLUSH
# Bytes of which the allocation is asked at a time: few at first, for small chunks of a stripe
# make many extents, and more where nothing changes.
_SEEK_FIRST, _SEEK_MOST = 1 << 20, 1 << 30


def device_name(name: str) -> str:
    """The mangled name of a device from that of its file, which may be either form."""
    try:
        return mangle(name)
    except ValueError:
        raise error(errno.ENOENT) from None


class Numbers:
    """Numbers of devices, which neither change while a device lives nor come again.

    Threads: any.
    """

    def __init__(self) -> None:
        self._given: WeakKeyDictionary[MappedDevice, int] = WeakKeyDictionary()
        self._next = count(p.ROOT + 1)
        self._lock = threading.Lock()

    def of(self, device: MappedDevice) -> int:
        with self._lock:
            number = self._given.get(device)
            if number is None:
                number = self._given[device] = next(self._next)
            return number


class DeviceFile(Node):
    """A mapped device as a file."""

    def __init__(self, tree: MapperTree, device: MappedDevice, number: int) -> None:
        self.id = number
        self.device = device
        self.lane = Lane(device)
        self._tree = tree

    def attributes(self) -> p.Attributes:
        access = self._tree.view.access(self.device)
        mode = 0o600 if access.mode is None else access.mode & 0o777
        if self.device.readonly:
            mode &= ~0o222
        return owned(access, self.id, stat.S_IFREG | mode, self.device.size, self._tree.time)

    def __del__(self) -> None:
        self.lane.close()


def owned(
    access: Access, ino: int, mode: int, size: int, time: int, links: int = 1
) -> p.Attributes:
    uid = os.getuid() if access.uid is None else access.uid
    gid = os.getgid() if access.gid is None else access.gid
    return p.Attributes(ino, mode, size, links, uid, gid, time)


class Mapper(Directory):
    """The root: all devices."""

    id = p.ROOT

    def __init__(self, tree: MapperTree) -> None:
        self._tree = tree

    def attributes(self) -> p.Attributes:
        return owned(Access(), self.id, stat.S_IFDIR | 0o755, 0, self._tree.time, 2)

    def lookup(self, name: str) -> Node:
        device = self._tree.view.lookup(device_name(name))
        if device is None:
            raise error(errno.ENOENT)
        return self._tree.file(device)

    def entries(self) -> list[tuple[str, int, int]]:
        view, numbers = self._tree.view, self._tree.numbers
        found = [(name, view.lookup(name)) for name in view.names()]
        return [(name, numbers.of(dev), stat.S_IFREG) for name, dev in found if dev is not None]


@dataclass(eq=False)
class OpenFile:
    """A device's file that somebody has open; ``opener`` is the thread that opened it."""

    file: DeviceFile
    writable: bool
    opener: int
    emptied: bool = False


class MapperTree(Tree):
    """The file system of the devices."""

    def __init__(self, view: DevicesView) -> None:
        super().__init__(Mapper(self))
        self.view = view
        self.numbers = Numbers()
        self._transfers = threading.local()
        self._answers |= {
            p.OPEN: self._open,
            p.SETATTR: self._setattr,
            p.FSYNC: self._fsync,
            p.FALLOCATE: self._fallocate,
            p.LSEEK: self._lseek,
        }

    def file(self, device: MappedDevice) -> DeviceFile:
        """The file of a device: the one that the kernel knows, or a new one."""
        number = self.numbers.of(device)
        known = self._nodes.get(number)
        if known is not None and isinstance(known[0], DeviceFile):
            return known[0]
        return DeviceFile(self, device, number)

    def answer(self, opcode: int, unique: int, node: int, incoming: Incoming) -> None:
        if opcode == p.READ:
            self._read(unique, incoming)
        elif opcode == p.WRITE:
            self._write(unique, incoming)
        else:
            super().answer(opcode, unique, node, incoming)

    def released(self, handle: object) -> None:
        if isinstance(handle, OpenFile):
            lane = handle.file.lane
            if handle.emptied and not any(
                other.emptied for other in self._open_files(handle.file) if other is not handle
            ):
                lane.emptied = None
            handle.file.device.close()

    # -- bytes ----------------------------------------------------------------------------------

    def _transfer(self) -> Transfer:
        try:
            transfer: Transfer = self._transfers.own
        except AttributeError:
            transfer = self._transfers.own = Transfer()
        return transfer

    def _read(self, unique: int, incoming: Incoming) -> None:
        number, offset, size, *_ = p.READ_IN.unpack_from(incoming.view, p.HEAD_SIZE)
        lane = self._opened(number).file.lane
        data = self._transfer().read(lane, offset, size)
        if data is not None:
            self.session.reply(unique, data)
        else:
            read = partial(_read_all, lane.device, offset, size)
            lane.submit_read(partial(self._late, unique, read))

    def _write(self, unique: int, incoming: Incoming) -> None:
        number, offset, size, _, _, flags = p.WRITE_IN.unpack_from(incoming.view, p.HEAD_SIZE)
        lane = self._opened(number).file.lane
        # as to a block device, of a write across the end the first part is done
        room = lane.device.size - offset
        if 0 < room < size:
            size = room
        sync = bool(flags & os.O_DSYNC)
        data = incoming.view[p.WRITE_DATA : p.WRITE_DATA + size]
        if not sync and lane.emptied is None and self._transfer().write(lane, offset, data):
            self.session.reply(unique, p.WRITE_OUT.pack(size, 0))
            return
        data = incoming.take(p.WRITE_DATA, size)
        lane.submit(partial(self._late, unique, partial(_write_all, lane, offset, data, sync)))

    def _late(self, unique: int, do: Callable[[], bytes]) -> None:
        """Reply from a worker."""
        try:
            self.session.reply(unique, do())
        except OSError as failed:
            self.session.fail(unique, failed.errno or errno.EIO)
        except Exception:
            self.session.fail(unique, errno.EIO)
            raise

    # -- the rest -------------------------------------------------------------------------------

    def _opened(self, number: int) -> OpenFile:
        handle = self.handle(number)
        if not isinstance(handle, OpenFile):
            raise error(errno.EBADF)
        return handle

    def _open_files(self, file: DeviceFile) -> list[OpenFile]:
        return [h for h in self.handles() if isinstance(h, OpenFile) and h.file is file]

    def _open(self, unique: int, number: int, incoming: Incoming) -> None:
        file = self.node(number)
        if not isinstance(file, DeviceFile):
            raise error(errno.EISDIR)
        flags, _ = p.OPEN_IN.unpack(incoming.body())
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable and file.device.readonly:
            raise error(errno.EROFS)  # mode bits do not stop root
        file.device.open()
        self.opened(unique, OpenFile(file, writable, incoming.pid), _OPEN)

    def _setattr(self, unique: int, number: int, incoming: Incoming) -> None:
        node = self.node(number)
        valid, _, handle, size = p.SETATTR_IN.unpack_from(incoming.body())
        if valid & (p.SETATTR_MODE | p.SETATTR_UID | p.SETATTR_GID):
            raise error(errno.EPERM)
        if not valid & p.SETATTR_SIZE or not isinstance(node, DeviceFile):
            self.session.reply(unique, node.attributes().reply())
        elif valid & p.SETATTR_FH:
            self._truncate(unique, node, self._opened(handle), size)
        else:
            self._truncate_by_name(node, size, incoming.pid)
            self.session.reply(unique, node.attributes().reply())

    def _truncate(self, unique: int, node: DeviceFile, opened: OpenFile, size: int) -> None:
        """ftruncate: a device's size is its table's; but see Emptied."""
        emptied = node.lane.emptied
        if not opened.emptied or emptied is None or size > node.device.size:
            raise error(errno.EINVAL)

        def extend() -> bytes:
            emptied.extend(size)
            return node.attributes().reply()

        node.lane.submit(partial(self._late, unique, extend))

    def _truncate_by_name(self, node: DeviceFile, size: int, caller: int) -> None:
        """truncate, which is refused, or the second half of an open with O_TRUNC: the kernel
        tells of both in the same words."""
        own = [f for f in self._open_files(node) if f.writable and f.opener == caller]
        if size or not own:
            raise error(errno.EINVAL)
        own[-1].emptied = True
        node.lane.emptied = Emptied(node.device.write_zeroes)

    def _fsync(self, unique: int, _: int, incoming: Incoming) -> None:
        opened = self._opened(p.FSYNC_IN.unpack_from(incoming.body())[0])
        device = opened.file.device

        def flush() -> bytes:
            device.flush()
            return b""

        opened.file.lane.submit(partial(self._late, unique, flush))

    def _fallocate(self, unique: int, _: int, incoming: Incoming) -> None:
        number, offset, length, mode = p.FALLOCATE_IN.unpack_from(incoming.body())
        file = self._opened(number).file
        hole = mode == p.FALLOC_PUNCH_HOLE | p.FALLOC_KEEP_SIZE
        if not hole and mode & ~p.FALLOC_KEEP_SIZE != p.FALLOC_ZERO_RANGE:
            raise error(errno.EOPNOTSUPP)
        # fallocate of a block device (block/fops.c)
        size = file.device.size
        if offset >= size or (offset + length > size and not mode & p.FALLOC_KEEP_SIZE):
            raise error(errno.EINVAL)
        length = min(length, size - offset)

        def zero() -> bytes:
            _fill(file.lane, offset, length, allocate=not hole)
            return b""

        file.lane.submit(partial(self._late, unique, zero))

    def _lseek(self, unique: int, _: int, incoming: Incoming) -> None:
        number, offset, whence = p.LSEEK_IN.unpack_from(incoming.body())
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise error(errno.EINVAL)
        lane = self._opened(number).file.lane
        find = partial(_seek, lane.device, offset, hole=whence == os.SEEK_HOLE)
        lane.submit_read(partial(self._late, unique, lambda: p.LSEEK_OUT.pack(find())))


def _read_all(device: MappedDevice, offset: int, size: int) -> bytes:
    """The bytes of a range, fewer at the end of the device, which may change meanwhile."""
    while True:
        end = device.size
        length = max(0, min(size, end - offset))
        if not length and device.live is not None:
            return b""
        try:
            return device.read(offset, length)
        except OSError as failed:
            if failed.errno != errno.EINVAL or device.size == end:
                raise


def _write_all(lane: Lane, offset: int, data: memoryview, sync: bool) -> bytes:
    def write() -> None:
        lane.device.write(offset, data, fua=sync)

    emptied = lane.emptied
    if emptied is None:
        write()
    else:
        emptied.write(offset, len(data), write)
    return p.WRITE_OUT.pack(len(data), 0)


def _fill(lane: Lane, offset: int, length: int, *, allocate: bool) -> None:
    def zero() -> None:
        lane.device.write_zeroes(offset, length, allocate=allocate)

    emptied = lane.emptied
    if emptied is None:
        zero()
    else:
        emptied.write(offset, length, zero)


def _seek(device: MappedDevice, offset: int, *, hole: bool) -> int:
    """The first byte from ``offset`` on that is in a hole, or not in one; the end of the device
    counts as a hole. Raises OSError ENXIO if there is none."""
    end = device.size
    if offset >= end:
        raise error(errno.ENXIO)
    step = _SEEK_FIRST
    while offset < end:
        for size, flags in device.block_status(offset, min(step, end - offset)):
            if bool(flags & ZERO) is hole:
                return offset
            offset += size
        step = min(2 * step, _SEEK_MOST)
    if not hole:
        raise error(errno.ENXIO)
    return end
