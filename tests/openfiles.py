# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder this process has open: other tests' descriptors may go at any time."""

from __future__ import annotations

import os
from pathlib import Path


def open_in(folder: str | Path) -> list[str]:
    """Paths of the files there that are open, once for each descriptor."""
    fds = Path("/proc/self/fd")
    links = [os.readlink(fd) for fd in fds.iterdir() if os.path.lexists(fd)]
    return [link for link in links if link.startswith(f"{folder}/")]
