# SPDX-License-Identifier: Apache-2.0
"""``python -m dmtool.cli.manual``: write the pages of a checkout, or print that of a README."""

from __future__ import annotations

import sys
from pathlib import Path

import dmtool
from dmtool.cli.manual import markdown
from dmtool.cli.manual.pages import pages, target

_USAGE = """\
Usage: python -m dmtool.cli.manual
           in a checkout of dmtool: write its manual pages to man/
       python -m dmtool.cli.manual README.md
           print the manual page of a target type, made of its README
"""


def main(words: list[str]) -> int:
    """The program; its exit status."""
    if len(words) > 1 or words[:1] in (["-h"], ["--help"]):
        sys.stderr.write(_USAGE)
        return int(len(words) > 1)
    if words:
        return _print(Path(words[0]))
    top = Path(dmtool.__file__).parents[1]
    if not (top / "docs").is_dir():
        sys.stderr.write(f"{top} is no checkout of dmtool: it has no docs/\n{_USAGE}")
        return 1
    write(top)
    return 0


def write(top: Path) -> None:
    """Write the pages of a checkout to its ``man/``, and take away what is no page any more."""
    folder = top / "man"
    folder.mkdir(exist_ok=True)
    made = pages(top)
    for file in folder.iterdir():
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")


def _print(readme: Path) -> int:
    try:
        text = readme.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{readme}: {error}\n")
        return 1
    parts = markdown.parts(text)
    if not any(part.level == 1 and any(map(str.strip, part.lines)) for part in parts):
        sys.stderr.write(f"{readme}: no heading with the name of a target type and a text below\n")
        return 1
    sys.stdout.write(target(parts, readme.name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
