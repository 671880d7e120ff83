# SPDX-License-Identifier: Apache-2.0
"""Starting a core process, in a session of its own (docs/control-protocol.md)."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import tempfile
import time

import dmtool
from dmtool.client import connect
from dmtool.directory import Directory
from dmtool.errors import CoreError, os_reason

# Seconds until a core must have restored its devices and said so.
PATIENCE = 60.0


def core_command(directory: Directory) -> list[str]:
    """What runs a core process in the foreground."""
    # -P: the working directory may have a module of the name of one of ours
    return [sys.executable, "-P", "-m", "dmtool.core", "--directory", directory.path]


def start_core(directory: Directory) -> socket.socket:
    """Start a core and return a connection to it, or to the one that was quicker.

    Raises CoreError with what the new process said when it could not start.
    """
    directory.prepare()
    deadline = time.monotonic() + PATIENCE
    while True:
        _run(directory)
        try:
            return connect(directory.control)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            # it, or the one that was quicker, has ended in the meantime: idle, or stopped
            if time.monotonic() > deadline:
                raise _failed(f"{directory.control}: {os_reason(error)}") from None
        except OSError as error:
            raise _failed(f"{directory.control}: {os_reason(error)}") from None


def _run(directory: Directory) -> None:
    """Start a process, and return when there is a core that runs."""
    ready, write = os.pipe()
    # Unlinked, so it goes with the process; what Python says before the core has its log.
    with os.fdopen(ready, "rb", buffering=0) as answer, tempfile.TemporaryFile() as complaints:
        try:
            core = subprocess.Popen(
                [*core_command(directory), "--ready-fd", str(write)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=(write,),
                start_new_session=True,
                cwd="/",
                env=core_environment(),
            )
        except OSError as error:
            raise _failed(os_reason(error)) from None
        finally:
            os.close(write)
        word, _, text = _line(answer.fileno()).decode("utf-8", "replace").partition(" ")
        if word == "ready":
            # It outlives us by design; this stops Popen from warning that nobody waited for it.
            core.returncode = 0
            return
        core.wait()
        if word == "running":
            return
        complaints.seek(0)
        lines = complaints.read().decode("utf-8", "replace").split("\n")
        said = [line for line in lines if line.strip()]
        raise _failed(text if word == "error" else (said[-1] if said else "it said nothing"))


def core_environment() -> dict[str, str]:
    """Ours, so that the core finds the dmtool that we are, also one run from a checkout."""
    environment = dict(os.environ)
    parts = [os.path.abspath(p) for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    ours = os.path.dirname(os.path.dirname(os.path.abspath(dmtool.__file__)))
    # PYTHONPATH goes before the standard library, where installed packages must not be.
    if os.path.basename(ours) not in {"site-packages", "dist-packages"} and ours not in parts:
        parts.append(ours)
    if parts:
        environment["PYTHONPATH"] = os.pathsep.join(parts)
    return environment


def _line(fd: int) -> bytes:
    """The line that the core writes to its ready fd, without the newline; what there is at EOF."""
    line = b""
    deadline = time.monotonic() + PATIENCE
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise _failed(f"it is not ready after {PATIENCE:.0f} seconds, and goes on trying")
        data = os.read(fd, 4096)
        if not data:
            break
        line += data
    return line.rstrip(b"\n")


def _failed(why: str) -> CoreError:
    return CoreError(f"the core process could not start: {why}", errno=errno.ECONNREFUSED)
