# SPDX-License-Identifier: Apache-2.0
"""``measure``: the strings of the kernel's own documentation (dm-ima.rst), of our devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

Run = Callable[..., Any]


class Case(NamedTuple):
    """A target type: its version, its line in table and status, and what is measured."""

    version: list[int]
    table: str
    status: str
    measurement: str


CASES = {
    "linear": Case(
        [1, 4, 0],
        "7:0 512",
        "",
        "target_name=linear,target_version=1.4.0,device_name=7:0,start=512;",
    ),
    "striped": Case(
        [1, 6, 0],
        "2 64 7:0 0 7:1 128",
        "2 7:0 7:1 1 AD",
        "target_name=striped,target_version=1.6.0,stripes=2,chunk_size=64,stripe_0_device_name=7:0,"
        "stripe_0_physical_start=0,stripe_0_status=A,stripe_1_device_name=7:1,"
        "stripe_1_physical_start=128,stripe_1_status=D;",
    ),
    "mirror": Case(
        [1, 14, 0],
        "core 2 64 nosync 2 7:0 0 7:1 0 1 handle_errors",
        "2 7:0 7:1 1/1 1 AS 1 core",
        "target_name=mirror,target_version=1.14.0,nr_mirrors=2,mirror_device_0=7:0,"
        "mirror_device_0_status=A,mirror_device_1=7:1,mirror_device_1_status=S,handle_errors=y,"
        "keep_log=n,log_type_status=;",
    ),
    "error": Case([1, 5, 0], "", "", ""),
    "xor": Case(
        [1, 0, 0],
        "/img/a\\ b,c 0 7",
        "",
        "target_name=xor,target_version=1.0.0,arguments=/img/a\\\\ b\\,c 0 7;",
    ),
}


def answer(words: Any, type: str, case: Case) -> None:
    """A device ``a`` with one target of that type."""
    target = {"start": 0, "length": 8, "type": type}
    info = words.add("a")
    words.answers |= {
        "targets": [{"name": type, "version": case.version}],
        "table": {"info": info, "targets": [{**target, "params": case.table}]},
        "status": {"info": info, "targets": [{**target, "params": case.status}]},
    }


@pytest.mark.parametrize("type", CASES)
def test_measures(run: Run, words: Any, type: str) -> None:
    answer(words, type, CASES[type])
    measurement = CASES[type].measurement
    assert run("measure", "a") == (0, f"0 8 {type} {measurement}\n", "")
    assert run("measure").out == f"a: 0 8 {type} {measurement}\n"


def test_a_path_is_measured_as_it_is(run: Run, words: Any) -> None:
    answer(words, "linear", Case([1, 4, 0], "/img/a\\ b,c\\\\d 0", "", ""))
    assert "device_name=/img/a b\\,c\\\\d,start=0;" in run("measure", "a").out
