# SPDX-License-Identifier: Apache-2.0
"""Programs that wait for what they have written to be done, and may give up: by a signal."""

from __future__ import annotations

import socket
import threading


class Caller:
    """Who made one request. ``fd`` hangs up when he gives up."""

    def __init__(self) -> None:
        self._socket, self._other = socket.socketpair()

    @property
    def fd(self) -> int:
        return self._socket.fileno()

    def give_up(self) -> None:
        self._other.close()

    def close(self) -> None:
        self._socket.close()
        self._other.close()


class Callers:
    """Those of the requests under way, by ``unique``.

    Threads: any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: dict[int, Caller] = {}

    def add(self, unique: int) -> Caller:
        """Note a request, before its interrupt can be read; ``end`` is to follow."""
        caller = Caller()
        with self._lock:
            self._callers[unique] = caller
        return caller

    def end(self, unique: int) -> None:
        """The request was done. Once or more often."""
        with self._lock:
            caller = self._callers.pop(unique, None)
            if caller is not None:
                caller.close()

    def interrupt(self, unique: int) -> None:
        """Who made that request has got a signal."""
        with self._lock:
            caller = self._callers.get(unique)
            if caller is not None:
                caller.give_up()

    def close(self) -> None:
        """Nobody can be answered any more."""
        with self._lock:
            for caller in self._callers.values():
                caller.give_up()
