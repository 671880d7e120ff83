# SPDX-License-Identifier: Apache-2.0
"""What can be asked over the control socket: docs/control-protocol.md, a function a method."""

from __future__ import annotations

import inspect
import os
import select
from typing import TYPE_CHECKING, Any

import dmtool
from dmtool.backing import Backing
from dmtool.btree import INDEX
from dmtool.core.call import Call, Number32, Path, method
from dmtool.core.control import ENDING, NO_METHOD, Peer, ProtocolError
from dmtool.core.entry import Entry, Reference
from dmtool.core.entry import info as told
from dmtool.core.looking import areas as areas_of
from dmtool.core.looking import outlined
from dmtool.core.news import send
from dmtool.core.stack import explain as explained
from dmtool.core.state import READ_AHEAD, Definition
from dmtool.core.step import step
from dmtool.device.meter import METER
from dmtool.errors import DmtoolError
from dmtool.export.nbd.lane import LANE
from dmtool.table import check as checked
from dmtool.table.columns import COLUMNS
from dmtool.targets.registry import TARGETS

if TYPE_CHECKING:
    from dmtool.core.process import Core

PROTOCOL = 1
DRIVER = "4.48.0"  # the version of the device-mapper ioctls that this behaves as

# Which of the parts that there are in C are.
IN_USE = {"index": INDEX, "meter": METER, "columns": COLUMNS, "lane": LANE}

Info = dict[str, Any]


