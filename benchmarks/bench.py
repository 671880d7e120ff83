# SPDX-License-Identifier: Apache-2.0
"""What a group of rows works with: settings, turns, and the record of what was measured."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median, quantiles
from typing import TypeVar

from benchmarks.machine import used_by_others

T = TypeVar("T")

DISTURBED = 0.1  # cores
_LOOK = 0.2  # seconds; the kernel counts the use of a core in steps of 0.01
_SHORT = 0.3  # seconds; how much of less was disturbed cannot be told


@dataclass(frozen=True, slots=True)
class Settings:
    """``folder`` is on tmpfs, ``disk`` on a disk: images are made there. ``seconds`` are for one
    load of one server in one round. ``size`` is the device's, in MiB, a power of two.
    ``patience``: seconds to wait in all for other programs to be quiet."""

    folder: Path
    disk: Path
    rounds: int
    seconds: float
    size: int
    large: bool
    patience: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One load, and what each of those who carried it made of it: a value a round.

    ``costs`` are CPU seconds of the server for an operation, where they are known. ``others`` is
    how many cores programs that have nothing to do with it were using meanwhile.
    """

    key: str
    title: str
    unit: str
    values: dict[str, list[float]]
    costs: dict[str, list[float]] = field(default_factory=dict)
    more_is_better: bool = True
    group: str = ""
    others: float = 0.0

    @property
    def disturbed(self) -> bool:
        return self.others > DISTURBED

    def best(self, names: Iterable[str]) -> str | None:
        """Who of these did best, by the median; None where none of them was there."""
        there = [name for name in names if name in self.values]
        choose = max if self.more_is_better else min
        return choose(there, key=lambda name: median(self.values[name]), default=None)


@dataclass(frozen=True, slots=True)
class Row:
    """Something that must hold: ``measured`` is at least (or at most) ``wanted``.

    ``measured`` has a value a round: ratios, or numbers in ``unit``. Empty: nothing to compare
    with, and ``note`` says why.
    """

    title: str
    against: str
    wanted: float
    measured: list[float]
    unit: str = "x"
    at_most: bool = False
    note: str = ""

    @property
    def median(self) -> float | None:
        return median(self.measured) if self.measured else None

    @property
    def met(self) -> bool | None:
        """None: nothing to compare with."""
        value = self.median
        if value is None:
            return None
        return value <= self.wanted if self.at_most else value >= self.wanted


def spread(values: list[float]) -> float:
    """Half the distance between the quartiles, as a part of the median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle if middle else 0.0


def _watch(run: Callable[[], T]) -> tuple[T, float]:
    """Call ``run``: what it answers, and the cores that other programs used meanwhile."""
    used, begin = used_by_others(), time.monotonic()
    value = run()
    return value, max(used_by_others() - used, 0.0) / (time.monotonic() - begin)


class Bench:
    """``measurements`` and ``rows`` in the order they came."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.measurements: list[Measurement] = []
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self._others = 0.0
        self._patience = settings.patience

    def turns(
        self, runs: Mapping[str, Callable[[], float]], rounds: int | None = None
    ) -> dict[str, list[float]]:
        """Have all of ``runs`` take turns, in another order in each round, since who comes after
        whom may matter; their values."""
        names = list(runs)
        values: dict[str, list[float]] = {name: [] for name in names}
        others: list[float] = []
        for number in range(rounds or self.settings.rounds):
            for name in random.Random(number).sample(names, len(names)):
                value, used = self._turn(runs[name])
                values[name].append(value)
                others.append(used)
        self._others = mean(others)
        return values

    def _turn(self, run: Callable[[], float]) -> tuple[float, float]:
        """One turn: its value, and the cores that other programs used meanwhile. While there is
        patience left it begins when they are quiet, and is taken again when they were not."""
        while True:
            while self._patience > 0 and _watch(lambda: time.sleep(_LOOK))[1] > DISTURBED:
                self._patience -= _LOOK
            begin = time.monotonic()
            value, used = _watch(run)
            took = time.monotonic() - begin
            if used <= DISTURBED or took < _SHORT or self._patience <= 0:
                return value, used
            self._patience -= took

    def add(self, measurement: Measurement) -> Measurement:
        """Record a measurement, the last that turns were taken for, and show it."""
        measurement = replace(measurement, others=self._others)
        self.measurements.append(measurement)
        shown = ", ".join(
            f"{name} {median(values):.4g} ±{spread(values):.0%}"
            for name, values in measurement.values.items()
        )
        disturbed = f" (others: {measurement.others:.2f} cores)" if measurement.disturbed else ""
        say(f"  {measurement.title}: {shown} {measurement.unit}{disturbed}")
        return measurement

    def ratio(
        self,
        title: str,
        against: str,
        wanted: float,
        measurement: Measurement,
        ours: str,
        peers: Iterable[str],
        *,
        at_most: bool = False,
    ) -> None:
        """Record a row: ours in proportion to the best of ``peers``, round by round."""
        names = list(peers)
        peer = measurement.best(names)
        if peer is None or ours not in measurement.values:
            missing = ours if peer is not None else " and ".join(names)
            self.row(Row(title, against, wanted, [], at_most=at_most, note=f"without {missing}"))
            return
        pairs = zip(measurement.values[ours], measurement.values[peer], strict=True)
        ratios = [mine / theirs for mine, theirs in pairs]
        note = peer if peer != against else ""
        self.row(Row(title, against, wanted, ratios, at_most=at_most, note=note))

    def row(self, row: Row) -> None:
        """Record a row, and show it."""
        self.rows.append(row)
        value = row.median
        shown = "not measured" if value is None else f"{value:.3g} {row.unit}"
        verdict = {True: "met", False: "NOT MET", None: row.note}[row.met]
        bound = "at most" if row.at_most else "at least"
        say(f"* {row.title}: {shown}, {bound} {row.wanted:g} {row.unit}: {verdict}")

    def note(self, text: str) -> None:
        """Record what a reader has to know: who is missing, what was not as it should be."""
        if text not in self.notes:
            self.notes.append(text)
            say(f"! {text}")


def say(text: str) -> None:
    """Progress, for whoever waits: the results come at the end, on standard output."""
    print(text, file=sys.stderr, flush=True)
