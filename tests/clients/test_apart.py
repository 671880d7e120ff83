# SPDX-License-Identifier: Apache-2.0
"""What keeps apart what must not meet: two cores and one image, two users and one core."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

if TYPE_CHECKING:
    from tests.clients.conftest import Core, Tools

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env")
TABLE = "0 128 linear disk.img 3"
BUSY = "Device or resource busy"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 512)
    return path


# -- one image ------------------------------------------------------------------------------------


def test_a_second_core_cannot_write_an_image(disk: Path, new_core: Callable[[], Core]) -> None:
    first, second = new_core(), new_core()
    first("create", "one", "--table", TABLE)
    words = second.fails("create", "two", "--table", TABLE).splitlines()
    assert words[0] == f"device-mapper: reload ioctl on two (1000:0) failed: {BUSY}"
    # the cause: the place in the table, and which image it is
    assert words[1].startswith("--table:1:14: linear: ")
    assert "disk.img" in words[1]
    assert "in use" in words[1] or BUSY in words[1]
    assert words[-1] == "Command failed."
    assert second("ls") == "No devices found\n"

    # nor into the inactive slot of a device that it has
    second("create", "two", "--table", "0 128 zero")
    assert BUSY in second.fails("load", "two", "--table", TABLE)
    first("remove", "one")
    second("load", "two", "--table", TABLE)
    second("resume", "two")
    assert BUSY in first.fails("create", "one", "--table", TABLE)


def test_a_core_that_reads_keeps_writers_out(disk: Path, new_core: Callable[[], Core]) -> None:
    first, second, third = new_core(), new_core(), new_core()
    first("create", "one", "-r", "--table", TABLE)
    second("create", "two", "-r", "--table", TABLE)
    assert second.output("read", "two") == disk.read_bytes()[3 * 512 : 131 * 512]
    assert BUSY in third.fails("create", "three", "--table", TABLE)
    first("remove", "one")
    assert BUSY in third.fails("create", "three", "--table", TABLE)
    second("remove", "two")
    third("create", "three", "--table", TABLE)
    assert BUSY in first.fails("create", "one", "-r", "--table", TABLE)


def test_devices_of_one_core_may_share_an_image(disk: Path, dmtool: Core) -> None:
    """As in the kernel: partitions of one disk are so many linear devices."""
    dmtool("create", "one", "--table", "0 100 linear disk.img 0")
    dmtool("create", "two", "--table", "0 100 linear disk.img 100")
    dmtool("create", "all", "-r", "--table", "0 200 linear disk.img 0")
    dmtool("write", "two", stdin=b"shared")
    assert dmtool.output("read", "all", "--offset", "51200", "--length", "6") == b"shared"


@pytest.mark.tools("qemu-io", "qemu-img")
def test_qemu_keeps_off_an_image_in_use(disk: Path, dmtool: Core, tools: Tools) -> None:
    before = disk.read_bytes()
    dmtool("create", "one", "--table", TABLE)
    said = tools.qemu_io_any(disk, "write -P 1 0 4096")
    assert 'Failed to get "write" lock' in said
    resized = tools.try_("qemu-img", "resize", "-f", "raw", disk, "1M")
    assert resized.returncode == 1
    assert "lock" in resized.stderr
    assert disk.read_bytes() == before
    dmtool("remove", "one")
    tools.qemu_io(disk, "write -P 1 0 4096")


@pytest.mark.tools("qemu-io")
def test_an_image_that_qemu_writes_is_busy(disk: Path, dmtool: Core) -> None:
    with subprocess.Popen(
        ["qemu-io", "-f", "raw", disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write(b"read 0 512\n")
        qemu.stdin.flush()
        while b"512/512" not in qemu.stdout.readline():  # now it has the image
            pass
        assert BUSY in dmtool.fails("create", "one", "--table", TABLE)
        assert BUSY in dmtool.fails("create", "one", "-r", "--table", TABLE)
    dmtool("create", "one", "--table", TABLE)


def test_an_image_taken_while_its_core_was_dead(disk: Path, new_core: Callable[[], Core]) -> None:
    """The device is listed, without a live table, with the reason; a resume brings it back."""
    first, second = new_core(), new_core()
    first("create", "one", "-u", "UUID-1", "--table", TABLE)
    first.kill()
    second("create", "two", "--table", TABLE)
    info = first.info("one")
    assert (info["uuid"], info["live"], info["suspended"]) == ("UUID-1", False, False)
    assert BUSY in info["error"]
    assert first.fails("resume", "one")
    second("remove", "two")
    first("resume", "one")
    info = first.info("one")
    assert (info["live"], info["error"]) == (True, None)
    assert first.output("read", "one", "--length", "4") == disk.read_bytes()[1536:1540]


# -- another user ---------------------------------------------------------------------------------


def knock(path: str) -> str:
    """Python that connects to a socket and prints what it gets before the connection ends."""
    return (
        "import socket\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.settimeout(30)\n"
        f"s.connect({path!r})\n"
        "try:\n"
        '    s.sendall(b\'{"jsonrpc":"2.0","id":1,"method":"list","params":{}}\\n\')\n'
        "    print(s.recv(4096))\n"
        "except ConnectionError:\n"
        "    print(b'')\n"
    )


@pytest.fixture
def other_python(dmtool: Core) -> tuple[str, Path]:
    """An interpreter that every user can run, and a copy of our command for it to run."""
    copy = dmtool.parent / "site"
    dmtool.parent.chmod(0o711)
    for package in (Path(click.__file__).parent, Path(__file__).parents[2] / "dmtool"):
        ignore = shutil.ignore_patterns("plugins", "grammar", "__pycache__", "*.so")
        shutil.copytree(package, copy / package.name, ignore=ignore)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    # ours may be in somebody's home
    ours = str(getattr(sys, "_base_executable", sys.executable))
    new_enough = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (ours, "/usr/bin/python3"):
        run = subprocess.run(
            [*AS_NOBODY, python, "-c", new_enough], capture_output=True, check=False
        )
        if run.returncode == 0:
            return python, copy
    pytest.skip(f"other users cannot run {ours}, and there is no Python 3.11 in /usr/bin")


def run_as_nobody(
    other: tuple[str, Path], *args: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    python, site = other
    return subprocess.run(
        [*AS_NOBODY, python, *args],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(site), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.root
@pytest.mark.tools("setpriv", "nbdinfo")
def test_a_second_user_does_not_get_to_the_sockets(
    disk: Path, dmtool: Core, tools: Tools, other_python: tuple[str, Path]
) -> None:
    dmtool("create", "secret", "--table", TABLE)
    uri = dmtool.uri("secret")
    assert dmtool.path.stat().st_mode & 0o777 == 0o700
    for path in (dmtool.path / "control.sock", dmtool.path / "nbd.sock"):
        assert path.stat().st_mode & 0o777 == 0o600
    tools("nbdinfo", uri)  # we ourselves do

    for sock in ("control.sock", "nbd.sock"):
        done = run_as_nobody(other_python, "-c", knock(str(dmtool.path / sock)))
        assert "PermissionError" in done.stderr
    refused = tools.try_(*AS_NOBODY, "nbdinfo", uri)
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr

    done = run_as_nobody(other_python, "-m", "dmtool", "ls", DMTOOL_DIR=str(dmtool.path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.tools("setpriv", "nbdinfo")
def test_a_second_user_is_turned_away_even_through_an_open_door(
    disk: Path, dmtool: Core, tools: Tools, other_python: tuple[str, Path]
) -> None:
    """The core asks who the peer is: file modes alone do not let anybody in."""
    dmtool("create", "secret", "--table", TABLE)
    uri = dmtool.uri("secret")
    dmtool.path.chmod(0o755)
    for name in ("control.sock", "nbd.sock"):
        (dmtool.path / name).chmod(0o666)
    try:
        for name in ("control.sock", "nbd.sock"):
            done = run_as_nobody(other_python, "-c", knock(str(dmtool.path / name)))
            assert (done.returncode, done.stdout) == (0, "b''\n"), done.stderr
        assert tools.try_(*AS_NOBODY, "nbdinfo", uri).returncode == 1
        done = run_as_nobody(other_python, "-m", "dmtool", "ls", DMTOOL_DIR=str(dmtool.path))
        assert (done.returncode, done.stdout) == (1, "")
        assert "Traceback" not in done.stderr
        tools("nbdinfo", uri)
    finally:
        dmtool.path.chmod(0o700)


@pytest.mark.root
@pytest.mark.tools("setpriv")
def test_root_does_not_work_in_a_directory_of_somebody_else(
    dmtool: Core, other_python: tuple[str, Path]
) -> None:
    """A directory that another user made may hold his sockets, and his state."""
    dmtool.path.mkdir(mode=0o700)
    os.chown(dmtool.path, NOBODY, NOBODY)
    try:
        words = dmtool.fails("ls")
        assert "belongs to another user" in words
        assert list(dmtool.path.iterdir()) == []
    finally:
        os.chown(dmtool.path, os.geteuid(), os.getegid())


def test_a_directory_that_cannot_be_made(dmtool: Core) -> None:
    for path in ("/proc/dmtool/core", str(dmtool.files / "file" / "core")):
        (dmtool.files / "file").touch()
        words = dmtool.start("ls", env={**dmtool.environ, "DMTOOL_DIR": path}).communicate()[1]
        assert words.startswith(b"dmtool: cannot "), words
        assert len(words.splitlines()) <= 3
        assert b"internal error" not in words


def test_a_directory_that_others_can_enter_is_refused(dmtool: Core) -> None:
    dmtool.path.mkdir()
    dmtool.path.chmod(0o755)
    assert "open to other users (mode 0755)" in dmtool.fails("ls")
    dmtool.path.chmod(0o700)
    assert dmtool("ls") == "No devices found\n"


def test_a_directory_whose_sockets_would_have_too_long_a_path(dmtool: Core) -> None:
    dmtool.path = dmtool.parent / "deep" / ("d" * 100)
    dmtool.environ["DMTOOL_DIR"] = str(dmtool.path)
    for command in (["ls"], ["create", "one", "--table", "0 8 zero"], ["daemon", "run"]):
        words = dmtool.fails(*command)
        first, *rest = words.splitlines()
        assert "too long" in first
        assert "107" in first
        assert [line for line in rest if line != "Command failed."] == [
            "hint: set DMTOOL_DIR to a directory with a shorter path"
        ]
    assert not dmtool.path.exists()
    # the longest that goes
    short = 107 - len(str(dmtool.parent)) - len("/") - len("/control.sock")
    dmtool.path = dmtool.parent / ("d" * short)
    dmtool.environ["DMTOOL_DIR"] = str(dmtool.path)
    dmtool("create", "one", "--table", "0 8 zero")
    with socket.socket(socket.AF_UNIX) as nbd:
        nbd.connect(dmtool.nbd)
