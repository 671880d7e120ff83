# SPDX-License-Identifier: Apache-2.0
"""A small NBD client: one request at a time, over a unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
from types import TracebackType
from typing import Self

from dmtool.errors import DeviceError
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.address import unix_address


class NbdError(DeviceError):
    """{reason}

    The server refuses an export, or what came from it is not NBD.
    """


class Nbd:
    """A connection to one export. Lengths and offsets are bytes.

    ``size``   bytes of the export.  ``flags``: protocol.FLAG_*.
    ``minimum``, ``preferred``, ``maximum``  block sizes.

    Requests raise OSError with the errno that the server answers, ConnectionError when it goes.

    Threads: one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.size = 0
        self.flags = 0
        self.minimum, self.preferred, self.maximum = 1, 4096, p.BLOCK_MOST
        self.structured = False
        self.allocation = False
        self._cookie = 0

    @property
    def readonly(self) -> bool:
        return bool(self.flags & p.FLAG_READ_ONLY)

    # -- handshake ---------------------------------------------------------------------------

    def greet(self) -> None:
        """The greeting. Raises NbdError."""
        init, magic, flags = p.GREETING.unpack(self._receive(p.GREETING.size))
        if (init, magic) != (p.INIT_MAGIC, p.OPT_MAGIC) or not flags & p.FLAG_FIXED_NEWSTYLE:
            raise NbdError("not an NBD server", errno=p.EINVAL)
        self.sock.sendall(p.CLIENT_FLAGS.pack(flags & (p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES)))

    def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Ask for an option: its replies, ``[(type, data), ...]``, without the ACK at the end.
        Raises NbdError with the server's words."""
        self.sock.sendall(p.OPTION.pack(p.OPT_MAGIC, option, len(data)) + data)
        replies: list[tuple[int, bytes]] = []
        while True:
            magic, answered, kind, length = p.OPTION_REPLY.unpack(
                self._receive(p.OPTION_REPLY.size)
            )
            if magic != p.REP_MAGIC or answered != option:
                raise NbdError("the server's answer is not NBD", errno=p.EINVAL)
            reply = bytes(self._receive(length))
            if kind == p.REP_ACK:
                return replies
            if kind >> 31:
                text = reply.decode(errors="replace") or f"NBD option {option} is refused"
                raise NbdError(text, errno=p.EINVAL)
            replies.append((kind, reply))

    def go(self, export: str, *, structured: bool = True) -> None:
        """Choose an export. Raises NbdError where there is none, or it cannot be used."""
        name = export.encode(errors="surrogateescape")
        name = p.U32.pack(len(name)) + name
        if structured:
            self.option(p.OPT_STRUCTURED_REPLY)
            self.structured = True
            query = p.U32.pack(1) + p.U32.pack(len(p.BASE_ALLOCATION)) + p.BASE_ALLOCATION
            with contextlib.suppress(NbdError):  # of an export that is not there OPT_GO says more
                self.allocation = bool(self.option(p.OPT_SET_META_CONTEXT, name + query))
        wanted = p.U16.pack(1) + p.U16.pack(p.INFO_BLOCK_SIZE)
        for kind, info in self.option(p.OPT_GO, name + wanted):
            if kind == p.REP_INFO and info[:2] == p.U16.pack(p.INFO_EXPORT):
                _, self.size, self.flags = p.INFO_EXPORT_REPLY.unpack(info)
            elif kind == p.REP_INFO and info[:2] == p.U16.pack(p.INFO_BLOCK_SIZE):
                _, self.minimum, self.preferred, most = p.INFO_BLOCK_SIZE_REPLY.unpack(info)
                self.maximum = min(most, p.BLOCK_MOST)

    # -- requests ----------------------------------------------------------------------------

    def pread(self, length: int, offset: int) -> bytearray:
        """As os.pread, but never short."""
        data = bytearray(length)
        view = memoryview(data)
        for at in range(0, length, self.maximum):
            piece = view[at : at + self.maximum]
            self.read_into(piece, offset + at)
        return data

    def read_into(self, data: memoryview, offset: int, *, flags: int = 0) -> None:
        """Fill ``data``, of at most ``maximum`` bytes."""
        self._request(p.CMD_READ, offset, len(data), flags=flags)
        self._answer(data, offset)

    def pwrite(
        self, data: bytes | bytearray | memoryview, offset: int, *, fua: bool = False
    ) -> int:
        """As os.pwrite, but never short. ``fua``: on stable storage on return."""
        view = memoryview(data)
        for at in range(0, len(view), self.maximum):
            piece = view[at : at + self.maximum]
            self._request(p.CMD_WRITE, offset + at, len(piece), flags=fua and p.CMD_FLAG_FUA)
            self.sock.sendall(piece)
            self._answer()
        return len(view)

    def flush(self) -> None:
        """What was written, by any connection, is on stable storage on return."""
        self._request(p.CMD_FLUSH, 0, 0)
        self._answer()

    def trim(self, length: int, offset: int, *, fua: bool = False) -> None:
        self._request(p.CMD_TRIM, offset, length, flags=fua and p.CMD_FLAG_FUA)
        self._answer()

    def write_zeroes(
        self, length: int, offset: int, *, no_hole: bool = False, fua: bool = False
    ) -> None:
        """``no_hole``: the zeros take up space."""
        flags = (no_hole and p.CMD_FLAG_NO_HOLE) | (fua and p.CMD_FLAG_FUA)
        self._request(p.CMD_WRITE_ZEROES, offset, length, flags=flags)
        self._answer()

    def cache(self, length: int, offset: int) -> None:
        """Tell that this range will be read soon."""
        self._request(p.CMD_CACHE, offset, length)
        self._answer()

    def block_status(self, length: int, offset: int, *, one: bool = False) -> list[tuple[int, int]]:
        """``[(bytes, flags), ...]`` from ``offset`` on, maybe not for all of ``length``; flags
        are backing.HOLE and backing.ZERO or-ed."""
        flags = one and p.CMD_FLAG_REQ_ONE
        self._request(p.CMD_BLOCK_STATUS, offset, length, flags=flags)
        return self._answer()

    def close(self) -> None:
        """Disconnect; once or more often."""
        with contextlib.suppress(OSError):  # the server went first, or this is the second time
            self._request(p.CMD_DISC, 0, 0)
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- parts of them -----------------------------------------------------------------------

    def _request(self, command: int, offset: int, length: int, *, flags: int = 0) -> None:
        self._cookie += 1
        cookie = p.U64.pack(self._cookie)
        self.sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, flags, command, cookie, offset, length))

    def _answer(self, data: memoryview | None = None, offset: int = 0) -> list[tuple[int, int]]:
        """The reply to the last request; fills ``data``. Raises OSError."""
        extents: list[tuple[int, int]] = []
        failed: OSError | None = None
        while True:
            head = self._receive(p.SIMPLE_REPLY.size)
            magic, number, cookie = p.SIMPLE_REPLY.unpack(head)
            if magic == p.SIMPLE_REPLY_MAGIC:
                if number:
                    failed = OSError(number, os.strerror(number))
                elif data:
                    self._fill(data)
                break
            head += self._receive(p.CHUNK.size - p.SIMPLE_REPLY.size)
            magic, flags, kind, cookie, length = p.CHUNK.unpack(head)
            if magic != p.STRUCTURED_REPLY_MAGIC or cookie != p.U64.pack(self._cookie):
                raise ConnectionError("the server's answer is not NBD")
            if kind == p.REPLY_TYPE_OFFSET_DATA and data is not None:
                (at,) = p.U64.unpack(self._receive(8))
                self._fill(_part(data, at - offset, length - 8))
            elif kind == p.REPLY_TYPE_OFFSET_HOLE and data is not None:
                at, size = p.HOLE.unpack(self._receive(length))
                hole = _part(data, at - offset, size)
                hole[:] = bytes(size)
            elif kind == p.REPLY_TYPE_BLOCK_STATUS:
                extents = list(p.DESCRIPTOR.iter_unpack(self._receive(length)[4:]))
            elif kind >> 15:
                payload = self._receive(length)
                number, size = p.ERROR.unpack_from(payload)
                text = bytes(payload[6 : 6 + size]).decode(errors="replace")
                failed = failed or OSError(number, text or os.strerror(number))
            elif length:
                raise ConnectionError("the server's answer is not NBD")
            if flags & p.REPLY_FLAG_DONE:
                break
        if failed:
            raise failed
        return extents

    def _receive(self, length: int) -> bytearray:
        data = bytearray(length)
        self._fill(memoryview(data))
        return data

    def _fill(self, data: memoryview) -> None:
        while data:
            got = self.sock.recv_into(data)
            if not got:
                raise ConnectionResetError(p.EIO, "the NBD server has closed the connection")
            data = data[got:]


