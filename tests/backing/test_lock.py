# SPDX-License-Identifier: Apache-2.0
"""Two processes cannot write one image; one process may share it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmtool.backing.open import open_backing


def _child(image: Path, *, readonly: bool) -> str:
    code = (
        "import sys\n"
        "from dmtool.backing.open import open_backing\n"
        "try:\n"
        f"    open_backing({str(image)!r}, '/', readonly={readonly})\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
        "else:\n"
        "    print(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(8192))
    return path


def test_a_writer_keeps_everybody_else_out(image: Path) -> None:
    backing = open_backing(str(image), "/", readonly=False)
    assert _child(image, readonly=False) == str(errno.EBUSY)
    assert _child(image, readonly=True) == str(errno.EBUSY)
    backing.close()
    assert _child(image, readonly=False) == "0"


def test_readers_share_and_keep_writers_out(image: Path) -> None:
    backing = open_backing(str(image), "/", readonly=True)
    assert _child(image, readonly=True) == "0"
    assert _child(image, readonly=False) == str(errno.EBUSY)
    backing.close()


def test_one_process_may_open_it_several_times(image: Path) -> None:
    reader = open_backing(str(image), "/", readonly=True)
    writer = open_backing(str(image), "/", readonly=False)
    second = open_backing(str(image), "/", readonly=False)
    writer.close()
    assert _child(image, readonly=True) == str(errno.EBUSY)
    second.close()
    assert _child(image, readonly=True) == "0"
    assert _child(image, readonly=False) == str(errno.EBUSY)
    reader.close()
    assert _child(image, readonly=False) == "0"


def test_hard_links_are_one_image(image: Path) -> None:
    other = image.with_name("other")
    os.link(image, other)
    backing = open_backing(str(image), "/", readonly=False)
    assert _child(other, readonly=False) == str(errno.EBUSY)
    backing.close()


@pytest.mark.tools("qemu-io")
def test_qemu_sees_the_lock(image: Path) -> None:
    def qemu() -> int:
        command = ["qemu-io", "-f", "raw", "-c", "write 0 512", str(image)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert qemu() == 0
    backing = open_backing(str(image), "/", readonly=False)
    assert qemu() != 0
    backing.close()
    assert qemu() == 0
