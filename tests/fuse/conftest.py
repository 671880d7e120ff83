# SPDX-License-Identifier: Apache-2.0
"""Mapped devices as files: in the test's own process, or in one of its own.

Python keeps its lock while it touches memory that is mapped, and while a child process starts.
Whatever does either with a file of the mount needs a server in another process.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dmtool.device import MappedDevice
from dmtool.export.fuse import FuseExport
from dmtool.export.fuse import mount as m

SECONDS = 30  # for whatever must happen
MIB = 1 << 20

# As many operations, files and seconds as the issue asks for, rather than a sample of them.
LONG = os.environ.get("DMTOOL_TEST_LONG", "") not in ("", "0")

SMALL_CORE = Path(__file__).with_name("small_core.py")
_spec = importlib.util.spec_from_file_location("small_core", SMALL_CORE)
assert _spec is not None
assert _spec.loader is not None
small_core = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small_core)


@pytest.fixture(scope="session", autouse=True)
def can_mount() -> None:
    """Skip where nothing can be mounted."""
    with tempfile.TemporaryDirectory(prefix="dmtool-fuse-") as directory:
        try:
            fd = m.mount(directory, 1 << 18)
        except m.FuseUnavailable as error:
            pytest.skip(f"needs FUSE: {error}; {error.hint or ''}")
        m.unmount(directory)
        os.close(fd)


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Makes image files."""

    def make(name: str, size: int = MIB, content: bytes | None = None) -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            if content is not None:
                file.write(content)
            file.truncate(size)
        return path

    return make


@dataclass
class Running:
    """A call in a thread of its own."""

    call: Callable[[], Any]
    result: Any = None
    error: BaseException | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:  # noqa: BLE001  # the test's thread raises it
            self.error = error

    @property
    def running(self) -> bool:
        return self.thread.is_alive()

    def get(self) -> Any:
        self.thread.join(SECONDS)
        assert not self.running
        if self.error is not None:
            raise self.error
        return self.result


class Served:
    """A small core with its files, in this process."""

    def __init__(self, directory: Path) -> None:
        self.core = small_core.SmallCore()
        self.export = FuseExport(directory, self.core, self.core)
        self.mapper, self.control = self.export.mapper, self.export.control
        self.export.start()
        self.running: list[Running] = []

    def add(self, name: str, text: str, **options: Any) -> MappedDevice:
        device: MappedDevice = self.core.add(name, text, **options)
        return device

    def run(self, call: Callable[[], Any]) -> Running:
        """Call in another thread."""
        self.running.append(Running(call))
        return self.running[-1]

    def opened(self, device: MappedDevice) -> int:
        """How often a device is open, once all is told that the kernel has to tell."""
        self.export.settle()
        return device.open_count

    def close(self) -> None:
        self.export.close()
        self.core.close()
        for running in self.running:
            running.thread.join(SECONDS)


@pytest.fixture
def served(tmp_path: Path) -> Generator[Served]:
    directory = tmp_path / "run"
    directory.mkdir()
    served = Served(directory)
    yield served
    served.close()
    assert not m.mounted(str(served.mapper))
    assert not m.mounted(str(served.control))


@pytest.fixture
def vol(served: Any) -> Path:
    path: Path = served.control / "vol"
    path.mkdir()
    return path


class Process:
    """A small core with its files, in a process of its own."""

    def __init__(self, directory: Path, *specs: str, cwd: Path) -> None:
        self.mapper, self.control = directory / "mapper", directory / "control"
        self._process = subprocess.Popen(
            [sys.executable, SMALL_CORE, directory, *specs],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """As a crash."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process.returncode is not None:
            return
        self._process.send_signal(number)
        self._process.wait(SECONDS)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()


Serve = Callable[..., Process]


@pytest.fixture
def serve(tmp_path: Path) -> Generator[Serve]:
    """Starts a small core: ``serve("NAME=TABLE", ...)``, in a directory of its own or ``at``."""
    started: list[Process] = []
    directories: list[Path] = []

    def start(*specs: str, at: Path | None = None) -> Process:
        if at is None:
            at = Path(tempfile.mkdtemp(prefix="dmtool-fuse-"))
            directories.append(at)
        started.append(Process(at, *specs, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.stop()
    for directory in directories:
        for name in ("mapper", "control"):
            m.clean(str(directory / name))
        shutil.rmtree(directory)


def run(*command: str | Path, **options: Any) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=options.pop("timeout", SECONDS),
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def refused(call: Callable[[], object]) -> int:
    """The errno with which a call fails."""
    try:
        call()
    except OSError as error:
        return error.errno or 0
    pytest.fail("was not refused")


def write(path: Path, text: str | bytes) -> None:
    """One write, as echo does."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        data = text.encode() if isinstance(text, str) else text
        assert os.write(fd, data) == len(data)
    finally:
        os.close(fd)