def _part(data: memoryview, at: int, length: int) -> memoryview:
    if at < 0 or at + length > len(data):
        raise ConnectionError("the server's answer is not NBD")
    return data[at : at + length]


def _connected(path: str | os.PathLike[str], timeout: float | None) -> Nbd:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        with unix_address(os.fspath(path)) as address:
            sock.connect(address)
        client = Nbd(sock)
        client.greet()
    except BaseException:
        sock.close()
        raise
    return client


def connect(
    path: str | os.PathLike[str],
    export: str,
    *,
    structured: bool = True,
    timeout: float | None = None,
) -> Nbd:
    """Connect to an export of the server at a unix socket.

    ``timeout``: seconds for each single send and receive. Raises NbdError with the server's
    words where it refuses, OSError where there is no server.
    """
    client = _connected(path, timeout)
    try:
        client.go(export, structured=structured)
    except BaseException:
        client.sock.close()
        raise
    return client


def exports(path: str | os.PathLike[str], *, timeout: float | None = None) -> list[str]:
    """The names that a server lists. Raises as ``connect``."""
    client = _connected(path, timeout)
    with client.sock:
        names = []
        for kind, data in client.option(p.OPT_LIST):
            if kind == p.REP_SERVER:
                (length,) = p.U32.unpack_from(data)
                names.append(data[4 : 4 + length].decode(errors="surrogateescape"))
        client.option(p.OPT_ABORT)
        return names
