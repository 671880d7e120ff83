# SPDX-License-Identifier: Apache-2.0
"""The arguments of a mirror, taken in the kernel's order and refused with its words."""

from __future__ import annotations

from typing import Any

from dmtool.api import Args, Extent, Target, TargetError
from dmtool.plugins.mirror.log import DEFAULT, NOSYNC, SYNC, CoreLog, DiskLog, Log
from dmtool.plugins.mirror.mirror import Mirror, Options

_U32 = (1 << 32) - 1
_LEGS_MOST = 9  # DM_KCOPYD_MAX_REGIONS + 1


class _Words:
    """Args that know which word comes next, for carets."""

    def __init__(self, args: Args) -> None:
        self.args = args
        self._all = len(args)

    @property
    def at(self) -> int:
        return self._all - len(self.args)

    def count(self, reason: str, *, least: int = 0, most: int = _U32) -> int:
        """A number as sscanf's ``%u`` takes it, without a sign, but not wrapped at 2^32."""
        at = self.at
        value = self.args.sector(reason)
        if not least <= value <= most:
            limits = f"{least} or more" if value < least else f"{most} or less"
            raise TargetError(reason, cause=f"{value} is not {limits}", word=at)
        return value


def read(ti: Target[Any], args: Args) -> Mirror:
    """``<log> <#log args> <log args> <#mirrors> [<device> <offset>]+ [<#features> <feature>*]``.
    Raises TargetError."""
    words = _Words(args)
    log = _log(ti, words)
    count = words.count("Invalid number of mirrors", least=2, most=_LEGS_MOST)
    args.at_least(2 * count, "Too few mirror arguments")
    legs = tuple(_leg(args) for _ in range(count))
    options = _options(words)
    if len(args):
        raise TargetError(
            "Too many mirror arguments", cause=f"{args.word()!r} is left over", word=words.at - 1
        )
    return Mirror(ti, legs, log, options)


def _leg(args: Args) -> Extent:
    return args.extent("Invalid offset", "Device lookup failure")


def _options(words: _Words) -> Options:
    args = words.args
    found: dict[str, bool] = {}
    if len(args):
        count = words.count("Invalid number of features")
        args.at_least(count, "Not enough arguments to support feature count")
        for _ in range(count):
            word = args.word()
            if word not in ("handle_errors", "keep_log"):
                raise TargetError(
                    "Unrecognised feature requested",
                    cause=f"{word!r} is no feature",
                    hint="features are handle_errors and keep_log",
                    word=words.at - 1,
                )
            found[word] = True
    options = Options(**found)
    if options.keep_log and not options.handle_errors:
        raise TargetError("keep_log feature requires the handle_errors feature")
    return options


# -- the log ----------------------------------------------------------------------------------


def _log_error(cause: str, at: int | None = None, hint: str | None = None) -> TargetError:
    """The kernel says of a log only that it could not be made; the cause is in its log."""
    return TargetError("Error creating mirror dirty log", cause=cause, hint=hint, word=at)


def _log(ti: Target[Any], words: _Words) -> Log:
    args = words.args
    args.at_least(2, "Insufficient mirror log arguments")
    kind = args.word()
    count = words.count("Invalid mirror log argument count")
    args.at_least(count, "Insufficient mirror log arguments")
    if kind == "core":
        return CoreLog(*_core(ti, words, count))
    if kind != "disk":
        raise _log_error(
            f'Module for logging type "{kind}" not found.', 0, "log types are core and disk"
        )
    if not 2 <= count <= 3:
        raise _log_error("wrong number of arguments to disk dirty region log", 1)
    try:
        device = args.device("")
    except TargetError as error:
        raise _log_error(error.cause or "", error.word) from error.__cause__
    at = words.at - 1
    size, sync = _core(ti, words, count - 1)
    log = DiskLog(device, size, sync, -(-ti.len // size))
    if log.size > device.size:
        raise _log_error(f"log device {device} too small: need {log.size} bytes", at)
    return log


def _core(ti: Target[Any], words: _Words, count: int) -> tuple[int, str]:
    """``<region size> [sync|nosync]``."""
    if not 1 <= count <= 2:
        raise _log_error("wrong number of arguments to dirty region log", 1)
    word, at = words.args.word(), words.at - 1
    sync = words.args.word() if count == 2 else DEFAULT
    if sync not in (SYNC, NOSYNC, DEFAULT) or (count == 2 and not sync):
        raise _log_error(
            f"unrecognised sync argument to dirty region log: {sync}", at + 1, "sync or nosync"
        )
    size = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0
    if not 2 <= size <= min(ti.len, _U32) or size & (size - 1):
        hint = f"sectors: a power of two from 2 to the target's length, {ti.len}"
        raise _log_error(f"invalid region size {word}", at, hint)
    if -(-ti.len // size) > _U32:
        raise _log_error(f"region count exceeds limit of {_U32}", at, "make the regions larger")
    return size, sync
