# SPDX-License-Identifier: Apache-2.0
"""What ``table`` prints goes back in through ``create``: every target type, every name."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmtool.cli import main
from dmtool.names import mangle
from dmtool.targets.registry import TARGETS
from tests.cli.conftest import Done, Shell

# Lines of each target type; {0} to {2} are images, of which each has 128 sectors. A new target type
# adds its own.
EXAMPLES = {
    "linear": ["0 32 linear {0} 0", "32 32 linear {1} 64", "64 8 linear {2} 1"],
    "striped": ["0 64 striped 2 8 {0} 0 {1} 16"],
    "mirror": ["0 64 mirror core 2 32 nosync 2 {0} 0 {1} 0 1 handle_errors"],
    "error": ["0 8 error"],
    "io_error": ["0 8 io_error"],
    "zero": ["0 8 zero"],
}
TYPES = TARGETS.names()
IMAGES = ["a,b;c", "sp ace\\ta#b", "ünï\udcff"]

# All that a name may have in it: every byte but NUL and "/".
NAMES = (
    st.lists(st.sampled_from(sorted({*range(1, 256)} - {ord("/")})), min_size=1, max_size=12)
    .map(lambda codes: bytes(codes).decode("utf-8", "surrogateescape"))
    .filter(lambda name: len(mangle(name, "hex")) <= 60)
)
# What reads as an escape already is taken for one, unless one says --manglename hex.
PLAIN = NAMES.filter(lambda name: "\\x" not in name)
LOOKS_MANGLED = st.builds("{}\\x{:02x}".format, NAMES, st.integers(0, 255))
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
Run = Callable[..., Done]


@pytest.fixture
def run(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process, against a core of its own."""
    monkeypatch.setenv("DMTOOL_DIR", shell.environment["DMTOOL_DIR"])
    monkeypatch.chdir(shell.cwd)
    shell("version")

    def run(*args: str, stdin: str = "") -> Done:
        data = stdin.encode("utf-8", "surrogateescape")
        streams = {
            name: io.TextIOWrapper(io.BytesIO(text), "utf-8", "surrogateescape", newline="")
            for name, text in (("stdin", data), ("stdout", b""), ("stderr", b""))
        }
        with mock.patch.multiple(sys, argv=["dmtool"], **streams):
            status = main(args)
        printed = []
        for name in ("stdout", "stderr"):
            streams[name].seek(0)
            printed.append(streams[name].read())
        return Done(status, *printed)

    return run


def test_every_target_type_has_an_example() -> None:
    assert set(TYPES) <= set(EXAMPLES)


@pytest.fixture
def images(shell: Shell) -> list[str]:
    """Image files with names that a table must quote, as a table writes them."""
    found = []
    for name in IMAGES:
        path = shell.cwd / name
        path.write_bytes(bytes(128 * 512))
        found.append("".join(f"\\{c}" if c in "\\# \t" else c for c in name))
    return found


@pytest.mark.parametrize("type", TYPES)
def test_table_into_create(run: Run, images: list[str], type: str) -> None:
    table = "\n".join(EXAMPLES[type]).format(*images)
    assert run("create", "one", "--table", table) == (0, "", "")
    printed = run("table", "one").out
    assert run("create", "two", stdin=printed) == (0, "", "")
    assert run("table", "two").out == printed
    assert run("deps", "two").out == run("deps", "one").out


@pytest.mark.parametrize("type", TYPES)
def test_concise_into_concise(run: Run, images: list[str], type: str) -> None:
    table = "\n".join(EXAMPLES[type]).format(*images)
    assert run("create", "one", "-u", "u;1", "--table", table).status == 0
    assert run("create", "two", "-r", "--table", "0 1 zero").status == 0
    printed = run("table", "--concise").out
    lines = run("table").out
    assert run("remove_all").status == 0
    assert run("create", "--concise", stdin=printed) == (0, "", "")
    assert run("table", "--concise").out == printed
    assert run("table").out == lines
    assert run("remove_all").status == 0
    # as an argument, as "$(dmsetup table --concise)" gives it: without the newline
    assert run("create", "--concise", printed.removesuffix("\n")) == (0, "", "")
    assert run("table", "--concise").out == printed


def _goes_round(run: Run, names: list[str], uuid: str, *mode: str) -> None:
    """Devices of these names, the first with a uuid, are made, printed, and made again of that."""
    known = ("info", "-c", "--noheadings", "-o", "mangled_name,mangled_uuid")
    try:
        for name in names:
            ids = ["--uuid", uuid] if name is names[0] else []
            assert run(*mode, *ids, "create", "--", name, stdin="0 8 zero") == (0, "", "")
        printed, before = run(*mode, "table", "--concise").out, run(*known).out
        assert run("remove_all").status == 0
        assert run(*mode, "create", "--concise", stdin=printed) == (0, "", "")
        assert run(*mode, "table", "--concise").out == printed
        assert run(*known).out == before
    finally:
        assert run("remove_all").status == 0


def test_names(run: Run) -> None:
    @SETTINGS
    @given(st.lists(PLAIN, min_size=1, max_size=3, unique=True), PLAIN)
    def goes_round(names: list[str], uuid: str) -> None:
        _goes_round(run, names, uuid)

    goes_round()


def test_names_that_look_mangled(run: Run) -> None:
    name = st.one_of(NAMES, LOOKS_MANGLED)

    @SETTINGS
    @given(st.lists(name, min_size=1, max_size=3, unique=True), name)
    def goes_round(names: list[str], uuid: str) -> None:
        _goes_round(run, names, uuid, "--manglename", "hex")

    goes_round()


def test_every_byte(run: Run) -> None:
    names = [bytes([byte]).decode("utf-8", "surrogateescape") for byte in range(1, 256)]
    names.remove("/")
    _goes_round(run, names, "/")
