# SPDX-License-Identifier: Apache-2.0
"""The socket and JSON-RPC: docs/control-protocol.md, "Messages"."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import dmtool
from dmtool.core import control, process
from dmtool.core.process import Core
from dmtool.directory import Directory

if TYPE_CHECKING:
    from tests.core.conftest import Client, Refused


def test_answers_carry_the_id(client: Client) -> None:
    for number in (1, "x", None, 2.5):
        client.send_line(
            json.dumps({"jsonrpc": "2.0", "id": number, "method": "list"}).encode("ascii")
        )
        assert client.receive() == {"jsonrpc": "2.0", "id": number, "result": []}


def test_requests_sent_together_are_answered_in_order(client: Client) -> None:
    lines = [
        json.dumps({"jsonrpc": "2.0", "id": n, "method": "list"}).encode("ascii") for n in range(50)
    ]
    client.sock.sendall(b"\n".join(lines) + b"\n")
    assert [client.receive()["id"] for _ in lines] == list(range(50))


def test_a_notification_is_carried_out_and_not_answered(client: Client) -> None:
    client.send_line(b'{"jsonrpc":"2.0","method":"create","params":{"name":"n"}}')
    client.send_line(b"")
    assert [info["name"] for info in client.call("list")] == ["n"]


def test_a_batch_is_answered_by_an_array(client: Client) -> None:
    client.send_line(
        b'[{"jsonrpc":"2.0","id":1,"method":"list"},'
        b'{"jsonrpc":"2.0","method":"list"},'
        b'{"jsonrpc":"2.0","id":2,"method":"nosuch"}, 5]'
    )
    first, second, third = client.receive()
    assert first == {"jsonrpc": "2.0", "id": 1, "result": []}
    assert (second["id"], second["error"]["code"]) == (2, -32601)
    assert (third["id"], third["error"]["code"]) == (None, -32600)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe", -32700),
        (b"[" * 100_000, -32700),
        (b'{"a":' * 100_000, -32700),
        (b"\xef\xbb\xbf{}", -32700),
        ("{}".encode("utf-16"), -32700),
        (b'{"jsonrpc":"2.0","id":NaN,"method":"list"}', -32700),
        (b'{"jsonrpc":"2.0","id":-Infinity,"method":"list"}', -32700),
        (b'{"jsonrpc":"2.0","id":1e999,"method":"list"}', -32700),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"list"}', -32700),
        (b"[]", -32600),
        (b"5", -32600),
        (b'{"id":1,"method":"list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":[1],"method":"list"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"nosuch"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"call"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"_lines"}', -32601),
        (b'{"jsonrpc":"2.0","id":1,"method":"list","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"list","params":{"peer":1}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"info"}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"device":"a"}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"device":{}}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"device":{"minor":-1}}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"device":{"minor":true}}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"create","params":{"name":5}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"create","params":{"name":"a","minor":1.5}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"create","params":{"name":"a","readonly":0}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"create","params":{"name":"\\ud800"}}', -32602),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"device":{"uuid":"\\udfff"}}}',
            -32602,
        ),
        (b'{"jsonrpc":"2.0","id":1,"method":"check","params":{"table":"0 8 \\udbff"}}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"check","params":{"table":"","cwd":"a"}}', -32602),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"check","params":{"table":"","cwd":"/\\u0000"}}',
            -32602,
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"create","params":{"name":"a","mode":4294967296}}',
            -32602,
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"info","params":{"device":%s}}'
            % (b"[" * 900 + b"]" * 900),
            -32602,
        ),
    ],
)
def test_a_client_that_errs_is_told_so_and_may_go_on(
    client: Client, line: bytes, code: int
) -> None:
    client.send_line(line)
    assert client.receive()["error"]["code"] == code
    assert client.call("list") == []


def test_a_line_that_is_too_long_ends_the_connection(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LINE_MAX", 1000)
    client.sock.sendall(b"x" * 2000)
    assert client.receive() is None


def test_a_request_may_come_byte_by_byte(client: Client) -> None:
    for byte in b'{"jsonrpc":"2.0","id":1,"method":"list"}\n':
        client.sock.sendall(bytes([byte]))
    assert client.result() == []


def test_who_has_no_more_requests_gets_the_answers(client: Client) -> None:
    client.send("list")
    client.send("list")
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.result(), client.result(), client.receive()] == [[], [], None]


def test_the_end_of_the_core_wakes_a_client_that_does_not_read(
    core: Core, connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LAST_REQUESTS", 0.1)
    before = set(threading.enumerate())
    client = connect()
    client.call("version")
    (thread,) = set(threading.enumerate()) - before
    # more answers than the socket holds; of the requests it holds enough
    client.sock.setblocking(False)
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "targets"}).encode() + b"\n"
    with suppress(BlockingIOError):
        while True:
            client.sock.send(line * 100)
    core.close()
    thread.join()


def test_many_clients_that_say_nothing(client: Client, connect: Callable[[], Client]) -> None:
    silent = [connect() for _ in range(500)]
    assert client.call("version")["protocol"] == 1
    assert silent[-1].call("version")["protocol"] == 1


def test_what_befalls_one_client_leaves_the_next_one_alone(
    client: Client, connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.call("version")
    asked: list[socket.socket] = []

    def may(sock: socket.socket) -> bool:
        asked.append(sock)
        if len(asked) == 1:
            raise OSError(errno.ENOTCONN, "it went")
        return True

    monkeypatch.setattr(control, "_may", may)
    assert connect().receive() is None
    assert connect().call("list") == []


def test_a_thread_that_cannot_be_had_costs_one_connection(
    client: Client, connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.call("version")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        assert connect().receive() is None
    assert client.call("daemon_status")["connections"] == 1


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_long_lines_pass(client: Client) -> None:
    table = "".join(f"{8 * n} 8 zero\n" for n in range(100_000))
    assert client.call("create", name="a", table=table)["target_count"] == 100_000
    targets = client.call("table", device={"name": "a"})["targets"]
    assert targets[-1] == {"start": 799_992, "length": 8, "type": "zero", "params": ""}


def test_a_bug_is_answered_with_a_reference_to_the_log(
    core: Core,
    refused: Callable[..., Refused],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(core.devices, "all", broken)
    error = refused("list")
    assert error.code == -32603
    reference = f"bug {os.getpid()}-1"
    assert reference in error.message
    assert "oh" not in error.message
    assert reference in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_files_are_for_their_owner_only(core: Core, directory: Directory) -> None:
    for path in (directory.path, directory.control, directory.lock):
        assert stat.S_IMODE(os.stat(path).st_mode) & 0o077 == 0, path


def test_clients_at_once(client: Client, connect: Callable[[], Client]) -> None:
    clients = [connect() for _ in range(40)]
    for number, one in enumerate(clients):
        one.send("create", name=f"d{number}", table="0 8 zero")
    minors = {one.result()["minor"] for one in clients}
    assert minors == set(range(40))
    assert client.call("daemon_status")["connections"] == 41


def test_a_client_that_hangs_up_is_forgotten(client: Client, connect: Callable[[], Client]) -> None:
    other = connect()
    other.call("list")
    assert client.call("daemon_status")["connections"] == 2
    other.send_line(b'{"jsonrpc":"2.0","id":1,"method":"list"}')
    other.sock.shutdown(socket.SHUT_WR)
    assert other.result() == []
    assert other.receive() is None  # the core has closed its side: it is forgotten
    assert client.call("daemon_status")["connections"] == 1


_CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
try:
    sock.sendall(b'{"jsonrpc":"2.0","id":1,"method":"version"}\\n')
    print(len(sock.recv(100)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
"""


@pytest.mark.root
@pytest.mark.tools("setpriv")
def test_another_user_is_turned_away(core: Core, directory: Directory, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv (Debian: util-linux) to become another user")
    # even where the modes would let them in
    os.chmod(directory.path, 0o755)
    os.chmod(directory.control, 0o666)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    python = os.path.realpath(sys.executable)
    for prefix, answer in ((nobody, "0"), ([], "100")):
        done = subprocess.run(
            [*prefix, python, "-I", "-S", "-c", _CONNECT, directory.control],
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        )
        assert done.stdout.strip() == answer


def test_version(call: Callable[..., Any], directory: Directory) -> None:
    told = call("version")
    assert told["dmtool"] == dmtool.__version__
    assert told["protocol"] == 1
    assert told["directory"] == directory.path
    for part in ("index", "meter", "columns", "lane"):
        assert told[part] in ("native", "python")


def test_targets(call: Callable[..., Any]) -> None:
    told = {target["name"]: target for target in call("targets")}
    assert told["linear"] == {
        "name": "linear",
        "version": [1, 4, 0],
        "distribution": told["linear"]["distribution"],
        "module": "dmtool.plugins.linear",
        "error": None,
    }
    assert told["linear"]["distribution"].startswith("dmtool ")
