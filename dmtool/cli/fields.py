# SPDX-License-Identifier: Apache-2.0
"""Which columns a report has: those it shows, those it sorts by, those it selects by."""

from __future__ import annotations

from typing import NamedTuple

from dmtool.cli import columns
from dmtool.cli.columns import COLUMNS, HELP, SELECTED, SPECIAL_COLUMNS, Column

# A name of more characters than this, underscores not counted, is no column's (libdevmapper.h:
# DM_REPORT_FIELD_TYPE_ID_LEN less the NUL).
NAME_MAX = 31
_KINDS = {prefix: kind for kind, prefix in columns.PREFIXES.items()}


class FieldError(Exception):
    """A column cannot be had; the arguments are the lines to print."""


class Field:
    """One column of one report; a column that is shown twice is two fields."""

    __slots__ = ("column",)

    def __init__(self, column: Column) -> None:
        self.column = column


class Key(NamedTuple):
    """One sort key."""

    field: Field
    descending: bool


class Fields:
    """The fields of one report. Raises FieldError for columns that do not exist.

    ``wanted`` and ``keys`` are the arguments of ``-o`` and ``-O``; ``kinds`` those that the report
    is about. ``shown`` has the fields in order, ``keys`` what rows are sorted by; ``help`` is True
    where a word asked for the list of columns. ``warnings`` are lines to print.
    """

    def __init__(self, wanted: str, keys: str, kinds: frozenset[int] = frozenset()) -> None:
        self.shown: list[Field] = []
        self.keys: list[Key] = []
        self.help = False
        self.warnings: list[str] = []
        self._hidden: list[Field] = []
        # A report about one kind of thing knows its columns by short names too.
        self._prefix = _plain(columns.PREFIXES[min(kinds)]) if len(kinds) == 1 else ""
        # Kinds that ``all`` stands for grow with the columns that are named, behind it too: so
        # libdm reads it all twice.
        self._kinds = set(kinds)
        for counted in (False, True):
            self._choose(wanted, add=counted)
            self._sort(keys, add=counted)

    @property
    def all(self) -> list[Field]:
        """In the order in which libdm works out their values: what is not shown comes first."""
        return [*reversed(self._hidden), *self.shown]

    @property
    def kinds(self) -> set[int]:
        """The kinds of all columns."""
        return {field.column.kind for field in self.all} - {columns.SPECIAL}

    def find(self, name: str, rest: str = "") -> Column | None:
        """The column of that name. ``rest``: what follows the name in the text, for its error.

        Case and underscores do not count. Raises FieldError for a name that is too long.
        """
        plain = name.replace("_", "")
        if len(plain) > NAME_MAX:
            raise FieldError(f"{_behind(name, NAME_MAX)}{rest}: field name too long.")
        wanted = plain.lower()
        for column in (*SPECIAL_COLUMNS, *COLUMNS):
            known = _plain(column.id)
            if wanted in {known, known.removeprefix(self._prefix)} and wanted:
                return column
        return None

    def require(self, column: Column) -> Field:
        """The first field of a column; a hidden one if it is not there yet."""
        for field in self.all:
            if field.column is column:
                return field
        field = Field(column)
        self._hidden.append(field)
        return field

    def _choose(self, wanted: str, *, add: bool) -> None:
        for word, rest in _words(wanted):
            errors: tuple[str, ...] = ()
            found: list[Column] = []
            try:
                column = self.find(word, rest)
            except FieldError as error:
                errors = error.args * 2  # for the second time as the name of a group
            else:
                found = self._group(word) if column is None else [column]
            if not found:
                raise FieldError(*errors, *field_help(), " ", f"Unrecognised field: {word}")
            self._kinds |= {column.kind for column in found} - {columns.SPECIAL}
            if add:
                self.shown += map(Field, found)
                self.help |= any(column.id in HELP for column in found)

    def _group(self, word: str) -> list[Column]:
        """The columns of ``all`` and of words like ``info_all``."""
        plain = _plain(word)
        kinds = {kind for prefix, kind in _KINDS.items() if plain == f"{_plain(prefix)}all"}
        if word.lower() == "all":
            kinds = self._kinds or set(_KINDS.values())
        return [column for column in COLUMNS if column.kind in kinds]

    def _sort(self, keys: str, *, add: bool) -> None:
        for word, rest in _words(keys):
            name = word[1:] if word[:1] in {"+", "-"} else word
            errors: tuple[str, ...] = ()
            column = None
            if word and not name:
                errors = ("dm_report: Missing sort field name",)
            try:
                column = self.find(name, rest)
            except FieldError as error:
                errors = error.args
            if column is None:
                raise FieldError(
                    *errors, *field_help(), " ", f"dm_report: Unrecognised field: {word}"
                )
            self._kinds |= {column.kind} - {columns.SPECIAL}
            if add:
                self._add_key(column, descending=word.startswith("-"))

    def _add_key(self, column: Column, *, descending: bool) -> None:
        field = self.require(column)
        self.help |= column.id in HELP
        if any(key.field is field for key in self.keys):
            self.warnings.append(f"dm_report: Ignoring duplicate sort field: {column.id}.")
        else:
            self.keys.append(Key(field, descending))

    @property
    def tells_selected(self) -> bool:
        """Whether a row that is not selected is shown nevertheless, and says so."""
        return any(field.column is SELECTED for field in self.shown)


def _words(text: str) -> list[tuple[str, str]]:
    """Comma-separated words, each with the text behind it.

    Commas in a row are one, one at the end is followed by a word "".
    """
    found = []
    place = 0
    while place < len(text):
        place += len(text[place:]) - len(text[place:].lstrip(","))
        word = text[place:].partition(",")[0]
        place += len(word)
        found.append((word, text[place:]))
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _behind(name: str, count: int) -> str:
    """What of ``name`` follows its first ``count`` characters that are no underscores."""
    for place, character in enumerate(name):
        if character != "_":
            if not count:
                return name[place:]
            count -= 1
    return ""


def field_help(*, selecting: bool = False) -> list[str]:
    """The lines of the list of all columns.

    As ``-o help`` and ``help -c`` show it, or as ``-S help`` does: with types and without groups.
    """
    width = max(len(column.id) for column in COLUMNS)
    lines: list[str] = []
    title = ""
    for column in COLUMNS:
        if columns.TITLES[column.kind] != title:
            if title:
                lines.append(" ")
            title = columns.TITLES[column.kind]
            lines += _heading(title)
            if not selecting:
                group = f"{columns.PREFIXES[column.kind]}all"
                lines.append(f"  {group:<{width}} - All fields in this section.")
        lines.append(_described(column, width, selecting))
    lines += [" ", *_heading("Special")]
    lines += [_described(column, width, selecting) for column in SPECIAL_COLUMNS]
    return lines


def _heading(title: str) -> list[str]:
    text = f"{title} Fields"
    return [text, "-" * len(text)]


def _described(column: Column, width: int, selecting: bool) -> str:
    line = f"  {column.id:<{width}} - {column.description}"
    if not selecting:
        return line
    return f"{line} [{'unselectable ' if column.id in HELP else ''}{column.type}]"
