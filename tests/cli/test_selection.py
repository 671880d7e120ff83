# SPDX-License-Identifier: Apache-2.0
"""``-S``: which rows and devices, and what is done to them; its errors are in test_live."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dmtool.cli.columns import COLUMNS, SIZE, Value
from dmtool.cli.fields import Fields
from dmtool.cli.selection import Selection

Run = Callable[..., Any]


@pytest.fixture
def devices(words: Any) -> Any:
    words.add("a", "0 8 zero ", uuid="LVM-1", open_count=1)
    words.add("b", "0 8 error ", suspended=True, event_nr=7)
    words.add("sp\\x20ace", "0 8 linear 7:0 0", readonly=True)
    return words


def names(run: Run, selection: str, *more: str) -> str:
    done = run("info", "-c", "--noheadings", "-o", "name", "-S", selection, *more)
    assert done.status == 0, done
    return ",".join(done.out.splitlines())


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ("name=a", "a"),
        ("name!=a", "b,sp ace"),
        ('name="sp ace"', "sp ace"),
        ("name=~^[ab]$", "a,b"),
        ("name!~e", "a,b"),
        ("uuid=", "b,sp ace"),
        ("open=1 || events>=7", "a,b"),
        ("open=1 # events>6", "a,b"),
        ("open=0 && suspended=Suspended", "b"),
        ("open=0, readonly=Read-only", "sp ace"),
        ("!(name=a || name=b)", "sp ace"),
        ("name=a || name=b && open=5", "a"),
        ("(name=a || name=b) && open=0", "b"),
        ("!(!(name=a))", "a"),  # libdm forgets one of the two
        ("Minor<2", "a,b"),
        ("subsystem=LVM", "a"),
        ("device_count=0", "a,b,sp ace"),
        ("all", "a,b,sp ace"),
        ("ALL", "a,b,sp ace"),
        ("", "a,b,sp ace"),
        ("(" * 2000 + "name=a" + ")" * 2000, "a"),
    ],
    ids=lambda text: text[:30],
)
def test_selects(run: Run, devices: Any, selection: str, selected: str) -> None:
    assert names(run, selection) == selected


def test_of_all_rows_each_says_whether_it_is_selected(run: Run, devices: Any) -> None:
    done = run("info", "-c", "--noheadings", "-o", "name,selected", "-S", "open=0")
    assert done.out == "a:0\nb:1\nsp ace:1\n"
    assert names(run, "open=0", "-O", "-selected,-name") == "sp ace,b"


def test_a_command_is_run_on_what_is_selected(run: Run, devices: Any) -> None:
    assert run("remove", "-S", "open=0") == (0, "", "")
    assert [p["device"] for method, p in devices.asked if method == "remove"] == [
        {"name": "b"},
        {"name": "sp\\x20ace"},
    ]


def test_a_command_is_run_on_what_is_selected_of_its_operands(run: Run, devices: Any) -> None:
    assert run("suspend", "a", "b", "-S", "open=1") == (0, "", "")
    assert [p["device"] for method, p in devices.asked if method == "suspend"] == [{"name": "a"}]
    assert run("table", "b", "-S", "open=0").out == "b: 0 8 error \n"


def test_what_fails_does_not_keep_the_others_from_it(run: Run, devices: Any) -> None:
    devices.refuse("remove", 16)
    line = "device-mapper: remove ioctl on {}  failed: Device or resource busy\n"
    lines = line.format("b") + line.format("sp\\x20ace")
    assert run("remove", "-S", "open=0") == (1, "", lines + "Command failed.\n")


@pytest.mark.parametrize("selection", ["help", "?", "nosuch=1", "name=~(", "open=x"])
def test_without_a_selection_nothing_is_done(run: Run, devices: Any, selection: str) -> None:
    """libdm's own runs the command on some device or other after ``-S help``."""
    done = run("remove", "-S", selection)
    assert done.status == int(selection not in {"help", "?"})
    assert done.out == ""
    assert not [method for method, _ in devices.asked if method == "remove"]


def test_json_has_what_is_selected(run: Run, devices: Any) -> None:
    for line in ("info", "info -c", "table", "status", "deps"):
        found = json.loads(run(*line.split(), "--json", "-S", "name=b").out)["devices"]
        assert [device["name"] for device in found] == ["b"], line
        found = json.loads(run(*line.split(), "--json", "-S", "name=x").out)["devices"]
        assert found == [], line


def test_sort_is_for_reports(run: Run, devices: Any) -> None:
    line = "--sort is not yet supported with status and table.\n"
    assert run("status", "-c", "-O", "name") == run("table", "-c", "-O", "x") == (1, "", line)
    assert run("table", "-O", "-name", "-S", "open=0").out.startswith("b: ")


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ("region_len=1", True),  # a size without unit is mebibytes
        ("region_len=1m", True),
        ("region_len=1024k", True),
        ("region_len=2048s", True),
        ("region_len=1048576b", True),
        ("region_len=1.0m", True),
        ("region_len=1M", False),
        ("region_len>1M", True),
        ("region_len>=1m && region_len<=1m", True),
        ("region_len<1m", False),
        ("region_len!=1m", False),
        ("region_id=18446744073709551615", True),  # -1, as libdm compares it
        ("region_id>5", True),
    ],
)
def test_sizes_and_numbers(selection: str, selected: bool) -> None:
    fields = Fields("region_len,region_id", "")
    size, number = fields.shown
    assert size.column.type == SIZE
    values = {size: Value("1.00m", 2048), number: Value("-1", -1)}
    assert Selection(selection, fields).selects(values) == selected


def test_every_column_is_known_by_its_name() -> None:
    fields = Fields("", "")
    for column in COLUMNS:
        assert fields.find(column.id) is column
        assert fields.find(column.id.replace("_", "").upper()) is column
