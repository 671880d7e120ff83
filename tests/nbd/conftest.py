# SPDX-License-Identifier: Apache-2.0
"""Devices served over NBD, and a client that keeps many requests in flight."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from dmtool.backing import Backing, Bytes
from dmtool.client.nbd import Nbd, connect
from dmtool.device import MappedBacking, MappedDevice
from dmtool.export.nbd import NbdServer, lane, residency
from dmtool.export.nbd import protocol as p
from dmtool.table import load

SECONDS = 20  # for whatever must happen


WAYS = [
    "python",
    pytest.param("native", marks=pytest.mark.native),
    pytest.param("cold", marks=pytest.mark.native),
]


@pytest.fixture(autouse=True, params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test three times: plain requests done in Python; in C, from the first one on that is
    cached; and in C, reads always as ones that may not be."""
    if request.param == "python":
        monkeypatch.setattr(lane, "NATIVE", None)
    else:
        monkeypatch.setattr(residency, "_COLD", 1 if request.param == "native" else 1 << 30)
    return str(request.param)


# for a test of what Python does, or that patches it
in_python = pytest.mark.parametrize("way", ["python"], indirect=True)
in_c = pytest.mark.parametrize("way", WAYS[1:], indirect=True)
in_cold = pytest.mark.parametrize("way", WAYS[2:], indirect=True)
# for one of reads that are taken to be cached
warm = pytest.mark.parametrize("way", WAYS[:2], indirect=True)


@dataclass
class Reply:
    """All chunks of one reply; ``data`` is what a read gave, None for bytes that were not given."""

    error: int = 0
    message: str = ""
    data: bytearray = field(default_factory=bytearray)
    chunks: list[tuple[int, int, int]] = field(default_factory=list)  # type, offset, length
    errors: list[tuple[int, int]] = field(default_factory=list)  # errno, offset
    extents: list[tuple[int, int]] = field(default_factory=list)