class Methods:
    """The methods of one core.

    Threads: any; one a control connection.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._calls: dict[str, Call] = {}
        for name, function in inspect.getmembers(self, inspect.ismethod):
            call = Call.of(function)
            if call is not None:
                self._calls[name.rstrip("_")] = call

    def call(self, peer: Peer, name: str, params: dict[str, Any]) -> Any:
        """Call a method. Raises ProtocolError for what is no good call, CommandFailed."""
        found = self._calls.get(name)
        if found is None:
            raise ProtocolError(NO_METHOD, f"no method {name!r}")
        given = found.check(name, params)
        if "peer" in found.parameters:
            given["peer"] = peer
        with self._core.devices.settling.command(), step(found.word):
            return found.function(**given)

    # -- the core -----------------------------------------------------------------------------

    @method("version")
    def version(self) -> Info:
        return {
            "dmtool": dmtool.__version__,
            "protocol": PROTOCOL,
            "driver": DRIVER,
            **IN_USE,
            "pid": os.getpid(),
            "directory": self._core.directory.path,
        }

    @method("targets")
    def targets(self) -> list[Info]:
        # a plugin that was installed since the core started is found
        TARGETS.forget()
        return [_target(name) for name in TARGETS.names()]

    @method("daemon_status")
    def daemon_status(self) -> Info:
        return {
            "pid": os.getpid(),
            "directory": self._core.directory.path,
            "devices": len(self._core.devices),
            "connections": self._core.connections,
            **IN_USE,
            "started": self._core.started,
        }

    @method("stop")
    def stop(self) -> Info:
        self._core.request_stop()
        return {}

    # -- making and removing devices ----------------------------------------------------------

    @method("create")
    def create(
        self,
        *,
        name: str,
        uuid: str = "",
        minor: int | None = None,
        readonly: bool = False,
        table: str | None = None,
        source: str = "",
        cwd: Path = "/",
        read_ahead: Number32 | None = None,
        mode: Number32 | None = None,
        uid: Number32 | None = None,
        gid: Number32 | None = None,
    ) -> Info:
        definition = Definition(
            minor=0,
            name=name,
            uuid=uuid,
            read_ahead=READ_AHEAD if read_ahead is None else read_ahead,
            mode=mode,
            uid=uid,
            gid=gid,
        )
        return told(
            self._core.tables.create(definition, minor, table or "", source, cwd, readonly=readonly)
        )

    @method("remove")
    def remove(
        self, peer: Peer, *, device: Reference, force: bool = False, deferred: bool = False
    ) -> Info:
        return self._core.tables.remove(
            device, force=force, deferred=deferred, client_fd=peer.fileno()
        )

    @method("remove_all")
    def remove_all(self, *, force: bool = False, deferred: bool = False) -> Info:
        return {"left": self._core.tables.remove_all(force=force, deferred=deferred)}

    @method("rename")
    def rename(self, *, device: Reference, new_name: str) -> Info:
        return told(self._core.devices.rename(device, new_name))

    @method("rename")
    def set_uuid(self, *, device: Reference, uuid: str) -> Info:
        return told(self._core.devices.set_uuid(device, uuid))

    # -- tables -------------------------------------------------------------------------------

    @method("reload")
    def load(
        self,
        *,
        device: Reference,
        table: str,
        source: str = "",
        cwd: Path = "/",
        readonly: bool = False,
    ) -> Info:
        return told(self._core.tables.load(device, table, source, cwd, readonly=readonly))

    @method("clear")
    def clear(self, *, device: Reference) -> Info:
        return told(self._core.tables.clear(device))

    @method("suspend")
    def suspend(
        self, peer: Peer, *, device: Reference, noflush: bool = False, nolockfs: bool = False
    ) -> Info:
        client = peer.fileno()
        return told(self._core.tables.suspend(device, noflush=noflush, client_fd=client))

    @method("resume")
    def resume(
        self,
        peer: Peer,
        *,
        device: Reference,
        noflush: bool = False,
        nolockfs: bool = False,
        read_ahead: Number32 | None = None,
        event_nr: int | None = None,
        durable: bool = False,
    ) -> Info:
        return told(
            self._core.tables.resume(
                device,
                noflush=noflush,
                read_ahead=read_ahead,
                client_fd=peer.fileno(),
                event_nr=event_nr,
                durable=durable,
            )
        )

    @method("table")
    def wipe(
        self, peer: Peer, *, device: Reference, noflush: bool = False, nolockfs: bool = False
    ) -> Info:
        client = peer.fileno()
        return told(self._core.tables.wipe(device, noflush=noflush, client_fd=client))

    @method("table")
    def table(
        self,
        *,
        device: Reference,
        inactive: bool = False,
        target: str | None = None,
        noflush: bool = False,
        text: bool = False,
    ) -> Info:
        return self._lines("table", device, inactive, target, text)

    @method("status")
    def status(
        self,
        *,
        device: Reference,
        inactive: bool = False,
        target: str | None = None,
        noflush: bool = False,
        text: bool = False,
    ) -> Info:
        return self._lines("status", device, inactive, target, text)

    @method("deps")
    def deps(self, *, device: Reference, inactive: bool = False) -> Info:
        entry = self._core.devices.find(device)
        below = entry.device.inactive if inactive else entry.device.live
        backings = below.backings if below else []
        # the kernel puts a device that a table opens at the head of its list
        return {"info": told(entry), "deps": [self._dependency(b) for b in reversed(backings)]}

    @method("table")
    def outline(
        self, *, device: Reference, inactive: bool = False, parts: int = 64, runs: int = 64
    ) -> Info:
        entry = self._core.devices.find(device)
        found = outlined(entry, parts, runs, self._dependency, inactive=inactive)
        return {"info": told(entry), **found}

    @method("deps")
    def areas(self, *, device: Reference, inactive: bool = False) -> Info:
        entry = self._core.devices.find(device)
        return {"info": told(entry), **areas_of(entry, self._dependency, inactive=inactive)}

    @method("reload")
    def check(
        self, *, table: str, source: str = "", cwd: Path = "/", readonly: bool = False
    ) -> Info:
        resolver = self._core.tables.resolver(None, readonly=readonly)
        found = checked(table, source=source, cwd=cwd, readonly=readonly, devices=resolver)
        return {
            "ok": not found.errors,
            "errors": [error.as_dict() for error in found.errors],
            "targets": found.targets,
            "size": found.sectors,
        }

    # -- looking ------------------------------------------------------------------------------

    @method("info")
    def info(self, *, device: Reference) -> Info:
        return told(self._core.devices.find(device))

    @method("names")
    def list_(self) -> list[Info]:
        return [told(entry) for entry in self._core.devices.all()]

    @method("info")
    def uri(self, *, device: Reference) -> Info:
        from urllib.parse import quote

        name = self._core.devices.find(device).device.name
        # NBD's URI specification: the export name is the path without its first slash
        path = quote(os.fsencode(name), safe="")
        socket = quote(os.fsencode(self._core.directory.nbd), safe="/")
        return {"uri": f"nbd+unix:///{path}?socket={socket}"}

    @method("info")
    def path(self, *, device: Reference) -> Info:
        name = self._core.devices.find(device).device.name
        return {"path": os.path.join(self._files()["mapper"], name)}

    @method("info")
    def mount_point(self) -> Info:
        files = self._files()
        self._core.stays = True
        return files

    def _files(self) -> Info:
        files = self._core.files()
        directory = self._core.directory.path
        return {"directory": directory, "mapper": str(files.mapper), "control": str(files.control)}

    @method("table")
    def explain(self, *, device: Reference, sector: int, count: int = 1) -> list[Info]:
        return explained(self._core.devices.find(device).device, sector, count)

    # -- events and messages ------------------------------------------------------------------

    @method("message")
    def message(self, *, device: Reference, sector: int, message: str) -> Info:
        return {"response": self._core.tables.message(device, sector, message)}

    @method("waitevent")
    def wait(self, peer: Peer, *, device: Reference, event_nr: int = 0) -> Info:
        entry = self._core.devices.find(device)
        fd = entry.device.watch()
        try:
            return _waited(entry, event_nr, fd, peer)
        finally:
            entry.device.unwatch(fd)

    @method("waitevent")
    def events(self, peer: Peer, *, device: Reference | None = None) -> Info:
        send(self._core.devices, device, peer)
        return {}

    def _lines(
        self, what: str, device: Reference, inactive: bool, target: str | None, text: bool
    ) -> Info:
        entry = self._core.devices.find(device)
        if text:
            lines = self._core.tables.text(entry, what, inactive=inactive, type=target)
            return {"info": told(entry), "text": lines}
        found = self._core.tables.lines(entry, what, inactive=inactive, type=target)
        return {
            "info": told(entry),
            "targets": [
                {"start": begin, "length": length, "type": type, "params": params}
                for begin, length, type, params in found
            ],
        }

    def _dependency(self, backing: Backing) -> Info:
        major, minor = backing.devno or (None, None)
        path: str | None = None
        name = str(getattr(backing, "name", backing))
        if backing.kind == "file":
            path = name = str(getattr(backing, "path", name))
        elif backing.kind == "dm" and minor is not None:
            with self._core.devices.lock:
                entry = self._core.devices.by_minor(minor)
                name = entry.device.name if entry else name
        elif os.path.exists(f"/dev/{name}"):
            path = f"/dev/{name}"
        return {"kind": backing.kind, "path": path, "major": major, "minor": minor, "name": name}


def _target(name: str) -> Info:
    try:
        type = TARGETS[name]
    except DmtoolError as error:
        return {
            "name": name,
            "version": [0, 0, 0],
            "distribution": "",
            "module": "",
            "error": str(error),
        }
    return {
        "name": type.name,
        "version": list(type.version),
        "distribution": type.distribution,
        "module": type.module,
        "error": None,
    }


def _waited(entry: Entry, event_nr: int, fd: int, peer: Peer) -> Info:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(peer.ending_fd, select.POLLIN)
    # POLLHUP only, which is always told: the next request may be waiting already, and a client
    # that has no more of them may have closed its sending side
    poll.register(peer.fileno(), 0)
    now = told(entry)
    while not entry.removed:
        now = told(entry)
        if now["event_nr"] != event_nr:
            break
        ready = {number for number, _ in poll.poll()}
        if peer.fileno() in ready or peer.ending_fd in ready:
            raise ProtocolError(ENDING, "the core is ending, or the client has gone")
        os.eventfd_read(fd)
    return now
