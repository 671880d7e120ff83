# SPDX-License-Identifier: Apache-2.0
"""A mirror with a disk log whose core is killed: the log says what is copied again."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from dmtool.client import nbd

if TYPE_CHECKING:
    from tests.clients.conftest import Core

REGION = 16 * 512
REGIONS = 512
TABLE = f"0 {REGIONS * 16} mirror disk %s 2 a.img 0 b.img 0"
ENOUGH = 50  # writes that were answered before the kill
PATIENCE = 60.0  # seconds


class Writer(threading.Thread):
    """Writes to every other region, again and again, until the core is gone."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.enough = threading.Event()
        self._disk = nbd.connect(path, "m", timeout=PATIENCE)

    def run(self) -> None:
        with self._disk as disk:
            for count in itertools.count():
                try:
                    disk.pwrite(os.urandom(4096), count * 2 % REGIONS * REGION + 512)
                except ConnectionError:
                    return
                if count == ENOUGH:
                    self.enough.set()


def regions(image: bytes) -> list[bytes]:
    return [image[at : at + REGION] for at in range(0, REGIONS * REGION, REGION)]


def test_after_a_kill_the_dirty_regions_are_copied_and_no_others(
    dmtool: Core, tmp_path: Path
) -> None:
    a, b, log = (tmp_path / name for name in ("a.img", "b.img", "m.log"))
    a.write_bytes(os.urandom(REGIONS * REGION))
    b.write_bytes(a.read_bytes())
    log.write_bytes(bytes(4096))
    dmtool("create", "m", "--table", TABLE % "3 m.log 16 nosync")
    dmtool("remove", "m")
    dmtool("create", "m", "--table", TABLE % "2 m.log 16")
    dmtool("wait", "m", "0")  # the log says that there is nothing to copy
    writer = Writer(dmtool.nbd)
    writer.start()
    assert writer.enough.wait(PATIENCE)
    dmtool.kill()
    writer.join(PATIENCE)

    clean = int.from_bytes(log.read_bytes()[1024 : 1024 + REGIONS // 8], "little")
    dirty = {region for region in range(REGIONS) if not clean >> region & 1}
    assert dirty
    assert not any(region % 2 for region in dirty)
    # what a leg has where the log says that it is clean is not looked at, so it stays
    spoiled = bytes(byte ^ 0xFF for byte in b.read_bytes())
    before = a.read_bytes()
    b.write_bytes(spoiled)
    dmtool("wait", "m", "1")
    assert dmtool("status", "m").split()[6:] == f"{REGIONS}/{REGIONS} 1 AA 3 disk {log} A".split()
    assert a.read_bytes() == before
    copied = {
        region
        for region, (here, there) in enumerate(
            zip(regions(before), regions(b.read_bytes()), strict=True)
        )
        if here == there
    }
    assert copied == dirty
    left = zip(range(REGIONS), regions(spoiled), regions(b.read_bytes()), strict=True)
    assert all(now == was for region, was, now in left if region not in dirty)
    dmtool("remove", "m")
    assert log.read_bytes()[1024 : 1024 + REGIONS // 8] == b"\xff" * (REGIONS // 8)
