# SPDX-License-Identifier: Apache-2.0
"""linear: a run of sectors is what lies at the offset, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from dmtool import Device
from dmtool.plugins import linear
from dmtool.testing import check_target, pattern


def test_contract() -> None:
    check_target(
        linear,
        good=["{a} 0", "{a} 192", "{a} 007"],
        bad={
            "": "Invalid argument count",
            "{a}": "Invalid argument count",
            "{a} 0 0": "Invalid argument count",
            "{a} x": "Invalid device sector",
            "{a} -1": "Invalid device sector",
            "{a} +1": "Invalid device sector",
            "{a} 18446744073709551616": "Invalid device sector",
            "nosuch x": "Invalid device sector",
            "nosuch 0": "Device lookup failed",
            "{a} 193": "too small for target: start=193, len=64, dev_size=256",
            "{a} 18446744073709551600": "too small for target",
        },
    )


def test_bytes_come_from_the_offset(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b = dm_pattern("a"), dm_pattern("b")
    device = dm_device(f"0 5 linear {a} 100\n5 3 linear {b} 7\n")
    assert device.pread(8 * 512, 0) == pattern(1, 51200, 2560) + pattern(2, 3584, 1536)
    assert device.pread(100, 2500) == pattern(1, 53700, 60) + pattern(2, 3584, 40)


def test_a_write_changes_its_bytes_only(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a = dm_pattern("a", 64)
    device = dm_device(f"0 8 linear {a} 16\n")
    device.pwrite(b"\xee" * 700, 300)
    with open(a, "rb") as image:
        whole = image.read()
    assert whole == (
        pattern(1, 0, 8192 + 300) + b"\xee" * 700 + pattern(1, 8192 + 1000, 64 * 512 - 9192)
    )
