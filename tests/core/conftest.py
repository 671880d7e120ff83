# SPDX-License-Identifier: Apache-2.0
"""A core in the test's own process, and a client that speaks the bare protocol."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import dmtool
from dmtool.core.process import Core
from dmtool.directory import Directory

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(dmtool.__file__)))


class Refused(Exception):
    """An error answer: ``code``, ``message`` and ``data`` of the error object."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: dict[str, Any] = error.get("data", {})


class Client:
    """One control connection; a test may also send lines of its own."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self._file = self.sock.makefile("rb")

    def send(self, method: str, **params: Any) -> None:
        request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        self.send_line(json.dumps(request).encode())

    def send_line(self, line: bytes) -> None:
        self.sock.sendall(line + b"\n")

    def receive(self) -> Any:
        """The next answer; None at the end of the connection."""
        line = self._file.readline()
        return json.loads(line) if line else None

    def result(self) -> Any:
        """The next answer's result; raises Refused."""
        answer = self.receive()
        if answer is None:
            raise EOFError
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def call(self, method: str, **params: Any) -> Any:
        self.send(method, **params)
        return self.result()

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)  # a thread of the test's may still receive
        self._file.close()
        self.sock.close()


class Process:
    """A core process, and the pipe that it reports on."""

    def __init__(self, directory: Directory, *options: str, **environ: str) -> None:
        self._ready, write = os.pipe()
        self.popen = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "dmtool.core", "--directory", directory.path),
                *("--ready-fd", str(write), *options),
            ],
            pass_fds=(write,),
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": CHECKOUT, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        os.close(write)

    def report(self) -> str:
        """The line that it reports, without the newline."""
        with os.fdopen(self._ready, "rb") as file:
            self._ready = -1
            return file.readline().decode().rstrip("\n")

    def wait(self) -> int:
        return self.popen.wait(timeout=50)

    def finish(self) -> None:
        if self._ready >= 0:
            os.close(self._ready)
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        assert self.popen.stderr is not None
        self.popen.stderr.close()


@pytest.fixture
def directory() -> Iterator[Directory]:
    """A directory with a path short enough for sockets, wherever pytest puts its own."""
    path = tempfile.mkdtemp(prefix="dm")
    directory = Directory(path)
    yield directory
    if os.path.exists(directory.lock):
        # of a core that was killed something is left, which unmounts
        with open(directory.lock, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
    shutil.rmtree(path)


@pytest.fixture
def start(directory: Directory) -> Iterator[Callable[[], Core]]:
    """Start a core in this process; closes all that a test leaves."""
    cores: list[Core] = []

    def start() -> Core:
        core = Core(directory, idle=None)
        assert core.start()
        cores.append(core)
        return core

    yield start
    for core in cores:
        core.close()


@pytest.fixture
def core(start: Callable[[], Core]) -> Core:
    return start()


@pytest.fixture
def connect(directory: Directory) -> Iterator[Callable[[], Client]]:
    """Connect a client; closes them all."""
    clients: list[Client] = []

    def connect() -> Client:
        client = Client(directory.control)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(core: Core, connect: Callable[[], Client]) -> Client:
    return connect()


@pytest.fixture
def call(client: Client) -> Callable[..., Any]:
    """``call(method, **params)`` over one connection."""
    return client.call


@pytest.fixture
def refused(client: Client) -> Callable[..., Refused]:
    """``refused(method, **params)`` is the error that a call is answered with."""

    def refused(method: str, **params: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            client.call(method, **params)
        return caught.value

    return refused


@pytest.fixture
def image(tmp_path: Path) -> Callable[..., str]:
    """Make an image file of so many sectors; its path."""

    def image(name: str = "a.img", sectors: int = 128) -> str:
        path = tmp_path / name
        path.write_bytes(bytes(sectors * 512))
        return str(path)

    return image


@pytest.fixture
def spawn(directory: Directory) -> Iterator[Callable[..., Process]]:
    """Start a core process in the directory; ends what a test leaves."""
    processes: list[Process] = []

    def spawn(*options: str, **environ: str) -> Process:
        process = Process(directory, *options, **environ)
        processes.append(process)
        return process

    yield spawn
    for process in processes:
        process.finish()
