# SPDX-License-Identifier: Apache-2.0
"""Tables built in bulk are the same tables, and refused for the same reasons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmtool.errors import TableErrors
from dmtool.plan import Extent
from dmtool.table import Table, build, bulk, check, columns, load, rows
from dmtool.testing import make_pattern
from tests.openfiles import open_in
from tests.table.lanes import LANES

SECTORS = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("images")
    for i, name in enumerate("ab", 1):
        make_pattern(made / name, i, SECTORS)
    return made


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patch:
        yield patch


def _outcome(text: str, folder: Path) -> tuple[object, bool]:
    """What a table is, or why it is not; and whether it was built in bulk."""
    try:
        table = load(text, source="t", cwd=str(folder))
    except TableErrors as errors:
        assert not open_in(folder)
        return [error.as_dict() for error in errors.errors], False
    if table is None:
        return None, False
    try:
        return _facts(table), table.bulk is not None
    finally:
        table.close()


def _checked(text: str, folder: Path) -> object:
    found = check(text, source="t", cwd=str(folder))
    return [error.as_dict() for error in found.errors], found.targets, found.sectors


def _all(text: str, folder: Path, patch: pytest.MonkeyPatch, lane: str | None) -> object:
    """What is made of a table in one of the lanes, or (None) in no bulk."""
    patch.setattr(bulk, "WORTH", 0 if lane else 1 << 60)
    if lane:
        scan, judge, lines = LANES[lane]
        patch.setattr(rows, "scan", scan)
        patch.setattr(build, "check_rows", judge)
        patch.setattr(columns, "lines", lines)
    outcome, in_bulk = _outcome(text, folder)
    assert in_bulk == (lane is not None and isinstance(outcome, dict))
    return outcome, _checked(text, folder)


def _facts(table: Table) -> dict[str, object]:
    used: list[tuple[str, int, int]] = []
    for number in range(len(table.targets)):
        table.uses(number, lambda device, start, n: used.append((str(device), start, n)))
    return {
        "lines": list(table.lines()),
        "parts": "".join(table.parts()),
        "targets": [(ti.begin, ti.len, ti.type.name, ti.text) for ti in table.targets],
        "plans": [str(ti.context) for ti in table.targets if isinstance(ti.context, Extent)],
        "status": [table.status(number) for number in range(len(table.targets))],
        "text": [table.text(number) for number in range(len(table.targets))],
        "size": table.size,
        "backings": [str(backing) for backing in table.backings],
        "uses": used,
        "bytes": [
            (n, d if isinstance(d, bytes) else d.errno)
            for _, n, d in table.read_parts(0, table.size)
        ],
    }


_line = st.tuples(
    st.integers(1, 9),
    st.sampled_from(
        [
            "linear a {}",
            "linear b {}",
            "zero",
            "error",
            "io_error",
            "linear a {} ",
            " linear\ta  {}\r",
            "linear ./b 0{}",
            "striped 1 1 a {}",
            "zero # comment",
            "error any {}",
            "error a b c",
        ]
    ),
    st.integers(0, SECTORS - 9),
)
_spoil = st.sampled_from(
    [
        "0 0 zero",
        "linear",
        "7 8 linear nosuch 0",
        "# x",
        "",
        "begin",
        "end",
        "0 8 linear a x",
        "0 8 linear a\\",
        "5 5 nosuch",
        "5 5 nosuch a 1",
        "99999999999999999999 1 zero",
        "0 9999999999999999999 zero",
        "0 1 linear a 63",
        "0 1 linear a 64",
        "0 1 linear a 18446744073709551615",
        "\t0 1 zero",
        "0 1 zero 5 5",
        "0 1 a-type-of-17-byte",
        "\udcff",
    ]
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)
@given(
    lines=st.lists(_line, min_size=1, max_size=12),
    spoils=st.lists(st.tuples(st.integers(0, 14), _spoil), max_size=3),
    end=st.booleans(),
)
@pytest.mark.parametrize("lane", [pytest.param("native", marks=pytest.mark.native), "python"])
def test_both_ways_agree(
    folder: Path,
    worth: pytest.MonkeyPatch,
    lane: str,
    lines: list[tuple[int, str, int]],
    spoils: list[tuple[int, str]],
    end: bool,
) -> None:
    begin, rows = 0, []
    for length, rest, start in lines:
        rows.append(f"{begin} {length} {rest.format(start)}")
        begin += length
    for at, spoil in spoils:
        rows.insert(at, spoil)
    text = "\n".join(rows) + "\n" * end
    assert _all(text, folder, worth, lane) == _all(text, folder, worth, None)


@pytest.mark.parametrize(
    "line", ["{0} 1 linear a 70", "{0} 0 zero", "{0} 1 nosuch", "{1} 1 zero", "x", "{0} 1 linear a"]
)
@pytest.mark.parametrize("lane", [pytest.param("native", marks=pytest.mark.native), "python"])
def test_no_more_than_so_many_errors_are_reported(
    folder: Path, worth: pytest.MonkeyPatch, lane: str, line: str
) -> None:
    text = "\n".join(line.format(n, 2 * n + 1) for n in range(300))
    found = _all(text, folder, worth, lane)
    assert found == _all(text, folder, worth, None)
    assert len(check(text, cwd=str(folder)).errors) == 100


def test_surrogates_that_stand_for_no_byte_are_no_bytes(
    folder: Path, worth: pytest.MonkeyPatch
) -> None:
    text = "0 1 error \ud800"
    worth.setattr(bulk, "WORTH", 0)
    facts, in_bulk = _outcome(text, folder)
    assert isinstance(facts, dict)
    assert not in_bulk


def test_a_large_table_is_built_in_bulk_and_finds_its_bytes(folder: Path) -> None:
    random = Random(1)
    count = 50_000
    picks = [(random.choice("ab"), random.randrange(SECTORS)) for _ in range(count)]
    text = "\n".join(f"{i} 1 linear {name} {start}" for i, (name, start) in enumerate(picks))
    table = load(text, cwd=str(folder))
    assert table is not None
    assert table.bulk is not None
    images = {name: (folder / name).read_bytes() for name in "ab"}
    expected = b"".join(images[name][start * 512 :][:512] for name, start in picks)
    assert table.read(0, table.size) == expected
    for _ in range(1000):
        offset = random.randrange(table.size - 3000)
        assert table.read(offset, 3000) == expected[offset : offset + 3000]
    table.close()