class Wire:
    """A connection in the transmission phase whose requests and replies are handled apart."""

    def __init__(self, nbd: Nbd) -> None:
        self.nbd = nbd
        self.sock = nbd.sock
        self.size = nbd.size
        self._cookie = 0
        self._pending: dict[int, tuple[int, int, int]] = {}
        self._replies: dict[int, Reply] = {}  # of which not all chunks have come

    def header(
        self, command: int, offset: int = 0, length: int = 0, *, flags: int = 0, magic: int = 0
    ) -> bytes:
        self._cookie += 1
        self._pending[self._cookie] = command, offset, length
        cookie = self._cookie.to_bytes(8, "big")
        return p.REQUEST.pack(magic or p.REQUEST_MAGIC, flags, command, cookie, offset, length)

    def send(
        self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", *, flags: int = 0
    ) -> int:
        """Send a request; its cookie."""
        self.sock.sendall(self.header(command, offset, length or len(data), flags=flags) + data)
        return self._cookie

    def send_all(self, stream: bytes) -> Running:
        """Send from a thread of its own: a server need not take it before it is answered."""
        return Running(lambda: self.sock.sendall(stream))

    def reply(self) -> tuple[int, Reply]:
        """The next whole reply, with its cookie."""
        while True:
            head = self._receive(p.SIMPLE_REPLY.size)
            magic, error, raw = p.SIMPLE_REPLY.unpack(head)
            if magic == p.SIMPLE_REPLY_MAGIC:
                cookie = int.from_bytes(raw, "big")
                command, _, length = self._pending.pop(cookie)
                read = command == p.CMD_READ and not error
                assert not (command == p.CMD_READ and self.nbd.structured)
                return cookie, Reply(error, data=self._receive(length if read else 0))
            assert magic == p.STRUCTURED_REPLY_MAGIC
            assert self.nbd.structured
            head += self._receive(4)
            _, flags, kind, raw, length = p.CHUNK.unpack(head)
            cookie = int.from_bytes(raw, "big")
            reply = self._replies.setdefault(cookie, Reply())
            self._chunk(self._pending[cookie], reply, kind, self._receive(length))
            if flags & p.REPLY_FLAG_DONE:
                del self._pending[cookie]
                return cookie, self._replies.pop(cookie)

    def _chunk(
        self, request: tuple[int, int, int], reply: Reply, kind: int, payload: bytearray
    ) -> None:
        command, offset, length = request
        if kind in (p.REPLY_TYPE_OFFSET_DATA, p.REPLY_TYPE_OFFSET_HOLE):
            assert command == p.CMD_READ
            (at,) = p.U64.unpack_from(payload)
            data = payload[8:]
            if kind == p.REPLY_TYPE_OFFSET_HOLE:
                data = bytearray(p.HOLE.unpack(payload)[1])
            assert data
            assert offset <= at <= at + len(data) <= offset + length
            reply.data = reply.data or bytearray(length)
            reply.data[at - offset : at - offset + len(data)] = data
            reply.chunks.append((kind, at, len(data)))
        elif kind == p.REPLY_TYPE_BLOCK_STATUS:
            assert p.U32.unpack_from(payload) == (p.BASE_ALLOCATION_ID,)
            reply.extents = list(p.DESCRIPTOR.iter_unpack(payload[4:]))
        elif kind >> 15:
            error, size = p.ERROR.unpack_from(payload)
            reply.error = reply.error or error
            reply.message = payload[6 : 6 + size].decode()
            if kind == p.REPLY_TYPE_ERROR_OFFSET:
                (at,) = p.U64.unpack_from(payload, 6 + size)
                reply.errors.append((error, at))
                assert len(payload) == 14 + size
        else:
            assert kind == p.REPLY_TYPE_NONE
            assert not payload

    def ask(
        self, command: int, offset: int = 0, length: int = 0, data: bytes = b"", *, flags: int = 0
    ) -> Reply:
        """Send a request and wait for its reply, which must be the next."""
        cookie = self.send(command, offset, length, data, flags=flags)
        answered, reply = self.reply()
        assert answered == cookie
        return reply

    def replies(self, count: int) -> dict[int, Reply]:
        return dict(self.reply() for _ in range(count))

    def warm_up(self) -> None:
        """Read often enough that the server takes this connection's data for cached."""
        for _ in range(3):
            for _ in range(64):
                self.send(p.CMD_READ, 0, 512)
            self.replies(64)

    def at_end(self) -> bool:
        """Whether the server closes the connection, without another byte."""
        try:
            return not self.sock.recv(1)
        except ConnectionResetError:
            return True

    def wait_for_a_reply(self) -> None:
        """Until the first byte of one is there; it stays there."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        assert poll.poll(SECONDS * 1000)

    def wait_until_received(self) -> None:
        """Until the server has taken all that was sent out of the socket."""
        wait_until(lambda: not struct.unpack("i", ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0])

    def _receive(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            got = self.sock.recv_into(view)
            if not got:
                raise ConnectionResetError
            view = view[got:]
        return data


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what has no descriptor to wait for."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        os.sched_yield()


class Blocking(Backing):
    """Memory whose I/O can be held up: ``hold()`` until ``let_go()``; ``entered`` counts it.

    Its kind is that of a mapped device: nobody may expect its I/O to be quick."""

    kind = "dm"

    def __init__(self, size: int) -> None:
        self.size = size
        self.data = bytearray(size)
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=SECONDS)

    def _pass(self) -> None:
        self.entered.release()
        assert self._open.wait(SECONDS)

    def pread(self, length: int, offset: int) -> bytes:
        self._pass()
        return bytes(self.data[offset : offset + length])

    def pwrite(self, data: Bytes, offset: int) -> None:
        self._pass()
        self.data[offset : offset + len(data)] = data

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        self._pass()
        self.data[offset : offset + length] = bytes(length)

    def flush(self) -> None:
        self._pass()

    def __str__(self) -> str:
        return "1000:99"


class Served:
    """A server of one device, `dev`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "nbd.sock"
        self.device = MappedDevice("dev", minor=3)
        self.below: dict[str, Backing] = {}
        self.devices: dict[str, MappedDevice] = {}
        self.server = NbdServer(self.lookup, lambda: ["dev", "other"])
        self._clients: list[socket.socket] = []

    def lookup(self, name: str) -> MappedDevice | None:
        return self.device if name in ("dev", "") else None

    def image(self, name: str, size: int, seed: int | None = None) -> bytearray:
        """Make an image file of random bytes, or all of a hole; what is in it."""
        data = bytearray(size) if seed is None else bytearray(random.Random(seed).randbytes(size))
        with (self.folder / name).open("wb") as file:
            if seed is None:
                file.truncate(size)
            else:
                file.write(data)
        return data

    def mapped(self, word: str) -> Any:
        """What a table's /dev/mapper/NAME is: of ``devices``, or a backing of ``below``."""
        name = word.removeprefix("/dev/mapper/")
        if name in self.devices:
            return MappedBacking(self.devices[name])
        return self.below.get(name)

    def lower(self, name: str, table: str, *, readonly: bool = False) -> MappedDevice:
        """A mapped device for tables to be stacked on; again: another table for it."""
        if name not in self.devices:
            self.devices[name] = MappedDevice(name, minor=10 + len(self.devices))
        made = load(table, cwd=str(self.folder), readonly=readonly, devices=self)
        assert made is not None
        self.devices[name].load(made)
        self.devices[name].resume()
        return self.devices[name]

    def load(self, table: str, *, readonly: bool = False) -> None:
        """Load a table into the device; it becomes live with ``resume``."""
        made = load(table, cwd=str(self.folder), readonly=readonly, devices=self)
        assert made is not None
        self.device.load(made)

    def table(self, table: str, *, readonly: bool = False) -> None:
        """Load a table and make it live."""
        self.load(table, readonly=readonly)
        self.device.resume()

    def raw(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        self._clients.append(sock)
        sock.settimeout(SECONDS)
        sock.connect(str(self.socket))
        return sock

    def nbd(self, *, structured: bool = True) -> Nbd:
        client = connect(self.socket, "dev", structured=structured, timeout=SECONDS)
        self._clients.append(client.sock)
        return client

    def wire(self, *, structured: bool = True) -> Wire:
        return Wire(self.nbd(structured=structured))

    def in_thread(self, call: Callable[[], object]) -> Running:
        return Running(call)

    def close(self) -> None:
        for backing in self.below.values():
            if isinstance(backing, Blocking):
                backing.let_go()
        for sock in self._clients:
            sock.close()
        self.server.close()
        for device in (self.device, *reversed(self.devices.values())):
            device.destroy()
            assert not device.open_count
        assert not self.server.connections


class Running:
    """A call on a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001  # raised again by `ends`
            self._error = error

    def ends(self) -> None:
        """It returns, and raises nothing."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        if self._error:
            raise self._error

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Generator[Served]:
    """A server that listens, of a device that has no table yet."""
    made = Served(tmp_path)
    made.server.listen_unix(made.socket)
    made.server.start()
    yield made
    made.close()


@pytest.fixture
def disk(served: Served) -> Served:
    """The same with a table: 4 MiB of `a.img`, of random bytes, ``served.data``."""
    served.data = served.image("a.img", 4 << 20, seed=1)  # type: ignore[attr-defined]
    served.table("0 8192 linear a.img 0")
    return served


@pytest.fixture(params=[True, False], ids=["structured", "simple"])
def structured(request: pytest.FixtureRequest) -> bool:
    """Both kinds of replies."""
    return bool(request.param)


@pytest.fixture
def blocking() -> Callable[[int], Blocking]:
    return Blocking
