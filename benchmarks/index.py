# SPDX-License-Identifier: Apache-2.0
"""The sector index: the charter's own benchmark, and what it is compared with.

The charter (2001) has three rows: tables of 5, 1,000 and 10,000,000 entries, sectors looked up in
their order. Here they stand beside what its author measured then, and beside sectors in no order.
"""

from __future__ import annotations

import ctypes
import importlib
import random
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench, Measurement
from benchmarks.loads import compile_c
from dmtool import btree

SIZES = {5: 25.0, 1_000: 7.7, 10_000_000: 3.8}  # entries: million lookups/s, 1 GHz Athlon, 2001
SPAN = 1 << 54  # sectors of the largest device, a little rounded up
BATCH = 1 << 20  # lookups of one call
SINGLE = 1 << 17  # lookups of one call each
PLAIN = ["plain btree in C, first key", "plain btree in C, counting"]
CALLS = "dmtool, a call each"
MANY = "dmtool, many a call"
NUMPY = "numpy.searchsorted"
THEN = "2001"
RANDOM_PLAIN = 5.0
CALL_BISECT = 3.0

Find = Callable[[int], int]
FindMany = Callable[["array[int]"], Any]


def run(bench: Bench) -> None:
    if btree.INDEX != "native":
        bench.note("the sector index in C is missing: install dmtool where there is a C compiler")
    for size, then in SIZES.items():
        keys = array("Q", range(SPAN // size, SPAN + 1, SPAN // size))
        _rows(bench, keys, then)


def _rows(bench: Bench, keys: array[int], then: float) -> None:
    size = len(keys)
    rnd = random.Random(size)
    orders = {
        "sequential": array("Q", range(0, SPAN, SPAN // BATCH)),
        "random": array("Q", [rnd.getrandbits(54) for _ in range(BATCH)]),
    }
    tree = btree.Index(keys)
    plain = _Plain(bench.settings.folder, keys)
    listed = list(keys)
    out = array("Q", bytes(8 * BATCH))  # for those who can use one again
    many: dict[str, FindMany] = {
        MANY: lambda wanted: tree.find_many(wanted, out),
        PLAIN[0]: lambda wanted: plain.find_many(wanted, out),
        PLAIN[1]: lambda wanted: plain.count_many(wanted, out),
    }
    try:
        searchsorted = importlib.import_module("numpy").searchsorted
    except ImportError:
        bench.note("numpy is missing: pip install numpy")
    else:
        many[NUMPY] = partial(searchsorted, keys)
    for order, wanted in orders.items():
        _agree(tree.find_many(wanted), many, wanted)
        few = _spaced(wanted) if order == "sequential" else wanted[:SINGLE]
        runs = {
            CALLS: partial(_calls, tree.find, few.tolist()),
            "bisect": partial(_bisect, listed, few.tolist()),
            **{name: partial(_many, find, wanted) for name, find in many.items()},
        }
        values = bench.turns(runs)
        if order == "sequential":
            values[THEN] = [then]
        measured = bench.add(
            Measurement(
                f"index-{size}-{order}",
                f"{size:,} entries, {order}",
                "million/s",
                values,
                group=f"Sector index; many a call: {BATCH:,}",
            )
        )
        if size == 10_000_000 and order == "random":
            title = f"sector index, {measured.title}, many a call"
            bench.ratio(title, "plain btree in C", RANDOM_PLAIN, measured, MANY, PLAIN)
        if size == 1_000:
            title = f"sector index, {measured.title}, a call each"
            bench.ratio(title, "bisect", CALL_BISECT, measured, CALLS, ["bisect"])


def _spaced(wanted: array[int]) -> array[int]:
    """SINGLE of the sectors, from the first to the last."""
    return wanted[:: len(wanted) // SINGLE]


def _agree(expected: array[int], many: dict[str, FindMany], wanted: array[int]) -> None:
    """What is compared does the same."""
    for name, find in many.items():
        if list(find(wanted)) != expected.tolist():
            raise SystemExit(f"{name} finds other entries")


def _calls(find: Find, wanted: list[int]) -> float:
    begin = time.thread_time()
    for key in wanted:
        find(key)
    return len(wanted) / (time.thread_time() - begin) / 1e6


def _bisect(keys: list[int], wanted: list[int]) -> float:
    find = bisect_left
    begin = time.thread_time()
    for key in wanted:
        find(keys, key)
    return len(wanted) / (time.thread_time() - begin) / 1e6


def _many(find: FindMany, wanted: array[int]) -> float:
    """At least two calls, and a tenth of a second. Time here is this thread's own: of what only
    computes, nothing else is of interest."""
    find(wanted)
    begin = time.thread_time()
    calls = 0
    while calls < 2 or time.thread_time() - begin < 0.1:
        find(wanted)
        calls += 1
    return calls * len(wanted) / (time.thread_time() - begin) / 1e6


class _Plain:
    """plaintree.c, as a shared library."""

    def __init__(self, folder: Path, keys: array[int]) -> None:
        library = folder / "plaintree.so"
        if not library.exists():
            source = Path(__file__).with_name("plaintree.c")
            compile_c(source, library, "-shared", "-fPIC", "-fno-tree-vectorize")
        self._library = ctypes.CDLL(str(library))
        self._library.plain_tree_make.restype = ctypes.c_void_p
        made = self._library.plain_tree_make(_address(keys), ctypes.c_size_t(len(keys)))
        if not made:
            raise MemoryError
        self._tree = ctypes.c_void_p(made)

    def __del__(self) -> None:
        self._library.plain_tree_free(self._tree)

    def find_many(self, wanted: array[int], out: array[int]) -> array[int]:
        return self._call(self._library.plain_tree_find_many, wanted, out)

    def count_many(self, wanted: array[int], out: array[int]) -> array[int]:
        return self._call(self._library.plain_tree_count_many, wanted, out)

    def _call(self, function: Any, wanted: array[int], out: array[int]) -> array[int]:
        function(self._tree, _address(wanted), _address(out), ctypes.c_size_t(len(wanted)))
        return out


def _address(numbers: array[int]) -> ctypes.c_void_p:
    return ctypes.c_void_p(numbers.buffer_info()[0])
