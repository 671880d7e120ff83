# SPDX-License-Identifier: Apache-2.0
"""Tables as columns in C: see dmtool.table.columns, whose functions say what all this means."""

from _typeshed import ReadableBuffer, WriteableBuffer

def scan(
    text: ReadableBuffer,
    at: int,
    row: int,
    words: dict[bytes, int],
    begins: WriteableBuffer,
    lengths: WriteableBuffer,
    starts: WriteableBuffer,
    kinds: WriteableBuffer,
    /,
) -> tuple[int, int]: ...
def check(
    begins: ReadableBuffer,
    lengths: ReadableBuffer,
    starts: ReadableBuffer,
    kinds: ReadableBuffer,
    limits: ReadableBuffer,
    row: int,
    end: int,
    expected: int,
    /,
) -> tuple[int, int]: ...
def lines(
    begins: ReadableBuffer,
    starts: ReadableBuffer,
    kinds: ReadableBuffer,
    names: list[bytes | None],
    row: int,
    end: int,
    /,
) -> tuple[bytes, int]: ...
