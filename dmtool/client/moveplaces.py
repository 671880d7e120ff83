# SPDX-License-Identifier: Apache-2.0
"""What a move goes from and to: image files, block devices, mapped devices, as a user names them."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Sequence
from typing import Any

from dmtool.client import Client, ClientError
from dmtool.client.movetables import MoveError, Run
from dmtool.errors import os_reason
from dmtool.names import escape, mangle
from dmtool.sectors import SECTOR

Dependency = dict[str, Any]  # as `deps` and `areas` answer it

_MAPPER = "/dev/mapper/"
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def word_of(device: Dependency) -> str:
    """The word for a device in a table."""
    if device["kind"] == "file":
        return escape(device["path"])
    return f"{device['major']}:{device['minor']}"


def resolve(client: Client, name: str) -> str:
    """The word in a table for what a user names; of a file that is not there, the one that it will
    have. Raises MoveError for what can be no backing."""
    mapped = _mapped(client, name)
    if mapped is not None:
        return mapped
    path = os.path.realpath(name)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return escape(path)
    except OSError as error:
        raise MoveError(f"{name}: {os_reason(error)}") from None
    if stat.S_ISBLK(found.st_mode):
        return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    if not stat.S_ISREG(found.st_mode):
        raise MoveError(f"{name} is neither a file nor a block device")
    return escape(path)


def _mapped(client: Client, name: str) -> str | None:
    """The same for a mapped device, as tables may name it; None for other words."""
    numbers = name.split(":")
    if len(numbers) == 2 and all(part.isascii() and part.isdigit() for part in numbers):
        return name
    for prefix in (_MAPPER, client.directory.mapper + "/"):
        base = name.removeprefix(prefix)
        if base != name and "/" not in base:
            try:
                info = client.call("info", device={"name": mangle(base)})
            except ClientError as error:
                if error.errno != errno.ENXIO:
                    raise
            else:
                return f"{info['major']}:{info['minor']}"
    return None


def chosen(devices: Iterable[Dependency], word: str) -> int | None:
    """The number of the device that is meant among some; of a file by any of its names."""
    for number, device in enumerate(devices):
        if word_of(device) == word or (device["kind"] == "file" and _same(device["path"], word)):
            return number
    return None


def _same(path: str, word: str) -> bool:
    try:
        return os.path.samefile(path, unescape(word))
    except OSError:
        return False


def unescape(word: str) -> str:
    """The path that a word of a table stands for."""
    return _ESCAPED.sub(r"\1", word)


def make_ready(word: str, found: Sequence[Run], source: str, *, force: bool) -> bool:
    """See that the runs can be written to an image file, which is made, with the permissions of
    ``source``, if it is not there; whether it was. Raises MoveError for one that is too small, or
    has data there (unless ``force``). Of other devices the core knows the size; what is on them
    nobody does."""
    size = found[-1][1] * SECTOR
    if not word.startswith("/"):
        if not force:
            raise MoveError(f"{word} may have data on it", "--force writes over it")
        return False
    path = unescape(word)
    try:
        mode = os.stat(unescape(source)).st_mode & 0o777 if source.startswith("/") else 0o600
        return _create(path, size, mode)
    except FileExistsError:
        pass
    except OSError as error:
        raise MoveError(f"{path} cannot be made: {os_reason(error)}") from None
    there = os.stat(path).st_size
    if there < size:
        raise MoveError(
            f"{path} is too small: it has {there} bytes, {size} are needed",
            f"truncate -s {size} {path}, or name a file that is not there",
        )
    if not force and _has_data(path, found):
        raise MoveError(f"{path} has data where the device's would go", "--force writes over it")
    return False


def _create(path: str, size: int, mode: int) -> bool:
    """A file of holes, and its name on stable storage."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, mode | 0o600)
        os.ftruncate(fd, size)
        os.fsync(fd)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _has_data(path: str, found: Sequence[Run]) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for low, high in found:
            try:
                if os.lseek(fd, low * SECTOR, os.SEEK_DATA) < high * SECTOR:
                    return True
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return False  # nothing but a hole up to the end
    finally:
        os.close(fd)
    return False
