# SPDX-License-Identifier: Apache-2.0
"""The sector index, in Python and in C, held to bisect_left and to each other."""

from __future__ import annotations

import random
import sys
import tracemalloc
from array import array
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmtool.btree import BTree

LARGEST = (1 << 64) - 1
Make = Callable[..., BTree]

# Full nodes and levels, and one more or less: 8 keys a leaf, 72 under one inner node, 648, 5832.
BOUNDARIES = sorted(
    {0, 1, 7, 8, 9, 2000}
    | {full + off for full in (64, 72, 80, 576, 648, 656, 5832) for off in (-1, 0, 1)}
)


def spread(size: int, seed: int) -> list[int]:
    """``size`` keys over all of 64 bits."""
    rnd = random.Random(seed)
    keys: set[int] = set()
    while len(keys) < size:
        keys.add(rnd.getrandbits(64))
    return sorted(keys)


def layouts(size: int) -> dict[str, list[int]]:
    middle = 1 << 63
    return {
        "dense": list(range(size)),
        "sparse": spread(size, seed=size),
        "round 2^63": list(range(middle - size // 2, middle - size // 2 + size)),
        "up to 2^64-1": list(range(LARGEST + 1 - size, LARGEST + 1)),
    }


def probes(keys: list[int]) -> list[int]:
    """Each key and its neighbours, and the ends of the range."""
    near = {key + off for key in keys for off in (-1, 0, 1)}
    return sorted({k for k in near if 0 <= k <= LARGEST} | {0, 1 << 63, LARGEST - 1, LARGEST})


def entries(tree: BTree) -> list[int]:
    return [tree[entry] for entry in range(len(tree))]


def check(make: Make, keys: list[int], wanted: list[int]) -> None:
    tree = make(keys)
    expected = [bisect_left(keys, key) for key in wanted]
    assert [tree.find(key) for key in wanted] == expected
    assert tree.find_many(array("Q", wanted)).tolist() == expected


@pytest.mark.parametrize("size", BOUNDARIES)
def test_sizes_where_nodes_and_levels_fill_up(make: Make, size: int) -> None:
    for keys in layouts(size).values():
        check(make, keys, probes(keys))


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Keys of a tree, and keys to look up in it."""
    size = draw(st.integers(0, 2000))
    sectors = st.integers(0, LARGEST)
    if draw(st.booleans()):
        step = draw(st.integers(1, 1 << 40))
        first = draw(st.one_of(st.just(LARGEST - step * size), st.integers(0, 1 << 63)))
        keys = [key for key in range(first, first + size * step, step) if key <= LARGEST]
    else:
        keys = spread(size, draw(st.integers(0, 1 << 32)))
    keys = sorted({*keys, *draw(st.lists(sectors, max_size=8))})
    wanted = draw(st.lists(sectors, max_size=40))
    if keys:
        wanted += draw(st.lists(st.sampled_from(keys), max_size=40))
        wanted += [key + 1 for key in wanted if key < LARGEST]
    return keys, wanted


@settings(max_examples=150, deadline=None)
@given(table=tables())
def test_find_is_bisect_left(make: Make, table: tuple[list[int], list[int]]) -> None:
    check(make, *table)


@settings(deadline=None)
@given(keys=st.lists(st.integers(0, LARGEST), max_size=200, unique=True).map(sorted))
def test_a_buffer_makes_the_same_tree_as_a_list(make: Make, keys: list[int]) -> None:
    raw = array("Q", keys).tobytes()
    unaligned = memoryview(b"\0" * 3 + raw)[3:]
    for given_keys in (keys, tuple(keys), array("Q", keys), raw, bytearray(raw), unaligned):
        tree = make(given_keys)
        assert len(tree) == len(keys)
        assert entries(tree) == keys
    for key in keys:
        assert tree[tree.find(key)] == key


def test_the_empty_tree(make: Make) -> None:
    nothings: list[Any] = [[], (), b"", array("Q")]
    for nothing in nothings:
        tree = make(nothing)
        assert len(tree) == 0
        assert tree.depth == 1
        assert [tree.find(key) for key in (0, 1, LARGEST)] == [0, 0, 0]
        assert tree.find_many(array("Q", [0, LARGEST])).tolist() == [0, 0]
        assert tree.find_many(b"").tolist() == []


@pytest.mark.parametrize(
    ("size", "depth"),
    [(1, 1), (8, 1), (9, 2), (72, 2), (73, 3), (648, 3), (649, 4), (5832, 4), (5833, 5)],
)
def test_depth(make: Make, size: int, depth: int) -> None:
    assert make(range(size)).depth == depth


def test_entries(make: Make) -> None:
    tree = make([3, 5, LARGEST])
    assert (tree[0], tree[2], tree[-1], tree[-3]) == (3, LARGEST, LARGEST, 3)
    for entry in (3, -4, 1 << 70, -(1 << 70)):
        with pytest.raises(IndexError):
            tree[entry]
    with pytest.raises(TypeError):
        tree["0"]  # type: ignore[index]


class Ordinal:
    """Not an int, but fit for use as one."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_what_can_stand_for_an_int(make: Make) -> None:
    tree = make([False, Ordinal(7), LARGEST])
    assert entries(tree) == [0, 7, LARGEST]
    assert tree.find(Ordinal(LARGEST)) == 2  # type: ignore[arg-type]
    assert tree.find(True) == 1
    assert entries(make(key for key in (1, 2))) == [1, 2]


def test_find_many_into_a_buffer(make: Make) -> None:
    tree = make(range(0, 1000, 10))
    wanted = array("Q", [0, 1, 990, 991, LARGEST] * 30)
    expected = [0, 1, 99, 100, 100] * 30
    out = array("Q", [7]) * len(wanted)
    assert tree.find_many(wanted, out) is out
    assert out.tolist() == expected
    raw = bytearray(3 + 8 * len(wanted))
    tree.find_many(wanted.tobytes(), out=memoryview(raw)[3:])
    assert array("Q", bytes(raw[3:])).tolist() == expected
    # in place
    assert tree.find_many(keys=wanted, out=wanted) is wanted
    assert wanted.tolist() == expected


def test_a_million_entries(make_native: Make) -> None:
    rnd = random.Random(20010905)
    keys = array("Q", range((1 << 63) - 500_000 * 977, (1 << 63) + 500_000 * 977, 977))
    assert len(keys) == 1_000_000
    tree = make_native(keys)
    wanted = array("Q", (rnd.randrange(keys[0] - 977, keys[-1] + 977) for _ in range(100_000)))
    expected = [bisect_left(keys, key) for key in wanted]
    assert tree.find_many(wanted).tolist() == expected
    assert [tree.find(key) for key in wanted] == expected
    for entry in (0, 7, 8, 71, 72, 999_999):
        assert tree.find(keys[entry]) == entry


def test_about_nine_bytes_a_key(make: Make) -> None:
    size = 100_000
    # Python's arrays grow in steps, and keep what is too much
    assert 9 * size < sys.getsizeof(make(range(size))) < 10 * size


def test_the_bytes_are_all_there_is(make_native: Make) -> None:
    keys = array("Q", range(100_000))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tree = make_native(keys)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 9.1 * len(tree)
    assert after - before == pytest.approx(sys.getsizeof(tree), abs=200)


def test_many_threads_on_one_tree(make_native: Make) -> None:
    """Batches long enough to let go of the GIL, on one tree, keys shared."""
    keys = array("Q", range(0, 300_000, 3))
    wanted = array("Q", range(0, 300_000, 7))
    tree = make_native(keys)
    expected = tree.find_many(wanted)
    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(lambda _: tree.find_many(wanted), range(16)):
            assert answers == expected
