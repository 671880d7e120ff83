# SPDX-License-Identifier: Apache-2.0
"""The payload of a large write, which goes to its image file as it arrives."""

from __future__ import annotations

import os
from contextlib import suppress
from weakref import WeakKeyDictionary

from dmtool.backing import Backing
from dmtool.export.nbd.incoming import Incoming
from dmtool.export.nbd.outgoing import GateCloses
from dmtool.export.nbd.passage import Passage

_IN_MEMORY: WeakKeyDictionary[Backing, bool] = WeakKeyDictionary()


def write_arriving(
    inc: Incoming, passage: Passage, backing: Backing, at: int, offset: int, length: int
) -> int:
    """Write ``length`` bytes of payload, from ``pos`` on and as they come, to ``at`` of a file;
    they are the device's from ``offset`` on. The bytes that were written: less than all if a gate
    closes before all have come, or if a write fails. Raises Gone, and OSError of the socket.
    """
    view = _mapping(backing, at, length)
    inc.sip = view is not None  # for the next one of the same kind
    done = 0
    with suppress(GateCloses):
        while done < length:
            piece = inc.piece(offset + done, length - done, whole=view is None)
            if piece:
                try:
                    backing.pwrite(piece, at + done)
                except OSError:
                    inc.pos -= len(piece)
                    break
                done += len(piece)
            elif view is None:
                inc.receive_inside(passage.closed_fds)
            else:
                got = inc.receive_into(view[at + done : at + length], passage.closed_fds)
                if not got:
                    break
                done += got
    return done


def _mapping(backing: Backing, at: int, length: int) -> memoryview | None:
    """A mapping that the payload may be received into: one copy instead of two.

    Not on a disk, where a page that is not cached would be read first, and where a client that
    dies in the middle would leave half a sector; and not of holes, which writing fills faster.
    """
    if backing.fd is None or backing.readonly or not in_memory(backing):
        return None
    try:
        for place in (at, at + length - 1):
            if os.lseek(backing.fd, place, os.SEEK_DATA) != place:
                return None
    except OSError:
        return None  # a hole up to the end of the file
    return backing.view


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
