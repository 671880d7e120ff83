# SPDX-License-Identifier: Apache-2.0
"""``daemon run|status|stop``: the core process itself."""

from __future__ import annotations

import errno
import os
import time

from dmtool.cli.session import Failed, Session
from dmtool.errors import CoreError


def daemon(session: Session, operands: list[str]) -> None:
    """``daemon ACTION``."""
    action = _ACTIONS.get(operands[0])
    if action is None:
        raise Failed(f"Unknown action: {operands[0]}. It is one of {', '.join(_ACTIONS)}.")
    action(session)


def _run(session: Session) -> None:
    """Become the core process, in the foreground."""
    from dmtool.client.start import core_command, core_environment

    directory = session.client.directory
    directory.prepare()
    command = core_command(directory)
    session.flush()
    os.execve(command[0], command, core_environment())


def _status(session: Session) -> None:
    """What runs; exit status 1 if nothing does. Starts no core."""
    from dmtool.client import Client

    with Client(start=False) as client:
        try:
            state = client.call("daemon_status")
        except CoreError as error:
            if error.errno != errno.ECONNREFUSED:
                raise
            session.status = 1
            if session.json:
                session.put_json(running=False, directory=client.directory.path)
            else:
                session.out(f"not running ({client.directory.path})\n")
            return
    if session.json:
        session.put_json(running=True, **state)
        return
    from tabulate import tabulate

    from dmtool.cli.format import PLAIN
    from dmtool.cli.versions import PARTS

    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state["started"]))
    rows = [
        ("process", state["pid"]),
        ("directory", state["directory"]),
        ("devices", state["devices"]),
        ("connections", state["connections"]),
        *((title, state.get(part, "")) for part, title in PARTS.items()),
        ("started", started),
    ]
    text = tabulate(rows, tablefmt=session.format or PLAIN, disable_numparse=True)
    session.out(text + "\n")


def _stop(_session: Session) -> None:
    """End the core; no error if none runs. Returns when it has let go of everything."""
    from dmtool.client import Client

    with Client(start=False) as client:
        try:
            client.call("stop")
        except CoreError as error:
            if error.errno != errno.ECONNREFUSED:
                raise
            return
        client.wait_for_end()


_ACTIONS = {"run": _run, "status": _status, "stop": _stop}
