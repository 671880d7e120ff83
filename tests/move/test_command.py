# SPDX-License-Identifier: Apache-2.0
"""The command `move`: shapes of tables, refusals, interruption, what is said."""

from __future__ import annotations

import json
import os
import pty
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.test_json import documented
from tests.move.conftest import SECTOR, part

if TYPE_CHECKING:
    from tests.clients.conftest import Core

Image = Callable[..., Path]
MOVE = ("move", "pool", "--from", "a.img", "--to", "b.img")


def named(core: Core, *args: str) -> str:
    """What a command says, with the names of images as they are in tables here."""
    return core(*args).replace(f"{core.files}/", "")


# -- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        "0 4000 linear a.img 0\n",
        "0 1000 linear a.img 3000\n1000 1000 linear c.img 0\n2000 1000 linear a.img 1000\n",
        "0 4096 striped 4 16 a.img 0 c.img 0 a.img 2000 c.img 2000\n",
        "0 1000 linear a.img 7\n1000 1000 linear a.img 507\n",
        "0 1000 mirror core 2 64 nosync 2 c.img 0 a.img 0\n1000 64 error \n",
        "".join(f"{i * 4} 4 linear a.img {i * 16}\n" for i in range(150)),
    ],
    ids=["one", "several", "striped", "overlapping", "leg", "many"],
)
def test_tables(dmtool: Core, image: Image, table: str) -> None:
    a = image("a.img", 4096)
    c = image("c.img", 4096)
    if "mirror" in table:
        c.write_bytes(a.read_bytes())
    dmtool("create", "pool", stdin=table)
    before = dmtool.output("read", "pool") if "error" not in table else None
    assert named(dmtool, *MOVE) == "pool lies on b.img\n"
    assert named(dmtool, "table", "pool") == table.replace("a.img", "b.img")
    assert dmtool("ls") == "pool\t(1000:0)\n"
    if before is not None:
        assert dmtool.output("read", "pool") == before
    # where nothing of the device was there is nothing
    b = dmtool.files / "b.img"
    assert b.stat().st_size <= a.stat().st_size
    if table.startswith("0 1000 linear a.img 3000"):
        assert part(b, 0, 1000) == bytes(1000 * SECTOR)
        assert part(b, 1000, 1000) == part(a, 1000, 1000)
        assert part(b, 2000, 1000) == bytes(1000 * SECTOR)
        assert part(b, 3000, 1000) == part(a, 3000, 1000)


def test_a_read_only_device_stays_so(dmtool: Core, image: Image) -> None:
    image("a.img", 64)
    dmtool("create", "pool", "-r", "--table", "0 64 linear a.img 0")
    dmtool(*MOVE)
    assert dmtool.info("pool")["readonly"] is True
    assert dmtool.output("read", "pool") == (dmtool.files / "a.img").read_bytes()


def test_devices_on_top_see_nothing_of_it(dmtool: Core, image: Image) -> None:
    image("a.img", 128)
    dmtool("create", "pool", "--table", "0 64 linear a.img 8")
    dmtool("create", "top", "--table", "0 32 linear /dev/mapper/pool 16")
    before = dmtool.output("read", "top")
    dmtool(*MOVE)
    assert dmtool.output("read", "top") == before
    assert named(dmtool, "deps", "-o", "devname", "top").strip().endswith("(pool)")


def test_names_with_blanks(dmtool: Core, image: Image) -> None:
    image("a b.img", 64)
    dmtool("create", "my pool", "--table", r"0 64 linear a\ b.img 0")
    dmtool("move", "my pool", "--from", "a b.img", "--to", "c d\\e.img")
    assert named(dmtool, "table", "my pool") == "0 64 linear c\\ d\\\\e.img 0\n"


def test_from_and_to_mapped_devices(dmtool: Core, image: Image) -> None:
    image("a.img", 64)
    image("b.img", 64)
    dmtool("create", "low", "--table", "0 64 linear a.img 0")
    dmtool("create", "pool", "--table", "0 64 linear /dev/mapper/low 0")
    dmtool("create", "other", "--table", "0 64 linear b.img 0")
    command = ("move", "pool", "--from", "/dev/mapper/low", "--to", "/dev/mapper/other")
    assert "1000:2 may have data on it" in dmtool.fails(*command)
    dmtool(*command, "--force")
    assert dmtool("table", "pool") == "0 64 linear 1000:2 0\n"
    assert (dmtool.files / "b.img").read_bytes() == (dmtool.files / "a.img").read_bytes()


