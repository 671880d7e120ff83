# SPDX-License-Identifier: Apache-2.0
"""libdm's regular expressions: by its rules, and against Python's where both have the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmtool.cli.regex import Regex, RegexError


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("b", ["b", "abc"], ["", "ac"]),
        ("^b", ["b", "bc"], ["ab"]),
        ("b$", ["b", "ab"], ["bc"]),
        ("^$", [""], ["a"]),
        ("a.c", ["abc", "xa-c"], ["ac", "a\nc"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[c-a]x", ["bx"], ["dx"]),
        ("[^a]x", ["bx", "x"], ["ax"]),  # ^ stands before the text, and [^a] takes it
        ("[-a\\]]", ["]", "-", "a"], ["b", "\\"]),
        ("[]", [], ["", "]"]),
        ("a\\.b", ["a.b"], ["axb"]),
        ("a\\nb", ["a\nb"], ["anb"]),
        ("(ab)*c|ad", ["c", "abc", "ababc", "ad"], ["ab", "a"]),  # libdm finds neither c nor ababc
        ("a)b", ["ab"], ["a", "b"]),  # it closes a bracket that libdm opened
        ("a|b)|c", ["a", "xb"], ["c"]),
        ("x{2}", ["x{2}"], ["xx"]),
        ("\\d", ["d"], ["1"]),
        ("é", ["é", "xé"], ["e"]),
        ("\udcff", ["a\udcff"], ["a"]),
    ],
)
def test_matches(pattern: str, matching: list[str], other: list[str]) -> None:
    regex = Regex(pattern)
    assert [text for text in matching if not regex.matches(text)] == []
    assert [text for text in other if regex.matches(text)] == []


def test_only_the_first_line_is_searched() -> None:
    assert Regex("b").matches("ab\nc")
    assert not Regex("c").matches("ab\nc")


@pytest.mark.parametrize("pattern", ["", "()", "(", "a(", "a\\", "[a", "[a-", "a|", "*", "+a"])
def test_refuses(pattern: str) -> None:
    with pytest.raises(RegexError) as error:
        Regex(pattern)
    assert error.value.args[-2:] == ("Parse error in regex", "Couldn't parse regex")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(RegexError, match="nested too deeply"):
        Regex("(" * 5000 + "a" + ")" * 5000)


def test_no_expression_takes_long() -> None:
    # in an engine that goes back these take 2^100 steps
    assert not Regex("(a|a)*b").matches("a" * 127)
    assert not Regex("(a*)*(a*)*b").matches("a" * 127)
    assert Regex("a?" * 127 + "a" * 127).matches("a" * 127)


ONE = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^b]", "[b-c]"])
PATTERNS = st.recursive(
    ONE,
    lambda inner: st.one_of(
        st.builds(str.__add__, inner, inner),
        st.builds("({}|{})".format, inner, inner),
        st.builds("({}){}".format, inner, st.sampled_from("*+?")),
    ),
    max_leaves=8,
)


@given(st.sampled_from(["", "^"]), PATTERNS, st.sampled_from(["", "$"]), st.text("abc", max_size=8))
def test_agrees_with_python(start: str, pattern: str, end: str, text: str) -> None:
    if "." in pattern or "[^" in pattern:
        # they could take what libdm puts before and behind the text
        start, end, text = f"{start}c", f"c{end}", f"c{text}c"
    found = re.search(f"{start}(?:{pattern}){end}", text)
    assert Regex(f"{start}({pattern}){end}").matches(text) == bool(found)
