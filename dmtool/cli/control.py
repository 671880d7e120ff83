# SPDX-License-Identifier: Apache-2.0
"""Commands that act on devices: suspend to remove, rename, message, wait."""

from __future__ import annotations

import errno
import time
from typing import Any

from dmtool.cli.clib import atoi, strtoull
from dmtool.cli.failures import ioctl_line
from dmtool.cli.session import Device, Failed, Session
from dmtool.cli.show import one_by_one, present, show_changed

# ``remove --retry``: how often a busy device is tried again, and the seconds between.
RETRIES, PAUSE = 25, 0.2
# dm_set_geometry, dm-ioctl.c: the largest cylinders, heads, sectors per track
_GEOMETRY = (65535, 255, 255)


def _act(session: Session, operands: list[str], method: str, **params: Any) -> None:
    """A method that is called as its ioctl, and answers with the device's info."""
    show_changed(session, session.ioctl(method, session.device(operands), method, **params))


def _flags(session: Session) -> dict[str, bool]:
    return {name: name in session.switches for name in ("noflush", "nolockfs")}


def suspend(session: Session, operands: list[str]) -> None:
    """``suspend DEVICE...``."""
    _act(session, operands, "suspend", **_flags(session))


def resume(session: Session, operands: list[str]) -> None:
    """``resume DEVICE...``."""
    from dmtool.cli.create import read_ahead

    _act(session, operands, "resume", **_flags(session), read_ahead=read_ahead(session))


def clear(session: Session, operands: list[str]) -> None:
    """``clear DEVICE...``."""
    _act(session, operands, "clear")


def remove(session: Session, operands: list[str]) -> None:
    """``remove DEVICE...``."""
    from dmtool.client import ClientError

    switches = session.switches
    device = session.device(operands)
    force = "force" in switches and bool(operands)
    tries = RETRIES if "retry" in switches else 1
    while True:
        tries -= 1
        try:
            session.ask(device, "remove", force=force, deferred="deferred" in switches)
        except ClientError as error:
            if error.errno == errno.EBUSY and tries > 0:
                time.sleep(PAUSE)
                continue
            if force and error.errno == errno.ENXIO:
                # dmsetup asks for the table, loads another and only then removes.
                session.error(
                    *(ioctl_line(word, device, errno.ENXIO, None) for word in ("table", "reload"))
                )
            session.fail("remove", device, error)
        return


def remove_all(session: Session, _operands: list[str]) -> None:
    """``remove_all``: all that are not open; with -f the rest fail all I/O, and are tried again."""
    from dmtool.client import ClientError

    force = "force" in session.switches
    try:
        answer = session.client.call(
            "remove_all", force=force, deferred="deferred" in session.switches
        )
    except ClientError as error:
        session.fail("remove_all", Device(), error)
    if force and answer["left"]:
        session.error(f"Unable to remove {answer['left']} device(s).")


def wipe_table(session: Session, operands: list[str]) -> None:
    """``wipe_table DEVICE...``: an error target over the whole size, in place of the table."""
    from dmtool.client import ClientError

    if not operands or not operands[0]:
        raise Failed("No device specified.")
    device = session.device(operands)
    flags = dict.fromkeys(("noflush", "nolockfs"), True)
    try:
        session.ask(device, "wipe", **(flags if "force" in session.switches else _flags(session)))
    except ClientError as error:
        if error.errno == errno.ENXIO:
            session.error(ioctl_line("table", device, errno.ENXIO, device.devno))
            raise Failed(ioctl_line("reload", device, errno.ENXIO, device.devno)) from None
        session.fail("reload", device, error)


def rename(session: Session, operands: list[str]) -> None:
    """``rename DEVICE NEW_NAME`` and ``rename DEVICE --setuuid UUID``."""
    device = session.device(operands[:-1])
    new = operands[-1]
    if "setuuid" in session.switches:
        uuid = session.named(session.naming.new_uuid, new)
        session.ioctl("rename", device, "set_uuid", uuid=uuid)
    else:
        name = session.named(session.naming.new_name, new)
        session.ioctl("rename", device, "rename", new_name=name)


def message(session: Session, operands: list[str]) -> None:
    """``message DEVICE SECTOR MESSAGE...``; the words are joined by blanks."""
    named = "uuid" in session.switches or "major" in session.switches
    device = session.device([] if named else operands[:1])
    number, *words = operands if named else operands[1:]
    sector = strtoull(number)
    if sector is None:
        raise Failed("Invalid sector.")
    if not words:
        session.error("No message supplied.")
    answer = session.ioctl("message", device, "message", sector=sector, message=" ".join(words))
    response = answer.get("response")
    if session.json:
        session.put_json(response=response)
    elif response:
        session.out(response if response.endswith("\n") else response + "\n")


def wait(session: Session, operands: list[str]) -> None:
    """``wait DEVICE [EVENT_NR]``: until the device's event number is another one."""
    named = "uuid" in session.switches or "major" in session.switches
    if not named and not operands:
        raise Failed("No device specified.")
    device = session.device([] if named else operands[:1])
    rest = operands if named else operands[1:]
    event = atoi(rest[-1]) & 0xFFFFFFFF if rest else 0
    show_changed(session, session.ioctl("waitevent", device, "wait", event_nr=event))


def setgeometry(session: Session, operands: list[str]) -> None:
    """``setgeometry DEVICE C H S START``: checked as the kernel does; nothing here asks for it.

    With ``-u`` or ``-j`` the numbers come first, and a fifth one, which must be there, means nothing.
    """
    from dmtool.client import ClientError

    named = "uuid" in session.switches or "major" in session.switches
    device = session.device([] if named else operands[:1])
    words = operands[:-1] if named else operands[1:]
    try:
        session.ask(device, "info")
    except ClientError as error:
        session.fail("setgeometry", device, error)
    numbers = [strtoull(word) for word in words]
    why = None
    if None in numbers:
        why = "Unable to interpret geometry settings."
    else:
        cylinders, heads, sectors, start = (number or 0 for number in numbers)
        over = zip((cylinders, heads, sectors), _GEOMETRY, strict=True)
        if any(number > limit for number, limit in over):
            why = "Geometry exceeds range limits."
        elif start > cylinders * heads * sectors:
            why = "Start sector is beyond the geometry limits."
    if why:
        raise Failed(ioctl_line("setgeometry", device, errno.EINVAL, device.devno), why)


def mknodes(session: Session, operands: list[str]) -> None:
    """``mknodes [DEVICE...]``: devices are files and NBD exports as soon as they exist."""


def mangle(session: Session, operands: list[str]) -> None:
    """``mangle [DEVICE...]``: give devices whose names are not mangled the name they should have."""
    from dmtool.cli.mangle import mangle_one

    session.naming.mode = "none"
    if session.json:
        session.add_json("devices")
    one_by_one(
        session,
        operands,
        lambda session, device, known: mangle_one(
            session, known or present_or_fail(session, device)
        ),
    )


def present_or_fail(session: Session, device: Device) -> dict[str, Any]:
    """As ``present``; a device that is not there fails the command without a word of its own."""
    try:
        return present(session, device, "status")
    except Failed:
        raise Failed from None
