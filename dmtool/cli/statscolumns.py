# SPDX-License-Identifier: Apache-2.0
"""What the columns of statistics say of a row: an area, a region or a group.

The columns themselves are with all others in ``dmtool.cli.columns``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from dmtool.cli import columns
from dmtool.cli.columns import Value
from dmtool.cli.histogram import MS, Histogram, Shape
from dmtool.cli.regions import PROGRAM, Group, Item, Listing, ranges
from dmtool.cli.rows import Row
from dmtool.cli.session import Session
from dmtool.cli.sizes import Units

_SECOND = 1_000_000_000  # nanoseconds
_NEVER = (1 << 64) - 1  # what no group's name is sorted by

# The counters, in the order of @stats_print.
_COUNTERS = (
    "read_count", "reads_merged_count", "read_sector_count", "read_time",
    "write_count", "writes_merged_count", "write_sector_count", "write_time",
    "in_progress_count", "io_ticks", "queue_ticks", "read_ticks", "write_ticks",
)  # fmt: skip


class StatsRow(Row):
    """One item of a device's statistics; ``interval`` in nanoseconds is what it was counted over."""

    kinds = Row.kinds | {columns.STATS, columns.REGION}

    def __init__(
        self, session: Session, info: dict[str, Any], listing: Listing, item: Item,
        units: Units, interval: int,
    ) -> None:  # fmt: skip
        super().__init__(session, info)
        self.listing = listing
        self.item = item
        self.region = item.region
        self.units = units
        self.interval = interval
        switches = session.switches
        self.shape = Shape("noheadings" not in switches, "notimesuffix" not in switches)

    def statistic(self, name: str) -> Value:
        return VALUES[name](self)

    @property
    def group(self) -> Group | None:
        """The item, if it is a group."""
        return self.item.group

    @cached_property
    def counters(self) -> dict[str, int]:
        """The counters, added up over all areas that the item has."""
        regions = [self.listing.regions[name] for name in self.group.regions] if self.group else []
        rows = [row for region in regions or [self.region] for row in region.counters]
        if self.item.type == "area":
            rows = [self.region.counters[self.item.area]]
        return dict(zip(_COUNTERS, map(sum, zip(*rows, strict=True)), strict=True))

    @property
    def histogram(self) -> Histogram | None:
        if self.group is None:
            return self.region.histogram(self.item.area if self.item.type == "area" else None)
        members = [self.listing.regions[name].histogram(None) for name in self.group.regions]
        found = [histogram for histogram in members if histogram is not None]
        if not found or self.region.histogram(None) is None:
            return None
        total = found[0]
        for histogram in found[1:]:
            total += histogram
        return total

    @property
    def length(self) -> int:
        """Of the region, or of all regions of the group; sectors."""
        if self.group is None:
            return self.region.length
        return sum(self.listing.regions[name].length for name in self.group.regions)

    @property
    def offset(self) -> int:
        """Of the area in its region; sectors."""
        return self.region.step * self.item.area

    @property
    def stats_name(self) -> str:
        """The alias of the group that the item is, or is in, or else the device's name."""
        group = None if self.region.group is None else self.listing.groups.get(self.region.group)
        return group.alias if group and group.alias else self.name

    def per_second(self, number: int) -> float:
        return number * _SECOND / self.interval

    def ratio(self, dividend: tuple[str, ...], divisor: tuple[str, ...]) -> float:
        """Of sums of counters; 0 where the divisor is 0."""
        total = sum(self.counters[name] for name in divisor)
        return sum(self.counters[name] for name in dividend) / total if total else 0.0

    @property
    def util(self) -> float:
        """The part of the interval in which there was I/O, at most 1."""
        return min(1.0, self.counters["io_ticks"] / self.interval)


def _text(text: str) -> Value:
    return Value(text, text)


def _number(number: int) -> Value:
    return Value(str(number), number)


def _fixed(number: float, places: int = 2) -> Value:
    return Value(f"{number:.{places}f}", number)


def _counter(name: str) -> Callable[[StatsRow], Value]:
    return lambda row: _number(row.counters[name])


def _rate(name: str) -> Callable[[StatsRow], Value]:
    return lambda row: _fixed(row.per_second(row.counters[name]))


def _size(sectors: Callable[[StatsRow], float]) -> Callable[[StatsRow], Value]:
    return lambda row: Value(row.units.show(int(sectors(row))), sectors(row))


