# SPDX-License-Identifier: Apache-2.0
"""What holds for every file of the project."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

TOP = Path(__file__).parents[2]

# Files of over 400 lines, each with the reason why it is not two.
LONG: dict[str, str] = {}

COMMENTED = {".py", ".pyi", ".c", ".h", ".lark", ".toml", ".yml", ".sh", ".sql"}
ALSO_COMMENTED = {"Makefile", ".ci/run"}


def files() -> list[str]:
    """Every file of the project, relative: as git has it, or all of an unpacked sdist."""
    git = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        capture_output=True,
        check=False,
    )
    if git.returncode == 0 and git.stdout:
        names = os.fsdecode(git.stdout).split("\0")
    else:
        names = [str(path.relative_to(TOP)) for path in TOP.rglob("*")]
    made = re.compile(r"(^|/)(\.venv|\.\w+_cache|__pycache__|build|dist|[^/]*\.egg-info)/|\.so$")
    return sorted(n for n in names if n and not made.search(n) and (TOP / n).is_file())


FILES = files()
TEXTS = {name: (TOP / name).read_bytes() for name in FILES if not (TOP / name).is_symlink()}


def test_there_are_files() -> None:
    assert {"dmtool/__init__.py", "plugins/linear/__init__.py", "pyproject.toml"} <= set(FILES)


def test_sources_name_their_licence() -> None:
    """Each source says so in its first lines, in the form that tools read."""
    line = b"SPDX-License-Identifier: Apache-2.0"
    sources = [n for n in TEXTS if Path(n).suffix in COMMENTED or n in ALSO_COMMENTED]
    without = [n for n in sources if TEXTS[n] and line not in TEXTS[n][:200]]
    assert not without


def test_files_are_short() -> None:
    sources = [n for n in TEXTS if Path(n).suffix in {".py", ".c", ".h", ".lark"}]
    long = {n for n in sources if TEXTS[n].count(b"\n") > 400}
    assert long == set(LONG)


def test_no_file_names_the_machine_it_was_written_on() -> None:
    paths = re.compile(rb"(?<![\w.$}])/(?:work|root|tmp/venv)(?=/)")
    found = [
        f"{name}:{number}: {line.decode(errors='replace').strip()}"
        for name, text in TEXTS.items()
        for number, line in enumerate(text.splitlines(), 1)
        if paths.search(line)
    ]
    assert not found


def test_every_target_type_has_a_readme_and_a_test() -> None:
    folders = {str(Path(n).parent) for n in FILES if re.fullmatch(r"plugins/\w+/__init__.py", n)}
    for folder in folders:
        assert f"{folder}/README.md" in FILES
        assert any(n.startswith(folder + "/") and "/test_" in n for n in FILES), folder


def test_links_are_the_two_of_the_layout() -> None:
    links = {n: os.readlink(TOP / n) for n in ("dmtool/plugins", "dmtool/grammar")}
    assert links == {"dmtool/plugins": "../plugins", "dmtool/grammar": "../grammar"}
