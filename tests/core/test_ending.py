# SPDX-License-Identifier: Apache-2.0
"""When a core ends, and that nothing is lost by it."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from dmtool.core import process as module
from dmtool.core.process import Core
from dmtool.directory import Directory

if TYPE_CHECKING:
    from tests.core.conftest import Client, Process


def test_an_idle_core_ends(spawn: Callable[..., Process], directory: Directory) -> None:
    process = spawn("--idle", "0.05")
    assert process.report() == "ready"
    assert process.wait() == 0
    assert not os.path.exists(directory.control)
    assert not os.path.exists(directory.nbd)


def test_a_core_with_a_device_or_a_client_is_not_idle(
    spawn: Callable[..., Process], connect: Callable[[], Client]
) -> None:
    process = spawn("--idle", "0.2")
    assert process.report() == "ready"
    client = connect()
    fd = os.pidfd_open(process.popen.pid)
    # longer than idle time: neither a client nor a device lets it end
    client.call("create", name="a", table="0 8 zero")
    assert select.select([fd], [], [], 0.5)[0] == []
    other = connect()
    client.close()
    assert select.select([fd], [], [], 0.5)[0] == []
    other.call("remove", device={"name": "a"})
    assert select.select([fd], [], [], 0.5)[0] == []
    other.close()
    assert select.select([fd], [], [], 50)[0] == [fd]
    os.close(fd)
    assert process.wait() == 0


def test_no_command_is_lost_to_a_core_that_ends(
    spawn: Callable[..., Process], directory: Directory
) -> None:
    """Clients that follow the rules of docs/control-protocol.md, against cores that end as soon
    as they can."""
    done: list[str] = []
    lock = threading.Lock()

    def ask(name: str) -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": "create", "params": {"name": name}}
        while True:
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.connect(directory.control)
                    sock.sendall(json.dumps(request).encode() + b"\n")
                    answer = sock.makefile("rb").readline()
                except (FileNotFoundError, ConnectionError):
                    answer = b""
            told = json.loads(answer) if answer else {"error": {"code": -32001}}
            if "result" in told and request["method"] == "create":
                done.append(name)
                request |= {"method": "remove", "params": {"device": {"name": name}}}
            elif "result" in told:
                return
            else:
                assert told["error"]["code"] == -32001, told
                with lock:
                    assert spawn("--idle", "0.001").report() in ("ready", "running")

    threads = [
        threading.Thread(target=lambda n=n: [ask(f"{n}.{m}") for m in range(3)]) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 6


def test_run_returns_when_stopped(directory: Directory) -> None:
    core = Core(directory, idle=None)
    assert core.start()
    running = threading.Thread(target=core.run)
    running.start()
    core.request_stop()
    running.join()
    core.close()
    core.close()


def test_nbd_clients_keep_the_core(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(directory, idle=0.01)
    assert core.start()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(directory.nbd)
    sock.recv(18)  # the server's greeting: it knows of the client
    running = threading.Thread(target=core.run)
    running.start()
    running.join(0.2)
    assert running.is_alive()
    assert core.connections == 1
    sock.close()
    running.join()
    core.close()


def test_io_that_does_not_end_holds_up_no_end(
    core: Core, connect: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_REQUESTS", 0.1)
    client = connect()
    client.call("create", name="a", table="0 8 zero")
    device = core.devices.all()[0].device
    device.begin()
    client.send("suspend", device={"name": "a"})
    assert select.select([device.closed_fd], [], [], 30)[0]
    core.close()
    assert client.receive() is None
    device.end()


def test_started_is_now(core: Core) -> None:
    assert abs(core.started - time.time()) < 60
