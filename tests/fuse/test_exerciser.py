# SPDX-License-Identifier: Apache-2.0
"""Random operations against a model (exerciser.py); 100,000 with DMTOOL_TEST_LONG=1."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import LONG, run

MIB = 1 << 20
EXERCISER = Path(__file__).with_name("exerciser.py")
OPERATIONS = 100_000 if LONG else 2500


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "table",
    [
        "0 12288 striped 3 16 a.img 0 b.img 0 c.img 0",
        "0 4000 linear a.img 8;4000 4000 linear b.img 88;8000 1000 linear c.img 4",
    ],
    ids=["striped", "linear"],
)
def test_no_difference(serve: Any, images: Callable[..., Path], table: str) -> None:
    for name in ("a.img", "b.img", "c.img"):
        images(name, 2 * MIB)
    process = serve(f"vol={table}")
    seed = int(os.environ.get("DMTOOL_TEST_SEED", random.randrange(1 << 32)))
    command = (sys.executable, EXERCISER, process.mapper / "vol")
    done = json.loads(run(*command, str(OPERATIONS), str(seed), timeout=1800))
    assert sum(done.values()) == OPERATIONS, f"seed {seed}"
    process.stop()
