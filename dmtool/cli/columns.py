# SPDX-License-Identifier: Apache-2.0
"""The columns of reports as data: dmsetup's ids, headings, widths, order and help.

One declaration is one column. ``VALUES`` has what a column says of a row, by id; what the columns
of statistics say, which only a row of statistics knows, is in ``dmtool.cli.statscolumns``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from dmtool.names import NAME_MAX, UUID_MAX, unmangle

if TYPE_CHECKING:
    from dmtool.cli.rows import Row

TASK, INFO, DEPS, TREE, NAME, STATS, REGION = range(7)

# The prefix of `<prefix>_all`, by kind; deps_ and tree_ are one section of the help.
PREFIXES = {
    TASK: "name_",
    INFO: "info_",
    DEPS: "deps_",
    TREE: "tree_",
    NAME: "splitname_",
    STATS: "stats_",
    REGION: "region_",
}
TITLES = {
    TASK: "Mapped Device Name",
    INFO: "Mapped Device Information",
    DEPS: "Mapped Device Relationship Information",
    TREE: "Mapped Device Relationship Information",
    NAME: "Mapped Device Name Components",
    STATS: "Mapped Device Statistics",
    REGION: "Mapped Device Statistics Region Information",
}


STRING, NUMBER, SIZE = "string", "number", "size"


class Column(NamedTuple):
    """One column. ``width``: the least. ``type`` says how it is sorted and selected."""

    id: str
    heading: str
    kind: int
    width: int
    type: str
    description: str

    @property
    def numeric(self) -> bool:
        """Right-aligned, and sorted as a number."""
        return self.type != STRING


class Value(NamedTuple):
    """What a column says of a row where what is shown is not what is sorted and selected by.

    ``sort`` of a SIZE column is in sectors.
    """

    text: str
    sort: str | int | float


def _text(kind: int, name: str, heading: str, width: int, description: str) -> Column:
    return Column(name, heading, kind, width, STRING, description)


def _number(kind: int, name: str, heading: str, width: int, description: str) -> Column:
    return Column(name, heading, kind, width, NUMBER, description)


def _size(kind: int, name: str, heading: str, width: int, description: str) -> Column:
    return Column(name, heading, kind, width, SIZE, description)


# fmt: off
COLUMNS = (
    _text(TASK, "name", "Name", 16, "Name of mapped device."),
    _text(TASK, "mangled_name", "MangledName", 16, "Mangled name of mapped device."),
    _text(TASK, "unmangled_name", "UnmangledName", 16, "Unmangled name of mapped device."),
    _text(TASK, "uuid", "UUID", 32, "Unique (optional) identifier for mapped device."),
    _text(TASK, "mangled_uuid", "MangledUUID", 32, "Mangled unique (optional) identifier for mapped device."),
    _text(TASK, "unmangled_uuid", "UnmangledUUID", 32, "Unmangled unique (optional) identifier for mapped device."),
    _number(TASK, "read_ahead", "RAhead", 6, "Read ahead value."),
    _text(INFO, "blkdevname", "BlkDevName", 16, "Name of block device."),
    _text(INFO, "attr", "Stat", 4, "(L)ive, (I)nactive, (s)uspended, (r)ead-only, read-(w)rite."),
    _text(INFO, "tables_loaded", "Tables", 6, "Which of the live and inactive table slots are filled."),
    _text(INFO, "suspended", "Suspended", 9, "Whether the device is suspended."),
    _text(INFO, "readonly", "Read-only", 9, "Whether the device is read-only or writeable."),
    _text(INFO, "devno", "DevNo", 5, "Device major and minor numbers"),
    _number(INFO, "major", "Maj", 3, "Block device major number."),
    _number(INFO, "minor", "Min", 3, "Block device minor number."),
    _number(INFO, "open", "Open", 4, "Number of references to open device, if requested."),
    _number(INFO, "segments", "Targ", 4, "Number of segments in live table, if present."),
    _number(INFO, "events", "Event", 6, "Number of most recent event."),
    _number(DEPS, "device_count", "#Devs", 5, "Number of devices used by this one."),
    _text(TREE, "devs_used", "DevNamesUsed", 16, "List of names of mapped devices used by this one."),
    _text(DEPS, "devnos_used", "DevNosUsed", 16, "List of device numbers of devices used by this one."),
    _text(DEPS, "blkdevs_used", "BlkDevNamesUsed", 16, "List of names of block devices used by this one."),
    _number(TREE, "device_ref_count", "#Refs", 5, "Number of mapped devices referencing this one."),
    _text(TREE, "names_using_dev", "RefNames", 8, "List of names of mapped devices using this one."),
    _text(TREE, "devnos_using_dev", "RefDevNos", 9, "List of device numbers of mapped devices using this one."),
    _text(NAME, "subsystem", "Subsys", 6, "Userspace subsystem responsible for this device."),
    _text(NAME, "vg_name", "VG", 4, "LVM Volume Group name."),
    _text(NAME, "lv_name", "LV", 4, "LVM Logical Volume name."),
    _text(NAME, "lv_layer", "LVLayer", 7, "LVM device layer."),
    _number(STATS, "read_count", "#Reads", 6, "Count of reads completed."),
    _number(STATS, "reads_merged_count", "#RdMrgs", 7, "Count of read requests merged."),
    _number(STATS, "read_sector_count", "#RdSectors", 10, "Count of sectors read."),
    _number(STATS, "read_time", "AccRdTime", 11, "Accumulated duration of all read requests (ns)."),
    _number(STATS, "write_count", "#Writes", 7, "Count of writes completed."),
    _number(STATS, "writes_merged_count", "#WrMrgs", 7, "Count of write requests merged."),
    _number(STATS, "write_sector_count", "#WrSectors", 10, "Count of sectors written."),
    _number(STATS, "write_time", "AccWrTime", 11, "Accumulated duration of all writes (ns)."),
    _number(STATS, "in_progress_count", "#InProg", 7, "Count of requests currently in progress."),
    _number(STATS, "io_ticks", "IoTicks", 7, "Nanoseconds spent servicing requests."),
    _number(STATS, "queue_ticks", "QueueTicks", 10, "Total nanoseconds spent in queue."),
    _number(STATS, "read_ticks", "RdTicks", 7, "Nanoseconds spent servicing reads."),
    _number(STATS, "write_ticks", "WrTicks", 7, "Nanoseconds spent servicing writes."),
    _number(STATS, "reads_merged_per_sec", "RMrg/s", 6, "Read requests merged per second."),
    _number(STATS, "writes_merged_per_sec", "WMrg/s", 6, "Write requests merged per second."),
    _number(STATS, "reads_per_sec", "R/s", 3, "Reads per second."),
    _number(STATS, "writes_per_sec", "W/s", 3, "Writes per second."),
    _number(STATS, "read_size_per_sec", "RSz/s", 5, "Size of data read per second."),
    _number(STATS, "write_size_per_sec", "WSz/s", 5, "Size of data written per second."),
    _number(STATS, "avg_request_size", "AvgRqSz", 7, "Average request size."),
    _number(STATS, "queue_size", "QSize", 5, "Average queue size."),
    _number(STATS, "await", "AWait", 5, "Averate wait time."),
    _number(STATS, "read_await", "RdAWait", 7, "Averate read wait time."),
    _number(STATS, "write_await", "WrAWait", 7, "Averate write wait time."),
    _number(STATS, "throughput", "Throughput", 10, "Throughput."),
    _number(STATS, "service_time", "SvcTm", 5, "Service time."),
    _number(STATS, "util", "Util%", 5, "Utilization."),
    _text(STATS, "hist_count", "Histogram Counts", 16, "Latency histogram counts."),
    _text(STATS, "hist_count_bounds", "Histogram Counts", 16, "Latency histogram counts with bin boundaries."),
    _text(STATS, "hist_count_ranges", "Histogram Counts", 16, "Latency histogram counts with bin ranges."),
    _text(STATS, "hist_percent", "Histogram%", 10, "Relative latency histogram."),
    _text(STATS, "hist_percent_bounds", "Histogram%", 10, "Relative latency histogram with bin boundaries."),
    _text(STATS, "hist_percent_ranges", "Histogram%", 10, "Relative latency histogram with bin ranges."),
    _number(STATS, "interval_ns", "IntervalNs", 10, "Sampling interval in nanoseconds."),
    _number(STATS, "interval", "Interval", 8, "Sampling interval."),
    _number(REGION, "region_id", "RgID", 4, "Region ID."),
    _size(REGION, "region_start", "RgStart", 7, "Region start."),
    _size(REGION, "region_len", "RgSize", 6, "Region length."),
    _number(REGION, "area_id", "ArID", 4, "Area ID."),
    _size(REGION, "area_start", "ArStart", 7, "Area offset from start of device."),
    _size(REGION, "area_len", "ArSize", 6, "Area length."),
    _size(REGION, "area_offset", "ArOff", 5, "Area offset from start of region."),
    _number(REGION, "area_count", "#Areas", 6, "Area count."),
    _number(REGION, "group_id", "GrpID", 5, "Group ID."),
    _text(REGION, "program_id", "ProgID", 6, "Program ID."),
    _text(REGION, "user_data", "UserData", 8, "Auxiliary data."),
    _text(REGION, "precise", "Precise", 7, "Set if nanosecond precision counters are enabled."),
    _text(REGION, "hist_bins", "#Bins", 9, "The number of histogram bins configured."),
    _text(REGION, "hist_bounds", "Histogram Bounds", 16, "Latency histogram bin boundaries."),
    _text(REGION, "hist_ranges", "Histogram Ranges", 16, "Latency histogram bin ranges."),
    _text(REGION, "stats_name", "Name", 16, "Stats name of current object."),
    _text(REGION, "obj_type", "ObjType", 7, "Type of stats object being reported."),
)
# fmt: on

# Of no kind: every row has a value for it.
SPECIAL = -1
SELECTED = Column(
    "selected", "Selected", SPECIAL, 8, NUMBER, "Set if item passes selection criteria."
)
HELP = ("help", "?")
SPECIAL_COLUMNS = (
    SELECTED,
    *(Column(word, "Help", SPECIAL, 8, NUMBER, "Show help.") for word in HELP),
)


def _attr(row: Row) -> str:
    info = row.info
    return (
        ("L" if info["live"] else "-")
        + ("I" if info["inactive"] else "-")
        + ("s" if info["suspended"] else "-")
        + ("r" if row.readonly else "w")
    )


def _tables(row: Row) -> str:
    return {
        (True, True): "Both",
        (True, False): "Live",
        (False, True): "Inactive",
        (False, False): "None",
    }[bool(row.info["live"]), bool(row.info["inactive"])]


VALUES: dict[str, Callable[[Row], str | int | Value]] = {
    "name": lambda row: row.name,
    "mangled_name": lambda row: row.naming.mangled(row.name, "name", NAME_MAX),
    "unmangled_name": lambda row: unmangle(row.name) if row.naming.mode == "none" else row.name,
    "uuid": lambda row: row.uuid,
    "mangled_uuid": lambda row: row.naming.mangled(row.uuid, "UUID", UUID_MAX),
    "unmangled_uuid": lambda row: unmangle(row.uuid) if row.naming.mode == "none" else row.uuid,
    "read_ahead": lambda row: int(row.info["read_ahead"]),
    "blkdevname": lambda row: f"dm-{row.info['minor']}",
    "attr": _attr,
    "tables_loaded": _tables,
    "suspended": lambda row: "Suspended" if row.info["suspended"] else "Active",
    "readonly": lambda row: "Read-only" if row.readonly else "Writeable",
    "devno": lambda row: f"{row.info['major']}:{row.info['minor']}",
    "major": lambda row: int(row.info["major"]),
    "minor": lambda row: int(row.info["minor"]),
    "open": lambda row: row.open_count,
    "segments": lambda row: row.target_count,
    "events": lambda row: int(row.info["event_nr"]),
    "device_count": lambda row: len(row.deps),
    "devs_used": lambda row: ",".join(row.names_used),
    "devnos_used": lambda row: ",".join(row.devnos_used),
    "blkdevs_used": lambda row: ",".join(row.blkdevs_used),
    "device_ref_count": lambda row: len(row.users),
    "names_using_dev": lambda row: ",".join(row.names_using),
    "devnos_using_dev": lambda row: ",".join(row.devnos_using),
    "subsystem": lambda row: row.parts.subsystem,
    "vg_name": lambda row: row.parts.vg,
    "lv_name": lambda row: row.parts.lv,
    "lv_layer": lambda row: row.parts.layer,
}
