# SPDX-License-Identifier: Apache-2.0
"""Commands that show devices: table, status, info, deps."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

from dmtool.cli.command import Function
from dmtool.cli.session import Device, Failed, Session

_ABSENT = "Device does not exist."
_QUOTED = frozenset(",;\\")


def each(
    session: Session, operands: list[str], *, silent: bool = False
) -> Iterator[tuple[Device, dict[str, Any] | None]]:
    """The devices that a command is about: the one that is named (without info), else all."""
    device = session.maybe_device(operands)
    if device is not None:
        yield device, None
        return
    infos = session.client.call("list")
    if not infos and not silent and not session.json:
        session.out("No devices found\n")
    for info in infos:
        yield Device(name=info["name"]), info


def info(session: Session, operands: list[str]) -> None:
    """``info [DEVICE...]``, in the long form, as rows of a report, or as JSON."""
    if session.json:
        session.add_json("devices")
    one_by_one(session, operands, _info)


def _info(session: Session, device: Device, known: dict[str, Any] | None) -> None:
    found = known or present(session, device, "info")
    if session.report is not None:
        from dmtool.cli.rows import rows

        found_rows = rows(session, found)
        if session.json:
            if any(map(session.report.selects, found_rows)):
                session.add_json("devices", _described(session, found))
        else:
            for row in found_rows:
                session.report.add(row)
    elif session.json:
        session.add_json("devices", _described(session, found))
    else:
        show_info(session, found)


def selected(session: Session, operands: list[str], function: Function) -> None:
    """``-S`` of a command that is no report: ``function`` is called for each selected device."""

    def consider(session: Session, device: Device, known: dict[str, Any] | None) -> None:
        from dmtool.cli.rows import rows

        assert session.report is not None
        found = known or present(session, device, "info")
        if any(map(session.report.selects, rows(session, found))):
            function(session, [session.shown(found["name"])])

    session.many = True
    one_by_one(session, operands, consider)


def one_by_one(
    session: Session,
    operands: list[str],
    show: Callable[[Session, Device, dict[str, Any] | None], None],
) -> None:
    """``show`` for each device; of all devices the rest are shown though one fails."""
    failed = False
    for device, known in each(session, operands):
        try:
            show(session, device, known)
        except Failed as failure:
            session.fault(*failure.args)
            failed = True
    if failed:
        raise Failed


def present(session: Session, device: Device, word: str) -> dict[str, Any]:
    """The info of a device; it is one of the commands that say plainly that there is none."""
    from dmtool.client import ClientError

    try:
        found: dict[str, Any] = session.ask(device, "info")
    except ClientError as error:
        if error.errno == errno.ENXIO:
            raise Failed(_ABSENT) from None
        session.fail(word, device, error)
    return found


def show_info(session: Session, info: dict[str, Any]) -> None:
    """The block of lines that ``info`` and ``-v`` show; or the device for JSON."""
    switches = session.switches
    if session.json:
        session.add_json("devices", _described(session, info))
        return
    inactive = "inactive" in switches
    live, loaded = bool(info["live"]), bool(info["inactive"])
    readonly = info["inactive_readonly" if inactive else "readonly"]
    state = "SUSPENDED" if info["suspended"] else "ACTIVE"
    state += " (READ-ONLY)" if readonly else ""
    state += " (DEFERRED REMOVE)" if info["deferred_remove"] else ""
    tables = " & ".join(word for word, has in (("LIVE", live), ("INACTIVE", loaded)) if has)
    lines = [("Name:", session.shown(info["name"])), ("State:", state)]
    # A kernel device without any table has no node, and so no read-ahead that could be asked.
    if live or loaded:
        lines.append(("Read Ahead:", str(info["read_ahead"])))
    lines.append(("Tables present:", tables or "None"))
    lines += [
        # with --noopencount too: kernels have long ignored that wish
        ("Open count:", str(info["open_count"])),
        ("Event number:", str(info["event_nr"])),
        ("Major, minor:", f"{info['major']}, {info['minor']}"),
        ("Number of targets:", str(info["inactive_target_count" if inactive else "target_count"])),
    ]
    text = "".join(f"{head:<18} {value}\n" for head, value in lines)
    uuid = session.shown(info["uuid"], "UUID")
    session.out(text + (f"UUID: {uuid}\n" if uuid else "") + "\n")
    if info.get("error"):
        session.error(f"{session.shown(info['name'])}: {info['error']}")


def show_changed(session: Session, info: dict[str, Any]) -> None:
    """A device that a command has made or changed, where ``-v`` or ``--json`` asks for it."""
    if session.json or "verbose" in session.switches:
        show_info(session, info)


def _described(session: Session, info: dict[str, Any]) -> dict[str, Any]:
    """An info for JSON: names as people see them, the mangled name beside."""
    return {
        **info,
        "name": session.shown(info["name"]),
        "uuid": session.shown(info["uuid"], "UUID"),
        "mangled_name": info["name"],
        "mangled_uuid": info["uuid"],
    }


def table(session: Session, operands: list[str]) -> None:
    """``table [DEVICE...]``."""
    concise = "concise" in session.switches
    show_targets(session, operands, _table_of, _show_concise if concise else show_lines)


def _table_of(session: Session, device: Device) -> dict[str, Any]:
    switches = session.switches
    hidden = "showkeys" not in switches
    if session.json or session.format is not None or "concise" in switches:
        answer = targets_of(session, device, "table")
        if hidden:
            from dmtool.cli.keys import hide_keys

            hide_keys(answer["targets"])
        return answer
    # there may be millions of targets
    answer = targets_of(session, device, "table", text=True)
    text = answer["text"]
    if hidden and (" crypt " in text or " integrity " in text):
        from dmtool.cli.keys import without_keys

        text = without_keys(text)
    return {**answer, "targets": text}


def status(session: Session, operands: list[str]) -> None:
    """``status [DEVICE...]``."""
    show_targets(session, operands, _status_of, show_lines)


def _status_of(session: Session, device: Device) -> dict[str, Any]:
    if session.json or session.format is not None:
        return targets_of(session, device, "status")
    answer = targets_of(session, device, "status", text=True)
    return {**answer, "targets": answer["text"]}


Ask = Callable[[Session, Device], dict[str, Any]]
# objects, or the lines of them
Targets = list[dict[str, Any]] | str
Show = Callable[[Session, str, dict[str, Any], Any], None]


def show_targets(session: Session, operands: list[str], ask: Ask, show: Show) -> None:
    """What ``ask`` answers of each device's targets, as lines or as JSON, or to be run."""
    if session.json:
        session.add_json("devices")

    def show_one(session: Session, device: Device, _: object) -> None:
        answer = ask(session, device)
        # a name is said as the user said it
        name = operands[0] if operands else session.shown(answer["info"]["name"])
        _show_one(session, name, answer, show)

    one_by_one(session, operands, show_one)


