# SPDX-License-Identifier: Apache-2.0
"""A move whose client, or whose core, is killed before each of its steps, and taken up again.

At every step something is written: what was acknowledged is there at the end, whoever died.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dmtool.client import Client, nbd
from dmtool.client.move import Move
from dmtool.client.movetables import replaced
from dmtool.directory import Directory
from dmtool.errors import CoreError
from tests.move.conftest import SECTOR

if TYPE_CHECKING:
    from tests.clients.conftest import Core

# Requests that change something; a step of a move begins with one.
CHANGES = {"create", "load", "resume", "remove", "clear", "message"}
SECTORS = 4096
TABLE = f"0 {SECTORS // 2} linear a.img 64\n{SECTORS // 2} {SECTORS // 2} linear a.img 6000\n"


class Killed(BaseException):
    """The client is no more."""


class Steps:
    """What happens before each request of a client that changes something.

    ``expected``: the device's bytes, as far as they were acknowledged.
    """

    def __init__(self, core: Core, expected: bytearray) -> None:
        self.core = core
        self.expected = expected
        self.count = 0
        self._call = Client.call

    def write(self) -> None:
        """Write a sector, all over the device in time."""
        sector = self.count * 997 % SECTORS
        data = f"step {self.count} ".encode().ljust(SECTOR, b".")
        with nbd.connect(self.core.nbd, "pool", timeout=60) as disk:
            disk.pwrite(data, sector * SECTOR)
        self.expected[sector * SECTOR : (sector + 1) * SECTOR] = data

    def before(self, at: int, do: Callable[[], None]) -> Any:
        """A Client.call that does something before change number ``at``."""

        def call(client: Client, method: str, **params: Any) -> Any:
            if method in CHANGES:
                if self.count == at:
                    self.count += 1
                    do()
                self.count += 1
                self.write()
            return self._call(client, method, **params)

        return call


@pytest.fixture
def pool(dmtool: Core, image: Callable[..., Path]) -> bytearray:
    """The device ``pool``; its bytes."""
    image("a.img", 9000)
    dmtool("create", "pool", stdin=TABLE)
    return bytearray(dmtool.output("read", "pool"))


def check(core: Core, expected: bytearray, on: str) -> None:
    """The device lies on one image, nothing else is left, and no byte is lost."""
    with Client(Directory(str(core.path))) as client:
        (info,) = client.call("list")
        table = client.call("table", device={"name": "pool"})["targets"]
    assert (info["name"], info["suspended"], info["inactive"]) == ("pool", False, False)
    assert replaced(table, str(core.files / on), "a.img") == TABLE
    with nbd.connect(core.nbd, "pool", timeout=60) as disk:
        assert disk.pread(disk.size, 0) == expected
    raw = (core.files / on).read_bytes()
    half = SECTORS // 2 * SECTOR
    assert raw[64 * SECTOR :][:half] + raw[6000 * SECTOR :][:half] == expected


def kill() -> None:
    raise Killed


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["client", "core"])
def test_killed_before_each_step(
    dmtool: Core,
    directory: Directory,
    pool: bytearray,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
) -> None:
    monkeypatch.chdir(dmtool.files)
    images = [str(dmtool.files / name) for name in ("a.img", "b.img")]
    for at in itertools.count():
        steps = Steps(dmtool, pool)
        source, target = images if at % 2 == 0 else images[::-1]
        monkeypatch.setattr(
            Client, "call", steps.before(at, kill if who == "client" else restart(dmtool))
        )
        try:
            first = Move(directory, 0)
            try:
                first.run(source, target, force=True)
            except Killed:
                second = Move(directory, 0)
                second.run(source, target, force=True)
                second.close()
            finally:
                first.close()
        finally:
            monkeypatch.undo()
            monkeypatch.chdir(dmtool.files)
        check(dmtool, pool, os.path.basename(target))
        if steps.count <= at:
            break
    assert at > 7  # create, load, resume, load, resume, load, resume, load, resume, remove


def test_one_connection_is_answered_by_one_core(
    dmtool: Core, directory: Directory, pool: bytearray
) -> None:
    """Or else what the last one said of a copy would be believed of the next one's."""
    with Client(directory, again=False) as client:
        client.call("version")
        dmtool.kill()
        with pytest.raises(CoreError) as caught:
            client.call("version")
        assert caught.value.errno == errno.ECONNRESET
        assert [info["name"] for info in client.call("list")] == ["pool"]


def restart(core: Core) -> Callable[[], None]:
    """Kill the core; a command starts the next one."""

    def restart() -> None:
        core.kill()
        with Client(Directory(str(core.path))) as client:
            client.call("version")

    return restart


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["client", "core"])
def test_aborted_after_each_step(
    dmtool: Core,
    directory: Directory,
    pool: bytearray,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
) -> None:
    """The client is killed, and another puts back what was; that one, or the core, is killed too."""
    source, target = (str(dmtool.files / name) for name in ("a.img", "b.img"))
    for at in itertools.count(1):
        (dmtool.files / "b.img").unlink(missing_ok=True)
        steps = Steps(dmtool, pool)
        monkeypatch.setattr(Client, "call", steps.before(at, kill))
        move = Move(directory, 0)
        try:
            with pytest.raises(Killed):
                move.run(source, target, force=True)
        finally:
            monkeypatch.undo()
            move.close()
        on = abort(dmtool, directory, pool, monkeypatch, who)
        check(dmtool, pool, os.path.basename(on))
        if on == target:
            break
    assert at > 4


def abort(
    core: Core, directory: Directory, pool: bytearray, monkeypatch: pytest.MonkeyPatch, who: str
) -> str:
    """Abort, and be killed before the second change, if there is one; the path it lies on then."""
    steps = Steps(core, pool)
    monkeypatch.setattr(Client, "call", steps.before(1, kill if who == "client" else restart(core)))
    move = Move(directory, 0)
    try:
        return move.abort()
    except Killed:
        return move.abort()
    finally:
        monkeypatch.undo()
        move.close()
