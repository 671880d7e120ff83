# SPDX-License-Identifier: Apache-2.0
"""Legs that fail: what the kernel's transcript does not say, and where we are more careful."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dmtool import Device
from dmtool.api import Mirrored, Op
from dmtool.plugins.mirror.testbed import (
    DATA,
    DEAD,
    HANDLE,
    KEEP,
    NOSYNC,
    REGION,
    SECTORS,
    SYNCING,
    Bench,
    Started,
    SteppedCopier,
    alike,
    copied,
    health,
    held,
    mirror_of,
    patterned,
    plan,
    stepped,
    write,
)
from dmtool.testing import make_pattern, pattern


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Bench]:
    with patterned(tmp_path) as one:
        yield one


def test_a_leg_that_comes_back_is_made_good_after_a_resume(made: Bench) -> None:
    alike(made)
    device = made.make(NOSYNC + KEEP)
    made.faults["b"].bad_sectors = {5}
    for at in range(10):
        device.pwrite(bytes([at]) * 512, at * 512)
    assert health(device) == "31/32 AD"
    assert device.mapped.event_nr == 1
    assert plan(device) is None
    made.faults["b"].bad_sectors = set()
    device.mapped.suspend()
    device.mapped.resume()
    device.mapped.wait(1)
    assert health(device) == "32/32 AA"
    assert isinstance(plan(device), Mirrored)
    assert made.content("a") == made.content("b")


def test_reads_move_to_another_leg_as_a_plan(made: Bench) -> None:
    alike(made)
    device = made.make("core 2 16 nosync 3 {a} 0 {b} 0 {c} 0" + HANDLE)
    made.faults["a"].failing = {Op.READ}
    assert device.pread(512, 512) == pattern(1, 512, 512)
    now = plan(device)
    assert isinstance(now, Mirrored)
    assert now.read_from == 1
    assert health(device) == "32/32 RAA"
    made.faults["b"].failing = {Op.READ}
    assert device.pread(512, 512) == pattern(1, 512, 512)
    assert health(device) == "32/32 RRA"
    assert device.mapped.event_nr == 2
    # each leg can read what the others can not: no data is lost while one of them answers
    made.faults["a"].failing = set()
    made.faults["c"].failing = {Op.READ}
    assert device.pread(512, 512) == pattern(1, 512, 512)
    made.faults["a"].failing = {Op.READ}
    with pytest.raises(OSError, match="Input/output"):
        device.pread(512, 512)
    assert health(device) == "32/32 RRR"


def test_one_bad_sector_costs_one_region(made: Bench) -> None:
    made.faults["b"].bad_sectors = {REGION * 7 + 3}
    device = made.make(SYNCING + HANDLE)
    copied(device)
    assert health(device) == "31/32 AS"
    a, b = made.content("a"), made.content("b")
    differ = {
        i // (REGION * 512) for i in range(0, len(a), 512) if a[i : i + 512] != b[i : i + 512]
    }
    assert differ == {7}


def test_a_write_that_fails_where_the_copier_has_been(
    made: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmtool.plugins.mirror.Copier", SteppedCopier)
    device = made.make("core 1 128 2 {a} 0 {b} 0" + HANDLE)
    copier = stepped(device)
    assert copier.step(32 * 512)
    assert health(device) == "0/4 AA"
    device.pwrite(DATA, 0)
    assert made.content("b")[:512] == DATA
    made.faults["b"].failing = {Op.WRITE}
    device.pwrite(b"\xdd" * 512, 512)  # the leg that counts has it
    made.faults["b"].failing = set()
    while copier.step(32 * 512):
        pass
    assert health(device) == "4/4 AA"
    assert made.content("a") == made.content("b")


def test_what_is_cut_off_is_no_hole(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmtool.plugins.mirror.Copier", SteppedCopier)
    a, b = made.paths["a"], made.paths["b"]
    table = f"0 {SECTORS} mirror core 2 16 sync 2 {a} 0 {b} 0{HANDLE}"
    half = SECTORS // 2 * 512
    with Device.from_table(table) as device:
        os.truncate(a, half)
        while stepped(device).step():
            pass
        assert health(device) == "16/32 SA"
        assert made.content("b") == pattern(1, 0, half) + pattern(2, half, half)
    os.truncate(a, 2 * half)
    with Device.from_table(table) as device:
        os.truncate(b, half)  # and where a has a hole, b gets one
        while stepped(device).step():
            pass
        assert health(device) == "32/32 AA"
        assert made.content("b") == pattern(1, 0, half) + bytes(half)


def test_a_source_that_cannot_be_read_is_marked(made: Bench) -> None:
    made.faults["a"].failing = {Op.READ}
    device = made.make(SYNCING + HANDLE)
    copied(device)
    assert health(device) == "0/32 SA"
    with pytest.raises(OSError, match="Input/output"):
        device.pread(512, 0)
    assert health(device) == "0/32 SA"


def test_a_write_is_not_said_to_be_done_that_only_a_stale_leg_has(made: Bench) -> None:
    """The kernel says so: it moves the default leg with keep_log even while legs differ."""
    alike(made)
    device = made.make(NOSYNC + KEEP)
    made.faults["b"].failing = {Op.WRITE}
    device.pwrite(DATA, REGION * 512)  # region 1 is on a only
    made.faults["b"].failing, made.faults["a"].failing = set(), {Op.WRITE}
    with pytest.raises(OSError, match="Input/output"):
        device.pwrite(b"\xdd" * 512, 0)
    assert device.pread(512, REGION * 512) == DATA
    assert device.pread(512, 0) == pattern(1, 0, 512)
    assert health(device) == "30/32 DD"


def test_all_legs_fail(made: Bench) -> None:
    alike(made)
    device = made.make(NOSYNC + HANDLE)
    made.faults["a"].failing = made.faults["b"].failing = DEAD
    assert write(device).result() == errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        device.pread(512, 0)


def test_discards_and_zeros_go_to_all_legs(made: Bench) -> None:
    alike(made)
    device = made.make(NOSYNC + KEEP)
    device.discard(4096, 4096)
    device.write_zeroes(16384, 8192)
    assert [op for op, _, _ in made.faults["b"].seen] == [Op.DISCARD, Op.WRITE_ZEROES]
    made.faults["b"].failing = DEAD
    device.write_zeroes(0, 512)
    assert health(device) == "31/32 AD"
    device.discard(REGION * 512, REGION * 512)
    assert health(device) == "30/32 AD"
    assert device.pread(512, 0) == bytes(512)
    # where they differ, the default leg is the one that is written
    made.faults["b"].seen.clear()
    device.write_zeroes(512, 512)
    device.discard(0, 4096)
    assert not made.faults["b"].seen
    assert len(made.faults["a"].seen) > 4


@pytest.mark.parametrize(
    "flush",
    [
        pytest.param(lambda device: device.flush(), id="flush"),
        pytest.param(lambda device: device.mapped.write(0, DATA, fua=True), id="fua"),
    ],
)
def test_a_flush_that_fails_on_a_leg(flush: Callable[[Device], None], made: Bench) -> None:
    alike(made)
    for options, events in (("", 0), (KEEP, 1)):
        device = made.make(NOSYNC + options)
        made.faults["b"].failing = {Op.FLUSH}
        flush(device)
        # nobody knows what b has
        assert health(device) == "0/32 AF"
        assert device.mapped.event_nr == events
        flush(device)
        device.mapped.suspend()  # a leg that is given up does not keep it from being suspended
        made.faults["b"].failing = set()
        device.mapped.resume()
        device.mapped.wait(events)
        assert health(device) == "32/32 AA"
        assert made.content("a") == made.content("b")
        device.close()


def test_a_flush_that_fails_on_the_default_leg(made: Bench) -> None:
    alike(made)
    device = made.make(NOSYNC)
    made.faults["a"].failing = {Op.FLUSH}
    device.flush()
    assert health(device) == "0/32 FA"
    assert mirror_of(device).legs.default == 1
    made.faults["b"].failing = {Op.FLUSH}
    with pytest.raises(OSError, match="Input/output"):
        device.flush()


def test_a_flush_is_held_as_a_write_is(made: Bench) -> None:
    alike(made)
    device = made.make(NOSYNC + HANDLE)
    made.faults["b"].failing = {Op.FLUSH}
    flush = Started(device.flush)
    held(device)
    device.mapped.suspend(noflush=True)
    device.reload(f"0 {SECTORS} linear {made.paths['a']} 0")
    assert flush.result() is None


def test_a_removal_ends_what_is_held(made: Bench) -> None:
    alike(made)
    made.faults["b"].failing = DEAD
    device = made.make(NOSYNC + HANDLE)
    one = write(device)
    held(device)
    device.close()
    assert one.result() == errno.EIO


def test_a_suspend_that_fails_lets_the_copier_go_on(made: Bench) -> None:
    made.faults["c"].failing = {Op.FLUSH}
    table = made.table(SYNCING) + f"\n{SECTORS} 8 linear /dev/mapper/c 0"
    with Device.from_table(table, below=made.lower) as device:
        with pytest.raises(OSError, match="Input/output"):
            device.mapped.suspend()
        device.mapped.wait(0)
        assert made.content("a") == made.content("b")


def test_what_was_in_sync_is_not_copied_before_a_suspend_has_waited(made: Bench) -> None:
    """I/O of the plan may be under way, and is not counted."""
    alike(made)
    device = made.make(NOSYNC + KEEP)
    made.faults["b"].failing = {Op.WRITE}
    device.pwrite(DATA, 0)
    made.faults["b"].failing = set()
    live = device.mapped.live
    assert live is not None
    for hook in ("presuspend", "presuspend_undo"):
        live.targets[0].type.call(hook, live.targets[0])
    copied(device)
    assert health(device) == "31/32 AD"
    device.mapped.suspend()
    device.mapped.resume()
    device.mapped.wait(1)
    assert health(device) == "32/32 AA"


def test_reads_go_on_while_writes_are_held(made: Bench) -> None:
    alike(made)
    made.faults["b"].failing = {Op.WRITE}
    device = made.make(NOSYNC + HANDLE)
    writes = [write(device)]
    held(device)
    writes.append(write(device))
    held(device, 2)
    assert device.pread(SECTORS * 512, 0)[512:] == pattern(1, 512, SECTORS * 512 - 512)
    # elsewhere legs are in sync, so it is tried
    made.faults["b"].failing = set()
    device.pwrite(DATA, REGION * 512)
    device.mapped.suspend()
    assert [one.result() for one in writes] == [errno.EIO, errno.EIO]


def test_nobody_is_told_of_a_write_before_reads_know_where_it_is(made: Bench) -> None:
    """Several writes at once find out that the default leg is dead."""

    def write_and_read(device: Device, at: int) -> tuple[int, bytes]:
        return device.pwrite(DATA, at), device.pread(512, at)

    for _ in range(10):
        alike(made)
        make_pattern(made.paths["a"], 1, SECTORS)
        made.faults["a"].failing = set()
        device = made.make(NOSYNC)
        made.faults["a"].failing = {Op.WRITE}
        places = range(0, SECTORS * 512, 8 * REGION * 512)
        writes = [Started(partial(write_and_read, device, at)) for at in places]
        assert [one.result() for one in writes] == [(512, DATA)] * 4
        device.close()
