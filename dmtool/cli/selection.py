# SPDX-License-Identifier: Apache-2.0
"""Selections, ``-S``: which rows a report has, or which devices a command is run on.

The language is grammar/selection.lark. Everything that depends on columns is here, and so are the
errors, whose texts and order are libdm's: it reads from left to right, works out each comparison
before it looks at what follows, and stops at the first thing that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import resources
from math import isinf
from sys import float_info
from typing import Any

from lark import Lark, Token, Tree, UnexpectedInput, UnexpectedToken

from dmtool.cli.columns import HELP, NUMBER, SIZE, STRING, Column, Value
from dmtool.cli.fields import Field, FieldError, Fields, field_help
from dmtool.cli.regex import Regex, RegexError
from dmtool.cli.selection_help import selection_help
from dmtool.cli.sizes import Units
from dmtool.sectors import SECTOR

HELP_WORDS = frozenset({"help", "?"})
# A selection of every row.
ALL = "all"

_MEBIBYTE = 1 << 20  # the unit of a size that has none
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]*")
_WHITE = " \t\n\v\f\r"
_TYPES = {NUMBER: "numeric", SIZE: "size"}

Values = Mapping[Field, Value]
Test = Callable[[Value], bool]


class SelectionError(Exception):
    """A selection cannot be read; the arguments are the lines to print."""


class Selection:
    """One selection. Adds the columns that it compares to ``fields``. Raises SelectionError.

    ``warnings`` are lines to print.
    """

    def __init__(self, text: str, fields: Fields) -> None:
        self.warnings: list[str] = []
        self._nodes: list[Tree[Token]] = []
        self._tests: dict[int, tuple[Field, Test]] = {}
        if text.lower() == ALL:
            return
        reader = _Reader(text, fields)
        try:
            tree = reader.read()
        except SelectionError as error:
            raise SelectionError(*reader.warnings, *error.args) from None
        self.warnings = reader.warnings
        # from the leaves up
        self._nodes = list(tree.iter_subtrees())
        for comparison, test in zip(_comparisons(tree), reader.tests, strict=True):
            self._tests[id(comparison)] = test

    def selects(self, values: Values) -> bool:
        """Whether a row with these values is selected."""
        known: dict[int, bool] = {}
        result = True
        for node in self._nodes:
            if node.data == "comparison":
                field, test = self._tests[id(node)]
                result = test(values[field])
            else:
                below = [known[id(child)] for child in node.children if isinstance(child, Tree)]
                result = {
                    "start": all,
                    "negation": lambda answers: not all(answers),
                    "all_of": all,
                    "any_of": any,
                }[node.data](below)
            known[id(node)] = result
        return result


def _comparisons(tree: Tree[Token]) -> Iterator[Tree[Token]]:
    """The comparisons of a selection from left to right; however deep, without recursion."""
    left: list[Any] = [tree]
    while left:
        node = left.pop()
        if isinstance(node, Tree):
            if node.data == "comparison":
                yield node
            else:
                left += reversed(node.children)


@cache
def _grammar() -> Lark:
    definition = resources.files("dmtool.grammar").joinpath("selection.lark")
    return Lark(definition.read_text(encoding="utf-8"), parser="lalr")


class _Reader:
    """Reads one selection, token by token.

    ``tests`` has its comparisons, from left to right, ``warnings`` lines to print.
    """

    def __init__(self, text: str, fields: Fields) -> None:
        self._text = text
        self._fields = fields
        self.tests: list[tuple[Field, Test]] = []
        self.warnings: list[str] = []
        self._last: Token | None = None
        self._open: list[bool] = []  # brackets that are open: whether "!" stands before each
        # The comparison that is being read: where it starts, its column and operator.
        self._start = 0
        self._column: Column | None = None
        self._operator: Token | None = None

    def read(self) -> Tree[Token]:
        """The tree of the whole selection. Raises SelectionError."""
        parser = _grammar().parse_interactive(self._text)
        try:
            for token in parser.iter_parse():
                self._token(token)
                self._last = token
            self._finish(None)
            tree: Tree[Token] = parser.feed_eof()  # type: ignore[no-untyped-call]  # lark's own
        except UnexpectedInput as error:
            ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
            place = None if ended else error.pos_in_stream
            raise self._unexpected(len(self._text) if place is None else place) from None
        return tree

    def _token(self, token: Token) -> None:
        """One token that fits where it stands. Raises SelectionError for what it says."""
        match token.type:
            case "FIELD":
                self._start = _at(token)
                self._column = self._named(token)
            case "EQUAL" | "ORDER" | "TIME" | "MATCH":
                self._operator = token
                self._check_operator()
            case "QUOTED" | "BARE" | "PATTERN" | "BARE_PATTERN":
                self._finish(token)
            case _:
                self._finish(None)
                if token.type == "_LEFT":
                    self._open.append(self._last is not None and self._last.type == "_NOT")
                elif token.type == "_RIGHT" and self._open:
                    self._open.pop()

    def _unexpected(self, place: int) -> SelectionError:
        """The error where something stands at ``place`` that does not fit."""
        last = self._last
        if last is None or last.type in {"_AND", "_OR", "_LEFT"}:
            return self._syntax(place, "Expecting field name")
        if last.type == "_NOT":
            return SelectionError(
                f"Syntax error: left parenthesis expected at '{self._text[_end(last) :]}'"
            )
        if last.type == "FIELD":
            return self._refused(
                f"Unrecognised comparison operator: {self._text[_end(last) :]}", helped=True
            )
        if last is self._operator:
            # nothing but a quotation that does not end
            kind = "regex" if last.type == "MATCH" else "string"
            column = self._column
            assert column is not None
            if kind == "string" and column.type != STRING:
                return self._no_number(column)
            return self._refused(
                "Missing end quote.",
                f"Failed to parse {kind} value for selection field {column.id}.",
            )
        return self._behind_term(place)

    def _behind_term(self, place: int) -> SelectionError:
        """The error where neither an operator nor the bracket that is missing follows a term."""
        last = self._last
        assert last is not None
        if not self._open:
            return self._syntax(place, "Expecting logical operator")
        if self._open[-1] and last.type == "_RIGHT":
            place = _end(last)
        return SelectionError(f"Syntax error: right parenthesis expected at '{self._text[place:]}'")

    def _syntax(self, place: int, *lines: str) -> SelectionError:
        return SelectionError(
            *lines,
            f"Selection syntax error at '{self._text[place:]}'.",
            "Use 'help' for selection to get more help.",
        )

    def _refused(self, *lines: str, helped: bool = False) -> SelectionError:
        """The error in the comparison that is being read."""
        return self._syntax(self._start, *(selection_help() if helped else ()), *lines)

    # -- comparisons -----------------------------------------------------------------------------

    def _named(self, token: Token) -> Column:
        errors: tuple[str, ...] = ()
        column = None
        try:
            column = self._fields.find(token, self._text[_end(token) :])
        except FieldError as error:
            errors = error.args
        shown = (*errors, *field_help(selecting=True), " ")
        if column is None:
            raise self._refused(*shown, f"Unrecognised selection field: {token}")
        if column.id in HELP:
            raise self._refused(*shown, f"Selection field is uncomparable: {token}.")
        return column

    def _check_operator(self) -> None:
        assert self._operator is not None
        assert self._column is not None
        rest = self._text[self._start :]
        if self._operator.type == "TIME":
            raise self._refused(f"Operator can be used only with time fields: {rest}", helped=True)
        if self._operator.type == "ORDER" and self._column.type == STRING:
            raise self._refused(
                f"Operator can be used only with number, size, time or percent fields: {rest}",
                helped=True,
            )

    def _finish(self, token: Token | None) -> None:
        """The comparison that is being read, if there is one, has this value."""
        column, operator = self._column, self._operator
        if column is None or operator is None:
            return
        if operator.type == "MATCH":
            test = self._pattern(column, operator, token)
        elif column.type == STRING:
            test = _equal("" if token is None else _unquoted(token))
        else:
            test = self._number(column, token)
        field = self._fields.require(column)
        if operator.startswith("!"):
            self.tests.append((field, lambda value: not test(value)))
        else:
            self.tests.append((field, test))
        self._column = self._operator = None

    def _pattern(self, column: Column, operator: Token, token: Token | None) -> Test:
        if token is None and not self._text[_end(operator) :].strip(_WHITE):
            raise self._refused(f"Regular expression expected for selection field {column.id}")
        if column.type != STRING:
            raise SelectionError(
                f"dm_report: incompatible comparison type for selection field {column.id}"
            )
        try:
            regex = Regex("" if token is None else _unquoted(token))
        except RegexError as error:
            raise SelectionError(
                *error.args,
                f"dm_report: failed to create regex matcher for selection field {column.id}",
            ) from None
        self.warnings += regex.warnings
        return lambda value: regex.matches(value.text)

    def _number(self, column: Column, token: Token | None) -> Test:
        found = _NUMBER.match(token) if token is not None and token.type == "BARE" else None
        if token is None or not found:
            raise self._no_number(column)
        digits, rest = found[0], token[found.end() :]
        if rest.startswith("%"):
            raise self._refused(
                f"Found percent value but {_TYPES[column.type]} value expected "
                f"for selection field {column.id}."
            )
        factor = _MEBIBYTE
        units = Units.of(rest[:1])
        if units is not None:
            if column.type == NUMBER:
                raise self._refused(
                    "Found size unit specifier but numeric value expected "
                    f"for selection field {column.id}."
                )
            factor = units.factor
            rest = rest[1:]
        assert self._operator is not None
        wanted = _whole(digits) if column.type == NUMBER else _real(digits)
        if wanted is None:
            raise SelectionError(
                f"Field selection value {digits} out of supported range for field {column.id}."
            )
        rest = rest.lstrip(_WHITE)
        if rest:
            self._last = token
            raise self._behind_term(_end(token) - len(rest))
        if column.type == NUMBER:
            return _compared(self._operator, wanted, unsigned=True)
        return _compared(self._operator, wanted * factor / SECTOR, unsigned=False)

    def _no_number(self, column: Column) -> SelectionError:
        return self._refused(f"Failed to parse numeric value for selection field {column.id}.")


def _whole(digits: str) -> int | None:
    """Digits up to a point as an unsigned 64-bit number, None if they do not fit."""
    digits = digits.partition(".")[0].lstrip("0") or "0"
    return None if len(digits) > 20 or int(digits) >= 1 << 64 else int(digits)


def _real(digits: str) -> float | None:
    """The number that digits with a point are, None if it is too large."""
    value = float(digits if digits != "." else 0)
    return None if isinf(value) else value


def _equal(wanted: str) -> Test:
    return lambda value: value.text == wanted


def _compared(operator: str, wanted: float, *, unsigned: bool) -> Test:
    """The test of an operator; ``!=`` is tested as ``=``. Unsigned: -1 is the largest number."""

    def test(value: Value) -> bool:
        given = value.sort
        assert not isinstance(given, str)
        if unsigned and isinstance(given, int):
            given &= (1 << 64) - 1
        same = given == wanted if unsigned else abs(given - wanted) < float_info.epsilon
        match operator[-2:]:
            case "=" | "!=":
                return same
            case ">=":
                return same or given > wanted
            case "<=":
                return same or given < wanted
            case ">":
                return given > wanted and not same
            case _:
                return given < wanted and not same

    return test


def _unquoted(token: Token) -> str:
    return token[1:-1] if token.type in {"QUOTED", "PATTERN"} else str(token)


def _at(token: Token) -> int:
    assert token.start_pos is not None
    return token.start_pos


def _end(token: Token) -> int:
    assert token.end_pos is not None
    return token.end_pos
