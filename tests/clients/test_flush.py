# SPDX-License-Identifier: Apache-2.0
"""What a client is told to be on stable storage is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmtool.client import nbd

if TYPE_CHECKING:
    from tests.clients.conftest import Core

SECTOR = 512
PATIENCE = 60.0  # seconds


@pytest.mark.tools("strace")
def test_flushed_means_that_the_system_was_told(dmtool: Core, tmp_path: Path) -> None:
    """FLUSH is an fdatasync of every image of the table, FUA of that which is written to; a
    plain write is none."""
    for name in ("one.img", "two.img"):
        (tmp_path / name).write_bytes(bytes(100 * SECTOR))
    dmtool("create", "d", stdin="0 100 linear one.img 0\n100 100 linear two.img 0\n")
    dmtool("daemon", "stop")
    trace = tmp_path / "trace"
    ready, told = os.pipe()
    command = ["strace", "-f", "-y", "-qq", "-o", str(trace), "-e", "trace=fdatasync,fsync"]
    # docs/control-protocol.md, "Starting the core"
    command += [sys.executable, "-m", "dmtool.core", "--directory", str(dmtool.path)]
    with subprocess.Popen([*command, "--ready-fd", str(told)], pass_fds=[told]) as core:
        os.close(told)
        with os.fdopen(ready) as words:
            assert words.readline() == "ready\n"

        def synced() -> list[str]:
            """The images that were synced since this was last asked."""
            new = reader.read()
            return sorted(re.findall(r"sync\(\d+<[^>]*/(\w+\.img)>", new))

        try:
            with (
                nbd.connect(dmtool.nbd, "d", timeout=PATIENCE) as client,
                trace.open(encoding="utf-8") as reader,
            ):
                synced()
                client.pwrite(b"1" * 4096, 0)
                client.pwrite(b"2" * 4096, 101 * SECTOR)
                assert synced() == []
                client.flush()
                assert synced() == ["one.img", "two.img"]
                client.pwrite(b"3" * 4096, 101 * SECTOR, fua=True)
                assert synced() == ["two.img"]
                client.write_zeroes(4096, 0, fua=True)
                assert synced() == ["one.img"]
                client.pwrite(b"4" * 4096, 99 * SECTOR, fua=True)
                assert synced() == ["one.img", "two.img"]
                # a hundred chunks, and yet one sync of each image
                dmtool("load", "d", "--table", "0 200 striped 2 1 one.img 0 two.img 0")
                dmtool("resume", "d")
                synced()
                client.pwrite(b"5" * 100 * SECTOR, 0, fua=True)
                assert synced() == ["one.img", "two.img"]
                client.write_zeroes(100 * SECTOR, 0, fua=True)
                assert synced() == ["one.img", "two.img"]
        finally:
            dmtool("daemon", "stop")
    assert core.returncode == 0
