# SPDX-License-Identifier: Apache-2.0
"""``stats COMMAND``, which is ``dmstats`` by another name: what shows, and what commands there are.

What makes and removes regions and groups is in ``dmtool.cli.statschange``.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from dmtool.cli import columns
from dmtool.cli.command import function_of
from dmtool.cli.regions import PROGRAM, Item, Listing
from dmtool.cli.session import Device, Failed, Session
from dmtool.cli.show import each, present
from dmtool.cli.sizes import Units

if TYPE_CHECKING:
    from dmtool.cli.statscolumns import StatsRow

_SECOND = 1_000_000_000  # nanoseconds

_NAME = "statsname,group_id,region_id,obj_type"
_AREA = "area_id,area_start,area_len"
_REGION = f"{_NAME},region_start,region_len,area_count,area_len"
_ALL = f"{_NAME},region_start,region_len,area_count,{_AREA}"
_METRICS = (
    "reads_merged_per_sec,writes_merged_per_sec,reads_per_sec,writes_per_sec,read_size_per_sec,"
    "write_size_per_sec,avg_request_size,queue_size,util,await,read_await,write_await"
)
_COUNTERS = (
    "read_count,reads_merged_count,read_sector_count,read_time,read_ticks,"
    "write_count,writes_merged_count,write_sector_count,write_time,write_ticks,"
    "in_progress_count,io_ticks,queue_ticks"
)


class Subcommand(NamedTuple):
    """One command; ``function`` as of Command in ``dmtool.cli.command``."""

    name: str
    function: str
    usage: str = ""


# In the order of the usage text; the blanks at the ends of lines are dmsetup's.
SUBCOMMANDS = (
    Subcommand("help", "stats:help_"),
    Subcommand("clear", "stats:clear", "[--allregions|--regionid id] [--alldevices|<device>...] "),
    Subcommand(
        "create",
        "statschange:create",
        "[--start <start> [--length <len>]\n"
        "\t    [--areas <nr_areas>] [--areasize <size>] \n"
        "\t    [--programid <id>] [--userdata <data> ] \n"
        "\t    [--bounds histogram_boundaries] [--precise] \n"
        "\t    [--segments] [--alldevices|<device>...] ",
    ),
    Subcommand(
        "create",
        "statschange:create",
        "--filemap [--nogroup] [--nomonitor] [--follow mode]\n"
        "\t    [--programid <id>] [--userdata <data> ] \n"
        "\t    [--bounds histogram_boundaries] [--precise] <file_path>",
    ),
    Subcommand(
        "delete",
        "statschange:delete",
        "[--allprograms|--programid id] \n"
        "\t    [--allregions|--regionid id] \n"
        "\t    [--alldevices|<device>...] ",
    ),
    Subcommand(
        "group",
        "statschange:group",
        "[--alias NAME] --regions <regions>\n"
        "\t    [--allprograms|--programid id] [--alldevices|<device>...] ",
    ),
    Subcommand(
        "list", "stats:list_", "[--allprograms|--programid id] [--allregions|--regionid id] "
    ),
    Subcommand(
        "print",
        "stats:print_",
        "[--clear] [--allprograms|--programid id] \n"
        "\t    [--allregions|--regionid id] \n"
        "\t    [--alldevices|<device>...] ",
    ),
    Subcommand(
        "report",
        "stats:report",
        "[--interval <seconds>] [--count <cnt>]\n"
        "\t    [--units <u>] [--programid <id>] [--regionid <id>] \n"
        "\t    [-o <fields>] [-O|--sort <sort_fields>]\n"
        "\t    [-S|--select <selection>] [--nameprefixes]\n"
        "\t    [--noheadings] [--separator <separator>]\n"
        "\t    [--allprograms|--programid id] [<device>...]",
    ),
    Subcommand(
        "ungroup",
        "statschange:ungroup",
        "--groupid <id> [--allprograms|--programid id] \n\t    [--alldevices|<device>...] ",
    ),
    Subcommand(
        "update_filemap",
        "statschange:update_filemap",
        "--groupid <id> \n\t    [--nomonitor] [--follow mode] <file_path>",
    ),
    Subcommand("version", "stats:version"),
)


class Sampling:
    """The time that counters are counted over: as long as configured at first, then measured from
    sample to sample. All devices of one turn have the same."""

    def __init__(self, seconds: int) -> None:
        self.interval = seconds * _SECOND
        self._begun = 0
        self._seen: set[str] = set()

    def sampled(self, name: str) -> int:
        """The counters of a device were read and set to zero; the interval in nanoseconds."""
        if not self._begun or name in self._seen:
            now = monotonic_ns()
            if self._begun:
                self.interval = now - self._begun
            self._begun = now
            self._seen.clear()
        self._seen.add(name)
        return self.interval


class Showing(NamedTuple):
    """How numbers are shown, and what time they are counted over."""

    units: Units
    sampling: Sampling


def prepare(session: Session) -> bool:
    """Set up what the command line asks for; False, and a word why, if it cannot be had."""
    from dmtool.cli.report import Report, ReportError

    switches = session.switches
    switches.put("columns")
    about = {columns.REGION} if session.subcommand == "list" else {columns.REGION, columns.STATS}
    try:
        session.report = Report(session, "stats", _default_columns(session), frozenset(about))
    except ReportError as error:
        session.error(*error.args)
        return False
    given = switches.value("units")
    units = Units.of("h" if given is None else given)
    if units is None:
        session.error("Invalid --units argument.")
        return False
    session.showing = Showing(units, Sampling(switches.number("interval") or 1))
    return True


def _default_columns(session: Session) -> str:
    switches = session.switches
    histogram = "histogram" in switches
    if session.subcommand == "list":
        what = _ALL if "verbose" in switches else _REGION
        return f"{what},hist_bins,hist_bounds" if histogram else f"{what},program_id"
    if histogram:
        shown = "hist_percent_bounds" if "relative" in switches else "hist_count_bounds"
        return f"{_REGION},util,await,{shown}"
    return f"{_NAME},{_AREA},{_COUNTERS if 'raw' in switches else _METRICS}"


def stats(session: Session, operands: list[str]) -> None:
    """``stats COMMAND [DEVICE...]``: called for each device."""
    switches = session.switches
    found = [known for known in SUBCOMMANDS if known.name == session.subcommand]
    if not found:
        session.error("Unknown stats command.")
        help_(session, operands)
        raise Failed
    for both in (("programs", "programid"), ("regions", "regionid")):
        if f"all{both[0]}" in switches and both[1] in switches:
            raise Failed(f"Please supply one of --all{both[0]} and --{both[1]}")
    if "follow" in switches and "nomonitor" in switches:
        raise Failed("Use of --follow is incompatible with --nomonitor.")
    if found[0].name not in {"list", "report"}:
        session.report = None
    if session.json and found[0].name in {"create", "delete", "group", "ungroup"}:
        session.add_json("regions")
        session.add_json("groups")
    function_of(found[0].function)(session, operands)


def usage(prog: str) -> str:
    """The whole usage text; ``prog`` as in ``dmsetup stats``."""
    lines = "".join(f"\t{known.name} {known.usage}\n" for known in SUBCOMMANDS)
    return f"""\
