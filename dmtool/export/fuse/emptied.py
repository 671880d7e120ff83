# SPDX-License-Identifier: Apache-2.0
"""What a program is owed that opens a device's file with O_TRUNC.

A device keeps its size and its bytes, as /dev nodes do: ``dd of=mapper/vol count=1`` changes one
block. But a program that has emptied a regular file may leave out what is zero: ``cp`` steps over
the holes of a sparse image. So while such an opener has the file open, what a write steps over,
beyond all that was written since, is filled with zeros; what follows the last write stays.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

Fill = Callable[[int, int], None]


class Emptied:
    """``end`` is the byte up to which everything was written, or filled, since the file was
    emptied; ``fill(offset, length)`` makes zeros.

    Threads: any. Writes go one after the other: none may overtake the filling that was due
    before it.
    """

    def __init__(self, fill: Fill) -> None:
        self.end = 0
        self._fill = fill
        self._lock = threading.Lock()

    def write(self, offset: int, length: int, write: Callable[[], None]) -> None:
        """Do a write, and before it what is owed for the bytes that it steps over."""
        with self._lock:
            self._up_to(offset)
            write()
            self.end = max(self.end, offset + length)

    def extend(self, size: int) -> None:
        """The opener makes the file ``size`` long: it ends with a hole. Raises OSError EINVAL if
        that would make the file shorter than what was written."""
        with self._lock:
            if size < self.end:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self._up_to(size)

    def _up_to(self, offset: int) -> None:
        if offset > self.end:
            self._fill(self.end, offset - self.end)
            self.end = offset
