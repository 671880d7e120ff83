# SPDX-License-Identifier: Apache-2.0
"""Markdown into manual pages, piece by piece."""

from __future__ import annotations

import pytest

from dmtool.cli.manual import roff
from dmtool.cli.manual.markdown import cells, inline, items, parts, rendered


def page(text: str) -> list[str]:
    """What becomes of a text without headings."""
    return rendered(text.strip("\n").split("\n"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("a `--long name` b", "a \\fB\\-\\-long name\\fR b"),
        ("``a ` b``", "\\fBa \\(ga b\\fR"),
        ("**very `bold` this**", "\\fBvery bold this\\fR"),
        ("*leaning*, 2 * 3 * 4", "\\fIleaning\\fR, 2 * 3 * 4"),
        ("[words](docs/a.md)", "words"),
        ("[words](https://a.b/c)", "words <https://a.b/c>"),
        ("a\\|b \\*c\\* \\x", "a|b *c* \\ex"),
        ("`back\\slash` and 'quotes'", "\\fBback\\eslash\\fR and \\(aqquotes\\(aq"),
        ("àé…", "\\[u00E0]\\[u00E9]..."),
        ("#.-~^", "#.\\-\\(ti\\(ha"),
    ],
)
def test_in_a_line(text: str, wanted: str) -> None:
    assert inline(text) == wanted


def test_paragraphs_are_filled() -> None:
    assert page("one\ntwo\n\nthree") == [".PP", "one two", ".PP", "three"]


def test_nothing_becomes_a_request() -> None:
    assert page(".so evil\n'quoted") == [".PP", "\\&.so evil \\(aqquoted"]
    assert page("    .so evil") == [".IP", ".EX", "\\&.so evil", ".EE"]
    assert page("- .so evil")[1:] == ["\\&.so evil"]
    assert page("| .a | .b |\n|---|---|\n| .c | .d |") == [".TP", "\\&.c", "\\&.d"]


def test_code() -> None:
    wanted = [".IP", ".EX", "$ a", "", "  b", ".EE"]
    assert page("```console\n$ a\n\n  b\n```") == wanted
    assert page("    $ a\n\n      b") == wanted
    assert page("text\n```\n# no heading\n```\nmore")[2:] == [
        ".IP", ".EX", "# no heading", ".EE", ".PP", "more"
    ]  # fmt: skip


def test_lists() -> None:
    assert items(["- a", "  b", "- c"]) == ["a b", "c"]
    assert page("- a\n  b\n- c") == [".IP \\(bu 2", "a b", ".IP \\(bu 2", "c"]
    assert page("1. a\n2. b")[1::2] == ["a", "b"]


def test_tables() -> None:
    assert cells("| a | `b \\| c` |") == ["a", "`b | c`"]
    assert page("| x | |\n|---|---|\n| a | b |\n| c | |") == [
        ".TP", "a", "b", ".TP", "c", "\\&"
    ]  # fmt: skip
    assert page("| x | y | z |\n|:--|---|--:|\n| a | b | c |\n| d | | e |") == [
        ".TP", "a", "y: b", ".br", "z: c", ".TP", "d", "z: e"
    ]  # fmt: skip


def test_headings() -> None:
    found = parts("<!-- SPDX -->\n# A b\n\ntext\n\n```\n# code\n```\n\n## C\n")
    assert [(part.level, part.title) for part in found] == [(1, "A b"), (2, "C")]
    assert found[0].lines[-3:-1] == ["# code", "```"]


def test_syntax() -> None:
    assert roff.syntax("[-f|--force] <device>...") == (
        "[\\fB\\-f\\fR|\\fB\\-\\-force\\fR] \\fIdevice\\fR...\\&"
    )
    assert roff.syntax("--readahead {[+]<sectors>|auto}") == (
        "\\fB\\-\\-readahead\\fR {[\\fB+\\fR]\\fIsectors\\fR|\\fBauto\\fR}"
    )
    assert roff.syntax("mirror <log type> <#log args>") == (
        "\\fBmirror\\fR \\fIlog type\\fR \\fI#log args\\fR"
    )


def test_a_section_has_no_paragraph_before_its_first() -> None:
    text = roff.page("a", 1, "2026-11-22", "a 1", "", [*roff.section("x"), *page("y")])
    assert text.endswith("\n.SH X\ny\n")
