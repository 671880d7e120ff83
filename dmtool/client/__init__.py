# SPDX-License-Identifier: Apache-2.0
"""The client of the core process: JSON-RPC over the control socket (docs/control-protocol.md).

Every command of the command line starts by importing this module, so it imports little: nothing
that parses tables, loads plugins or scans entry points. What starts a core is in
``dmtool.client.start`` and is imported only then.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
from typing import Any, Self

from dmtool.directory import Directory, locate
from dmtool.errors import CoreError, DmtoolError, os_reason

PROTOCOL = 1
# docs/control-protocol.md, "Errors": the core that answers so has done nothing
ENDING = -32001
INTERNAL = -32603

# Seconds without a word from the core after which it is asked, on another connection, whether it
# is alive; and seconds that it has to answer that, or to take a connection. A command may take
# its time; to be asked for the version takes none.
QUIET, PATIENCE = 10.0, 60.0


class ClientError(DmtoolError):
    """{reason}

    The core refused a request. ``code`` is JSON-RPC's; ``data`` the error object's data, {} where
    the core sent none. ``errno`` is what the ioctl would have returned.
    """

    def __init__(self, code: int, reason: str, data: dict[str, Any] | None = None) -> None:
        self.code = code
        self.data = data or {}
        super().__init__(
            reason=reason,
            errno=self.data.get("errno") or errno.EIO,
            hint=self.data.get("hint"),
        )

    @property
    def causes(self) -> list[dict[str, Any]]:
        """The errors of a table, in the order of its lines; empty for all other errors."""
        return self.data.get("causes") or []


class Client:
    """One connection to the core of a directory; made at the first call. One thread at a time.

    ``start``: start a core where none runs; without it CoreError (ECONNREFUSED) is raised. A core
    that hangs is a CoreError, too (ETIMEDOUT): calls take as long as they take, but only while
    the core answers others. ``again``: where a core ends without having answered, the next one is
    asked; without it that is a CoreError (ECONNRESET), so that what was asked over one connection
    was answered by one core.
    """

    def __init__(
        self, directory: Directory | None = None, *, start: bool = True, again: bool = True
    ) -> None:
        self.directory = directory or locate()
        self._start = start
        self._again = again
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it a ``wait`` that is under way."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._received.clear()

    def call(self, method: str, **params: Any) -> Any:
        """The result of one method. Raises ClientError, or CoreError if no core can be reached."""
        request = {"jsonrpc": "2.0", "id": self._next_id(), "method": method, "params": params}
        line = json.dumps(request).encode("ascii") + b"\n"
        if self._socket is not None:
            answer = self._ask(line)
            if answer is not None:
                return _result(answer)
            if not self._again:
                raise CoreError("the core process has ended", errno=errno.ECONNRESET)
        # A core that is ending closes connections without an answer, and has then done nothing.
        for _ in range(3):
            self._connect()
            answer = self._ask(line)
            if answer is not None:
                return _result(answer)
        raise CoreError(
            "the core process ends without answering",
            hint=f"see {self.directory.log}",
            errno=errno.ECONNRESET,
        )

    def wait_for_end(self) -> None:
        """Return when the core has closed this connection: after ``stop``, when it has ended."""
        if self._socket is not None:
            try:
                while self._receive() is not None:
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
            self.close()

    def _next_id(self) -> int:
        self._id += 1
        return self._id

    def _ask(self, line: bytes) -> dict[str, Any] | None:
        """The answer to one request; None if the core did not take it: ask the next core."""
        assert self._socket is not None
        try:
            self._send(line)
            answer = self._receive()
        except (BrokenPipeError, ConnectionResetError):
            answer = None
        except OSError as error:
            raise CoreError(
                f"the connection to the core process broke: {os_reason(error)}",
                errno=error.errno or errno.EIO,
            ) from None
        if answer is None or (answer.get("error") or {}).get("code") == ENDING:
            self.close()
            return None
        return answer

    def _send(self, line: bytes) -> None:
        assert self._socket is not None
        rest = memoryview(line)
        while rest:
            self._wait(select.POLLOUT)
            rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]

    def _wait(self, events: int) -> None:
        """Until the connection is ready for one of ``events``. Raises CoreError if the core does
        not live."""
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, events)
        quiet = QUIET
        while not poll.poll(quiet * 1000):
            self._check_core(poll)
            quiet *= 2  # a `wait` may take days

    def _check_core(self, answer: select.poll) -> None:
        """Ask the core whether it is alive, until ``answer`` has come. Raises CoreError if not."""
        try:
            with connect(self.directory.control) as other:
                other.sendall(b'{"jsonrpc":"2.0","id":1,"method":"version"}\n')
                answer.register(other, select.POLLIN)
                alive = answer.poll(PATIENCE * 1000)
                answer.unregister(other)
        except BlockingIOError:
            alive = []
        except OSError:
            return  # it has ended, or is about to: our own connection will tell
        if not alive:
            raise _hanging(self.directory)

    def _receive(self) -> dict[str, Any] | None:
        """One line from the core, None at the end of the connection."""
        assert self._socket is not None
        buffer = self._received
        searched = 0
        while (end := buffer.find(b"\n", searched)) < 0:
            searched = len(buffer)
            self._wait(select.POLLIN)
            data = self._socket.recv(1 << 20)
            if not data:
                return None
            buffer += data
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise CoreError("the core process answered with something that is no JSON-RPC answer")
        return answer

    def _connect(self) -> None:
        self.directory.check_socket_paths()
        try:
            self._socket = connect(self.directory.control)
        except (FileNotFoundError, ConnectionRefusedError):
            if not self._start:
                raise CoreError(
                    f"no core process runs in {self.directory.path}", errno=errno.ECONNREFUSED
                ) from None
            from dmtool.client.start import start_core

            self._socket = start_core(self.directory)
        except BlockingIOError:
            raise _hanging(self.directory) from None
        except OSError as error:
            raise CoreError(
                f"cannot reach the core process at {self.directory.control}: {os_reason(error)}",
                errno=error.errno or errno.EIO,
            ) from None


def connect(path: str) -> socket.socket:
    """A connection to the socket at ``path``. Raises OSError, BlockingIOError where nobody has
    taken the connection for ``PATIENCE`` seconds."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # not settimeout: connect(2) of a unix socket that does not block does not wait either
        patience = struct.pack("@ll", *divmod(int(PATIENCE * 1e6), 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        connection.connect(path)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, bytes(len(patience)))
    except BaseException:
        connection.close()
        raise
    return connection


def working_directory() -> str:
    """Where relative paths of a table start: the caller's directory; / if that was removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _hanging(directory: Directory) -> CoreError:
    try:
        with open(directory.lock, encoding="ascii", errors="replace") as file:
            pid = file.read().strip()
    except OSError:
        pid = ""
    return CoreError(
        f"the core process {pid} does not answer",
        hint=f"see {directory.log}; if nothing else helps, kill -9 {pid}: the next command makes "
        "its devices again",
        errno=errno.ETIMEDOUT,
    )


def _result(answer: dict[str, Any]) -> Any:
    error = answer.get("error")
    if error is None:
        return answer.get("result")
    raise ClientError(error.get("code", INTERNAL), error.get("message", ""), error.get("data"))
