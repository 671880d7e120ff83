# SPDX-License-Identifier: Apache-2.0
"""A client that goes in the middle of a command that waits leaves nothing of it: the kernel's
suspend can be interrupted, too (dm_wait_for_completion)."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import dmtool
from dmtool.api import Args, Target, Zero, hookimpl
from dmtool.core.process import Core
from dmtool.device import MappedDevice
from dmtool.directory import Directory
from dmtool.targets.registry import TARGETS

if TYPE_CHECKING:
    from tests.core.conftest import Client

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(dmtool.__file__)))
Connect = Callable[[], "Client"]
A = {"name": "a"}


@pytest.fixture
def busy(core: Core, client: Client) -> Iterator[MappedDevice]:
    """Device ``a`` with an inactive table, and I/O under way that does not end before the test."""
    client.call("create", name="a", table="0 8 zero")
    client.call("load", device=A, table="0 16 zero")
    (entry,) = core.devices.all()
    entry.device.begin()
    yield entry.device
    entry.device.end()


def closing(device: MappedDevice) -> None:
    """Return when somebody waits for the I/O of ``device``."""
    assert select.select([device.closed_fd], [], [], 30)[0]


def running(device: MappedDevice) -> None:
    """Return when I/O may enter ``device``."""
    assert select.select([device.open_fd], [], [], 30)[0]


def alone(client: Client) -> None:
    """Return when the core has no other client: its thread ends after the device is free."""
    while client.call("daemon_status")["connections"] > 1:
        pass


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("suspend", {}),
        ("suspend", {"noflush": True}),
        ("resume", {}),
        ("resume", {"noflush": True}),
        ("wipe", {}),
        ("remove", {"force": True}),
    ],
)
def test_what_waits_for_io_ends_with_its_client(
    busy: MappedDevice, client: Client, connect: Connect, method: str, params: dict[str, Any]
) -> None:
    waiting = connect()
    waiting.send(method, device=A, **params)
    closing(busy)
    waiting.close()
    running(busy)
    # takes its turn after the other has gone
    assert client.call("clear", device=A)["size"] == 8
    info = client.call("info", device=A)
    assert (info["suspended"], info["live"], info["inactive"]) == (False, True, False)
    assert client.call("table", device=A)["targets"][0]["type"] == "zero"
    alone(client)


def test_a_client_that_only_stops_sending_is_there(
    busy: MappedDevice, client: Client, connect: Connect
) -> None:
    waiting = connect()
    waiting.send("resume", device=A)
    closing(busy)
    waiting.sock.shutdown(1)
    client.call("info", device=A)
    busy.end()
    assert waiting.result()["size"] == 16
    busy.begin()


@hookimpl
def ctr(ti: Target[Any], args: Args) -> list[str]:
    return []


@hookimpl
def plan(ti: Target[Any]) -> Zero:
    return Zero()


@hookimpl
def presuspend(ti: Target[Any]) -> None:
    ti.context.append("presuspend")


@hookimpl
def presuspend_undo(ti: Target[Any]) -> None:
    ti.context.append("presuspend_undo")


@hookimpl
def postsuspend(ti: Target[Any]) -> None:
    ti.context.append("postsuspend")


def test_targets_are_told(core: Core, client: Client, connect: Connect) -> None:
    module = ModuleType("told")
    for hook in (ctr, plan, presuspend, presuspend_undo, postsuspend):
        setattr(module, hook.__name__, hook)
    TARGETS.register(module, "told", "tests 1")
    client.call("create", name="a", table="0 8 told")
    (entry,) = core.devices.all()
    table = entry.device.begin()
    waiting = connect()
    waiting.send("suspend", device=A)
    closing(entry.device)
    waiting.close()
    running(entry.device)
    entry.device.end()
    client.call("suspend", device=A)
    told = ["presuspend", "presuspend_undo", "presuspend", "postsuspend"]
    assert table.targets[0].context == told


def test_a_suspend_whose_flush_waits_is_undone(
    core: Core, client: Client, connect: Connect, image: Callable[..., str]
) -> None:
    """Bottom first is the wrong way round, and people do it."""
    client.call("create", name="low", table=f"0 64 linear {image()} 0")
    client.call("create", name="a", table="0 64 linear 1000:0 0")
    client.call("suspend", device={"name": "low"})
    top = core.devices.all()[0].device
    waiting = connect()
    waiting.send("suspend", device=A)
    closing(top)
    waiting.close()
    client.call("resume", device={"name": "low"})
    running(top)
    client.call("clear", device=A)
    assert not client.call("info", device=A)["suspended"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["suspend", "resume", "wait"])
def test_a_command_can_be_interrupted(
    busy: MappedDevice,
    client: Client,
    core: Core,
    directory: Directory,
    command: str,
    number: signal.Signals,
) -> None:
    environ = {**os.environ, "PYTHONPATH": CHECKOUT, "DMTOOL_DIR": directory.path}
    arrived = threading.Event()
    watch = busy.watch

    def watching() -> int:
        arrived.set()
        return watch()

    busy.watch = watching  # type: ignore[method-assign]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "dmtool", command, "a"],
        env=environ,
        stderr=subprocess.PIPE,
    ) as process:
        if command == "wait":
            assert arrived.wait(30)
        else:
            closing(busy)
        process.send_signal(number)
        assert process.wait(30) == (130 if number == signal.SIGINT else -number)
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""  # no traceback
    running(busy)
    assert not client.call("clear", device=A)["suspended"]
    alone(client)
