# SPDX-License-Identifier: Apache-2.0
"""The text of a mapping table, read as lines; ``escape`` is the way back for a word.

A line is ``<start> <length> <type> [<argument>...]``, start and length in sectors. The
definition is ``grammar/table.lark``; docs/table-format.md says it in words, with where it
departs from dmsetup (lvm2, ``tools/dmsetup.c``, ``_parse_line``) and from the kernel
(``drivers/md/dm-table.c``, ``dm_split_args``). What a type or its arguments mean is none of
this module's business; nor are gaps, overlaps and sizes.

lark reads some 30,000 lines/s, and tables of a million lines exist. So a line that is plain
goes through one regular expression instead, and lark is not even imported for a table that
has no other lines. ``plain`` may say "not mine" to any line, but what it accepts it must
read as ``_judged`` does: a test holds the two to that.

All functions may be called from any thread; a Line may be read by any thread.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from sys import intern
from typing import TYPE_CHECKING, NamedTuple

from dmtool import sectors
from dmtool.errors import TableError, TableErrors, Where
from dmtool.names import escape
from dmtool.table.refusal import WHITE, cut, invalid, refused, shown

if TYPE_CHECKING:
    from lark import Lark

__all__ = ["LONGEST_TYPE", "MOST_ERRORS", "Line", "Word", "escape", "parse", "parse_or_raise"]

# Where a binary file was given as a table every line is wrong, and the first few say so.
MOST_ERRORS = 100
# DM_MAX_TYPE_NAME (linux/dm-ioctl.h) counts the terminating NUL.
LONGEST_TYPE = 15

_PLAIN = re.compile(
    r"[ \t]*([0-9]{1,19})[ \t]+([0-9]{1,19})[ \t]+([!\"$-\[\]-~]{1,15})"
    r"(?:[ \t\v\f\r][^#\\\0]*)?"
)
_PLAIN_WORD = re.compile(r"[^ \t\v\f\r]+")
_BYTE = re.compile("[\udc80-\udcff]")
_QUOTED = re.compile(r"\\(.)", re.DOTALL)


class Word(NamedTuple):
    """One argument of a target: its text, unescaped, and its 1-based column in the line."""

    text: str
    column: int


class Line:
    """One line of a table that names a target. Immutable by convention.

    ``start`` and ``length`` are in sectors, each within 64 bits (their sum may not be);
    ``type`` has at most 15 bytes; ``source``, ``number`` (1-based) and ``text`` (without its
    newline) are the line's place. ``args`` are the arguments' texts. Columns, and so
    ``words`` and ``where``, of a plain line are worked out when asked for: a table of a
    million lines needs them for the one that is wrong.
    """

    __slots__ = (
        "_after",
        "_columns",
        "_words",
        "length",
        "number",
        "source",
        "start",
        "text",
        "type",
    )

    def __init__(
        self,
        start: int,
        length: int,
        type: str,
        source: str,
        number: int,
        text: str,
        after: int,
        columns: tuple[int, int, int] | None = None,
        words: tuple[Word, ...] | None = None,
    ) -> None:
        """``after`` is the 0-based offset behind the type; no ``columns``, no ``words``: plain."""
        self.start = start
        self.length = length
        self.type = type
        self.source = source
        self.number = number
        self.text = text
        self._after = after
        self._columns = columns
        self._words = words

    @property
    def args(self) -> tuple[str, ...]:
        """The arguments' texts, unescaped: ``words`` without the columns, and quicker."""
        if self._words is None:
            return tuple(_PLAIN_WORD.findall(self.text, self._after))
        return tuple(word.text for word in self._words)

    @property
    def words(self) -> tuple[Word, ...]:
        """The arguments, each with its column."""
        if self._words is None:
            self._words = tuple(
                Word(found[0], found.start() + 1)
                for found in _PLAIN_WORD.finditer(self.text, self._after)
            )
        return self._words

    @property
    def start_column(self) -> int:
        """1-based column of the start sector, which is the line's first."""
        return self._field_columns()[0]

    @property
    def length_column(self) -> int:
        """1-based column of the length."""
        return self._field_columns()[1]

    @property
    def type_column(self) -> int:
        """1-based column of the target type."""
        return self._field_columns()[2]

    def _field_columns(self) -> tuple[int, int, int]:
        if self._columns is None:
            fields = _PLAIN.fullmatch(self.text)
            assert fields is not None, "a line without columns is a plain one"
            self._columns = (fields.start(1) + 1, fields.start(2) + 1, fields.start(3) + 1)
        return self._columns

    @property
    def where(self) -> Where:
        """The line's place, at its first field."""
        return self.at(self.start_column)

    def at(self, column: int) -> Where:
        """A place in this line, by its 1-based column."""
        return Where(self.source, self.number, column, self.text)

    @property
    def hint(self) -> str | None:
        """What to try where this line's length or type turns out to be wrong, or None.

        ``0 0x10 zero`` is a good line to dmsetup, with length 0 and type ``x10``.
        """
        if self.type[0] == "#":
            return "the target type is missing: a comment can only follow it"
        if self.text[self.type_column - 2] in WHITE:
            return None
        digits = self.text[self.length_column - 1 : self.type_column - 1]
        if digits.lstrip("+-") == "0" and self.type[0] in "xX":
            return f"numbers are decimal: {shown(digits + self.type)} is length 0 and a type"
        return f"put white space between the length {shown(digits)} and the target type"

    def _key(self) -> tuple[object, ...]:
        fields = (self.start, self.length, self.type, self.source, self.number, self.text)
        return (*fields, self._field_columns(), self.words)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Line) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.source, self.number, self.text))

    def __repr__(self) -> str:
        return f"<Line {self.source}:{self.number} {self.start} {self.length} {self.type}>"