Usage:

{prog}
        [-h|--help]
        [-v|--verbose [-v|--verbose ...]]
        [--areas <nr_areas>] [--areasize <size>]
        [--userdata <data>] [--clear]
        [--count <count>] [--interval <seconds>]
        [-o <fields>] [-O|--sort <sort_fields>]
\t      [--programid <id>]
        [--start <start>] [--length <length>]
        [--segments] [--units <units>]

{lines}
<device> may be device name or (if only one) -u <uuid> or -j <major> -m <minor>
<fields> are comma-separated.  Use 'help -c' for list.

"""


def help_(session: Session, _operands: list[str]) -> None:
    """``help``: the usage text and all columns, on stderr."""
    from dmtool.cli.fields import field_help
    from dmtool.cli.usage import usage_of

    session.error(usage_of(session).removesuffix("\n"), *field_help(), " ")


def version(session: Session, operands: list[str]) -> None:
    """``version``, as that of dmsetup."""
    from dmtool.cli.versions import version as show_version

    show_version(session, operands)


# -- what shows ------------------------------------------------------------------------------------


def program(session: Session) -> str:
    """The program whose regions are meant; "" for those of all."""
    if "allprograms" in session.switches:
        return ""
    given = session.switches.value("programid")
    return PROGRAM if given is None else given


def list_(session: Session, operands: list[str]) -> None:
    """``list [DEVICE...]``."""
    types = _types(session)
    verbose = "verbose" in session.switches
    _show(session, operands, {"area", "region", "group"} if verbose else types, skip=verbose)


def report(session: Session, operands: list[str]) -> None:
    """``report [DEVICE...]``: what was counted since the last report; that begins anew."""
    types = _types(session)
    if not {"area", "region", "group"} & session.switches.given().keys():
        _show(session, operands, {"area", "region", "group"}, skip=True)
    else:
        _show(session, operands, types, skip=False)


def _types(session: Session) -> set[str]:
    return {"area", "region", "group"} & session.switches.given().keys() or {"region", "group"}


def _show(session: Session, operands: list[str], types: set[str], *, skip: bool) -> None:
    if session.json:
        session.add_json("statistics")
    for device, known in each(session, operands):
        info = known or present(session, device, "info")
        for row in rows_of(session, info, types, skip=skip):
            if session.json:
                session.add_json("statistics", _described(row))
            elif session.report is not None:
                session.report.add(row)


def rows_of(
    session: Session, info: dict[str, Any], types: set[str], *, skip: bool = False
) -> list[StatsRow]:
    """The rows of one device; its counters are read, and set to zero, if the report needs them."""
    from dmtool.cli.statscolumns import StatsRow

    device = Device(name=info["name"])
    listing = Listing(session, device, program(session))
    units, sampling = session.showing or Showing(Units("h", 1), Sampling(1))
    interval = sampling.interval
    if session.subcommand == "report" or (
        session.report is not None and columns.STATS in session.report.kinds
    ):
        listing.sample()
        interval = sampling.sampled(info["name"])
    return [
        StatsRow(session, info, listing, item, units, interval)
        for item in listing.items(types, skip_single=skip)
    ]


def _described(row: StatsRow) -> dict[str, Any]:
    """A row for JSON: sectors, nanoseconds."""
    item, region, group = row.item, row.region, row.group
    described: dict[str, Any] = {
        "device": row.name,
        "type": item.type,
        "name": row.stats_name,
        "group_id": region.group,
        "region_ids": group.regions if group else [region.id],
        "area_id": item.area if item.type == "area" else None,
        "start": region.start + row.offset,
        "length": region.step if item.type == "area" else row.length,
        "areas": None if group else region.areas,
        "program_id": None if group else region.program_id,
        "user_data": None if group else region.user_data,
        "precise": region.precise,
        "bounds_ns": list(region.bounds),
    }
    if region.counters:
        found = row.histogram
        described |= {"interval_ns": row.interval, "counters": row.counters}
        described["histogram"] = list(found.counts) if found else []
    return described


def print_(session: Session, operands: list[str]) -> None:
    """``print [--clear] --regionid N|--allregions [DEVICE...]``: the kernel's own lines."""
    _check_which(session)
    clear = "_clear" if "clear" in session.switches else ""
    if session.json:
        session.add_json("statistics")
    for device, known in each(session, operands):
        # by its number a region can be printed that another program has made
        listing = Listing(session, device, "" if session.json else PROGRAM)
        for number in _regions(session, listing):
            try:
                printed = listing.message(f"@stats_print{clear} {number} ")
            except Failed as failure:
                raise Failed(*failure.args, "Could not print statistics region.") from None
            if session.json:
                info = known or present(session, device, "info")
                session.add_json("statistics", *_printed(session, info, listing, number, printed))
            else:
                session.out(printed)


