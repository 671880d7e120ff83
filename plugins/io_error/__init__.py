# SPDX-License-Identifier: Apache-2.0
"""error: every I/O fails with EIO (dm-target.c). Also under its name of 2001, io_error.

Arguments are accepted and dropped, as in the kernel.
"""

from __future__ import annotations

import errno

from dmtool.api import Args, Fail, Io, Target, hookimpl

VERSION = (1, 5, 0)
BULK = Fail(errno.EIO)


@hookimpl
def ctr(ti: Target[None], args: Args) -> None:
    args.rest()


@hookimpl
def map(ti: Target[None], io: Io) -> Fail:
    return Fail(errno.EIO)


@hookimpl
def plan(ti: Target[None]) -> Fail:
    return Fail(errno.EIO)


@hookimpl
def table(ti: Target[None]) -> str:
    return ""
