# SPDX-License-Identifier: Apache-2.0
"""A command as data: its operands, its options, where its code is, what ``help`` says.

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

    ``function``: ``module:name`` in dmtool.cli, called with the session and the operands.
    ``least`` and ``most``: number of operands, ``most`` None for any number. ``repeat``: called
    once for each operand. ``select``: takes ``-S``. ``usage``: what follows the name in the usage
    text. ``options``: those that mean something here, for help and completion. ``operands``: what
    they are, for completion. ``subcommands``: its first operand is a command of its own. ``own``:
    not one of dmsetup's; ``summary`` is then the text of its ``--help``. ``data``: it prints data,
    with ``-v`` perhaps, so it has ``--json``, and docs/json.md says what that prints.
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
    data: bool = False

    def load(self) -> Function:
        """The function; imports its module."""
        return function_of(self.function)


def function_of(where: str) -> Function:
    """The function that ``module:name`` names, in dmtool.cli."""
    module, _, name = where.partition(":")
    function: Function = getattr(import_module(f"dmtool.cli.{module}"), name)
    return function


DEVICES = ("device", "...")
WHICH = ("uuid", "major", "minor")
