# SPDX-License-Identifier: Apache-2.0
"""Which pages there are, and what each is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dmtool import __version__
from dmtool.cli.manual import markdown, roff
from dmtool.cli.manual.declared import (
    column_entries,
    command_entries,
    option_entries,
    statistics_entries,
)
from dmtool.cli.manual.markdown import Part

# When the text last changed in a way that a reader should know of: manual pages have dates.
DATE = "2026-11-22"
SOURCE = f"dmtool {__version__}"
_SUMMARY = "device-mapper in user space: mapped devices without root or a kernel module"


class Sources:
    """The documents of a checkout. ``top``: its folder."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.targets = {
            folder.parent.name: markdown.parts(folder.read_text("utf-8"))
            for folder in sorted(top.glob("plugins/*/README.md"))
        }

    def document(self, name: str) -> list[Part]:
        """A page of ``docs/``."""
        return markdown.parts((self.top / "docs" / name).read_text("utf-8"))


def pages(top: Path) -> dict[str, str]:
    """All pages of a checkout: file name and text."""
    sources = Sources(top)
    made = {
        "dmtool.8": _dmtool(sources),
        "dmtool-stats.8": _stats(sources),
        "dmtool-table.5": _table(sources),
    }
    for folder, parts in sources.targets.items():
        name, *others = names_of(parts)
        made[f"dmtool-{name}.5"] = target(parts, f"plugins/{folder}/README.md")
        # a link that needs no links: what man(1) reads in place of the page
        made |= {f"dmtool-{other}.5": f".so man5/dmtool-{name}.5\n" for other in others}
    return made


def names_of(parts: list[Part]) -> list[str]:
    """The names of a target type: the heading of its README."""
    title = next(part.title for part in parts if part.level == 1)
    return [name.strip().removeprefix("dmtool-") for name in title.split(",")]


def summary_of(parts: list[Part]) -> str:
    """What a target type does: the first sentence of its README."""
    lines = next(part.lines for part in parts if part.level == 1)
    text = markdown.joined(next(markdown.blocks(lines)))
    sentence = re.split(r"(?<=\.)\s", re.sub(r"\s*\(Linux[^)]*\)", "", text))[0]
    return sentence.rstrip(".")


def target(parts: list[Part], source: str) -> str:
    """The page of a target type. ``parts``: of its README, which is ``source``."""
    names = names_of(parts)
    first = next(part for part in parts if part.level == 1)
    synopsis = _synopsis(parts)
    text = [
        line for block in markdown.blocks(first.lines) if block != synopsis for line in (*block, "")
    ]
    # an I/O is an I/O at the beginning of a sentence only
    summary = summary_of(parts)
    body = _name([f"dmtool-{name}" for name in names], summary[:1].lower() + summary[1:])
    body += [*roff.section("synopsis"), *_syntax(parts)]
    body += [*roff.section("description"), *markdown.rendered(text)]
    for part in parts[parts.index(first) + 1 :]:
        example = re.fullmatch(r"Example: (.*)", part.title)
        if example:
            body += roff.section("example")
            body += roff.subsection(markdown.inline(_capital(example[1])))
        elif part.level == 2:
            body += roff.section(part.title)
        else:
            body += roff.subsection(markdown.inline(part.title))
        body += markdown.rendered(part.lines)
    body += _see_also("dmtool(8)", "dmtool-table(5)")
    return roff.page(f"dmtool-{names[0]}", 5, DATE, SOURCE, _made_of(source), body)


def _dmtool(sources: Sources) -> str:
    reference = sources.document("commands.md")
    about = {part.title: part for part in reference}
    body = _name(["dmtool"], _SUMMARY)
    body += roff.section("synopsis")
    for line in (
        "dmtool <command> [<option>...] [<operand>...]",
        "dmsetup <command> [<option>...] [<operand>...]",
        "dmstats <command> [<option>...] [<device>...]",
        "devmap_name <major> <minor>",
    ):
        body += roff.paragraph(roff.syntax(line))
    body += [*roff.section("description"), *markdown.rendered(_first(reference).lines)]
    # after the commands what stands below "## Commands", the rest as it is there
    for part in (part for part in reference if part.level == 2):
        body += [*roff.section(part.title), *markdown.rendered(part.lines)]
        if part.title == "Commands":
            body += command_entries(about)
            body += [*roff.section("options"), *option_entries()]
            body += _chapter(sources.document("reports.md"))
            body += [*roff.section("columns"), *column_entries(statistics=False)]
            body += _chapter(sources.document("pictures.md"))
            body += [*roff.section("target types"), *_types(sources)]
            body += _chapter(sources.document("dmsetup-names.md"))
    types = _pages_of_types(sources)
    body += _see_also("dmtool-stats(8)", "dmtool-table(5)", *types, "dmsetup(8)", "dmstats(8)")
    return roff.page("dmtool", 8, DATE, SOURCE, _made_of("dmtool/cli and docs"), body)


