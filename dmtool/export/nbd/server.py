# SPDX-License-Identifier: Apache-2.0
"""The NBD server: listening sockets, and a thread for each connection."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
import threading
import time
from typing import Self
from weakref import WeakKeyDictionary

from dmtool.device import MappedDevice
from dmtool.export.nbd.address import unix_address
from dmtool.export.nbd.connection import Connection
from dmtool.export.nbd.handshake import SECONDS, Handshake, Lookup, Names
from dmtool.export.nbd.outgoing import Gone
from dmtool.export.nbd.workers import Workers

log = logging.getLogger(__name__)

CONNECTIONS_MOST = 512
_READERS_MOST = 32
_WAITERS_MOST = 512  # of one device: who holds I/O for long holds up no other
# What lets a 1 MiB reply go out without waiting for the client in between; the system may allow
# less (net.core.wmem_max).
_SEND_BUFFER = 2 << 20
_CLOSE_SECONDS = 5.0


class NbdServer:
    """Serves all mapped devices by name.

    ``lookup`` is given an export name as a client sent it and answers the device or None;
    ``names`` answers what a client may list. Both are called from connections' threads.

    Threads: ``listen_unix``, ``start`` and ``close`` from one; ``connections`` from any.
    """

    def __init__(self, lookup: Lookup, names: Names, *, handshake_seconds: float = SECONDS) -> None:
        self._lookup = lookup
        self._names = names
        self._handshake_seconds = handshake_seconds
        self._readers = Workers("nbd-reader", _READERS_MOST)
        self._waiters: WeakKeyDictionary[MappedDevice, Workers] = WeakKeyDictionary()
        self._listeners: list[tuple[socket.socket, threading.Thread]] = []
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def connections(self) -> int:
        """Clients that are connected, those in the handshake too."""
        return len(self._clients)

    def listen_unix(self, path: str | os.PathLike[str]) -> None:
        """Listen on a socket of this path, for this user only; a socket that is there already is
        replaced. Raises OSError."""
        name = os.fspath(path)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(name).st_mode):
                os.unlink(name)
        sock = socket.socket(socket.AF_UNIX)
        try:
            with unix_address(name) as address:
                sock.bind(address)
            os.chmod(name, 0o600)
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
        thread = threading.Thread(target=self._accept, args=(sock,), name="nbd-accept", daemon=True)
        self._listeners.append((sock, thread))

    def start(self) -> None:
        """Begin to accept clients."""
        for _, thread in self._listeners:
            thread.start()

    def close(self) -> None:
        """Stop listening and end all connections. Requests under way are finished first, unless
        they take longer than a few seconds: their threads go on by themselves."""
        self._closing.set()
        for sock, thread in self._listeners:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes accept(2)
            if thread.ident is not None:
                thread.join()
            sock.close()
        with self._lock:
            clients = dict(self._clients)
            for sock in clients:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + _CLOSE_SECONDS
        for thread in clients.values():
            thread.join(max(deadline - time.monotonic(), 0))
        self._readers.close()
        with self._lock:
            waiters = list(self._waiters.values())
        for workers in waiters:
            workers.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    # no descriptor or memory left: clients wait in the queue until there is one
                    log.warning("accept: %s", error)
                    self._closing.wait(0.1)
                continue
            if not _may(sock):
                sock.close()
                continue
            if len(self._clients) >= CONNECTIONS_MOST:
                log.warning("more than %d connections", CONNECTIONS_MOST)
                sock.close()
                continue
            thread = threading.Thread(target=self._serve, args=(sock,), name="nbd", daemon=True)
            with self._lock:
                self._clients[sock] = thread
            try:
                thread.start()
            except RuntimeError as error:
                log.warning("a connection: %s", error)
                self._forget(sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            handshake = Handshake(sock, self._lookup, self._names, seconds=self._handshake_seconds)
            export = handshake.run()
            if export is None:
                return
            try:
                sock.settimeout(None)
                waiters = self._waiters_of(export.device)
                Connection(sock, export.device, export.session, self._readers, waiters).serve()
            finally:
                export.device.close()
        except (Gone, OSError):
            pass  # the client went, or could not be understood
        except Exception:
            log.exception("an NBD connection")
        finally:
            self._forget(sock)

    def _waiters_of(self, device: MappedDevice) -> Workers:
        with self._lock:
            found = self._waiters.get(device)
            if found is None:
                found = self._waiters[device] = Workers("nbd-waiter", _WAITERS_MOST)
            return found

    def _forget(self, sock: socket.socket) -> None:
        with self._lock:
            del self._clients[sock]
            sock.close()


def _may(sock: socket.socket) -> bool:
    """Whether the peer is this process's own user, or root; the socket's mode alone may have been
    changed."""
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    if uid in (os.geteuid(), 0):
        return True
    log.warning("NBD connection of uid %d refused", uid)
    return False
