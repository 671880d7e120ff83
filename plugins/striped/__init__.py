# SPDX-License-Identifier: Apache-2.0
"""striped <#stripes> <chunk> [<device> <offset>]+: chunks dealt out in turn (dm-stripe.c)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dmtool.api import Args, Io, Remap, Striped, Target, TargetError, hookimpl

VERSION = (1, 6, 0)

U32 = (1 << 32) - 1
# A stripe that keeps failing raises this many events and no more (DM_IO_ERROR_THRESHOLD).
EVENTS = 15


@dataclass
class Stripes:
    """``errors`` counts the failed I/Os of each stripe's device."""

    layout: Striped
    errors: list[int] = field(default_factory=list)


@hookimpl
def ctr(ti: Target[Stripes], args: Args) -> Stripes:
    args.at_least(2, "Not enough arguments")
    stripes = args.number("Invalid stripe count", least=1, most=U32)
    chunk = args.number("Invalid chunk_size", least=1, most=U32)
    if ti.len % stripes:
        cause = f"{ti.len} sectors over {stripes} stripes"
        raise TargetError("Target length not divisible by number of stripes", cause=cause)
    if ti.len // stripes % chunk:
        cause = f"{ti.len // stripes} sectors a stripe in chunks of {chunk}"
        raise TargetError("Target length not divisible by chunk size", cause=cause)
    args.exactly(2 * stripes, "Not enough destinations specified")
    ti.max_io_len = chunk
    wrong = "Couldn't parse stripe destination"
    return Stripes(
        Striped(tuple(args.extent(wrong, wrong) for _ in range(stripes)), chunk), [0] * stripes
    )


@hookimpl
def map(ti: Target[Stripes], io: Io) -> Remap:
    layout = ti.context.layout
    chunk, within = divmod(io.sector - ti.begin, layout.chunk)
    row, stripe = divmod(chunk, len(layout.extents))
    extent = layout.extents[stripe]
    return Remap(extent.device, extent.start + row * layout.chunk + within)


@hookimpl
def plan(ti: Target[Stripes]) -> Striped:
    return ti.context.layout


@hookimpl
def end_io(ti: Target[Stripes], io: Io, error: int) -> int:
    stripes = ti.context
    if error:
        for i, extent in enumerate(stripes.layout.extents):
            if extent.device is io.device:
                stripes.errors[i] += 1
                if stripes.errors[i] < EVENTS:
                    ti.event(f"{extent.device} failed")
    return error


@hookimpl
def status(ti: Target[Stripes]) -> str:
    extents = ti.context.layout.extents
    letters = "".join("D" if errors else "A" for errors in ti.context.errors)
    return f"{len(extents)} {' '.join(str(e.device) for e in extents)} 1 {letters}"
