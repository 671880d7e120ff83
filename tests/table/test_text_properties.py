# SPDX-License-Identifier: Apache-2.0
"""What holds of every table's text: the two lanes agree, dmsetup agrees, words come back."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dmtool.errors import TableError, Where
from dmtool.table import text as module
from dmtool.table.text import Line, escape, parse
from tests.table.texts import ANY_LINE, PIECES, said, untimed


def places(line: Line) -> tuple[Any, ...]:
    columns = (line.start_column, line.length_column, line.type_column)
    return (*columns, line.words, line.args, line.where, line.hint)


@untimed
@given(ANY_LINE)
@example("0 8 zero")
@example("\t0 8 linear /dev/a 0 \r")
@example("0 8 zero\v\fa")
@example("1 1 zero a\x85b")
def test_both_lanes_agree_on_every_line(raw: str) -> None:
    plain = module.plain(raw, "f", 7)
    judged = module._judged(raw, "f", 7)
    if plain is not None:
        assert isinstance(judged, Line)
        assert plain == judged
        assert (plain.start, plain.length, plain.type) == (judged.start, judged.length, judged.type)
        assert places(plain) == places(judged)
    assert module._blank(raw) == (judged is None)


@untimed
@given(ANY_LINE)
def test_errors_and_words_are_placed_within_their_line(raw: str) -> None:
    for entry in parse(raw, "f"):
        if isinstance(entry, TableError):
            assert entry.where == Where("f", 1, entry.where.column, raw)
            assert 1 <= entry.where.column <= len(raw) + 1
            assert entry.cause
            assert "\x1b" not in entry.cause + (entry.hint or "")
        else:
            assert entry.where == Where("f", 1, entry.start_column, raw)
            places(entry)
            for word in entry.words:
                column = word.column - 1
                assert raw[column] == (word.text[0] if raw[column] != "\\" else "\\")


@untimed
@given(st.binary() | st.text(st.characters()) | PIECES)
@example("0 8 \ud800")
def test_nothing_crashes_the_parser(text: bytes | str) -> None:
    entries = parse(text, "f")
    numbers = [e.number if isinstance(e, Line) else e.where.line for e in entries]
    assert numbers == sorted(numbers)


@untimed
@given(st.lists(ANY_LINE, max_size=5))
def test_lines_are_read_alike_alone_and_together(raws: list[str]) -> None:
    entries: list[Line | TableError] = []
    for number, raw in enumerate(raws, 1):
        entry = module._judged(raw, "f", number)
        if isinstance(entry, module._Bracket):
            return
        if entry is not None:
            entries.append(entry)
    together = parse("\n".join(raws), "f")
    assert list(map(said, together)) == list(map(said, entries))


def dmsetup(raw: bytes) -> list[Any] | str | None:
    """lvm2's _parse_line and the kernel's splitting, for a line without a backslash."""
    libc = ctypes.CDLL(None)
    raw = raw.partition(b"\0")[0].strip(b" \t\v\f\r")
    if not raw or raw.startswith(b"#"):
        return None
    start, length, behind = ctypes.c_ulonglong(), ctypes.c_ulonglong(), ctypes.c_int()
    type = ctypes.create_string_buffer(4097)
    into = [ctypes.byref(start), ctypes.byref(length), type, ctypes.byref(behind)]
    if libc.sscanf(raw, b"%llu %llu %4096s %n", *into) < 3:
        return "syntax"
    if len(type.value) > 15:
        return "too long"
    words = raw[behind.value :].partition(b"#")[0].split()
    return [start.value, length.value, type.value, *words]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's sscanf is dmsetup's")
@untimed
@given(ANY_LINE.filter(lambda raw: "\\" not in raw))
@example("0-0zero")
@example("0+5+5")
@example("0 8 # c")
def test_lines_are_read_as_dmsetup_reads_them(raw: str) -> None:
    entries = parse(raw, "f")
    if isinstance(module._judged(raw, "f", 1), module._Bracket):
        return
    known = dmsetup(raw.encode("utf-8", "surrogateescape"))
    if known is None:
        assert entries == []
        return
    [entry] = entries
    if isinstance(entry, Line):
        words = [word.encode("utf-8", "surrogateescape") for word in (entry.type, *entry.args)]
        assert [entry.start, entry.length, *words] == known
    elif entry.syntax:
        assert known == "syntax"
    elif entry.too_long:
        assert known == "too long"
    else:
        assert isinstance(known, list)


# What a file's path may be: anything but a newline, which ends a line whatever stands before it.
NAME = st.text(
    st.characters(exclude_characters="\n\0", exclude_categories=["Cs"])
    | st.sampled_from(" \t\v\f\r\\#\udcff"),
    min_size=1,
    max_size=12,
)


@untimed
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["zero", "thin-pool", "a" * 15]),
    st.lists(NAME, max_size=5),
    st.sampled_from(["", " ", "\r", " # a comment", "#"]),
)
def test_what_is_escaped_is_read_again(
    start: int, length: int, type: str, words: list[str], tail: str
) -> None:
    raw = " ".join([str(start), str(length), type, *map(escape, words)])
    [line] = parse(raw + (tail if words else ""), "f")
    assert isinstance(line, Line)
    assert (line.start, line.length, line.type) == (start, length, type)
    assert line.args == tuple(words)
