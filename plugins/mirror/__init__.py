# SPDX-License-Identifier: Apache-2.0
"""mirror: the same bytes on several legs, copied there in the background (dm-raid1.c).

``<log type> <#log args> <log args>... <#mirrors> [<device> <offset>]+ [<#features> <feature>...]``
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dmtool.api import Args, Backing, Defer, Io, Mirrored, Op, Target, TargetError, hookimpl
from dmtool.plugins.mirror import arguments
from dmtool.plugins.mirror.copier import Copier
from dmtool.plugins.mirror.log import DiskLog
from dmtool.plugins.mirror.mirror import Mirror
from dmtool.plugins.mirror.throttle import parse_rate

VERSION = (1, 14, 0)


@dataclass(frozen=True)
class Context:
    """A mirror and who makes it one."""

    mirror: Mirror
    copier: Copier


@hookimpl
def ctr(ti: Target[Context], args: Args) -> Context:
    ti.ops |= {Op.DISCARD, Op.WRITE_ZEROES}
    mirror = arguments.read(ti, args)
    return Context(mirror, Copier(mirror))


@hookimpl
def dtr(ti: Target[Context]) -> None:
    ti.context.copier.stop()


@hookimpl
def map(ti: Target[Context], io: Io) -> Defer:
    mirror = ti.context.mirror
    if io.op is Op.READ:
        return Defer(lambda: mirror.read(io))
    return Defer(lambda: mirror.write(io))


@hookimpl
def plan(ti: Target[Context]) -> Mirrored | None:
    return ti.context.mirror.plan()


@hookimpl
def end_io(ti: Target[Context], io: Io, error: int) -> int:
    if error and io.op is Op.FLUSH:
        return ti.context.mirror.flush_failed(io.device, error)
    return error


@hookimpl
def status(ti: Target[Context]) -> str:
    return ti.context.mirror.status()


@hookimpl
def table(ti: Target[Context]) -> str:
    mirror = ti.context.mirror
    places = mirror.legs.places
    legs = " ".join(str(place) for place in places)
    return f"{mirror.log.arguments()} {len(places)} {legs}{mirror.options}"


@hookimpl
def message(ti: Target[Context], argv: list[str]) -> None:
    match argv:
        case ["rate", rate]:
            ti.context.copier.set_rate(parse_rate(rate))
        case ["pause" | "resume" as word]:
            ti.context.copier.pause(word == "pause")
        case _:
            # the kernel's words: its mirror knows no message at all
            raise TargetError(
                "Target type does not support messages",
                cause=f"{' '.join(argv)!r} is no message of a mirror",
                hint="messages are: rate RATE, pause, resume",
            )


@hookimpl
def iterate_devices(ti: Target[Context], fn: Callable[[Backing, int, int], None]) -> None:
    for leg in ti.context.mirror.legs.places:
        fn(leg.device, leg.start, ti.len)


@hookimpl
def preresume(ti: Target[Context]) -> None:
    log = ti.context.mirror.log
    if isinstance(log, DiskLog):
        log.read()


@hookimpl
def resume(ti: Target[Context]) -> None:
    mirror = ti.context.mirror
    mirror.load_log()
    mirror.start(again=False)
    ti.context.copier.start()


@hookimpl
def presuspend(ti: Target[Context]) -> None:
    # the copier first: what is held then, and is to be done again, finds the gate closed soon
    ti.context.copier.stop()
    ti.context.mirror.release()


@hookimpl
def presuspend_undo(ti: Target[Context]) -> None:
    ti.context.mirror.start(again=True)
    ti.context.copier.start()


@hookimpl
def postsuspend(ti: Target[Context]) -> None:
    ti.context.mirror.save_log()