def _show_one(session: Session, name: str, answer: dict[str, Any], show: Show) -> None:
    info, found = answer["info"], answer["targets"]
    if session.json:
        described = {
            "name": session.shown(info["name"]),
            "uuid": session.shown(info["uuid"], "UUID"),
            "major": info["major"],
            "minor": info["minor"],
            "targets": found,
        }
        session.add_json("devices", described)
        return
    silent = "exec" in session.switches and "verbose" not in session.switches
    if not silent:
        show(session, name, info, found)
    if "exec" in session.switches and (found or "target" not in session.switches):
        from dmtool.cli.ls import execute

        execute(session, info["name"])


def targets_of(
    session: Session, device: Device, method: str, *, text: bool = False
) -> dict[str, Any]:
    """What the core says of a device's table: ``{"info", "targets"}``, or "text" for the latter."""
    from dmtool.client import ClientError

    switches = session.switches
    params = {
        "inactive": "inactive" in switches,
        "target": switches.value("target"),
        "noflush": "noflush" in switches,
    }
    if text:
        params["text"] = True
    try:
        answer: dict[str, Any] = session.ask(device, method, **params)
    except ClientError as error:
        # libdm swallows ENXIO for some ioctls, status among them, and not for others
        if method == "status" and error.errno == errno.ENXIO:
            raise Failed(_ABSENT) from None
        session.fail(method, device, error)
    return answer


