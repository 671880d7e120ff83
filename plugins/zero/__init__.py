# SPDX-License-Identifier: Apache-2.0
"""zero: reads give zeros, writes are dropped (dm-zero.c)."""

from __future__ import annotations

from dmtool.api import Args, Io, Target, Zero, hookimpl

VERSION = (1, 1, 0)
BULK = Zero()


@hookimpl
def ctr(ti: Target[None], args: Args) -> None:
    args.exactly(0, "No arguments required")


@hookimpl
def map(ti: Target[None], io: Io) -> Zero:
    return Zero()


@hookimpl
def plan(ti: Target[None]) -> Zero:
    return Zero()
