# SPDX-License-Identifier: Apache-2.0
"""Which of the two sector indexes is in use, and who says so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dmtool import btree


def index_in_use(choice: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if name != "DMTOOL_INDEX"}
    if choice is not None:
        environment["DMTOOL_INDEX"] = choice
    code = "from dmtool.btree import INDEX, Index; print(INDEX, Index.__module__)"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_the_environment_chooses_python() -> None:
    assert index_in_use("python").stdout.split() == ["python", "dmtool.btree"]


@pytest.mark.native
@pytest.mark.parametrize("choice", [None, "", "native"])
def test_native_is_the_first_choice(choice: str | None) -> None:
    assert index_in_use(choice).stdout.split() == ["native", "dmtool._btree"]


def test_another_word_is_refused() -> None:
    done = index_in_use("fast")
    assert done.returncode == 1
    assert "ImportError: DMTOOL_INDEX=fast: neither native nor python" in done.stderr


def test_native_wanted_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dmtool._btree", None)
    monkeypatch.delattr("dmtool._btree", raising=False)
    choose = vars(btree)["_choose"]
    with pytest.raises(ImportError, match=r"^DMTOOL_INDEX=native, but .* missing"):
        choose("native")
    assert choose("") == (btree.BTree, "python")


@pytest.mark.native
def test_the_c_tree_says_how_it_compares() -> None:
    from dmtool import _btree

    best = "avx2" if _btree.simd_available() else "scalar"
    assert _btree.BTree([1]).simd == best
    assert _btree.BTree([1], simd=False).simd == "scalar"
