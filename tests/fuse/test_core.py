# SPDX-License-Identifier: Apache-2.0
"""The files of a real core: when they are there, who keeps it alive, what a crash leaves."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dmtool.client.start import core_command, core_environment
from dmtool.directory import Directory
from dmtool.export.fuse import mount as m
from tests.fuse.conftest import MIB, SECONDS, refused, run

IDLE = 0.3  # seconds


class Home:
    """A core's directory, and the commands of who lives there. ``path`` is DMTOOL_DIR."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.path = top / "run"
        self.mapper, self.control = self.path / "mapper", self.path / "control"
        self.environment = {**core_environment(), "DMTOOL_DIR": str(self.path), "LC_ALL": "C"}
        self._cores: list[subprocess.Popen[bytes]] = []

    def __call__(self, *args: str, status: int = 0) -> str:
        """What a dmtool command says, on either stream."""
        done = subprocess.run(
            [sys.executable, "-m", "dmtool", *args],
            cwd=self.top,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == status, f"dmtool {args}: {done.stdout}"
        return done.stdout

    def core(self, *options: str) -> subprocess.Popen[bytes]:
        """A core process, which has come to be ready."""
        ready, write = os.pipe()
        command = [*core_command(Directory(str(self.path))), "--ready-fd", str(write), *options]
        core = subprocess.Popen(command, pass_fds=[write], env=self.environment)
        self._cores.append(core)
        os.close(write)
        with os.fdopen(ready, "rb") as file:
            assert file.readline() == b"ready\n"
        return core

    def pid(self) -> int:
        """Of the core that a command has started."""
        return int(json.loads(self("daemon", "status", "--json"))["pid"])

    def kill(self, pid: int) -> None:
        """As a crash; returns when all that belongs to the core has ended."""
        fd = os.pidfd_open(pid)
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert select.select([fd], [], [], SECONDS)[0]
        os.close(fd)
        self.settle()

    def settle(self) -> None:
        with suppress(FileNotFoundError), (self.path / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def mounted(self) -> tuple[int, int]:
        return m.mounted(str(self.mapper)), m.mounted(str(self.control))

    def close(self) -> None:
        for core in self._cores:
            core.terminate()
            core.wait(SECONDS)
        self("daemon", "stop")
        self.settle()
        shutil.rmtree(self.top)


@pytest.fixture
def home() -> Generator[Home]:
    # not tmp_path: the path of a unix socket has 107 bytes and no more
    home = Home(Path(tempfile.mkdtemp(prefix="dmtool-fuse-")))
    yield home
    home.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_files_are_there_with_the_core(home: Home) -> None:
    (home.top / "a.img").write_bytes(b"a" * 4096)
    home("create", "vol", "--table", "0 8 linear a.img 0")
    assert (home.mapper / "vol").read_bytes() == b"a" * 4096
    assert (home.control / "vol" / "table").read_text() == f"0 8 linear {home.top}/a.img 0\n"
    assert home("path", "vol") == f"{home.mapper}/vol\n"
    assert json.loads(home("path", "--json", "vol"))["path"] == f"{home.mapper}/vol"
    assert home("mount-point") == f"{home.path}\n"
    assert json.loads(home("mount-point", "--json")) == {
        "version": 1,
        "directory": str(home.path),
        "mapper": str(home.mapper),
        "control": str(home.control),
    }
    assert "No such device or address" in home("path", "other", status=1)
    home("daemon", "stop")
    assert home.mounted() == (0, 0)


def test_owner_and_mode_are_those_of_create(home: Home) -> None:
    mode = ("--mode", "0640", *(("--uid", "7", "--gid", "8") if os.geteuid() == 0 else ()))
    home("create", "vol", *mode, "--table", "0 8 zero")
    info = (home.mapper / "vol").stat()
    assert stat.S_IMODE(info.st_mode) == 0o640
    owner = (7, 8) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    assert (info.st_uid, info.st_gid) == owner
    # of a minor that was given anew nothing is left
    home("remove", "vol")
    home("create", "new", "--table", "0 8 zero")
    assert stat.S_IMODE((home.mapper / "new").stat().st_mode) == 0o600


@pytest.mark.root
@pytest.mark.tools("setpriv")
def test_another_user_where_the_files_are_shown_to_him(home: Home) -> None:
    """The core's directory is private: a bind mount shows the files, then modes decide."""
    home("create", "his", "--uid", "65534", "--table", "0 8 zero")
    home("create", "his group's", "--gid", "65534", "--mode", "0640", "--table", "0 8 zero")
    home("create", "root's", "--table", "0 8 zero")
    place = home.top / "place"
    place.mkdir()
    home.top.chmod(0o755)
    subprocess.run(["mount", "--bind", home.mapper, place], check=True)
    try:
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]
        words = (
            'cd "$0"; for f in *; do test -r "$f" && printf r; test -w "$f" && printf w; echo; done'
        )
        said = subprocess.run([*user, words, place], capture_output=True, text=True, check=True)
        assert sorted(os.listdir(place)) == [r"his", r"his\x20group\x27s", r"root\x27s"]
        assert said.stdout == "rw\nr\n\n"
        read = subprocess.run([*user, 'cat "$0"/his', place], capture_output=True, check=True)
        assert read.stdout == bytes(4096)
        denied = ["cat", home.mapper / "his"]  # there he cannot get
        assert subprocess.run([*user[:-2], *denied], capture_output=True, check=False).returncode
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_crash_leaves_nothing_mounted(home: Home) -> None:
    home("create", "vol", "--table", "0 8 zero")
    with (home.mapper / "vol").open("rb") as file:
        home.kill(home.pid())
        assert refused(lambda: os.pread(file.fileno(), 1, 0))
    assert home.mounted() == (0, 0)
    assert os.listdir(home.mapper) == []
    home("info", "vol")
    assert (home.mapper / "vol").read_bytes() == bytes(4096)


@pytest.mark.parametrize("never", [False, True])
def test_the_next_start_unmounts_what_nobody_else_did(home: Home, never: bool) -> None:
    """Also of a core that was killed with all its children."""
    core = home.core()
    for child in children(core.pid):
        os.kill(child, signal.SIGKILL)
    home.kill(core.pid)
    core.wait()
    assert home.mounted() == (1, 1)
    assert refused(lambda: os.listdir(home.mapper))
    if never:
        home.environment["DMTOOL_FUSE"] = "never"
    home.core()
    assert home.mounted() == ((0, 0) if never else (1, 1))
    assert os.listdir(home.mapper) == []


def test_the_guardian_goes_with_the_core(home: Home) -> None:
    core = home.core()
    (guardian,) = children(core.pid)
    fd = os.pidfd_open(guardian)
    core.terminate()
    assert core.wait(SECONDS) == 0
    assert select.select([fd], [], [], 0)[0]
    os.close(fd)


def test_somebody_unmounts(home: Home) -> None:
    home("create", "vol", "--table", "0 8 zero")
    m.unmount(str(home.mapper))
    assert os.listdir(home.mapper) == []
    path = home("path", "vol").strip()
    assert Path(path).read_bytes() == bytes(4096)
    assert home.mounted() == (1, 1)


@pytest.mark.parametrize("word", ["never", "0"])
def test_files_that_are_not_wanted(home: Home, word: str) -> None:
    home.environment["DMTOOL_FUSE"] = word
    home("create", "vol", "--table", "0 8 zero")
    assert home.mounted() == (0, 0)
    said = home("path", "vol", status=1)
    assert said == (
        f"no files for mapped devices: the core was started with DMTOOL_FUSE={word}\n"
        "hint: unset DMTOOL_FUSE, and end the core: dmtool daemon stop\n"
        "Command failed.\n"
    )
    assert "DMTOOL_FUSE" in home("mount-point", status=1)
    assert home("uri", "vol").startswith("nbd+unix:")


def test_nothing_is_made_where_nothing_is_mounted(home: Home) -> None:
    home("create", "vol", "--table", "0 8 zero")
    home("remove", "vol")
    home("daemon", "stop")
    assert stat.S_IMODE(home.control.stat().st_mode) == 0o500
    if os.geteuid():
        assert refused((home.control / "vol").mkdir)


@contextmanager
def idling(home: Home) -> Generator[subprocess.Popen[bytes]]:
    """A core that ends soon after this, if it has nothing to do."""
    core = home.core("--idle", str(IDLE))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(home.path / "control.sock"))
        yield core


