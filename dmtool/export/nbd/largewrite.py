# SPDX-License-Identifier: Apache-2.0
"""The payload of a large write, which goes to its image file as it arrives."""

from __future__ import annotations

import os
from contextlib import suppress
from weakref import WeakKeyDictionary

from dmtool.backing import Backing, Bytes
from dmtool.export.nbd.incoming import Incoming
from dmtool.export.nbd.outgoing import GateCloses, rest
from dmtool.export.nbd.passage import Passage
from dmtool.table.segments import Segment

_IN_MEMORY: WeakKeyDictionary[Backing, bool] = WeakKeyDictionary()


def write_arriving(
    inc: Incoming, passage: Passage, segments: list[Segment], offset: int, done: int = 0
) -> int:
    """Write a payload, from ``pos`` on and as it comes, to ``segments`` of files; it is the
    device's from ``offset`` on, and its first ``done`` bytes are there. The bytes that were
    written: less than all if a gate closes before all have come, or if a write fails. Raises Gone,
    and OSError of the socket.
    """
    length = sum(size for _, _, size in segments)
    mapped = _mapped(segments)
    inc.sip = bool(mapped)  # for the next one of the same kind
    with suppress(GateCloses):
        while done < length:
            piece = inc.piece(offset + done, length - done, whole=not mapped)
            if piece:
                if not _write(segments, done, piece):
                    inc.pos -= len(piece)
                    break
                done += len(piece)
            elif not mapped:
                inc.receive_inside(passage.closed_fds)
            else:
                got = inc.receive_into(rest(mapped, done), passage.closed_fds)
                if not got:
                    break
                done += got
    return done


def _write(segments: list[Segment], skip: int, data: memoryview) -> bool:
    """Write ``data`` behind the first ``skip`` bytes of the segments; False on any error."""
    for backing, at, size in segments:
        if skip >= size:
            skip -= size
            continue
        part = data[: size - skip]
        try:
            backing.pwrite(part, at + skip)
        except OSError:
            return False
        data = data[len(part) :]
        if not data:
            break
        skip = 0
    return True


def _mapped(segments: list[Segment]) -> list[Bytes]:
    """Mappings that a payload may be received into: one copy instead of two. Empty if not.

    Not on a disk, where a page that is not cached would be read first, and where a client that
    dies in the middle would leave half a sector; and not of holes, which writing fills faster.
    """
    found: list[Bytes] = []
    last: Backing | None = None
    for backing, at, size in segments:
        if backing is not last and (backing.readonly or not in_memory(backing)):
            return []
        last = backing
        view = backing.view
        if view is None:
            return []
        found.append(view[at : at + size])
    # holes cost time only: a few places will do
    (first, at, _), (last, end, size) = segments[0], segments[-1]
    return found if _is_data(first, at) and _is_data(last, end + size - 1) else []


def _is_data(backing: Backing, at: int) -> bool:
    assert backing.fd is not None
    try:
        return os.lseek(backing.fd, at, os.SEEK_DATA) == at
    except OSError:
        return False  # a hole up to the end of the file


def in_memory(backing: Backing) -> bool:
    """Whether a backing's file system has no disk below it."""
    known = _IN_MEMORY.get(backing)
    if known is None:
        known = _IN_MEMORY[backing] = backing.fd is not None and _on_tmpfs(backing.fd)
    return known


def _on_tmpfs(fd: int) -> bool:
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    # proc_pid_mountinfo(5): id parent major:minor root mount-point options... - type source ...
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for mount in mounts:
            words = mount.split()
            if words[2] == number:
                return words[words.index("-") + 1] == "tmpfs"
    return False
