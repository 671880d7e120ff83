# SPDX-License-Identifier: Apache-2.0
"""The reply to a large read: sendfile(2) from image files, holes told instead of sent."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from dmtool.backing import Backing, Bytes
from dmtool.backing.null import ZEROS
from dmtool.export.nbd import commands as c
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.outgoing import Fds, GateCloses, Gone, Outgoing, rest
from dmtool.export.nbd.passage import Passage
from dmtool.export.nbd.residency import intact
from dmtool.table.segments import Segment

# From here on sendfile is faster than sending from a mapping, and a hole worth looking for.
LARGE = 256 << 10
# Holes are looked for where so many bytes begin, and where a hole ends. To ask where data ends,
# as Backing.extents does, can take longer than to send it: tmpfs looks at every page.
_LOOK = 1 << 20

_ZEROES = memoryview(bytes(1 << 20))


@dataclass(frozen=True, slots=True)
class _Data:
    """``length`` bytes of a descriptor or mapping, which are the device's from ``offset`` on."""

    offset: int
    length: int
    backing: Backing
    at: int


class LargeRead:
    """A reply as a stream of parts, private memory and image files' bytes in turn.

    Threads: one.
    """

    def __init__(self, session: c.Session, request: c.Request, sent: int = 0) -> None:
        self._session = session
        self._request = request
        self._parts: list[Bytes | _Data] = []
        self._sent = sent  # of the stream

    @classmethod
    def plan(
        cls, session: c.Session, request: c.Request, segments: list[Segment]
    ) -> LargeRead | None:
        """None where the bytes are not all in files, mappings and holes."""
        if any(b.fd is None and b.view is None and b is not ZEROS for b, _, _ in segments):
            return None
        reply = cls(session, request)
        reply._lay_out(segments, holes=not request.flags & p.CMD_FLAG_DF)
        return reply

    @classmethod
    def begun(
        cls, session: c.Session, request: c.Request, segments: list[Segment], sent: int
    ) -> LargeRead:
        """A reply of data alone, of which so many bytes have been sent."""
        reply = cls(session, request, sent)
        reply._lay_out(segments, holes=False)
        return reply

    def _lay_out(self, segments: list[Segment], *, holes: bool) -> None:
        if self._session.structured:
            self._chunks(segments, holes=holes)
        else:
            self._parts.append(c.done(self._request.cookie))
            self._data(self._request.offset, segments)

    def _chunks(self, segments: list[Segment], *, holes: bool) -> None:
        """Runs of data as one chunk each, holes as others, and an end that can still tell of an
        error."""
        cookie, offset = self._request.cookie, self._request.offset
        run: list[Segment] = []
        for backing, at, size in segments:
            extents = [(size, False)]
            if holes and (backing is ZEROS or size >= LARGE):
                extents = _look(backing, at, size)
            done = 0
            for length, empty in extents:
                if empty:
                    offset = self._run(run, offset)
                    self._parts.append(c.hole(cookie, offset, length, last=False))
                    offset += length
                else:
                    run.append((backing, at + done, length))
                done += length
        self._run(run, offset)
        self._parts.append(c.end(cookie))

    def _run(self, run: list[Segment], offset: int) -> int:
        length = sum(size for _, _, size in run)
        if length:
            self._parts.append(c.open_data_header(self._request.cookie, offset, length))
            self._data(offset, run)
        run.clear()
        return offset + length

    def _data(self, offset: int, run: list[Segment]) -> None:
        for backing, at, size in run:
            if backing is ZEROS:
                whole, part = divmod(size, len(_ZEROES))
                self._parts += [_ZEROES] * whole + [_ZEROES[:part]] * bool(part)
            else:
                self._parts.append(_Data(offset, size, backing, at))
            offset += size

    def send(self, out: Outgoing, closed_fds: Fds) -> bool:
        """Send all of it. False: a gate closes, or bytes cannot be had this way; then ``own``
        has the rest. Raises Gone."""
        try:
            self._send(out, closed_fds)
        except (GateCloses, OSError):
            return False
        return True

    def _send(self, out: Outgoing, closed_fds: Fds) -> None:
        memory: list[Bytes] = []
        skip = self._sent
        for part in self._parts:
            length = part.length if isinstance(part, _Data) else len(part)
            if skip >= length:
                skip -= length
                continue
            done, skip = skip, 0
            if not isinstance(part, _Data):
                memory.append(memoryview(part)[done:])
            elif length < LARGE and (view := part.backing.view) is not None:
                memory.append(view[part.at + done : part.at + length])
            else:
                assert part.backing.fd is not None
                self._memory(out, memory, closed_fds)
                memory = []
                while done < part.length:
                    sent = out.send_file(
                        part.backing.fd, part.at + done, part.length - done, closed_fds
                    )
                    done += sent
                    self._sent += sent
        self._memory(out, memory, closed_fds)

    def _memory(self, out: Outgoing, memory: list[Bytes], closed_fds: Fds) -> None:
        while memory:
            sent = out.send(memory, closed_fds)
            self._sent += sent
            memory = rest(memory, sent)

    def intact(self) -> bool:
        """Whether its files are still long enough, as far as can be known beforehand."""
        backings = {part.backing for part in self._parts if isinstance(part, _Data)}
        return all(map(intact, backings))

    def own(self, passage: Passage) -> list[Bytes]:
        """What is not yet sent, read into private memory.

        Raises Gone where a byte cannot be read and a header that promised it has gone out, in a
        simple reply. In a structured one zeros stand for it and an error chunk follows.
        """
        if not self._sent:
            return passage.execute(self._session, self._request)
        skip = self._sent
        reply: list[Bytes] = []
        errors: list[bytes] = []
        for part in self._parts:
            length = part.length if isinstance(part, _Data) else len(part)
            if skip >= length:
                skip -= length
                continue
            if isinstance(part, _Data):
                reply.append(self._read(part, skip, passage, errors))
            else:
                reply.append(memoryview(part)[skip:])
            skip = 0
        if errors:
            reply[-1] = b"".join(errors) + reply[-1]
        return reply

    def _read(self, part: _Data, skip: int, passage: Passage, errors: list[bytes]) -> bytes:
        try:
            return passage.read(part.offset + skip, part.length - skip)
        except OSError as failed:
            if not self._session.structured:
                raise Gone("a reply that has begun cannot be completed") from failed
            errors.append(c.error_at(self._request.cookie, part.offset + skip, failed, last=False))
            return bytes(part.length - skip)


def _look(backing: Backing, at: int, size: int) -> list[tuple[int, bool]]:
    """``[(bytes, whether they are a hole), ...]`` of a range; holes may be missed."""
    if backing is ZEROS:
        return [(size, True)]
    if backing.kind != "file" or backing.fd is None or not intact(backing):
        return [(size, False)]
    found: list[tuple[int, bool]] = []
    end = at + size
    while at < end:
        try:
            data = os.lseek(backing.fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return [*found, (end - at, False)]
            data = end  # nothing but a hole up to the end of the file
        length = min(data, end) - at or min(_LOOK, end - at)
        found.append((length, data > at))
        at += length
    return found
