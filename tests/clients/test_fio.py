# SPDX-License-Identifier: Apache-2.0
"""fio writes and verifies over its NBD engine, many requests at a time, over four connections."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clients.conftest import Core, Tools

pytestmark = pytest.mark.tools("fio")

SECTOR = 512
SECTORS = 3 * 7 * 8 * 200  # whole stripes
PART = (
    SECTORS * SECTOR // 4 >> 18 << 18
)  # bytes of each connection: whole blocks, or fio itself writes beyond


def linear(folder: Path) -> str:
    """Odd pieces of two files in turn."""
    chance = random.Random(7)
    lines: list[str] = []
    ends, start = {"a.img": 3, "b.img": 0}, 0
    while start < SECTORS:
        length = min(chance.randrange(1, 3000, 2), SECTORS - start)
        name = "ab"[len(lines) % 2] + ".img"
        lines.append(f"{start} {length} linear {name} {ends[name]}\n")
        ends[name] += length + 1
        start += length
    for name, end in ends.items():
        (folder / name).write_bytes(b"\xaa" * end * SECTOR)
    return "".join(lines)


def striped(folder: Path) -> str:
    for name in ("a.img", "b.img", "c.img"):
        with (folder / name).open("wb") as file:
            file.truncate((SECTORS // 3 + 5) * SECTOR)
    return f"0 {SECTORS} striped 3 7 a.img 0 b.img 5 c.img 1\n"


@pytest.mark.parametrize("layout", [linear, striped])
@pytest.mark.parametrize(
    "pattern",
    [
        "--rw=randwrite --bs=4k --iodepth=32 --loops=4",
        "--rw=randwrite --bsrange=512-64k --blockalign=512 --iodepth=16 --loops=8",
        "--rw=write --bs=256k --iodepth=4 --loops=8 --fsync=3",
        "--rw=randrw --bs=512 --iodepth=64",
    ],
    ids=["4k", "mixed", "large", "sectors"],
)
def test_four_connections_verify(
    layout: object, pattern: str, dmtool: Core, tools: Tools, tmp_path: Path
) -> None:
    assert callable(layout)
    dmtool("create", "d", stdin=layout(tmp_path))
    tools(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={dmtool.uri('d')}", *pattern.split(),
        "--numjobs=4", f"--size={PART}", f"--offset_increment={PART}", "--verify=crc32c",
        "--verify_fatal=1", "--verify_state_save=0", "--output-format=json", "--output=fio.json",
    )  # fmt: skip
    jobs = json.loads((tmp_path / "fio.json").read_text())["jobs"]
    assert len(jobs) == 4
    for job in jobs:
        assert job["error"] == 0
        assert job["write"]["io_bytes"] > 0
        assert job["read"]["io_bytes"] >= job["write"]["io_bytes"]
    dmtool("remove", "--retry", "d")
