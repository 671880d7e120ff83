# SPDX-License-Identifier: Apache-2.0
"""The command line in this process with a core of words, and in processes of its own with a real one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dmtool
from dmtool.cli import main
from dmtool.client import ClientError
from dmtool.directory import Directory


class Done(NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str


@dataclass
class Words:
    """A core that knows its devices and answers from ``answers``; it notes what it is asked."""

    devices: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    deps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    directory: Directory = field(default_factory=lambda: Directory("/run/words"))

    def add(self, name: str, *targets: str, **more: Any) -> dict[str, Any]:
        """A device with a live table of ``targets``: lines of a table."""
        device = {
            "name": name,
            "uuid": "",
            "major": 1000,
            "minor": len(self.devices),
            "suspended": False,
            "readonly": False,
            "live": True,
            "inactive": False,
            "open_count": 0,
            "event_nr": 0,
            "target_count": len(targets),
            "size": 8,
            "inactive_target_count": 0,
            "inactive_readonly": False,
            "read_ahead": 256,
            "deferred_remove": False,
            "error": None,
            **more,
        }
        self.devices.append(device)
        words = [line.split(" ", 3) for line in targets]
        self.tables[name] = [
            {"start": int(w[0]), "length": int(w[1]), "type": w[2], "params": "".join(w[3:])}
            for w in words
        ]
        return device

    def file(self, path: str) -> dict[str, Any]:
        """A dependency: an image file."""
        return {"kind": "file", "path": path, "major": None, "minor": None, "name": path}

    def block(self, name: str, major: int, minor: int) -> dict[str, Any]:
        """A dependency: a block device."""
        path = f"/dev/{name}"
        return {"kind": "block", "path": path, "major": major, "minor": minor, "name": name}

    def mapped(self, name: str) -> dict[str, Any]:
        """A dependency: one of our devices."""
        minor = next(d["minor"] for d in self.devices if d["name"] == name)
        return {"kind": "dm", "path": None, "major": 1000, "minor": minor, "name": name}

    def refuse(self, method: str, number: int, reason: str = "", **more: Any) -> None:
        """Answer a method with an error from now on."""
        self.answers[method] = self.refusal(number, reason, **more)

    def refusal(self, number: int, reason: str = "", **more: Any) -> ClientError:
        text = reason or os.strerror(number)
        data = {"error": "DeviceError", "reason": text, "errno": number, "hint": None, "causes": []}
        return ClientError(-32000, text, {**data, "step": "", "devno": None, **more})

    def call(self, method: str, **params: Any) -> Any:
        self.asked.append((method, params))
        if method in self.answers:
            answer = self.answers[method]
            if isinstance(answer, Exception):
                raise answer
            return answer(params) if callable(answer) else answer
        if method == "list":
            return sorted(self.devices, key=lambda device: str(device["name"]))
        device = self._find(params["device"])
        match method:
            case "table" | "status":
                targets = self.tables.get(device["name"], [])
                wanted = params.get("target")
                found = [dict(t) for t in targets if wanted in {None, t["type"]}]
                if params.get("text"):
                    line = "{start} {length} {type} {params}\n"
                    return {"info": device, "text": "".join(line.format(**t) for t in found)}
                return {"info": device, "targets": found}
            case "deps":
                return {"info": device, "deps": self.deps.get(device["name"], [])}
            case "uri":
                return {"uri": f"nbd+unix:///{device['name']}"}
            case "message":
                return {"response": None}
        return device

    def _find(self, reference: dict[str, Any]) -> dict[str, Any]:
        ((kind, which),) = reference.items()
        for device in self.devices:
            if device[kind] == which:
                return device
        raise self.refusal(errno.ENXIO, f"No mapped device {which}", error="NoSuchDevice")

    def close(self) -> None:
        pass

    def __enter__(self) -> Words:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


Run = Callable[..., Done]


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def run(words: Words, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process, called ``prog``, against the core of words."""
    monkeypatch.setattr("dmtool.client.Client", lambda **_: words)

    def run(*args: str, prog: str = "dmtool") -> Done:
        monkeypatch.setattr(sys, "argv", [prog])
        status = main(args)
        sys.stdout.flush()
        sys.stderr.flush()
        return Done(status, *capfd.readouterr())

    return run


@dataclass(frozen=True)
class Shell:
    """Runs commands as a user does. ``cwd`` is the working directory, ``directory`` the core's."""

    cwd: Path
    directory: Directory
    environment: dict[str, str]

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "dmtool", *args]

    def __call__(self, *args: str, stdin: bytes = b"", status: int | None = 0) -> Done:
        """Run a command; fails unless it exits with ``status`` (None: any)."""
        done = subprocess.run(
            self.command(*args),
            cwd=self.cwd,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        said = Done(
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )
        assert status is None or said.status == status, said
        return said

    def terminal(self, *args: str, columns: int = 80, **more: str) -> str:
        """What a command prints on a terminal of that width, standard error included; ``more`` is
        its environment besides the shell's. Newlines are as they were before the terminal."""
        ours, theirs = os.openpty()
        termios.tcsetwinsize(ours, (24, columns))
        environment = {**self.environment, **more}
        process = subprocess.Popen(
            self.command(*args), cwd=self.cwd, env=environment,
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 1 << 16):
                said += piece
        except OSError as error:  # Linux's way to say that the other end is closed
            if error.errno != errno.EIO:
                raise
        os.close(ours)
        process.wait(60)
        return said.decode().replace("\r\n", "\n")

    def start(self, *args: str, **how: Any) -> subprocess.Popen[bytes]:
        """Start a command and do not wait for it."""
        return subprocess.Popen(self.command(*args), cwd=self.cwd, env=self.environment, **how)

    def image(self, name: str, sectors: int, fill: int = 0) -> Path:
        """An image file in the working directory."""
        path = self.cwd / name
        path.write_bytes(bytes([fill]) * (sectors * 512))
        return path


@pytest.fixture
def shell() -> Generator[Shell]:
    """A working directory and a core of its own, which is ended afterwards."""
    # not tmp_path: the path of a unix socket has 107 bytes and no more
    top = Path(tempfile.mkdtemp(prefix="dmtool-cli-"))
    cwd = top / "cwd"
    cwd.mkdir()
    package = Path(dmtool.__file__).parents[1]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("LC_", "DM_"))},
        "LANG": "C",
        "TERM": "dumb",
        "DMTOOL_DIR": str(top / "run"),
        "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]),
    }
    shell = Shell(cwd, Directory(str(top / "run")), environment)
    yield shell
    shell("remove_all", "--force", status=None)
    shell("daemon", "stop", status=None)
    shutil.rmtree(top)
