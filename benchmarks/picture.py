# SPDX-License-Identifier: Apache-2.0
"""The results as bars, in SVG written by hand: no library is worth it for rectangles and words."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from statistics import median

from benchmarks.bench import Measurement, Row

WIDTH = 1040
NAMES = 500  # where bars begin
ROOM = 150  # behind them, for numbers
LINE = 18
LONGEST = 4.0  # times what is wanted: longer bars are cut
MET, MISSED, OURS, PEER = "#2e8b57", "#c0392b", "#2e6f9e", "#b8bfc6"
INK = "#222222"


class _Sheet:
    """Lines from the top down."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.at = LINE

    def text(self, x: float, text: str, *, weight: str = "normal", anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:.0f}" y="{self.at + 12}" font-weight="{weight}" text-anchor="{anchor}"'
            f' fill="{INK}">{escape(text)}</text>'
        )

    def bar(self, length: float, colour: str) -> None:
        self.parts.append(
            f'<rect x="{NAMES}" y="{self.at + 2}" width="{max(length, 1):.1f}" height="{LINE - 5}"'
            f' fill="{colour}"/>'
        )

    def down(self, lines: float = 1) -> None:
        self.at += int(lines * LINE)


def draw(rows: Iterable[Row], groups: dict[str, list[Measurement]]) -> str:
    """Each row as how many times what is wanted of it; then each load, with who did how well."""
    sheet = _Sheet()
    sheet.text(16, "What must hold: measured, in times of what is wanted", weight="bold")
    sheet.down(1.5)
    top = sheet.at
    unit = (WIDTH - NAMES - ROOM) / LONGEST
    for row in rows:
        _row(sheet, row, unit)
    sheet.parts.append(
        f'<line x1="{NAMES + unit:.1f}" x2="{NAMES + unit:.1f}" y1="{top}" y2="{sheet.at}"'
        f' stroke="{INK}" stroke-dasharray="3 3"/>'
    )
    for title, group in groups.items():
        sheet.down()
        sheet.text(16, title, weight="bold")
        sheet.down(1.5)
        for measurement in group:
            _measurement(sheet, measurement)
    height = sheet.at + LINE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">'
    )
    paper = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, paper, *sheet.parts, "</svg>", ""])


def _row(sheet: _Sheet, row: Row, unit: float) -> None:
    words = f"{row.title} / {row.against}" if row.against else row.title
    sheet.text(NAMES - 8, _cut(words), anchor="end")
    value = row.median
    if value is None:
        sheet.text(NAMES + 8, f"not measured: {row.note}")
    else:
        times = row.wanted / value if row.at_most else value / row.wanted
        length = min(times, LONGEST) * unit
        sheet.bar(length, MET if row.met else MISSED)
        sheet.text(NAMES + length + 6, f"{value:,.3g} of {row.wanted:,g} {row.unit}")
    sheet.down()


def _measurement(sheet: _Sheet, measurement: Measurement) -> None:
    most = max(median(values) for values in measurement.values.values())
    for number, (name, values) in enumerate(measurement.values.items()):
        if not number:
            sheet.text(16, measurement.title)
        sheet.text(NAMES - 8, name, anchor="end")
        value = median(values)
        length = value / most * (WIDTH - NAMES - ROOM) if most else 0
        sheet.bar(length, OURS if name.startswith("dmtool") else PEER)
        sheet.text(NAMES + length + 6, f"{value:,.3g} {measurement.unit}")
        sheet.down()
    sheet.down(0.5)


def _cut(text: str, most: int = 74) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
