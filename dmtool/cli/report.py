# SPDX-License-Identifier: Apache-2.0
"""The report engine: columns chosen by ``-o``, rows, and the ways to print them (libdm-report).

Knows nothing of single columns; they are data in ``dmtool.cli.columns``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from dmtool.cli import columns
from dmtool.cli.columns import COLUMNS, HELP, SPECIAL, VALUES, Column
from dmtool.cli.naming import Naming
from dmtool.cli.session import Device, Failed, Session
from dmtool.cli.splitname import Parts, split, subsystem_of
from dmtool.cli.tree import Node, Stack

DEFAULT = "name,major,minor,attr,open,segments,events,uuid"
SPLITNAME = "vg_name,lv_name,lv_layer"
PREFIX = "DM_"


class ReportError(Exception):
    """The report cannot be made; the arguments are the lines to print."""


class Row:
    """One mapped device in a report; what takes a question to the core is asked when needed."""

    kinds = frozenset({columns.TASK, columns.INFO, columns.DEPS, columns.TREE, columns.NAME})

    def __init__(self, session: Session, info: dict[str, Any]) -> None:
        self.session = session
        self.naming: Naming = session.naming
        self.info: dict[str, Any] = info
        self._inactive = "inactive" in session.switches

    @cached_property
    def name(self) -> str:
        return self.session.shown(self.info["name"])

    @cached_property
    def uuid(self) -> str:
        return self.session.shown(self.info["uuid"], "UUID")

    @property
    def readonly(self) -> bool:
        return bool(self.info["inactive_readonly" if self._inactive else "readonly"])

    @property
    def target_count(self) -> int:
        return int(self.info["inactive_target_count" if self._inactive else "target_count"])

    @property
    def open_count(self) -> int:
        return -1 if "noopencount" in self.session.switches else int(self.info["open_count"])

    @cached_property
    def deps(self) -> list[dict[str, Any]]:
        device = Device(name=self.info["name"])
        answer = self.session.ioctl("deps", device, "deps", inactive=self._inactive)
        return list(answer["deps"])

    @property
    def devnos_used(self) -> list[str]:
        return [str(dep["path"]) if dep["major"] is None else f"{dep['major']}:{dep['minor']}"
                for dep in self.deps]  # fmt: skip

    @property
    def blkdevs_used(self) -> list[str]:
        return [f"dm-{d['minor']}" if d["kind"] == "dm" else str(d["name"]) for d in self.deps]

    @cached_property
    def _node(self) -> Node:
        return Stack.of(self.session).node(self.info)

    @property
    def names_used(self) -> list[str]:
        return [node.name for node in self._node.uses if node.info]

    @property
    def users(self) -> list[Node]:
        return self._node.used_by

    @property
    def names_using(self) -> list[str]:
        return [node.name for node in self.users]

    @property
    def devnos_using(self) -> list[str]:
        return [f"{node.major}:{node.minor}" for node in self.users]

    @cached_property
    def parts(self) -> Parts:
        return split(self.name, subsystem_of(self.uuid))


class NameRow(Row):
    """The one row of ``splitname``: a name that need not be any device's."""

    kinds = frozenset({columns.NAME})

    def __init__(self, session: Session, parts: Parts) -> None:
        super().__init__(session, {})
        self.parts = parts


