# SPDX-License-Identifier: Apache-2.0
"""Plain NBD requests in C: see dmtool.export.nbd.lane, which says what all this means."""

from typing import final

from _typeshed import ReadableBuffer, WriteableBuffer

from dmtool.device.meter import Meter

@final
class Plain:
    def __new__(
        cls,
        lines: ReadableBuffer,
        legs: ReadableBuffer,
        backings: tuple[tuple[int, int, ReadableBuffer | None, bool], ...],
        /,
    ) -> Plain: ...
    def close(self) -> None: ...
    def find(self, offset: int, length: int, /) -> tuple[int, int, bool] | None: ...

@final
class Lane:
    def __new__(
        cls,
        sock: int,
        buffer: WriteableBuffer,
        structured: bool,
        turn: ReadableBuffer,
        spin: int,
        /,
    ) -> Lane: ...
    def prepare(
        self,
        plain: Plain,
        closed_fd: int,
        turn: int,
        readable: int,
        writable: int,
        wanted: int,
        meter: Meter | None,
        /,
    ) -> None: ...
    def run(
        self, pos: int, end: int, receive: bool, /
    ) -> tuple[int, int, int, int, int, tuple[bytes, bytes] | None]: ...
    def left(self) -> None: ...
    @property
    def since(self) -> int: ...
    @property
    def inside(self) -> bool: ...
