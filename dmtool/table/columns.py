# SPDX-License-Identifier: Apache-2.0
"""Lines of a table to and from columns of numbers, many at a time.

*Columns* are ``begins``, ``lengths`` and ``starts``, arrays of ``Q``, and ``kinds``, an array of
``I``: a row is one line ``<begin> <length> <type>`` or ``<begin> <length> <type> <device>
<start>``, where the kind is the number of ``<type>`` or ``<type> <device>`` (see ``scan``).

The three functions exist twice: here, as the specification and the fallback, and in C
(native/table.c, ``dmtool._table``), where they are twenty times as fast. ``COLUMNS`` names those
in use, ``"native"`` or ``"python"``; the environment variable ``DMTOOL_COLUMNS`` forces one.

Threads: any; not two with the same columns.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from dmtool.native import in_c
from dmtool.sectors import LARGEST_DEVICE

# Fields as in text.py, whose plain lines have any arguments; what follows the type is white space
# of C, less the newline. No number passes 2^64.
_FIELDS = rb"[ \t]*([0-9]{1,19})[ \t]+([0-9]{1,19})[ \t]+([!\"$-\[\]-~]{1,15})"
_WHITE = rb"[ \t\v\f\r]"
_EXTENT = rb"(?:" + _WHITE + rb"+([^ \t\v\f\r\n#\\\0]+)" + _WHITE + rb"+([0-9]{1,19}))?"
_LINE = _FIELDS + _EXTENT + _WHITE + rb"*"
_ROW = re.compile(_LINE + rb"(?:\n|\Z)")
_ROWS = re.compile(rb"(?:" + re.sub(rb"\((?!\?)", rb"(?:", _LINE) + rb"(?:\n|\Z))*+")


def scan(
    text: bytes,
    at: int,
    row: int,
    words: Mapping[bytes, int],
    begins: array[int],
    lengths: array[int],
    starts: array[int],
    kinds: array[int],
    /,
) -> tuple[int, int]:
    """Read lines of ``text``, from byte ``at`` on, into the columns, from ``row`` on.

    Returns the byte behind the last line read and the next row: reading ends with the text, with
    the columns, or before a line that is no row as above, be it right or wrong. ``words`` numbers
    ``b"<type>"`` and ``b"<type> <device>"``; of a row without a device ``starts`` has 0.
    """
    found = _ROWS.match(text, at)
    assert found is not None, "no rows are a match, too"
    for one in islice(_ROW.finditer(text, at, found.end()), len(kinds) - row):
        begin, length, type, device, start = one.groups()
        begins[row] = int(begin)
        lengths[row] = int(length)
        starts[row] = int(start or 0)
        kinds[row] = words[type if device is None else type + b" " + device]
        row += 1
        at = one.end()
    return at, row


def check(
    begins: array[int],
    lengths: array[int],
    starts: array[int],
    kinds: array[int],
    limits: array[int],
    row: int,
    end: int,
    expected: int,
    /,
) -> tuple[int, int]:
    """The first of the rows from ``row`` to before ``end`` that is not good, or ``end``; and the
    sector at which it should begin, which for ``row`` is ``expected``.

    Good is a row that begins there, is not empty, ends within the largest device, and whose
    ``start`` plus length is not above ``limits[kind]``; of kinds beyond ``limits`` none is.
    """
    columns = (memoryview(column)[row:end] for column in (begins, lengths, starts, kinds))
    for begin, length, start, kind in zip(*columns, strict=True):
        if begin != expected or not length or expected + length > LARGEST_DEVICE:
            break
        if kind >= len(limits) or start + length > limits[kind]:
            break
        expected += length
        row += 1
    return row, expected


def lines(
    begins: array[int],
    starts: array[int],
    kinds: array[int],
    names: list[bytes | None],
    row: int,
    end: int,
    /,
) -> tuple[bytes, int]:
    """Rows from ``row`` to before ``end`` as text, each with its newline, and the first row that
    is not in it: ``end``, or one for whose kind ``names`` has None.

    ``begins`` has one entry more than there are rows, where the last one ends. A name is
    ``b"<type> "``, or ``b"<type> <device> "`` where the start belongs behind it.
    """
    text = []
    for number in range(row, end):
        name = names[kinds[number]]
        if name is None:
            end = number
            break
        begin = begins[number]
        start = b"%d" % starts[number] if name.find(b" ") < len(name) - 1 else b""
        text.append(b"%d %d %b%b\n" % (begin, begins[number + 1] - begin, name, start))
    return b"".join(text), end


python_scan, python_check, python_lines = scan, check, lines

if TYPE_CHECKING:
    # To a type checker the specification is what is used; dmtool/_table.pyi has the same functions.
    COLUMNS = "python"
else:

    def _choose(wanted):
        native = in_c("_table", "DMTOOL_COLUMNS", wanted)
        if native is None:
            return python_scan, python_check, python_lines, "python"
        return native.scan, native.check, native.lines, "native"

    scan, check, lines, COLUMNS = _choose(os.environ.get("DMTOOL_COLUMNS", ""))
