# SPDX-License-Identifier: Apache-2.0
"""xor <device> <offset> <key>: one run of sectors, every byte XORed with a key on its way.

The key is hexadecimal, two digits a byte, and starts again and again over the whole target. This
is no encryption: it is the shortest target type that transforms data in both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmtool.api import SECTOR, Args, Backing, Extent, Io, Op, Remap, Target, TargetError, hookimpl

VERSION = (1, 0, 0)


@dataclass(frozen=True, slots=True)
class Xor:
    """What ``ctr`` made of a line; the context of a target."""

    extent: Extent
    key: bytes

    def __call__(self, data: bytes | bytearray | memoryview, sector: int) -> bytes:
        """``data``, that begins ``sector`` sectors into the target, with the key XORed in."""
        phase = sector * SECTOR % len(self.key)
        size = len(data)
        pad = (self.key * (size // len(self.key) + 2))[phase : phase + size]
        # as two long numbers: a loop over bytes would be 100 times slower
        return (int.from_bytes(data) ^ int.from_bytes(pad)).to_bytes(size)


@hookimpl
def ctr(ti: Target[Xor], args: Args) -> Xor:
    args.exactly(3)
    extent = args.extent()
    word = args.word()
    try:
        key = bytes.fromhex(word)
    except ValueError as error:
        raise TargetError("Invalid key", cause=f"{word!r}: {error}") from None
    if not key:
        raise TargetError("Invalid key", cause="it is empty")
    return Xor(extent, key)


@hookimpl
def map(ti: Target[Xor], io: Io) -> Remap:
    sector = io.sector - ti.begin
    if io.op is Op.WRITE and io.data is not None:
        io.data = ti.context(io.data, sector)
    return Remap(ti.context.extent.device, ti.context.extent.start + sector)


@hookimpl
def end_io(ti: Target[Xor], io: Io, error: int) -> int:
    if io.op is Op.READ and io.data is not None and not error:
        io.data = ti.context(io.data, io.sector - ti.begin)
    return error


@hookimpl
def iterate_devices(ti: Target[Xor], fn: Callable[[Backing, int, int], None]) -> None:
    # without it nothing would say that a device is too small before the first I/O beyond its end
    fn(ti.context.extent.device, ti.context.extent.start, ti.len)
