# SPDX-License-Identifier: Apache-2.0
"""Events as they come, for those who follow them (the method ``events``).

Who tells of an event may be in the middle of an I/O and hold any lock: it leaves a note with each
follower and goes on. A follower's own thread, that of its control connection, sends them.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dmtool.core.control import ENDING, Peer, ProtocolError
from dmtool.core.entry import Entry, Reference, info
from dmtool.device import MAJOR
from dmtool.errors import DeviceError, NoSuchDevice

if TYPE_CHECKING:
    from dmtool.core.devices import Devices

# Events that wait for a follower who does not read; one more, and it is told so and left alone.
MOST = 1 << 16

Note = dict[str, Any]


class Follower:
    """One request to follow all devices, or one (``only``).

    Threads: ``tell`` from any; the rest is its connection's.
    """

    def __init__(self, only: Entry | None) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.only = only
        self._lock = threading.Lock()
        self._notes: deque[Note] = deque()
        self._lost = False

    def tell(self, entry: Entry, note: Note) -> None:
        if self.only is not None and entry is not self.only:
            return
        with self._lock:
            if len(self._notes) >= MOST:
                self._lost = True
            else:
                self._notes.append(note)
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def take(self) -> Note | None:
        """The next event, None if there is none yet. Raises DeviceError ENOBUFS once some are
        lost."""
        with self._lock:
            if self._notes:
                return self._notes.popleft()
            if self._lost:
                raise DeviceError(
                    f"more than {MOST} events were not read in time",
                    errno=errno.ENOBUFS,
                    hint="follow them again; the event numbers tell how many are missing",
                )
            with suppress(BlockingIOError):
                os.eventfd_read(self.fd)
            return None

    def close(self) -> None:
        with self._lock:
            os.close(self.fd)
            self.fd = -1


class News:
    """Who follows. Threads: any, with any lock held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._followers: list[Follower] = []

    def tell(self, entry: Entry, kind: str, event_nr: int, **more: Any) -> None:
        """Something happened to a device."""
        if not self._followers:
            return
        device = entry.device
        note = {
            "kind": kind,
            "name": device.name,
            "uuid": device.uuid,
            "major": MAJOR,
            "minor": entry.minor,
            "event_nr": event_nr,
            **more,
        }
        with self._lock:
            for follower in self._followers:
                follower.tell(entry, note)

    @contextmanager
    def followed(self, only: Entry | None) -> Iterator[Follower]:
        """All events from now on."""
        follower = Follower(only)
        with self._lock:
            self._followers.append(follower)
        try:
            yield follower
        finally:
            with self._lock:
                self._followers.remove(follower)
            follower.close()


def send(devices: Devices, reference: Reference | None, peer: Peer) -> None:
    """What the method ``events`` does: send events as notifications until the client, or the core,
    ends, or the one device that is followed is removed; first of all what there is. Raises
    NoSuchDevice, ProtocolError; DeviceError ENOBUFS."""
    only = devices.find(reference) if reference else None
    with devices.news.followed(only) as follower, peer.following():
        now = [devices.find(reference)] if reference else devices.all()
        if only is not None and now != [only]:
            raise NoSuchDevice(str(reference))
        peer.notify("event", {"kind": "follow", "devices": [info(entry) for entry in now]})
        _send(follower, peer)


def _send(follower: Follower, peer: Peer) -> None:
    poll = select.poll()
    poll.register(follower.fd, select.POLLIN)
    poll.register(peer.ending_fd, select.POLLIN)
    poll.register(peer.fileno(), 0)  # for POLLHUP, which is always told
    while True:
        while (note := follower.take()) is not None:
            peer.notify("event", note)
            if note["kind"] == "remove" and follower.only is not None:
                return
        ready = {number for number, _ in poll.poll()}
        if peer.fileno() in ready or peer.ending_fd in ready:
            raise ProtocolError(ENDING, "the core is ending, or the client has gone")
