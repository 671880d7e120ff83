# SPDX-License-Identifier: Apache-2.0
"""A command's declaration as click parameters: for ``--help`` of our own commands, and completion."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from dmtool.cli.command import Command
from dmtool.cli.getopt import Option
from dmtool.cli.options import MANGLING_MODES, OPTIONS

_HELP = {
    "force": "Let waiting I/O go: replace the table by errors first.",
    "dot": "Draw the stack of devices in the language of Graphviz.",
    "format": "A table in a format of tabulate: github, grid, html, ...; a wrong one lists all.",
    "json": "Print JSON (docs/json.md).",
    "length": "How many bytes; suffixes k, M, G, T, and s for sectors.",
    "major": "With --minor: the device by its number, 1000:MINOR.",
    "minor": "With --major: the device by its number, 1000:MINOR.",
    "mermaid": "Draw the stack of devices as a flowchart of Mermaid.",
    "offset": "Where to start, in bytes; suffixes k, M, G, T, and s for sectors.",
    "readonly": "As for a read-only device.",
    "table": "The table itself, in place of a file.",
    "uuid": "The device by its uuid.",
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
        help=_HELP.get(option.name),
        metavar=None if not option.argument else f"<{option.name}>",
        shell_complete=_VALUES.get(option.name),
    )


def _operand(name: str, kind: str, several: bool) -> click.Argument:
    return click.Argument(
        [name],
        nargs=-1 if several else 1,
        required=False,
        metavar=f"<{kind}>",
        type=click.Path() if kind == "file" else click.UNPROCESSED,
        shell_complete=_KINDS.get(kind),
    )


def _devices(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Names of the devices that exist; none, and no core started, where none runs."""
    from dmtool.client import Client
    from dmtool.errors import DmtoolError
    from dmtool.names import unmangle

    try:
        with Client(start=False) as client:
            names = [unmangle(info["name"]) for info in client.call("list")]
    except DmtoolError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(start)]


def _targets(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    """Names of the target types that are installed."""
    from dmtool.client import Client
    from dmtool.errors import DmtoolError

    try:
        with Client(start=False) as client:
            names = [target["name"] for target in client.call("targets")]
    except DmtoolError:
        return []
    return [CompletionItem(name) for name in sorted(names) if name.startswith(start)]


def _formats(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    from tabulate import tabulate_formats

    return [CompletionItem(name) for name in tabulate_formats if name.startswith(start)]


def _modes(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    return [CompletionItem(mode) for mode in MANGLING_MODES if mode.startswith(start)]


def _actions(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in ("run", "status", "stop") if word.startswith(start)]


def _subcommands(_ctx: click.Context, _param: click.Parameter, start: str) -> list[CompletionItem]:
    from dmtool.cli.stats import SUBCOMMANDS

    names = dict.fromkeys(known.name for known in SUBCOMMANDS)
    return [CompletionItem(name) for name in names if name.startswith(start)]


_VALUES = {"format": _formats, "manglename": _modes, "target": _targets}
_KINDS = {"device": _devices, "target": _targets, "action": _actions, "stats": _subcommands}
