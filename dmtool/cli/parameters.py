# SPDX-License-Identifier: Apache-2.0
"""What every option does, and a command's declaration as click parameters: for ``--help`` of our own
commands."""

from __future__ import annotations

import click

from dmtool.cli.command import Command
from dmtool.cli.getopt import Option
from dmtool.cli.options import OPTIONS

HELP = {
    "abort": "Put back what was before the move.",
    "addnodeoncreate": "Accepted, and does nothing: there are no nodes.",
    "addnodeonresume": "Accepted, and does nothing: there are no nodes.",
    "alias": "The name of the group.",
    "alldevices": "All devices, if none is named.",
    "allprograms": "Regions of all programs.",
    "allregions": "All regions.",
    "area": "Rows for areas.",
    "areas": "Cut the region into so many areas.",
    "areasize": "Cut the region into areas of this size; suffixes as for --units.",
    "bounds": "A histogram of latencies, with these boundaries: 100us,1ms,10ms.",
    "checks": "Accepted, and does nothing: everything is checked anyway.",
    "clear": "Set the counters to zero after printing them.",
    "columns": "A report in columns (info, help).",
    "concise": "Several devices on one line: what create takes and table prints.",
    "count": "Show a report so often; 0: until it is stopped.",
    "debug": "Show a traceback of an error in dmtool itself.",
    "deferred": "Remove a device that is open when it is closed.",
    "dot": "Draw the stack of devices in the language of Graphviz.",
    "exec": "Run a command for each device, with its file or URI behind.",
    "filemap": "Refused: a region of a file's extents.",
    "follow": "How a file is followed: inode or path. Refused, as --filemap is.",
    "force": "remove, remove_all: replace tables by errors first, so that waiting I/O goes; "
    "wipe_table: do not wait for I/O; stats create: take an empty program id; "
    "move: write over what is there.",
    "foreground": "Accepted, and does nothing.",
    "format": "A table in a format of tabulate: github, grid, html, ...; a wrong one lists all.",
    "from": "The image file or device to move away from.",
    "gid": "Group of the device's file.",
    "group": "Rows for groups.",
    "groupid": "The group by its id.",
    "help": "Show the usage text.",
    "histogram": "Columns of the histogram.",
    "inactive": "The inactive table in place of the live one.",
    "interval": "Seconds from report to report.",
    "json": "Print JSON (docs/json.md).",
    "length": "How much: of read and write in bytes, with the suffixes of --offset; of a region in sectors.",
    "major": "With --minor: the device by its number, 1000:MINOR.",
    "manglename": "How names are mangled: none, hex or auto.",
    "mermaid": "Draw the stack of devices as a flowchart of Mermaid.",
    "minor": "With --major: the device by its number, 1000:MINOR.",
    "mode": "Mode of the device's file, octal.",
    "nameprefixes": "Values as DM_NAME='value'.",
    "noflush": "Let targets give I/O back that they have not done.",
    "nogroup": "Make no group of the regions.",
    "noheadings": "No headings; values parted by a colon.",
    "nolockfs": "Accepted, and does nothing: no file system is frozen.",
    "nomonitor": "Accepted with --filemap, which is refused.",
    "noopencount": "Accepted, and does nothing.",
    "nosuffix": "Accepted, and does nothing.",
    "notable": "Make the device without a table.",
    "notimesuffix": "Times without their unit.",
    "noudevrules": "Accepted, and does nothing: there is no udev.",
    "noudevsync": "Accepted, and does nothing: there is no udev.",
    "offset": "Where to start, in bytes; suffixes k, M, G, T, and s for sectors.",
    "options": "Columns of a report, parted by commas; or how ls and deps name devices.",
    "precise": "Count nanoseconds in place of milliseconds.",
    "programid": "Regions of this program.",
    "rate": "Bytes to copy in a second: a number, with KiB, MiB or GiB behind it.",
    "raw": "Columns of the counters themselves.",
    "readahead": "Sectors to read ahead, auto or none. It is kept and shown.",
    "readonly": "As for a read-only device.",
    "region": "Rows for regions.",
    "regionid": "The region by its id.",
    "regions": "Regions by their ids: 0,2-4.",
    "relative": "Histograms in percent.",
    "retry": "Try for 5 seconds to remove a device that is open.",
    "rows": "Columns as rows.",
    "segments": "A region for each target of the table.",
    "select": "Only devices that a selection is true of, as open=0.",
    "separator": "What parts the values.",
    "setuuid": "Set the uuid in place of the name.",
    "showkeys": "Keys in tables as they are, not as zeros.",
    "sort": "Columns to sort by; with - before a column, the largest first.",
    "start": "Where the region begins: a sector, or with a suffix as for --units.",
    "table": "The table itself, in place of a file.",
    "target": "Only targets of this type.",
    "to": "The image file or device to move to; a file that is not there is made.",
    "tree": "Draw which device stands on which.",
    "udevcookie": "Accepted, and does nothing: there is no udev.",
    "uid": "Owner of the device's file.",
    "unbuffered": "Accepted, and does nothing.",
    "units": "Unit of sizes: b s k m g t p e, capitals for powers of 1000; h, H: what fits.",
    "unquoted": "Values of --nameprefixes without quotes.",
    "userdata": "What is kept with the region.",
    "uuid": "The device by its uuid; for create the uuid that it gets.",
    "verbose": "Show a device's state after the command; stats list: areas, too.",
    "verifyudev": "Accepted, and does nothing: there is no udev.",
    "version": "Show versions.",
    "yes": "Accepted, and does nothing: nothing is asked.",
}
_OPTIONS = {option.name: option for option in OPTIONS}


def parameters(command: Command) -> list[click.Parameter]:
    """Options and operands of one command."""
    found: list[click.Parameter] = [_option(_OPTIONS[name]) for name in command.options]
    kinds = list(command.operands)
    several = "..." in kinds
    kinds = [kind for kind in kinds if kind != "..."]
    for place, kind in enumerate(kinds):
        last = place == len(kinds) - 1
        found.append(
            _operand(f"{kind}{place}" if kind in kinds[:place] else kind, kind, several and last)
        )
    return found


def _option(option: Option) -> click.Option:
    names = [*(f"-{letter}" for letter in option.short), f"--{option.name}"]
    return click.Option(
        names,
        is_flag=not option.argument,
        help=HELP.get(option.name),
        metavar=None if not option.argument else f"<{option.name}>",
    )


def _operand(name: str, kind: str, several: bool) -> click.Argument:
    return click.Argument(
        [name],
        nargs=-1 if several else 1,
        required=False,
        metavar=f"<{kind}>",
        type=click.Path() if kind == "file" else click.UNPROCESSED,
    )
