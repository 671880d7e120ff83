# SPDX-License-Identifier: Apache-2.0
"""The core is killed while commands make, change and remove devices: what was answered holds."""

from __future__ import annotations

import itertools
import json
import threading
from typing import TYPE_CHECKING

from dmtool.client import Client, ClientError
from dmtool.directory import Directory

if TYPE_CHECKING:
    from tests.clients.conftest import Core

KILLS, THREADS = 5, 3
PATIENCE = 60.0  # seconds
State = tuple[str, int] | None  # of a device: name, and length of its table in sectors; or none


class Maker(threading.Thread):
    """Creates devices, gives them other names and tables, and removes every other one.

    ``possible`` has for each device the states that it may be in: one, after the answer to the
    last request; two, where a core was killed before it answered.
    Threads: after ``join`` everything is the caller's; before, it may look at ``answers``.
    """

    def __init__(self, core: Core, number: int) -> None:
        super().__init__()
        self.possible: dict[str, set[State]] = {}
        self.answers = 0
        self.failures: list[str] = []
        self.kills = 0  # set by who kills, before and after; so it is odd meanwhile
        self.enough = threading.Event()
        self.progress = threading.Condition()
        self._directory = Directory(str(core.path))
        self._number = number

    def run(self) -> None:
        try:
            with Client(self._directory) as client:
                for i in itertools.count():
                    if self.enough.is_set():
                        return
                    self._life(client, f"{self._number}-{i}", short=bool(i % 2))
        except Exception as error:  # noqa: BLE001  # the test that joins looks at it
            self.failures.append(repr(error))
        finally:
            self._tell(1 << 30)

    def _life(self, client: Client, number: str, *, short: bool) -> None:
        old, new = f"a{number}", f"b{number}"
        self.possible[number] = {None}
        steps: list[tuple[State, str, dict[str, object]]] = [
            ((old, 8), "create", {"name": old, "uuid": f"U{number}", "table": "0 8 zero"}),
            ((new, 8), "rename", {"device": {"name": old}, "new_name": new}),
            ((new, 8), "load", {"device": {"name": new}, "table": "0 16 error"}),
            ((new, 16), "resume", {"device": {"uuid": f"U{number}"}}),
        ]
        if short:
            steps.append((None, "remove", {"device": {"name": new}}))
        for state, method, params in steps:
            self.possible[number].add(state)
            kills = self.kills
            try:
                client.call(method, **params)
            except ClientError as error:
                # asked again of the next core, which found the work of the last one
                if self.kills == kills and not kills % 2:
                    self.failures.append(f"{method} {params}: {error}")
                return
            self.possible[number] = {state}
            self._tell(1)

    def _tell(self, answers: int) -> None:
        with self.progress:
            self.answers += answers
            self.progress.notify_all()

    def wait_for(self, answers: int) -> None:
        """Until it has got so many answers more, or has ended."""
        with self.progress:
            wanted = self.answers + answers
            assert self.progress.wait_for(lambda: self.answers >= wanted, PATIENCE)


def test_what_was_answered_outlives_a_kill(dmtool: Core) -> None:
    dmtool("ls")
    makers = [Maker(dmtool, number) for number in range(THREADS)]
    for maker in makers:
        maker.start()
    try:
        for _ in range(KILLS):
            for maker in makers:
                maker.wait_for(7)
                maker.kills += 1
            dmtool.kill()
            for maker in makers:
                maker.kills += 1
    finally:
        for maker in makers:
            maker.enough.set()
        for maker in makers:
            maker.join(PATIENCE)
    assert [failure for maker in makers for failure in maker.failures] == []

    dmtool.kill()  # and nothing of it was in memory only
    devices = json.loads(dmtool("info", "--json"))["devices"]
    found: dict[str, State] = {one["uuid"]: (one["name"], one["size"]) for one in devices}
    assert len({one["minor"] for one in devices}) == len(found) == len(devices)
    expected = 0
    for maker in makers:
        for number, possible in maker.possible.items():
            assert found.pop(f"U{number}", None) in possible, number
            expected += None not in possible
    assert found == {}
    assert expected > KILLS
    assert not [one for one in devices if one["error"] or one["suspended"] or not one["live"]]
