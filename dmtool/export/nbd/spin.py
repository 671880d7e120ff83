# SPDX-License-Identifier: Apache-2.0
"""How long a connection looks for its next request before it goes to sleep.

A client that waits for each reply before it asks again has its next request there sooner than a
thread that sleeps would be awake again. Who pauses is not waited for in this way: after a few
looks for nothing only every 64th wait begins with one.
"""

from __future__ import annotations

import os

_DEFAULT = 30
_MOST = 1000


def _microseconds() -> int:
    """``DMTOOL_NBD_SPIN``, 0 to 1000; without it 30, or 0 on a machine with one processor."""
    if len(os.sched_getaffinity(0)) < 2:
        return 0  # whoever is waited for could not run meanwhile
    word = os.environ.get("DMTOOL_NBD_SPIN", "")
    return min(int(word), _MOST) if word.isascii() and word.isdigit() else _DEFAULT


SPIN = _microseconds()
