# SPDX-License-Identifier: Apache-2.0
"""The outline of a table says what the table says, in bulk and line by line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmtool.table import Table, bulk, load
from dmtool.table.outline import Outline, outline
from dmtool.testing import make_pattern

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


def built(text: str, folder: Path) -> Table:
    table = load(text, source="t", cwd=str(folder))
    assert table is not None
    return table


def numbered(lines: list[tuple[int, str]]) -> str:
    """A table of (sectors, the rest of a line)."""
    at, text = 0, []
    for length, rest in lines:
        text.append(f"{at} {length} {rest}")
        at += length
    return "\n".join(text)


def named(found: Outline) -> list[str]:
    """The kinds, each with the file names of its devices."""
    return [" ".join((k.type, *(str(d)[-1] for d in k.devices))) for k in found.kinds]


def told(found: Outline) -> list[tuple[str, int]]:
    """(type and device, sectors) of each stretch; the kinds in their own order."""
    names = named(found)
    return [(names[stretch.kind], stretch.length) for stretch in found.stretches]


# Lines, and the type and devices of each: rows of a large table, and others.
ROWS = {
    "linear a 0": "linear a",
    "linear ./a 3": "linear a",
    "linear b 1": "linear b",
    "zero": "zero",
    "error": "error",
}
LINES = {
    **ROWS,
    r"linear \a 9": "linear a",
    "striped 1 1 a 8": "striped a",
    "striped 2 1 a 8 b 8": "striped a b",
}
_line = st.tuples(st.integers(1, 4).map(lambda n: n * 2), st.sampled_from(sorted(LINES)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=st.lists(_line, min_size=1, max_size=20), parts=st.integers(1, 30))
def test_it_is_the_table(
    lines: list[tuple[int, str]], parts: int, folder: Path, worth: pytest.MonkeyPatch
) -> None:
    sectors = [LINES[rest] for length, rest in lines for _ in range(length)]
    size = len(sectors)
    runs = [(name, len(list(some))) for name, some in groupby(sectors)]
    for least in (1, 1 << 30):
        worth.setattr(bulk, "WORTH", least)
        table = built(numbered(lines), folder)
        try:
            if least > 1:
                assert table.bulk is None
            elif any(rest in ROWS for _, rest in lines):
                assert table.bulk is not None
            found = outline(table, parts, 100)
            assert told(found) == runs
            assert (found.sectors, found.targets, found.runs) == (size, len(lines), len(runs))
            assert sum(kind.targets for kind in found.kinds) == len(lines)
            assert sum(kind.runs for kind in found.kinds) == len(runs)
            assert sum(kind.sectors for kind in found.kinds) == size
            names = named(found)
            assert names == list(dict.fromkeys(sectors))
            assert len(found.parts) == parts
            for part, share in enumerate(found.parts):
                first, end = -(-size * part // parts), -(-size * (part + 1) // parts)
                here = sectors[first:end]
                wanted = {name: here.count(name) for name in here}
                assert {names[kind]: n for kind, n in share.items()} == wanted
        finally:
            table.close()


def test_rows_and_others_side_by_side(folder: Path, worth: pytest.MonkeyPatch) -> None:
    worth.setattr(bulk, "WORTH", 1)
    lines = [(4, "linear a 0"), (4, r"linear \a 4"), (4, "linear a 8"), (4, "striped 2 1 a 0 b 9")]
    table = built(numbered(lines), folder)
    assert table.bulk is not None
    assert table.bulk.odd
    found = outline(table, 1, 9)
    assert [(s.length, s.targets, s.at) for s in found.stretches] == [(12, 3, [0]), (4, 1, [0, 9])]
    table.close()


@pytest.mark.parametrize("least", [1, 1 << 30])
def test_where_runs_begin_below(folder: Path, worth: pytest.MonkeyPatch, least: int) -> None:
    worth.setattr(bulk, "WORTH", least)
    lines = [
        (4, "linear a 8"),
        (2, "linear a 12"),
        (2, "zero"),
        (1, "linear a 0"),
        (1, "linear a 5"),
    ]
    table = built(numbered(lines), folder)
    found = outline(table, 1, 3)
    assert [(s.start, s.length, s.targets, s.at) for s in found.stretches] == [
        (0, 6, 2, [8]),
        (6, 2, 1, []),
        (8, 2, 2, [None]),
    ]
    assert outline(table, 1, 2).stretches == []
    assert [kind.ends for kind in found.kinds] == ["devices", "zero"]
    table.close()


def test_several_devices(folder: Path) -> None:
    lines = [(8, "striped 2 4 a 0 b 8"), (8, "striped 2 4 a 4 b 12"), (8, "striped 2 4 a 0 a 32")]
    table = built(numbered(lines), folder)
    found = outline(table, 2, 9)
    assert [(s.length, s.targets, s.at) for s in found.stretches] == [
        (16, 2, [0, 8]),
        (8, 1, [None]),
    ]
    assert [[str(d)[-1] for d in kind.devices] for kind in found.kinds] == [["a", "b"], ["a"]]
    assert found.parts == [{0: 12}, {0: 4, 1: 8}]
    table.close()
