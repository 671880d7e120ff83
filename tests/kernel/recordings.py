# SPDX-License-Identifier: Apache-2.0
"""tables.jsonl and scenarios.jsonl: what the kernel's device-mapper did, a case a line.

Recorded with dmsetup 1.02.185 on Linux 6.1.192 and, under ``6.12`` where that one answered
differently, on 6.12.117; agreement with either is agreement. A table's target types may not be
installed here, or may be which the recorder's kernels lacked; then there is nothing to compare,
and the case is left out when the tests are collected. A new target type brings its cases with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dmtool.targets.registry import TARGETS
from tests.kernel.disks import NEED_LOOPS, RECORDED

Recording = dict[str, Any]

KERNELS = ("6.1", "6.12")
BUILT_IN = frozenset(
    """cache crypt delay era error flakey integrity linear log-writes mirror multipath raid snapshot
    snapshot-merge snapshot-origin striped switch thin thin-pool unstriped verity writecache
    zero""".split()
)
NOT_BUILT_IN = frozenset({"clone", "dust", "ebs"})


def recorded(file: str) -> Iterator[Recording]:
    with (Path(__file__).parent / file).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def answers(recording: Recording) -> dict[str, Any]:
    """What each kernel answered, by its version."""
    return {kernel: recording[kernel] for kernel in KERNELS if kernel in recording}


def comparable(types: Iterable[str]) -> bool:
    """Whether the recorder's kernels and we have the same of these target types. Words that are no
    target type do not matter."""
    words, installed = frozenset(types), frozenset(TARGETS.names())
    return not words & BUILT_IN - installed and not words & NOT_BUILT_IN & installed


def needs_loops(text: str) -> bool:
    """Whether a table or command is about what an image file cannot be."""
    numbered = any(re.search(rf"(?<![\w:]){n}(?!\d)", text) for n, _, _ in RECORDED.values())
    return numbered or "mount" in text or any(f"/dev/{name} " in text for name in NEED_LOOPS)


def parameter(recording: Recording, *, loops: bool) -> Any:
    """A test's parameter."""
    marks = [pytest.mark.root, pytest.mark.tools("losetup")] if loops else []
    return pytest.param(recording, loops, id=recording["id"], marks=marks)
