# SPDX-License-Identifier: Apache-2.0
"""xor: what is written is transformed, what is read is transformed back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dmtool_xor

from dmtool import Device
from dmtool.testing import check_target, pattern


def xored(data: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[i % len(key)] for i, byte in enumerate(data))


def test_contract() -> None:
    check_target(
        dmtool_xor,
        good=["{a} 0 00", "{a} 192 a5c3ff"],
        bad={
            "{a} 0": "Invalid argument count",
            "{a} 0 a5 1": "Invalid argument count",
            "{a} zero a5": "Invalid device sector",
            "nosuch 0 a5": "Device lookup failed",
            "{a} 0 a5c": "Invalid key",
            "{a} 0 xx": "Invalid key",
            "{a} 193 a5": "too small for target",
        },
    )


def test_reads_are_transformed(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a, b = dm_pattern("a"), dm_pattern("b")
    device = dm_device(f"0 3 linear {a} 0\n3 5 xor {b} 2 a5c3ff\n")
    plain = xored(pattern(2, 1024, 2560), bytes.fromhex("a5c3ff"))
    assert device.pread(4096, 0) == pattern(1, 0, 1536) + plain
    # a piece from the middle has the same bytes: the key's phase is the target's
    assert device.pread(100, 1536 + 1000) == plain[1000:1100]


def test_writes_are_transformed(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a = dm_pattern("a", 16)
    device = dm_device(f"0 8 xor {a} 4 0102030405\n")
    device.pwrite(b"plain text", 777)
    assert device.pread(10, 777) == b"plain text"
    written = bytearray(xored(pattern(1, 2048, 4096), bytes.fromhex("0102030405")))
    written[777:787] = b"plain text"
    below = pattern(1, 0, 2048) + xored(written, bytes.fromhex("0102030405"))
    assert Path(a).read_bytes() == below + pattern(1, 6144, 2048)


def test_zeros_are_data_like_any_other(
    dm_pattern: Callable[..., str], dm_device: Callable[..., Device]
) -> None:
    a = dm_pattern("a", 8)
    device = dm_device(f"0 8 xor {a} 0 ff\n")
    device.write_zeroes(0, 4096)
    assert device.pread(4096, 0) == bytes(4096)
    assert Path(a).read_bytes() == b"\xff" * 4096
