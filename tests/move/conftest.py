# SPDX-License-Identifier: Apache-2.0
"""A core process of a test's own, with image files beside its directory."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from dmtool.directory import Directory
from tests.clients.conftest import Core, new_core

__all__ = ["new_core"]  # a fixture

SECTOR = 512


@pytest.fixture
def dmtool(tmp_path: Path) -> Generator[Core]:
    """A core; calling it runs a command, where the images are. It has no bug in its log."""
    core = Core(tmp_path)
    core.files = core.parent / "files"
    core.files.mkdir()
    yield core
    assert "Traceback" not in core.end()


@pytest.fixture
def directory(dmtool: Core) -> Directory:
    return Directory(str(dmtool.path))


@pytest.fixture
def image(dmtool: Core) -> Callable[..., Path]:
    """Make an image of so many sectors, full of bytes that no other has; its path."""

    def image(name: str, sectors: int) -> Path:
        path = dmtool.files / name
        path.write_bytes(random.Random(name).randbytes(sectors * SECTOR))
        return path

    return image


def part(path: Path, start: int, length: int) -> bytes:
    """Sectors of a file."""
    return path.read_bytes()[start * SECTOR : (start + length) * SECTOR]