def _printed(
    session: Session, info: dict[str, Any], listing: Listing, number: int, text: str
) -> Iterator[dict[str, Any]]:
    """The areas of a region for JSON, with what ``@stats_print`` answered."""
    from dmtool.cli.statscolumns import StatsRow

    region = listing.regions[number]
    region.sample(text)
    for area in range(region.areas):
        row = StatsRow(session, info, listing, Item("area", region, area), Units("h", 1), 0)
        described = _described(row)
        del described["interval_ns"]  # nobody knows since when it was counted
        yield described


def clear(session: Session, operands: list[str]) -> None:
    """``clear --regionid N|--allregions [DEVICE...]``: set counters to zero."""
    _check_which(session)
    for device, _ in each(session, operands):
        listing = Listing(session, device)
        for number in _regions(session, listing) if listing.regions else []:
            if number not in listing.regions:
                raise Failed(f"No such region: {number}.")
            listing.message(f"@stats_clear {number}")


def _check_which(session: Session) -> None:
    if not {"regionid", "allregions"} & session.switches.given().keys():
        raise Failed("Please specify a --regionid or use --allregions.")


def _regions(session: Session, listing: Listing) -> list[int]:
    """The regions that a command is about: the one that was named, or all."""
    if "allregions" in session.switches:
        return list(listing.regions)
    return [session.switches.number("regionid") or 0]
