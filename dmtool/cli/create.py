# SPDX-License-Identifier: Apache-2.0
"""create, load and reload: tables on their way in."""

from __future__ import annotations

import os
import sys

from dmtool.cli.failures import CONCISE, STDIN, TABLE
from dmtool.cli.session import MAJOR, Device, Failed, Session
from dmtool.cli.show import show_changed
from dmtool.client import working_directory

# The read-ahead of a device for which none was asked, in sectors.
DEFAULT_READ_AHEAD = 256


def create(session: Session, operands: list[str]) -> None:
    """``create NAME [FILE]`` and ``create --concise [SPEC]``."""
    if "concise" in session.switches:
        _create_all(session, operands)
        return
    if not operands:
        raise Failed("Please provide a name for the new device.")
    switches = session.switches
    name = new_device_name(session, operands[0])
    uuid = switches.value("uuid")
    uuid = "" if uuid is None else session.named(session.naming.uuid, uuid)
    notable = "notable" in switches
    text, source = (None, "") if notable else read_table(session, operands[1:])
    number = (switches.number("major"), switches.number("minor"))
    _create_one(session, Device(name, uuid, *number), text, source, "readonly" in switches)


def new_device_name(session: Session, name: str) -> str:
    """The mangled form of a name for a new device."""
    if "/" in name:
        raise Failed(f'Name "{name}" invalid. It contains "/".')
    return session.named(session.naming.device, name)


def _create_one(
    session: Session, device: Device, text: str | None, source: str, readonly: bool
) -> None:
    """DEV_CREATE, TABLE_LOAD and resume. ``device``: what the new one is to be called."""
    from dmtool.client import ClientError

    switches = session.switches
    device.check()
    try:
        info = session.client.call(
            "create",
            name=device.name,
            uuid=device.uuid,
            minor=None if device.minor is None or device.minor < 0 else device.minor,
            readonly=readonly,
            table=text,
            source=source,
            cwd=working_directory(),
            read_ahead=read_ahead(session),
            mode=switches.mode(),
            uid=_id(switches.number("uid")),
            gid=_id(switches.number("gid")),
        )
    except ClientError as error:
        session.fail(None, device, error)
    show_changed(session, info)


def _id(number: int | None) -> int | None:
    """A uid or gid as the unsigned number that C makes of it."""
    return None if number is None else number & 0xFFFFFFFF


def read_ahead(session: Session) -> int | None:
    """``--readahead`` in sectors, None to leave it at the default."""
    wanted = session.switches.readahead()
    if wanted is None or wanted.sectors is None:
        return None
    return max(wanted.sectors, DEFAULT_READ_AHEAD) if wanted.minimum else wanted.sectors


def load(session: Session, operands: list[str]) -> None:
    """``load DEVICE [FILE]``, also called ``reload``."""
    switches = session.switches
    if "notable" in switches:
        raise Failed("--notable only available when creating new device.")
    if "uuid" in switches or "major" in switches:
        if len(operands) > 1:
            raise Failed("Too many command line arguments.")
        names, files = [], operands
    else:
        if not operands:
            raise Failed("Please specify device.")
        names, files = operands[:1], operands[1:]
    device = session.device(names)
    text, source = read_table(session, files)
    info = session.ioctl(
        "reload",
        device,
        "load",
        table=text,
        source=source,
        cwd=working_directory(),
        readonly="readonly" in switches,
    )
    show_changed(session, info)


def read_table(session: Session, files: list[str]) -> tuple[str, str]:
    """The text of a table and how errors call it: ``--table``, else the file, else stdin."""
    text = session.switches.value("table")
    if text is not None:
        return text, TABLE
    if files:
        return read_file(files[0]), files[0]
    return read_stdin(), STDIN


def read_file(path: str) -> str:
    """A table's text. Its bytes need not be UTF-8."""
    try:
        with open(path, "rb") as file:
            return _decoded(file.read())
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise Failed(f"Couldn't open '{path}' for reading.", f"{path}: {why}") from None


def read_stdin() -> str:
    """All of standard input, from a terminal too."""
    try:
        return _decoded(sys.stdin.buffer.read())
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise Failed(f"Read from stdin aborted: {why}") from None


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _create_all(session: Session, operands: list[str]) -> None:
    """``create --concise``: devices in order, up to the first that fails."""
    from dmtool.cli.concise import ConciseError, entries

    switches = session.switches
    if {"table", "minor", "uuid", "notable", "inactive"} & switches.given().keys():
        raise Failed("--concise is incompatible with --[no]table, --minor, --uuid and --inactive.")
    if len(operands) > 1:
        raise Failed("dmsetup create --concise takes at most one argument")
    text = operands[0] if operands else read_stdin()
    try:
        for entry in entries(text):
            name = new_device_name(session, entry.name)
            uuid = session.named(session.naming.uuid, entry.uuid) if entry.uuid else ""
            numbered = entry.minor is not None and entry.minor >= 0
            device = Device(name, uuid, MAJOR if numbered else None, entry.minor)
            readonly = entry.readonly or "readonly" in switches
            _create_one(session, device, entry.table, CONCISE, readonly)
    except ConciseError as error:
        raise Failed(*error.args) from None