def idle(home: Home) -> bool:
    """Whether the core that runs, and has nothing to do, ends."""
    try:
        home._cores[-1].wait(4 * IDLE)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_a_core_with_a_file_open_is_not_idle(home: Home) -> None:
    with idling(home) as core:
        (home.control / "vol").mkdir()
        file = (home.control / "vol" / "events").open("rb", buffering=0)
        (home.control / "vol").rmdir()
    with file:
        assert not idle(home)
        assert file.read() == b""
    assert core.wait(SECONDS) == 0


def test_who_has_asked_for_the_mount_point_finds_it_mounted(home: Home) -> None:
    with idling(home):
        home("mount-point")
    assert not idle(home)
    (home.control / "vol").mkdir()
    (home.control / "vol" / "table").write_text("0 8 zero\n")
    assert home("table", "vol") == "0 8 zero \n"


@pytest.mark.root
@pytest.mark.tools("mkfs.ext4", "e2fsck")
def test_a_file_system_outlives_a_crash(home: Home) -> None:
    """Mounted by way of `attach`: what was synced is there, after a replay of the journal."""
    for name in ("a.img", "b.img"):
        with (home.top / name).open("wb") as file:
            file.truncate(64 * MIB)
    home("create", "vol", "--table", f"0 {64 << 11} mirror core 1 1024 2 a.img 0 b.img 0")
    file, place = home.mapper / "vol", home.top / "place"
    place.mkdir()
    run("mkfs.ext4", "-q", "-F", file)
    run("mount", "-t", "ext4", loop := home("attach", "vol").strip(), place)
    (place / "synced").write_bytes(b"synced" * 10_000)
    run("sync", "-f", place)
    (place / "later").write_bytes(b"later" * 100_000)
    home.kill(home.pid())
    # what is still to be written finds nobody
    subprocess.run(["umount", place], check=False)
    home("detach", loop)
    home("info", "vol")
    run("mount", "-t", "ext4", loop := home("attach", "vol").strip(), place)
    assert (place / "synced").read_bytes() == b"synced" * 10_000
    run("umount", place)
    run("e2fsck", "-f", "-n", loop)
    home("detach", "vol")


