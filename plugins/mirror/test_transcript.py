# SPDX-License-Identifier: Apache-2.0
"""Legs that fail, as in the kernel's transcript (tests/kernel/scenarios.jsonl, mirror-error-leg)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmtool.api import Op
from dmtool.plugins.mirror.testbed import (
    DATA,
    DEAD,
    HANDLE,
    KEEP,
    NOSYNC,
    SECTORS,
    SYNCING,
    Bench,
    alike,
    copied,
    health,
    held,
    patterned,
    write,
)
from dmtool.testing import pattern


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Bench]:
    with patterned(tmp_path) as one:
        yield one


def test_a_dead_leg_is_never_in_sync_and_holds_writes(made: Bench) -> None:
    made.faults["b"].failing = DEAD
    device = made.make(SYNCING + HANDLE)
    copied(device)
    assert health(device) == "0/32 AS"
    assert device.mapped.event_nr == 1
    one = write(device)
    held(device)
    assert health(device) == "0/32 AS"
    device.mapped.suspend()
    assert one.result() == errno.EIO
    assert health(device) == "0/32 AS"
    device.mapped.resume()
    copied(device)
    assert health(device) == "0/32 AS"
    assert device.pread(512, 0) == pattern(1, 0, 512)
    assert device.mapped.event_nr == 1


def test_held_writes_are_done_on_the_next_table_after_a_suspend_without_flush(made: Bench) -> None:
    alike(made)
    made.faults["b"].failing = DEAD
    device = made.make(NOSYNC + HANDLE)
    one = write(device)
    held(device)
    assert health(device) == "31/32 AD"
    assert device.mapped.event_nr == 1
    device.mapped.suspend(noflush=True)
    device.reload(f"0 {SECTORS} linear {made.paths['a']} 0")
    assert one.result() == 512
    assert device.pread(512, 0) == DATA


def test_with_keep_log_a_write_is_done_that_a_leg_has_not(made: Bench) -> None:
    alike(made)
    made.faults["b"].failing = DEAD
    device = made.make(NOSYNC + KEEP)
    assert write(device).result() == 512
    assert health(device) == "31/32 AD"
    assert device.pread(512, 0) == DATA


def test_without_handle_errors_what_cannot_be_copied_counts_as_copied(made: Bench) -> None:
    made.faults["b"].failing = DEAD
    device = made.make(SYNCING)
    device.mapped.wait(0)
    assert health(device) == "32/32 AA"
    assert write(device).result() == 512
    assert health(device) == "31/32 AD"
    assert device.mapped.event_nr == 1
    assert device.pread(512, 0) == DATA


def test_what_only_counts_as_copied_is_never_read(made: Bench) -> None:
    made.faults["b"].failing = {Op.WRITE}
    device = made.make(SYNCING)
    device.mapped.wait(0)
    made.faults["a"].failing = {Op.READ}
    with pytest.raises(OSError, match="Input/output"):
        device.pread(512, 0)


@pytest.mark.parametrize("options", ["", HANDLE, KEEP])
def test_the_first_leg_fails(options: str, made: Bench) -> None:
    alike(made)
    made.faults["a"].failing = DEAD
    device = made.make(NOSYNC + options)
    assert device.pread(512, 0) == pattern(1, 0, 512)
    assert health(device) == "32/32 RA"
    assert device.mapped.event_nr == bool(options)
    one = write(device)
    if options == HANDLE:
        held(device)
        assert health(device) == "31/32 DA"
        device.mapped.suspend()
        assert one.result() == errno.EIO
        device.mapped.resume()
        copied(device)
        assert health(device) == "31/32 DA"
        assert device.mapped.event_nr == 3  # read, write, copying
    else:
        assert one.result() == 512
        assert health(device) == "31/32 DA"
        assert device.pread(512, 0) == DATA
