# SPDX-License-Identifier: Apache-2.0
"""examples/volume.sh: a volume's life in shell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.fuse.conftest import run

SCRIPT = Path(__file__).parents[2] / "examples" / "volume.sh"


def test_the_whole_life_of_a_volume(serve: Any) -> None:
    process = serve()
    told = run(SCRIPT, process.control.parent)
    for words in (
        "linear /",
        "Number of targets: 2",
        "this is disk one\nthis is disk two\n",
        "THIS\nis disk one\n",
        "table:1:8: linaer: unknown target type\n",
        "hint: did you mean linear?",
        "event ",
        "suspended\n",
        "active\nthis is disk two\nTHIS\nis disk one\n",
    ):
        assert words in told
    assert told.endswith("all done\n")
    assert os.listdir(process.control) == []
    process.stop()