WITHOUT_NODE = """
set -e
new=$(mktemp -d)
for node in null zero urandom; do touch $new/$node; mount --bind /dev/$node $new/$node; done
mkdir $new/shm
mount --rbind $new /dev
exec "$@"
"""
WITHOUT_COMMANDS = """
set -e
for word in fusermount3 fusermount; do
    if at=$(command -v $word); then mount --bind /dev/null "$at"; fi
done
exec "$@"
"""


@pytest.mark.root
@pytest.mark.tools("unshare")
def test_a_machine_without_fuse(home: Home) -> None:
    """All but the files is there; what is missing is told by the command that wants it."""
    script = (
        '"$0" -m dmtool create vol --table "0 8 zero" && "$0" -m dmtool read vol | wc -c\n'
        '"$0" -m dmtool path vol; "$0" -m dmtool attach vol\n"$0" -m dmtool daemon stop'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", WITHOUT_NODE, "sh", "sh", "-c", script, sys.executable],
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    why = (
        "no files for mapped devices: there is no /dev/fuse\n"
        "hint: load the kernel's fuse module; give a container --device /dev/fuse\n"
        "Command failed.\n"
    )
    assert done.stdout == "4096\n" + 2 * why
    assert "there is no /dev/fuse" in (home.path / "log").read_text()


@pytest.mark.root
@pytest.mark.tools("unshare", "setpriv")
def test_a_user_without_the_command(home: Home) -> None:
    """Neither root nor fusermount3: NBD is there, and the hint says what to install."""
    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    script = (
        '"$0" -m dmtool create vol --table "0 8 zero" && "$0" -m dmtool read vol | wc -c\n'
        '"$0" -m dmtool path vol\n"$0" -m dmtool daemon stop'
    )
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", WITHOUT_COMMANDS, "sh"),
            *(*drop, "sh", "-c", script, sys.executable),
        ],
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout == (
        "4096\n"
        f"no files for mapped devices: mounting at {home.mapper} needs root or the command "
        "fusermount3\n"
        "hint: install fuse3 (Debian, Fedora and Arch call it so)\n"
        "Command failed.\n"
    )


@pytest.mark.root
@pytest.mark.tools("losetup", "blockdev")
def test_attach_and_detach(home: Home) -> None:
    (home.top / "a.img").write_bytes(bytes(MIB))
    home("create", "vol", "--table", "0 2048 linear a.img 0")
    loop = home("attach", "vol").strip()
    assert subprocess.check_output(["blockdev", "--getsize64", loop], text=True) == f"{MIB}\n"
    assert "Device or resource busy" in home("remove", "vol", status=1)
    home("rename", "vol", "other")
    assert home("detach", "other") == ""
    home("suspend", "other")
    assert "the device is suspended.\nhint: resume it first\n" in home("attach", "other", status=1)
    home("resume", "other")
    assert "No loop device is attached." in home("detach", "other", status=1)
    readonly = json.loads(home("attach", "--json", "other"))["device"]
    assert home("detach", readonly) == ""
    assert "/dev/loop999999" in home("detach", "/dev/loop999999", status=1)
    home("remove", "other")
