# SPDX-License-Identifier: Apache-2.0
"""A large table's text as columns, with an object only for a line that is not plain.

What ``read`` finds is what text.parse finds: a test holds the two to that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

from dmtool.errors import TableError
from dmtool.table.columns import scan
from dmtool.table.text import MOST_ERRORS, Line, Reader, plain

ODD = (1 << 32) - 1  # the kind of a row that is in `odd`
_CHUNK = 1 << 20  # characters of text at a time, to bound what is in memory at once


class Rows:
    """The lines of a table that name a target.

    ``begins``, ``lengths``, ``starts``, ``kinds``: the columns (see columns.py); ``count`` rows.
    ``words``   what the kinds number: ``<type>`` or ``<type> <device>``, unescaped.
    ``odd``     rows that are not of that form: their kind is ``ODD``, and they have no start.
    ``errors``  each with the number of the row that it stands before, in their order in the text.

    Threads: one.
    """

    def __init__(self, text: str, source: str) -> None:
        room = text.count("\n") + 1
        self.begins = array("Q", bytes(8 * room))
        self.lengths = array("Q", bytes(8 * room))
        self.starts = array("Q", bytes(8 * room))
        self.kinds = array("I", bytes(4 * room))
        self.count = 0
        self.words: list[str] = []
        self.odd: dict[int, Line] = {}
        self.errors: list[tuple[int, TableError]] = []
        self._text = text
        self._source = source
        # of each line without a row the number of the row that comes next: so many lines are
        # between a row's number and its line's
        self._without = array("Q")
        # the numbers of the lines that the parts of the text begin with, and where those begin
        self._firsts: list[int] = []
        self._places: list[int] = []
        self._split: tuple[int, list[str]] = (-1, [])  # the part that was looked at last

    @property
    def columns(self) -> tuple[array[int], array[int], array[int], array[int]]:
        return self.begins, self.lengths, self.starts, self.kinds

    def line(self, row: int) -> Line:
        """The line of a row."""
        odd = self.odd.get(row)
        if odd is not None:
            return odd
        number = row + 1 + bisect_right(self._without, row)
        part = bisect_right(self._firsts, number) - 1
        if part != self._split[0]:
            end = self._places[part + 1] if part + 1 < len(self._places) else len(self._text)
            self._split = (part, self._text[self._places[part] : end].split("\n"))
        line = plain(self._split[1][number - self._firsts[part]], self._source, number)
        assert line is not None, "a row that is not odd is a plain line"
        return line

    # -- reading ------------------------------------------------------------------------------

    def read(self) -> None:
        """Read all of the text. Raises UnicodeEncodeError for surrogates that stand for no byte."""
        kinds = _Kinds()
        reader = Reader(self._source, MOST_ERRORS)
        begun = (0, 0)
        at = 0
        while at < len(self._text) and not reader.done:
            end = self._text.find("\n", at + _CHUNK) + 1 or len(self._text)
            self._firsts.append(self._number)
            self._places.append(at)
            begun = self._part(self._text[at:end], kinds, reader, begun)
            at = end
        if reader.unclosed is not None and not reader.done:
            row, place = begun
            self.errors.insert(place, (row, reader.unclosed))
        for column in self.columns:
            del column[self.count :]
        self.words = [kind.decode("utf-8", "surrogateescape") for kind in kinds]

    @property
    def _number(self) -> int:
        """The next line's."""
        return self.count + len(self._without) + 1

    def _part(
        self, part: str, kinds: _Kinds, reader: Reader, begun: tuple[int, int]
    ) -> tuple[int, int]:
        """Read whole lines. ``begun``, and what is returned: where among rows and errors the
        bracket ``begin`` stands, if it does."""
        text = part.encode("utf-8", "surrogateescape")
        at = 0
        while at < len(text) and not reader.done:
            if not reader.ended:
                at, self.count = scan(text, at, self.count, kinds, *self.columns)
                if at == len(text):
                    break
            end = text.find(b"\n", at)
            end = len(text) if end < 0 else end
            if reader.begin is None:
                begun = (self.count, len(self.errors))
            self._odd(text[at:end].decode("utf-8", "surrogateescape"), reader)
            at = end + 1
        return begun

    def _odd(self, raw: str, reader: Reader) -> None:
        """Read one line that is no row as ``scan`` has them."""
        number = self._number
        entry: Line | TableError | None = None
        if not reader.ended:
            entry = plain(raw, self._source, number)
        if entry is None:
            # an error leaves an entry, too
            entry = reader.take(raw, number, first=not self.count and not self.errors)
        if isinstance(entry, Line):
            row = self.count
            self.begins[row], self.lengths[row] = entry.start, entry.length
            self.kinds[row] = ODD
            self.odd[row] = entry
            self.count += 1
            return
        self._without.append(self.count)
        if entry is not None:
            self.errors.append((self.count, entry))


class _Kinds(dict[bytes, int]):
    """Numbers the words that are asked for."""

    def __missing__(self, word: bytes) -> int:
        self[word] = number = len(self)
        return number


def read(text: str | bytes, source: str) -> Rows:
    """The rows of a table; ``source`` is what the table is called in places. Raises
    UnicodeEncodeError for surrogates that stand for no byte."""
    whole = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
    rows = Rows(whole, source)
    rows.read()
    return rows
