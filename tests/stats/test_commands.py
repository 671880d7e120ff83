# SPDX-License-Identifier: Apache-2.0
"""``dmtool stats`` where it does not follow dmstats, and by its other names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dmtool.cli.histogram import Histogram, Shape
from dmtool.cli.regions import parse_ranges, ranges
from dmtool.cli.sizes import Units, sectors_of
from tests.stats.home import Done, Home, count

Dmstats = Callable[..., Done]
MS = 1_000_000


@pytest.fixture
def device(home: Home) -> Home:
    """A core with a device `a` of 64 sectors."""
    home.create("a", "0 64 zero")
    return home


def test_each_region_is_printed_once(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "--areas", "2", "a")
    dmstats("create", "a")
    zero = " 0" * 13
    lines = f"0+32{zero}\n32+32{zero}\n0+64{zero}\n"
    assert dmstats("print", "--allregions", "a") == Done(0, lines, "")


def test_print_clear(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "a")
    device.device("a").read(0, 512)
    assert dmstats("print", "--regionid", "0", "--clear").out.split()[:2] == ["0+64", "1"]
    assert dmstats("print", "--regionid", "0").out.split()[:2] == ["0+64", "0"]


def test_user_data_is_shown_whole(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "--precise", "--userdata", "mine", "a")
    assert dmstats("list", "-o", "user_data", "--noheadings").out == "mine\n"


def test_a_group_that_is_not_there_is_not_removed(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "a")
    done = dmstats("ungroup", "--groupid", "0", "a")
    assert done == Done(
        1, "", "Group ID 0 does not exist\nCould not delete group 0 on a.\nCommand failed.\n"
    )


def test_rates_of_merged_requests_and_service_time(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "--precise", "a")
    requests = [(False, place * 512, 512, place * 100 * MS + 1, 100 * MS) for place in range(4)]
    count(device.device("a"), *requests)
    columns = "reads_merged_per_sec,service_time,util"
    assert dmstats("report", "-o", columns, "--noheadings").out == "3.00:100.00:40.00\n"


def test_a_report_begins_anew(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "a")
    device.device("a").read(0, 512)
    assert dmstats("report", "-o", "read_count", "--noheadings").out == "1\n"
    assert dmstats("report", "-o", "read_count", "--noheadings").out == "0\n"


def test_region_rows_say_where_they_start(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "--start", "8s", "--length", "21s", "--areas", "3", "a")
    done = dmstats("list", "-v", "--units", "s", "-o", "obj_type,area_start,area_offset,area_len")
    rows = [line.split() for line in done.out.splitlines()[1:]]
    assert rows == [
        ["area", "8", "0", "7"],
        ["area", "15", "7", "7"],
        ["area", "22", "14", "7"],
        ["region", "8", "0", "7"],
    ]


def test_groups_with_histograms_in_a_part_of_them(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "--length", "8s", "--bounds", "1ms", "a")
    dmstats("create", "--start", "8s", "--length", "8s", "a")
    dmstats("group", "--regions", "0,1", "a")
    device.device("a").read(0, 8192)
    done = dmstats("report", "--group", "-o", "hist_count", "--noheadings")
    assert done == Done(0, "1:0\n", "")


def test_filemap_is_refused(device: Home, dmstats: Dmstats, request: pytest.FixtureRequest) -> None:
    done = dmstats("create", "--filemap", str(request.path))
    assert done.status == 1
    assert "is not supported" in done.err
    assert done.err.endswith(
        f"Could not create regions from file {request.path}.\nCommand failed.\n"
    )
    done = dmstats("update_filemap", "--groupid", "1", str(request.path))
    assert f"Could not update regions from file {request.path}\n" in done.err


def test_tags_that_cannot_be_read_are_told_and_shown(device: Home, dmstats: Dmstats) -> None:
    device.message("a", "@stats_create - /1 dmstats DMS_GROUP=x")
    device.message("a", "@stats_create - /1 dmstats DMS_GROUP=x:y#")
    device.message("a", "@stats_create - /1 dmstats DMS_GROUP=x:1#")
    device.message("a", "@stats_create - /1 dmstats DMS_GROUP=:3,7#-")
    done = dmstats("list", "-o", "group_id,user_data", "--noheadings")
    assert done.out == "-:DMS_GROUP=x\n-:DMS_GROUP=x:y#\n-:DMS_GROUP=x:1#\n3:\n3:\n"
    for text in (
        "Found malformed group tag while reading aux_data",
        "Could not parse member list while reading group aux_data",
        "Found invalid group descriptor in region 2 aux_data.",
        "Failed to parse group descriptor from region_id 0 aux_data:'DMS_GROUP=x'",
        "Group descriptor 3 contains non-existent region_id 7.",
    ):
        assert text in done.err


def test_by_three_names(device: Home, call_as: Callable[..., Done]) -> None:
    created = [
        call_as("dmstats", device, "create", "a"),
        call_as("dmsetup", device, "stats", "create", "a"),
        call_as("dmtool", device, "stats", "create", "a"),
    ]
    assert [done.out.split()[-1] for done in created] == ["0", "1", "2"]
    usages = [
        call_as("dmstats", device),
        call_as("dmsetup", device, "stats"),
        call_as("dmtool", device, "stats"),
    ]
    assert [done.status for done in usages] == [1, 1, 1]
    assert usages[0].err.startswith("Usage:\n\ndmstats\n        [-h")
    assert usages[1].err.startswith("Incorrect number of arguments.\nUsage:\n\ndmsetup stats\n")
    assert usages[2].err.startswith("Incorrect number of arguments.\nUsage:\n\ndmtool stats\n")
    assert "\tstats <command> [<options>] [<device>...]\n" in call_as("dmtool", device, "-h").err
    assert "Usage:\n\ndmtool stats\n" in call_as("dmtool", device, "stats", "-h").err


def test_regions_in_a_report_on_devices(device: Home, call_as: Callable[..., Done]) -> None:
    device.create("b", "0 8 zero")
    for _ in range(2):
        call_as("dmstats", device, "create", "a")
    words = ("info", "-c", "-o", "name,region_id,region_len", "--noheadings")
    assert call_as("dmsetup", device, *words).out == "a:0:32.00k\na:1:32.00k\n"


def test_json(device: Home, call_as: Callable[..., Done]) -> None:
    call_as("dmtool", device, "stats", "create", "--precise", "--bounds", "1ms", "a")
    call_as("dmtool", device, "stats", "create", "--areas", "2", "--userdata", "u", "a")
    call_as("dmtool", device, "stats", "group", "--regions", "0,1", "--alias", "al", "a")
    count(device.device("a"), (False, 0, 1024, 1, 2 * MS))

    def described(*words: str) -> list[dict[str, Any]]:
        done = call_as("dmtool", device, "stats", *words, "--json")
        assert (done.status, done.err) == (0, "")
        document = json.loads(done.out)
        assert document.keys() == {"version", "statistics"}
        found: list[dict[str, Any]] = document["statistics"]
        return found

    listed = described("list")
    assert [(item["type"], item["region_ids"]) for item in listed] == [
        ("region", [0]), ("region", [1]), ("group", [0, 1])
    ]  # fmt: skip
    assert listed[0] == {
        "device": "a", "type": "region", "name": "al", "group_id": 0, "region_ids": [0],
        "area_id": None, "start": 0, "length": 64, "areas": 1, "program_id": "dmstats",
        "user_data": "", "precise": True, "bounds_ns": [MS],
    }  # fmt: skip
    reported = described("report")
    assert [item["type"] for item in reported] == ["area", "area", "area", "region", "group"]
    assert [item["counters"]["read_count"] for item in reported] == [1, 1, 0, 1, 2]
    assert reported[0]["counters"]["read_time"] == 2 * MS
    assert reported[0]["histogram"] == [0, 1]
    assert reported[0]["interval_ns"] == 1000 * MS


def test_formats(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "--areas", "2", "a")
    done = dmstats("list", "-v", "-o", "obj_type,area_start", "--format", "tsv")
    assert [line.split() for line in done.out.splitlines()] == [
        ["ObjType", "ArStart"],
        ["area", "0"],
        ["area", "16.00k"],
        ["region", "0"],
    ]
    assert dmstats("report", "--format", "nosuch").err.startswith("Unknown format: nosuch.\n")


def test_print_for_json(device: Home, dmstats: Dmstats) -> None:
    dmstats("create", "--areas", "2", "--bounds", "5ms", "a")
    dmstats("create", "--programid", "other", "a")
    count(device.device("a"), (True, 0, 1024, 1, 7 * MS))
    for _ in range(2):  # it does not clear
        told = json.loads(dmstats("print", "--allregions", "a", "--json").out)["statistics"]
        assert [(item["program_id"], item["area_id"]) for item in told] == [
            ("dmstats", 0),
            ("dmstats", 1),
            ("other", 0),
        ]
        assert [item["counters"]["write_sector_count"] for item in told] == [2, 0, 2]
        assert [item["histogram"] for item in told] == [[0, 1], [0, 0], []]
    dmstats("print", "--allregions", "--clear", "a", "--json")
    told = json.loads(dmstats("print", "--allregions", "a", "--json").out)["statistics"]
    assert not any(item["counters"]["write_count"] for item in told)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", []), ("3", [3]), ("0-2,5", [0, 1, 2, 5]), ("0,2,4-5", [0, 2, 4, 5]), ("7-7", [7])],
)
def test_ranges(text: str, numbers: list[int]) -> None:
    assert parse_ranges(text) == numbers
    assert parse_ranges(ranges(numbers)) == numbers


@pytest.mark.parametrize("text", ["x", "1,", ",1", "2-1", "1-", "-1", "1 2"])
def test_what_is_no_list_of_numbers(text: str) -> None:
    assert parse_ranges(text) is None


def test_sizes() -> None:
    assert sectors_of("1m", "start") == 2048
    assert sectors_of("3", "start") == 3
    assert sectors_of("1K", "start") == 1
    assert Units.of("x") is None
    assert Units.of("") is None
    human = Units.of("h")
    assert human is not None
    assert human.show(1 << 40) == "512.00t"
    assert human.show((1 << 64) - 1) == "8192.00e"


def test_histograms() -> None:
    shown = Histogram((MS, 1500 * MS), (1, 2, 1)).text(Shape(), values="percent", bounds="range")
    assert shown == "0s-1ms: 25.00%,1ms-1500ms:50.00%,>1500ms:25.00%"
