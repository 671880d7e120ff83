# SPDX-License-Identifier: Apache-2.0
"""``--format``: tables for people, in any of the formats that tabulate knows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tabulate import tabulate, tabulate_formats

from dmtool.cli.getopt import CommandLineError

# What tables that dmsetup does not have are formatted as.
PLAIN = "plain"

# Headings, and to which side the column below is aligned.
Headings = dict[str, str]

TARGETS: Headings = {
    "Name": "left",
    "Start": "right",
    "Length": "right",
    "Type": "left",
    "Parameters": "left",
}
DEVICES: Headings = {"Name": "left", "Device": "left"}
DEPENDENCIES: Headings = {"Name": "left", "Kind": "left", "Device": "left", "Path": "left"}
PIECES: Headings = {
    "Start": "right",
    "Length": "right",
    "Type": "left",
    "Way": "left",
    "Ends in": "left",
    "Byte offset": "right",
}
TYPES: Headings = {"Name": "left", "Version": "left", "Distribution": "left", "Error": "left"}


def check(name: str) -> None:
    """Raises CommandLineError for what is no format."""
    if name not in tabulate_formats:
        known = textwrap.wrap(f"It is one of {', '.join(tabulate_formats)}.", 79)
        raise CommandLineError(f"Unknown format: {name}.", *known)


def formatted(
    name: str,
    headings: Sequence[str],
    sides: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shown: bool = True,
) -> str:
    """A table, "" without rows. ``sides``: ``left`` or ``right`` for each column. ``shown``: with
    its headings."""
    if not rows:
        return ""
    if name == PLAIN and shown:
        # as a row, where nothing is put beside them
        rows, shown = [headings, *rows], False
    text: str = tabulate(
        rows,
        headings if shown else (),
        tablefmt=name,
        disable_numparse=True,
        colalign=sides,
    )
    return "".join(line.rstrip(" ") + "\n" for line in text.split("\n"))