def _wait(kinds: tuple[str, ...]) -> Callable[[StatsRow], Value]:
    """Milliseconds that a request of these kinds took."""
    times = tuple(f"{kind}_time" for kind in kinds)
    counts = tuple(f"{kind}_count" for kind in kinds)
    return lambda row: _fixed(row.ratio(times, counts) / MS)


def _percent(part: float) -> Value:
    """Two digits, which show 0.00 and 100.00 only for exactly that (dm_percent_to_round_float)."""
    percent = 100 * part
    shown = percent if part in (0.0, 1.0) else min(99.99, max(0.01, percent))
    return Value(f"{shown:.2f}", percent)


def _service_time(row: StatsRow) -> Value:
    """Milliseconds of the device's time that a request took."""
    throughput = row.per_second(row.counters["read_count"] + row.counters["write_count"])
    return _fixed(1000 * row.util / throughput if throughput else 0.0)


def _histogram(values: str, bounds: str) -> Callable[[StatsRow], Value]:
    def shown(row: StatsRow) -> Value:
        found = row.histogram
        return _text(found.text(row.shape, values=values, bounds=bounds) if found else "")

    return shown


def _region_id(row: StatsRow) -> Value:
    if row.group is None:
        return _number(row.region.id)
    return Value(ranges(row.group.regions), row.group.id)


def _bins(row: StatsRow) -> Value:
    return _text(str(len(row.region.bounds) + 1 if row.region.bounds and not row.group else 0))


_READS, _WRITES = ("read",), ("write",)
_SECTORS = ("read_sector_count", "write_sector_count")
_REQUESTS = ("read_count", "write_count")

VALUES: dict[str, Callable[[StatsRow], Value]] = {
    **{name: _counter(name) for name in _COUNTERS},
    "reads_merged_per_sec": _rate("reads_merged_count"),
    "writes_merged_per_sec": _rate("writes_merged_count"),
    "reads_per_sec": _rate("read_count"),
    "writes_per_sec": _rate("write_count"),
    "read_size_per_sec": _size(lambda row: row.per_second(row.counters["read_sector_count"])),
    "write_size_per_sec": _size(lambda row: row.per_second(row.counters["write_sector_count"])),
    "avg_request_size": _size(lambda row: row.ratio(_SECTORS, _REQUESTS)),
    "queue_size": lambda row: _fixed(row.counters["queue_ticks"] / row.interval),
    "await": _wait(_READS + _WRITES),
    "read_await": _wait(_READS),
    "write_await": _wait(_WRITES),
    "throughput": lambda row: _fixed(row.per_second(sum(row.counters[name] for name in _REQUESTS))),
    "service_time": _service_time,
    "util": lambda row: _percent(row.util),
    "hist_count": _histogram("count", ""),
    "hist_count_bounds": _histogram("count", "lower"),
    "hist_count_ranges": _histogram("count", "range"),
    "hist_percent": _histogram("percent", ""),
    "hist_percent_bounds": _histogram("percent", "lower"),
    "hist_percent_ranges": _histogram("percent", "range"),
    "interval_ns": lambda row: _number(row.interval),
    "interval": lambda row: _fixed(row.interval / _SECOND, 6),
    "region_id": _region_id,
    "region_start": _size(lambda row: row.region.start),
    "region_len": _size(lambda row: row.length),
    "area_id": lambda row: _number(row.item.area),
    "area_start": _size(lambda row: row.region.start + row.offset),
    "area_len": _size(lambda row: row.length if row.group else row.region.step),
    "area_offset": _size(lambda row: row.offset),
    "area_count": lambda row: _number(1 if row.group else row.region.areas),
    "group_id": lambda row: (
        Value("-", _NEVER) if row.region.group is None else _number(row.region.group)
    ),
    "program_id": lambda row: _text(PROGRAM if row.group else row.region.program_id),
    "user_data": lambda row: _text("" if row.group else row.region.user_data),
    "precise": lambda row: _text(str(int(row.region.precise))),
    "hist_bins": _bins,
    "hist_bounds": _histogram("", "lower"),
    "hist_ranges": _histogram("", "range"),
    "stats_name": lambda row: _text(row.stats_name),
    "obj_type": lambda row: _text(row.item.type),
}
