# SPDX-License-Identifier: Apache-2.0
"""What both file systems are made of: nodes, directories, open files.

Nothing is remembered by the kernel: entries and attributes are valid for no time at all, so that
devices come, change and go at once.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from dmtool.export.fuse import protocol as p
from dmtool.export.fuse.session import Incoming, Session

log = logging.getLogger(__name__)

Answer = Callable[[int, int, Incoming], None]


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Node(ABC):
    """A file or directory; ``id`` is its number, for the kernel and for users (``ino``)."""

    id: int

    @abstractmethod
    def attributes(self) -> p.Attributes:
        """What ``stat`` shows of it."""


class Directory(Node):
    """A node with others in it."""

    def lookup(self, name: str) -> Node:
        """Raises OSError ENOENT."""
        raise error(errno.ENOENT)

    def entries(self) -> list[tuple[str, int, int]]:
        """``[(name, number, type bits of the mode), ...]``."""
        return []


@dataclass
class Listing:
    """An open directory: what is in it does not change while it is read."""

    directory: Directory
    entries: list[bytes] = field(default_factory=list)

    def fill(self) -> None:
        """Look at what is in it."""
        here = [(".", self.directory.id, stat.S_IFDIR), ("..", p.ROOT, stat.S_IFDIR)]
        self.entries = []
        for number, (name, ino, kind) in enumerate([*here, *self.directory.entries()], 1):
            raw = os.fsencode(name)
            entry = p.DIRENT.pack(ino, number, len(raw), kind >> 12) + raw
            self.entries.append(entry + bytes(-len(entry) % 8))


class Tree:
    """A file system; a subclass says what is in it.

    Threads: ``answer`` by the reader, now and then by two; ``_lock`` guards nodes and handles.
    """

    session: Session

    def __init__(self, root: Directory) -> None:
        self.time = int(time.time())
        self._lock = threading.Lock()
        self._nodes: dict[int, tuple[Node, int]] = {p.ROOT: (root, 1)}  # with how often known
        self._handles: dict[int, object] = {}
        self._next_handle = itertools.count(1)
        self._answers: dict[int, Answer] = {
            p.INIT: lambda unique, _, incoming: self.session.greet(unique, incoming),
            p.LOOKUP: self._lookup,
            p.FORGET: self._forget,
            p.BATCH_FORGET: self._batch_forget,
            p.GETATTR: self._getattr,
            p.OPENDIR: self._opendir,
            p.READDIR: self._readdir,
            p.RELEASEDIR: self._release,
            p.RELEASE: self._release,
            p.STATFS: self._statfs,
            p.INTERRUPT: lambda _, __, incoming: self.interrupt(
                p.INTERRUPT_IN.unpack(incoming.body())[0]
            ),
            p.DESTROY: lambda *_: None,
            # no kind of file can be made by a program, and none removed; but see control.py
            **dict.fromkeys(p.CHANGES, self._refuse),
        }

    def answer(self, opcode: int, unique: int, node: int, incoming: Incoming) -> None:
        """Reply to one request."""
        found = self._answers.get(opcode)
        if found is None:
            # the kernel does it by itself, or not at all, and mostly does not ask again
            self.session.fail(unique, errno.ENOSYS)
        else:
            found(unique, node, incoming)

    def _refuse(self, unique: int, _: int, __: Incoming) -> None:
        self.session.fail(unique, errno.EPERM)

    def interrupt(self, unique: int) -> None:
        """Somebody who waits for a request has got a signal."""

    def released(self, handle: object) -> None:
        """A file was closed for the last time."""

    def close(self) -> None:
        """Nothing is asked any more."""
        self.ended()

    def ended(self) -> None:
        """The kernel asks nothing more: close what it has open."""
        with self._lock:
            handles = list(self._handles.values())
            self._handles.clear()
        for handle in handles:
            self.released(handle)

    # -- nodes ----------------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        """Raises OSError ESTALE for a number that the kernel should not know."""
        found = self._nodes.get(number)
        if found is None:
            raise error(errno.ESTALE)
        return found[0]

    def _directory(self, number: int) -> Directory:
        node = self.node(number)
        if not isinstance(node, Directory):
            raise error(errno.ENOTDIR)
        return node

    def enter(self, unique: int, node: Node) -> None:
        """Reply with a node, which the kernel knows once more then."""
        entry = node.attributes().entry()
        with self._lock:
            node, known = self._nodes.get(node.id, (node, 0))
            self._nodes[node.id] = node, known + 1
        self.session.reply(unique, entry)

    def _lookup(self, unique: int, number: int, incoming: Incoming) -> None:
        self.enter(unique, self._directory(number).lookup(incoming.name()))

    def _forget(self, _: int, number: int, incoming: Incoming) -> None:
        self._known_less(number, p.FORGET_IN.unpack(incoming.body())[0])

    def _batch_forget(self, _: int, __: int, incoming: Incoming) -> None:
        count, _ = p.BATCH_FORGET_IN.unpack(incoming.body()[: p.BATCH_FORGET_IN.size])
        body = incoming.body(p.BATCH_FORGET_IN.size)[: count * p.FORGET_ONE.size]
        for number, times in p.FORGET_ONE.iter_unpack(body):
            self._known_less(number, times)

    def _known_less(self, number: int, times: int) -> None:
        with self._lock:
            node, known = self._nodes.get(number, (None, 0))
            if node is None or number == p.ROOT:
                return
            if known > times:
                self._nodes[number] = node, known - times
            else:
                del self._nodes[number]

    def _getattr(self, unique: int, number: int, _: Incoming) -> None:
        self.session.reply(unique, self.node(number).attributes().reply())

    def _statfs(self, unique: int, _: int, __: Incoming) -> None:
        # a loop device discards in units of bsize
        self.session.reply(unique, p.STATFS_OUT.pack(0, 0, 0, 0, 0, p.PAGE, 255, p.PAGE))

    # -- handles --------------------------------------------------------------------------------

    def opened(self, unique: int, handle: object, flags: int = 0) -> None:
        """Reply with a file or directory that is open from now on; ``flags`` FOPEN_*."""
        number = next(self._next_handle)
        with self._lock:
            self._handles[number] = handle
        if not self.session.reply(unique, p.OPEN_OUT.pack(number, flags, 0)):
            self._closed(number)  # of what nobody has open no release is told

    def _closed(self, number: int) -> None:
        with self._lock:
            handle = self._handles.pop(number, None)
        if handle is not None:
            self.released(handle)

    def handle(self, number: int) -> object:
        """Raises OSError EBADF."""
        try:
            return self._handles[number]
        except KeyError:
            raise error(errno.EBADF) from None

    def handles(self) -> list[object]:
        """All that are open."""
        with self._lock:
            return list(self._handles.values())

    def _release(self, unique: int, _: int, incoming: Incoming) -> None:
        self._closed(p.RELEASE_IN.unpack_from(incoming.body())[0])
        self.session.reply(unique)

    def _opendir(self, unique: int, number: int, _: Incoming) -> None:
        self.opened(unique, Listing(self._directory(number)))

    def _readdir(self, unique: int, _: int, incoming: Incoming) -> None:
        number, offset, size = p.READ_IN.unpack_from(incoming.body())[:3]
        listing = self.handle(number)
        assert isinstance(listing, Listing)
        if not offset:
            listing.fill()
        parts: list[bytes] = []
        for entry in itertools.islice(listing.entries, offset, None):
            size -= len(entry)
            if size < 0:
                break
            parts.append(entry)
        self.session.reply(unique, b"".join(parts))
