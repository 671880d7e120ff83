# SPDX-License-Identifier: Apache-2.0
"""Threads that must not wait: those that serve others meanwhile, such as an NBD connection's own.

Whatever I/O would have to wait there for a target (Defer, Delay), for a lock that such a wait
holds, or for the gate of a suspended device below, raises MustWait instead; nothing is said of it
to anybody, and all of it is done again on a thread that may wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class MustWait(Exception):
    """Not an OSError: the I/O has not failed, on no leg of anything, and has no result."""


class _Here(threading.local):
    hurried = False


_here = _Here()


@contextmanager
def _as(hurried: bool) -> Iterator[None]:
    before, _here.hurried = _here.hurried, hurried
    try:
        yield
    finally:
        _here.hurried = before


def hurry() -> AbstractContextManager[None]:
    """The calling thread must not wait, within it."""
    return _as(True)


def patience() -> AbstractContextManager[None]:
    """The calling thread may wait all the same, within it: there is nobody else to do this."""
    return _as(False)


def check() -> None:
    """To be called before a wait, when there is something to wait for. Raises MustWait."""
    if _here.hurried:
        raise MustWait
