# SPDX-License-Identifier: Apache-2.0
"""The text of tables: what dmsetup was recorded to read, and errors and their places.

recorded_texts.jsonl holds the tables of the recordings of real kernels (recordings ``table/*``)
with the entries that come of them: ``[line, start, length, type, arguments...]``, or an error.
The entries were made by dmsetup's own steps over libc's sscanf and checked against what
dmsetup and the kernel had said; only those with a backslash in an argument differ on purpose.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dmtool.errors import TableError, TableErrors
from dmtool.table import text as module
from dmtool.table.text import Line, Word, parse, parse_or_raise

RECORDED = [
    json.loads(line)
    for line in Path(__file__).with_name("recorded_texts.jsonl").read_text("utf-8").splitlines()
]


def outline(entry: Line | TableError) -> Any:
    if isinstance(entry, Line):
        return [entry.number, entry.start, entry.length, entry.type, *entry.args]
    if entry.syntax:
        return {"syntax": entry.where.line}
    if entry.too_long:
        return {"too_long": entry.too_long}
    assert str(entry) == "too large device"
    assert entry.cause
    return {"too_large": entry.cause.split()[0], "line": entry.where.line}


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["id"])
def test_recorded_table(case: dict[str, Any]) -> None:
    text = base64.b64decode(case["base64"]) if "base64" in case else case["text"]
    assert [outline(entry) for entry in parse(text, "f")] == case["entries"]
    if isinstance(text, str):
        assert [outline(entry) for entry in parse(text.encode(), "f")] == case["entries"]


def test_every_kind_of_recording_is_there() -> None:
    assert len(RECORDED) == 144
    kinds = {
        next(iter(entry))
        for case in RECORDED
        for entry in case["entries"]
        if entry and isinstance(entry, dict)
    }
    assert kinds == {"syntax", "too_long", "too_large"}


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (r"0 8 linear /dev/my\ dev 0", [("/dev/my dev", 12), ("0", 25)]),
        (r"0 8 linear /a\#b#c 0", [("/a#b", 12)]),
        (r"0 8 linear a\\# 0", [("a\\", 12)]),
        (r"0 8 linear a\\ b", [("a\\", 12), ("b", 16)]),
        ("0 8 linear a\\ ", [("a ", 12)]),
        ("0 8 linear a\\\r", [("a\r", 12)]),
        (r"0 8 linear \a\b", [("ab", 12)]),
        (" 0 8  linear\t/dev/a  0 ", [("/dev/a", 14), ("0", 22)]),
        ("0 8 linear à\xa0b 0", [("à\xa0b", 12), ("0", 16)]),
        ("0 8 linear a\0b 0", [("a", 12)]),
    ],
)
def test_words(raw: str, words: list[tuple[str, int]]) -> None:
    [line] = parse_or_raise(raw, "f")
    assert line.words == tuple(Word(*word) for word in words)


@pytest.mark.parametrize(
    ("raw", "place", "cause", "hint"),
    [
        (
            "linear 0 8",
            "1:1",
            "expected a start sector (a decimal number), found 'linear'",
            "a line is",
        ),
        ("rubbish", "1:1", "found 'rubbish'", "a line is <start> <length> <type>"),
        ("0 8 zero\n  x 8 zero", "2:3", "found 'x'", "a line is"),
        ("; c", "1:1", "found ';'", "comments begin with '#'"),
        ("// c", "1:1", "found '//'", "comments begin with '#'"),
        ('"0" 8 zero', "1:1", "found '\"0\"'", "without quotes"),
        ("t: 0 8 zero", "1:1", "found 't:'", "leave out 't:'"),
        ("\ufeff0 8 zero", "1:1", "found '\\ufeff0'", "byte order mark"),
        ("0 8 zero".encode("utf-16"), "1:1", "found '\\udcff", "UTF-16"),
        (b"\xff\n0 8 zero", "1:1", "found '\\udcff'", "a line is"),
        ("\x1b[2J 8 zero", "1:1", "found '\\x1b[2J'", "a line is"),
        ("x" * 99, "1:1", f"found '{'x' * 37}...'", "a line is"),
        ("- 8 zero", "1:1", "found '-'", "a line is"),
        ("beginning", "1:1", "found 'beginning'", "a line is"),
        ("0", "1:2", "missing length", "a line is"),
        (" 0 \t# c", "1:5", "missing length", "a line is"),
        ("0\0 8 zero", "1:2", "missing length", "a line is"),
        (
            "0x0 8 zero",
            "1:2",
            "expected a length (a decimal number), found 'x0'",
            "numbers are decimal",
        ),
        ("0: 8 zero", "1:2", "found ':'", "leave out the colon after 0"),
        ("0,8 zero", "1:2", "found ',8'", "white space"),
        ("1.5 8 zero", "1:2", "found '.5'", "without a unit"),
        ("8k 8 zero", "1:2", "found 'k'", "without a unit"),
        ('0 "8" linear', "1:3", "found '\"8\"'", "without quotes"),
        ("0 zero", "1:3", "found 'zero'", "a line is"),
        ("0 8", "1:4", "missing target type", "a line is"),
        ("0 8 \r", "1:4", "missing target type", "a line is"),
        ("0 8 zero \\", "1:10", "nothing follows the backslash", "cannot be continued"),
        ("0 8 linear a\\\n0", "1:13", "nothing follows the backslash", "cannot be continued"),
        ("0 8 linear a\\\0 0", "1:13", "nothing follows the backslash", "cannot be continued"),
        ("begin 0 8 zero", "1:7", "expected nothing after begin, found '0'", None),
    ],
)
def test_invalid_format(raw: str | bytes, place: str, cause: str, hint: str | None) -> None:
    errors = [entry for entry in parse(raw, "pool.table") if isinstance(entry, TableError)]
    error = errors[0]
    assert (str(error), error.syntax, error.too_long) == ("Invalid format", True, None)
    assert str(error.where) == f"pool.table:{place}"
    assert error.cause
    assert cause in error.cause
    assert (hint in error.hint) if hint and error.hint else hint is error.hint


@pytest.mark.parametrize(
    ("raw", "column", "cause"),
    [
        ("0 -5 zero", 3, "length -5 is negative"),
        ("-8 -5 zero", 1, "start -8 is negative"),
        ("18446744073709551616 8 zero", 1, "start 18446744073709551616 does not fit 64 bits"),
        ("0 " + "1" * 5000 + " zero", 3, f"length {'1' * 37}... does not fit 64 bits"),
    ],
)
def test_numbers_out_of_range(raw: str, column: int, cause: str) -> None:
    [error] = parse(raw, "f")
    assert isinstance(error, TableError)
    assert (str(error), error.syntax, error.type) == ("too large device", False, "")
    assert (error.where.column, error.cause) == (column, cause)


def test_numbers_at_the_edges() -> None:
    for written, number in [("-0", 0), ("+18446744073709551615", 2**64 - 1), ("0" * 6000 + "8", 8)]:
        [line] = parse_or_raise(f"{written} {written} zero", "f")
        assert (line.start, line.length) == (number, number)


def test_a_type_is_counted_in_bytes() -> None:
    [error] = parse("0 -8 " + "é" * 8, "f")
    assert isinstance(error, TableError)
    assert (error.too_long, error.where.column) == ("é" * 8, 6)
    assert str(error) == f"Target type name {'é' * 8} is too long"
    [line] = parse(b"0 8 " + b"\xff" * 15, "f")
    assert isinstance(line, Line)


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        ("0 8 zero", None),
        ("0 0x10 zero", "numbers are decimal: '0x10' is length 0 and a type"),
        ("0 8s zero", "put white space between the length '8' and the target type"),
        ("0 8 # zero", "the target type is missing: a comment can only follow it"),
    ],
)
def test_hints_of_good_lines(raw: str, hint: str | None) -> None:
    [line] = parse_or_raise(raw, "f")
    assert line.hint == hint


@pytest.mark.parametrize(
    ("text", "numbers", "errors"),
    [
        ("begin\n0 8 zero\nend\n", [2], []),
        ("# c\n\n begin \r\n0 8 zero\n\tend # c\n\n# c\n", [4], []),
        ("begin\nend", [], []),
        ("0 8 zero\nbegin\nend", [1], ["2:1 begin must come before the table's first line"]),
        ("begin\n0 8 zero\n begin\nend", [2], ["3:2 a second begin"]),
        ("0 8 zero\n end", [1], ["2:2 end without begin"]),
        ("#\n begin\n0 8 zero\n", [3], ["2:2 begin without end"]),
        ("begin\nend\n\n  0 8 zero\n8 8 zero", [], ["4:3 text after end"]),
        ("begin\n0 8\nend", [], ["2:4 missing target type"]),
        ("0 8 begin", [1], []),
    ],
)
def test_begin_and_end(text: str, numbers: list[int], errors: list[str]) -> None:
    entries = parse(text, "f")
    assert [entry.number for entry in entries if isinstance(entry, Line)] == numbers
    assert errors == [
        f"{entry.where.line}:{entry.where.column} {entry.cause}"
        for entry in entries
        if isinstance(entry, TableError) and entry.syntax
    ]


def test_errors_stand_among_the_lines_and_stop_somewhere() -> None:
    entries = parse("0 8 zero\nx\n8 8 error\n0 -1 zero\ny", "f")
    assert [isinstance(entry, Line) for entry in entries] == [True, False, True, False, False]
    assert len(parse("x\n" * 1000, "f")) == module.MOST_ERRORS
    assert len(parse("x\n0 8 zero\n" * 9, "f", most_errors=2)) == 3


def test_all_errors_are_raised_at_once() -> None:
    with pytest.raises(TableErrors) as caught:
        parse_or_raise("0 8 zero\nx\n0 -1 zero", "f")
    assert [error.where.line for error in caught.value.errors] == [2, 3]


def test_lines_compare_by_what_they_say_and_where() -> None:
    [one], [same], [other] = (
        parse_or_raise(text, "f") for text in ["0 8 zero", "0 8 zero", "0  8 zero"]
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "0 8 zero"
    assert repr(one) == "<Line f:1 0 8 zero>"


def test_the_grammar_is_not_loaded_for_plain_tables() -> None:
    module._grammar.cache_clear()
    parse_or_raise("# c\n\n0 8 linear /dev/a 0\r\n  8 8\tzero \n", "f")
    assert module._grammar.cache_info().misses == 0
    parse_or_raise(r"0 8 linear /my\ dev 0", "f")
    assert module._grammar.cache_info().misses == 1
