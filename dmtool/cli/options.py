# SPDX-License-Identifier: Apache-2.0
"""Every option of the command line, and what a command may ask about those that were given.

As in dmsetup there is one list for all commands: an option that means nothing to a command is
accepted and ignored. The order within one initial letter is the order in which dmsetup 1.02.185
names the possibilities of an ambiguous abbreviation.
"""

from __future__ import annotations

from typing import NamedTuple

from dmtool.cli.clib import atoi, cookie_value, strtol_octal
from dmtool.cli.getopt import CommandLineError, Option, scan

OPTIONS = (
    Option("alias", argument=True),
    Option("alldevices"),
    Option("allprograms"),
    Option("allregions"),
    Option("area"),
    Option("areas", argument=True),
    Option("areasize", argument=True),
    Option("addnodeonresume"),
    Option("addnodeoncreate"),
    Option("bounds", argument=True),
    Option("checks"),
    Option("clear"),
    Option("columns", short="cC"),
    Option("concise"),
    Option("count", argument=True),
    Option("deferred"),
    Option("exec", argument=True),
    Option("filemap"),
    Option("follow", argument=True),
    Option("force", short="f"),
    Option("foreground"),
    Option("gid", argument=True, short="G"),
    Option("group"),
    Option("groupid", argument=True),
    Option("help", short="h"),
    Option("histogram"),
    Option("inactive"),
    Option("interval", argument=True),
    Option("length", argument=True),
    Option("manglename", argument=True),
    Option("major", argument=True, short="j"),
    Option("minor", argument=True, short="m"),
    Option("mode", argument=True, short="M"),
    Option("nameprefixes"),
    Option("nogroup"),
    Option("noflush"),
    Option("noheadings"),
    Option("nolockfs"),
    Option("noopencount"),
    Option("nosuffix"),
    Option("notable", short="n"),
    Option("notimesuffix"),
    Option("nomonitor"),
    Option("noudevrules"),
    Option("noudevsync"),
    Option("options", argument=True, short="o"),
    Option("precise"),
    Option("programid", argument=True),
    Option("readonly", short="r"),
    Option("raw"),
    Option("readahead", argument=True),
    Option("region"),
    Option("regions", argument=True),
    Option("regionid", argument=True),
    Option("relative"),
    Option("retry"),
    Option("rows"),
    Option("select", argument=True, short="S"),
    Option("segments"),
    Option("separator", argument=True),
    Option("setuuid"),
    Option("showkeys"),
    Option("sort", argument=True, short="O"),
    Option("start", argument=True),
    Option("table", argument=True),
    Option("target", argument=True),
    Option("tree"),
    Option("udevcookie", argument=True),
    Option("uid", argument=True, short="U"),
    Option("units", argument=True),
    Option("uuid", argument=True, short="u"),
    Option("unbuffered"),
    Option("unquoted"),
    Option("userdata", argument=True),
    Option("verbose", short="v", value_allowed=True),
    Option("verifyudev"),
    Option("version"),
    Option("yes", short="y"),
    # dmtool's own
    Option("abort", own=True),
    Option("debug", own=True),
    Option("dot", own=True),
    Option("format", argument=True, own=True),
    Option("from", argument=True, own=True),
    Option("json", own=True),
    Option("mermaid", own=True),
    Option("offset", argument=True, own=True),
    Option("rate", argument=True, own=True),
    Option("to", argument=True, own=True),
)

MANGLING_MODES = ("none", "hex", "auto")


class ReadAhead(NamedTuple):
    """``--readahead``: sectors, None for ``auto``; ``minimum``: never less than the default."""

    sectors: int | None
    minimum: bool


class Switches:
    """The options of one command line, checked in the order in which they stand there."""

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}
        self.warnings: list[str] = []

    @classmethod
    def of(cls, args: list[str], prog: str) -> tuple[Switches, list[str]]:
        """Options and operands of ``args``. Raises CommandLineError with dmsetup's own text."""
        switches = cls()
        try:
            operands = scan(args, OPTIONS, prog, switches._accept)
            switches._check_combinations()
        except CommandLineError as error:
            error.args = (*switches.warnings, *error.args)
            # Where there was a --help before, no error is one.
            error.status = int(not {"help", "version"} & switches.given().keys())
            raise
        return switches, operands

    def _accept(self, option: Option, value: str) -> None:
        check = _CHECKS.get(option.name)
        if check is not None:
            warning = check(value)
            if warning:
                self.warnings.append(warning)
        self._given.setdefault(option.name, []).append(value)

    def _check_combinations(self) -> None:
        if ("major" in self) != ("minor" in self):
            raise CommandLineError("Please specify both major number and minor number.")
        if "table" in self and "notable" in self:
            raise CommandLineError("--table and --notable are incompatible.")
        if "addnodeonresume" in self and "addnodeoncreate" in self:
            raise CommandLineError("--addnodeonresume and --addnodeoncreate are incompatible.")

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def count(self, name: str) -> int:
        """How often an option was given."""
        return len(self._given.get(name, ()))

    def value(self, name: str) -> str | None:
        """The argument of an option, of the last one if there are several; None if not given."""
        given = self._given.get(name)
        return given[-1] if given else None

    def number(self, name: str) -> int | None:
        """The argument as C's atoi reads it; None if the option was not given."""
        value = self.value(name)
        return None if value is None else atoi(value)

    def mode(self) -> int | None:
        """``--mode``, the permissions of the device's node."""
        value = self.value("mode")
        return None if value is None else strtol_octal(value)

    def readahead(self) -> ReadAhead | None:
        """``--readahead``, None if not given."""
        value = self.value("readahead")
        if value is None:
            return None
        word = value.lower()
        if word in {"auto", "none"}:
            return ReadAhead(None if word == "auto" else 0, minimum=False)
        number = atoi(value)
        return ReadAhead(None if number < 0 else number, value.lstrip().startswith("+"))

    def put(self, name: str, value: str = "") -> None:
        """Add an option as if it had been given: some commands imply one."""
        self._given.setdefault(name, []).append(value)

    def given(self) -> dict[str, list[str]]:
        """Option names to the arguments given, "" for options without one."""
        return self._given


def _check_count(value: str) -> None:
    if atoi(value) < 0:
        raise CommandLineError("Count must be zero or greater.")


def _check_format(value: str) -> None:
    from dmtool.cli.format import check

    check(value)


def _check_interval(value: str) -> None:
    if atoi(value) <= 0:
        raise CommandLineError("Interval must be a positive integer.")


def _check_manglename(value: str) -> None:
    if value.lower() not in MANGLING_MODES:
        raise CommandLineError("Unknown name mangling mode.")


def _check_mode(value: str) -> None:
    try:
        if strtol_octal(value):
            return
        why = ""
    except OverflowError as error:
        why = str(error)
    raise CommandLineError(f"Invalid argument for --mode: {value}. {why}")


def _check_readahead(value: str) -> None:
    number = atoi(value)
    if number < -1:
        raise CommandLineError(f"Negative read ahead value ({number}) is not understood.")


def _check_udevcookie(value: str) -> str | None:
    return None if cookie_value(value) else "Incorrect cookie value."


_CHECKS = {
    "count": _check_count,
    "format": _check_format,
    "interval": _check_interval,
    "manglename": _check_manglename,
    "mode": _check_mode,
    "readahead": _check_readahead,
    "udevcookie": _check_udevcookie,
}
