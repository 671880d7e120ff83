# SPDX-License-Identifier: Apache-2.0
"""How devices go: at once, when closed, by force, all of them."""

from __future__ import annotations

import errno
import select
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.core.process import Core

if TYPE_CHECKING:
    from tests.core.conftest import Refused

Call = Callable[..., Any]
Refuse = Callable[..., "Refused"]
A = {"name": "a"}


def names(call: Call) -> list[str]:
    return [info["name"] for info in call("list")]


def test_remove(call: Call, refused: Refuse) -> None:
    before = call("create", name="a", uuid="U", table="0 8 zero")
    assert call("remove", device={"uuid": "U"}) == before
    assert names(call) == []
    for reference in (A, {"uuid": "U"}, {"minor": 0}):
        error = refused("remove", device=reference)
        assert (error.data["errno"], error.data["error"]) == (errno.ENXIO, "NoSuchDevice")
        assert error.data["step"] == "remove"
    call("create", name="a", uuid="U", table="0 8 zero")


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("info", "info"),
        ("table", "table"),
        ("status", "status"),
        ("deps", "deps"),
        ("suspend", "suspend"),
        ("resume", "resume"),
        ("clear", "clear"),
        ("wipe", "table"),
        ("wait", "waitevent"),
        ("uri", "info"),
    ],
)
def test_no_such_device(refused: Refuse, method: str, step: str) -> None:
    error = refused(method, device={"name": "no"})
    assert error.message == "No mapped device no"
    assert (error.data["errno"], error.data["step"]) == (errno.ENXIO, step)


def test_an_open_device_stays(call: Call, refused: Refuse, core: Core) -> None:
    call("create", name="a", table="0 8 zero")
    device = core.devices.all()[0].device
    device.open()
    data = refused("remove", device=A).data
    assert (data["errno"], data["step"]) == (errno.EBUSY, "remove")
    assert call("info", device=A)["open_count"] == 1
    device.close()
    call("remove", device=A)


def test_a_device_below_another_stays(call: Call, refused: Refuse) -> None:
    call("create", name="low", table="0 8 zero")
    call("create", name="top", table="0 8 linear /dev/mapper/low 0")
    assert refused("remove", device={"name": "low"}).data["errno"] == errno.EBUSY
    call("remove", device={"name": "top"})
    call("remove", device={"name": "low"})


def test_deferred_removal(call: Call) -> None:
    call("create", name="low", table="0 8 zero")
    call("create", name="top", table="0 8 linear /dev/mapper/low 0")
    info = call("remove", device={"name": "low"}, deferred=True)
    assert info["deferred_remove"]
    assert names(call) == ["low", "top"]
    call("remove", device={"name": "top"})
    assert names(call) == []


def test_deferred_removal_goes_down_a_stack(call: Call) -> None:
    call("create", name="d0", table="0 8 zero")
    for n in range(1, 5):
        call("create", name=f"d{n}", table=f"0 8 linear 1000:{n - 1} 0")
    for n in range(4):
        assert call("remove", device={"minor": n}, deferred=True)["deferred_remove"]
    call("remove", device={"minor": 4})
    assert names(call) == []


def test_deferred_removal_of_a_device_that_is_not_open(call: Call) -> None:
    call("create", name="a", table="0 8 zero")
    assert not call("remove", device=A, deferred=True)["deferred_remove"]
    assert names(call) == []


def test_deferred_removal_when_an_io_thread_closes_it(call: Call, core: Core) -> None:
    call("create", name="a", table="0 8 zero")
    device = core.devices.all()[0].device
    device.open()
    call("remove", device=A, deferred=True)
    watch = device.watch()
    device.close()
    # the removal wakes who waits for the device; no command comes to settle it
    assert select.select([watch], [], [], 30)[0]
    device.unwatch(watch)
    assert names(call) == []


def test_deferred_removal_taken_back(call: Call) -> None:
    call("create", name="low", table="0 8 zero")
    call("create", name="top", table="0 8 linear /dev/mapper/low 0")
    call("remove", device={"name": "low"}, deferred=True)
    call("message", device={"name": "low"}, sector=0, message="@Cancel_Deferred_Remove")
    assert not call("info", device={"name": "low"})["deferred_remove"]
    call("remove", device={"name": "top"})
    assert names(call) == ["low"]


def test_forced_removal_lets_waiting_io_go(call: Call, core: Core) -> None:
    call("create", name="a", table="0 8 zero")
    call("suspend", device=A)
    device = core.devices.all()[0].device
    failed: list[OSError] = []

    def read() -> None:
        try:
            device.read(0, 512)
        except OSError as error:
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    call("remove", device=A, force=True)
    reader.join()
    # EIO of the error target, or ENXIO where the reader came too late for that
    assert failed[0].errno in (errno.EIO, errno.ENXIO)
    assert names(call) == []


def test_forced_removal_of_an_open_device(call: Call, refused: Refuse, core: Core) -> None:
    call("create", name="a", table="0 8 zero")
    device = core.devices.all()[0].device
    device.open()
    assert refused("remove", device=A, force=True).data["errno"] == errno.EBUSY
    # as remove-all was recorded
    assert call("table", device=A)["targets"] == [
        {"start": 0, "length": 8, "type": "error", "params": ""}
    ]
    device.close()


def test_remove_all(call: Call, core: Core) -> None:
    assert call("remove_all") == {"left": 0}
    call("create", name="a", table="0 8 zero")
    call("create", name="b", table="0 8 linear 1000:0 0")
    call("create", name="c")
    assert call("remove_all") == {"left": 0}
    assert names(call) == []


def test_remove_all_leaves_what_is_open(call: Call, core: Core) -> None:
    call("create", name="a", table="0 64 zero")
    call("create", name="b", table="0 8 linear 1000:0 0")
    call("create", name="c", table="0 8 zero")
    device = core.devices.all()[1].device
    device.open()
    assert call("remove_all") == {"left": 2}
    assert names(call) == ["a", "b"]
    assert call("table", device=A)["targets"][0]["type"] == "zero"
    # b is wiped first or second, in any case it no longer holds a
    assert call("remove_all", force=True)["left"] == 1
    assert call("table", device={"name": "b"})["targets"][0]["type"] == "error"
    assert call("remove_all", deferred=True)["left"] == 1
    device.close()
    call("version")
    assert names(call) == []
