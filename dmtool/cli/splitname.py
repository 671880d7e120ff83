# SPDX-License-Identifier: Apache-2.0
"""The parts of an LVM device's name: volume group, logical volume, layer (lvm2's dm_split_lvm_name).

They are joined by single hyphens; a hyphen of a part itself is doubled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dmtool.cli.session import Session

LVM = "LVM"


class Parts(NamedTuple):
    """What ``splitname`` and the splitname columns show; all but subsystem "" outside LVM."""

    subsystem: str
    vg: str = ""
    lv: str = ""
    layer: str = ""


def split(name: str, subsystem: str) -> Parts:
    """The parts of ``name``, if its subsystem is LVM."""
    if subsystem != LVM:
        return Parts(subsystem)
    vg, rest = _component(name)
    lv, rest = _component(rest)
    layer, _ = _component(rest)
    return Parts(subsystem, vg, lv, layer)


def subsystem_of(uuid: str) -> str:
    """The subsystem that a uuid names: what is before its first hyphen."""
    head, hyphen, _ = uuid.partition("-")
    return head if hyphen else ""


def _component(text: str) -> tuple[str, str]:
    """The first component, un-doubled, and what follows its hyphen. A last hyphen is no joint."""
    part = ""
    place = 0
    while place < len(text):
        if text[place] == "-" and place + 1 < len(text):
            if text[place + 1] != "-":
                return part, text[place + 1 :]
            place += 1
        part += text[place]
        place += 1
    return part, ""


def splitname(session: Session, operands: list[str]) -> None:
    """``splitname NAME [SUBSYSTEM]``: the parts of an LVM name, as a report."""
    from dmtool.cli.rows import NameRow

    parts = split(operands[0], operands[1] if len(operands) > 1 else LVM)
    if session.json:
        session.put_json(**parts._asdict())
        return
    assert session.report is not None
    session.report.add(NameRow(session, parts))
