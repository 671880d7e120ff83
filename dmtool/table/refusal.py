# SPDX-License-Identifier: Apache-2.0
"""Why a line of a table is not one: the grammar's refusals in a user's words.

What is wrong and where comes from the grammar (what it expected at which column); only the
hints are guesses, at what people are known to write.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dmtool.errors import TableError, Where

if TYPE_CHECKING:
    from lark import UnexpectedInput

# isspace() of C, less the newline. Python's own idea of white space is wider.
WHITE = " \t\v\f\r"

_WORD = re.compile(r"[^ \t\v\f\r]+")
_FORM = "a line is <start> <length> <type> [<argument>...]"


def refused(error: UnexpectedInput, raw: str, source: str, number: int) -> TableError:
    """The grammar's "no" in words: what it expected, what is there, and at which column."""
    from lark import UnexpectedCharacters, UnexpectedToken

    expected: set[str] = set()
    if isinstance(error, UnexpectedToken):
        expected = error.expected
    elif isinstance(error, UnexpectedCharacters):
        expected = error.allowed
    content = raw.partition("\0")[0].rstrip(WHITE)
    # lark places the end of a line at the last token before it
    ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    column = len(content) + 1 if ended else min(error.column, len(content) + 1)
    where = Where(source, number, column, raw)
    word = _WORD.match(content, column - 1)
    found = word[0] if word else ""
    if "BEGIN" in expected:
        cause = f"expected a start sector (a decimal number), found {shown(found)}"
        return invalid(where, cause, _start_hint(found))
    if "NUMBER" in expected:
        if not found or found[0] == "#":
            return invalid(where, "missing length", _FORM)
        cause = f"expected a length (a decimal number), found {shown(found)}"
        return invalid(where, cause, _length_hint(content[: column - 1], found))
    if "TYPE" in expected:
        return invalid(where, "missing target type", _FORM)
    if found == "\\":
        return invalid(
            where,
            "nothing follows the backslash",
            "a backslash itself is written \\\\; a line cannot be continued on the next",
        )
    bracket = content.split(maxsplit=1)[0]
    return invalid(where, f"expected nothing after {bracket}, found {shown(found)}")


def _start_hint(found: str) -> str:
    if found.startswith("\ufeff"):
        return "the table begins with a byte order mark: save it as UTF-8 without one"
    if found.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        return "the table is UTF-16: save it as UTF-8"
    if found.startswith((";", "//")):
        return "comments begin with '#'"
    if found.startswith(("'", '"')):
        return "numbers are written without quotes"
    if found.endswith(":"):
        return f"leave out {shown(found)}: a table's lines do not name the device"
    return _FORM


def _length_hint(before: str, found: str) -> str:
    if found.startswith(("'", '"')):
        return "numbers are written without quotes"
    if before[-1] in WHITE:
        return _FORM
    start = before.lstrip(WHITE)
    if start == "0" and found[0] in "xX":
        return "numbers are decimal"
    if found[0] == ":":
        return f"leave out the colon after {cut(start)}"
    if found[0] == "." or found[0].isalpha():
        return "numbers are whole, decimal, and in sectors of 512 bytes, without a unit"
    return "fields are separated by white space"


def invalid(where: Where, cause: str, hint: str | None = None) -> TableError:
    """What dmsetup calls an invalid format."""
    return TableError("Invalid format", where, cause=cause, hint=hint, syntax=True)


def cut(text: str) -> str:
    """Text from a table, short enough for one line of a message."""
    return text if len(text) <= 40 else f"{text[:37]}..."


def shown(text: str) -> str:
    """The same in quotes, with nothing in it that a terminal would act on."""
    return repr(cut(text))