class _Bracket(NamedTuple):
    """A ``begin`` or ``end`` line of the 2001 form."""

    word: str
    where: Where


def parse(
    text: str | bytes, source: str, *, most_errors: int = MOST_ERRORS
) -> list[Line | TableError]:
    """The table's lines in order, with an error in the place of each bad one. Raises nothing.

    Empty lines, comments and the brackets ``begin`` and ``end`` leave no entry. Bytes are
    UTF-8; what is not becomes surrogates (``surrogateescape``), as in Python's paths.
    ``source`` is what the table is called in places. Reading stops at the ``most_errors``-th
    error, and at the first text after ``end``.

    Errors that dmsetup itself finds have ``syntax`` or ``too_long`` set; it finds them all
    before the kernel is asked about any line.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    entries: list[Line | TableError] = []
    reader = Reader(source, most_errors)
    begun = 0
    for number, raw in enumerate(text.split("\n"), 1):
        entry: Line | TableError | None = None
        if not reader.ended:
            entry = plain(raw, source, number)
        if entry is None:
            if reader.begin is None:
                begun = len(entries)
            entry = reader.take(raw, number, first=not entries)
        if entry is not None:
            entries.append(entry)
        if reader.done:
            return entries
    if reader.unclosed is not None:
        entries.insert(begun, reader.unclosed)
    return entries


class Reader:
    """Reads the lines of a table that are not plain, one after the other; ``plain`` reads the
    others, up to where ``ended`` is set.

    ``begin`` is the place of the bracket that was read, ``done`` set when nothing more is to be
    read: the text behind ``end``, or too many errors.

    Threads: one.
    """

    def __init__(self, source: str, most_errors: int = MOST_ERRORS) -> None:
        self.begin: Where | None = None
        self.ended = False
        self.done = False
        self._source = source
        self._errors_left = most_errors

    def take(self, raw: str, number: int, *, first: bool) -> Line | TableError | None:
        """One line; None where it leaves no entry. ``first``: there was no entry before it."""
        if _blank(raw):
            return None
        if self.ended:
            self.done = True
            column = len(raw) - len(raw.lstrip(WHITE)) + 1
            return invalid(Where(self._source, number, column, raw), "text after end")
        judged = _judged(raw, self._source, number)
        if isinstance(judged, _Bracket):
            judged = self._bracket(judged, first)
        if isinstance(judged, TableError):
            self._errors_left -= 1
            self.done = self._errors_left <= 0
        return judged

    @property
    def unclosed(self) -> TableError | None:
        """What is wrong once all lines have been read; its place is that of ``begin``."""
        if self.begin is None or self.ended:
            return None
        return invalid(self.begin, "begin without end")

    def _bracket(self, bracket: _Bracket, first: bool) -> TableError | None:
        """Take a bracket in, or say why it cannot stand where it does."""
        begun = self.begin is not None
        if bracket.word == "end":
            self.ended = begun
            return None if begun else invalid(bracket.where, "end without begin")
        if begun:
            return invalid(bracket.where, "a second begin")
        self.begin = bracket.where
        if not first:
            return invalid(bracket.where, "begin must come before the table's first line")
        return None


def parse_or_raise(text: str | bytes, source: str) -> list[Line]:
    """The table's lines in order. Raises TableErrors with everything that ``parse`` finds."""
    lines: list[Line] = []
    errors: list[TableError] = []
    for entry in parse(text, source):
        if isinstance(entry, TableError):
            errors.append(entry)
        else:
            lines.append(entry)
    if errors:
        raise TableErrors(errors)
    return lines