class Report:
    """Rows of one command line. Raises ReportError for columns that do not exist."""

    def __init__(self, session: Session, command: str) -> None:
        switches = session.switches
        # Kinds that ``all`` stands for; none of their own means: of every kind.
        self._own_kinds = {columns.NAME} if command == "splitname" else set()
        self._for_regions = command != "splitname"
        self.only_help = False
        self._aligned = not {"noheadings", "nameprefixes", "separator", "rows"} & set(
            switches.given()
        )
        self._headings = "noheadings" not in switches
        separator = switches.value("separator")
        if separator is None:
            separator = " " if self._headings else ":"
        self._separator = separator
        self._prefixed = "nameprefixes" in switches
        self._quote = "" if "unquoted" in switches else "'"
        self._as_rows = "rows" in switches
        keys = switches.value("sort") or ""
        self._buffered = "unbuffered" not in switches or bool(keys)
        self._rows: list[tuple[list[str], list[str | int]]] = []

        default = SPLITNAME if command == "splitname" else DEFAULT
        wanted = switches.value("options")
        if wanted is None:
            wanted = default
        elif wanted.startswith("+"):
            wanted = f"{default},{wanted[1:]}"
        self._columns = self._chosen(wanted)
        self._keys = self._sort_keys(keys)
        if self.only_help:
            session.error(field_help().removesuffix("\n"))
        self._kinds = {c.kind for c in [*self._columns, *(k for k, _ in self._keys)]} - {-1}

    def add(self, row: Row) -> None:
        """Add one row. Raises Failed where the row has nothing that a column could show."""
        if self.only_help:
            return
        if self._for_regions and self._kinds & {columns.STATS, columns.REGION}:
            return  # one row for each region of statistics, and there are none
        for column in [*self._columns, *(key for key, _ in self._keys)]:
            if column.kind not in row.kinds and column.kind != -1:
                raise Failed(f"_do_report_object: no data assigned to field {column.id}")
        values = [str(VALUES[column.id](row)) for column in self._columns]
        self._rows.append((values, [VALUES[column.id](row) for column, _ in self._keys]))

    def text(self) -> str:
        """All rows, sorted and printed; nothing at all if there are none. Forgets the rows."""
        for place in reversed(range(len(self._keys))):
            column, descending = self._keys[place]
            self._rows.sort(key=lambda row: _ordered(row[1][place], column), reverse=descending)
        rows = [values for values, _ in self._rows]
        self._rows = []
        if not rows:
            return ""
        if self._as_rows:
            return self._columns_as_rows(rows)
        if not self._aligned:
            heading = [self._separator.join(c.heading for c in self._columns)]
            lines = [self._separator.join(map(self._prefix, self._columns, v)) for v in rows]
            return "".join(line + "\n" for line in (heading if self._headings else []) + lines)
        return self._table(rows)

    def _table(self, rows: list[list[str]]) -> str:
        """Padded columns; unbuffered, the widths are those of the rows so far."""
        widths = [column.width for column in self._columns]
        lines = []
        for number, values in enumerate(rows):
            for seen in rows if self._buffered and not number else [values]:
                widths = [max(w, _length(v)) for w, v in zip(widths, seen, strict=True)]
            if not number:
                headings = (
                    _padded(c.heading, w) for c, w in zip(self._columns, widths, strict=True)
                )
                lines.append(self._separator.join(headings))
            cells = (
                _padded(value, width, right=column.numeric)
                for column, value, width in zip(self._columns, values, widths, strict=True)
            )
            lines.append(self._separator.join(cells))
        return "".join(line + "\n" for line in lines)

    def _columns_as_rows(self, rows: list[list[str]]) -> str:
        lines = []
        for place, column in enumerate(self._columns):
            cells = [self._prefix(column, values[place]) for values in rows]
            if self._headings:
                cells.insert(0, column.heading)
            lines.append(self._separator.join(cells) + "\n")
        return "".join(lines)

    def _prefix(self, column: Column, value: str) -> str:
        if not self._prefixed:
            return value
        return f"{PREFIX}{column.id.upper()}={self._quote}{value}{self._quote}"

    def _chosen(self, wanted: str) -> list[Column]:
        """The columns of ``-o``."""
        found: list[Column] = []
        for word in _words(wanted):
            columns_of_word = self._named(word)
            if columns_of_word is None:
                raise ReportError(*field_help().split("\n")[:-1], f"Unrecognised field: {word}")
            found += columns_of_word
        return found

    def _named(self, word: str) -> list[Column] | None:
        """The columns that one word means, None if it means none."""
        plain = _plain(word)
        for column in (*COLUMNS, *SPECIAL):
            if _plain(column.id) == plain:
                if column.id in HELP:
                    self.only_help = True
                    return []
                return [column]
        lower = word.lower()
        if lower == "all":
            kinds = self._own_kinds or set(PREFIXES_ALL.values())
            return [column for column in COLUMNS if column.kind in kinds]
        for name, kind in PREFIXES_ALL.items():
            if lower in {name + "all", name.rstrip("_") + "all"}:
                return [column for column in COLUMNS if column.kind == kind]
        return None

    def _sort_keys(self, keys: str) -> list[tuple[Column, bool]]:
        """The keys of ``-O``, each with whether it descends."""
        found = []
        for word in _words(keys):
            name = word[1:] if word[:1] in {"+", "-"} else word
            column = self._named(name) if _plain(name) not in {"all", ""} else None
            if column is None or len(column) > 1:
                missing = ["dm_report: Missing sort field name"] if word and not name else []
                listed = field_help().split("\n")[:-1]
                raise ReportError(*missing, *listed, f"dm_report: Unrecognised field: {word}")
            found += [(c, word.startswith("-")) for c in column]
        return found


PREFIXES_ALL = {prefix: kind for kind, prefix in columns.PREFIXES.items()}


def _words(text: str) -> list[str]:
    """Comma-separated words; commas in a row are one, one at the end is followed by a word ""."""
    words = [word for word in text.split(",") if word]
    return [*words, ""] if text.endswith(",") else words


def _plain(name: str) -> str:
    """A column's id as it is compared: case and underscores do not count."""
    return name.lower().replace("_", "")


def _ordered(value: str | int, column: Column) -> Any:
    if column.numeric:
        return int(value)
    return str(value).encode("utf-8", "surrogateescape")


def _length(text: str) -> int:
    """In bytes, which is how libdm pads."""
    return len(text.encode("utf-8", "surrogateescape"))


def _padded(text: str, width: int, *, right: bool = False) -> str:
    blank = " " * max(0, width - _length(text))
    return blank + text if right else text + blank


def field_help() -> str:
    """The list of all columns, as ``-o help`` and ``help -c`` show it."""
    width = max(len(column.id) for column in COLUMNS)
    lines: list[str] = []
    title = ""
    for column in COLUMNS:
        if columns.TITLES[column.kind] != title:
            if title:
                lines.append(" ")
            title = columns.TITLES[column.kind]
            everything = f"{columns.PREFIXES[column.kind]}all"
            lines += [*_heading(f"{title} Fields"), f"  {everything:<{width}} - {_ALL}"]
        lines.append(f"  {column.id:<{width}} - {column.description}")
    lines += [" ", *_heading("Special Fields")]
    lines += [f"  {column.id:<{width}} - {column.description}" for column in SPECIAL]
    return "".join(line + "\n" for line in [*lines, " "])


_ALL = "All fields in this section."


def _heading(text: str) -> list[str]:
    return [text, "-" * len(text)]
