# SPDX-License-Identifier: Apache-2.0
"""Manual pages in the macros of man(7): text that is safe for roff, and the parts of a page.

Only what groff and mandoc both know is used (groff_man_style(7), mandoc_man(7)).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

# Characters that roff takes for something else, or prints as something else (groff_char(7)).
_SPECIAL = {
    "\\": "\\e",
    "-": "\\-",
    "^": "\\(ha",
    "~": "\\(ti",
    "`": "\\(ga",
    "'": "\\(aq",
    '"': "\\(dq",
    "…": "...",
    "–": "\\(en",  # noqa: RUF001  # the dash itself
    "—": "\\(em",
    "µ": "\\(mc",
}
_WIDTH = 78


def escaped(text: str) -> str:
    """Text that comes out of roff as it is, wherever in a line it stands."""
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    return character if character.isascii() else f"\\[u{ord(character):04X}]"


def bold(text: str) -> str:
    """What is to be typed as it stands."""
    return f"\\fB{escaped(text)}\\fR" if text else ""


def italic(text: str) -> str:
    """What stands for something else."""
    return f"\\fI{escaped(text)}\\fR" if text else ""


def filled(text: str) -> list[str]:
    """Lines of escaped text, to be filled by roff; none that could be taken for a request."""
    lines = textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_no_request(line) for line in lines]


def paragraph(text: str) -> list[str]:
    """A paragraph of escaped text."""
    return [".PP", *filled(text)]


def literal(lines: Iterable[str]) -> list[str]:
    """Lines as they are, indented: a program's, or what is typed and what comes out."""
    return [".IP", ".EX", *(_no_request(escaped(line)) for line in lines), ".EE"]


def tagged(tag: str, body: list[str]) -> list[str]:
    """An entry of a list: ``tag`` (escaped), and the lines of its text."""
    return [".TP", _no_request(tag), *(body or ["\\&"])]


def bullet(body: list[str]) -> list[str]:
    """An entry of a list without tags."""
    return [".IP \\(bu 2", *body]


def section(title: str) -> list[str]:
    """The beginning of a section."""
    return [f".SH {escaped(title.upper())}"]


def subsection(title: str) -> list[str]:
    """The beginning of a part of a section; ``title`` is escaped."""
    return [f".SS {title}"]


def page(name: str, number: int, date: str, source: str, comment: str, body: list[str]) -> str:
    """A whole page. ``date``: of the text, as YYYY-MM-DD; ``source``: program and version."""
    head = [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        f'.\\" {comment}',
        # the name of an option is not to be torn in two
        ".nr HY 0",
        f'.TH {escaped(name.upper())} {number} {date} "{escaped(source)}" "dmtool"',
        # many words here are long: lines of the same length would be full of holes
        ".ad l",
    ]
    lines = head
    for line in body:
        # a section begins with a paragraph anyhow
        if line != ".PP" or not lines[-1].startswith((".SH ", ".SS ")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def _no_request(line: str) -> str:
    return f"\\&{line}" if line[:1] in {".", "'"} else line


_TOKEN = re.compile(r"<[^<>]+>|\s+|[\[\]{}|]|\.\.\.|[^\s\[\]{}|<>]+")


def syntax(text: str) -> str:
    """A line of a usage text: words bold, what stands for something else italic."""
    parts = []
    for token in _TOKEN.findall(text):
        if token.startswith("<"):
            parts.append(italic(token[1:-1]))
        elif token.isspace():
            parts.append(" ")
        elif token in {"[", "]", "{", "}", "|"}:
            parts.append(token)
        else:
            word = token.removesuffix("...")
            # at the end of a line dots would end a sentence, which roff gives more room
            parts.append(bold(word) + ("...\\&" if word != token else ""))
    return "".join(parts).strip()
