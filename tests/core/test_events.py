# SPDX-License-Identifier: Apache-2.0
"""Messages to targets, and waiting for events. "Recorded" names a scenario that was run against
a kernel."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.api import Args, Target, TargetError, Zero, hookimpl
from dmtool.core.process import Core
from dmtool.targets.registry import TARGETS

if TYPE_CHECKING:
    from tests.core.conftest import Client, Refused

Call = Callable[..., Any]
Refuse = Callable[..., "Refused"]
A = {"name": "a"}

# -- messages ---------------------------------------------------------------------------------


@hookimpl
def ctr(ti: Target[Any], args: Args) -> None:
    args.exactly(0)


@hookimpl
def plan(ti: Target[Any]) -> Zero:
    return Zero()


@hookimpl
def message(ti: Target[Any], argv: list[str]) -> str | None:
    """``say`` repeats its words, ``event`` raises an event."""
    if argv[0] == "say":
        return "|".join(argv[1:])
    if argv[0] == "event":
        ti.event()
        return None
    if argv[0] == "bug":
        raise ZeroDivisionError
    raise TargetError("unknown message", cause=argv[0], hint="say, event")


@pytest.fixture
def talking() -> None:
    """A target type that answers messages."""
    module = ModuleType("talking")
    module.ctr, module.plan, module.message = ctr, plan, message  # type: ignore[attr-defined]
    TARGETS.register(module, "talking", "tests 1")


@pytest.mark.parametrize(
    ("sector", "message", "reason"),
    [
        (0, "hello", "Target type does not support messages"),
        (9, "hello", "Target type does not support messages"),
        (16, "hello", "Target message sector outside device."),
        (1 << 63, "hello", "Target message sector outside device."),
        (0, "", "Empty message received."),
        (0, "  \n", "Empty message received."),
        (0, "@nosuch x", "Unsupported message sent to DM core: @nosuch"),
        (0, "@cancel_deferred_remove x", "Invalid arguments for @cancel_deferred_remove"),
    ],
)
def test_messages_refused(
    call: Call, refused: Refuse, sector: int, message: str, reason: str
) -> None:
    """Recorded: message."""
    call("create", name="a", table="0 8 zero\n8 8 error")
    error = refused("message", device=A, sector=sector, message=message)
    assert (error.message, error.data["errno"]) == (reason, errno.EINVAL)
    assert error.data["step"] == "message"


def test_a_message_needs_a_table(call: Call, refused: Refuse) -> None:
    call("create", name="a")
    error = refused("message", device=A, sector=0, message="hello")
    assert (error.message, error.data["errno"]) == ("The device has no table.", errno.EINVAL)
    call("message", device=A, sector=0, message="@cancel_deferred_remove")


@pytest.mark.usefixtures("talking")
def test_messages_reach_the_target(call: Call, refused: Refuse) -> None:
    call("create", name="a", table="0 8 zero\n8 8 talking")
    said = call("message", device=A, sector=8, message=r" say a\ b  c\\ \"d e")
    assert said == {"response": 'a b|c\\|"d|e'}
    assert call("message", device=A, sector=15, message="event") == {"response": None}
    assert call("info", device=A)["event_nr"] == 1
    call("suspend", device=A)
    assert call("message", device=A, sector=8, message="say") == {"response": ""}
    data = refused("message", device=A, sector=8, message="nosuch").data
    assert (data["reason"], data["cause"], data["hint"]) == (
        "unknown message",
        "nosuch",
        "say, event",
    )
    data = refused("message", device=A, sector=8, message="bug").data
    assert (data["error"], data["errno"]) == ("PluginError", errno.EIO)
    assert "tests 1" in data["reason"]


# -- events -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("talking")
def test_wait_ends_with_the_next_event(client: Client, connect: Callable[[], Client]) -> None:
    client.call("create", name="a", table="0 8 talking")
    waiting = connect()
    waiting.send("wait", device=A, event_nr=0)
    client.call("message", device=A, sector=0, message="event")
    assert waiting.result()["event_nr"] == 1
    assert waiting.call("wait", device=A)["event_nr"] == 1
    # any other number will do, a greater one too (recorded: wait-mirror)
    assert waiting.call("wait", device=A, event_nr=99)["event_nr"] == 1
    waiting.send("wait", device={"minor": 0}, event_nr=1)
    client.call("rename", device=A, new_name="b")
    assert (info := waiting.result())["event_nr"] == 2
    assert info["name"] == "b"


def test_a_table_swap_is_no_event(client: Client, connect: Callable[[], Client]) -> None:
    """Recorded: wait-mirror."""
    client.call("create", name="a", table="0 8 zero")
    waiting = connect()
    waiting.send("wait", device=A)
    client.call("load", device=A, table="0 8 error")
    client.call("resume", device=A)
    client.call("set_uuid", device=A, uuid="U")
    info = waiting.result()
    assert (info["event_nr"], info["uuid"]) == (1, "U")


def test_wait_ends_with_the_device(client: Client, connect: Callable[[], Client]) -> None:
    """Recorded: wait-mirror, where dmsetup wait then exits with 0."""
    client.call("create", name="a", table="0 8 zero")
    waiting = connect()
    waiting.send("wait", device=A)
    waiting_too = connect()
    waiting_too.send("wait", device=A)
    client.call("remove", device=A)
    answers = [waiting.receive(), waiting_too.receive()]
    for answer in answers:
        # a wait that comes too late finds no device
        told = answer.get("result") or answer["error"]["data"]
        assert told.get("name") == "a" or told["errno"] == errno.ENXIO


def test_wait_ends_with_its_client(client: Client, connect: Callable[[], Client]) -> None:
    client.call("create", name="a", table="0 8 zero")
    before = set(threading.enumerate())
    waiting = connect()
    waiting.call("version")
    (thread,) = set(threading.enumerate()) - before
    waiting.send("wait", device=A)
    # the next request may come before the answer: that is no reason to give up
    waiting.send("version")
    client.call("version")
    assert thread.is_alive()
    waiting.close()
    thread.join()
    assert client.call("daemon_status")["connections"] == 1


def test_wait_ends_with_the_core(client: Client, connect: Callable[[], Client], core: Core) -> None:
    client.call("create", name="a", table="0 8 zero")
    client.send("wait", device=A)
    closing = threading.Thread(target=core.close)
    closing.start()
    answer = client.receive()
    assert answer is None or answer["error"]["code"] == -32001
    closing.join()
