# SPDX-License-Identifier: Apache-2.0
"""Markdown as the documentation uses it, turned into the lines of a manual page.

Headings, paragraphs, lists of one level, tables, code (indented or fenced), and in them code spans,
emphasis and links. What else Markdown has comes out as it was typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dmtool.cli.manual import roff


@dataclass
class Part:
    """A heading and what stands below it, up to the next heading; ``level`` 0 has no heading."""

    level: int
    title: str
    lines: list[str] = field(default_factory=list)


_HEADING = re.compile(r"(#{1,6}) +(.*)")
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_FENCE = "```"
_INDENT = "    "


def parts(text: str) -> list[Part]:
    """A document, cut at its headings."""
    found = [Part(0, "")]
    fenced = False
    for line in _COMMENT.sub("", text).splitlines():
        fenced ^= line.startswith(_FENCE)
        heading = None if fenced else _HEADING.fullmatch(line)
        if heading:
            found.append(Part(len(heading[1]), heading[2].strip()))
        else:
            found[-1].lines.append(line)
    return [part for part in found if part.title or any(map(str.strip, part.lines))]


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """Lines below a heading, cut into paragraphs, lists, tables and pieces of code."""
    block: list[str] = []
    kind = ""
    for line in lines:
        now = _kind(line, kind)
        if now != kind and block:
            yield from _trimmed(block)
            block = []
        block.append(line)
        kind = "" if kind == "fence" and line.startswith(_FENCE) and len(block) > 1 else now
    yield from _trimmed(block)


def _kind(line: str, before: str) -> str:
    """What a line belongs to, given what the one before it belongs to."""
    if before == "fence" or line.startswith(_FENCE):
        return "fence"
    if not line.strip():
        return before if before == "code" else ""
    if line.startswith(_INDENT) and before in {"", "code"}:
        return "code"
    if line.startswith("|"):
        return "table"
    if re.match(r"(-|\d+\.) ", line):
        return "list"
    return before if before in {"list", "text"} else "text"


def _trimmed(block: list[str]) -> Iterator[list[str]]:
    while block and not block[-1].strip():
        block.pop()
    if block:
        yield block


def rendered(lines: list[str]) -> list[str]:
    """The lines of a manual page for what stands below a heading."""
    page: list[str] = []
    for block in blocks(lines):
        first = block[0]
        if first.startswith(_FENCE):
            closed = block[-1].startswith(_FENCE) and len(block) > 1
            page += roff.literal(block[1 : -1 if closed else None])
        elif first.startswith(_INDENT):
            page += roff.literal(line.removeprefix(_INDENT) for line in block)
        elif first.startswith("|"):
            page += table(block)
        elif re.match(r"(-|\d+\.) ", first):
            for item in items(block):
                page += roff.bullet(roff.filled(inline(item)))
        else:
            page += roff.paragraph(inline(joined(block)))
    return page


def joined(block: list[str]) -> str:
    """A block as one line of text."""
    return " ".join(line.strip() for line in block)


def items(block: list[str]) -> list[str]:
    """The entries of a list."""
    found: list[str] = []
    for line in block:
        entry = re.match(r"(?:-|\d+\.) +(.*)", line)
        if entry:
            found.append(entry[1])
        else:
            found[-1] += " " + line.strip()
    return found


def table(block: list[str]) -> list[str]:
    """A table as a list of tags: the first column; of more than two, the rest by their headings."""
    rows = [cells(line) for line in block]
    headings, *rest = rows
    page = []
    for row in rest:
        if all(re.fullmatch(r":?-+:?", cell) for cell in row):
            continue
        tag, *others = row
        if len(headings) > 2:
            body = [
                [*roff.filled(f"{inline(heading)}: {inline(cell)}" if heading else inline(cell))]
                for heading, cell in zip(headings[1:], others, strict=False)
                if cell
            ]
            lines = [line for number, part in enumerate(body) for line in _below(number, part)]
        else:
            lines = roff.filled(inline("".join(others)))
        page += roff.tagged(inline(tag) or "\\&", lines)
    return page


def _below(number: int, part: list[str]) -> list[str]:
    return [".br", *part] if number else part


def cells(line: str) -> list[str]:
    """The cells of a row."""
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


_FONT = r"\\f[BIR]"
_INLINE = re.compile(
    r"(?P<code>`+)(?P<typed>.+?)(?P=code)"
    r"|\*\*(?P<strong>.+?)\*\*"
    r"|(?<!\w)\*(?P<emphasis>[^*\s][^*]*)\*"
    r"|\[(?P<text>[^\]]+)\]\((?P<url>[^)\s]+)\)"
    r"|\\(?P<quoted>[!-/:-@\[-`{-~])"
)


def inline(text: str) -> str:
    """Text with code spans, emphasis and links, escaped for roff."""
    done = []
    place = 0
    for found in _INLINE.finditer(text):
        done.append(roff.escaped(text[place : found.start()]))
        place = found.end()
        if found["typed"] is not None:
            done.append(roff.bold(found["typed"]))
        elif found["strong"]:
            # what is bold in it is so already: fonts do not nest
            done.append(f"\\fB{re.sub(_FONT, '', inline(found['strong']))}\\fR")
        elif found["emphasis"]:
            done.append(roff.italic(found["emphasis"]))
        elif found["text"]:
            done.append(_link(found["text"], found["url"]))
        else:
            done.append(roff.escaped(found["quoted"]))
    return "".join(done) + roff.escaped(text[place:])


def _link(text: str, url: str) -> str:
    """The words of a link; where it leads to, if that is not a file of the checkout."""
    words = inline(text)
    return f"{words} <{roff.escaped(url)}>" if "://" in url else words