def _stats(sources: Sources) -> str:
    document = sources.document("stats.md")
    body = _name(["dmtool-stats"], "statistics of mapped devices: dmstats")
    body += roff.section("synopsis")
    for line in ("dmtool stats", "dmsetup stats", "dmstats"):
        syntax = f"{line} <command> [<option>...] [<device>...]"
        body += roff.paragraph(roff.syntax(syntax))
    body += [*roff.section("description"), *markdown.rendered(_first(document).lines)]
    body += statistics_entries()
    body += [*roff.section("columns"), *column_entries(statistics=True)]
    for part in document[1:]:
        body += [*roff.section(part.title), *markdown.rendered(part.lines)]
    body += _see_also("dmtool(8)", "dmstats(8)")
    return roff.page("dmtool-stats", 8, DATE, SOURCE, _made_of("dmtool/cli and docs"), body)


def _table(sources: Sources) -> str:
    document = sources.document("table-format.md")
    body = _name(["dmtool-table"], "the text of a mapping table")
    body += roff.section("synopsis")
    body += roff.paragraph(roff.syntax("<start> <length> <type> [<argument>...]"))
    body += [*roff.section("description"), *markdown.rendered(_first(document).lines)]
    for part in document[1:]:
        body += [*roff.section(part.title), *markdown.rendered(part.lines)]
    body += [*roff.section("target types"), *_types(sources)]
    body += _see_also("dmtool(8)", *_pages_of_types(sources))
    return roff.page("dmtool-table", 5, DATE, SOURCE, _made_of("docs/table-format.md"), body)


def _types(sources: Sources) -> list[str]:
    """The target types: the syntax of each, and what it does."""
    body: list[str] = []
    for parts in sources.targets.values():
        names = names_of(parts)
        text = f"{markdown.inline(summary_of(parts))}: {_reference(f'dmtool-{names[0]}(5)')}"
        syntax = [line for line in _syntax(parts) if line != ".PP"]
        body += roff.tagged(", ".join(map(roff.bold, names)), [*roff.filled(text), ".br", *syntax])
    return body


def _pages_of_types(sources: Sources) -> list[str]:
    return [f"dmtool-{names_of(parts)[0]}(5)" for parts in sources.targets.values()]


def _synopsis(parts: list[Part]) -> list[str]:
    """The first piece of code in a README: the syntax of a line of a table."""
    first = next(part for part in parts if part.level == 1)
    return next((block for block in markdown.blocks(first.lines) if _is_code(block)), [])


def _syntax(parts: list[Part]) -> list[str]:
    lines = (line.strip() for line in _synopsis(parts) if not line.startswith("```"))
    return [made for line in lines for made in roff.paragraph(roff.syntax(line))]


def _chapter(document: list[Part]) -> list[str]:
    """A whole document as one section."""
    body: list[str] = []
    for part in document:
        if part.level == 1:
            body += roff.section(part.title)
        else:
            body += roff.subsection(markdown.inline(part.title))
        body += markdown.rendered(part.lines)
    return body


def _first(document: list[Part]) -> Part:
    """What stands below the title."""
    return next(part for part in document if part.level == 1)


def _name(names: list[str], summary: str) -> list[str]:
    """What apropos(1) shows: no fonts in it."""
    text = ", ".join(map(roff.escaped, names))
    return [*roff.section("name"), f"{text} \\- {markdown.inline(summary)}"]


def _see_also(*pages: str) -> list[str]:
    return [*roff.section("see also"), *roff.filled(", ".join(map(_reference, pages)))]


def _reference(page: str) -> str:
    name, _, number = page.partition("(")
    return f"{roff.bold(name)}({number}"


def _is_code(block: Iterable[str]) -> bool:
    return next(iter(block)).startswith(("    ", "```"))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _made_of(source: str) -> str:
    return f"Made of {source} by python -m dmtool.cli.manual; changes belong there."
