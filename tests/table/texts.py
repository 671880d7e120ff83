# SPDX-License-Identifier: Apache-2.0
"""Lines for tests of tables' texts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from dmtool.errors import TableError
from dmtool.table.text import Line

# The first line that lark reads has it read its grammar, and the machine may have much to do.
untimed = settings(deadline=None)

# Lines made of what lines are made of, and of what is nearly that.
SPACE = st.text(" \t", min_size=1, max_size=3)
ODD_SPACE = st.sampled_from(
    [" ", "\t", "\v", "\f", "\r", "\x1c", "\x85", "\xa0", "\u2003", "", "  "]
)
NUMBER = st.integers(0, 2**64 + 1).map(str)
ODD_NUMBER = st.sampled_from(
    ["٣", "²", "9" * 19, "9" * 20, "0" * 30 + "8", *"-0 +5 -5 007 0x10 8: 1, 5x 1.5 + -".split()]
)
TYPE = st.sampled_from(
    ["a" * 15, "a" * 16, "é" * 8, *"zero linear io_error thin-pool z\\ero zero#x # begin".split()]
)
WORD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
ODD_WORD = st.text(st.sampled_from("a0/\\#\0 é\udcff\x85\x1f\r\v"), max_size=6)
PLAIN_LINE = st.tuples(
    NUMBER,
    SPACE,
    NUMBER,
    SPACE,
    TYPE,
    st.lists(st.tuples(SPACE, WORD).map("".join), max_size=4).map("".join),
).map("".join)
PIECES = st.lists(
    st.one_of(
        SPACE,
        ODD_SPACE,
        NUMBER,
        ODD_NUMBER,
        TYPE,
        WORD,
        ODD_WORD,
        st.sampled_from(["begin", "end", "\ufeff", "# c", ";"]),
    ),
    max_size=9,
).map("".join)
ODD_LINE = st.tuples(
    ODD_SPACE,
    NUMBER | ODD_NUMBER,
    ODD_SPACE,
    NUMBER | ODD_NUMBER,
    ODD_SPACE,
    TYPE | ODD_WORD,
    st.lists(st.tuples(ODD_SPACE, WORD | ODD_WORD).map("".join), max_size=4).map("".join),
    ODD_SPACE,
).map("".join)
ANY_LINE = st.one_of(
    PLAIN_LINE,
    ODD_LINE,
    PIECES,
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])),
)


def said(entry: Line | TableError) -> object:
    return entry if isinstance(entry, Line) else entry.as_dict()
