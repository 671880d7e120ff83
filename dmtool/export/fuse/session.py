# SPDX-License-Identifier: Apache-2.0
"""One mount's connection to the kernel: requests are read, and replies written, here.

One thread, the reader, reads requests and does all that cannot wait by itself: a request that is
handed to another thread costs several times as much. A watch sees to it that a reader which does
wait, for whatever reason, is replaced: so no file hangs because of another. (An image may lie on
a file system on a loop device on another file of the same mount: then a write to it may wait for
a request that the same reader has to read.)

After a request the reader tries for a moment to find the next one before it sleeps, if that has
paid lately: to be woken costs more than the request.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import select
import threading
import time
from collections import deque
from typing import Protocol

from dmtool.backing import Bytes
from dmtool.export.fuse import mount as m
from dmtool.export.fuse import protocol as p

log = logging.getLogger(__name__)

# Bytes of one read or write. Larger requests are cut by the kernel, and the parts are under way
# together; a buffer of this size stays in the processor's cache.
READ_MOST = 256 << 10
WRITE_MOST = 512 << 10
# Requests that the kernel has under way besides those that a program waits for: asynchronous I/O of
# all devices together. Those of a suspended one must leave some for the others; a loop device alone
# has 128, and each may be cut in several.
_BACKGROUND_MOST = 2048

# Seconds; with one processor who tries keeps away whom he waits for.
_SPIN_MOST = 50e-6 if len(os.sched_getaffinity(0)) > 1 else 0.0
_SOON = 100e-6  # seconds
_TICK = 0.02  # seconds; a reader that is as long at one request is replaced
_IDLE_TICKS = 50

_PATIENCE = 1.0  # seconds
_QUEUE_MOST = 4096  # requests; more do not wait to be read

_SMALL = 16 << 10
# Why a reply is not taken: the request was given up, or the mount is gone.
_GONE = (errno.ENOENT, errno.ENODEV, errno.EPERM, errno.ECONNABORTED)


class Incoming:
    """A reader's buffer, with the request that it has read.

    Threads: one.
    """

    __slots__ = ("buffers", "length", "view")

    def __init__(self) -> None:
        self.length = 0
        self._renew()

    def _renew(self) -> None:
        # what is written begins with a page: so it is copied faster
        begin = mmap.PAGESIZE - p.WRITE_DATA
        self.view = memoryview(mmap.mmap(-1, mmap.PAGESIZE + WRITE_MOST + p.PAGE))[begin:]
        self.buffers = [self.view]

    @property
    def pid(self) -> int:
        """The thread that made the request; 0 where the kernel did of its own accord."""
        number: int = p.PID.unpack_from(self.view, p.PID_AT)[0]
        return number

    def body(self, begin: int = 0) -> memoryview:
        """What follows the header, and its first ``begin`` bytes."""
        return self.view[p.HEAD_SIZE + begin : self.length]

    def name(self, begin: int = 0) -> str:
        """The one name of a request."""
        return os.fsdecode(bytes(self.body(begin)).split(b"\0", 1)[0])

    def take(self, begin: int, length: int) -> memoryview:
        """Bytes of the request, to keep: the next request goes elsewhere."""
        if length <= _SMALL:
            return memoryview(bytes(self.view[begin : begin + length]))
        view = self.view
        self._renew()
        return view[begin : begin + length]


class Filesystem(Protocol):
    """What answers the requests."""

    def answer(self, opcode: int, unique: int, node: int, incoming: Incoming) -> None:
        """Reply to a request, now or later, by Session.reply or fail; what is raised is the
        reply too. Must not wait for anything that may take long: ``incoming`` is only valid
        until this returns."""

    def ended(self) -> None:
        """The mount is gone: nothing that was open is so any more."""


class Session:
    """A mount.

    Threads: ``start`` and ``close`` belong to one thread; the replies to any. ``answer`` of the
    file system is called by the reader, in exceptional cases by several readers at once.
    """

    def __init__(self, mountpoint: str, filesystem: Filesystem) -> None:
        self.mountpoint = mountpoint
        self.minor = 0  # of the kernel's protocol; 0: it has not spoken yet
        self._filesystem = filesystem
        self._fd = -1
        self._reader: object = None
        self._number = 0
        self._handling = 0  # number of the request that the reader is at, 0: none
        self._sleeping = False
        self._spin = 0.0
        self._active = threading.Event()
        self._ended = threading.Event()
        self._greeted = threading.Event()
        self._wake_fd = -1  # both stay open: who comes late writes into nothing else
        self._closed = False
        # who wait for the queue to be empty, or so many requests to have been read
        self._settling: deque[tuple[threading.Event, int]] = deque()
        self._threads: list[threading.Thread] = []

    @property
    def requests(self) -> int:
        """How many have been read so far."""
        return self._number

    @property
    def alive(self) -> bool:
        """Whether it is mounted, as far as the kernel has told."""
        return self._fd >= 0 and not self._ended.is_set()

    # -- beginning and end ----------------------------------------------------------------------

    def start(self) -> None:
        """Mount and serve. Raises FuseUnavailable."""
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fd = m.mount(self.mountpoint, READ_MOST)
        try:
            self._start("fuse-watch", self._watch)
            self._new_reader()
        except RuntimeError as error:  # the system has no thread for us
            self.close()
            raise m.FuseUnavailable(f"{self.mountpoint}: {error}") from None
        self._greeted.wait()
        if not self.minor:
            self.close()
            raise m.FuseUnavailable(f"the kernel's FUSE is older than {p.VERSION}.{p.MINOR_LEAST}")

    def close(self) -> None:
        """Unmount and end. Requests that are still open fail with ENOTCONN."""
        if self._fd < 0 or self._closed:
            return
        self._closed = True
        try:
            m.unmount(self.mountpoint)  # the helper may look at the mount: the reader still reads
        except OSError as error:
            if error.errno != errno.EINVAL:  # somebody else has unmounted it
                log.warning("unmount %s: %s", self.mountpoint, error.strerror)
        self._end()
        for thread in self._threads:
            thread.join(_PATIENCE)  # one that was replaced may be waiting still
        self._disconnect()

    def _disconnect(self) -> None:
        """End the connection. The number stays taken, so that a late reply goes nowhere rather
        than into another file."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self._fd, inheritable=False)
        os.close(null)

    def settle(self) -> None:
        """Wait until all that the kernel had to tell when this was called was read and done.

        Nothing is asked of the kernel for it: a process that is killed while it waits for an
        answer from itself does not die.
        """
        if not self.alive:
            return
        settled = threading.Event()
        self._settling.append((settled, self._number + _QUEUE_MOST))
        os.eventfd_write(self._wake_fd, 1)
        settled.wait(_PATIENCE)

    def __del__(self) -> None:
        for fd in (self._fd, self._wake_fd):
            if fd >= 0:
                os.close(fd)

    def _end(self) -> None:
        self._reader = None
        self._ended.set()
        os.eventfd_write(self._wake_fd, 1)
        self._active.set()
        self._greeted.set()

    def _start(self, name: str, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    # -- reading --------------------------------------------------------------------------------

    def _new_reader(self) -> None:
        self._threads = [t for t in self._threads if t.is_alive()]
        before = self._reader, self._handling
        self._reader, self._handling = (me := object()), 0
        try:
            self._start("fuse", self._read, me)
        except RuntimeError:  # the system has no thread left for us: tried again at the next tick
            self._reader, self._handling = before
            if self._reader is None:
                raise

    def _read(self, me: object) -> None:
        """Read requests until another thread is the reader, or the mount is gone."""
        fd, readv, unpack = self._fd, os.readv, p.FRONT.unpack_from
        answer = self._filesystem.answer
        incoming = Incoming()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        while self._reader is me:
            try:
                incoming.length = readv(fd, incoming.buffers)
            except BlockingIOError:
                if not (self._settled(incoming) if self._settling else self._next(incoming)):
                    self._sleep(poll)
                    continue
            except OSError as error:
                if error.errno == errno.ENOENT:
                    continue  # it was given up while it was read
                if error.errno == errno.ENODEV:
                    log.info("%s was unmounted", self.mountpoint)
                else:
                    log.error("%s: %s", self.mountpoint, error.strerror)
                self._end()
                self._disconnect()  # nobody will read what comes from now on
                self._filesystem.ended()
                return
            _, opcode, unique, node = unpack(incoming.view)
            # more than one reader only where one was replaced: numbers need not be consecutive
            self._number += 1
            self._handling = self._number
            try:
                answer(opcode, unique, node, incoming)
            except OSError as error:
                self.fail(unique, error.errno or errno.EIO)
            except Exception:  # whatever is wrong, the mount lives on
                log.exception("%s: request %d", self.mountpoint, opcode)
                if opcode not in p.SILENT:
                    self.fail(unique, errno.EIO)
            if self._reader is me:
                self._handling = 0

    def _next(self, incoming: Incoming) -> bool:
        """Try for a moment to get the next request."""
        if not self._spin:
            return False
        fd, buffers, readv, clock = self._fd, incoming.buffers, os.readv, time.monotonic
        until = clock() + self._spin
        while clock() < until:
            try:
                incoming.length = readv(fd, buffers)
            except BlockingIOError:
                continue
            except OSError:
                return False  # the reader meets it again
            return True
        return False

    def _settled(self, incoming: Incoming) -> bool:
        """Get the next request, or tell who wait for that: there was none after they came."""
        waiting = []
        while self._settling:
            waiting.append(self._settling.popleft())
        try:
            incoming.length = os.readv(self._fd, incoming.buffers)
        except BlockingIOError:
            for settled, _ in waiting:
                settled.set()
            return False
        except OSError:
            return False
        finally:
            self._settling.extend(one for one in waiting if not one[0].is_set())
        return True

    def _sleep(self, poll: select.poll) -> None:
        """Until there is a request. If it came at once, trying would have been worth it."""
        began = time.monotonic()
        self._sleeping = True
        ready = poll.poll()
        self._sleeping = False
        if (self._wake_fd, select.POLLIN) in ready and not self._ended.is_set():
            os.eventfd_read(self._wake_fd)
        if not self._active.is_set():
            self._active.set()
        self._spin = _SPIN_MOST if time.monotonic() - began < _SOON else 0.0

    def _watch(self) -> None:
        """Replace a reader that has been at one request for too long. Sleeps when it does."""
        seen = quiet = 0
        while not self._ended.wait(_TICK):
            handling = self._handling
            if handling and handling == seen:
                log.debug("%s: a request takes long, another thread reads on", self.mountpoint)
                self._new_reader()
            for settled, number in list(self._settling):
                if number <= self._number:
                    settled.set()
            quiet = quiet + 1 if self._sleeping else 0
            seen = handling
            if quiet > _IDLE_TICKS:
                self._active.clear()
                # the reader first says that it is awake, then looks whether the watch is
                if not self._sleeping:
                    self._active.set()
                self._active.wait()
                quiet = 0

    # -- replies --------------------------------------------------------------------------------

    def reply(self, unique: int, *parts: Bytes) -> bool:
        """The request was done; ``parts`` are what its reply consists of. False: nobody wants to
        know any more."""
        length = p.OUT_SIZE + sum(map(len, parts))
        return self._write([p.OUT.pack(length, 0, unique), *parts])

    def fail(self, unique: int, number: int) -> None:
        """The request failed with an errno."""
        self._write([p.OUT.pack(p.OUT_SIZE, -number, unique)])

    def notify_poll(self, kh: int) -> None:
        """Who polls the file that ``kh`` came with is to ask again."""
        length = p.OUT_SIZE + p.NOTIFY_POLL_OUT.size
        self._write([p.OUT.pack(length, p.NOTIFY_POLL, 0), p.NOTIFY_POLL_OUT.pack(kh)])

    def _write(self, parts: list[Bytes]) -> bool:
        try:
            os.writev(self._fd, parts)
        except OSError as error:
            if error.errno not in _GONE:
                log.warning("%s: reply: %s", self.mountpoint, error.strerror)
            return False
        return True

    def greet(self, unique: int, incoming: Incoming) -> None:
        """Reply to INIT."""
        major, minor, readahead, flags = p.INIT_IN.unpack(incoming.body()[: p.INIT_IN.size])
        if major > p.VERSION:
            # it asks again, in our version
            self.reply(unique, p.INIT_OUT.pack(p.VERSION, p.MINOR, *[0] * 9))
            return
        if major < p.VERSION or minor < p.MINOR_LEAST:
            self.fail(unique, errno.EPROTO)
            self._greeted.set()
            return
        flags2 = 0
        if flags & p.INIT_EXT:
            flags2 = p.INIT_FLAGS2.unpack(incoming.body(p.INIT_IN.size)[: p.INIT_FLAGS2.size])[0]
        wanted = p.INIT_ASYNC_READ | p.INIT_BIG_WRITES | p.INIT_ASYNC_DIO
        wanted |= p.INIT_PARALLEL_DIROPS | p.INIT_MAX_PAGES | p.INIT_EXT
        self.reply(
            unique,
            p.INIT_OUT.pack(
                *(p.VERSION, min(minor, p.MINOR), readahead, flags & wanted),
                *(_BACKGROUND_MOST, _BACKGROUND_MOST * 3 // 4),
                *(WRITE_MOST, 1, WRITE_MOST // mmap.PAGESIZE, 0),
                flags2 & p.INIT2_DIRECT_IO_ALLOW_MMAP,
            ),
        )
        self.minor = minor
        self._greeted.set()
