# SPDX-License-Identifier: Apache-2.0
"""error: nothing comes through, and the neighbours do not notice."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from dmtool import Device
from dmtool.plugins import io_error
from dmtool.testing import check_target, pattern


@pytest.mark.parametrize("name", ["error", "io_error"])
def test_contract(name: str) -> None:
    check_target(io_error, good=["", "1", "{a} 0", "a b c"], name=name)


def test_only_its_own_part_fails(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a = dm_pattern("a")
    device = dm_device(f"0 8 linear {a} 0\n8 8 error\n16 8 linear {a} 16\n")
    parts = device.mapped.read_parts(0, 24 * 512)
    assert [(offset, length) for offset, length, _ in parts] == [
        (0, 4096),
        (4096, 4096),
        (8192, 4096),
    ]
    failed = parts[1][2]
    assert isinstance(failed, OSError)
    assert failed.errno == errno.EIO
    assert parts[0][2] == pattern(1, 0, 4096)
    with pytest.raises(OSError, match="Input/output error"):
        device.pwrite(b"\xee" * 24 * 512, 0)
    assert device.pread(4096, 0) == b"\xee" * 4096
    assert device.pread(4096, 8192) == b"\xee" * 4096
    for operation in (device.discard, device.write_zeroes):
        with pytest.raises(OSError, match="Input/output error"):
            operation(4096, 512)
