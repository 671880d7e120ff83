# SPDX-License-Identifier: Apache-2.0
"""Whole sessions: commands as a user types them, a core of their own, real image files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest


@pytest.fixture
def pool(shell: Any) -> Any:
    """Two images joined."""
    shell.image("a.img", 64, fill=0xA)
    shell.image("b.img", 128, fill=0xB)
    table = b"# joined\n0 64 linear a.img 0\n64 128\tlinear b.img 0\n"
    assert shell("create", "pool", stdin=table) == (0, "", "")
    return shell


def test_a_device_and_its_bytes(pool: Any) -> None:
    cwd = pool.cwd
    assert pool("table", "pool").out == (
        f"0 64 linear {cwd}/a.img 0\n64 128 linear {cwd}/b.img 0\n"
    )
    assert pool("uri", "pool").out == f"nbd+unix:///pool?socket={pool.directory.nbd}\n"
    assert pool("read", "pool", "--offset", "32256", "--length", "1k").out == (
        "\x0a" * 512 + "\x0b" * 512
    )
    assert pool("write", "pool", "--offset", "64s", stdin=b"hello") == (0, "", "")
    assert (cwd / "b.img").read_bytes()[:6] == b"hello\x0b"
    lines = pool("explain", "pool", "60+8").out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["60", "4", "linear"],
        ["64", "4", "linear"],
    ]


def test_write_does_not_begin_what_does_not_fit(pool: Any) -> None:
    size = 192 * 512
    before = pool("read", "pool").out
    big = pool.cwd / "big"
    big.write_bytes(b"x" * (size + 1))
    with big.open("rb") as file:
        command = pool.command("write", "pool")
        done = subprocess.run(
            command, stdin=file, env=pool.environment, capture_output=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"Bytes 0 to {size + 1} are not all on the device: it has {size} bytes.\nCommand failed.\n"
    )
    assert pool("write", "pool", "--offset", str(size + 1), status=1).err == (
        f"Byte {size + 1} is past the end of the device: it has {size} bytes.\nCommand failed.\n"
    )
    assert pool("write", "pool", "--length", "200s", status=1).status == 1
    assert pool("read", "pool").out == before
    # of a pipe the length is not known
    assert pool("write", "pool", stdin=b"y" * (size + 1), status=1).err == (
        f"The device is full: only {size} bytes were written.\nCommand failed.\n"
    )
    assert pool("write", "pool", "--length", "2", stdin=b"z", status=1).err == (
        "Standard input ended after 1 of 2 bytes.\nCommand failed.\n"
    )


def test_a_table_is_swapped(pool: Any) -> None:
    pool("suspend", "pool")
    pool("reload", "pool", "--table", "0 8 zero")
    assert pool("info", "-c", "--noheadings", "-o", "attr", "pool").out == "LIsw\n"
    assert pool("table", "--inactive", "pool").out == "0 8 zero \n"
    pool("resume", "pool")
    assert pool("table", "pool").out == "0 8 zero \n"
    assert pool("table", "--inactive", "pool").out == "\n"
    assert pool("remove", "pool", "nosuch", status=1).err == (
        "device-mapper: remove ioctl on nosuch  failed: No such device or address\n"
        "Command failed.\n"
    )
    assert pool("ls").out == "No devices found\n"


def test_the_stack_is_drawn(pool: Any) -> None:
    table = "0 8 linear /dev/mapper/pool 60"
    assert pool("create", "top", "--table", table) == (0, "", "")
    cwd = pool.cwd
    assert pool("ls", "--tree").out == (
        f"top (1000:1)\n `-pool (1000:0)\n    |- ({cwd}/b.img)\n    `- ({cwd}/a.img)\n"
    )
    assert pool("ls", "--tree", "-o", "nodevice,utf").out == "top\n └─pool\n"
    assert pool("ls", "--tree", "-o", "inverted").out == (
        f" ({cwd}/b.img)\n `-pool (1000:0)\n    `-top (1000:1)\n"
        f" ({cwd}/a.img)\n `-pool (1000:0)\n    `-top (1000:1)\n"
    )
    assert pool("ls", "--tree", "-o", "compact,nodevice").out == "top---pool"
    names = pool("info", "-c", "--noheadings", "-o", "name,devs_used,names_using_dev").out
    assert names == "pool::top\ntop:pool:\n"
    assert pool("remove", "pool", status=1).err.startswith(
        "device-mapper: remove ioctl on pool  failed: Device or resource busy\n"
    )


def test_names_of_every_kind(shell: Any) -> None:
    """Recorded: names."""
    names = ["A", "sp ace", 'a"b', "ünïcode", "tab\tname", "new\nline", "a,b;c", "raw\udcff"]
    for name in names:
        assert shell("create", name, "--table", "0 8 zero") == (0, "", "")
    found = shell("info", "-c", "--noheadings", "-o", "name", "--separator", "|").out
    assert sorted(found.replace("new\nline", "new/line").splitlines()) == sorted(
        name.replace("\n", "/") for name in names
    )
    for name in names:
        assert shell("table", name).out == "0 8 zero \n"
    told = json.loads(shell("ls", "--json").out)
    assert {device["name"] for device in told["devices"]} == set(names)
    assert shell("remove", *names) == (0, "", "")


def test_table_is_read_back_by_create(pool: Any) -> None:
    for args in (["table", "pool"], ["table", "--concise"]):
        text = pool(*args).out
        assert pool("remove", "pool").status == 0
        again = ["create", "pool"] if "--concise" not in args else ["create", "--concise"]
        assert pool(*again, stdin=text.encode()) == (0, "", "")
        assert pool(*args).out == text


def test_errors_name_the_place(shell: Any) -> None:
    (shell.cwd / "pool.table").write_text("0 8 zero\n8 8 liner x 0\n")
    assert shell("create", "t", "pool.table", status=1).err.splitlines() == [
        "device-mapper: reload ioctl on t (1000:0) failed: Invalid argument",
        "pool.table:2:5: liner: unknown target type",
        "  8 8 liner x 0",
        "      ^",
        "hint: did you mean linear?",
        "Command failed.",
    ]
    assert shell("ls").out == "No devices found\n"
    done = shell("check", stdin=b"0 8 zero\nrubbish\n16 8 linear nosuch.img 0\n", status=1)
    assert [line for line in done.err.splitlines() if line.startswith("<stdin>")][-1].startswith(
        "<stdin>:3:13: linear: Device lookup failed"
    )
    assert shell("check", stdin=b"0 8 zero\n") == (0, "", "")
    first = shell("create", "t", stdin=b"rubbish\n", status=1).err.splitlines()[0]
    assert first == "Invalid format on line 1 of table on stdin."


def listening(shell: Any) -> None:
    """Return when the core has a second connection: that of a command that waits."""
    while json.loads(shell("daemon", "status", "--json").out)["connections"] < 2:
        pass


def test_wait_and_interrupt(pool: Any) -> None:
    waiting = pool.start("wait", "pool")
    listening(pool)
    pool("rename", "pool", "lake")
    assert waiting.wait(30) == 0
    waiting = pool.start("wait", "lake", "1", stderr=subprocess.PIPE)
    listening(pool)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert b"Traceback" not in said


def test_a_reader_that_goes_away(pool: Any) -> None:
    read, write = os.pipe()
    os.close(read)
    done = pool.start("table", "pool", stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, said = done.communicate(timeout=30)
    assert (done.returncode, said) == (-signal.SIGPIPE, b"")


def test_daemon(shell: Any) -> None:
    """status and stop start nothing."""
    assert shell("daemon", "status", status=1).out == f"not running ({shell.directory.path})\n"
    assert shell("daemon", "stop") == (0, "", "")
    assert not os.path.exists(shell.directory.control)
    shell("create", "a", "-n")
    told = json.loads(shell("daemon", "status", "--json").out)
    assert (told["version"], told["running"], told["devices"]) == (1, True, 1)
    assert shell("daemon", "status").out.splitlines()[2].split() == ["devices", "1"]
    assert shell("daemon", "stop") == (0, "", "")
    assert shell("daemon", "status", status=1).status == 1
    assert shell("ls").out == "a\t(1000:0)\n"


def test_daemon_in_the_foreground(shell: Any) -> None:
    daemon = shell.start("daemon", "run", stderr=subprocess.DEVNULL)
    while shell("daemon", "status", status=None).status:
        assert daemon.poll() is None
    assert json.loads(shell("daemon", "status", "--json").out)["pid"] == daemon.pid
    shell("daemon", "stop")
    assert daemon.wait(30) == 0


def test_versions(shell: Any) -> None:
    from dmtool.btree import INDEX
    from dmtool.device.meter import METER
    from dmtool.export.nbd.lane import LANE
    from dmtool.table.columns import COLUMNS

    assert shell("version").out.splitlines()[2:] == [
        "dmtool version:    0.1.0",
        f"Sector index:      {INDEX}",
        f"I/O counters:      {METER}",
        f"Plain tables:      {COLUMNS}",
        f"NBD requests:      {LANE}",
    ]
    lines = shell("targets").out.splitlines()
    assert "linear           v1.4.0" in lines
    assert shell("target-version", "striped", "zero").out == (
        "striped          v1.6.0\nzero             v1.1.0\n"
    )


def test_a_directory_that_cannot_be_used(shell: Any) -> None:
    shell.environment["DMTOOL_DIR"] = "/" + "x" * 120
    done = shell("ls", status=1)
    assert done.err.startswith("dmtool: the path of a socket is too long")
    assert done.err.endswith(
        "hint: set DMTOOL_DIR to a directory with a shorter path\nCommand failed.\n"
    )
    shell.environment["DMTOOL_DIR"] = shell.directory.path
