# SPDX-License-Identifier: Apache-2.0
"""linear <device> <offset>: one run of sectors on one backing device (dm-linear.c)."""

from __future__ import annotations

from dmtool.api import Args, Extent, Io, Remap, Target, hookimpl

VERSION = (1, 4, 0)
BULK = Extent


@hookimpl
def ctr(ti: Target[Extent], args: Args) -> Extent:
    args.exactly(2, "Invalid argument count")
    return args.extent("Invalid device sector")


@hookimpl
def map(ti: Target[Extent], io: Io) -> Remap:
    return Remap(ti.context.device, ti.context.start + io.sector - ti.begin)


@hookimpl
def plan(ti: Target[Extent]) -> Extent:
    return ti.context
