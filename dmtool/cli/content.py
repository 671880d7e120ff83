# SPDX-License-Identifier: Apache-2.0
"""uri, read, write: the bytes of a device, over its NBD export."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

from dmtool.cli.session import Failed, Session
from dmtool.errors import DmtoolError, os_reason

if TYPE_CHECKING:
    from dmtool.client.nbd import Nbd

# Bytes in one request.
PIECE = 1 << 20
_SUFFIXES = {"": 1, "s": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def uri(session: Session, operands: list[str]) -> None:
    """``uri DEVICE``."""
    answer = session.ioctl("info", session.device(operands), "uri")
    if session.json:
        session.put_json(uri=answer["uri"])
    else:
        session.out(answer["uri"] + "\n")


def read(session: Session, operands: list[str]) -> None:
    """``read DEVICE``: bytes to standard output."""
    offset, length = byte_count(session, "offset") or 0, byte_count(session, "length")
    with _open(session, operands) as disk:
        end = _end(disk.size, offset, length)
        while offset < end:
            try:
                piece = disk.pread(min(PIECE, end - offset), offset)
            except OSError as error:
                raise Failed(f"Read failed at byte {offset}: {os_reason(error)}") from None
            _put(piece)
            offset += len(piece)


def write(session: Session, operands: list[str]) -> None:
    """``write DEVICE``: standard input to the device.

    Nothing is written if it is known beforehand that the bytes do not fit.
    """
    offset, wanted = byte_count(session, "offset") or 0, byte_count(session, "length")
    source = sys.stdin.buffer
    with _open(session, operands) as disk:
        if disk.readonly:
            raise Failed("The device is read-only.")
        known = wanted if wanted is not None else _left(source.fileno())
        start, end = offset, _end(disk.size, offset, known)
        while True:
            # One byte more than fits tells that there is more.
            piece = source.read(min(PIECE, end - offset + (known is None)))
            fits = piece[: end - offset]
            try:
                if fits:
                    disk.pwrite(fits, offset)
                else:
                    disk.flush()
            except OSError as error:
                raise Failed(f"Write failed at byte {offset}: {os_reason(error)}") from None
            offset += len(fits)
            if len(fits) < len(piece):
                raise Failed(f"The device is full: only {offset - start} bytes were written.")
            if not fits:
                break
        if wanted is not None and offset - start < wanted:
            raise Failed(f"Standard input ended after {offset - start} of {wanted} bytes.")


def _open(session: Session, operands: list[str]) -> Nbd:
    """A connection to the device's export."""
    from dmtool.client import nbd

    name = session.ioctl("info", session.device(operands), "info")["name"]
    try:
        return nbd.connect(session.client.directory.nbd, name)
    except (DmtoolError, OSError) as error:
        why = os_reason(error) if isinstance(error, OSError) else str(error)
        raise Failed(f"Cannot open {session.shown(name)}: {why}") from None


def byte_count(session: Session, option: str) -> int | None:
    """The number of bytes that an option says, None if it was not given."""
    text = session.switches.value(option)
    if text is None:
        return None
    digits = text.rstrip("skmgtSKMGT")
    factor = _SUFFIXES.get(text[len(digits) :].lower())
    if factor is None or not (digits.isascii() and digits.isdecimal()):
        raise Failed(f"Invalid argument for --{option}: {text}.")
    return int(digits) * factor


def _end(size: int, offset: int, length: int | None) -> int:
    """Where to stop, in bytes. What runs past the end is refused."""
    if offset > size:
        raise Failed(f"Byte {offset} is past the end of the device: it has {size} bytes.")
    end = size if length is None else offset + length
    if end > size:
        raise Failed(f"Bytes {offset} to {end} are not all on the device: it has {size} bytes.")
    return end


def _left(fd: int) -> int | None:
    """How many bytes a file on standard input still has; None if that cannot be known."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        return None
    return max(0, info.st_size - os.lseek(fd, 0, os.SEEK_CUR))


def _put(piece: bytes | bytearray) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(1, view) :]
