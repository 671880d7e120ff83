# SPDX-License-Identifier: Apache-2.0
"""Following events (docs/control-protocol.md, ``events``), over the end of one core into the next."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import struct
import time
from types import TracebackType
from typing import Any, Self

from dmtool.client import ENDING, Client, ClientError
from dmtool.directory import Directory
from dmtool.errors import CoreError, os_reason

# sys/inotify.h
_CLOEXEC = 0o2000000
_CREATE, _MOVED_TO, _DELETE_SELF, _IGNORED = 0x100, 0x80, 0x400, 0x8000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


class CoreGone(CoreError):
    """{reason}

    The core that was followed has ended, or was killed.
    """


class Follower(Client):
    """A connection that events come over.

    ``finished``: the device that was followed is gone. ``reader``: a descriptor that is written to;
    when the other end of its pipe is closed there is no use in waiting. Threads: one.
    """

    def __init__(
        self, directory: Directory | None = None, *, start: bool = True, reader: int = -1
    ) -> None:
        super().__init__(directory, start=start)
        self.finished = False
        self.reader = reader

    def begin(self, **params: Any) -> dict[str, Any]:
        """Follow all devices, or ``device``; the first notification, ``follow``: no event after it
        is missed. Raises as ``call``; CoreError ECONNREFUSED where no core runs and none may be
        started."""
        for _ in range(3):
            self.close()
            self._connect()
            line = {"jsonrpc": "2.0", "id": self._next_id(), "method": "events", "params": params}
            try:
                self._send(json.dumps(line).encode("ascii") + b"\n")
                first = self._message(None)
            except (CoreGone, BrokenPipeError, ConnectionResetError):
                continue
            if first is not None:
                return first
        raise CoreError(
            "the core process ends without answering",
            hint=f"see {self.directory.log}",
            errno=errno.ECONNRESET,
        )

    def next(self, seconds: float | None = None) -> dict[str, Any] | None:
        """The next event; None after so many seconds without one, when the ``reader`` has gone, or
        when ``finished``. Raises CoreGone."""
        try:
            return self._message(seconds)
        except ConnectionResetError:
            raise _gone() from None
        except OSError as error:
            raise CoreGone(os_reason(error), errno=error.errno or errno.EIO) from None

    def _message(self, seconds: float | None) -> dict[str, Any] | None:
        assert self._socket is not None
        end = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._received:
            left = None if end is None else max(end - time.monotonic(), 0)
            if not ready(self._socket.fileno(), left, self.reader):
                return None
            data = self._socket.recv(1 << 20)
            if not data:
                raise _gone()
            self._received += data
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return self._meant(json.loads(line))

    def _meant(self, message: dict[str, Any]) -> dict[str, Any] | None:
        if message.get("method") == "event":
            event: dict[str, Any] = message["params"]
            return event
        error = message.get("error")
        if error is None:
            self.finished = True
            return None
        if error.get("code") == ENDING:
            raise _gone()
        raise ClientError(error.get("code", 0), error.get("message", ""), error.get("data"))


def _gone() -> CoreGone:
    return CoreGone("the core process has ended", errno=errno.ECONNRESET)


def ready(fd: int, seconds: float | None, reader: int = -1) -> bool:
    """Wait until ``fd`` can be read. False: time is up, or nobody reads from ``reader``."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if reader >= 0:
        poll.register(reader, 0)  # POLLERR, which is always told: the pipe's other end is closed
    found = dict(poll.poll(None if seconds is None else seconds * 1000))
    return fd in found


class Arrival:
    """Tells when a core may have come to a directory: its sockets are made (inotify(7)).

    Threads: one.
    """

    def __init__(self, directory: Directory) -> None:
        """The directory is made if it is not there. Raises CoreError."""
        directory.prepare()
        self.directory = directory
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_CLOEXEC)
        mask = _CREATE | _MOVED_TO | _DELETE_SELF
        path = os.fsencode(directory.path)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, path, mask) < 0:
            number = ctypes.get_errno()
            self.close()
            raise CoreError(f"cannot watch {directory.path}: {os.strerror(number)}", errno=number)

    def wait(self, reader: int = -1) -> bool:
        """Return when something was made there since the last time; False if nobody reads from
        ``reader`` any more. Raises CoreError when the directory is gone."""
        if not ready(self._fd, None, reader):
            return False
        data = os.read(self._fd, 1 << 16)
        while data:
            _, mask, _, length = _EVENT.unpack_from(data)
            if mask & (_DELETE_SELF | _IGNORED):
                raise CoreError(f"{self.directory.path} was removed", errno=errno.ENOENT)
            data = data[_EVENT.size + length :]
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
