# SPDX-License-Identifier: Apache-2.0
"""What an installation has is what the tree has: docs/adr/0001-packaging.md.

Folders are named one by one in pyproject.toml, so a new one that is not named there would be
missing from the wheel without a word; so would the C module. These tests are the word.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TOP = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((TOP / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]

builds = [pytest.mark.slow, pytest.mark.xdist_group("packaging"), pytest.mark.timeout(300)]


def folders() -> dict[str, Path]:
    """Package name: folder, of every folder that is one."""
    tops = {"dmtool": TOP / "dmtool", "dmtool.plugins": TOP / "plugins"}
    found = {"dmtool.grammar": TOP / "grammar"}
    for package, top in tops.items():
        for init in top.rglob("__init__.py"):
            parts = init.parent.relative_to(top).parts
            if not (package == "dmtool" and parts[:1] in (("plugins",), ("grammar",))):
                found[".".join((package, *parts))] = init.parent
    return found


def target_folders() -> set[str]:
    return {p.parent.name for p in (TOP / "plugins").glob("*/__init__.py")}


def test_every_folder_is_a_package_of_the_installation() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(folders())


def test_every_folder_is_mapped_to_its_place() -> None:
    places = SETUPTOOLS["package-dir"]
    for package, folder in folders().items():
        if not folder.is_relative_to(TOP / "dmtool"):
            assert places.pop(package) == str(folder.relative_to(TOP))
    assert places == {"dmtool": "dmtool"}


def test_every_target_type_is_an_entry_point() -> None:
    points = PROJECT["project"]["entry-points"]["dmtool.targets"]
    assert set(points.values()) == {f"dmtool.plugins.{name}" for name in target_folders()}
    for name in target_folders():
        assert points[name] == f"dmtool.plugins.{name}"


def test_the_version_stands_in_two_places_and_is_one() -> None:
    init = (TOP / "dmtool" / "__init__.py").read_text()
    assert f'__version__ = "{PROJECT["project"]["version"]}"' in init


def test_ci_installs_every_tool_that_a_test_needs() -> None:
    script = (TOP / ".ci" / "run").read_text()
    table = (TOP / "conftest.py").read_text().partition("PACKAGES = {")[2].partition("}")[0]
    packages = dict(re.findall(r'"([\w.-]+)": "([\w.-]+)"', table))
    missing = {p for p in packages.values() if not re.search(rf"^    {p}\b", script, re.MULTILINE)}
    assert not missing
    for test in [*TOP.glob("tests/**/test_*.py"), *TOP.glob("plugins/**/test_*.py")]:
        for tools in re.findall(r"mark\.tools\(([^)]*)\)", test.read_text()):
            assert set(re.findall(r'"([\w.-]+)"', tools)) <= set(packages), test


# Where an environment has what is not Python's: folders of the tree, by folders of the wheel.
SHARED = {
    "share/man/man5": TOP / "man",
    "share/man/man8": TOP / "man",
    "share/bash-completion/completions": TOP / "completion" / "bash",
    "share/zsh/site-functions": TOP / "completion" / "zsh",
    "share/fish/vendor_completions.d": TOP / "completion" / "fish",
}


def shared() -> dict[str, Path]:
    """The pages and completions of the tree, by where they are installed."""
    return {
        f"{place}/{file.name}": file
        for place, folder in SHARED.items()
        for file in folder.iterdir()
        if "man" not in place or file.suffix == f".{place[-1]}"
    }


def installed(wheel: Path) -> set[str]:
    """The files of a wheel, without its metadata; those of ``share`` as they are installed."""
    names = set(zipfile.ZipFile(wheel).namelist())
    return {n.partition(".data/data/")[2] or n for n in names if ".dist-info/" not in n}


class TestBuilt:
    pytestmark = builds

    def test_wheel_has_the_files_of_the_packages(self, built: Any) -> None:
        kinds = {".py", ".pyi", ".lark", ".typed", ".sql"}
        wanted = {
            f"{package.replace('.', '/')}/{file.name}"
            for package, folder in folders().items()
            for file in folder.iterdir()
            if file.is_file() and (file.suffix in kinds or file.name == "py.typed")
        } | set(shared())
        assert {n for n in installed(built.tree_wheel) if not n.endswith(".so")} == wanted

    def test_sdist_gives_the_same_wheel(self, built: Any) -> None:
        assert installed(built.sdist_wheel) == installed(built.tree_wheel)
        assert built.sdist_wheel.name == built.tree_wheel.name

    @pytest.mark.native
    def test_wheel_has_the_index_in_c(self, built: Any) -> None:
        names = installed(built.tree_wheel)
        modules = ("_btree", "_nbd", "_stats", "_table")
        assert {f"dmtool/{name}.abi3.so" for name in modules} <= set(names)
        assert "-cp311-abi3-" in built.tree_wheel.name

    def test_sdist_has_what_building_and_testing_need(self, built: Any) -> None:
        with tarfile.open(built.sdist) as tar:
            names = {name.partition("/")[2] for name in tar.getnames()}
        assert {"native/btree.c", "grammar/table.lark", "tests/conftest.py", "Makefile"} <= names
        assert {"conftest.py", ".ci/run", "examples/demo.sh", "LICENSE"} <= names
        assert {str(file.relative_to(TOP)) for file in shared().values()} <= names
        assert not [n for n in names if n.endswith((".so", ".pyc"))]

    def test_installed_wheel_works(self, built: Any, environment: Callable[..., Any]) -> None:
        """In an environment that has nothing but what the wheel says it needs."""
        env = environment(built.sdist_wheel)
        version = PROJECT["project"]["version"]
        assert version in env.run("dmtool", "version")
        types = {
            one["name"] for one in json.loads(env.run("dmtool", "targets", "--json"))["targets"]
        }
        assert types >= {"linear", "striped", "error", "io_error", "zero"}
        for place, file in shared().items():
            assert (env.root / place).read_bytes() == file.read_bytes()
        (env.root / "disk.img").write_bytes(b"dmtool. " * 640)
        env.run("dmtool", "create", "one", "--table", "0 8 linear disk.img 2")
        assert env.run("dmtool", "read", "one", "--length", "16") == "dmtool. dmtool. "

    @pytest.mark.tools("man")
    def test_man_finds_the_pages_of_an_environment(
        self, built: Any, environment: Callable[..., Any]
    ) -> None:
        """By its PATH alone, as `activate` sets it."""
        root = environment(built.tree_wheel).root
        path = {"PATH": f"{root}/bin:{os.environ['PATH']}", "LC_ALL": "C"}
        for name, section in (("dmtool", 8), ("dmtool-table", 5)):
            where = ["man", "-w", name]
            done = subprocess.run(where, env=path, capture_output=True, text=True, check=True)
            assert done.stdout == f"{root}/share/man/man{section}/{name}.{section}\n"
        alias = ["man", "dmtool-io_error"]
        done = subprocess.run(alias, env=path, capture_output=True, text=True, check=True)
        assert "every I/O fails with EIO" in done.stdout
