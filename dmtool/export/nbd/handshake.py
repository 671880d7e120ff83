# SPDX-License-Identifier: Apache-2.0
"""Fixed newstyle negotiation, from the greeting to the export that a client chooses."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from dmtool.device import MappedDevice
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.commands import Session
from dmtool.export.nbd.outgoing import Gone
from dmtool.table import Table

OPTION_MOST = 64 << 10  # bytes of an option's data; longer ones are skipped
SECONDS = 60.0  # for an option to arrive, counted from the answer to the one before
_LARGEST = (1 << 63) - 1  # bytes; clients take sizes as signed numbers
_PREFERRED = 4096

Lookup = Callable[[str], MappedDevice | None]
Names = Callable[[], list[str]]


class Refused(Exception):
    """An option cannot be granted: type of the reply and the words for it."""

    def __init__(self, kind: int, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Export:
    """What a client has chosen; ``device`` is open."""

    device: MappedDevice
    session: Session


class Handshake:
    """One client's negotiation.

    Threads: one.
    """

    def __init__(
        self, sock: socket.socket, lookup: Lookup, names: Names, *, seconds: float = SECONDS
    ) -> None:
        self._sock = sock
        self._lookup = lookup
        self._names = names
        self._seconds = seconds
        self._deadline = 0.0
        self._structured = False
        self._allocation: MappedDevice | None = None  # for whose export it was selected
        self._no_zeroes = False

    def run(self) -> Export | None:
        """The chosen export, or None for a client that wanted none.

        Raises Gone for a client that went, broke the protocol or was too slow; OSError.
        """
        self._sock.settimeout(self._seconds)
        flags = p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES
        self._sock.sendall(p.GREETING.pack(p.INIT_MAGIC, p.OPT_MAGIC, flags))
        self._deadline = time.monotonic() + self._seconds
        (flags,) = p.CLIENT_FLAGS.unpack(self._receive(p.CLIENT_FLAGS.size))
        if flags & ~(p.FLAG_FIXED_NEWSTYLE | p.FLAG_NO_ZEROES):
            raise Gone
        self._no_zeroes = bool(flags & p.FLAG_NO_ZEROES)
        while True:
            magic, option, length = p.OPTION.unpack(self._receive(p.OPTION.size))
            if magic != p.OPT_MAGIC:
                raise Gone
            data = None
            if length <= OPTION_MOST:
                data = self._receive(length)
            else:
                self._skip(length)
            if option == p.OPT_EXPORT_NAME:
                return self._export_name(data)
            if option == p.OPT_ABORT:
                self._reply(option, p.REP_ACK)
                return None
            export = self._option(option, data)
            if export is not None:
                return export
            self._deadline = time.monotonic() + self._seconds

    def _option(self, option: int, data: bytes | None) -> Export | None:
        try:
            if data is None:
                raise Refused(p.REP_ERR_TOO_BIG, f"more than {OPTION_MOST} bytes")
            match option:
                case p.OPT_GO | p.OPT_INFO:
                    return self._go(option, data)
                case p.OPT_LIST:
                    _no_data(data)
                    self._list()
                case p.OPT_STRUCTURED_REPLY:
                    _no_data(data)
                    self._structured = True
                case p.OPT_LIST_META_CONTEXT | p.OPT_SET_META_CONTEXT:
                    self._meta_context(option, data)
                case p.OPT_STARTTLS:
                    raise Refused(p.REP_ERR_POLICY, "no TLS on this socket")
                case _:
                    raise Refused(p.REP_ERR_UNSUP, f"option {option} is not known")
            self._reply(option, p.REP_ACK)
        except Refused as refused:
            message = refused.message.encode(errors="replace")[: p.STRING_MOST]
            self._reply(option, (refused.kind, message))
        return None

    # -- options -----------------------------------------------------------------------------

    def _export_name(self, data: bytes | None) -> Export:
        """The old way in, which has no words for an error."""
        if data is None:
            raise Gone
        try:
            device = self._device(data)
            size = _live(device).size
            device.open()
        except (Refused, OSError) as error:
            raise Gone from error
        reply = p.EXPORT.pack(size, self._flags(device))
        try:
            self._sock.sendall(reply + (b"" if self._no_zeroes else p.EXPORT_ZEROES))
        except BaseException:
            device.close()
            raise
        return self._chosen(device)

    def _go(self, option: int, data: bytes) -> Export | None:
        words = _Words(data)
        name = words.string()
        wanted = {words.number(p.U16) for _ in range(words.number(p.U16))}
        words.end()
        device = self._device(name)
        live = _live(device)
        infos = [p.INFO_EXPORT_REPLY.pack(p.INFO_EXPORT, live.size, self._flags(device))]
        if p.INFO_NAME in wanted:
            infos.append(p.U16.pack(p.INFO_NAME) + device.name.encode())
        if p.INFO_DESCRIPTION in wanted:
            infos.append(p.U16.pack(p.INFO_DESCRIPTION) + _description(device).encode())
        if p.INFO_BLOCK_SIZE in wanted:
            preferred = max(_PREFERRED, live.block_size)
            infos.append(
                p.INFO_BLOCK_SIZE_REPLY.pack(p.INFO_BLOCK_SIZE, 1, preferred, p.BLOCK_MOST)
            )
        if option == p.OPT_GO:
            try:
                device.open()
            except OSError as error:
                raise Refused(p.REP_ERR_UNKNOWN, f"{device.name}: {error.strerror}") from None
        try:
            self._reply(option, *((p.REP_INFO, info) for info in infos), p.REP_ACK)
        except BaseException:
            if option == p.OPT_GO:
                device.close()
            raise
        return self._chosen(device) if option == p.OPT_GO else None

    def _list(self) -> None:
        replies = []
        for name in self._names():
            device = self._lookup(name)
            # one that cannot be used is not listed: `nbdinfo --list` fails as a whole at it
            if device is not None and device.live is not None:
                export = name.encode(errors="surrogateescape")
                replies.append((p.REP_SERVER, p.U32.pack(len(export)) + export))
        self._reply(p.OPT_LIST, *replies)

    def _meta_context(self, option: int, data: bytes) -> None:
        setting = option == p.OPT_SET_META_CONTEXT
        if setting:
            self._allocation = None
        if not self._structured:
            raise Refused(p.REP_ERR_INVALID, "structured replies come first")
        words = _Words(data)
        name = words.string()
        queries = [words.string() for _ in range(words.number(p.U32))]
        words.end()
        device = self._device(name)
        # an empty leaf name asks for all of a namespace, but only of a list
        known = {p.BASE_ALLOCATION} if setting else {p.BASE_ALLOCATION, b"base:"}
        if known.intersection(queries) or not (queries or setting):
            number = p.BASE_ALLOCATION_ID if setting else 0
            self._reply(option, (p.REP_META_CONTEXT, p.U32.pack(number) + p.BASE_ALLOCATION))
            if setting:
                self._allocation = device

    # -- parts of them -----------------------------------------------------------------------

    def _device(self, name: bytes) -> MappedDevice:
        if len(name) > p.STRING_MOST:
            raise Refused(p.REP_ERR_TOO_BIG, f"a name of {len(name)} bytes")
        text = name.decode(errors="surrogateescape")
        device = self._lookup(text)
        if device is None:
            raise Refused(p.REP_ERR_UNKNOWN, f"no mapped device {text}")
        return device

    def _chosen(self, device: MappedDevice) -> Export:
        session = Session(self._structured, self._allocation is device, device.readonly)
        return Export(device, session)

    def _flags(self, device: MappedDevice) -> int:
        flags = p.FLAG_HAS_FLAGS | p.FLAG_SEND_FLUSH | p.FLAG_SEND_FUA | p.FLAG_CAN_MULTI_CONN
        flags |= p.FLAG_SEND_CACHE
        flags |= p.FLAG_SEND_DF if self._structured else 0
        if device.readonly:
            return flags | p.FLAG_READ_ONLY
        return flags | p.FLAG_SEND_TRIM | p.FLAG_SEND_WRITE_ZEROES

    # -- bytes -------------------------------------------------------------------------------

    def _reply(self, option: int, *replies: int | tuple[int, bytes]) -> None:
        out = []
        for reply in replies:
            kind, data = reply if isinstance(reply, tuple) else (reply, b"")
            out.append(p.OPTION_REPLY.pack(p.REP_MAGIC, option, kind, len(data)) + data)
        self._sock.settimeout(self._seconds)
        self._sock.sendall(b"".join(out))

    def _receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            data += self._some(length - len(data))
        return bytes(data)

    def _skip(self, length: int) -> None:
        while length:
            length -= len(self._some(min(length, OPTION_MOST)))

    def _some(self, most: int) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Gone("too slow")
        self._sock.settimeout(left)
        data = self._sock.recv(most)
        if not data:
            raise Gone
        return data


class _Words:
    """Numbers and strings out of an option's data. All raise Refused where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def _take(self, length: int) -> bytes:
        if length > len(self._data) - self._pos:
            raise Refused(p.REP_ERR_INVALID, "the option's data is too short")
        self._pos += length
        return self._data[self._pos - length : self._pos]

    def number(self, kind: Struct) -> int:
        number: int = kind.unpack(self._take(kind.size))[0]
        return number

    def string(self) -> bytes:
        return self._take(self.number(p.U32))

    def end(self) -> None:
        if self._pos != len(self._data):
            raise Refused(p.REP_ERR_INVALID, "the option's data is too long")


def _no_data(data: bytes) -> None:
    if data:
        raise Refused(p.REP_ERR_INVALID, "this option has no data")


def _live(device: MappedDevice) -> Table:
    live = device.live
    if live is None:
        raise Refused(p.REP_ERR_UNKNOWN, f"{device.name} has no live table")
    if live.size > _LARGEST:
        raise Refused(p.REP_ERR_TOO_BIG, f"{device.name} has {live.size} bytes, NBD 2^63-1")
    return live


def _description(device: MappedDevice) -> str:
    live = device.live
    targets = len(live.targets) if live else 0
    major, minor = device.devno
    return f"mapped device {major}:{minor}, {targets} target{'s' * (targets != 1)}"
