# SPDX-License-Identifier: Apache-2.0
"""striped: chunks go round; a failing stripe shows in status and raises events."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from dmtool import Device
from dmtool.plugins import striped
from dmtool.testing import check_target, pattern


def test_contract() -> None:
    check_target(
        striped,
        good=[
            "1 8 {a} 0",
            "2 8 {a} 0 {b} 0",
            "2 1 {a} 3 {b} 5",
            "4 16 {a} 0 {b} 0 {c} 7 {d} 1",
            "2 4 {a} 0 {a} 100",
            "+2 08 {a} 0 {b} 00",
        ],
        bad={
            "": "Not enough arguments",
            "2": "Not enough arguments",
            "0 8 {a} 0": "Invalid stripe count",
            "x 8 {a} 0": "Invalid stripe count",
            "4294967296 8 {a} 0": "Invalid stripe count",
            "2 0 {a} 0 {b} 0": "Invalid chunk_size",
            "2 4294967296 {a} 0 {b} 0": "Invalid chunk_size",
            "3 8 {a} 0 {b} 0 {c} 0": "Target length not divisible by number of stripes",
            "2 5 {a} 0 {b} 0": "Target length not divisible by chunk size",
            "2 8 {a} 0": "Not enough destinations specified",
            "2 8 {a} 0 {b} 0 {c} 0": "Not enough destinations specified",
            "2 8 {a} 0 {b} x": "Couldn't parse stripe destination",
            "2 8 {a} 0 nosuch 0": "Couldn't parse stripe destination",
            "2 8 {a} 0 {b} 225": "too small for target: start=225, len=32, dev_size=256",
        },
    )


def test_chunks_go_round(dm_pattern: Callable[..., str], dm_device: Callable[..., Device]) -> None:
    a, b, c = dm_pattern("a"), dm_pattern("b"), dm_pattern("c")
    device = dm_device(f"0 18 striped 3 3 {a} 1 {b} 2 {c} 3\n")
    expected = b"".join(
        pattern(i, (i + row * 3) * 512, 3 * 512) for row in range(2) for i in (1, 2, 3)
    )
    assert device.pread(18 * 512, 0) == expected
    assert device.pread(4000, 1000) == expected[1000:5000]


def test_a_failing_stripe_is_marked_and_raises_events(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b = dm_pattern("a", 16), dm_pattern("b", 16)
    device = dm_device(f"0 32 striped 2 8 {a} 0 {b} 0\n")
    table = device.mapped.live
    assert table is not None
    assert table.status(0) == f"2 {a} {b} 1 AA"
    os.truncate(b, 0)
    for count in range(1, 20):
        with pytest.raises(OSError, match="shorter"):
            device.pread(512, 8 * 512)
        # dm-stripe.c: an event for each of the first errors below DM_IO_ERROR_THRESHOLD
        assert device.mapped.event_nr == min(count, 14)
    assert table.status(0) == f"2 {a} {b} 1 AD"
    assert device.pread(512, 0) == pattern(1, 0, 512)
