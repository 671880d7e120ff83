# SPDX-License-Identifier: Apache-2.0
"""System calls of a core process, counted: what a request costs on any machine.

Speed is for `make bench` to measure, on a quiet machine. What makes it, batches and bytes that
are not copied, can be counted, on any. A core runs under strace, which writes a file for each
thread; a client marks in it where what is counted begins and ends.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dmtool.client import Client
from dmtool.client.nbd import Nbd, connect
from dmtool.client.start import core_command, core_environment
from dmtool.directory import Directory
from dmtool.export.nbd import protocol as p

SECONDS = 60  # for whatever must happen
MIB = 1 << 20
_LINE = re.compile(r"(\w+)\(.*?= (-?\d+)(?: (E\w+))?")
# a request whose cookie is a name: the magic begins with "%"
_MARK = re.compile(r'recvfrom\(\d+, "%.*?([A-Z]{3,8})\.*\\')


@dataclass(frozen=True)
class Call:
    """One system call as strace has it in ``text``; ``error`` is the name of its errno, or empty."""

    text: str
    name: str
    result: int
    error: str


class Calls(list[Call]):
    """What one thread did between two marks."""

    def number(self, *names: str) -> int:
        """Calls of these names that did not fail."""
        return sum(call.name in names and not call.error for call in self)

    def bytes(self, *names: str) -> int:
        """Bytes that calls of these names moved."""
        return sum(call.result for call in self if call.name in names and not call.error)

    @property
    def done(self) -> int:
        """Calls that did not find out that there is nothing to do yet."""
        return sum(call.error != "EAGAIN" for call in self)

    @property
    def looks(self) -> int:
        """Calls that did."""
        return sum(call.error == "EAGAIN" for call in self)

    def __repr__(self) -> str:
        return str(Counter(f"{call.name} {call.error}".strip() for call in self))


class Loaded:
    """One connection to a device of the traced core."""

    def __init__(self, nbd: Nbd) -> None:
        self._nbd = nbd
        self._sock = nbd.sock

    def mark(self, name: str) -> None:
        """Have up to eight capitals stand in the trace: the cookie of a request that is refused."""
        cookie = name.encode().ljust(8, b".")
        header = p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, cookie, self._nbd.size, 512)
        self._sock.sendall(header)
        reply = self._receive(p.SIMPLE_REPLY.size)
        if reply[:4] == p.STRUCTURED_REPLY_MAGIC.to_bytes(4, "big"):
            reply += self._receive(4)
            reply += self._receive(int.from_bytes(reply[16:20], "big"))
        assert cookie in reply

    @contextmanager
    def marked(self, name: str) -> Generator[None]:
        self.mark(name)
        yield
        self.mark(name)

    def batches(self, command: int, length: int, depth: int, count: int) -> None:
        """``count`` times ``depth`` requests that are sent together, then all their replies;
        simple ones."""
        reply = p.SIMPLE_REPLY.size + (length if command == p.CMD_READ else 0)
        data = bytes(length) if command == p.CMD_WRITE else b""
        blocks = self._nbd.size // length
        for number in range(count):
            stream = b"".join(
                p.REQUEST.pack(p.REQUEST_MAGIC, 0, command, bytes(8), at % blocks * length, length)
                + data
                # 7: neighbours in a batch are on different images
                for at in range(number * 7, (number + depth) * 7, 7)
            )
            self._sock.sendall(stream)
            self._receive(depth * reply)

    def read_large(self, count: int) -> None:
        """``count`` reads of 1 MiB, one at a time."""
        for number in range(count):
            self._nbd.pread(MIB, number * MIB)

    def write_large(self, count: int) -> None:
        data = bytes(MIB)
        for number in range(count):
            self._nbd.pwrite(data, number * MIB)

    def close(self) -> None:
        self._nbd.close()

    def _receive(self, length: int) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            got = self._sock.recv_into(view)
            assert got
            view = view[got:]
        return data


class Traced:
    """A core process under strace; ``calls`` are there when it has ended."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.directory = Directory(str(folder / "core"))
        self.directory.prepare()
        strace = ["strace", "-ff", "-qq", "-s", "64", "-o", str(folder / "trace")]
        ready, write = os.pipe()
        with os.fdopen(ready) as said:
            self._process = subprocess.Popen(
                [*strace, *core_command(self.directory), "--ready-fd", str(write)],
                stdin=subprocess.DEVNULL,
                pass_fds=(write,),
                env={**core_environment(), **environ},
            )
            os.close(write)
            assert said.readline() == "ready\n"
        self.client = Client(self.directory, start=False)
        self._calls: dict[str, Calls] = {}

    def create(self, name: str, table: str) -> None:
        self.client.call("create", name=name, table=table, source="test", cwd=str(self.folder))

    def connect(self, name: str, *, structured: bool = False) -> Loaded:
        return Loaded(connect(self.directory.nbd, name, structured=structured, timeout=SECONDS))

    def end(self) -> None:
        """End the core, and read what it did."""
        self.client.call("stop")
        self.client.close()
        self._process.wait(SECONDS)
        for path in self.folder.glob("trace.*"):
            self._read(path)

    def calls(self, mark: str) -> Calls:
        """What the connection's thread did from a mark on to the same mark, or to its end."""
        return self._calls[mark]

    def _read(self, path: Path) -> None:
        under_way: dict[str, Calls] = {}
        for line in path.read_text(errors="replace").splitlines():
            mark = _MARK.match(line)
            if mark and mark[1] in under_way:
                del under_way[mark[1]]
            elif mark:
                under_way[mark[1]] = self._calls[mark[1]] = Calls()
            elif parsed := _LINE.match(line):
                for calls in under_way.values():
                    calls.append(Call(line, parsed[1], int(parsed[2]), parsed[3] or ""))


def opened(command: list[str], **environ: str) -> int:
    """How many files a command opens."""
    with tempfile.NamedTemporaryFile() as trace:
        strace = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", trace.name]
        environment = {**os.environ, **environ}
        subprocess.run([*strace, *command], check=True, capture_output=True, env=environment)
        lines = trace.read().decode(errors="replace").splitlines()
    return sum(re.search(r"open(at)?\(.*= \d+", line) is not None for line in lines)
