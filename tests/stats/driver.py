# SPDX-License-Identifier: Apache-2.0
"""The device-mapper driver's ioctls, answered by a core: so the real dmstats works on its devices.

As much of linux/dm-ioctl.h as dmstats asks for. ``control.c`` is what brings the ioctls here.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dmtool.client import Client, ClientError
from dmtool.directory import Directory

HEAD = struct.Struct("=3IIIIiIIIQ128s129s7x")
VERSION = (4, 48, 0)
READONLY, SUSPENDED, TABLE, ACTIVE, INACTIVE = 1 << 0, 1 << 1, 1 << 4, 1 << 5, 1 << 6
BUFFER_FULL, DATA_OUT = 1 << 8, 1 << 16


class Answer(NamedTuple):
    """What is put into the caller's struct: an info, and data behind it."""

    info: dict[str, Any] | None = None
    data: bytes = b""
    flags: int = 0


class Driver:
    """Serves one core at ``path``.

    Threads: one a program that has the control device open.
    """

    def __init__(self, directory: Directory, path: Path) -> None:
        self._directory = directory
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(str(path))
        self._sock.listen()
        self._commands: dict[int, Callable[[Client, _Request], Answer]] = {
            0: _version,
            2: _list,
            7: _status,
            12: _table,
            14: _message,
        }
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file, Client(self._directory) as client:
            while head := file.read(4 + HEAD.size):
                (number,) = struct.unpack("=I", head[:4])
                fields = HEAD.unpack(head[4:])
                request = _Request(fields, file.read(fields[3] - HEAD.size))
                failed = 0
                answer = Answer()
                try:
                    answer = self._commands[number](client, request)
                except ClientError as error:
                    failed = error.errno
                except KeyError:
                    failed = errno.ENOTTY
                sock.sendall(struct.pack("=i", failed) + request.filled(answer))


class _Request:
    """A caller's struct dm_ioctl and what follows it."""

    def __init__(self, fields: tuple[Any, ...], data: bytes) -> None:
        self.size, self.start = fields[3], fields[4]
        self.flags = fields[7]
        self.dev = fields[10]
        self.name, self.uuid = (field.partition(b"\0")[0].decode() for field in fields[11:13])
        self.data = data[self.start - HEAD.size :]

    @property
    def device(self) -> dict[str, Any]:
        if self.name:
            return {"name": self.name}
        if self.uuid:
            return {"uuid": self.uuid}
        return {"minor": self.dev & 0xFF | self.dev >> 12 & ~0xFF}

    def filled(self, answer: Answer) -> bytes:
        flags = self.flags | answer.flags
        data = answer.data
        if len(data) > self.size - self.start:
            flags |= BUFFER_FULL
            data = b""
        info = answer.info
        named = [0, 0, 0, 0, 0, self.dev, self.name.encode(), self.uuid.encode()]
        if info is not None:
            flags |= READONLY * info["readonly"] | SUSPENDED * info["suspended"]
            flags |= ACTIVE * info["live"] | INACTIVE * info["inactive"]
            named = [
                info["target_count"], info["open_count"], flags, info["event_nr"], 0,
                _dev(info), info["name"].encode(), info["uuid"].encode(),
            ]  # fmt: skip
        else:
            named[2] = flags
        head = HEAD.pack(*VERSION, self.size, self.start, *named)
        return (head.ljust(self.start, b"\0") + data).ljust(self.size, b"\0")


def _version(_client: Client, _request: _Request) -> Answer:
    return Answer()


def _status(client: Client, request: _Request) -> Answer:
    return Answer(client.call("info", device=request.device))


def _dev(info: dict[str, Any]) -> int:
    """Huge_encode_dev()."""
    minor: int = info["minor"]
    return minor & 0xFF | int(info["major"]) << 8 | (minor & ~0xFF) << 12


def _aligned(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 8) * 8, b"\0")


def _list(client: Client, _request: _Request) -> Answer:
    entries = []
    infos = client.call("list")
    for info in infos:
        name = _aligned(b"x" * 12 + info["name"].encode() + b"\0")[12:]
        more = struct.pack("=III", info["event_nr"], 0, 0)
        length = len(_aligned(b"x" * 12 + name + more))
        following = length if info is not infos[-1] else 0
        entries.append(_aligned(struct.pack("=QI", _dev(info), following) + name + more))
    return Answer(None, b"".join(entries) or bytes(16))


def _table(client: Client, request: _Request) -> Answer:
    what = "table" if request.flags & TABLE else "status"
    answer = client.call(what, device=request.device)
    data = b""
    for target in answer["targets"]:
        text = target["params"].encode() + b"\0"
        length = len(_aligned(b"x" * 40 + text))
        spec = struct.pack(
            "=QQiI16s",
            target["start"],
            target["length"],
            0,
            len(data) + length,
            target["type"].encode(),
        )
        data += _aligned(spec + text)
    return Answer(answer["info"], data)


def _message(client: Client, request: _Request) -> Answer:
    (sector,) = struct.unpack_from("=Q", request.data)
    text = request.data[8:].partition(b"\0")[0].decode()
    answer = client.call("message", device=request.device, sector=sector, message=text)
    info = client.call("info", device=request.device)
    response = answer["response"]
    if response is None:
        return Answer(info)
    return Answer(info, response.encode() + b"\0", DATA_OUT)
