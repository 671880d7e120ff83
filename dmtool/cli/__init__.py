# SPDX-License-Identifier: Apache-2.0
"""The command line. ``main`` is the console script."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return the exit status: 0 or 1, 130
    after an interrupt.

    Without ``args`` it is the process's own command line, and the process ends here: a command is
    so short that the interpreter's garbage collection and its tidying at the end are a sixth of it.
    """
    own = args is None
    if own:
        gc.disable()
    try:
        from dmtool.cli.app import run

        status = run(args)
    except KeyboardInterrupt:
        status = 130
    if own:
        sys.stderr.flush()
        os._exit(status)
    return status
