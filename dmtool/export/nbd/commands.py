# SPDX-License-Identifier: Apache-2.0
"""What one request does to a table, and the bytes of its reply.

Nothing here knows of sockets, gates or threads; a reply is made of private memory only, so that
it may be sent at any time.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass

from dmtool.backing import ZERO, Bytes
from dmtool.export.nbd import protocol as p
from dmtool.table import Table
from dmtool.targets.io import Requeue
from dmtool.targets.waiting import MustWait

log = logging.getLogger(__name__)

Reply = list[Bytes]

# Descriptors of one block status reply; a client asks again from where the reply ends.
DESCRIPTORS_MOST = 4096
# Bytes asked of the table at a time, so that a fragmented image does not fill memory.
_STATUS_STEP = 64 << 20

# What stands before the cookie of a simple reply to a request that succeeded.
OK = p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, 0, bytes(8))[:8]
_WRITES = frozenset((p.CMD_WRITE, p.CMD_TRIM, p.CMD_WRITE_ZEROES))
# Which flags a command may have. FUA is valid for all.
_FLAGS = {
    p.CMD_READ: p.CMD_FLAG_FUA | p.CMD_FLAG_DF,
    p.CMD_WRITE: p.CMD_FLAG_FUA,
    p.CMD_FLUSH: p.CMD_FLAG_FUA,
    p.CMD_TRIM: p.CMD_FLAG_FUA,
    p.CMD_CACHE: p.CMD_FLAG_FUA,
    p.CMD_WRITE_ZEROES: p.CMD_FLAG_FUA | p.CMD_FLAG_NO_HOLE,
    p.CMD_BLOCK_STATUS: p.CMD_FLAG_FUA | p.CMD_FLAG_REQ_ONE,
}


@dataclass(frozen=True, slots=True)
class Session:
    """What the handshake settled: kinds of replies, and whether the client was told read-only."""

    structured: bool = False
    allocation: bool = False
    readonly: bool = False


@dataclass(slots=True)
class Request:
    """One request of a client; offset and length in bytes, ``data`` a write's payload.
    ``handed_over``: it was given to a worker; ``cold``: only to wait for a disk."""

    flags: int
    command: int
    cookie: bytes
    offset: int
    length: int
    data: Bytes = b""
    handed_over: bool = False
    cold: bool = False

    @property
    def counts(self) -> bool:
        """Whether it is I/O that statistics count."""
        return self.length > 0 and (self.command == p.CMD_READ or self.command in _WRITES)


def done(cookie: bytes) -> bytes:
    """Success, of all requests but READ and BLOCK_STATUS."""
    return OK + cookie


def error(session: Session, cookie: bytes, number: int, message: str = "") -> bytes:
    """An error reply; ``number`` as on the wire. The text reaches structured clients only."""
    if not session.structured:
        return p.SIMPLE_REPLY.pack(p.SIMPLE_REPLY_MAGIC, number, cookie)
    text = message.encode(errors="replace")[: p.STRING_MOST]
    return (
        _chunk(cookie, p.REPLY_TYPE_ERROR, 6 + len(text), last=True)
        + p.ERROR.pack(number, len(text))
        + text
    )


def os_error(session: Session, cookie: bytes, failed: OSError) -> bytes:
    return error(session, cookie, p.wire_error(failed.errno), _text(failed))


def data_header(session: Session, cookie: bytes, offset: int, length: int) -> bytes:
    """What stands before the data of a read that was, or will be, wholly successful."""
    if not session.structured:
        return OK + cookie
    return p.DATA_CHUNK.pack(
        p.STRUCTURED_REPLY_MAGIC,
        p.REPLY_FLAG_DONE,
        p.REPLY_TYPE_OFFSET_DATA,
        cookie,
        length + 8,
        offset,
    )


def open_data_header(cookie: bytes, offset: int, length: int) -> bytes:
    """The same for a structured reply that is not over with this data."""
    return _chunk(cookie, p.REPLY_TYPE_OFFSET_DATA, 8 + length, last=False) + p.U64.pack(offset)


def hole(cookie: bytes, offset: int, length: int, *, last: bool) -> bytes:
    """``length`` zeros, for structured clients."""
    return _chunk(cookie, p.REPLY_TYPE_OFFSET_HOLE, 12, last=last) + p.HOLE.pack(offset, length)


def end(cookie: bytes) -> bytes:
    """The last chunk of a structured reply."""
    return _chunk(cookie, p.REPLY_TYPE_NONE, 0, last=True)


def error_at(cookie: bytes, offset: int, failed: OSError, *, last: bool) -> bytes:
    """A structured error that says from which byte on there is no valid data."""
    text = _text(failed).encode(errors="replace")[: p.STRING_MOST]
    return (
        _chunk(cookie, p.REPLY_TYPE_ERROR_OFFSET, 14 + len(text), last=last)
        + p.ERROR.pack(p.wire_error(failed.errno), len(text))
        + text
        + p.U64.pack(offset)
    )


def refusal(session: Session, request: Request, table: Table) -> tuple[int, str] | None:
    """Why a request cannot be done: its error on the wire and the words for it, or None."""
    command, flags, offset, length = request.command, request.flags, request.offset, request.length
    if command not in _FLAGS:
        return p.EINVAL, f"unknown command {command}"
    if flags & ~_FLAGS[command] or (flags & p.CMD_FLAG_DF and not session.structured):
        return p.EINVAL, f"flags {flags:#x} are not valid for command {command}"
    if command in _WRITES and (session.readonly or table.readonly):
        return p.EPERM, "the device is read-only"
    if command == p.CMD_FLUSH:
        return (p.EINVAL, "a flush has no offset and no length") if offset or length else None
    if command == p.CMD_BLOCK_STATUS and not session.allocation:
        return p.EINVAL, "no metadata context was selected"
    if command == p.CMD_BLOCK_STATUS and not length:
        return p.EINVAL, "block status of no bytes"
    if offset + length > table.size:
        beyond = command in (p.CMD_WRITE, p.CMD_WRITE_ZEROES)
        return p.ENOSPC if beyond else p.EINVAL, f"beyond the end of the device at {table.size}"
    if command in (p.CMD_READ, p.CMD_WRITE) and length > p.BLOCK_MOST:
        whole = flags & p.CMD_FLAG_DF
        return p.EOVERFLOW if whole else p.EINVAL, f"more than {p.BLOCK_MOST} bytes at once"
    return None


def may_wait(table: Table, request: Request) -> bool:
    """Whether a request that was not refused may wait for something else than a read from a
    disk: what was written to reach one, a suspended device below, a target that takes time."""
    command, offset, length = request.command, request.offset, request.length
    if not length:
        return command == p.CMD_FLUSH
    if command not in (p.CMD_READ, p.CMD_WRITE):
        return True
    if command == p.CMD_WRITE and request.flags & p.CMD_FLAG_FUA:
        return True
    return table.blocks(offset, length) or any(
        backing.kind == "dm" for backing, _, _ in table.segments(offset, length)
    )


def execute(session: Session, request: Request, table: Table) -> Reply:
    """Do a request that was not refused; errors are replies.

    Raises Requeue: it is to be done again when the device is resumed, by whatever table it has
    then; MustWait, on a thread that must not wait: again, on another thread.
    """
    try:
        return _execute(session, request, table)
    except Requeue as again:
        if table.noflush:
            raise
        return [error(session, request.cookie, p.EIO, _text(again))]
    except MustWait:
        raise
    except OSError as failed:
        return [os_error(session, request.cookie, failed)]
    except Exception as bug:  # of a target type: it must not end the connection
        log.exception("NBD command %d at %d", request.command, request.offset)
        return [error(session, request.cookie, p.EIO, f"{type(bug).__name__}: {bug}")]


def execute_again(session: Session, request: Request, table: Table) -> Reply:
    """``execute`` after a Requeue, which ``table`` may refuse. Raises the same."""
    refused = refusal(session, request, table)
    if refused:
        return [error(session, request.cookie, *refused)]
    return execute(session, request, table)


def _execute(session: Session, request: Request, table: Table) -> Reply:
    offset, length, fua = request.offset, request.length, bool(request.flags & p.CMD_FLAG_FUA)
    match request.command:
        case p.CMD_READ:
            return _read(session, request, table)
        case p.CMD_BLOCK_STATUS:
            return [_block_status(request, table)]
        case p.CMD_WRITE if length:
            table.write(offset, request.data, fua=fua)
        case p.CMD_FLUSH:
            table.flush()
        case p.CMD_TRIM if length:
            table.discard(offset, length)
            if fua:
                table.flush()
        case p.CMD_WRITE_ZEROES if length:
            allocate = bool(request.flags & p.CMD_FLAG_NO_HOLE)
            table.write_zeroes(offset, length, allocate=allocate, fua=fua)
        case p.CMD_CACHE:
            for backing, at, size in table.segments(offset, length):
                if backing.fd is not None:
                    os.posix_fadvise(backing.fd, at, size, os.POSIX_FADV_WILLNEED)
    return [done(request.cookie)]


def _read(session: Session, request: Request, table: Table) -> Reply:
    cookie, offset, length = request.cookie, request.offset, request.length
    if not length:
        return [end(cookie) if session.structured else done(cookie)]
    if not session.structured:
        return [done(cookie), table.read(offset, length)]
    parts = table.read_parts(offset, length)
    errors = [(at, part) for at, _, part in parts if isinstance(part, OSError)]
    if not errors:
        return [data_header(session, cookie, offset, length), *(part for _, _, part in parts)]  # type: ignore[list-item]  # none is an error
    for _, failed in errors:
        if isinstance(failed, Requeue):
            raise failed
    reply: Reply = []
    if not request.flags & p.CMD_FLAG_DF:
        for at, datas in _good_runs(parts):
            reply += [open_data_header(cookie, at, sum(map(len, datas))), *datas]
    for at, failed in errors:
        reply.append(error_at(cookie, at, failed, last=at == errors[-1][0]))
    return reply


def _good_runs(parts: list[tuple[int, int, bytes | OSError]]) -> list[tuple[int, list[bytes]]]:
    """Neighbours without an error between them: ``[(offset, [bytes, ...]), ...]``."""
    runs: list[tuple[int, list[bytes]]] = []
    joined = False
    for at, _, part in parts:
        if isinstance(part, OSError):
            joined = False
        elif joined:
            runs[-1][1].append(part)
        else:
            runs.append((at, [part]))
            joined = True
    return runs


def _block_status(request: Request, table: Table) -> bytes:
    found: list[tuple[int, int]] = []
    at, left = request.offset, request.length
    most = 2 if request.flags & p.CMD_FLAG_REQ_ONE else DESCRIPTORS_MOST
    while left and len(found) < most:
        step = min(left, _STATUS_STEP)
        for size, flags in table.block_status(at, step):
            if found and found[-1][1] == flags:
                found[-1] = (found[-1][0] + size, flags)
            else:
                found.append((size, flags))
        at += step
        left -= step
    if request.flags & p.CMD_FLAG_REQ_ONE:
        del found[1:]
    payload = b"".join(p.DESCRIPTOR.pack(*extent) for extent in found[:DESCRIPTORS_MOST])
    return (
        _chunk(request.cookie, p.REPLY_TYPE_BLOCK_STATUS, 4 + len(payload), last=True)
        + p.U32.pack(p.BASE_ALLOCATION_ID)
        + payload
    )


def is_zero(extents: list[tuple[int, int]]) -> bool:
    """Whether a backing's extents say that all of them read as zeros."""
    return all(flags & ZERO for _, flags in extents)


def _chunk(cookie: bytes, kind: int, length: int, *, last: bool) -> bytes:
    flags = p.REPLY_FLAG_DONE if last else 0
    return p.CHUNK.pack(p.STRUCTURED_REPLY_MAGIC, flags, kind, cookie, length)


def _text(failed: OSError) -> str:
    return failed.strerror or os.strerror(failed.errno or errno.EIO)
