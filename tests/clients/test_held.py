# SPDX-License-Identifier: Apache-2.0
"""A mirror that loses a leg while a client writes: the whole way, by commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clients.conftest import Core

MIB = 1 << 20
SIZE = 8 * MIB
MIRROR = f"0 {SIZE // 512} mirror core 2 1024 nosync 2 /dev/mapper/a 0 {{}} 0 1 handle_errors"
PATIENCE = 60.0

pytestmark = pytest.mark.tools("nbdcopy")


def start(dmtool: Core, files: Path) -> tuple[bytes, list[str]]:
    """A mirror, `m`, of the devices `a` and `b`, of which b takes no writes any more; what is to be
    written, and the command."""
    content = os.urandom(SIZE)
    (files / "source").write_bytes(content)
    for name in "abc":
        (files / f"{name}.img").write_bytes(bytes(SIZE))
    for name in "ab":
        dmtool("create", name, "--table", f"0 {SIZE // 512} linear {name}.img 0")
    dmtool("create", "m", "--table", MIRROR.format("/dev/mapper/b"))
    dmtool("load", "b", "--table", f"0 {SIZE // 512} error")
    dmtool("resume", "b")
    return content, ["nbdcopy", str(files / "source"), dmtool.uri("m")]


def failed(dmtool: Core) -> bool:
    return " AD " in dmtool("status", "m")


@pytest.mark.parametrize("noflush", [True, False])
def test_leg_taken_out_under_a_client(dmtool: Core, tmp_path: Path, noflush: bool) -> None:
    content, command = start(dmtool, tmp_path)
    with subprocess.Popen(command, stderr=subprocess.PIPE) as copy:
        assert copy.stderr
        while not failed(dmtool):
            assert copy.poll() is None
        dmtool("suspend", "m", *(["--noflush"] * noflush))
        if not noflush:
            assert b"Input/output error" in copy.stderr.read()
            assert copy.wait(PATIENCE)
            dmtool("resume", "m")
            return
        dmtool("load", "m", "--table", MIRROR.format("c.img"))
        assert copy.poll() is None
        dmtool("resume", "m")
        assert copy.stderr.read() == b""
        assert copy.wait(PATIENCE) == 0
    for name in "ac":
        assert (tmp_path / f"{name}.img").read_bytes() == content
    assert " AA " in dmtool("status", "m")


def test_client_that_goes_leaves_a_device_that_can_be_removed(dmtool: Core, tmp_path: Path) -> None:
    _, command = start(dmtool, tmp_path)
    with subprocess.Popen(command) as copy:
        while not failed(dmtool):
            assert copy.poll() is None
        copy.kill()
    # what is held is held, with or without a client, as in the kernel
    assert dmtool.info("m")["open_count"]
    dmtool("suspend", "--noflush", "m")
    while dmtool.info("m")["open_count"]:
        pass
    dmtool("remove", "m")
