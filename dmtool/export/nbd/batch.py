# SPDX-License-Identifier: Apache-2.0
"""Replies that are sent together."""

from __future__ import annotations

from dmtool.backing import Bytes
from dmtool.export.nbd import commands as c
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.largeread import LargeRead
from dmtool.export.nbd.outgoing import GateCloses, Gone, Outgoing, rest
from dmtool.export.nbd.passage import Passage


class Batch:
    """``iov`` has two buffers a reply, the first of which is private memory. ``offsets`` says for
    each pair which byte of the device the second begins with, or -1: private memory too. The
    first pair is ``acks``, to which whole replies are appended. ``total`` is in bytes, those of
    ``acks`` not counted. ``large``, if there is one, is sent last. The batch begins at byte
    ``first`` of the receive buffer; ``apart`` are the bytes at which requests begin that it did
    not do, but hand over or refuse.

    Threads: one.
    """

    __slots__ = ("acks", "apart", "first", "iov", "large", "offsets", "total")

    def __init__(self, first: int) -> None:
        self.first = first
        self.apart: tuple[int, ...] = ()
        self.acks = bytearray()
        self.iov: list[Bytes] = [self.acks, b""]
        self.offsets = [-1]
        self.total = 0
        self.large: LargeRead | None = None

    def add(self, reply: list[Bytes]) -> None:
        """Append a reply of private memory."""
        if len(reply) == 1:
            self.acks += reply[0]
            return
        self.iov += reply if len(reply) == 2 else (b"".join(reply), b"")
        self.offsets.append(-1)
        self.total += sum(map(len, reply))

    def finish(self, session: c.Session, passage: Passage, out: Outgoing, sent: int = 0) -> None:
        """Send all but the first ``sent`` bytes, however long the client takes, and leave the
        gate: early if it is to close. Raises Gone, and OSError of the socket."""
        large, closed_fds = self.large, passage.closed_fds
        with out:
            left = rest(self.iov, sent)
            own: list[Bytes] = []
            try:
                while left:
                    sent += out.send(left, closed_fds)
                    left = rest(self.iov, sent)
            except (GateCloses, OSError):
                own = self.own(session, passage, sent)
            if large is not None and (own or not large.intact() or not large.send(out, closed_fds)):
                own += large.own(passage)
            passage.leave()
            while own:
                own = rest(own, out.send(own))

    def own(self, session: c.Session, passage: Passage, sent: int) -> list[Bytes]:
        """All but the first ``sent`` bytes, in private memory. Raises Gone where a reply that
        promises data has begun to go out and the data cannot be read."""
        reply: list[Bytes] = []
        pairs = iter(self.iov)
        for offset, head, body in zip(self.offsets, pairs, pairs, strict=True):
            length = len(head) + len(body)
            if sent >= length:
                sent -= length
                continue
            pair: list[Bytes] = [head, body]
            if offset >= 0:
                try:
                    pair[1] = passage.read(offset, len(body))
                except OSError as failed:
                    if sent:
                        raise Gone("a reply that has begun cannot be completed") from failed
                    # the cookie is at the same place in simple replies and in chunks
                    request = c.Request(0, p.CMD_READ, bytes(head[8:16]), offset, len(body))
                    pair = passage.execute(session, request)
            reply += rest(pair, sent)
            sent = 0
        return reply