def show_lines(session: Session, name: str, info: dict[str, Any], found: Targets) -> None:
    """A line for each target; a blank one for a device that has none."""
    verbose = "verbose" in session.switches
    if not found and "target" in session.switches:
        return
    if not isinstance(found, str) and session.format is not None:
        from dmtool.cli.format import TARGETS

        session.add_rows(TARGETS, *(_target_row(name, target) for target in found))
        return
    if verbose:
        show_info(session, info)
    text = found if isinstance(found, str) else "".join(map(target_line, found))
    text = text or "\n"
    start = f"{name}: " if session.many and not verbose else ""
    if start:
        text = start + text[:-1].replace("\n", f"\n{start}") + "\n"
    session.out(text)
    if session.many and verbose:
        session.out("\n")


def _show_concise(
    session: Session, name: str, info: dict[str, Any], found: list[dict[str, Any]]
) -> None:
    """Devices as ``create --concise`` takes them, all on one line."""
    if not found and "target" in session.switches:
        return
    text = ";" if session.concise_shown else ""
    session.concise_shown = True
    uuid = session.shown(info["uuid"], "UUID")
    flags = "ro" if info["readonly"] else "rw"
    text += f"{_quoted_field(name)},{_quoted_field(uuid)},{info['minor']},{flags}"
    for target in found:
        text += f",{target['start']} {target['length']} {target['type']} "
        text += _quoted(target["params"])
    session.out(text)


def _target_row(name: str, target: dict[str, Any]) -> tuple[str, ...]:
    fields = ("start", "length", "type", "params")
    return (name, *(str(target[field]) for field in fields))


def target_line(target: dict[str, Any]) -> str:
    """A target as a line of a table; without parameters there is a blank at its end."""
    return f"{target['start']} {target['length']} {target['type']} {target['params']}\n"


def _quoted(text: str) -> str:
    return "".join("\\" + c if c in _QUOTED else c for c in text)


def _quoted_field(text: str) -> str:
    """White space before a field is skipped by ``create --concise``, unless it is quoted."""
    return ("\\" if text[:1].isspace() else "") + _quoted(text)


def deps(session: Session, operands: list[str]) -> None:
    """``deps [DEVICE...]``: what a device's table stands on."""
    from dmtool.cli.ls import naming

    named = naming(session)
    if session.json:
        session.add_json("devices")

    def show_one(session: Session, device: Device, _: object) -> None:
        _show_deps(session, device, named, operands)

    one_by_one(session, operands, show_one)


def _show_deps(session: Session, device: Device, named: str, operands: list[str]) -> None:
    verbose = "verbose" in session.switches
    inactive = "inactive" in session.switches
    answer = session.ioctl("deps", device, "deps", inactive=inactive)
    info, found = answer["info"], answer["deps"]
    name = session.shown(info["name"])
    if session.json:
        session.add_json("devices", {"name": name, "dependencies": found})
        return
    if session.format is not None:
        from dmtool.cli.format import DEPENDENCIES

        rows = ((name, dep["kind"], _dependency(dep, named), dep["path"] or "") for dep in found)
        session.add_rows(DEPENDENCIES, *rows)
        return
    if verbose:
        show_info(session, info)
    start = f"{operands[0] if operands else name}: " if session.many and not verbose else ""
    words = "".join(f" ({_dependency(dep, named)})" for dep in found)
    session.out(f"{start}{len(found)} dependencies\t:{words}\n")
    if session.many and verbose:
        session.out("\n")


def _dependency(dep: dict[str, Any], named: str) -> str:
    """One dependency by its number or name, mangled; files have a path and no number."""
    if dep["kind"] == "dm" and named == "blkdevname":
        return f"dm-{dep['minor']}"
    if named != "devno" or dep["major"] is None:
        return str(dep["name"])
    return f"{dep['major']}, {dep['minor']}"
