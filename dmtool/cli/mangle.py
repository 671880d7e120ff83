# SPDX-License-Identifier: Apache-2.0
"""``mangle``: names that were made in mode ``none``, brought into the form of another mode."""

from __future__ import annotations

from typing import Any

from dmtool.cli import naming
from dmtool.cli.session import Device, Failed, Session
from dmtool.names import NAME_MAX, UUID_MAX, unmangle

_TWICE = "\\x5cx"


def mangle_one(session: Session, info: dict[str, Any]) -> None:
    """Check one device's name and uuid as the core has them, and rename it if need be."""
    name, uuid = info["name"], info["uuid"]
    mode = (session.switches.value("manglename") or "auto").lower()
    if mode == "auto":
        _once(name, "name", "rename the device")
        _once(uuid, "UUID", "correct the device UUID")
    if mode == "none":
        new_name, new_uuid = unmangle(name), unmangle(uuid)
    else:
        # libdm works in mode none here, in which mangling means auto
        new_name = _mangled(name, "name", NAME_MAX)
        new_uuid = _mangled(uuid, "UUID", UUID_MAX)
    if new_uuid != uuid:
        raise Failed(
            f"{name}: {uuid}: UUID in incorrect form. ",
            "Unable to change device UUID. The device must be deactivated first.",
        )
    if session.json:
        session.add_json("devices", {"name": name, "new_name": new_name})
    elif new_name == name:
        known = f"{uuid}: name and UUID" if uuid else "[no UUID]: name"
        session.out(f"{name}: {known} already in correct form\n")
    else:
        session.out(f"{name}: renaming to {new_name}\n")
    if new_name != name:
        session.ioctl("rename", Device(name=name), "rename", new_name=new_name)


def _once(text: str, what: str, remedy: str) -> None:
    if _TWICE in text:
        raise Failed(
            f'The {what} "{text}" seems to be mangled more than once. '
            f"Manual intervention required to {remedy}."
        )


def _mangled(text: str, what: str, limit: int) -> str:
    try:
        return naming.mangle(text, what, limit, "auto")
    except naming.BadName as error:
        kind = "name" if what == "name" else "uuid"
        raise Failed(*error.args, f'Failed to mangle device {kind} "{text}".') from None
