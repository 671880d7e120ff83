# SPDX-License-Identifier: Apache-2.0
"""``ls``: names and numbers of devices, a tree of them, or a command run for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from dmtool.cli.getopt import CommandLineError
from dmtool.cli.session import Device, Failed, Session
from dmtool.cli.show import each, targets_of

# Words of a command for --exec, the path behind them not counted.
EXEC_WORDS = 256
NAMINGS = ("devno", "blkdevname", "devname")


def naming_of(options: str) -> str:
    """What ``-o`` of ls and deps says: how devices are named. Raises CommandLineError.

    The last word counts; each may be abbreviated to nothing, as in dmsetup.
    """
    chosen = NAMINGS[0]
    rest = options
    while rest:
        word, _, after = rest.partition(",")
        found = next((naming for naming in NAMINGS if naming.startswith(word)), None)
        if found is None:
            raise CommandLineError(f"Option not recognised: {rest}.")
        chosen, rest = found, after
    return chosen


def naming(session: Session) -> str:
    """How this command names devices; with ``-c`` the words of ``-o`` are a report's columns."""
    if "columns" in session.switches:
        return NAMINGS[0]
    return naming_of(session.switches.value("options") or "")


def ls(session: Session, _operands: list[str]) -> None:
    """``ls``."""
    switches = session.switches
    if session.json:
        session.add_json("devices", *(_described(session, info) for info in _listed(session)))
    elif {"dot", "mermaid"} & switches.given().keys():
        from dmtool.cli.graph import draw

        draw(session)
    elif "target" in switches or "exec" in switches:
        _select(session)
    elif "tree" in switches:
        _tree(session)
    else:
        _list(session)


def _listed(session: Session) -> Iterator[dict[str, Any]]:
    """The infos of all devices, or of those with a target of the type that ``--target`` names."""
    for info in session.client.call("list"):
        device = Device(name=info["name"])
        if "target" not in session.switches or targets_of(session, device, "status")["targets"]:
            yield info


def _described(session: Session, info: dict[str, Any]) -> dict[str, Any]:
    name, uuid = session.shown(info["name"]), session.shown(info["uuid"], "UUID")
    return {"name": name, "uuid": uuid, "major": info["major"], "minor": info["minor"]}


def _put(session: Session, name: str, place: str) -> None:
    """A device in a list, or as a row of a table."""
    if session.format is not None:
        from dmtool.cli.format import DEVICES

        session.add_rows(DEVICES, (name, place))
    else:
        session.out(f"{name}\t({place})\n")


def _list(session: Session) -> None:
    named = naming(session)
    for _, info in each(session, []):
        assert info is not None
        name = session.shown(info["name"])
        place = {
            "devno": f"{info['major']}:{info['minor']}",
            "blkdevname": f"dm-{info['minor']}",
            # out of sysfs, where names are as the kernel has them
            "devname": info["name"],
        }[named]
        _put(session, name, place)


def _select(session: Session) -> None:
    """``--target``, ``--exec``: devices with a target of that type, listed, or handed to a command."""
    switches = session.switches
    for device, _ in each(session, []):
        answer = targets_of(session, device, "status")
        if "target" in switches and not answer["targets"]:
            continue
        info: dict[str, Any] = answer["info"]
        if "exec" not in switches or "verbose" in switches:
            name = session.shown(info["name"])
            _put(session, name, f"{info['major']}, {info['minor']}")
        if "exec" in switches:
            execute(session, info["name"])


def _tree(session: Session) -> None:
    from dmtool.cli.tree import Drawing, Stack, Style

    stack = Stack.of(session)
    style = Style.of(session.switches.value("options"))
    if stack.empty:
        session.out("No devices found\n")
    session.out(Drawing(style).draw(stack.roots(inverted="inverted" in style.words)))


def execute(session: Session, name: str) -> None:
    """Run the command of ``--exec`` for one device, with what it can be opened by behind it.

    That is its file in the mapper directory where there is one, else its NBD URI. As in dmsetup
    nothing is said of a command that fails.
    """
    words = (session.switches.value("exec") or "").split()
    if not words:
        raise Failed
    if len(words) >= EXEC_WORDS:
        raise Failed("Too many args to --exec.")
    path = os.path.join(session.client.directory.mapper, name)
    if not os.path.exists(path):
        path = session.ioctl("info", Device(name=name), "uri")["uri"]
    session.flush()
    try:
        child = os.posix_spawnp(words[0], [*words, path], os.environ)
    except OSError:
        return
    os.waitpid(child, 0)
