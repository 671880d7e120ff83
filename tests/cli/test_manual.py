# SPDX-License-Identifier: Apache-2.0
"""The manual pages: that they are what is made, that they have everything, that they render."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dmtool.cli import columns
from dmtool.cli.commands import COMMANDS
from dmtool.cli.manual.__main__ import main, write
from dmtool.cli.manual.pages import pages, summary_of
from dmtool.cli.options import OPTIONS
from dmtool.cli.stats import SUBCOMMANDS

TOP = Path(__file__).parents[2]
PAGES = pages(TOP)
REAL = sorted(name for name, text in PAGES.items() if not text.startswith(".so "))


def test_the_pages_of_the_tree_are_what_is_made() -> None:
    found = {path.name: path.read_text() for path in (TOP / "man").iterdir()}
    assert sorted(found) == sorted(PAGES)
    for name, text in found.items():
        assert text == PAGES[name], f"{name} is old: make man"


def test_every_target_type_has_a_page() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    names = project["project"]["entry-points"]["dmtool.targets"]
    assert {f"dmtool-{name}.5" for name in names} < set(PAGES)


def test_writing_takes_old_pages_away(tmp_path: Path) -> None:
    for name in ("docs", "plugins"):
        shutil.copytree(TOP / name, tmp_path / name)
    write(tmp_path)
    (tmp_path / "man" / "dmtool-gone.5").write_text("")
    shutil.rmtree(tmp_path / "plugins" / "zero")
    write(tmp_path)
    assert {path.name for path in (tmp_path / "man").iterdir()} == set(PAGES) - {"dmtool-zero.5"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What man shows of each page, wide enough that no line is broken in what is looked for."""
    top = tmp_path_factory.mktemp("share") / "man"
    for name, text in PAGES.items():
        folder = top / f"man{name[-1]}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return {name: man(top, name) for name in PAGES}


def man(top: Path, name: str, width: int = 300, locale: str = "C.UTF-8") -> str:
    """The text of a page; fails if anything is said about it."""
    page, _, section = name.rpartition(".")
    environment = {**os.environ, "MANWIDTH": str(width), "LC_ALL": locale, "MANPAGER": "cat"}
    done = subprocess.run(
        ["man", "--warnings", "-M", top, section, page],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.tools("man")
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("name", sorted(PAGES))
def test_man_has_nothing_to_say(name: str, locale: str, tmp_path: Path) -> None:
    for other, text in PAGES.items():
        folder = tmp_path / f"man{other[-1]}"
        folder.mkdir(exist_ok=True)
        (folder / other).write_text(text)
    assert man(tmp_path, name, 80, locale)


@pytest.mark.tools("mandoc")
@pytest.mark.parametrize("name", REAL)
def test_mandoc_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-Tlint", "-W", "warning"],
        input=PAGES[name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def headed(text: str, word: str) -> bool:
    """Whether the text has a line that begins with that word."""
    return any(re.match(rf"{re.escape(word)}(\s|,|$)", line) for line in lines(text))


@pytest.mark.tools("man")
def test_every_command_is_there(shown: dict[str, str]) -> None:
    page = shown["dmtool.8"]
    for command in COMMANDS:
        assert command.name in lines(page), command.name
        usage = re.sub(r"[<>]", "", " ".join(command.usage.split("\n\tcreate")[0].split()))
        assert any(line == f"{command.name} {usage}".strip() for line in lines(page)), command.name
        if command.summary:
            assert " ".join(command.summary.split()) in page


@pytest.mark.tools("man")
def test_every_option_is_there(shown: dict[str, str]) -> None:
    options = shown["dmtool.8"].partition("\nOPTIONS\n")[2].partition("\nREPORTS")[0]
    for option in OPTIONS:
        letters = "".join(f"-{letter}, " for letter in option.short)
        assert headed(options, f"{letters}--{option.name}"), option.name


@pytest.mark.tools("man")
def test_every_column_is_there(shown: dict[str, str]) -> None:
    for column in (*columns.COLUMNS, *columns.SPECIAL_COLUMNS):
        of_statistics = column.kind in {columns.STATS, columns.REGION}
        page = shown["dmtool-stats.8" if of_statistics else "dmtool.8"]
        assert f"{column.id} ({column.heading})" in lines(page)
        assert column.description in page


@pytest.mark.tools("man")
def test_every_command_of_statistics_is_there(shown: dict[str, str]) -> None:
    for known in SUBCOMMANDS:
        assert known.name in lines(shown["dmtool-stats.8"])


@pytest.mark.tools("man")
def test_what_a_reader_looks_for(shown: dict[str, str]) -> None:
    page = shown["dmtool.8"]
    for section in ("EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO", "COLUMNS"):
        assert section in lines(page)
    assert headed(page, "DMTOOL_DIR")
    assert headed(page, "dmstats")
    assert headed(page, "devmap_name")
    assert "accepted and do nothing" in page
    assert "dmtool-linear - one run of sectors on one backing device" in shown["dmtool-linear.5"]
    assert "start length striped #stripes chunk [device offset]+" in shown["dmtool-striped.5"]
    assert shown["dmtool-io_error.5"] == shown["dmtool-error.5"]


@pytest.mark.tools("man")
def test_every_variable_of_the_environment_is_there(shown: dict[str, str]) -> None:
    """Those that dmtool looks at by their names."""
    names: set[str] = set()
    for path in TOP.glob("dmtool/**/*.py"):
        names |= set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', path.read_text()))
    assert "DMTOOL_DIR" in names
    environment = shown["dmtool.8"].partition("\nENVIRONMENT\n")[2].partition("\nFILES\n")[0]
    # whoever starts Python or another program has these
    missing = names - {"PATH", "PYTHONPATH"} - set(re.findall(r"\w+", environment))
    assert not missing


def test_a_readme_becomes_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(TOP / "examples" / "dmtool-xor" / "README.md")]) == 0
    page = capsys.readouterr().out
    assert ".TH DMTOOL\\-XOR 5 " in page
    assert ".SH SYNOPSIS\n\\fIstart\\fR \\fIlength\\fR \\fBxor\\fR" in page


def test_what_is_no_readme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.md").write_text("no heading\n")
    assert main([str(tmp_path / "empty.md")]) == 1
    assert "no heading with the name of a target type" in capsys.readouterr().err
    assert main([str(tmp_path / "none.md")]) == 1
    assert "No such file or directory" in capsys.readouterr().err
    assert main(["a", "b"]) == 1
    assert main(["--help"]) == 0


def test_the_module_is_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dmtool.cli.manual", TOP / "plugins" / "zero" / "README.md"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )
    assert done.stdout == PAGES["dmtool-zero.5"].replace("plugins/zero/", "")


def test_summaries_are_the_first_sentence() -> None:
    from dmtool.cli.manual.markdown import parts

    text = "# a\n\nDoes this: that (Linux `x.c` with\n`y.c`). And more.\n"
    assert summary_of(parts(text)) == "Does this: that"