def plain(raw: str, source: str, number: int) -> Line | None:
    """The fast lane: a line of plain fields and arguments, or None for every other."""
    fields = _PLAIN.fullmatch(raw)
    if fields is None:
        return None
    start, length, type = fields.groups()
    return Line(int(start), int(length), intern(type), source, number, raw, fields.end(3))


def _blank(raw: str) -> bool:
    """A line of nothing, white space, or a comment; a NUL ends it."""
    content = raw.lstrip(WHITE)
    return not content or content[0] in "#\0"


@cache
def _grammar() -> Lark:
    from lark import Lark

    # Lark.open_from_package reports a package that is not there as an undefined rule.
    definition = resources.files("dmtool.grammar").joinpath("table.lark")
    return Lark(definition.read_text(encoding="utf-8"), parser="lalr")


def _judged(raw: str, source: str, number: int) -> Line | TableError | _Bracket | None:
    """One line as the grammar reads it; None for a blank one."""
    from lark import Token, UnexpectedInput

    try:
        tree = _grammar().parse(raw)
    except UnexpectedInput as error:
        return refused(error, raw, source, number)
    tokens = [child for child in tree.children if isinstance(child, Token)]
    columns = [token.column or 1 for token in tokens]
    if tree.data == "blank":
        return None
    if tree.data in ("begin", "end"):
        return _Bracket(tree.data, Where(source, number, columns[0], raw))
    type = str(tokens[2])
    # a surrogate of surrogateescape is one byte; others come only from a str, and are let by
    size = len(_BYTE.sub("?", type).encode("utf-8", "surrogatepass"))
    if size > LONGEST_TYPE:
        return TableError(
            f"Target type name {type} is too long",
            Where(source, number, columns[2], raw),
            cause=f"{size} bytes, where a target type has at most {LONGEST_TYPE}",
            too_long=type,
        )
    numbers = []
    for name, token, column in zip(("start", "length"), tokens[:2], columns[:2], strict=True):
        try:
            numbers.append(_number(token))
        except sectors.SectorOverflow:
            fault = "is negative" if token.startswith("-") else "does not fit 64 bits"
            return TableError(
                "too large device",
                Where(source, number, column, raw),
                cause=f"{name} {cut(token)} {fault}",
            )
    return Line(
        numbers[0],
        numbers[1],
        intern(type),
        source,
        number,
        raw,
        columns[2] - 1 + len(type),
        (columns[0], columns[1], columns[2]),
        tuple(
            Word(_QUOTED.sub(r"\1", token), column)
            for token, column in zip(tokens[3:], columns[3:], strict=True)
        ),
    )


def _number(token: str) -> int:
    """A NUMBER of the grammar. Raises SectorOverflow unless it fits 64 bits unsigned."""
    digits = token.lstrip("+-")
    sign = token[: len(token) - len(digits)]
    return sectors.parse(sign + (digits.lstrip("0") or "0"))
