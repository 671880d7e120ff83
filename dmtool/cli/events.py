# SPDX-License-Identifier: Apache-2.0
"""``events``: what happens to devices, a line each, until ^C."""

from __future__ import annotations

import errno
import json
import sys
from typing import Any

from dmtool.cli.session import Session
from dmtool.client import ClientError
from dmtool.client.follow import Arrival, CoreGone, Follower
from dmtool.errors import CoreError

Event = dict[str, Any]


def events(session: Session, operands: list[str]) -> None:
    """``events [DEVICE]``: until the device is removed; of all devices, until ^C."""
    device = session.maybe_device(operands)
    params: dict[str, Any] = {}
    if device is not None:
        # by its number: its name may become another
        info = session.ioctl("waitevent", device, "info")
        session.client.close()
        params = {"device": {"minor": info["minor"]}}
    Events(session, params).run()


class Events:
    """One run of the command; follows whichever core has the directory."""

    def __init__(self, session: Session, params: dict[str, Any]) -> None:
        self._session = session
        self._params = params
        self._output = sys.stdout.fileno()
        self._known: dict[int, tuple[str, int]] = {}  # by minor: name and last event
        self._told = False  # that there is no core

    def run(self) -> None:
        # a device that is followed was there a moment ago; nobody's core is started for all others
        with Follower(start=False, reader=self._output) as follower:
            while first := self._begin(follower):
                self._first(first)
                try:
                    while (event := follower.next()) is not None:
                        self._tell(event)
                except CoreGone:
                    self._no_core("-- the core process has ended")
                    continue
                if follower.finished:
                    return
                raise BrokenPipeError

    def _begin(self, follower: Follower) -> Event | None:
        """Follow the core that runs, or that comes. None: the device is gone."""
        with Arrival(follower.directory) as arrival:
            while True:
                try:
                    return follower.begin(**self._params)
                except ClientError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    ((name, _),) = self._known.values()
                    shown = self._session.shown(name)
                    self._say({"event": "gone", **self._names(name)}, f"-- {shown} is gone")
                    return None
                except CoreError as error:
                    if error.errno != errno.ECONNREFUSED:
                        raise
                self._no_core("-- no core process runs")
                if not arrival.wait(self._output):
                    raise BrokenPipeError

    def _no_core(self, text: str) -> None:
        if not self._told:
            self._told = True
            self._say({"event": "no_core"}, text)

    def _first(self, first: Event) -> None:
        self._told = False
        devices = first["devices"]
        number = len(devices)
        text = f"-- following {number} device{'s' * (number != 1)}"
        if self._params:
            (info,) = devices
            text = f"-- following {self._session.shown(info['name'])} from event {info['event_nr']}"
        told = [{**self._names(one["name"]), **_numbers(one)} for one in devices]
        self._say({"event": "follow", "devices": told}, text)
        before, self._known = self._known, {}
        for info in devices:
            name, event_nr = info["name"], info["event_nr"]
            self._known[info["minor"]] = name, event_nr
            last = before.get(info["minor"], (name, event_nr))[1]
            if last < event_nr:
                shown = self._session.shown(name)
                numbers = {**self._names(name), **_numbers(info), "last": last}
                words = f"-- {shown}: {event_nr - last} events up to {event_nr} were missed"
                self._say({"event": "missed", **numbers}, words)

    def _tell(self, event: Event) -> None:
        kind, name = event["kind"], event["name"]
        self._known[event["minor"]] = name, event["event_nr"]
        if kind == "remove":
            self._known.pop(event["minor"])
        words = [kind]
        more: Event = {}
        if kind == "target":
            more = {key: event[key] for key in ("type", "sector", "what")}
            words = [event["type"], event["what"] or "event"]
        elif kind == "rename":
            old = self._session.shown(event["old_name"])
            more = {"old_name": old}
            words = ["renamed from", old]
        elif kind == "uuid":
            words = ["uuid", self._session.shown(event["uuid"], "UUID")]
        line = f"{self._session.shown(name)}: {event['event_nr']} {' '.join(words)}"
        uuid = self._session.shown(event["uuid"], "UUID")
        self._say(
            {"event": kind, **self._names(name), "uuid": uuid, **_numbers(event), **more}, line
        )

    def _names(self, mangled: str) -> Event:
        return {"name": self._session.shown(mangled), "mangled_name": mangled}

    def _say(self, document: Event, text: str) -> None:
        if self._session.json:
            text = json.dumps({"version": 1, **document})
        self._session.out(text + "\n")
        self._session.flush()


def _numbers(one: Event) -> Event:
    return {key: one[key] for key in ("major", "minor", "event_nr")}
