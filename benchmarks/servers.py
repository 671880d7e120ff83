# SPDX-License-Identifier: Apache-2.0
"""dmtool and its peers: how each is started, on images of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.machine import ALIVE, cpu_of
from dmtool.client import Client
from dmtool.client.start import core_command, core_environment
from dmtool.directory import Directory
from dmtool.sectors import SECTOR

DMTOOL = "dmtool"
NBDKIT = ["nbdkit file", "nbdkit split"]
QEMU = ["qemu-nbd"]
PYTHON_PLUGIN = "nbdkit python plugin"

_PATIENCE = 20.0  # seconds for a server to listen
_BLOCK = os.urandom(1 << 20)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is reached: a socket, an export's name; ``pid`` has its CPU time."""

    socket: Path
    export: str
    pid: int

    @property
    def uri(self) -> str:
        return f"nbd+unix:///{self.export}?socket={self.socket}"

    def cpu(self) -> float:
        """Seconds of CPU that the server has used."""
        return cpu_of(self.pid)


@dataclass(frozen=True, slots=True)
class Peer:
    """``images``: how many files the device is cut into. ``command`` is given their paths and
    the socket's; ``there``: whether what it needs is installed."""

    name: str
    package: str
    images: int
    command: Callable[[list[Path], Path], list[str]]
    there: Callable[[], bool]
    export: str = ""


def make_image(path: Path, size: int) -> None:
    """A file of ``size`` MiB without holes, on its device before this returns."""
    with path.open("wb") as file:
        for _ in range(size):
            file.write(_BLOCK)
        file.flush()
        os.fdatasync(file.fileno())


def make_images(folder: Path, name: str, count: int, size: int) -> list[Path]:
    """``count`` files of ``size`` MiB together."""
    images = [folder / f"{name}-{i}" for i in range(count)]
    for image in images:
        if not image.exists():
            make_image(image, size // count)
    return images


def _nbdkit(plugin: str, *words: str) -> list[str]:
    return ["nbdkit", "--foreground", "--exit-with-parent", *words, plugin]


def _plugin_there(plugin: str) -> bool:
    try:
        done = subprocess.run(
            ["nbdkit", plugin, "--version"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def _storage_daemon(images: list[Path], path: Path) -> list[str]:
    file = f"driver=raw,node-name=disk,file.driver=file,file.filename={images[0]}"
    server = f"addr.type=unix,addr.path={path},max-connections=16"
    export = "type=nbd,id=nbd,node-name=disk,name=bench,writable=on"
    return ["qemu-storage-daemon", "--blockdev", file, "--nbd-server", server, "--export", export]


PEERS = [
    Peer(
        "nbdkit file",
        "nbdkit",
        1,
        lambda images, path: [*_nbdkit("file", "--unix", str(path)), str(images[0])],
        lambda: _plugin_there("file"),
    ),
    Peer(
        "nbdkit split",
        "nbdkit",
        2,
        lambda images, path: [*_nbdkit("split", "--unix", str(path)), *map(str, images)],
        lambda: _plugin_there("split"),
    ),
    Peer(
        "qemu-nbd",
        "qemu-utils",
        1,
        lambda images, path: [
            *("qemu-nbd", "--format=raw", "--persistent", "--shared=16"),
            *(f"--socket={path}", str(images[0])),
        ],
        lambda: shutil.which("qemu-nbd") is not None,
    ),
    Peer(
        "qemu-storage-daemon",
        "qemu-system-common",
        1,
        _storage_daemon,
        lambda: shutil.which("qemu-storage-daemon") is not None,
        "bench",
    ),
]
PYTHON_PEER = Peer(
    PYTHON_PLUGIN,
    "nbdkit-plugin-python",
    1,
    lambda images, path: [
        *_nbdkit("python", "--unix", str(path)),
        *(str(Path(__file__).with_name("plugin.py")), f"image={images[0]}"),
    ],
    lambda: _plugin_there("python"),
)


def missing(peer: Peer) -> str:
    return f"{peer.name} is missing: sudo apt install {peer.package}"


@contextmanager
def peer_serving(peer: Peer, folder: Path, size: int) -> Generator[Endpoint]:
    """Run a peer on images of ``size`` MiB together."""
    name = peer.name.replace(" ", "-")
    images = make_images(folder, name, peer.images, size)
    path = folder / f"{name}.sock"
    path.unlink(missing_ok=True)
    with running(peer.command(images, path), path) as pid:
        yield Endpoint(path, peer.export, pid)


@contextmanager
def running(command: list[str], path: Path, **environment: str) -> Generator[int]:
    """Run a server from when it listens at ``path``; its process id."""
    with tempfile.TemporaryFile() as complaints, _started(command, complaints, environment) as pid:
        deadline = time.monotonic() + _PATIENCE
        while not _listens(path):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended or time.monotonic() > deadline:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace")
                raise SystemExit(f"does not start: {' '.join(command)}\n{said}")
            time.sleep(0.01)
        yield pid


@contextmanager
def _started(
    command: list[str], complaints: IO[bytes], environment: dict[str, str]
) -> Generator[int]:
    # what a server says of clients that only look whether it is there is for nobody
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stderr=complaints,
        env={**core_environment(), **environment},
        start_new_session=True,
    )
    ALIVE.add(process.pid)
    try:
        yield process.pid
    finally:
        ALIVE.discard(process.pid)
        process.terminate()
        process.wait()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True


class Core:
    """A core process of our own, in a directory made for it, with the target type ``remap``."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.directory = Directory(tempfile.mkdtemp(dir=folder, prefix="core-"))
        self.directory.prepare()
        self.environment = {"PYTHONPATH": os.pathsep.join(_paths(folder))}
        control = Path(self.directory.control)
        command = core_command(self.directory)
        self.pid = self._stack.enter_context(running(command, control, **self.environment))
        self._client = self._stack.enter_context(Client(self.directory, start=False))

    def __enter__(self) -> Core:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, method: str, **params: Any) -> Any:
        """A method of the control protocol."""
        return self._client.call(method, **params)

    def create(self, name: str, table: str) -> Endpoint:
        """Make a mapped device."""
        self.call("create", name=name, table=table, source="benchmark", cwd="/")
        return Endpoint(Path(self.directory.nbd), name, self.pid)


def _paths(folder: Path) -> list[str]:
    """Where a core finds this package, and an entry point for its target type."""
    site = folder / "site"
    info = site / "dmtool_benchmarks-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dmtool-benchmarks\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[dmtool.targets]\nremap = benchmarks.remap\n")
    ours = str(Path(__file__).parents[1])
    parts = core_environment().get("PYTHONPATH", "").split(os.pathsep)
    return [str(site), ours, *(part for part in parts if part and part != ours)]


def joined(images: list[Path], size: int, type: str = "linear") -> str:
    """A table of one line an image, side by side; ``size`` MiB together."""
    sectors = (size << 20) // SECTOR // len(images)
    return "\n".join(
        f"{number * sectors} {sectors} {type} {image} 0" for number, image in enumerate(images)
    )


def striped(images: list[Path], size: int, chunk: int) -> str:
    """A table of one striped target; ``chunk`` in KiB."""
    legs = " ".join(f"{image} 0" for image in images)
    return f"0 {(size << 20) // SECTOR} striped {len(images)} {chunk * 1024 // SECTOR} {legs}"
