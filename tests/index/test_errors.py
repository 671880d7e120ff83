# SPDX-License-Identifier: Apache-2.0
"""What the sector index refuses: the same in Python and in C, and nothing stays behind."""

from __future__ import annotations

import ctypes
import gc
import sys
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from dmtool.btree import BTree

LARGEST = (1 << 64) - 1

Make = Callable[..., BTree]


# Calls that are refused, and with what: a text where the words are ours.
REFUSED: dict[str, tuple[Callable[[Make], object], type[Exception], str]] = {
    "not ascending": (
        lambda make: make([1, 5, 5]),
        ValueError,
        "keys[2] is 5, not above the 5 before it",
    ),
    "descending, far in, unsigned": (
        lambda make: make([*range(100), LARGEST, 1 << 62]),
        ValueError,
        f"keys[101] is {1 << 62}, not above the {LARGEST} before it",
    ),
    "descending, in a buffer": (
        lambda make: make(array("Q", [2, 1])),
        ValueError,
        "keys[1] is 1, not above the 2 before it",
    ),
    "negative key": (
        lambda make: make([-1]),
        OverflowError,
        "keys[0] does not fit 64 bits unsigned",
    ),
    "key of 65 bits": (
        lambda make: make([0, LARGEST + 1]),
        OverflowError,
        "keys[1] does not fit 64 bits unsigned",
    ),
    "find negative": (
        lambda make: make([1]).find(-1),
        OverflowError,
        "key does not fit 64 bits unsigned",
    ),
    "find 65 bits": (
        lambda make: make([1]).find(LARGEST + 1),
        OverflowError,
        "key does not fit 64 bits unsigned",
    ),
    "find what Python would not print": (
        lambda make: make([1]).find(1 << 100_000),
        OverflowError,
        "key does not fit 64 bits unsigned",
    ),
    "odd bytes": (
        lambda make: make(b"123456789"),
        ValueError,
        "keys: 9 bytes are not a whole number of uint64",
    ),
    "signed": (
        lambda make: make(array("q", [1])),
        TypeError,
        "keys: not a plain buffer of uint64 or of bytes",
    ),
    "32 bits": (
        lambda make: make([1]).find_many(array("I", [1, 2])),
        TypeError,
        "keys: not a plain buffer of uint64 or of bytes",
    ),
    "two dimensions": (
        lambda make: make(memoryview(bytes(32)).cast("Q", [2, 2])),
        TypeError,
        "keys: not a plain buffer of uint64 or of bytes",
    ),
    "no dimension": (
        lambda make: make(memoryview(ctypes.c_uint64(1))),
        TypeError,
        "keys: not a plain buffer of uint64 or of bytes",
    ),
    "short out": (
        lambda make: make([1]).find_many(array("Q", [1, 2]), array("Q", [1])),
        ValueError,
        "out: room for 1 indexes, not 2",
    ),
    "out of another kind": (
        lambda make: make([1]).find_many(array("Q", [1]), array("d", [1.0])),
        TypeError,
        "out: not a plain buffer of uint64 or of bytes",
    ),
    "read-only out": (
        lambda make: make([1]).find_many(bytes(8), bytes(8)),
        BufferError,
        "",
    ),
    "with gaps": (lambda make: make(memoryview(array("Q", [1, 2, 3]))[::2]), BufferError, ""),
    "no keys": (lambda make: make(), TypeError, ""),
    "None": (lambda make: make(None), TypeError, ""),
    "text": (lambda make: make("12"), TypeError, ""),
    "floats": (lambda make: make([1.0]), TypeError, ""),
    "find a float": (lambda make: make([1]).find(1.0), TypeError, ""),  # type: ignore[arg-type]
    "find None": (lambda make: make([1]).find(None), TypeError, ""),  # type: ignore[arg-type]
    "find_many of a list": (
        lambda make: make([1]).find_many([1]),  # type: ignore[call-overload]
        TypeError,
        "",
    ),
    "find_many into a list": (
        lambda make: make([1]).find_many(bytes(8), [1]),  # type: ignore[call-overload]
        TypeError,
        "",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_the_same(make: Make, name: str) -> None:
    call, error, text = REFUSED[name]
    with pytest.raises(error) as raised:
        call(make)
    assert raised.type is error
    if text:
        assert str(raised.value) == text


def test_an_index_method_that_fails_or_changes_the_list(make: Make) -> None:
    keys: list[Any] = []

    class Sly:
        def __index__(self) -> int:
            keys.clear()
            raise LookupError

    keys.extend([Sly(), object()])
    with pytest.raises(LookupError):
        make(keys)
    with pytest.raises(LookupError):
        make([1]).find(Sly())  # type: ignore[arg-type]


def test_nothing_is_leaked(make: Make) -> None:
    keys = array("Q", range(500))
    out = array("Q", bytes(8 * 500))
    number = 1 << 80

    def use() -> None:
        tree = make(keys)
        make([*range(300, 900)])
        tree.find_many(keys)
        tree.find_many(keys, out)
        tree.find(400)
        for call, error, _ in REFUSED.values():
            with pytest.raises(error):
                call(make)
        with pytest.raises(OverflowError):
            tree.find(number)

    use()
    gc.collect()  # exceptions and their frames go round in circles
    counts = [sys.getrefcount(thing) for thing in (keys, out, number, make)]
    tracemalloc.start()
    try:
        use()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            use()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        assert after - before < 50 * 32  # less than one object each time
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(thing) for thing in (keys, out, number, make)] == counts
    keys.append(500)  # BufferError if a buffer were still held
