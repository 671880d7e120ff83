# SPDX-License-Identifier: Apache-2.0
"""mirror: its arguments, its copier at work, messages and events."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dmtool import Device
from dmtool.api import Mirrored, Op, TargetError
from dmtool.plugins import mirror
from dmtool.plugins.mirror.testbed import (
    Started,
    bench,
    copied,
    copier_of,
    health,
    mirror_of,
    status,
)
from dmtool.plugins.mirror.throttle import NEVER, Throttle, parse_rate
from dmtool.table import load
from dmtool.testing import check_target, make_pattern, pattern

LOG = "Error creating mirror dirty log"


def test_contract() -> None:
    check_target(
        mirror,
        good=[
            "core 2 8 nosync 2 {a} 0 {b} 0",
            "core 1 8 2 {a} 3 {b} 5",
            "core 2 8 sync 2 {a} 0 {b} 0",
            "core 1 64 3 {a} 0 {b} 0 {c} 7 1 handle_errors",
            "core 02 08 nosync 02 {a} 00 {b} 1 0",
            "core 1 2 2 {a} 0 {b} 0 2 keep_log handle_errors",
            "disk 2 {c} 8 2 {a} 0 {b} 0",
            "disk 3 {c} 8 nosync 2 {a} 0 {b} 0",
            "core 2 8 nosync 2 {a} 0 {a} 0",
            "core 2 8 nosync 9 "
            + " ".join(f"{{{leg}}} {at}" for leg in "abc" for at in (0, 64, 9)),
        ],
        bad={
            "": "Insufficient mirror log arguments",
            "core": "Insufficient mirror log arguments",
            "core 99 8 2 {a} 0 {b} 0": "Insufficient mirror log arguments",
            "core x 8 2 {a} 0 {b} 0": "Invalid mirror log argument count",
            "core -1 8 2 {a} 0 {b} 0": "Invalid mirror log argument count",
            "core 4294967297 8 2 {a} 0 {b} 0": "Invalid mirror log argument count",
            "CORE 1 8 2 {a} 0 {b} 0": LOG,
            "core 0 2 {a} 0 {b} 0": LOG,
            "core 3 8 2 {a} 0 {b} 0": LOG,
            "core 2 8 NOSYNC 2 {a} 0 {b} 0": LOG,
            "core 1 0 2 {a} 0 {b} 0": LOG,
            "core 1 1 2 {a} 0 {b} 0": LOG,
            "core 1 9 2 {a} 0 {b} 0": LOG,
            "core 1 0x8 2 {a} 0 {b} 0": LOG,
            "core 1 +8 2 {a} 0 {b} 0": LOG,
            "core 1 128 2 {a} 0 {b} 0": LOG,
            "core 1 4294967304 2 {a} 0 {b} 0": LOG,
            "disk 1 8 2 {a} 0 {b} 0": LOG,
            "disk 2 8 {c} 2 {a} 0 {b} 0": LOG,
            "disk 2 nosuch 8 2 {a} 0 {b} 0": LOG,
            "core 1 8": "Invalid number of mirrors",
            "core 1 8 x {a} 0 {b} 0": "Invalid number of mirrors",
            "core 1 8 1 {a} 0": "Invalid number of mirrors",
            "core 1 8 10 {a} 0 {b} 0": "Invalid number of mirrors",
            "core 1 8 2": "Too few mirror arguments",
            "core 1 8 2 {a} 0": "Too few mirror arguments",
            "core 1 8 2 {a} 0 {b} x": "Invalid offset",
            "core 1 8 2 {a} 0 {b} -8": "Invalid offset",
            "core 1 8 2 {a} 0 nosuch 0": "Device lookup failure",
            "core 1 8 2 {a} 0 {b} 0 x": "Invalid number of features",
            "core 1 8 2 {a} 0 {b} 0 2 handle_errors": (
                "Not enough arguments to support feature count"
            ),
            "core 1 8 2 {a} 0 {b} 0 1 nosuch": "Unrecognised feature requested",
            "core 1 8 2 {a} 0 {b} 0 1 handle_errors keep_log": "Too many mirror arguments",
            "core 1 8 2 {a} 0 {b} 0 1 keep_log": (
                "keep_log feature requires the handle_errors feature"
            ),
            "core 1 8 2 {a} 0 {b} 200": "too small for target: start=200, len=64, dev_size=256",
        },
    )


def test_the_copier_makes_the_legs_alike_and_says_so(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b, c = dm_pattern("a", 300), dm_pattern("b", 300), dm_pattern("c", 300)
    # 201 sectors: the last region is shorter
    device = dm_device(f"0 201 mirror core 1 16 3 {a} 7 {b} 0 {c} 40 1 handle_errors")
    assert device.mapped.wait(0) == 1
    assert status(device) == f"3 {a} {b} {c} 13/13 1 AAA 1 core"
    expected = pattern(1, 7 * 512, 201 * 512)
    assert device.pread(201 * 512, 0) == expected
    assert Path(b).read_bytes()[: 201 * 512] == expected
    assert Path(c).read_bytes()[40 * 512 : 241 * 512] == expected
    assert Path(c).read_bytes()[241 * 512 :] == pattern(3, 241 * 512, 59 * 512)
    copied(device)
    device.mapped.suspend()
    device.mapped.resume()
    assert device.mapped.event_nr == 1


def test_in_sync_from_the_start_is_no_news(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b = dm_pattern("a", 64), dm_pattern("b", 64)
    device = dm_device(f"0 64 mirror core 2 16 nosync 2 {a} 0 {b} 0")
    assert status(device) == f"2 {a} {b} 4/4 1 AA 1 core"
    assert device.mapped.event_nr == 0
    assert Path(b).read_bytes() == pattern(2, 0, 64 * 512)
    device.pwrite(b"\xee" * 1000, 700)
    for path, index in ((a, 1), (b, 2)):
        assert Path(path).read_bytes()[:1700] == pattern(index, 0, 700) + b"\xee" * 1000


def test_a_mirror_in_sync_is_a_plan(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b = dm_pattern("a", 64), dm_pattern("b", 64)
    device = dm_device(f"0 64 mirror core 1 16 2 {a} 0 {b} 0")
    device.mapped.wait(0)
    table = device.mapped.live
    assert table is not None
    assert isinstance(table.plans[0], Mirrored)
    where = table.read_extent(4096, 512)
    assert where is not None
    assert (str(where[0]), where[1]) == (a, 4096)
    assert not table.blocks(0, 512)


def test_holes_stay_holes(tmp_path: Path, dm_device: Callable[..., Device]) -> None:
    sectors = 32 << 11
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a, b):
        path.touch()
        os.truncate(path, sectors * 512)
    data = os.urandom(1 << 20)
    with a.open("r+b") as file:
        file.seek(5 << 20)
        file.write(data)
    with b.open("r+b") as file:  # where a has a hole
        file.seek(20 << 20)
        file.write(data)
    device = dm_device(f"0 {sectors} mirror core 1 1024 2 {a} 0 {b} 0")
    device.mapped.wait(0)
    device.flush()
    assert b.read_bytes() == a.read_bytes()
    assert b.stat().st_blocks <= a.stat().st_blocks + 16


def test_between_devices_that_are_no_files(tmp_path: Path) -> None:
    with bench(tmp_path) as made:
        made.paths["a"].write_bytes(pattern(1, 0, 128 * 512))
        device = made.make("core 1 8 2 {a} 0 {b} 0")
        device.mapped.wait(0)
        assert made.content("b") == pattern(1, 0, 128 * 512)


def test_the_same_place_twice(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a = dm_pattern("a", 64)
    device = dm_device(f"0 64 mirror core 1 16 2 {a} 0 {a} 0")
    assert device.mapped.wait(0) == 1
    assert device.pread(64 * 512, 0) == pattern(1, 0, 64 * 512)


def test_a_readonly_table_is_read_and_left_alone(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b = dm_pattern("a", 64), dm_pattern("b", 64)
    device = dm_device(f"0 64 mirror core 1 16 2 {a} 0 {b} 0", readonly=True)
    assert device.pread(64 * 512, 0) == pattern(1, 0, 64 * 512)
    assert health(device) == "0/4 AA"


def test_pause_and_resume(dm_pattern: Callable[..., str], dm_device: Callable[..., Device]) -> None:
    a, b = dm_pattern("a", 64), dm_pattern("b", 64)
    device = dm_device(f"0 64 mirror core 2 16 nosync 2 {a} 0 {b} 0")
    device.mapped.suspend()
    table = load(f"0 64 mirror core 1 16 2 {a} 0 {b} 0")
    assert table is not None
    device.mapped.load(table)
    target = table.targets[0]
    assert target.type.call("message", target, ["pause"]) is None
    device.mapped.resume()
    assert copier_of(device)._thread is not None
    device.pwrite(b"\xee" * 512, 0)  # to the default leg
    assert Path(b).read_bytes() == pattern(2, 0, 64 * 512)
    assert health(device) == "0/4 AA"
    device.mapped.suspend()
    device.mapped.resume()
    assert health(device) == "0/4 AA"
    target.type.call("message", target, ["resume"])
    device.mapped.wait(0)
    assert Path(b).read_bytes() == b"\xee" * 512 + pattern(1, 512, 63 * 512)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["hello"], "Target type does not support messages"),
        (["pause", "now"], "Target type does not support messages"),
        (["rate"], "Target type does not support messages"),
        (["rate", "fast"], "Invalid rate"),
        (["rate", "-1"], "Invalid rate"),
        (["rate", "1PiB"], "Invalid rate"),
    ],
)
def test_messages_that_are_none(
    words: list[str],
    reason: str,
    dm_pattern: Callable[..., str],
    dm_device: Callable[..., Device],
) -> None:
    a, b = dm_pattern("a", 64), dm_pattern("b", 64)
    device = dm_device(f"0 64 mirror core 2 16 nosync 2 {a} 0 {b} 0")
    assert device.mapped.live is not None
    target = device.mapped.live.targets[0]
    with pytest.raises(TargetError, match=reason):
        target.type.call("message", target, words)


def test_rates() -> None:
    words = {"0": 0, "none": 0, "512": 512, "50MiB": 50 << 20, "4KiB/s": 4096, "1GiB": 1 << 30}
    assert {word: parse_rate(word) for word in words} == words


def test_a_throttle_keeps_the_rate_over_any_time() -> None:
    throttle = Throttle()
    assert (throttle.step(8 << 20), throttle.due()) == (8 << 20, 0.0)
    throttle.set_rate(10 << 20)
    now = 100.0
    moved = 0
    while now < 110:
        step = throttle.step(8 << 20)
        throttle.spent(step, now)
        moved += step
        now = max(now + 0.001, throttle.due())
    assert 99 << 20 <= moved <= 102 << 20
    throttle.paused = True
    assert throttle.due() == NEVER
    throttle.paused = False
    throttle.set_rate(0)
    assert throttle.due() == 0.0
    throttle.set_rate(1)  # slower than a sector a second: still whole sectors
    assert throttle.step(8 << 20) == 64 << 10


def test_a_suspend_ends_a_slow_copy_and_a_resume_goes_on(tmp_path: Path) -> None:
    sectors = 1024
    with bench(tmp_path, sectors) as made:
        make_pattern(made.paths["a"], 1, sectors)
        gate = made.faults["b"].gate = threading.Event()
        device = made.make("core 1 1024 2 {a} 0 {b} 0")  # one region, several blocks of rate
        made.faults["b"].arrived()
        suspend = Started(device.mapped.suspend)
        gate.set()
        made.faults["b"].gate = None
        suspend.result()
        assert device.mapped.suspended
        device.mapped.resume()
        device.mapped.wait(0)
        assert made.content("b") == made.content("a")


def test_a_large_region_is_copied_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmtool.plugins.mirror.copier._WINDOW", 16 * 512)
    with bench(tmp_path, 128) as made:
        make_pattern(made.paths["a"], 1, 128)
        gate = made.faults["b"].gate = threading.Event()
        device = made.make("core 1 64 2 {a} 0 {b} 0")
        made.faults["b"].arrived()
        # in the window: waits; ahead of it: does not
        first = Started(lambda: device.pwrite(b"\xee" * 512, 0))
        device.pwrite(b"\xdd" * 512, 20 * 512)
        assert not first.done.is_set()
        made.faults["b"].gate = None
        gate.set()
        first.result()
        device.mapped.wait(0)
        assert made.content("b") == made.content("a") == device.pread(128 * 512, 0)
        windows = [n for op, _, n in made.faults["b"].seen if op is Op.WRITE]
        assert windows.count(16) == 8


def test_reload_and_removal_leave_no_thread_behind(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b = dm_pattern("a", 64), dm_pattern("b", 64)
    device = dm_device(f"0 64 mirror core 1 16 2 {a} 0 {b} 0")
    device.reload(f"0 64 linear {b} 0")
    again = dm_device(f"0 64 mirror core 2 16 nosync 2 {a} 0 {b} 0")
    assert mirror_of(again).in_sync
    again.close()
    assert not [t for t in threading.enumerate() if t.name == "mirror copier"]
