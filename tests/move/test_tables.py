# SPDX-License-Identifier: Apache-2.0
"""The tables that a move makes and reads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmtool.client.moveplaces import unescape
from dmtool.client.movetables import (
    Copied,
    MoveError,
    Underlay,
    merged,
    mirrored,
    overlap,
    plain,
    replaced,
    runs,
    same,
)
from dmtool.names import escape

RUNS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda r: (r[0], sum(r))))


def lines(text: str) -> list[dict[str, Any]]:
    """A table as the core answers it."""
    found = []
    for line in text.splitlines():
        start, length, type, *params = line.split(" ", 3)
        found.append(
            {"start": int(start), "length": int(length), "type": type, "params": "".join(params)}
        )
    return found


def test_one_device_for_another() -> None:
    table = lines(
        "0 64 striped 2 8 /a\\ b.img 0 /c.img 64\n64 8 error\n72 8 linear /a\\ b.img 9\n"
        "80 8 linear /a\\ b.img2 9"
    )
    changed = (
        "0 64 striped 2 8 1000:1 0 /c.img 64\n64 8 error\n72 8 linear 1000:1 9\n"
        "80 8 linear /a\\ b.img2 9\n"
    )
    assert replaced(table, "/a\\ b.img", "1000:1") == changed
    assert same(lines(changed), changed)
    assert not same(table, changed)


def test_sectors_that_a_table_uses() -> None:
    table = lines(
        "0 64 striped 2 8 /a 10 /a 42\n64 8 linear /b 0\n72 8 linear /a 0\n80 4 linear /a 200"
    )
    areas = [
        {"target": 0, "device": 0, "start": 10, "length": 32},
        {"target": 0, "device": 0, "start": 42, "length": 32},
        {"target": 64, "device": 1, "start": 0, "length": 8},
        {"target": 72, "device": 0, "start": 0, "length": 8},
        {"target": 80, "device": 0, "start": 200, "length": 4},
    ]
    assert runs(table, areas, 0, "/a") == [(0, 8), (10, 74), (200, 204)]
    with pytest.raises(MoveError, match="striped target at sector 0 does not say"):
        runs(table, areas[1:], 0, "/a")


def test_the_tables_below() -> None:
    found = [(8, 2000), (2010, 2012)]
    text = plain(found, "/a")
    assert text == "0 8 error\n8 1992 linear /a 8\n2000 10 error\n2010 2 linear /a 2010\n"
    assert Underlay.of(lines(text)) == Underlay("/a", None, tuple(found))
    text = mirrored(found, "/a", "/b")
    assert lines(text)[1]["params"] == "core 1 1024 2 /a 8 /b 8 2 handle_errors keep_log"
    assert lines(text)[3]["params"] == "core 1 2 2 /a 2010 /b 2010 2 handle_errors keep_log"
    assert Underlay.of(lines(text)) == Underlay("/a", "/b", tuple(found))
    with pytest.raises(MoveError, match="a single sector, 7 of /a"):
        mirrored([(7, 8)], "/a", "/b")


@pytest.mark.parametrize(
    "text",
    ["0 8 zero", "0 8 linear /a 0\n8 8 linear /b 8", "0 8 error", "0 8 mirror core 1 2 2 /a"],
)
def test_tables_of_others(text: str) -> None:
    assert Underlay.of(lines(text)) is None


def test_how_far_it_is() -> None:
    status = (
        "0 8 error\n8 1025 mirror 2 /a\\ b /b 1/2 1 AA 1 core\n"
        "1033 1024 mirror 2 /a /b 1/1 1 AA 1 core"
    )
    assert Copied.of(lines(status)) == Copied(2048 * 512, 2049 * 512)
    done = status.replace("1/2", "2/2")
    assert Copied.of(lines(done)).complete
    failed = Copied.of(lines(done.replace("2/2 1 AA", "2/2 1 AS")))
    assert failed.failed == "AS"
    assert not failed.complete


@given(RUNS)
def test_merged_runs_are_the_same_sectors(found: list[tuple[int, int]]) -> None:
    whole = merged(found)
    assert {s for low, high in whole for s in range(low, high)} == {
        s for low, high in found for s in range(low, high)
    }
    assert all(one[1] < other[0] for one, other in itertools.pairwise(whole))


@given(RUNS, RUNS)
def test_overlap(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    both = [{s for low, high in found for s in range(low, high)} for found in (one, other)]
    assert overlap(one, other) == bool(both[0] & both[1])


@given(st.text())
def test_words_become_paths_again(path: str) -> None:
    assert unescape(escape(path)) == path
