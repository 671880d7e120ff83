# SPDX-License-Identifier: Apache-2.0
"""The sector index: which target of a table a sector belongs to.

A compact btree, as in Linux drivers/md/dm-table.c: all keys are known before the tree is built,
so it needs no room to grow and no pointers. It exists twice: here, as the specification and the
fallback, and in C (native/btree.c, ``dmtool._btree``), which answers several times faster.
Both have the same methods, answers and errors.

``Index`` is the class in use and ``INDEX`` its name, ``"native"`` or ``"python"``. The
environment variable ``DMTOOL_INDEX`` set to one of these words forces it.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise
from operator import index
from typing import TYPE_CHECKING, Final, TypeVar, cast, final, overload

from dmtool.native import in_c

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

KEYS: Final = 8  # of a node: 64 bytes, one line of a processor's cache
CHILDREN: Final = KEYS + 1
LARGEST_KEY: Final = (1 << 64) - 1
_UINT64: Final = 8  # bytes

_Out = TypeVar("_Out", bound="WriteableBuffer")


@final
class BTree:
    """Keys in strictly ascending order, unsigned 64-bit, to be searched as bisect_left does.

    *Levels.* The leaf level is the keys themselves, 8 a node, in order. Each level above has one
    node for every 9 nodes of the level below, rounded up, until a level is one node: the root.
    An empty tree is one empty leaf. Every level is one array.

    *Child positions.* Child ``k`` (0 to 8) of node ``n`` is node ``9 * n + k`` of the level
    below; key ``k`` of leaf ``n`` is entry ``8 * n + k``. Nothing is stored to find them.

    *Inner keys.* Key ``k`` of an inner node is the greatest key under child ``k``: the search
    goes to the first child whose key is not below the one sought, and to child 8 if there is
    none. The child that holds the tree's last key has no upper bound, whatever that key is: it
    gets ``LARGEST_KEY``, as do the places of children that do not exist. So no search leaves the
    tree.

    *Padding.* The last leaf is filled up with ``LARGEST_KEY``. As padding comes after all keys,
    a search that ends in it ends at its beginning, which is ``len(tree)``; and a true key of
    that value comes before it.

    About 9 bytes a key: 8 in the leaves, 1/9 of that in each level for the one below.
    Instances never change: any thread may use one.
    """

    __slots__ = ("_inner", "_leaves", "_size")

    def __init__(self, keys: ReadableBuffer | Iterable[int]) -> None:
        """``keys``: ints, or a buffer of native uint64, or of raw bytes that hold such.

        Raises ValueError for a key that is not above the one before it and for bytes that are
        not a whole number of uint64, OverflowError for a key that does not fit 64 bits unsigned,
        TypeError for other things than ints and for buffers of another kind.
        """
        leaves = _uint64s_from(keys)
        for i, (before, key) in enumerate(pairwise(leaves), 1):
            if before >= key:
                msg = f"keys[{i}] is {key}, not above the {before} before it"
                raise ValueError(msg)

        size = len(leaves)
        leaves.extend([LARGEST_KEY] * (-size % KEYS if size else KEYS))
        inner: list[array[int]] = []  # root first
        nodes = len(leaves) // KEYS  # of the level below
        span = KEYS  # entries under one child, were its subtree full
        while nodes > 1:
            nodes = -(-nodes // CHILDREN)
            lasts = ((n * CHILDREN + k + 1) * span - 1 for n in range(nodes) for k in range(KEYS))
            bounds = (leaves[last] if last + 1 < size else LARGEST_KEY for last in lasts)
            inner.insert(0, array("Q", bounds))
            span *= CHILDREN
        self._size = size
        self._leaves = leaves
        self._inner = inner

    def find(self, key: int, /) -> int:
        """The number of the first entry that is >= ``key``; ``len(self)`` if there is none.

        Raises OverflowError for a key that does not fit 64 bits unsigned.
        """
        key = index(key)
        if not 0 <= key <= LARGEST_KEY:
            msg = "key does not fit 64 bits unsigned"
            raise OverflowError(msg)
        n = 0
        for level in self._inner:
            first = n * KEYS
            n = n * CHILDREN + bisect_left(level, key, first, first + KEYS) - first
        return bisect_left(self._leaves, key, n * KEYS, n * KEYS + KEYS)

    @overload
    def find_many(self, keys: ReadableBuffer, out: None = None) -> array[int]: ...
    @overload
    def find_many(self, keys: ReadableBuffer, out: _Out) -> _Out: ...
    def find_many(self, keys: ReadableBuffer, out: _Out | None = None) -> array[int] | _Out:
        """``find`` for each of ``keys``, a buffer as for the constructor.

        The answers are written into ``out``, a writable buffer of the same kind and length,
        which is returned, or are a new ``array('Q')``. ``out`` may be ``keys`` itself, but must
        not overlap it otherwise. Raises as the constructor does, BufferError if ``out`` is
        read-only, ValueError if it has another length.
        """
        wanted = _uint64s(memoryview(keys), "keys")
        if out is None:
            return array("Q", map(self.find, wanted))
        answers = _uint64s(memoryview(out), "out")
        if answers.readonly:
            msg = "out: not writable"
            raise BufferError(msg)
        if len(answers) != len(wanted):
            msg = f"out: room for {len(answers)} indexes, not {len(wanted)}"
            raise ValueError(msg)
        for i, key in enumerate(wanted):
            answers[i] = self.find(key)
        return out

    @property
    def depth(self) -> int:
        """Levels of nodes, the leaves counted."""
        return len(self._inner) + 1

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, entry: int, /) -> int:
        entry = index(entry)
        if entry < 0:
            entry += self._size
        if not 0 <= entry < self._size:
            msg = "entry out of range"
            raise IndexError(msg)
        return self._leaves[entry]

    def __sizeof__(self) -> int:
        levels = [self._leaves, *self._inner]
        return object.__sizeof__(self) + sum(level.__sizeof__() for level in levels)


def _uint64s_from(keys: ReadableBuffer | Iterable[int]) -> array[int]:
    numbers = array("Q")
    view = _view_of(keys)
    if view is not None:
        numbers.frombytes(_uint64s(view, "keys").cast("B"))
        return numbers
    for i, key in enumerate(cast("Iterable[int]", keys)):
        try:
            numbers.append(index(key))
        except OverflowError:
            msg = f"keys[{i}] does not fit 64 bits unsigned"
            raise OverflowError(msg) from None
    return numbers


def _view_of(keys: object) -> memoryview | None:
    try:
        return memoryview(keys)  # type: ignore[arg-type]  # that is the question
    except TypeError:
        return None


def _uint64s(view: memoryview, name: str) -> memoryview:
    if not view.c_contiguous:
        msg = f"{name}: not contiguous"
        raise BufferError(msg)
    form = view.format.removeprefix("@")
    fits = form in ("B", "Q") or (form == "L" and view.itemsize == _UINT64)
    if not fits or view.ndim != 1:
        msg = f"{name}: not a plain buffer of uint64 or of bytes"
        raise TypeError(msg)
    if view.nbytes % _UINT64:
        msg = f"{name}: {view.nbytes} bytes are not a whole number of uint64"
        raise ValueError(msg)
    return view.cast("B").cast("Q")


if TYPE_CHECKING:
    # To a type checker the specification is the index; dmtool/_btree.pyi has the same methods.
    Index = BTree
    INDEX = "python"
else:

    def _choose(wanted):
        native = in_c("_btree", "DMTOOL_INDEX", wanted)
        if native is None:
            return BTree, "python"
        return native.BTree, "native"

    Index, INDEX = _choose(os.environ.get("DMTOOL_INDEX", ""))
