# SPDX-License-Identifier: Apache-2.0
"""Every command as data: its operands, its options, where its code is, what ``help`` says.

The functions are named, not imported: a command imports its own module and no other's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dmtool.cli.session import Session

Function = Callable[["Session", list[str]], None]


class Command(NamedTuple):
    """One command.

    ``function``: ``module:name`` in dmtool.cli, called with the session and the operands. ``least`` and ``most``:
    number of operands, ``most`` None for any number. ``repeat``: called once for each operand.
    ``select``: takes ``-S``. ``usage``: what follows the name in the usage text. ``options``:
    those that mean something here, for help and completion. ``operands``: what they are, for
    completion. ``subcommands``: its first operand is a command of its own. ``own``: not one of dmsetup's; ``summary`` is then the text of its ``--help``.
    """

    name: str
    function: str
    usage: str = ""
    least: int = 0
    most: int | None = 0
    repeat: bool = False
    select: bool = False
    options: tuple[str, ...] = ()
    operands: tuple[str, ...] = ()
    own: bool = False
    summary: str = ""
    subcommands: bool = False

    def load(self) -> Function:
        """The function; imports its module."""
        return function_of(self.function)


def function_of(where: str) -> Function:
    """The function that ``module:name`` names, in dmtool.cli."""
    module, _, name = where.partition(":")
    function: Function = getattr(import_module(f"dmtool.cli.{module}"), name)
    return function


_DEVICES = ("device", "...")
_WHICH = ("uuid", "major", "minor")
_TABLE = ("table", "readonly")
_REPORT = (
    "columns", "options", "sort", "select", "noheadings", "separator", "nameprefixes", "unquoted",
    "rows", "unbuffered", "count", "interval",
)  # fmt: skip

_STATS = (
    "alldevices", "allprograms", "allregions", "programid", "regionid", "groupid", "regions",
    "alias", "start", "length", "areas", "areasize", "segments", "nogroup", "bounds", "precise",
    "userdata", "clear", "area", "region", "group", "raw", "histogram", "relative", "units",
    "nosuffix", "notimesuffix", "force",
)  # fmt: skip

COMMANDS = (
    Command("help", "usage:help_command", "[-c|-C|--columns]", options=("columns",)),
    Command(
        "create",
        "create:create",
        "<dev_name>\n"
        "\t    [-j|--major <major> -m|--minor <minor>]\n"
        "\t    [-U|--uid <uid>] [-G|--gid <gid>] [-M|--mode <octal_mode>]\n"
        "\t    [-u|--uuid <uuid>] [--addnodeonresume|--addnodeoncreate]\n"
        "\t    [--readahead {[+]<sectors>|auto|none}]\n"
        "\t    [-n|--notable|--table {<table>|<table_file>}]\n"
        "\tcreate --concise [<concise_device_spec_list>]",
        most=2,
        options=(
            *_WHICH,
            *_TABLE,
            "notable",
            "uid",
            "gid",
            "mode",
            "readahead",
            "concise",
            "addnodeonresume",
            "addnodeoncreate",
            "verbose",
            "manglename",
        ),
        operands=("new", "file"),
    ),
    Command(
        "remove",
        "control:remove",
        "[--deferred] [-f|--force] [--retry] <device>...",
        most=None,
        repeat=True,
        select=True,
        options=("deferred", "force", "retry", *_WHICH),
        operands=_DEVICES,
    ),
    Command("remove_all", "control:remove_all", "[-f|--force]", options=("force", "deferred")),
    Command(
        "suspend",
        "control:suspend",
        "[--noflush] [--nolockfs] <device>...",
        most=None,
        repeat=True,
        select=True,
        options=("noflush", "nolockfs", "verbose", *_WHICH),
        operands=_DEVICES,
    ),
    Command(
        "resume",
        "control:resume",
        "[--noflush] [--nolockfs] <device>...\n"
        "\t       [--addnodeonresume|--addnodeoncreate]\n"
        "\t       [--readahead {[+]<sectors>|auto|none}]",
        most=None,
        repeat=True,
        select=True,
        options=("noflush", "nolockfs", "readahead", "verbose", *_WHICH),
        operands=_DEVICES,
    ),
    Command(
        "load",
        "create:load",
        "<device> [<table>|<table_file>]",
        most=2,
        options=(*_TABLE, "verbose", *_WHICH),
        operands=("device", "file"),
    ),
    Command(
        "clear",
        "control:clear",
        "<device>",
        most=None,
        repeat=True,
        select=True,
        options=("verbose", *_WHICH),
        operands=_DEVICES,
    ),
    Command(
        "reload",
        "create:load",
        "<device> [<table>|<table_file>]",
        most=2,
        options=(*_TABLE, "verbose", *_WHICH),
        operands=("device", "file"),
    ),
    Command(
        "wipe_table",
        "control:wipe_table",
        "[-f|--force] [--noflush] [--nolockfs] <device>...",
        most=None,
        repeat=True,
        select=True,
        options=("force", "noflush", "nolockfs"),
        operands=_DEVICES,
    ),
    Command(
        "rename",
        "control:rename",
        "<device> [--setuuid] <new_name_or_uuid>",
        least=1,
        most=2,
        options=("setuuid", *_WHICH),
        operands=("device", "new"),
    ),
    Command(
        "measure",
        "measure:measure",
        "[<device>...]",
        most=None,
        repeat=True,
        select=True,
        options=("target", "inactive", "verbose", "json", *_WHICH),
        operands=_DEVICES,
    ),
    Command(
        "message",
        "control:message",
        "<device> <sector> <message>",
        least=2,
        most=None,
        options=_WHICH,
        operands=("device", "sector", "message", "..."),
    ),
    Command(
        "ls",
        "ls:ls",
        "[--target <target_type>] [--exec <command>] [-o <options>] [--tree]",
        options=("target", "exec", "options", "tree", "verbose", "json"),
    ),
    Command(
        "info",
        "show:info",
        "[<device>...]",
        most=None,
        repeat=True,
        options=("noopencount", "inactive", "json", *_REPORT, *_WHICH),
        operands=_DEVICES,
    ),
    Command(
        "deps",
        "show:deps",
        "[-o <options>] [<device>...]",
        most=None,
        repeat=True,
        select=True,
        options=("options", "inactive", "verbose", "json", *_WHICH),
        operands=_DEVICES,
    ),
    Command(
        "stats",
        "stats:stats",
        "<command> [<options>] [<device>...]",
        least=1,
        most=None,
        repeat=True,
        options=(*_STATS, "json", *_REPORT, *_WHICH),
        operands=("stats", *_DEVICES),
        subcommands=True,
    ),
    Command(
        "status",
        "show:status",
        "[<device>...] [--noflush] [--target <target_type>]",
        most=None,
        repeat=True,
        select=True,
        options=("noflush", "target", "inactive", "exec", "verbose", "json", *_WHICH),
        operands=_DEVICES,
    ),
    Command(
        "table",
        "show:table",
        "[<device>...] [--concise] [--target <target_type>] [--showkeys]",
        most=None,
        repeat=True,
        select=True,
        options=(
            "concise",
            "target",
            "showkeys",
            "inactive",
            "exec",
            "verbose",
            "json",
            *_WHICH,
        ),
        operands=_DEVICES,
    ),
    Command(
        "wait",
        "control:wait",
        "<device> [<event_nr>] [--noflush]",
        most=2,
        options=("noflush", "verbose", *_WHICH),
        operands=("device", "number"),
    ),
    Command(
        "mknodes",
        "control:mknodes",
        "[<device>...]",
        most=None,
        repeat=True,
        operands=_DEVICES,
    ),
    Command(
        "mangle",
        "control:mangle",
        "[<device>...]",
        most=None,
        repeat=True,
        options=("manglename", *_WHICH),
        operands=_DEVICES,
    ),
    Command("udevcreatecookie", "udev:nothing"),
    Command("udevreleasecookie", "udev:release", "[<cookie>]", most=1),
    Command("udevflags", "udev:flags", "<cookie>", least=1, most=1),
    Command("udevcomplete", "udev:complete", "<cookie>", least=1, most=1),
    Command("udevcomplete_all", "udev:nothing", "[<age_in_minutes>]", most=1),
    Command("udevcookies", "udev:cookies"),
    Command(
        "target-version",
        "show:target_version",
        "[<target>...]",
        least=1,
        most=None,
        repeat=True,
        operands=("target", "..."),
    ),
    Command("targets", "show:targets", options=("json",)),
    Command("version", "show:version", options=("json",)),
    Command(
        "setgeometry",
        "control:setgeometry",
        "<device> <cyl> <head> <sect> <start>",
        least=5,
        most=5,
        operands=("device", "number", "number", "number", "number"),
    ),
    Command(
        "splitname",
        "show:splitname",
        "<device> [<subsystem>]",
        least=1,
        most=2,
        options=_REPORT,
        operands=("name", "subsystem"),
    ),
    # dmtool's own
    Command(
        "check",
        "examine:check",
        "[<table_file>]",
        most=1,
        options=("readonly", "table", "json"),
        operands=("file",),
        own=True,
        summary="Check a table without making a device; every error is shown. "
        "The table is read from standard input if no file is named. Exit status 0 or 1.",
    ),
    Command(
        "explain",
        "examine:explain",
        "<device> <sector>[+<count>]",
        least=1,
        most=2,
        options=("json", *_WHICH),
        operands=("device", "sector"),
        own=True,
        summary="Show where sectors of a device are, down the whole stack to file and byte offset.",
    ),
    Command(
        "uri",
        "content:uri",
        "<device>",
        most=1,
        options=("json", *_WHICH),
        operands=("device",),
        own=True,
        summary="Print the NBD URI of a device, for nbdcopy, qemu-img, nbdinfo and others.",
    ),
    Command(
        "read",
        "content:read",
        "<device> [--offset <bytes>] [--length <bytes>]",
        most=1,
        options=("offset", "length", *_WHICH),
        operands=("device",),
        own=True,
        summary="Write bytes of a device to standard output: all of it, or LENGTH bytes from OFFSET.",
    ),
    Command(
        "write",
        "content:write",
        "<device> [--offset <bytes>] [--length <bytes>]",
        most=1,
        options=("offset", "length", *_WHICH),
        operands=("device",),
        own=True,
        summary="Write standard input to a device, from OFFSET on; with LENGTH only so many bytes.",
    ),
    Command(
        "daemon",
        "daemon:daemon",
        "run|status|stop",
        least=1,
        most=1,
        options=("json",),
        operands=("action",),
        own=True,
        summary="The core process: run it in the foreground, show its state, or end it. "
        "Devices stay defined when it ends.",
    ),
)

BY_NAME = {command.name: command for command in COMMANDS}
