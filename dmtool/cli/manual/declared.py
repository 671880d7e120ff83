# SPDX-License-Identifier: Apache-2.0
"""What is declared (commands, options, columns) as parts of manual pages."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dmtool.cli import columns, summaries
from dmtool.cli.columns import COLUMNS, SPECIAL_COLUMNS, Column
from dmtool.cli.command import Command
from dmtool.cli.commands import COMMANDS
from dmtool.cli.getopt import Option
from dmtool.cli.manual import markdown, roff
from dmtool.cli.manual.markdown import Part
from dmtool.cli.options import OPTIONS
from dmtool.cli.parameters import HELP
from dmtool.cli.stats import SUBCOMMANDS, Subcommand
from dmtool.cli.stats import usage as stats_usage
from dmtool.cli.usage import usage as usage_text

_BY_NAME = {option.name: option for option in OPTIONS}
_BY_LETTER = {letter: option for option in OPTIONS for letter in option.short}
_USAGE = usage_text("dmtool") + stats_usage("dmstats")
_OPTION = re.compile(r"(?<![\w-])(?:--([a-z]+)|-([a-zA-Z])(?![\w-]))")
_ARGUMENT = re.compile(r"--([a-z]+) (\w+)")
_STATISTICS = frozenset({columns.STATS, columns.REGION})


def command_entries(about: dict[str, Part]) -> list[str]:
    """Every command: its syntax, what it does, its options. ``about``: text by command."""
    page: list[str] = []
    for own in (False, True):
        for command in COMMANDS:
            if command.own == own:
                page += _command(command, about.get(command.name))
    return page


def _command(command: Command, part: Part | None) -> list[str]:
    page = roff.subsection(roff.escaped(command.name))
    page += _syntax(command.name, command.usage)
    summary = command.summary or summaries.COMMANDS.get(command.name, "")
    if summary and (command.own or part is None):
        page += roff.paragraph(markdown.inline(_sentence(summary)))
    if part is not None:
        page += markdown.rendered(part.lines)
    if command.subcommands:
        return page
    declared = [*command.options, *(["select"] if command.select else [])]
    named = [option.name for option in options_in(command.usage)]
    page += _explained(name for name in declared if name in named)
    others = [roff.bold(f"--{name}") for name in dict.fromkeys(declared) if name not in named]
    if others:
        page += roff.paragraph(f"Also {', '.join(others)}.")
    return page


def _syntax(name: str, usage: str) -> list[str]:
    """The usage text of a command; each of its forms is a paragraph."""
    forms = re.split(rf"\n\t(?={re.escape(name)} )", f"{name} {usage}")
    lines: list[str] = []
    for form in forms:
        words = " ".join(form.split()).replace(" ]", "]")
        lines += roff.paragraph(roff.syntax(_ARGUMENT.sub(_bracketed, words)))
    return lines


def _bracketed(found: re.Match[str]) -> str:
    """``--regionid id``, as some of dmsetup's texts have it, as ``--regionid <id>``."""
    option = _BY_NAME.get(found[1])
    return f"--{found[1]} <{found[2]}>" if option and option.argument else found[0]


def options_in(usage: str) -> list[Option]:
    """The options that a usage text names."""
    found = []
    for name, letter in _OPTION.findall(usage):
        option = _BY_NAME.get(name) or _BY_LETTER.get(letter)
        if option is not None and option not in found:
            found.append(option)
    return found


def _explained(names: Iterable[str]) -> list[str]:
    page: list[str] = []
    for name in dict.fromkeys(names):
        page += _option(_BY_NAME[name])
    return page


def _option(option: Option) -> list[str]:
    tag = ", ".join(roff.bold(f"-{letter}") for letter in option.short)
    tag += (", " if tag else "") + roff.bold(f"--{option.name}")
    if option.argument:
        tag += f" {roff.syntax(_argument(option))}"
    return roff.tagged(tag, roff.filled(markdown.inline(HELP.get(option.name, ""))))


def _argument(option: Option) -> str:
    """What the argument of an option is in the usage text."""
    found = re.search(rf"--{option.name}[ =](?:<?(\w+)>?|({{[^}}]*}}))", _USAGE)
    return (found[2] if found else "") or f"<{found[1] if found else option.name}>"


def option_entries() -> list[str]:
    """Every option, by the alphabet."""
    return _explained(sorted(_BY_NAME))


def column_entries(*, statistics: bool) -> list[str]:
    """The columns of reports, those of statistics or all others, in the order of their sections."""
    page: list[str] = []
    title = ""
    for column in COLUMNS:
        if (column.kind in _STATISTICS) != statistics:
            continue
        if columns.TITLES[column.kind] != title:
            title = columns.TITLES[column.kind]
            page += roff.subsection(roff.escaped(title))
            group = roff.bold(f"{columns.PREFIXES[column.kind]}all")
            page += roff.paragraph(f"{group} is all of them.")
        page += _column(column)
    if not statistics:
        page += roff.subsection("Special")
        for column in SPECIAL_COLUMNS:
            page += _column(column)
    return page


def _column(column: Column) -> list[str]:
    tag = f"{roff.bold(column.id)} ({roff.escaped(column.heading)})"
    return roff.tagged(tag, roff.filled(roff.escaped(column.description)))


def statistics_entries() -> list[str]:
    """The commands of statistics, and their options."""
    page = roff.section("commands")
    usages: dict[str, list[Subcommand]] = {}
    for known in SUBCOMMANDS:
        usages.setdefault(known.name, []).append(known)
    for name, forms in usages.items():
        page += roff.subsection(roff.escaped(name))
        for known in forms:
            page += _syntax(name, known.usage)
        if name in summaries.STATS:
            page += roff.paragraph(markdown.inline(_sentence(summaries.STATS[name])))
    page += roff.section("options")
    declared = next(command.options for command in COMMANDS if command.subcommands)
    named = [option.name for option in options_in(stats_usage("dmstats"))]
    page += _explained(sorted({*declared, *named}))
    return page


def _sentence(words: str) -> str:
    text = words[:1].upper() + words[1:]
    return text if text.endswith(".") else f"{text}."
