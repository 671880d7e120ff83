# SPDX-License-Identifier: Apache-2.0
"""The counters of I/O in C: see dmtool.device.meter, whose classes say what all this means."""

from collections.abc import Sequence
from typing import final

from _typeshed import ReadableBuffer

@final
class Areas:
    def __new__(cls, start: int, end: int, step: int, bounds: Sequence[int] = (), /) -> Areas: ...
    def rows(
        self, first: int, last: int, clear: bool = False, now: int = 0, /
    ) -> list[tuple[int, ...]]: ...
    def __len__(self) -> int: ...

@final
class Meter:
    def __new__(cls, regions: Sequence[Areas], /) -> Meter: ...
    def count(
        self,
        requests: ReadableBuffer,
        first: int,
        end: int,
        apart: Sequence[int],
        since: int,
        now: int = 0,
        place: int = 0,
        /,
    ) -> None: ...
    def begin(self, write: bool, offset: int, length: int, now: int = 0, /) -> int: ...
    def end(self, write: bool, offset: int, length: int, begun: int, now: int = 0, /) -> None: ...
