# SPDX-License-Identifier: Apache-2.0
"""The control socket: JSON-RPC 2.0, one object a line, a thread a connection.

docs/control-protocol.md is the contract. What the methods do is not known here.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

from dmtool.core.step import CommandFailed

log = logging.getLogger(__name__)

LINE_MAX = 1 << 30  # bytes: a table of ten million lines has some 400 MB
_CHUNK = 1 << 18
_SEND = 1 << 20

PARSE_ERROR, INVALID_REQUEST, NO_METHOD, INVALID_PARAMS = -32700, -32600, -32601, -32602
INTERNAL, FAILED, ENDING = -32603, -32000, -32001


class ProtocolError(Exception):
    """A client's mistake, or the core's end: one of JSON-RPC's own codes, and a text."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Peer(Protocol):
    """What a method may know of the connection it is called over."""

    def fileno(self) -> int:
        """The connection's descriptor, for ``poll``: POLLHUP says that the client is gone."""

    @property
    def ending_fd(self) -> int:
        """Readable when the core is ending."""

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification, before the answer to the request under way. Raises OSError."""

    def following(self) -> AbstractContextManager[None]:
        """The request under way only follows what others do: it is no reason to go on living."""


Dispatch = Callable[[Peer, str, dict[str, Any]], Any]


class Connection:
    """One client.

    Threads: ``serve`` runs in the connection's own thread; ``end`` and ``close`` come from the
    thread that ends the core.
    """

    def __init__(self, sock: socket.socket, server: ControlServer) -> None:
        self._sock = sock
        self._server = server
        self._buffer = bytearray()
        self.follows = False

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def ending_fd(self) -> int:
        return self._server.ending_fd

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self._send({"jsonrpc": "2.0", "method": method, "params": params})

    @contextmanager
    def following(self) -> Iterator[None]:
        self._server.set_following(self, True)
        try:
            yield
        finally:
            self._server.set_following(self, False)

    def serve(self) -> None:
        """Answer requests until the client closes the connection, or the core ends."""
        try:
            while self._next():
                pass
        except OSError as error:
            log.debug("control connection: %s", error)

    def end(self) -> None:
        """No further request is read; the answer under way can still be sent."""
        with suppress(OSError):  # the client was quicker
            # who follows and does not read would be waited for; what it has been sent it keeps
            self._sock.shutdown(socket.SHUT_RDWR if self.follows else socket.SHUT_RD)

    def close(self) -> None:
        with suppress(OSError):
            # wakes a thread that sends to a client which does not read
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _next(self) -> bool:
        # a table of hundreds of megabytes is given up here, not when the next request has come
        line = self._line()
        if line is not None and line.strip():
            self._answer(line)
        return line is not None

    def _line(self) -> bytes | None:
        """The next line; None at the end of the connection."""
        seen = 0
        while (at := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            if seen > LINE_MAX:
                log.warning("control connection: a line of more than %d bytes", LINE_MAX)
                return None
            data = self._sock.recv(_CHUNK)
            if not data:
                return None
            self._buffer += data
        line = bytes(memoryview(self._buffer)[:at])
        if len(self._buffer) > _SEND:
            # give the memory back; `del` of a part keeps all of it
            self._buffer = bytearray(memoryview(self._buffer)[at + 1 :])
        else:
            del self._buffer[: at + 1]
        return line

    def _answer(self, line: bytes) -> None:
        try:
            request = _DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            answer: Any = _error(None, PARSE_ERROR, f"not JSON: {error}")
        else:
            if isinstance(request, list) and request:
                answers = [a for one in request if (a := self._one(one)) is not None]
                answer = answers or None
            else:
                answer = self._one(request)
        if answer is not None:
            self._send(answer)

    def _send(self, message: Any) -> None:
        self._sock.sendall(json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")

    def _one(self, request: Any) -> dict[str, Any] | None:
        """The answer to one request; None for a notification."""
        if not isinstance(request, dict):
            return _error(None, INVALID_REQUEST, "a request is an object")
        number = request.get("id")
        if isinstance(number, bool) or not isinstance(number, int | float | str | None):
            return _error(None, INVALID_REQUEST, "id is a number or a string")
        method, params = request.get("method"), request.get("params", {})
        if request.get("jsonrpc") != "2.0" or not isinstance(method, str):
            return _error(number, INVALID_REQUEST, 'wanted: "jsonrpc": "2.0" and a method')
        if not isinstance(params, dict):
            answer = _error(number, INVALID_PARAMS, "params is an object")
        else:
            answer = self._call(number, method, params)
        return answer if "id" in request else None

    def _call(self, number: Any, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._server.ending:
                raise ProtocolError(ENDING, "the core is ending")
            result = self._server.dispatch(self, method, params)
        except CommandFailed as failed:
            data = failed.data()
            return _error(number, FAILED, data["reason"], data)
        except ProtocolError as error:
            return _error(number, error.code, str(error))
        except Exception:
            # whatever it is, the client gets an answer and the core lives on
            reference = self._server.next_reference()
            log.exception("%s: %s", reference, method)
            return _error(number, INTERNAL, f"a bug in dmtool, see {reference} in the core's log")
        return {"jsonrpc": "2.0", "id": number, "result": result}


def _no_number(word: str) -> float:
    """For what Python takes in JSON, and nobody else."""
    raise ValueError(f"{word} is no JSON number")


def _float(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _no_number(digits)


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_float)


def _error(number: Any, code: int, message: str, data: Any = None) -> dict[str, Any]:
    error = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": number, "error": error}


class ControlServer:
    """The listening socket and its connections.

    Threads: ``listen``, ``start``, ``end``, ``join`` and ``close`` belong to the thread that
    runs the core, in that order; ``lock`` guards ``connections`` and ``ending``.
    """

    def __init__(self, dispatch: Dispatch, changed: Callable[[], None]) -> None:
        """``changed`` is called, from any thread, when a connection has come or gone."""
        self.dispatch = dispatch
        self.lock = threading.Lock()
        self.ending = False
        self.ending_fd = -1
        self._changed = changed
        self._threads: dict[Connection, threading.Thread] = {}
        self._references = 0
        self._path = ""
        self._sock: socket.socket | None = None
        self._acceptor: threading.Thread | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        with self.lock:
            return len(self._threads)

    @property
    def busy(self) -> bool:
        """Whether anybody is connected who does more than follow events."""
        with self.lock:
            return self._busy()

    def _busy(self) -> bool:
        return not all(connection.follows for connection in self._threads)

    def set_following(self, connection: Connection, follows: bool) -> None:
        """Note whether a client only follows events."""
        with self.lock:
            connection.follows = follows
        self._changed()

    def listen(self, path: str) -> None:
        """Bind: from now on clients can connect, and wait to be served. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(path)
            os.chmod(path, 0o600)
            sock.listen(128)
        except OSError:
            sock.close()
            raise
        self._path = path
        self._sock = sock
        self.ending_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def start(self) -> None:
        """Serve."""
        self._acceptor = threading.Thread(target=self._accept, name="control", daemon=True)
        self._acceptor.start()

    def end(self, unless: Callable[[], bool] | None = None) -> bool:
        """Take the socket out of the directory, unless ``unless()`` holds or (given it) a client
        is connected that does more than follow events; whether that was done.

        The decision is taken under the lock under which a client becomes a connection: a client
        is either connected in time, or its connection ends without an answer, or it finds no
        socket; in the last two cases it starts the next core.
        """
        with self.lock:
            if unless is not None and (self._busy() or unless()):
                return False
            self.ending = True
            if self.ending_fd >= 0:
                os.eventfd_write(self.ending_fd, 1)
            if self._path:
                with suppress(FileNotFoundError):  # somebody has tidied up
                    os.unlink(self._path)
            connections = list(self._threads)
        for connection in connections:
            connection.end()
        if self._sock is not None:
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        return True

    def join(self, timeout: float) -> None:
        """Wait until the requests under way are answered, for at most ``timeout`` seconds."""
        if self._acceptor is not None:
            self._acceptor.join()
        with self.lock:
            threads = list(self._threads.values())  # all of them have been started
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def close(self) -> None:
        """Close all connections: what every client of an ending core waits for."""
        with self.lock:
            connections = list(self._threads)
            self._threads.clear()
        for connection in connections:
            connection.close()
        if self._sock is not None:
            self._sock.close()
        if self.ending_fd >= 0:
            os.close(self.ending_fd)
            self.ending_fd = -1

    def next_reference(self) -> str:
        """A name for an entry of the log."""
        with self.lock:
            self._references += 1
            return f"bug {os.getpid()}-{self._references}"

    def _accept(self) -> None:
        assert self._sock is not None
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError as error:
                if self.ending:
                    return
                # out of descriptors: those that are connected are served still
                log.error("control socket: %s", error)
                threading.Event().wait(0.1)
                continue
            try:
                self._admit(sock)
            except Exception:
                # whatever befalls one client, the next one is served
                log.exception("a control connection")
                sock.close()
            self._changed()

    def _admit(self, sock: socket.socket) -> None:
        if not _may(sock):
            sock.close()
            return
        connection = Connection(sock, self)
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="control-client", daemon=True
        )
        with self.lock:
            if self.ending:
                connection.close()
                return
            self._threads[connection] = thread
        try:
            # without the lock: the system may take its time, or refuse
            thread.start()
        except BaseException:
            with self.lock:
                del self._threads[connection]
            raise

    def _serve(self, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            with self.lock:
                if not self.ending:
                    del self._threads[connection]
                    connection.close()
            self._changed()


def _may(sock: socket.socket) -> bool:
    """Whether the peer is the core's own user, or root."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid in (os.geteuid(), 0):
        return True
    log.warning("control connection of uid %d refused", uid)
    return False
