# SPDX-License-Identifier: Apache-2.0
"""What is counted, and that C and Python count the same."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmtool.device import meter
from dmtool.device.meter import PythonAreas, PythonMeter
from dmtool.export.nbd import protocol as p

try:
    from dmtool import _stats
except ImportError:
    NATIVE: Any = None
else:
    NATIVE = _stats

SECTOR = 512
READS, WRITES = slice(0, 4), slice(4, 8)  # count, merged, sectors, time
IN_FLIGHT, BUSY, QUEUE, BUSY_READING, BUSY_WRITING = range(8, 13)


class Kind(NamedTuple):
    """One implementation."""

    areas: Callable[..., Any]
    meter: Callable[..., Any]


PYTHON = Kind(PythonAreas, PythonMeter)
KINDS = [
    pytest.param(PYTHON, id="python"),
    pytest.param(
        NATIVE and Kind(NATIVE.Areas, NATIVE.Meter), id="native", marks=pytest.mark.native
    ),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def one(kind: Kind, *bounds: int) -> tuple[Any, Any]:
    """A region of 16 sectors in 4 areas, and what counts in it."""
    areas = kind.areas(0, 16, 4, bounds)
    return areas, kind.meter([areas])


def request(command: int, sector: int, sectors: int) -> bytes:
    payload = bytes(sectors * SECTOR if command == p.CMD_WRITE else 0)
    head = p.REQUEST.pack(p.REQUEST_MAGIC, 0, command, bytes(8), sector * SECTOR, sectors * SECTOR)
    return head + payload


# -- one request -----------------------------------------------------------------------------


def test_a_request_counts_in_each_area_that_it_touches(kind: Kind) -> None:
    areas, counts = one(kind)
    begun = counts.begin(True, 3 * SECTOR, 6 * SECTOR, 100)
    counts.end(True, 3 * SECTOR, 6 * SECTOR, begun, 107)
    rows = areas.rows(0, 4, False, 107)
    assert [row[WRITES] for row in rows] == [(1, 0, 1, 7), (1, 0, 4, 7), (1, 0, 1, 7), (0, 0, 0, 0)]
    assert not any(any(row[READS]) for row in rows)


def test_a_part_of_a_sector_is_a_sector(kind: Kind) -> None:
    areas, counts = one(kind)
    counts.end(False, 511, 2, counts.begin(False, 511, 2, 1), 2)
    assert areas.rows(0, 1)[0][2] == 2


def test_outside_of_the_region_nothing_counts(kind: Kind) -> None:
    areas = kind.areas(8, 16, 8)
    counts = kind.meter([areas])
    for sector, sectors in ((0, 8), (16, 4)):
        offset, length = sector * SECTOR, sectors * SECTOR
        counts.end(False, offset, length, counts.begin(False, offset, length, 1), 2)
    assert areas.rows(0, 1, False, 9) == [(0,) * 13]
    counts.end(False, 7 * SECTOR, 2 * SECTOR, counts.begin(False, 7 * SECTOR, 2 * SECTOR, 1), 2)
    assert areas.rows(0, 1, False, 9)[0][READS] == (1, 0, 1, 1)


def test_the_last_area_may_be_shorter(kind: Kind) -> None:
    areas = kind.areas(0, 10, 4)
    assert len(areas) == 3
    counts = kind.meter([areas])
    counts.end(True, 0, 10 * SECTOR, counts.begin(True, 0, 10 * SECTOR, 1), 2)
    assert [row[6] for row in areas.rows(0, 9)] == [4, 4, 2]


def test_in_flight_from_begin_to_end(kind: Kind) -> None:
    areas, counts = one(kind)
    first = counts.begin(False, 0, SECTOR, 100)
    second = counts.begin(True, 0, SECTOR, 110)
    row = areas.rows(0, 1, False, 120)[0]
    assert row[IN_FLIGHT] == 2
    assert row[READS] == row[WRITES] == (0, 0, 0, 0)
    assert (row[BUSY], row[QUEUE], row[BUSY_READING], row[BUSY_WRITING]) == (20, 30, 20, 10)
    counts.end(False, 0, SECTOR, first, 130)
    counts.end(True, 0, SECTOR, second, 150)
    row = areas.rows(0, 1, False, 200)[0]
    assert row[IN_FLIGHT] == 0
    assert (row[BUSY], row[QUEUE], row[BUSY_READING], row[BUSY_WRITING]) == (50, 70, 30, 40)


def test_clear_keeps_what_is_in_flight(kind: Kind) -> None:
    areas, counts = one(kind, 50)
    begun = counts.begin(False, 0, SECTOR, 100)
    counts.end(False, 0, SECTOR, counts.begin(False, 0, SECTOR, 100), 110)
    assert areas.rows(0, 1, True, 120)[0][READS] == (1, 0, 1, 10)
    counts.end(False, 0, SECTOR, begun, 130)
    row = areas.rows(0, 1, False, 140)[0]
    assert row == (1, 0, 1, 30, 0, 0, 0, 0, 0, 10, 10, 10, 0, 1, 0)


def test_a_request_that_goes_on_where_the_last_ended_is_merged(kind: Kind) -> None:
    areas, counts = one(kind)
    for write, sector in ((False, 0), (False, 1), (True, 2), (False, 3), (False, 0), (False, 1)):
        offset = sector * SECTOR
        counts.end(write, offset, SECTOR, counts.begin(write, offset, SECTOR, 1), 2)
    row = areas.rows(0, 1)[0]
    assert (row[0], row[1], row[4], row[5]) == (5, 2, 1, 0)


@pytest.mark.parametrize(("took", "bin"), [(0, 0), (9, 0), (10, 1), (99, 1), (100, 2), (10**12, 2)])
def test_a_bound_belongs_to_the_bin_above_it(kind: Kind, took: int, bin: int) -> None:  # noqa: A002
    areas, counts = one(kind, 10, 100)
    counts.end(False, 0, SECTOR, counts.begin(False, 0, SECTOR, 5), 5 + took)
    assert areas.rows(0, 1)[0][13:] == tuple(int(place == bin) for place in range(3))


def test_the_clock_is_looked_at(kind: Kind) -> None:
    areas, counts = one(kind)
    counts.end(False, 0, SECTOR, counts.begin(False, 0, SECTOR))
    row = areas.rows(0, 1)[0]
    assert 0 < row[3] < 10**9
    assert row[BUSY] == row[QUEUE] == row[BUSY_READING] == row[3]


# -- many requests at once --------------------------------------------------------------------


def test_a_batch_of_requests(kind: Kind) -> None:
    areas, counts = one(kind)
    stream = b"".join(
        (
            request(p.CMD_READ, 0, 1),
            request(p.CMD_WRITE, 1, 2),
            request(p.CMD_FLUSH, 0, 0),
            request(p.CMD_TRIM, 0, 4),
            request(p.CMD_READ, 0, 0),
            request(p.CMD_BLOCK_STATUS, 0, 4),
            request(p.CMD_CACHE, 0, 4),
            request(p.CMD_WRITE_ZEROES, 0, 4),
        )
    )
    counts.count(b"xyz" + stream, 3, 3 + len(stream), (), 100, 110)
    row = areas.rows(0, 1, False, 200)[0]
    assert row[READS] == (1, 0, 1, 10)
    assert row[WRITES] == (3, 0, 10, 30)
    assert row[8:13] == (0, 10, 40, 10, 10)


def test_requests_apart_and_behind_the_end_do_not_count(kind: Kind) -> None:
    areas, counts = one(kind)
    parts = [request(p.CMD_WRITE, 0, 1), request(p.CMD_READ, 0, 1), request(p.CMD_WRITE, 0, 2)]
    stream = memoryview(bytearray(b"".join([*parts, *parts])))
    places = [sum(map(len, parts[:n])) for n in range(3)]
    end = sum(map(len, parts)) + len(parts[0])
    counts.count(stream, 0, end, [places[1], places[2]], 1, 2)
    row = areas.rows(0, 1)[0]
    assert (row[0], row[4], row[6]) == (0, 2, 2)


def test_a_batch_that_ends_before_it_began_took_no_time(kind: Kind) -> None:
    areas, counts = one(kind)
    stream = request(p.CMD_READ, 0, 1)
    counts.count(stream, 0, len(stream), (), 100, 90)
    assert areas.rows(0, 1, False, 100)[0][READS] == (1, 0, 1, 0)


def test_all_regions_count(kind: Kind) -> None:
    regions = [kind.areas(0, 16, 16), kind.areas(4, 8, 1)]
    counts = kind.meter(regions)
    counts.end(False, 0, 8 * SECTOR, counts.begin(False, 0, 8 * SECTOR, 1), 2)
    assert regions[0].rows(0, 1)[0][READS] == (1, 0, 8, 1)
    assert [row[READS] for row in regions[1].rows(0, 9)] == [(1, 0, 1, 1)] * 4


# -- both the same ----------------------------------------------------------------------------

NANOSECONDS = st.integers(1, 1 << 50)
OFFSETS = st.integers(0, 40 * SECTOR)
LENGTHS = st.integers(1, 20 * SECTOR)
COMMANDS = st.integers(0, 8)


@st.composite
def regions(draw: st.DrawFn) -> tuple[int, int, int, tuple[int, ...]]:
    start = draw(st.integers(0, 20))
    length = draw(st.integers(1, 30))
    bounds = draw(st.sets(NANOSECONDS, max_size=4))
    return start, start + length, draw(st.integers(1, 40)), tuple(sorted(bounds))


@st.composite
def batches(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    stream = b""
    apart = []
    for command in draw(st.lists(COMMANDS, max_size=6)):
        length = draw(st.integers(0, 4 * SECTOR))
        if draw(st.booleans()):
            apart.append(len(stream))
        stream += p.REQUEST.pack(p.REQUEST_MAGIC, 0, command, bytes(8), draw(OFFSETS), length)
        stream += bytes(length if command == p.CMD_WRITE else 0)
    return stream, apart


STEPS = st.one_of(
    st.tuples(st.just("begin"), st.booleans(), OFFSETS, LENGTHS, NANOSECONDS),
    st.tuples(st.just("end"), st.integers(0, 9), NANOSECONDS),
    st.tuples(st.just("count"), batches(), NANOSECONDS, NANOSECONDS, OFFSETS),
    st.tuples(st.just("rows"), st.booleans(), NANOSECONDS),
)


@pytest.mark.native
@settings(deadline=None)
@given(st.lists(regions(), max_size=3), st.lists(STEPS, max_size=12))
def test_c_and_python_count_the_same(
    shapes: list[tuple[int, int, int, tuple[int, ...]]], steps: list[tuple[Any, ...]]
) -> None:
    native = Kind(NATIVE.Areas, NATIVE.Meter)
    both = []
    for kind in (PYTHON, native):
        areas = [kind.areas(*shape) for shape in shapes]
        both.append((areas, kind.meter(areas)))
    begun: list[tuple[bool, int, int, int]] = []
    for what, *args in steps:
        found = []
        for areas, counts in both:
            if what == "begin":
                found.append(counts.begin(*args))
            elif what == "end" and begun:
                found.append(counts.end(*begun[args[0] % len(begun)], args[1]))
            elif what == "count":
                (stream, apart), *more = args
                found.append(counts.count(stream, 0, len(stream), apart, *more))
            elif what == "rows":
                found.append([region.rows(0, len(region), *args) for region in areas])
        if what == "begin":
            begun.append((*args[:3], found[0]))
        elif what == "end" and begun:
            begun.pop(args[0] % len(begun))
        assert not found or found[0] == found[1]
    ends = [[region.rows(0, len(region), False, 1 << 51) for region in areas] for areas, _ in both]
    assert ends[0] == ends[1]


# -- threads, errors, the choice ----------------------------------------------------------------


def test_threads_lose_nothing(kind: Kind) -> None:
    areas, counts = one(kind)
    stream = request(p.CMD_READ, 0, 1) * 20

    def work() -> None:
        for _ in range(50):
            counts.count(stream, 0, len(stream), (), 1)
            counts.end(True, 0, SECTOR, counts.begin(True, 0, SECTOR))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    row = areas.rows(0, 1)[0]
    assert (row[0], row[4], row[IN_FLIGHT]) == (4 * 50 * 20, 4 * 50, 0)


@pytest.mark.parametrize("args", [(4, 4, 1), (5, 4, 1), (0, 4, 0)])
def test_a_region_without_sectors_is_refused(kind: Kind, args: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sectors"):
        kind.areas(*args)


@pytest.mark.native
def test_what_c_refuses() -> None:
    areas = NATIVE.Areas(0, 8, 8)
    counts = NATIVE.Meter([areas])
    for bad in (
        lambda: NATIVE.Meter([1]),
        lambda: NATIVE.Meter(1),
        lambda: NATIVE.Meter(regions=[]),
        lambda: NATIVE.Areas(0, 1, 1, (), now=1),
        lambda: NATIVE.Areas("0", 1, 1),
        lambda: counts.begin(True, 1),
        lambda: counts.end(True, 1, 1),
        lambda: counts.count(b"", 0, 0, ()),
        lambda: counts.count("", 0, 0, (), 1),
        lambda: counts.count(b"", 0, 0, 1, 1),
        lambda: areas.rows(1),
    ):
        with pytest.raises(TypeError):
            bad()  # type: ignore[no-untyped-call]
    for bad in (lambda: NATIVE.Areas(-1, 1, 1), lambda: NATIVE.Areas(0, 1, 1, (1 << 64,))):
        with pytest.raises(OverflowError):
            bad()
    with pytest.raises(MemoryError):
        NATIVE.Areas(0, (1 << 64) - 1, 1)


def chosen(choice: str) -> subprocess.CompletedProcess[str]:
    code = "from dmtool.device.meter import METER, Meter; print(METER, Meter.__module__)"
    environment = {**os.environ, "DMTOOL_METER": choice}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_the_environment_chooses() -> None:
    assert chosen("python").stdout.split() == ["python", "dmtool.device.meter"]
    assert "DMTOOL_METER=fast: neither native nor python" in chosen("fast").stderr


@pytest.mark.native
def test_native_is_the_first_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("").stdout.split() == ["native", "dmtool._stats"]
    monkeypatch.setitem(sys.modules, "dmtool._stats", None)
    monkeypatch.delattr("dmtool._stats", raising=False)
    choose = vars(meter)["_choose"]
    with pytest.raises(ImportError, match=r"^DMTOOL_METER=native, but .* missing"):
        choose("native")
    assert choose("") == (PythonAreas, PythonMeter, "python")
