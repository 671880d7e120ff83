# SPDX-License-Identifier: Apache-2.0
"""The right of way between writers and the copier, and the bits behind it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from dmtool.plugins.mirror.bits import Bits, octets, span
from dmtool.plugins.mirror.regions import Regions, State
from dmtool.plugins.mirror.testbed import PATIENCE, Started

SYNC, COPIED, NOSYNC = State.SYNC, State.COPIED, State.NOSYNC


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.booleans()), max_size=10),
)
def test_bits_are_what_a_list_of_bools_is(size: int, fills: list[tuple[int, int, bool]]) -> None:
    bits, model = Bits(size), [False] * size
    for low, high, value in fills:
        first, end = min(low, size), min(high, size)
        bits.fill(first, end, value)
        model[first:end] = [value] * (end - first) if first < end else model[first:end]
    assert [bits[i] for i in range(size)] == model
    assert bits.count == sum(model)
    assert bits.mask() == sum(1 << i for i in range(size) if model[i])
    for start in range(size):
        for value in (True, False):
            expected = next((i for i in range(start, size) if model[i] is value), size)
            assert bits.find(value, start, size) == expected
    assert [value for lo, hi, value in bits.runs(0, size) for _ in range(lo, hi)] == model
    assert len(bits.data) == octets(size)
    again = Bits(size)
    again.load(bits.mask())
    assert (again.data, again.count) == (bits.data, bits.count)


def test_span() -> None:
    assert (span(0, 0), span(0, 3), span(2, 4)) == (0, 7, 12)


def never() -> bool:
    return False


def regions(length: int = 100, size: int = 16, in_sync: bool = False) -> Regions:
    return Regions(length, size, in_sync, threading.Condition())


def test_windows_end_with_regions_where_they_can() -> None:
    some = regions()
    assert some.total == 7
    assert some.next(40, single=False) == (0, 32)
    assert some.next(40, single=True) == (0, 16)
    assert some.next(10, single=False) == (0, 10)
    assert some.next(1000, single=False) == (0, 100)
    some.sync.fill(2, 3, True)
    assert some.next(1000, single=False) == (0, 32)
    some.sync.fill(0, 6, True)
    assert some.next(1000, single=False) == (96, 100)
    some.sync.fill(6, 7, True)
    assert some.next(1000, single=False) is None
    assert some.whole


def test_a_region_copied_in_pieces() -> None:
    some = regions()
    with some._lock:
        assert some.open(0, 10, never)
        some.close(10)
        assert some.sync.count == 0
        assert some.parts(0, 20) == [(0, 10, COPIED), (10, 20, NOSYNC)]
        assert some.alike(0, 20) == [(0, 20, False)]
        assert some.next(10, single=False) == (10, 16)
        assert some.open(10, 16, never)
        some.close(16)
        assert some.parts(0, 20) == [(0, 16, SYNC), (16, 20, NOSYNC)]
        assert some.alike(0, 20) == [(0, 16, True), (16, 20, False)]
        # to the end, across many
        assert some.open(16, 100, never)
        some.close(50)
        assert some.sync.count == 3
        assert some.next(100, single=False) == (50, 100)
        assert some.open(50, 100, never)
        some.close(100)
        assert some.whole


def test_a_lost_write_where_the_copier_has_been_starts_the_region_over() -> None:
    some = regions()
    with some._lock:
        assert some.open(0, 10, never)
        some.close(10)
        assert some.open(10, 16, never)
        some.lose_copied()
        some.close(16)
        assert some.sync.count == 0
        assert some.next(100, single=True) == (0, 16)


def test_what_was_copied_while_all_was_lost_does_not_count() -> None:
    some = regions()
    with some._lock:
        assert some.open(0, 32, never)
        some.lose_all()
        some.close(32)
        assert some.sync.count == 0
        assert some.open(0, 16, never)
        some.lose_all()
        some.close_failed(ignore=True)
        assert some.sync.count == 0


def test_what_failed_is_passed_by_until_a_restart() -> None:
    some = regions()
    with some._lock:
        assert some.open(0, 16, never)
        some.close_failed(ignore=False)
        assert some.next(16, single=True) == (16, 32)
        assert some.open(16, 32, never)
        some.close_failed(ignore=True)
        assert (some.sync.count, some.ragged.count) == (1, 1)
        assert some.alike(0, 48) == [(0, 16, False), (16, 32, False), (32, 48, False)]
        assert some.parts(16, 32) == [(16, 32, SYNC)]
        some.restart()
        assert some.next(16, single=True) == (0, 16)


def test_a_writer_waits_for_the_window_and_the_window_for_writers() -> None:
    some = regions()
    lock = some._lock
    order: list[str] = []

    def copy() -> None:
        with lock:
            assert some.open(16, 32, never)
            order.append("open")
            lock.notify_all()
            assert lock.wait_for(lambda: "waits" in order, PATIENCE)
            order.append("close")
            some.close(32)

    def write() -> None:
        with lock:
            order.append("waits")
            lock.notify_all()
            some.enter(31, 33)
            order.append("enter")

    with lock:
        early = some.enter(30, 40)
    copier = Started(copy)
    while not some._window:  # until the copier's thread has had the lock
        os.sched_yield()
    with lock:
        assert order == []
        some.leave(some.enter(32, 48))  # beside the window
        some.leave(early)
        assert lock.wait_for(lambda: "open" in order, PATIENCE)
    writer = Started(write)
    copier.result()
    writer.result()
    assert order == ["open", "waits", "close", "enter"]


def test_a_stop_ends_the_wait_for_writers() -> None:
    some = regions()
    stopped: list[bool] = []
    with some._lock:
        some.enter(0, 1)
    window = Started(lambda: _open(some, lambda: bool(stopped)))
    with some._lock:
        stopped.append(True)
        some._lock.notify_all()
    assert window.result() is False
    with some._lock:
        assert some.enter(0, 1)


def _open(some: Regions, stop: Callable[[], bool]) -> bool:
    with some._lock:
        return some.open(0, 16, stop)
