# SPDX-License-Identifier: Apache-2.0
"""The command `events`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cli.test_json import documented, fields


class Following:
    """`dmtool events` at work."""

    def __init__(self, shell: Any, *args: str) -> None:
        pipe = subprocess.PIPE
        self.process = shell.start("events", *args, stdout=pipe, stderr=pipe)

    def line(self) -> str:
        return str(self.process.stdout.readline().decode().rstrip("\n"))

    def object(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.line())
        assert set(fields(found)) - {"version"} <= documented("events")
        return found

    def end(self) -> tuple[int, str, str]:
        """Status, the rest of its output, its complaints."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode(), err.decode()


@contextmanager
def follow(shell: Any, *args: str) -> Generator[Following]:
    following = Following(shell, *args)
    try:
        yield following
    finally:
        following.process.kill()
        following.process.communicate()


def test_of_all_devices_until_interrupted(shell: Any) -> None:
    shell.image("a.img", 64, 1)
    shell.image("b.img", 64)
    with follow(shell) as following:
        assert following.line() == "-- no core process runs"
        shell("ls")
        assert following.line() == "-- following 0 devices"
        shell("create", "m 1", "--table", "0 64 mirror core 1 64 2 a.img 0 b.img 0")
        assert [following.line(), following.line()] == ["m 1: 0 create", "m 1: 1 mirror in sync"]
        shell("rename", "m 1", "m")
        assert following.line() == "m: 2 renamed from m 1"
        following.process.send_signal(signal.SIGINT)
        assert following.end() == (130, "", "\n")


def test_of_one_device_until_it_is_removed(shell: Any) -> None:
    shell("create", "a", "--table", "0 8 zero")
    shell("create", "b", "--table", "0 8 zero")
    with follow(shell, "a") as following:
        assert following.line() == "-- following a from event 0"
        shell("remove", "b")
        shell("suspend", "a")
        shell("rename", "a", "--setuuid", "U 1")
        shell("rename", "a", "c")
        shell("remove", "c")
        said = "a: 0 suspend\na: 1 uuid U 1\nc: 2 renamed from a\nc: 2 remove\n"
        assert following.end() == (0, said, "")


def test_json(shell: Any) -> None:
    shell("create", "a b", "-u", "U", "--table", "0 8 zero")
    with follow(shell, "a b", "--json") as following:
        numbers = {"major": 1000, "minor": 0, "event_nr": 0}
        names = {"name": "a b", "mangled_name": "a\\x20b"}
        assert following.object() == {
            "version": 1,
            "event": "follow",
            "devices": [{**names, **numbers}],
        }
        shell("rename", "a b", "a")
        renamed = following.object()
        assert (renamed["event"], renamed["name"], renamed["old_name"]) == ("rename", "a", "a b")
        names, numbers["event_nr"] = {"name": "a", "mangled_name": "a"}, 1
        shell("suspend", "a")
        assert following.object() == {
            "version": 1,
            "event": "suspend",
            **names,
            "uuid": "U",
            **numbers,
        }


def test_over_the_end_of_a_core(shell: Any) -> None:
    """It is followed by the next one that somebody starts, and itself starts none."""
    shell("create", "a", "--table", "0 8 zero")
    with follow(shell, "a") as following, follow(shell) as all_of_them:
        assert following.line() == "-- following a from event 0"
        assert all_of_them.line() == "-- following 1 device"
        pid = json.loads(shell("daemon", "status", "--json").out)["pid"]
        os.kill(pid, signal.SIGKILL)
        assert following.line() == all_of_them.line() == "-- the core process has ended"
        assert json.loads(shell("daemon", "status", "--json", status=1).out)["running"] is False
        shell("rename", "a", "b")
        lines = [following.line()]
        if lines[0].endswith("event 1"):  # it was quicker than we were
            assert lines == ["-- following b from event 1"]
            assert following.line() == "-- b: 1 events up to 1 were missed"
        else:
            assert (lines[0], following.line()) == (
                "-- following a from event 0",
                "b: 1 renamed from a",
            )
        shell("daemon", "stop")
        assert following.line() == "-- the core process has ended"
        shell("remove", "b")
        status, out, err = following.end()
        assert (status, err) == (0, "")
        assert out.endswith(("b: 1 remove\n", "-- b is gone\n"))


def test_the_reader_goes(shell: Any) -> None:
    shell("create", "a", "--table", "0 8 zero")
    with follow(shell) as following:
        assert following.line() == "-- following 1 device"
        following.process.stdout.close()
        assert following.process.wait(60) == -signal.SIGPIPE


@pytest.mark.parametrize("args", [["nosuch"], ["-u", "NOSUCH"], ["a", "b"]])
def test_refused(shell: Any, args: list[str]) -> None:
    done = shell("events", *args, status=1)
    assert done.out == ""
    assert "Traceback" not in done.err
