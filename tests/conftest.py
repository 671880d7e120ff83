# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of what gets installed: a copy of the project, what is built from it, and
virtual environments that have nothing else.

None of it needs the network: builds are not isolated (setuptools is one of the test extra's
packages), and an environment gets copies of the dependencies that this one has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


@dataclass(frozen=True)
class Environment:
    """A virtual environment; ``python -m pip`` of this one installs into it."""

    root: Path

    def run(self, command: str, *args: str, stdin: str | None = None, status: int = 0) -> str:
        """Standard output of a command of the environment; fails unless it exits with ``status``."""
        # nothing of the caller's leads back into the checkout
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        env["PATH"] = f"{self.root}/bin:{env['PATH']}"
        env["DMTOOL_DIR"] = str(self.root / "run")
        done = subprocess.run(
            [self.root / "bin" / command, *args],
            cwd=self.root,
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, f"{command} {args}: {done.stdout}{done.stderr}"
        return done.stdout

    def pip(self, command: str, *args: str | Path) -> None:
        python = str(self.root / "bin" / "python")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, "--quiet", command, *args],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Built:
    """What ``build`` made: a wheel of the tree, an sdist, and a wheel of the sdist."""

    tree_wheel: Path
    sdist: Path
    sdist_wheel: Path


@pytest.fixture(scope="session")
def checkout_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project without anything that was made in it, as a clone has it."""
    copy = tmp_path_factory.mktemp("checkout") / "dmtool"
    made = (".git", ".venv", "build", "dist", "__pycache__", "*.so", "*.egg-info", ".*_cache")
    shutil.copytree(TOP, copy, symlinks=True, ignore=shutil.ignore_patterns(*made, ".hypothesis"))
    return copy


@pytest.fixture(scope="session")
def built(checkout_copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both ways to a wheel."""
    out = tmp_path_factory.mktemp("dist")

    def build(*what: str, to: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", to, checkout_copy],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    build("--wheel", to=out / "tree")
    build(to=out / "sdist")  # the sdist, then a wheel from it
    (tree_wheel,) = (out / "tree").glob("*.whl")
    (sdist,) = (out / "sdist").glob("*.tar.gz")
    (sdist_wheel,) = (out / "sdist").glob("*.whl")
    return Built(tree_wheel, sdist, sdist_wheel)


@pytest.fixture
def environment() -> Generator[Callable[..., Environment]]:
    """Makes environments with a wheel, what it says it depends on, and the packages named."""
    made: list[Environment] = []

    def make(wheel: Path, *more: str) -> Environment:
        # not tmp_path: the path of a unix socket has 107 bytes and no more
        root = Path(tempfile.mkdtemp(prefix="dmtool-env-"))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True)
        made.append(Environment(root))
        (site,) = root.glob("lib/python*/site-packages")
        for name in _with_dependencies({"click", "lark", "pluggy", "tabulate", *more}):
            _copy(name, site)
        made[-1].pip("install", "--no-index", wheel)
        return made[-1]

    yield make
    for env in made:
        if (env.root / "run").exists():
            env.run("dmtool", "remove_all")
            env.run("dmtool", "daemon", "stop")
        shutil.rmtree(env.root)


def _with_dependencies(names: set[str]) -> set[str]:
    """Names of distributions and of all that they require here, extras left out."""
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        for requirement in distribution(name).requires or []:
            word = re.match(r"[\w.-]+", requirement)
            if word and ";" not in requirement and word[0] not in found:
                names.add(word[0])
    return found


def _copy(name: str, site: Path) -> None:
    """Copy an installed distribution into another site-packages."""
    dist = distribution(name)
    for file in dist.files or []:
        source = Path(str(dist.locate_file(file)))
        if ".." not in file.parts and source.is_file():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, site / file)
