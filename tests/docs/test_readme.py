# SPDX-License-Identifier: Apache-2.0
"""The README's Python works as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import dmtool
from dmtool.testing import check_target, pattern

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_target_type_keeps_the_contract(
    tmp_path: Path, dm_pattern: Callable[..., str], dm_device: Callable[..., dmtool.Device]
) -> None:
    (block,) = [text for text in BLOCKS if "@hookimpl" in text]
    file = tmp_path / "dmtool_swap.py"
    file.write_text(block)
    spec = importlib.util.spec_from_file_location("dmtool_swap", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    check_target(module, good=["{a} 0", "{b} 192"], bad={"{a}": "Invalid argument count"})
    check_target(module, good=[], bad={"{a} 0": "Odd number of sectors"}, length=63)

    device = dm_device(f"0 4 swap {dm_pattern('a')} 10")
    wanted = b"".join(pattern(1, sector * 512, 512) for sector in (11, 10, 13, 12))
    assert device.pread(4 * 512, 0) == wanted


def test_the_device_in_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [text for text in BLOCKS if "from_table" in text]
    monkeypatch.chdir(tmp_path)
    Path("one.img").write_bytes(b"disk one".ljust(512, b"."))
    os.truncate("one.img", 8192 * 512)
    names: dict[str, bytes] = {}
    exec(compile(block, "README.md", "exec"), {}, names)
    assert names["first"] == b"disk one".ljust(512, b".")
