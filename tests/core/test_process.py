# SPDX-License-Identifier: Apache-2.0
"""The core as a process of its own: start, races and crashes."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.core import process as module
from dmtool.core.process import Core
from dmtool.directory import Directory
from dmtool.errors import CoreError

if TYPE_CHECKING:
    from tests.core.conftest import Client, Process


# -- start ------------------------------------------------------------------------------------


def test_of_many_that_start_at_once_one_runs(
    spawn: Callable[..., Process], connect: Callable[[], Client]
) -> None:
    processes = [spawn() for _ in range(6)]
    reports = [process.report() for process in processes]
    assert sorted(reports) == ["ready"] + ["running"] * 5
    running = processes[reports.index("ready")]
    assert connect().call("version")["pid"] == running.popen.pid
    assert [p.wait() for p in processes if p is not running] == [0] * 5


def test_where_a_core_runs_another_says_so(core: Core, directory: Directory) -> None:
    assert not Core(directory).start()
    assert os.path.exists(directory.control)


def test_it_waits_for_a_core_that_is_ending(
    core: Core, directory: Directory, connect: Callable[[], Client]
) -> None:
    connect().call("create", name="a", table="0 8 zero")
    ended = os.path.exists
    core._control.end()  # as at the end of its life, whose last part takes its time
    following = Core(directory, idle=None)
    started: list[bool] = []
    starting = threading.Thread(target=lambda: started.append(following.start()))
    starting.start()
    core.close()
    starting.join()
    assert started == [True]
    assert ended(directory.control)
    assert [info["name"] for info in connect().call("list")] == ["a"]
    following.close()


def test_a_core_that_does_not_answer(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0)
    directory.prepare()
    fd = os.open(directory.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, b"4711\n")
    with pytest.raises(CoreError, match="4711") as caught:
        Core(directory).start()
    assert caught.value.errno == errno.EBUSY
    os.close(fd)


def test_why_it_cannot_start_is_reported(
    spawn: Callable[..., Process], directory: Directory
) -> None:
    with open(directory.state, "wb") as file:
        file.write(b"no database" * 1000)
    process = spawn()
    report = process.report()
    assert report.startswith(f"error {directory.state}: file is not a database")
    assert process.wait() == 1
    os.chmod(directory.path, 0o755)
    process = spawn()
    assert "mode 0755" in process.report()
    assert process.wait() == 1


def test_open_files_are_limited_by_the_system_only(core: Core) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


# -- the process ------------------------------------------------------------------------------


def test_it_leaves_its_caller_alone(
    spawn: Callable[..., Process], directory: Directory, connect: Callable[[], Client]
) -> None:
    process = spawn()
    assert process.report() == "ready"
    proc = f"/proc/{process.popen.pid}"
    assert os.readlink(f"{proc}/cwd") == "/"
    assert os.readlink(f"{proc}/fd/0") == os.devnull
    assert os.readlink(f"{proc}/fd/1") == os.readlink(f"{proc}/fd/2") == directory.log
    with open(f"{proc}/status", encoding="ascii") as lines:
        assert "Umask:\t0077\n" in lines
    connect().call("version")


def test_stop_ends_it_when_all_is_over(
    spawn: Callable[..., Process], directory: Directory, connect: Callable[[], Client]
) -> None:
    process = spawn()
    assert process.report() == "ready"
    client, waiting, idle = connect(), connect(), connect()
    client.call("create", name="a", table="0 8 zero")
    idle.call("version")
    waiting.send("wait", device={"name": "a"})
    assert client.call("stop") == {}
    assert client.receive() is None  # the end of the connection
    assert not os.path.exists(directory.control)
    assert not os.path.exists(directory.nbd)
    fd = os.open(directory.lock, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    answer = waiting.receive()
    assert answer is None or answer["error"]["code"] == -32001
    assert idle.receive() is None
    assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_and_leave_the_devices_defined(
    spawn: Callable[..., Process], connect: Callable[[], Client], number: signal.Signals
) -> None:
    process = spawn()
    assert process.report() == "ready"
    connect().call("create", name="a", table="0 8 zero")
    process.popen.send_signal(number)
    assert process.wait() == 0
    assert spawn().report() == "ready"
    assert connect().call("info", device={"name": "a"})["live"]


def test_a_killed_core_loses_nothing(
    spawn: Callable[..., Process], connect: Callable[[], Client], image: Callable[..., str]
) -> None:
    process = spawn()
    assert process.report() == "ready"
    client = connect()
    path = image()
    call = client.call
    call("create", name="low", uuid="U", minor=7, table=f"0 64 linear {path} 0")
    call("create", name="top", table="0 64 linear 1000:7 0", readonly=True)
    call("load", device={"name": "low"}, table="0 8 error\n8 8 zero", readonly=True)
    call("rename", device={"name": "low"}, new_name="lower")
    call("suspend", device={"name": "lower"})
    call("create", name="bare")

    def seen(client: Client) -> list[Any]:
        infos = client.call("list")
        references = [{"minor": info["minor"]} for info in infos]
        return [
            infos,
            [client.call("table", device=r)["targets"] for r in references],
            [client.call("table", device=r, inactive=True)["targets"] for r in references],
        ]

    before = seen(client)
    assert [info["event_nr"] for info in before[0]] == [0, 1, 0]
    process.popen.kill()
    process.wait()
    process = spawn()
    assert process.report() == "ready"
    assert seen(connect()) == before
    # killed in the middle of things: what was answered is there, and nothing by halves
    for number in range(5):
        client = connect()
        for n in range(number * 3):
            client.call("create", name=f"d{number}.{n}", table="0 8 zero")
            before[0].append(client.call("info", device={"name": f"d{number}.{n}"}))
        client.send("create", name=f"e{number}", table="0 8 zero\n8 8 error")
        process.popen.kill()
        process.wait()
        process = spawn()
        assert process.report() == "ready"
        found = {info["name"]: info for info in connect().call("list")}
        assert all(found[info["name"]] == info for info in before[0])
        half = found.get(f"e{number}")
        assert half is None or half["target_count"] == 2


def test_events_are_stored_when_wait_tells_them(
    spawn: Callable[..., Process], connect: Callable[[], Client]
) -> None:
    process = spawn()
    assert process.report() == "ready"
    client = connect()
    client.call("create", name="a", table="0 8 zero")
    for n in range(20):
        client.call("rename", device={"minor": 0}, new_name=f"a{n}")
    assert connect().call("wait", device={"minor": 0})["event_nr"] == 20
    process.popen.kill()
    process.wait()
    assert spawn().report() == "ready"
    assert connect().call("info", device={"minor": 0})["event_nr"] == 20


def test_the_log_is_bounded(spawn: Callable[..., Process], directory: Directory) -> None:
    with open(directory.log, "wb") as file:
        file.write(b"x" * ((1 << 20) - 10))
    process = spawn(DMTOOL_LOG="debug")
    assert process.report() == "ready"
    process.popen.terminate()
    process.wait()
    assert os.path.getsize(directory.log) < 10_000
    assert os.path.getsize(directory.log + ".1") <= 1 << 20
    with open(directory.log, encoding="utf-8") as lines:
        assert "SIGTERM" in lines.read()


def test_in_the_foreground_it_logs_to_the_terminal(
    spawn: Callable[..., Process], directory: Directory
) -> None:
    process = spawn("--foreground")
    assert process.report() == "ready"
    process.popen.send_signal(signal.SIGINT)
    process.wait()
    assert process.popen.stderr is not None
    said = process.popen.stderr.read().decode()
    assert "SIGINT" in said
    assert directory.path in said
