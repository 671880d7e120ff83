# SPDX-License-Identifier: Apache-2.0
"""``map``: a picture of one device: which of its sectors go to which targets and devices below.

A bar, in proportion, and a table of what its signs mean. The core sends the outline of the table
only, so a device of a million targets is drawn as quickly as one of three.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from string import ascii_uppercase
from typing import Any, NamedTuple

from dmtool.cli import terminal
from dmtool.cli.failures import printable
from dmtool.cli.format import PLAIN, Headings
from dmtool.cli.session import Session

# Without a terminal, and the narrowest that is drawn for.
_WIDTH, _NARROW = 80, 40
# Runs that are listed one by one; of more there is a line for each kind.
_LISTED = 16
# Lines of the bar where one line could not show the runs.
_LINES = 8
# For --json: parts that the device is cut into; runs beyond this number are left out.
_PARTS, _RUNS = 64, 10_000

# What fails, what is zeros (in part), and kinds for which there is no letter left.
_ERROR, _ZERO, _PARTLY_ZERO, _OTHERS = "!", ".", ":", "#"
_ERROR_COLOUR = "1;31"
_COLOURS = ("36", "32", "33", "35", "34")

Share = list[list[int]]


class Sign(NamedTuple):
    """How a kind is drawn: alone, where it shares a cell with others, and in what colour."""

    whole: str
    part: str
    colour: str

    @property
    def lettered(self) -> bool:
        return self.whole.isalpha()


class Row(NamedTuple):
    """One row of the table: its cells between the sign and what is below."""

    sign: Sign
    cells: tuple[str, ...]
    below: list[str]


def map_(session: Session, operands: list[str]) -> None:
    """``map DEVICE``."""
    device = session.device(operands)
    columns = max(terminal.columns() or _WIDTH, _NARROW)
    parts, runs = (_PARTS, _RUNS) if session.json else (columns * _LINES, _LISTED)
    inactive = "inactive" in session.switches
    answer = session.ioctl("table", device, "outline", inactive=inactive, parts=parts, runs=runs)
    name = session.shown(answer["info"]["name"])
    if session.json:
        session.put_json(**_described(session, name, answer))
        return
    if not answer["kinds"]:
        session.out(f"{printable(name)}: no {'inactive' if inactive else 'live'} table\n")
        return
    picture = Picture(session, answer, columns)
    session.out(f"{printable(name)}: {picture.summary()}\n\n")
    session.out("".join(line + "\n" for line in picture.bar()) + "\n")
    picture.legend()


def _described(session: Session, name: str, answer: dict[str, Any]) -> dict[str, Any]:
    """The outline for JSON, names as people see them."""
    info, size, parts = answer["info"], answer["size"], answer["parts"]
    limits = [-(-size * part // len(parts)) for part in range(len(parts) + 1)]
    return {
        "name": name,
        "uuid": session.shown(info["uuid"], "UUID"),
        "major": info["major"],
        "minor": info["minor"],
        **{
            field: answer[field] for field in ("size", "target_count", "run_count", "kinds", "runs")
        },
        "parts": [
            {
                "start": start,
                "length": end - start,
                "shares": [{"kind": kind, "sectors": sectors} for kind, sectors in share],
            }
            for start, end, share in zip(limits, limits[1:], parts, strict=False)
            if end > start
        ],
    }


class Picture:
    """The drawing of one outline, ``columns`` wide."""

    def __init__(self, session: Session, answer: dict[str, Any], columns: int) -> None:
        self._session = session
        self._columns = columns
        self._size: int = answer["size"]
        self._targets: int = answer["target_count"]
        self._count: int = answer["run_count"]
        self._runs: list[dict[str, Any]] = answer["runs"]
        self._kinds: list[dict[str, Any]] = answer["kinds"]
        self._parts: list[Share] = answer["parts"]
        self._utf8 = terminal.utf8()
        self._signs = _signs(self._kinds)
        # a bar of one line where its cells can show the runs
        self._margin = len(str(self._size)) + 2
        self._cells = columns - self._margin - 2
        self._lines = 1 if self._count * 2 <= self._cells or self._size <= self._cells else _LINES

    def summary(self) -> str:
        """The first line, behind the name."""
        targets = f"{self._targets} target{'s' * (self._targets != 1)}"
        runs = f" in {self._count} run{'s' * (self._count != 1)}"
        if self._count == self._targets:
            runs = ""
        return f"{self._size} sectors ({_bytes(self._size)}), {targets}{runs}"

    # -- the bar ------------------------------------------------------------------------------

    def bar(self) -> Iterator[str]:
        """The lines of the bar, each with the sector that it begins with, and what is to be said
        of it."""
        cells = [self._cell(share) for share in self._shares()]
        edge = "│" if self._utf8 else "|"
        for line in range(self._lines):
            first = -(-self._size * line // self._lines)
            row = cells[line * self._cells : (line + 1) * self._cells]
            yield f"{first:>{self._margin - 1}} {edge}{self._row(row)}{edge}"
        notes = []
        if self._size > len(cells):
            one = -(-self._size // len(cells))
            notes.append(f"One sign is {'about ' * bool(self._size % len(cells))}{one} sectors.")
        if any(sign.lettered and not whole for sign, whole in cells):
            notes.append("A small letter: mostly that, with others.")
        if notes:
            yield ""
            yield from notes

    def _shares(self) -> Iterator[dict[int, int]]:
        """What each cell has of each kind, in sectors; an empty one has what is before it."""
        number = self._cells * self._lines
        parts, total = self._parts, len(self._parts)
        last: dict[int, int] = {}
        for cell in range(number):
            found: dict[int, int] = {}
            for share in parts[cell * total // number : (cell + 1) * total // number]:
                for kind, sectors in share:
                    found[kind] = found.get(kind, 0) + sectors
            last = found or last
            yield last

    def _cell(self, share: dict[int, int]) -> tuple[Sign, bool]:
        """The sign of a cell, and whether all of the cell is that. What fails is always seen."""
        by_sign: dict[Sign, int] = {}
        for kind, sectors in share.items():
            sign = self._signs[kind]
            by_sign[sign] = by_sign.get(sign, 0) + sectors
        failing = next((sign for sign in by_sign if sign.whole == _ERROR), None)
        return failing or max(by_sign, key=by_sign.__getitem__), len(by_sign) == 1

    def _row(self, cells: list[tuple[Sign, bool]]) -> str:
        text = []
        for (sign, whole), some in groupby(cells):
            length = len(list(some))
            if not whole:
                drawn = sign.part * length
            elif sign.lettered and self._utf8:
                drawn = sign.whole + "─" * (length - 1)
            else:
                drawn = sign.whole * length
            text.append(terminal.painted(drawn, sign.colour, terminal.STDOUT))
        return "".join(text)

    # -- what it means ------------------------------------------------------------------------

    def legend(self) -> None:
        """The table below: of each run, or of each kind."""
        headings = _RUN_HEADINGS if self._runs else _KIND_HEADINGS
        rows = list(self._run_rows() if self._runs else self._kind_rows())
        room = None
        if (self._session.format or PLAIN) == PLAIN:
            headings, rows, room = _fitted(headings, rows, self._columns)
        for row in rows:
            sign = terminal.painted(row.sign.whole, row.sign.colour, terminal.STDOUT)
            self._session.add_rows(headings, (sign, *row.cells, joined(row.below, room)))

    def _run_rows(self) -> Iterator[Row]:
        for run in self._runs:
            kind = self._kinds[run["kind"]]
            cells = (
                str(run["start"]),
                str(run["length"]),
                _percent(run["length"], self._size),
                str(run["targets"]),
                str(kind["type"]),
                _places(run["at"]),
            )
            yield Row(self._signs[run["kind"]], cells, self._below(kind))

    def _kind_rows(self) -> Iterator[Row]:
        others = []
        for kind, sign in zip(self._kinds, self._signs, strict=True):
            if sign.whole == _OTHERS:
                others.append(kind)
            else:
                yield Row(sign, self._sums([kind], str(kind["type"])), self._below(kind))
        if others:
            yield Row(_LEFT_OVER, self._sums(others, ""), [f"{len(others)} other kinds"])

    def _sums(self, kinds: list[dict[str, Any]], type: str) -> tuple[str, ...]:
        sectors, targets, runs = (
            sum(kind[field] for kind in kinds) for field in ("sectors", "targets", "runs")
        )
        return str(sectors), _percent(sectors, self._size), str(targets), str(runs), type

    def _below(self, kind: dict[str, Any]) -> list[str]:
        return [self._device(device) for device in kind["devices"]]

    def _device(self, device: dict[str, Any]) -> str:
        if device["kind"] == "dm":
            name = self._session.shown(device["name"])
            return printable(f"{name} ({device['major']}:{device['minor']})")
        return printable(str(device["path"] or device["name"]))


_DOTS, _LEAST = "...", 10
# Places below that are shown of a run.
_PLACES = 2
_LEFT_OVER = Sign(_OTHERS, _OTHERS, "")
_RUN_HEADINGS: Headings = {
    "": "left",
    "Start": "right",
    "Length": "right",
    "Share": "right",
    "Targets": "right",
    "Type": "left",
    "At": "right",
    "On": "left",
}
_KIND_HEADINGS: Headings = {
    "": "left",
    "Sectors": "right",
    "Share": "right",
    "Targets": "right",
    "Runs": "right",
    "Type": "left",
    "On": "left",
}


# Columns that a narrow terminal has no room for, from the first to go on.
_LEFT_OUT = ("Share", "At", "Runs", "Targets")


def _signs(kinds: list[dict[str, Any]]) -> list[Sign]:
    """A sign for each kind: letters in the order of the device, for the largest if there are more
    kinds than letters."""
    lettered = [n for n, kind in enumerate(kinds) if kind["ends"] not in {"error", "zero"}]
    if len(lettered) > len(ascii_uppercase):
        largest = sorted(lettered, key=lambda n: -int(kinds[n]["sectors"]))
        lettered = sorted(largest[: len(ascii_uppercase)])
    letters = dict(zip(lettered, ascii_uppercase, strict=False))
    signs = []
    for number, kind in enumerate(kinds):
        if kind["ends"] == "error":
            signs.append(Sign(_ERROR, _ERROR, _ERROR_COLOUR))
        elif kind["ends"] == "zero":
            signs.append(Sign(_ZERO, _PARTLY_ZERO, ""))
        elif number in letters:
            letter = letters[number]
            colour = _COLOURS[ascii_uppercase.index(letter) % len(_COLOURS)]
            signs.append(Sign(letter, letter.lower(), colour))
        else:
            signs.append(_LEFT_OVER)
    return signs


def _percent(sectors: int, size: int) -> str:
    share = 100 * sectors / size
    return f"{share:.1f}%" if share >= 0.1 else "<0.1%"


def _bytes(sectors: int) -> str:
    """A size for people."""
    number, unit = float(sectors * 512), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def _fitted(headings: Headings, rows: list[Row], columns: int) -> tuple[Headings, list[Row], int]:
    """What fits into so many columns, and the room that is left for what stands last. On a narrow
    terminal a column goes after the other, until there is some."""
    names = list(headings)[1:-1]
    widths = {
        name: max(len(name), *(len(row.cells[place]) for row in rows)) + 2
        for place, name in enumerate(names)
    }
    room = columns - sum(widths.values()) - len(rows[0].sign.whole) - 2
    for name in _LEFT_OUT:
        if room < _LEAST + 2 and name in widths:
            room += widths.pop(name)
    kept = [place for place, name in enumerate(names) if name in widths]
    fitted = [row._replace(cells=tuple(row.cells[place] for place in kept)) for row in rows]
    left = {name: side for name, side in headings.items() if name not in names or name in widths}
    return left, fitted, room


def _places(at: list[int | None]) -> str:
    words = ["-" if start is None else str(start) for start in at]
    return ", ".join([*words[:_PLACES], *([_DOTS] if len(words) > _PLACES else [])])


def joined(devices: list[str], room: int | None) -> str:
    """Names in at most ``room`` characters, if there is any sense in that; of a path the end is
    what tells."""
    text = ", ".join(devices)
    if room is None or len(text) <= room or not devices:
        return text
    each = (room + 2) // len(devices) - 2
    if each < _LEAST and len(devices) > 1:
        more = f" and {len(devices) - 1} more"
        return _shortened(devices[0], room - len(more)) + more
    return ", ".join(_shortened(device, each) for device in devices)


def _shortened(text: str, room: int) -> str:
    """The last characters, at least some."""
    room = max(room, _LEAST)
    return text if len(text) <= room else _DOTS + text[len(_DOTS) - room :]
