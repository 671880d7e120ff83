# SPDX-License-Identifier: Apache-2.0
"""What surrounds the work of a command: its report, and what is printed once at the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from dmtool.cli.command import Command
from dmtool.cli.session import Session


def prepare(session: Session, command: Command) -> bool:
    """Set up the report where the command line asks for one; False if it cannot be had."""
    switches = session.switches
    if command.own or {"help", "version"} & switches.given().keys():
        return True
    if command.name == "stats":
        from dmtool.cli.stats import prepare as prepare_stats

        return prepare_stats(session)
    # what is selected for a command is what `info -c` would show
    selecting = selects(session, command)
    if _reports(session, command, selecting=selecting) and not _make_report(
        session, "info" if selecting else command.name
    ):
        return False
    return _check_units(session)


def _reports(session: Session, command: Command, *, selecting: bool) -> bool:
    """Whether the command has a report, or what is selected is found out by one."""
    switches = session.switches
    if session.json:
        return selecting or (command.name == "info" and "select" in switches)
    return selecting or command.name == "splitname" or "columns" in switches


def _make_report(session: Session, command: str) -> bool:
    from dmtool.cli.report import Report, ReportError

    try:
        session.report = Report(session, command)
    except ReportError as error:
        session.error(*error.args)
        return False
    return True


def _check_units(session: Session) -> bool:
    """``--units``, which means nothing to most commands but must be right."""
    units = session.switches.value("units")
    if units is not None:
        from dmtool.cli.sizes import Units

        if Units.of(units) is None:
            session.error("Invalid --units argument.")
            return False
    return True


def selects(session: Session, command: Command) -> bool:
    """Whether ``-S`` says which devices a command is run on."""
    return command.select and "select" in session.switches


def repetitions(session: Session) -> Iterator[int]:
    """Once; a report as often as ``--count`` and ``--interval`` say, with a blank line between."""
    switches = session.switches
    count = switches.number("count")
    if session.report is None or session.report.only_help:
        count = 1
    elif count is None:
        count = 0 if "interval" in switches else 1
    interval = switches.number("interval") or 1
    start = time.monotonic()
    for number in itertools.count(1):
        yield number
        if number == count:
            return
        session.out("\n")
        session.flush()
        time.sleep(max(0.0, start + number * interval - time.monotonic()))


def finish(session: Session) -> None:
    """Print what was collected: also after a failure, the devices before it."""
    if session.concise_shown:
        session.out("\n")
    if session.report is not None:
        session.out(session.report.text())
    if session.rows:
        from dmtool.cli.format import PLAIN, formatted

        shown = "noheadings" not in session.switches
        headings, sides = list(session.headings), list(session.headings.values())
        session.out(formatted(session.format or PLAIN, headings, sides, session.rows, shown=shown))
    if session.document is not None:
        import json

        session.out(json.dumps(session.document, indent=2) + "\n")
