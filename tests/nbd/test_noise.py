# SPDX-License-Identifier: Apache-2.0
"""Clients that send whatever comes to their mind: none of it harms the server or the others."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Any

import pytest

from dmtool.export.nbd import protocol as p


def say(disk: Any, sock: socket.socket, stream: bytes) -> None:
    """Send, and read until the server closes, as it does when a client has nothing more to say."""

    def send() -> None:
        with suppress(OSError):
            sock.sendall(stream)
            sock.shutdown(socket.SHUT_WR)

    sending = disk.in_thread(send)
    with suppress(ConnectionResetError):
        while sock.recv(1 << 20):
            pass
    sending.ends()


@pytest.fixture
def quiet(disk: Any, caplog: pytest.LogCaptureFixture) -> Any:
    """Afterwards another client is served, and nothing was logged."""
    yield disk
    assert disk.nbd().pread(512, 0)
    assert not caplog.records


def test_noise_for_a_handshake(quiet: Any) -> None:
    chance = random.Random(1)
    for _ in range(100):
        sock = quiet.raw()
        stream = b"\0\0\0\3"
        for _ in range(chance.randrange(5)):
            data = chance.randbytes(chance.choice([0, 4, 6, 10, 40]))
            if chance.random() < 0.5:
                data = chance.choice([b"\0\0\0\3dev", b"\0\0\0\0"]) + data
            option = chance.choice([2, 3, 5, 6, 7, 8, 9, 10, 11, chance.getrandbits(32)])
            length = chance.choice([len(data)] * 5 + [chance.getrandbits(16)])
            stream += p.OPTION.pack(p.OPT_MAGIC, option, length) + data
        say(quiet, sock, stream)


@pytest.mark.parametrize("seed", range(4))
def test_noise_for_requests(quiet: Any, structured: bool, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(15):
        wire = quiet.wire(structured=structured)
        stream = b""
        for _ in range(chance.randrange(1, 20)):
            command = chance.choice([0, 1, 3, 4, 5, 6, 7, 7, chance.getrandbits(16)])
            flags = chance.choice([0, 0, 0, 1, 2, 4, 8, chance.getrandbits(16)])
            offset = chance.choice([0, 511, 1 << 20, (4 << 20) - 512, chance.getrandbits(64)])
            length = chance.choice([0, 1, 512, 4096, 65536, 300_000, chance.getrandbits(20)])
            stream += wire.header(command, offset, length, flags=flags)
            if command == p.CMD_WRITE:
                stream += bytes(length)
        end = chance.choice(["whole", "cut", "disconnect", "noise"])
        if end == "cut":
            stream = stream[: chance.randrange(len(stream))]
        elif end == "disconnect":
            stream += wire.header(p.CMD_DISC)
        elif end == "noise":
            stream += chance.randbytes(100)
        say(quiet, wire.sock, stream)
