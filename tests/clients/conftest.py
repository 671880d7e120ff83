# SPDX-License-Identifier: Apache-2.0
"""Core processes of the tests' own, and the commands, ours and others', that are run on them.

Nothing here imports dmtool: what is tested is what a user has, the installed command.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

DMTOOL = Path(sysconfig.get_path("scripts")) / "dmtool"
PATIENCE = 60.0  # seconds for a command
# A core writes its state through to the disk at every command, which a disk that others use at the
# same time makes slow. What survives a killed process does so in memory as well.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None


class Core:
    """The core process of a private directory, and the directory in which commands are run.

    ``path`` has 0700 and is what DMTOOL_DIR says; ``parent`` goes when the core ends.
    Threads: any.
    """

    def __init__(self, files: Path) -> None:
        # not tmp_path: the path of a unix socket has 107 bytes and no more
        self.parent = Path(tempfile.mkdtemp(prefix="dmt-", dir=MEMORY))
        self.path = self.parent / "core"
        self.files = files
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("DMTOOL_")}
        self.environ["DMTOOL_DIR"] = str(self.path)

    def start(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """A dmtool command that goes on; standard streams are pipes."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        where = {"cwd": self.files, "env": self.environ}
        return subprocess.Popen([DMTOOL, *args], **{**pipes, **where, **options})

    def try_(self, *args: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A dmtool command, whatever it answers."""
        return subprocess.run(
            [DMTOOL, *args],
            cwd=self.files,
            env=self.environ,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    def output(self, *args: str, stdin: str | bytes = b"") -> bytes:
        """Standard output of a command that succeeds and complains of nothing."""
        done = self.try_(*args, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), f"dmtool {args}: {done.stderr.decode()}"
        return done.stdout

    def __call__(self, *args: str, stdin: str | bytes = b"") -> str:
        return self.output(*args, stdin=stdin).decode()

    def fails(self, *args: str, stdin: str | bytes = b"") -> str:
        """Standard error of a command that fails as commands do: status 1, no traceback."""
        done = self.try_(*args, stdin=stdin)
        words = done.stderr.decode()
        assert done.returncode == 1, f"dmtool {args}: {done}"
        assert "Traceback" not in words
        return words

    def uri(self, name: str) -> str:
        return self("uri", name).strip()

    def info(self, name: str) -> dict[str, Any]:
        """What ``info --json`` says of one device."""
        (found,) = json.loads(self("info", "--json", name))["devices"]
        return dict(found)

    @property
    def nbd(self) -> str:
        """The path of the NBD socket."""
        return str(self.path / "nbd.sock")

    def pid(self) -> int:
        """The core process; the command starts none."""
        return int(json.loads(self("daemon", "status", "--json"))["pid"])

    def kill(self) -> None:
        """``kill -9``; returns when the process is gone."""
        pid = self.pid()
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            assert select.select([fd], [], [], PATIENCE)[0], "killed, and still there"
        finally:
            os.close(fd)

    def end(self) -> str:
        """End the core, if one runs, and give back its log."""
        try:
            if self.path.exists():
                self("daemon", "stop")
            log = self.path / "log"
            return log.read_text(errors="replace") if log.exists() else ""
        finally:
            with suppress(FileNotFoundError), (self.path / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # of one that was killed: what unmounts has ended
            shutil.rmtree(self.parent, ignore_errors=True)


@pytest.fixture
def new_core(tmp_path: Path) -> Generator[Callable[[], Core]]:
    """Makes cores, each with a directory of its own; all work in ``tmp_path``. Afterwards they
    end, and none may have a bug in its log."""
    cores: list[Core] = []

    def make() -> Core:
        cores.append(Core(tmp_path))
        return cores[-1]

    yield make
    logs, failures = [], []
    for core in cores:
        try:
            logs.append(core.end())
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            failures.append(str(error))
    assert not failures
    assert not [log for log in logs if "Traceback" in log]


@pytest.fixture
def dmtool(new_core: Callable[[], Core]) -> Core:
    """A core; calling it runs a dmtool command."""
    return new_core()


class Tools:
    """Other people's programs. ``path`` is where they are run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def try_(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **options,
        )

    def __call__(self, *command: str | Path, **options: Any) -> str:
        """Standard output of a command that succeeds."""
        done = self.try_(*command, **options)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def qemu_io(self, image: str | Path, *commands: str, options: str = "") -> str:
        """qemu-io's words for some commands on a raw image or an export, all of which succeed."""
        said = self.qemu_io_any(image, *commands, options=options)
        assert "failed" not in said.lower(), said
        return said

    def qemu_io_any(self, image: str | Path, *commands: str, options: str = "") -> str:
        args = [arg for command in commands for arg in ("-c", command)]
        done = self.try_("qemu-io", "-f", "raw", *options.split(), *args, image)
        return done.stdout + done.stderr

    def sha256(self, path: str | Path) -> str:
        with (self.path / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def map(self, uri: str) -> list[tuple[int, int, int]]:
        """``nbdinfo --map``: (offset, length, flags), neighbours with the same flags as one."""
        merged: list[tuple[int, int, int]] = []
        for one in json.loads(self("nbdinfo", "--map", "--json", uri)):
            offset, length, flags = one["offset"], one["length"], one["type"]
            if merged and merged[-1][2] == flags:
                before = merged.pop()
                offset, length = before[0], before[1] + length
            merged.append((offset, length, flags))
        return merged


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path)