def test_the_new_image_is_no_more_open_than_the_old(dmtool: Core, image: Image) -> None:
    image("a.img", 64).chmod(0o640)
    dmtool("create", "pool", "--table", "0 64 linear a.img 0")
    dmtool(*MOVE)
    assert (dmtool.files / "b.img").stat().st_mode & 0o777 == 0o640


# -- refusals ---------------------------------------------------------------------------------


@pytest.fixture
def pool(dmtool: Core, image: Image) -> Core:
    image("a.img", 4096)
    dmtool("create", "pool", "--table", "0 2000 linear a.img 8")
    return dmtool


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--from", "a.img", "--to", "a.img"], "are the same"),
        (["--from", "nosuch.img", "--to", "b.img"], "nothing of the device lies on nosuch.img"),
        (["--from", "a.img", "--to", "nosuch/b.img"], "No such file or directory"),
        (["--from", "a.img", "--to", "."], "neither a file nor a block device"),
        (["--from", "a.img", "--to", "small.img"], "too small: it has 512 bytes, 1028096 are"),
        (["--from", "a.img", "--to", "full.img"], "has data where the device's would go"),
        (["--from", "a.img", "--to", "1000:99", "-f"], "no mapped device 1000:99"),
        (["--from", "a.img", "--to", "/dev/mapper/over", "-f"], "would lie below itself"),
        (["--from", "a.img"], "Please say where"),
        (["--from", "a.img", "--to", "b.img", "--rate", "fast"], "Invalid argument for --rate"),
        (["--abort"], "no move of the device is under way"),
    ],
)
def test_refused(pool: Core, image: Image, words: list[str], reason: str) -> None:
    image("small.img", 1)
    image("full.img", 4096)
    pool("create", "over", "--table", "0 1000 linear /dev/mapper/pool 0\n1000 2000 zero")
    files = {path: path.read_bytes() for path in pool.files.iterdir()}
    table = pool("table")
    assert reason in pool.fails("move", "pool", *words)
    assert pool("table") == table
    assert {path: path.read_bytes() for path in pool.files.iterdir()} == files


def test_force_writes_over_what_is_there(pool: Core, image: Image) -> None:
    b = image("b.img", 4096)
    after = part(b, 2008, 2088)
    pool(*MOVE, "--force")
    assert part(b, 8, 2000) == part(pool.files / "a.img", 8, 2000)
    assert part(b, 2008, 2088) == after


def test_not_over_the_same_sectors_of_another(pool: Core, image: Image) -> None:
    (pool.files / "b.img").write_bytes(bytes(4096 * SECTOR))
    pool("create", "beside", "--table", "0 8 linear a.img 0\n8 8 linear a.img 2008")
    pool("create", "over", "--table", "0 8 linear a.img 2007")
    assert f"over uses the same sectors of {pool.files}/a.img" in pool.fails(*MOVE)
    pool("remove", "over")
    pool("create", "over", "--table", "0 8 linear b.img 9")
    assert f"over uses the same sectors of {pool.files}/b.img" in pool.fails(*MOVE, "--force")
    pool("remove", "over")
    pool(*MOVE, "--force")


def test_not_onto_an_image_that_it_has_already(dmtool: Core, image: Image) -> None:
    image("a.img", 8)
    (dmtool.files / "b.img").write_bytes(bytes(100 * SECTOR))
    dmtool("create", "pool", "--table", "0 8 linear a.img 0\n8 8 linear b.img 50")
    assert "lies on" in dmtool.fails(*MOVE, "--force")


def test_not_while_suspended_or_with_an_inactive_table(pool: Core) -> None:
    pool("suspend", "pool")
    assert "is suspended" in pool.fails(*MOVE)
    pool("load", "pool", "--table", "0 8 zero")
    pool("resume", "pool")
    pool("load", "pool", "--table", "0 8 linear a.img 0")
    assert "nothing of the device lies on a.img" in pool.fails(*MOVE)
    pool("resume", "pool")
    pool("load", "pool", "--table", "0 8 zero")
    assert "has an inactive table" in pool.fails(*MOVE)
    assert not (pool.files / "b.img").exists()


def test_not_onto_an_image_of_another_process(pool: Core, new_core: Callable[[], Core]) -> None:
    other = new_core()
    other.files = pool.files
    (pool.files / "b.img").write_bytes(bytes(4096 * SECTOR))
    other("create", "its", "--table", "0 4096 linear b.img 0")
    words = pool.fails(*MOVE, "--force")
    assert "another core process" in words
    assert named(pool, "table") == "pool: 0 2000 linear a.img 8\n"


# -- interruption -----------------------------------------------------------------------------


