# SPDX-License-Identifier: Apache-2.0
"""zero: zeros, whatever is written."""

from __future__ import annotations

from collections.abc import Callable

from dmtool import Device
from dmtool.plugins import zero
from dmtool.testing import check_target


def test_contract() -> None:
    check_target(zero, good=[""], bad={"x": "No arguments required"})


def test_writes_are_dropped(dm_device: Callable[..., Device]) -> None:
    device = dm_device("0 18014398509481976 zero\n")
    device.pwrite(b"x" * 1000, 1 << 62)
    device.discard(0, 1 << 62)
    assert device.pread(1000, 1 << 62) == bytes(1000)
    assert device.mapped.block_status(0, device.size) == [(device.size, 3)]
