# SPDX-License-Identifier: Apache-2.0
"""The lanes in Python and in C do the same, and read as text.parse does."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmtool.errors import TableError
from dmtool.table import rows
from dmtool.table.text import Line, parse
from tests.table.lanes import LANES
from tests.table.texts import ANY_LINE, said, untimed

both = pytest.mark.parametrize("lane", [pytest.param("native", marks=pytest.mark.native), "python"])

TEXT = st.lists(ANY_LINE, max_size=6).map("\n".join)


class Kinds(dict[bytes, int]):
    def __missing__(self, word: bytes) -> int:
        self[word] = number = len(self)
        return number


def empty(count: int) -> tuple[array[int], array[int], array[int], array[int]]:
    numbers = [array("Q", bytes(8 * count)) for _ in range(3)]
    return numbers[0], numbers[1], numbers[2], array("I", bytes(4 * count))


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@untimed
@given(st.binary(max_size=40) | TEXT.map(encoded), st.integers(0, 3), st.integers(0, 4))
@pytest.mark.native
def test_scan_reads_the_same_rows(text: bytes, at: int, row: int) -> None:
    at = min(at, len(text))
    found = []
    for scan, _, _ in LANES.values():
        kinds, made = Kinds(), empty(5)
        found.append((scan(text, at, row, kinds, *made), dict(kinds), made))
    assert found[0] == found[1]


_SMALL = st.integers(0, 4)
_SECTORS = _SMALL | st.integers(0, 2**64 - 1) | st.integers(2**54 - 3, 2**54 + 3)


@untimed
@given(
    st.lists(st.tuples(_SECTORS, _SECTORS, _SECTORS, st.integers(0, 3)), max_size=5),
    st.lists(_SECTORS, max_size=3),
    st.booleans(),
    st.integers(0, 6),
)
@pytest.mark.native
def test_check_finds_the_same_row(
    table: list[tuple[int, int, int, int]], limits: list[int], gaps: bool, end: int
) -> None:
    made = [array("Q") for _ in range(3)]
    kinds = array("I")
    expected = 0
    for begin, length, start, kind in table:
        made[0].append(begin if gaps else expected % (1 << 64))
        made[1].append(length)
        made[2].append(start)
        kinds.append(kind)
        expected += length
    found = [
        check(*made, kinds, array("Q", limits), 0, min(end, len(kinds)), 0)
        for _, check, _ in LANES.values()
    ]
    assert found[0] == found[1]


@untimed
@given(
    st.lists(st.tuples(_SECTORS, _SECTORS, st.integers(0, 3)), max_size=5),
    st.integers(0, 5),
    st.integers(0, 5),
)
@pytest.mark.native
def test_lines_writes_the_same_text(table: list[tuple[int, int, int]], row: int, end: int) -> None:
    begins = array("Q", [*sorted(begin for begin, _, _ in table), 2**64 - 1])
    starts = array("Q", [start for _, start, _ in table])
    kinds = array("I", [kind for _, _, kind in table])
    names = [b"zero ", b"linear /a ", None, "linear /é\udcff ".encode("utf-8", "surrogateescape")]
    row, end = min(row, len(kinds)), min(end, len(kinds))
    found = [
        lines(begins, starts, kinds, names, row, max(row, end)) for *_, lines in LANES.values()
    ]
    assert found[0] == found[1]


@untimed
@given(TEXT, st.integers(1, 3))
@both
def test_rows_are_the_lines_that_parse_finds(lane: str, text: str, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "scan", LANES[lane][0])
        patch.setattr(rows, "_CHUNK", 8)
        patch.setattr(rows, "MOST_ERRORS", most)
        found = rows.read(text, "f")
        entries: list[Line | TableError] = [found.line(row) for row in range(found.count)]
        for at, (row, error) in enumerate(found.errors):
            entries.insert(row + at, error)
    assert [said(entry) for entry in entries] == [
        said(entry) for entry in parse(text, "f", most_errors=most)
    ]


@both
def test_numbers_are_exact(lane: str) -> None:
    scan, _, lines = LANES[lane]
    text = b"0 1 linear /a 9999999999999999999\n1 0009 zero\n"
    kinds, made = Kinds(), empty(2)
    assert scan(text, 0, 0, kinds, *made) == (len(text), 2)
    assert (made[0].tolist(), made[1].tolist()) == ([0, 1], [1, 9])
    assert made[2].tolist() == [9999999999999999999, 0]
    assert kinds == {b"linear /a": 0, b"zero": 1}
    begins = array("Q", [0, 1, 10])
    text = b"0 1 linear /a 9999999999999999999\n1 9 zero \n"
    assert lines(begins, made[2], made[3], [b"linear /a ", b"zero "], 0, 2) == (text, 2)


class Wrong(dict[bytes, int]):
    def __missing__(self, word: bytes) -> int:
        raise KeyError(word)


@both
def test_errors_of_words_come_through(lane: str) -> None:
    with pytest.raises(KeyError):
        LANES[lane][0](b"0 1 zero", 0, 0, Wrong(), *empty(1))


@pytest.mark.native
def test_columns_of_another_kind_are_refused() -> None:
    scan, check, lines = LANES["native"]
    begins, lengths, starts, kinds = empty(2)
    with pytest.raises(TypeError, match="kinds: not 4 bytes"):
        scan(b"0 1 zero", 0, 0, Kinds(), begins, lengths, starts, begins)
    with pytest.raises(TypeError, match="begins: not 8 bytes"):
        check(kinds, lengths, starts, kinds, begins, 0, 2, 0)
    with pytest.raises(TypeError, match="limits: not 8 bytes"):
        check(begins, lengths, starts, kinds, kinds, 0, 2, 0)
    with pytest.raises(TypeError, match="entries of another size"):
        lines(begins, kinds, kinds, [b"zero "], 0, 2)
    with pytest.raises(BufferError):
        scan(b"0 1 zero", 0, 0, Kinds(), bytes(begins), lengths, starts, kinds)
    with pytest.raises(ValueError, match="negative"):
        scan(b"0 1 zero", -1, 0, Kinds(), begins, lengths, starts, kinds)
    with pytest.raises(TypeError, match="takes 8 arguments"):
        scan(b"0 1 zero")
    # no row beyond the shortest column is read or written
    assert check(begins, lengths, starts, kinds, begins, 2, 99, 0) == (2, 0)
    assert lines(begins, starts, kinds, [b"zero "], 0, 99)[1] <= 1


def chosen(choice: str) -> subprocess.CompletedProcess[str]:
    code = "from dmtool.table.columns import COLUMNS, scan; print(COLUMNS, scan.__module__)"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DMTOOL_COLUMNS": choice},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_chooses() -> None:
    assert chosen("python").stdout.split() == ["python", "dmtool.table.columns"]
    assert "DMTOOL_COLUMNS=fast: neither native nor python" in chosen("fast").stderr


@pytest.mark.native
def test_c_is_the_default() -> None:
    assert chosen("").stdout.split() == ["native", "dmtool._table"]
    assert chosen("native").stdout.split() == ["native", "dmtool._table"]
