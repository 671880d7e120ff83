# SPDX-License-Identifier: Apache-2.0
"""Who is not root: as in a container, as on a desktop, and where nothing can be mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from importlib.metadata import distribution
from pathlib import Path

import pytest

import dmtool
from dmtool.export.fuse import mount as m

pytestmark = [pytest.mark.root, pytest.mark.tools("unshare", "setpriv")]

EXAMPLE = Path(__file__).parents[2] / "examples" / "volume.sh"
NOBODY = 65534
PACKAGES = ("click", "lark", "pluggy", "tabulate")

# /dev/fuse with the mode that distributions give it
OUTER = 'mount --bind "$0" /dev/fuse && exec "$@"'
USER = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
WAYS = {
    # nobody's own user namespace, and no setuid command has any effect
    "a namespace": [*USER, "--no-new-privs", "unshare", "--user", "--map-root-user", "--mount"],
    "fusermount3": USER,
    "neither": [*USER, "--no-new-privs"],
}

FIRST = """
set -e
cd "$1"
dmtool() { "$PYTHON" -m dmtool "$@"; }
dmtool create vol --table '0 2048 linear a.img 0'
echo over NBD | dmtool write vol
head -n 1 a.img
dmtool suspend vol; dmtool resume vol
dmtool table vol
"""
WITH_FILES = """
"$2" "$(dmtool mount-point)" | tail -n 1
echo 'as a file' 1<>"$(dmtool path vol)"
head -n 1 a.img
# a crash
exec 3<"$(dmtool path vol)"
kill -9 "$(cat run/lock)"
"$PYTHON" -c 'import fcntl; fcntl.flock(open("run/lock"), fcntl.LOCK_EX)'
grep -c " $PWD/run/" /proc/self/mounts || :
exec 3<&-
dmtool table vol
head -n 1 "$(dmtool path vol)"
dmtool remove vol
dmtool daemon stop
"""
WITHOUT_FILES = """
dmtool path vol || :
dmtool remove vol
dmtool daemon stop
"""


@pytest.fixture
def home() -> Generator[Path]:
    """Nobody's; beside it are a package and a Python that anybody can run."""
    # not tmp_path, which other users cannot enter
    top = Path(tempfile.mkdtemp(prefix="dmtool-fuse-"))
    top.chmod(0o755)
    home = top / "home"
    home.mkdir()
    (home / "a.img").write_bytes(bytes(1 << 20))
    for path in (home, home / "a.img"):
        os.chown(path, NOBODY, NOBODY)
    os.mknod(top / "fuse", 0o20666, os.stat(m.DEVICE).st_rdev)
    (top / "fuse").chmod(0o666)
    shutil.copy(EXAMPLE, top)
    _install(top / "site")
    yield home
    shutil.rmtree(top)


def _install(site: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(dmtool.__file__).parent, site / "dmtool", ignore=ignore)
    info = site / "dmtool-0.dist-info"
    info.mkdir()
    for file in ("METADATA", "entry_points.txt"):
        (info / file).write_text(distribution("dmtool").read_text(file) or "")
    for name in PACKAGES:
        found = Path(__import__(name).__file__ or "").parent
        shutil.copytree(found, site / name, ignore=ignore)


def _python() -> str:
    executable = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    probe = [executable, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if subprocess.run([*USER, *probe], check=False).returncode:
        pytest.skip("needs a python3 of 3.11 or later that other users can run")
    return executable


def _said(way: str, script: str, home: Path) -> str:
    top = home.parent
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", OUTER, top / "fuse"),
            *(*WAYS[way], "bash", "-c", script, "bash", home, top / EXAMPLE.name),
        ],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("DM", "XDG_", "PYTHON"))},
            "PYTHON": _python(),
            "PYTHONPATH": str(top / "site"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DMTOOL_DIR": str(home / "run"),
            "HOME": str(home),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize(
    "way",
    ["a namespace", pytest.param("fusermount3", marks=pytest.mark.tools("fusermount3"))],
)
def test_all_of_it(home: Path, way: str) -> None:
    table = f"0 2048 linear {home}/a.img 0\n"
    assert _said(way, FIRST + WITH_FILES, home) == (
        f"over NBD\n{table}all done\nas a file\n0\n{table}as a file\n"
    )


def test_all_but_the_files(home: Path) -> None:
    said = _said("neither", FIRST + WITHOUT_FILES, home)
    assert said.startswith(f"over NBD\n0 2048 linear {home}/a.img 0\nno files for mapped devices: ")
    assert "hint: " in said
    assert said.endswith("\nCommand failed.\n")
