# SPDX-License-Identifier: Apache-2.0
"""An image file served by nbdkit's Python plugin, written as its manual has it, and quick.

nbdkit python plugin.py image=FILE
"""

# ruff: noqa: ARG001  # nbdkit says what these functions are given

from __future__ import annotations

import os

API_VERSION = 2
_image = ""


def config(key: str, value: str) -> None:
    global _image  # noqa: PLW0603  # what nbdkit calls are functions of a module
    assert key == "image"
    _image = value


def open(readonly: bool) -> int:  # noqa: A001  # the name that nbdkit calls
    return os.open(_image, os.O_RDONLY if readonly else os.O_RDWR)


def close(handle: int) -> None:
    os.close(handle)


def get_size(handle: int) -> int:
    return os.stat(handle).st_size


def can_write(handle: int) -> bool:
    return True


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    os.preadv(handle, [buffer], offset)


def pwrite(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    os.pwrite(handle, buffer, offset)


def flush(handle: int, flags: int) -> None:
    os.fdatasync(handle)
