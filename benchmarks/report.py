# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: tables for people, JSON for programs, a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from tabulate import tabulate

from benchmarks import machine, picture
from benchmarks.bench import Bench, Measurement, Row, spread

VERDICTS = {True: "met", False: "not met", None: "not measured"}


def shown(value: float) -> str:
    """Three digits that mean something; thousands apart."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def bound(row: Row) -> str:
    return f"{'<=' if row.at_most else '>='} {shown(row.wanted)} {row.unit}"


def rows_table(rows: Iterable[Row], form: str) -> str:
    """What must hold, and whether it does."""
    head = ["", "against", "wanted", "measured", "spread", ""]
    body = []
    for row in rows:
        value = row.median
        against = f"{row.against} ({row.note})" if row.note else row.against
        measured = "" if value is None else f"{shown(value)} {row.unit}"
        about = "" if value is None else f"±{spread(row.measured):.0%}"
        body.append([row.title, against, bound(row), measured, about, VERDICTS[row.met]])
    return str(tabulate(body, head, form, disable_numparse=True))


def groups(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    found: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        found.setdefault(measurement.group or measurement.title, []).append(measurement)
    return found


def group_table(group: list[Measurement], form: str) -> str:
    """A line a measurement, a column for each of those who took part."""
    names = list(dict.fromkeys(name for one in group for name in one.values))
    body = []
    for one in group:
        line = [one.title, one.unit]
        for name in names:
            values = one.values.get(name)
            cell = f"{shown(median(values))} ±{spread(values):.0%}" if values else ""
            if costs := one.costs.get(name):
                cell += f" ({median(costs) * 1e6:.1f} us)"
            line.append(cell)
        body.append([*line, f"{one.others:.2f}"])
    head = ["", "", *names, "others"]
    return str(tabulate(body, head, form, disable_numparse=True))


def conclusion(rows: list[Row]) -> str:
    met = sum(row.met is True for row in rows)
    missed = sum(row.met is False for row in rows)
    left = len(rows) - met - missed
    return f"{met} of {len(rows)} rows met, {missed} not met, {left} not measured."


def page(bench: Bench, day: datetime, picture_name: str) -> str:
    """The whole report, in Markdown."""
    settings = bench.settings
    about = {**machine.description(), **machine.versions()}
    others = max((one.others for one in bench.measurements), default=0.0)
    how = (
        f"{settings.rounds} rounds, {settings.seconds:g} s for each load and server, a device of"
        f" {settings.size} MiB, images on tmpfs unless it says disk. Other programs used up to"
        f" {others:.2f} cores during a measurement."
    )
    what = (
        "## What was measured\n\nMedian and spread of a measurement's rounds; in brackets, the"
        " server's CPU time for a request. `others`: cores that other programs were using."
    )
    parts = [
        f"# Benchmarks of {day:%Y-%m-%d}",
        "Made by `make bench`; [README.md](README.md) says how to read this.",
        tabulate(about.items(), ["", ""], "github", disable_numparse=True),
        how,
        *(f"- {note}" for note in bench.notes),
        f"## What must hold\n\n{conclusion(bench.rows)}",
        rows_table(bench.rows, "github"),
        f"![The same as bars]({picture_name})",
        what,
    ]
    for title, group in groups(bench.measurements).items():
        parts += [f"### {title}", group_table(group, "github")]
    return "\n\n".join(parts) + "\n"


def data(bench: Bench, day: datetime) -> dict[str, Any]:
    """All of it, for programs."""
    settings = bench.settings
    return {
        "date": day.isoformat(timespec="seconds"),
        "machine": machine.description(),
        "versions": machine.versions(),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "size_mib": settings.size,
        "notes": bench.notes,
        "rows": [{**asdict(row), "median": row.median, "met": row.met} for row in bench.rows],
        "measurements": [asdict(one) for one in bench.measurements],
    }


def write(bench: Bench, folder: Path) -> list[Path]:
    """The three files, called after today."""
    day = datetime.now(UTC)
    name = f"{day:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / f"{name}.md": page(bench, day, f"{name}.svg"),
        folder / f"{name}.json": json.dumps(data(bench, day), indent=1) + "\n",
        folder / f"{name}.svg": picture.draw(bench.rows, groups(bench.measurements)),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)
