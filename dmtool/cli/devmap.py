# SPDX-License-Identifier: Apache-2.0
"""``devmap_name MAJOR MINOR``: the name of a device by its number, which udev rules of old call."""

from __future__ import annotations

import re

from dmtool.cli.clib import atoi
from dmtool.cli.getopt import CommandLineError

_SPACE = r"[ \t\n\v\f\r]*"
_NUMBER = rf"{_SPACE}([+-]?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*))"
# scanf's %i:%i
_PAIR = re.compile(f"{_NUMBER}:{_NUMBER}")


def command_line(args: list[str]) -> list[str]:
    """The command line of dmsetup that it stands for. Raises CommandLineError."""
    pair = _PAIR.match(args[0]) if len(args) == 1 else None
    if pair:
        major, minor = (_integer(digits) for digits in pair.groups())
    elif len(args) == 2:
        major, minor = map(atoi, args)
    else:
        raise CommandLineError("Usage: devmap_name <major> <minor>", "")
    options = ["--columns", "--noheadings", "--options", "name"]
    return ["info", *options, "--major", str(major), "--minor", str(minor)]


def _integer(digits: str) -> int:
    """A number in C's notations."""
    octal = digits.lstrip("+-").startswith("0") and digits.lstrip("+-0").isdecimal()
    return int(digits, 8 if octal else 0)
