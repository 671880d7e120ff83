# SPDX-License-Identifier: Apache-2.0
"""targets, target-version and version: what is installed."""

from __future__ import annotations

import errno
from typing import Any

from dmtool.cli.session import Device, Failed, Session

# The libdevmapper whose ways these are; scripts compare it.
LIBRARY_VERSION = "1.02.185 (2022-05-18)"
# What there is in C and in Python: as a core tells which is in use, and as we do.
PARTS = {
    "index": "sector index",
    "meter": "I/O counters",
    "columns": "plain tables",
    "lane": "NBD requests",
}


def targets(session: Session, _operands: list[str]) -> None:
    """``targets``: the target types, the newest registration first."""
    _show(session, session.client.call("targets"))


def target_version(session: Session, operands: list[str]) -> None:
    """``target-version TYPE...``."""
    from dmtool.cli.failures import ioctl_line

    for name in operands:
        found = [t for t in session.client.call("targets") if t["name"] == name]
        if not found or found[0].get("error"):
            reason = [str(found[0]["error"])] if found else []
            line = ioctl_line("target-version", Device(name=name), errno.EINVAL, None)
            raise Failed(line, *reason)
        _show(session, found[:1])


def _show(session: Session, found: list[dict[str, Any]]) -> None:
    if session.json:
        session.add_json("targets", *found)
        return
    for target in found:
        if session.format is not None:
            from dmtool.cli.format import TYPES

            session.add_rows(TYPES, _row(target))
        elif target.get("error"):
            session.error(f"{target['name']}: {target['error']}")
        else:
            session.out("{:<16} v{}.{}.{}\n".format(target["name"], *target["version"]))


def _row(target: dict[str, Any]) -> tuple[str, ...]:
    version = ".".join(map(str, target["version"]))
    return str(target["name"]), version, str(target["distribution"]), str(target["error"] or "")


def version(session: Session, _operands: list[str]) -> None:
    """``version``: two lines as dmsetup's, and under our own name what is running."""
    from dmtool.cli.usage import is_dmsetup

    if not session.json:
        session.out(f"Library version:   {LIBRARY_VERSION}\n")
    core = session.client.call("version")
    if session.json:
        session.put_json(library=LIBRARY_VERSION.split(maxsplit=1)[0], **core)
        return
    session.out(f"Driver version:    {core['driver']}\n")
    if not is_dmsetup(session.prog):
        session.out(f"dmtool version:    {core['dmtool']}\n")
        for part, title in PARTS.items():
            if part in core:  # a core that runs since before an upgrade may not tell
                session.out(f"{title[0].upper() + title[1:] + ':':<18} {core[part]}\n")
