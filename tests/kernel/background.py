# SPDX-License-Identifier: Apache-2.0
"""A write to a mapped device that nobody waits for: it may be held until the device is suspended."""

from __future__ import annotations

import fcntl
import select
import struct
import termios
from contextlib import ExitStack

from dmtool.export.nbd import protocol as p
from tests.kernel.bench import Bench
from tests.kernel.disks import SECTOR

PATIENCE = 60  # seconds until a test that waits in vain fails


class Background:
    """``data`` written to sector ``sector`` of the mapped device ``name``, on a connection of its
    own.

    Threads: one.
    """

    def __init__(self, bench: Bench, name: str, sector: int, data: bytes) -> None:
        self.name = name
        self._opened = ExitStack()
        self._sock = self._opened.enter_context(bench.opened(name)).sock
        header = p.REQUEST.pack(
            p.REQUEST_MAGIC, 0, p.CMD_WRITE, bytes(8), sector * SECTOR, len(data)
        )
        self._sock.sendall(header + data)
        while _unread(self._sock.fileno()):  # until the core has taken it
            bench.client.call("version")

    @property
    def answered(self) -> bool:
        """Whether ``result`` will not have to wait."""
        return self._answered(0)

    def result(self) -> int:
        """Wait for the answer: 0 or an errno. The connection is closed then."""
        assert self._answered(PATIENCE), "the write is held still"
        answer = self._sock.recv(p.SIMPLE_REPLY.size)
        self._opened.close()
        number: int = p.SIMPLE_REPLY.unpack(answer)[1]
        return number

    def _answered(self, seconds: int) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def _unread(fd: int) -> int:
    """Bytes that were sent and that the other end of a unix socket has not yet received."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))
    return int(count)
