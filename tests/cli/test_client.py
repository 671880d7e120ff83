# SPDX-License-Identifier: Apache-2.0
"""The client's side of the control protocol, against a server of a few lines."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import dmtool.client
from dmtool.client import Client, ClientError, start
from dmtool.directory import Directory
from dmtool.errors import CoreError


@pytest.fixture
def directory() -> Generator[Directory]:
    """A core's directory; not tmp_path, the path of a unix socket has 107 bytes and no more."""
    path = tempfile.mkdtemp(prefix="dmtool-client-")
    yield Directory(path)
    shutil.rmtree(path)


class Server:
    """Answers each request with the next of ``answers``: bytes, None to hang up, or a function."""

    def __init__(self, directory: Directory, *answers: Any) -> None:
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self._answers = list(answers)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(directory.control)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while self._answers:
            connection, _ = self._socket.accept()
            self.connections += 1
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    self.requests.append(json.loads(line))
                    answer = self._answers.pop(0)
                    if answer is None:
                        break
                    connection.sendall(answer)
                    if not self._answers:
                        break

    def end(self) -> None:
        self._thread.join()
        self._socket.close()


def result(value: Any, number: int = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": value}).encode() + b"\n"


def error(code: int, **more: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": code, **more}}).encode() + b"\n"


def test_a_call(directory: Directory) -> None:
    server = Server(directory, result(["x"]), result({"a": 1}, 2))
    with Client(directory) as client:
        assert client.call("list") == ["x"]
        assert client.call("info", device={"name": "\udcff"}) == {"a": 1}
    server.end()
    assert server.connections == 1
    first, second = server.requests
    assert first == {"jsonrpc": "2.0", "id": 1, "method": "list", "params": {}}
    assert second["params"] == {"device": {"name": "\udcff"}}


def test_a_refusal(directory: Directory) -> None:
    data = {"errno": errno.EBUSY, "reason": "taken", "hint": "h", "causes": [{"line": 1}]}
    server = Server(directory, error(-32000, message="taken", data=data))
    with Client(directory) as client, pytest.raises(ClientError) as raised:
        client.call("create", name="a")
    server.end()
    refusal = raised.value
    assert (refusal.code, refusal.errno, str(refusal)) == (-32000, errno.EBUSY, "taken")
    assert (refusal.hint, refusal.causes) == ("h", [{"line": 1}])


def test_a_core_that_ends_is_asked_no_more(directory: Directory) -> None:
    """It says so, or hangs up without a word: then the next core is asked."""
    server = Server(directory, error(-32001, message="ending"), None, result("done"))
    with Client(directory) as client:
        assert client.call("suspend", device={"name": "a"}) == "done"
    server.end()
    assert server.connections == 3


def test_cores_that_all_end_are_an_error(directory: Directory) -> None:
    server = Server(directory, None, None, None)
    with Client(directory) as client, pytest.raises(CoreError, match="without answering"):
        client.call("list")
    server.end()


def test_a_long_answer_in_pieces(directory: Directory) -> None:
    value = ["x" * 1000] * 5000
    server = Server(directory, result(value))
    with Client(directory) as client:
        assert client.call("list") == value
    server.end()


@pytest.mark.parametrize("answer", [b"rubbish\n", b"[]\n", b"\xff\n"])
def test_rubbish(directory: Directory, answer: bytes) -> None:
    server = Server(directory, answer)
    with Client(directory) as client, pytest.raises(CoreError, match="no JSON-RPC answer"):
        client.call("list")
    server.end()


def test_no_core(directory: Directory) -> None:
    with Client(directory, start=False) as client, pytest.raises(CoreError) as raised:
        client.call("list")
    assert raised.value.errno == errno.ECONNREFUSED


def test_a_path_too_long_for_a_socket() -> None:
    with pytest.raises(CoreError) as raised:
        Client(Directory("/" + "x" * 100)).call("list")
    assert raised.value.errno == errno.ENAMETOOLONG
    assert raised.value.hint == "set DMTOOL_DIR to a directory with a shorter path"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("os.write(fd, b'error the disk is full\\n')", "could not start: the disk is full"),
        ("sys.exit(3)", "could not start: it said nothing"),
        ("import nosuchmodule", "could not start: ModuleNotFoundError: No module named"),
    ],
)
def test_a_core_that_cannot_start(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    program = f"import os, sys; fd = int(sys.argv[-1]); {script}"
    monkeypatch.setattr(start, "core_command", lambda _: [sys.executable, "-c", program])
    with pytest.raises(CoreError, match=message):
        Client(directory).call("list")


def test_a_core_that_is_gone_when_it_is_asked(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran a moment ago: another one is started."""
    program = "import os, sys; os.write(int(sys.argv[-1]), b'running\\n')"
    servers: list[Server | None] = []

    def command(_: Directory) -> list[str]:
        servers.append(Server(directory, result(1)) if servers else None)
        return [sys.executable, "-c", program]

    monkeypatch.setattr(start, "core_command", command)
    with Client(directory) as client:
        assert client.call("list") == 1
    assert servers[1] is not None
    servers[1].end()


def test_a_slow_answer_of_a_core_that_lives(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dmtool.client, "QUIET", 0.001)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(directory.control)
    listening.listen()

    def serve() -> None:
        slow, _ = listening.accept()
        for _ in range(3):
            with listening.accept()[0] as asking:
                assert json.loads(asking.recv(100))["method"] == "version"
                asking.sendall(result({}))
        slow.sendall(result("done"))
        slow.close()

    thread = threading.Thread(target=serve)
    thread.start()
    with Client(directory) as client:
        assert client.call("suspend") == "done"
    thread.join()
    listening.close()


def test_a_core_that_hangs(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts, or not even that: the client ends, and says what to do."""
    monkeypatch.setattr(dmtool.client, "QUIET", 0.001)
    monkeypatch.setattr(dmtool.client, "PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(directory.control)
        listening.listen(1)
        with open(directory.lock, "w", encoding="ascii") as file:
            file.write("4711\n")
        with Client(directory) as client, pytest.raises(CoreError, match="4711") as raised:
            client.call("list")
        assert raised.value.errno == errno.ETIMEDOUT
        assert "kill -9 4711" in str(raised.value.hint)
        with Client(directory) as client, pytest.raises(CoreError) as raised:
            client.call("create", table="x" * (1 << 20))
        assert raised.value.errno == errno.ETIMEDOUT


def test_the_core_finds_our_dmtool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", "relative")
    monkeypatch.chdir(tmp_path)
    parts = start.core_environment()["PYTHONPATH"].split(os.pathsep)
    assert parts[0] == str(tmp_path / "relative")
