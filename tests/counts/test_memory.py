# SPDX-License-Identifier: Apache-2.0
"""What tables and the sector index cost in memory: bytes and objects, counted."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from array import array
from pathlib import Path

import pytest

from dmtool import btree
from dmtool.table import Table, load

LINES = 100_000


def text(folder: Path) -> str:
    """A table of plain lines, neighbours on different images."""
    images = [folder / "a.img", folder / "b.img"]
    for image in images:
        with image.open("wb") as file:
            file.truncate(LINES * 8 * 512)
    return "".join(f"{n * 8} 8 linear {images[n % 2]} {n * 8}\n" for n in range(LINES))


def loaded(table: str) -> Table:
    made = load(table)
    assert made is not None
    return made


def test_plain_lines_are_columns_of_numbers(tmp_path: Path) -> None:
    """Begin, start and byte of each line, its key in the index, and 4 bytes for what it is on."""
    table = text(tmp_path)
    loaded(table).close()  # what is imported and found the first time
    tracemalloc.start()
    try:
        made = loaded(table)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the index in C has its memory from PyMem, so it is counted
    assert now / LINES <= 48
    assert len(made.targets) == LINES
    made.close()


def test_plain_lines_are_no_objects(tmp_path: Path) -> None:
    table = text(tmp_path)
    loaded(table).close()
    gc.collect()
    before = sys.getallocatedblocks()
    made = loaded(table)
    assert sys.getallocatedblocks() - before <= LINES / 20
    made.close()


@pytest.mark.parametrize("size", [1_000, 100_000])
def test_the_index_has_nine_bytes_a_key_and_some(size: int) -> None:
    tree = btree.Index(array("Q", range(0, size * 8, 8)))
    assert sys.getsizeof(tree) <= 9.1 * size + 1024