@pytest.fixture
def slow(dmtool: Core, image: Image) -> Core:
    """A device whose move, at 1 MiB a second, is not over before it is interrupted."""
    dmtool.environ["DMTOOL_MIRROR_RATE"] = "1MiB"
    image("a.img", 40 * 2048)
    dmtool("create", "pool", "--table", f"0 {40 * 2048} linear a.img 0")
    return dmtool


def copying(core: Core, *more: str) -> Any:
    """A move that has begun to copy."""
    mover = core.start(*MOVE, "--json", *more)
    assert mover.stdout is not None
    said = json.loads(mover.stdout.readline())
    assert said["state"] == "copying", said
    return mover


def test_interrupted_and_taken_up(slow: Core) -> None:
    mover = copying(slow)
    mover.send_signal(signal.SIGINT)
    _, words = mover.communicate()
    assert (mover.returncode, b"Traceback" in words) == (130, False)
    assert b"the same command takes it up" in words
    assert named(slow, "table", "pool") == f"0 {40 * 2048} linear 1000:1 0\n"
    assert "another move, from" in slow.fails("move", "pool", "--from", "a.img", "--to", "c.img")
    assert "another move, from" in slow.fails("move", "pool", "--from", "c.img", "--to", "b.img")
    slow("rename", "pool", "pond")
    again = ("move", "pond", *MOVE[2:], "--rate", "1GiB")
    assert named(slow, *again) == "pond lies on b.img\n"
    assert named(slow, "table") == f"pond: 0 {40 * 2048} linear b.img 0\n"
    assert (slow.files / "b.img").read_bytes() == (slow.files / "a.img").read_bytes()
    # the same command once more finds it done
    assert named(slow, *again) == "pond lies on b.img\n"


def test_aborted(slow: Core) -> None:
    mover = copying(slow)
    words = slow.fails("move", "pool", "--abort")
    assert f"process {mover.pid} is moving this device" in words
    mover.kill()
    mover.communicate()
    slow("write", "pool", "--offset", "1s", stdin=b"written meanwhile")
    assert named(slow, "move", "pool", "--abort") == "pool lies on a.img\n"
    assert named(slow, "table") == f"pool: 0 {40 * 2048} linear a.img 0\n"
    assert part(slow.files / "a.img", 1, 1)[:17] == b"written meanwhile"


def test_a_new_image_that_fails(pool: Core) -> None:
    """The device goes on with the old one; the same command tries again."""
    (pool.files / "b.img").write_bytes(bytes(4096 * SECTOR))
    bad = "0 1000 linear b.img 0\n1000 8 error\n1008 3088 linear b.img 1008"
    pool("create", "bad", stdin=bad)
    command = ("move", "pool", "--from", "a.img", "--to", "/dev/mapper/bad", "--force")
    words = pool.fails(*command)
    assert f"1000:1 failed (AS); the device goes on with {pool.files}/a.img" in words
    pool("write", "pool", "--offset", "992s", stdin=b"where it cannot be copied")
    assert "failed (AS)" in pool.fails(*command)
    pool("load", "bad", "--table", "0 4096 linear b.img 0")
    pool("resume", "bad")
    pool(*command)
    assert pool("table", "pool") == "0 2000 linear 1000:1 8\n"
    assert part(pool.files / "b.img", 8, 2000) == part(pool.files / "a.img", 8, 2000)
    assert part(pool.files / "b.img", 1000, 1)[:25] == b"where it cannot be copied"


def test_json(pool: Core) -> None:
    *lines, last = map(json.loads, pool(*MOVE, "--json").splitlines())
    names = {"version": 1, "device": "pool", "from": "a.img", "to": "b.img"}
    assert last == {**names, "state": "done", "on": str(pool.files / "b.img")}
    assert last.keys() - {"version"} <= documented("move")
    for line in lines:
        assert line["state"] == "copying"
        assert line.keys() - {"version"} <= documented("move")
        assert (line["size"], line.keys()) == (
            2000 * SECTOR,
            {*names, "state", "copied", "size", "rate", "left"},
        )


def test_a_bar_on_a_terminal(slow: Core) -> None:
    ours, theirs = pty.openpty()
    mover = slow.start(*MOVE, "--rate", "20MiB", stderr=theirs)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # EIO: the other end is closed
        while data := os.read(ours, 4096):
            seen += data
    os.close(ours)
    out, _ = mover.communicate()
    assert mover.returncode == 0
    assert out.decode() == f"pool lies on {slow.files}/b.img\n"
    assert b"MiB/s, 0:00:0" in seen
    assert b"%" in seen
    assert b"Traceback" not in seen
