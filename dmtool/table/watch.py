# SPDX-License-Identifier: Apache-2.0
"""For those who keep what they have worked out of a table: when it is no longer true."""

from __future__ import annotations

from collections.abc import Callable


def nothing() -> None:
    """What is done where nobody wants to be told."""


class Watch:
    """``version`` rises with each plan that is replaced; then ``on_replan`` is called, which the
    mapped device that takes the table sets. ``on_close`` are called, in order, when the table is
    closed: no I/O is under way, the backings are still open.

    Threads: any; for ``closed``, one.
    """

    def __init__(self) -> None:
        self.version = 0
        self.on_replan: Callable[[], None] = nothing
        self.on_close: list[Callable[[], None]] = []

    def replanned(self) -> None:
        self.version += 1
        self.on_replan()

    def closed(self) -> None:
        self.on_replan = nothing
        while self.on_close:
            self.on_close.pop(0)()
