# SPDX-License-Identifier: Apache-2.0
"""The report engine: rows, which of them are selected, and the ways to print them (libdm-report).

Knows nothing of single columns; they are data in ``dmtool.cli.columns``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dmtool.cli import columns
from dmtool.cli.columns import SELECTED, VALUES, Column, Value
from dmtool.cli.fields import Field, FieldError, Fields, field_help
from dmtool.cli.session import Failed, Session

if TYPE_CHECKING:
    from dmtool.cli.rows import Row

DEFAULT = "name,major,minor,attr,open,segments,events,uuid"
SPLITNAME = "vg_name,lv_name,lv_layer"
PREFIX = "DM_"
# What the reports of single commands are about; those of all others are about devices.
KINDS = {"splitname": frozenset({columns.NAME})}
# Commands that are no reports, but could be taken for ones.
UNSORTED = frozenset({"status", "table"})


class ReportError(Exception):
    """The report cannot be made; the arguments are the lines to print."""


class Record(NamedTuple):
    """One row's values, and whether it is selected."""

    values: dict[Field, Value]
    selected: bool


class Report:
    """Rows of one command line. Raises ReportError for columns that do not exist.

    ``command`` is the command whose report it is, ``default`` its columns where ``-o`` names none,
    ``about`` the kinds that it is about (both known for dmsetup's own commands). ``kinds`` are
    those of its columns; ``only_help`` is True where the list of columns was asked for: then there
    are no rows.
    """

    def __init__(
        self,
        session: Session,
        command: str,
        default: str | None = None,
        about: frozenset[int] | None = None,
    ) -> None:
        switches = session.switches
        self._session = session
        given = set(switches.given())
        self._aligned = not {"noheadings", "nameprefixes", "separator", "rows"} & given
        self._headings = "noheadings" not in switches
        separator = switches.value("separator")
        if separator is None:
            separator = " " if self._headings else ":"
        self._separator = separator
        self._prefixed = "nameprefixes" in switches
        self._quote = "" if "unquoted" in switches else "'"
        self._as_rows = "rows" in switches
        self._records: list[Record] = []
        self._format = session.format
        if self._format is not None and {"nameprefixes", "separator", "rows"} & given:
            raise ReportError(
                "--format is incompatible with --nameprefixes, --separator and --rows."
            )

        keys = switches.value("sort") or ""
        if keys and command in UNSORTED:
            raise ReportError("--sort is not yet supported with status and table.")
        default = default or (SPLITNAME if command == "splitname" else DEFAULT)
        wanted = switches.value("options")
        if wanted is None:
            wanted = default
        elif wanted.startswith("+"):
            wanted = f"{default},{wanted[1:]}"
        try:
            self._fields = Fields(wanted, keys, about or KINDS.get(command, frozenset()))
        except FieldError as error:
            raise ReportError(*error.args) from None
        session.error(*self._fields.warnings)
        self.only_help = self._fields.help
        if self.only_help:
            session.error(*field_help(), " ")
        self._is_selected = self._selection(switches.value("select") or "")
        self.kinds = self._fields.kinds

    def _selection(self, text: str) -> Callable[[dict[Field, Value]], bool]:
        if not text:
            return lambda _values: True
        from dmtool.cli.selection import HELP_WORDS, Selection, SelectionError
        from dmtool.cli.selection_help import selection_help

        if text.lower() in HELP_WORDS:
            self._session.error(*field_help(selecting=True), " ", *selection_help())
            self.only_help = True
            return lambda _values: True
        try:
            selection = Selection(text, self._fields)
        except SelectionError as error:
            raise ReportError(*error.args) from None
        self._session.error(*selection.warnings)
        return selection.selects

    def add(self, row: Row) -> None:
        """Add one row, unless it is not selected. Raises Failed where it lacks a column."""
        if self.only_help:
            return
        record = self._record(row)
        if record.selected or self._fields.tells_selected:
            self._records.append(record)

    def selects(self, row: Row) -> bool:
        """Whether a row is selected. Raises Failed as ``add``."""
        return not self.only_help and self._record(row).selected

    def _record(self, row: Row) -> Record:
        values: dict[Field, Value] = {}
        for field in self._fields.all:
            column = field.column
            if column.kind not in row.kinds and column.kind != columns.SPECIAL:
                raise Failed(f"_do_report_object: no data assigned to field {column.id}")
            values[field] = _YES if column is SELECTED else _value(column, row)
        selected = self._is_selected(values)
        if not selected:
            values |= {field: _NO for field in values if field.column is SELECTED}
        return Record(values, selected)

    def text(self) -> str:
        """All rows, sorted and printed; nothing at all if there are none. Forgets the rows."""
        for key in reversed(self._fields.keys):
            self._records.sort(
                key=lambda record, key=key: _ordered(record.values[key.field], key.field.column),  # type: ignore[misc]
                reverse=key.descending,
            )
        shown = self._fields.shown
        rows = [[record.values[field].text for field in shown] for record in self._records]
        self._records = []
        if not rows:
            return ""
        if self._format is not None:
            return self._formatted(self._format, rows)
        if self._as_rows:
            lines = self._columns_as_rows(rows)
        elif self._aligned:
            lines = self._table(rows)
        else:
            lines = [self._separator.join(f.column.heading for f in shown)] * self._headings
            lines += [self._separator.join(map(self._prefix, shown, row)) for row in rows]
        return "".join(line + "\n" for line in lines)

    def _formatted(self, name: str, rows: list[list[str]]) -> str:
        from dmtool.cli.format import formatted

        columns = [field.column for field in self._fields.shown]
        sides = ["right" if column.numeric else "left" for column in columns]
        headings = [column.heading for column in columns]
        return formatted(name, headings, sides, rows, shown=self._headings)

    def _table(self, rows: list[list[str]]) -> list[str]:
        """Padded columns."""
        shown = [field.column for field in self._fields.shown]
        widths = [
            max(column.width, *(_length(row[place]) for row in rows))
            for place, column in enumerate(shown)
        ]
        headings = [_padded(c.heading[:w], w) for c, w in zip(shown, widths, strict=True)]
        lines = [self._separator.join(headings)]
        for row in rows:
            cells = (
                _padded(value, width, right=column.numeric)
                for column, value, width in zip(shown, row, widths, strict=True)
            )
            lines.append(self._separator.join(cells))
        return lines

    def _columns_as_rows(self, rows: list[list[str]]) -> list[str]:
        lines = []
        for place, field in enumerate(self._fields.shown):
            cells = [self._prefix(field, row[place]) for row in rows]
            if self._headings:
                cells.insert(0, field.column.heading)
            lines.append(self._separator.join(cells))
        return lines

    def _prefix(self, field: Field, value: str) -> str:
        if not self._prefixed:
            return value
        return f"{PREFIX}{field.column.id.upper()}={self._quote}{value}{self._quote}"


_YES, _NO = Value("1", 1), Value("0", 0)


def _value(column: Column, row: Row) -> Value:
    of_row = VALUES.get(column.id)
    value = row.statistic(column.id) if of_row is None else of_row(row)
    return value if isinstance(value, Value) else Value(str(value), value)


def _ordered(value: Value, column: Column) -> float | bytes:
    """What a value is sorted by."""
    if column.numeric:
        assert not isinstance(value.sort, str)
        return value.sort
    return value.text.encode("utf-8", "surrogateescape")


def _length(text: str) -> int:
    """In bytes, which is how libdm pads."""
    return len(text.encode("utf-8", "surrogateescape"))


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blank = " " * max(0, width - _length(text))
    return blank + text if right else text + blank
