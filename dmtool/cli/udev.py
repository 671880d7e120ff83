# SPDX-License-Identifier: Apache-2.0
"""The udev commands: there is no udev to wait for, so cookies are accepted and mean nothing."""

from __future__ import annotations

from dmtool.cli.clib import cookie_value
from dmtool.cli.session import Failed, Session

# libdevmapper.h: the upper half of a cookie has flags, of which eight are device-mapper's own
_FLAGS_SHIFT = 16
_FLAGS = (
    "DISABLE_DM_RULES",
    "DISABLE_SUBSYSTEM_RULES",
    "DISABLE_DISK_RULES",
    "DISABLE_OTHER_RULES",
    "LOW_PRIORITY",
    "DISABLE_LIBRARY_FALLBACK",
    "PRIMARY_SOURCE",
)


def _cookie(text: str) -> int:
    value = cookie_value(text)
    if not value:
        raise Failed("Incorrect cookie value.")
    return value


def nothing(session: Session, operands: list[str]) -> None:
    """``udevcreatecookie`` (prints none where udev is not running) and ``udevcomplete_all``."""


def flags(session: Session, operands: list[str]) -> None:
    """``udevflags COOKIE``: the flags in a cookie, as variables for udev rules."""
    word = _cookie(operands[0]) >> _FLAGS_SHIFT
    names = [_flag(bit) for bit in range(_FLAGS_SHIFT) if word >> bit & 1]
    if session.json:
        session.put_json(flags=names)
    else:
        session.out("".join(f"{name}='1'\n" for name in names))


def _flag(bit: int) -> str:
    half = _FLAGS_SHIFT // 2
    if bit >= half:
        return f"DM_SUBSYSTEM_UDEV_FLAG{bit - half}"
    return f"DM_UDEV_{_FLAGS[bit]}_FLAG" if bit < len(_FLAGS) else f"DM_UDEV_FLAG{bit}"


def complete(session: Session, operands: list[str]) -> None:
    """``udevcomplete COOKIE``."""
    cookie = _cookie(operands[0])
    if session.json:
        session.put_json(cookie=cookie)
    else:
        session.out(f"DM_COOKIE_COMPLETED=0x{cookie:<10x}\n")


def release(session: Session, operands: list[str]) -> None:
    """``udevreleasecookie [COOKIE]``."""
    given = session.switches.value("udevcookie")
    if operands:
        _cookie(operands[0])
    elif given is None or not cookie_value(given):
        raise Failed("No udev transaction cookie given.")


def cookies(session: Session, _operands: list[str]) -> None:
    """``udevcookies``: the headings of an empty list."""
    if session.json:
        session.add_json("cookies")
        return
    session.out("Cookie       Semid      Value      Last semop time           Last change time\n")
