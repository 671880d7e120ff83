# SPDX-License-Identifier: Apache-2.0
"""check and explain: what is wrong with a table, and where a sector is."""

from __future__ import annotations

from typing import Any

from dmtool.cli.clib import strtoull
from dmtool.cli.create import read_file, read_stdin
from dmtool.cli.failures import STDIN, TABLE, cause_lines
from dmtool.cli.session import Failed, Session
from dmtool.client import working_directory


def check(session: Session, operands: list[str]) -> None:
    """``check [FILE]``: every error of a table, and exit status 1 if there is one."""
    given = session.switches.value("table")
    if given is not None:
        text, source = given, TABLE
    elif operands and operands[0] != "-":
        text, source = read_file(operands[0]), operands[0]
    else:
        text, source = read_stdin(), STDIN
    answer = session.client.call(
        "check",
        table=text,
        source=source,
        cwd=working_directory(),
        readonly="readonly" in session.switches,
    )
    session.status = 0 if answer["ok"] else 1
    if session.json:
        session.put_json(**answer)
        return
    for cause in answer["errors"]:
        session.error(*cause_lines(cause))


def explain(session: Session, operands: list[str]) -> None:
    """``explain DEVICE SECTOR[+COUNT]``."""
    named = "uuid" in session.switches or "major" in session.switches
    device = session.device([] if named else operands[:1])
    rest = operands if named else operands[1:]
    if len(rest) != 1:
        raise Failed("Please specify a device and a sector.")
    first, plus, number = rest[0].partition("+")
    sector, count = strtoull(first), strtoull(number) if plus else 1
    if sector is None or count is None:
        raise Failed("Invalid sector.")
    pieces = session.ioctl("explain", device, "explain", sector=sector, count=count)
    if session.json:
        session.put_json(pieces=[_named(session, piece) for piece in pieces])
        return
    from dmtool.cli.format import PIECES

    session.add_rows(PIECES, *(_row(session, piece) for piece in pieces))


def _named(session: Session, piece: dict[str, Any]) -> dict[str, Any]:
    """A piece for JSON, with names as people see them."""
    path = [{**step, "device": session.shown(step["device"])} for step in piece["path"]]
    return {**piece, "path": path}


def _row(session: Session, piece: dict[str, Any]) -> tuple[str, ...]:
    way = " > ".join(f"{session.shown(s['device'])}:{s['sector']}" for s in piece["path"])
    where = str(piece["name"]) if piece["offset"] is not None else f"({piece['kind']})"
    offset = "" if piece["offset"] is None else str(piece["offset"])
    return str(piece["start"]), str(piece["length"]), str(piece["type"]), way, where, offset
