# SPDX-License-Identifier: Apache-2.0
"""Paths of unix sockets, of any length."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

_MOST = 107  # bytes of sun_path, less the NUL (unix(7))


@contextmanager
def unix_address(path: str) -> Generator[str]:
    """What to bind or connect to for a socket of this path. Raises OSError."""
    if len(os.fsencode(path)) <= _MOST:
        yield path
        return
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)
