# SPDX-License-Identifier: Apache-2.0
"""What surrounds the work of a command: its report, and what is printed once at the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from dmtool.cli.commands import Command
from dmtool.cli.session import Session


def prepare(session: Session, command: Command) -> bool:
    """Set up the report where the command line asks for one; False if it cannot be had."""
    switches = session.switches
    if command.own or command.name in {"help", "version"} or session.json:
        return True
    reports = command.name == "splitname" or "columns" in switches
    if "select" in switches and (command.select or reports):
        session.error("--select is not supported yet.")
        return False
    if not reports:
        return True
    from dmtool.cli.report import Report, ReportError

    try:
        session.report = Report(session, command.name)
    except ReportError as error:
        session.error(*error.args)
        return False
    return True


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
    if session.document is not None:
        import json

        session.out(json.dumps(session.document, indent=2) + "\n")
