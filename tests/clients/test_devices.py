# SPDX-License-Identifier: Apache-2.0
"""Devices of all kinds under the hands of other people's programs, and of `read` and `write`."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dmtool.client import nbd
from dmtool.export.nbd import protocol

if TYPE_CHECKING:
    from tests.clients.conftest import Core, Tools

SECTOR = 512


@pytest.fixture
def content() -> bytes:
    return random.Random(5).randbytes(4096 * SECTOR)


@pytest.fixture
def disk(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(content)
    return path


class QemuIo:
    """An interactive qemu-io, which has the device open until the ``with`` ends."""

    def __init__(self, uri: str) -> None:
        self.process = subprocess.Popen(
            ["qemu-io", "-f", "raw", uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> QemuIo:
        self.do("read 0 512", "read 512/512")
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.communicate("quit\n", timeout=60)

    def do(self, command: str, answer: str) -> None:
        self.ask(command)
        self.answers(answer)

    def ask(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answers(self, until: str) -> None:
        """Wait for a line with these words."""
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if until in line:
                return
        pytest.fail(said)


@pytest.mark.tools("nbdcopy", "nbdinfo")
def test_a_stack_of_devices(disk: Path, content: bytes, dmtool: Core, tools: Tools) -> None:
    """Two linear devices, striped, and a linear one on top: each way down ends in the image."""
    dmtool("create", "left", "--table", "0 1000 linear disk.img 7")
    dmtool("create", "right", "--table", "0 1000 linear disk.img 2001")
    dmtool("create", "both", "--table", "0 2000 striped 2 5 /dev/mapper/left 0 /dev/mapper/right 0")
    dmtool("create", "top", stdin="0 33 zero\n33 1501 linear 1000:2 400\n")
    left, right = content[7 * SECTOR :], content[2001 * SECTOR :]
    both = b"".join(
        side[at : at + 5 * SECTOR]
        for at in range(0, 1000 * SECTOR, 5 * SECTOR)
        for side in (left, right)
    )
    expected = bytes(33 * SECTOR) + both[400 * SECTOR : 1901 * SECTOR]
    tools("nbdcopy", dmtool.uri("top"), "copy.img")
    assert (tools.path / "copy.img").read_bytes() == expected
    assert dmtool.info("both")["open_count"] == 1

    new = random.Random(6).randbytes(600 * SECTOR)
    dmtool("write", "top", "--offset", str(900 * SECTOR), stdin=new)
    tools("nbdcopy", dmtool.uri("both"), "copy.img")
    begin = (900 - 33 + 400) * SECTOR
    assert (tools.path / "copy.img").read_bytes() == both[:begin] + new + both[begin + len(new) :]
    exports = json.loads(
        tools("nbdinfo", "--list", "--json", dmtool.uri("top").replace("/top?", "/?"))
    )["exports"]
    assert {one["export-name"] for one in exports} == {"left", "right", "both", "top"}


@pytest.mark.tools("nbdcopy", "nbdinfo", "qemu-io")
def test_a_readonly_device(disk: Path, content: bytes, dmtool: Core, tools: Tools) -> None:
    disk.chmod(0o444)
    dmtool("create", "ro", "-r", "--table", "0 4096 linear disk.img 0")
    uri = dmtool.uri("ro")
    tools("nbdinfo", "--is", "read-only", uri)
    tools("nbdcopy", uri, "copy.img")
    assert (tools.path / "copy.img").read_bytes() == content
    assert "Permission denied" in tools.qemu_io_any(uri, "write 0 512")
    assert tools.try_("nbdcopy", "copy.img", uri).returncode != 0
    assert "read-only" in dmtool.fails("write", "ro", stdin=b"x")
    assert disk.read_bytes() == content


@pytest.mark.tools("nbdcopy", "qemu-io")
def test_an_error_in_the_middle_hits_only_its_part(
    disk: Path, content: bytes, dmtool: Core, tools: Tools
) -> None:
    dmtool(
        "create", "bad", stdin="0 1001 linear disk.img 0\n1001 3 error\n1004 996 linear disk.img 1004\n"
    )  # fmt: skip
    uri = dmtool.uri("bad")
    copy = tools.try_("nbdcopy", uri, "copy.img")
    assert copy.returncode != 0
    assert "Input/output error" in copy.stderr
    before, after = 1001 * SECTOR, 1004 * SECTOR
    end = 2000 * SECTOR
    for command, works in (
        (f"read 0 {before}", True),
        (f"read {after} {end - after}", True),
        (f"read {before} 1", False),
        (f"read {after - 1} 1", False),
        (f"read {before - 1} 2", False),
        (f"write {after - SECTOR} {2 * SECTOR}", False),
        (f"write -P 9 {after} {SECTOR}", True),
        (f"write -z {before} {SECTOR}", False),
        (f"read -P 9 {after} {SECTOR}", True),
    ):
        said = tools.qemu_io_any(uri, command)
        assert ("Input/output error" not in said) == works, (command, said)


@pytest.mark.tools("nbdinfo", "qemu-io")
def test_a_device_gets_another_size(disk: Path, content: bytes, dmtool: Core, tools: Tools) -> None:
    """Who connects after the resume sees the new size; who is connected keeps what there is."""
    dmtool("create", "d", "--table", "0 100 linear disk.img 0")
    uri = dmtool.uri("d")
    with QemuIo(uri) as qemu:
        dmtool("load", "d", "--table", "0 200 linear disk.img 0")
        assert tools("nbdinfo", "--size", uri) == "51200\n"
        dmtool("resume", "d")
        assert tools("nbdinfo", "--size", uri) == "102400\n"
        assert dmtool.output("read", "d") == content[: 200 * SECTOR]
        dmtool("load", "d", "--table", "0 50 linear disk.img 50")
        dmtool("resume", "d")
        assert tools("nbdinfo", "--size", uri) == "25600\n"
        qemu.do("read 25600 512", "read failed")
        qemu.do("write 51000 100", "write failed")
        qemu.do("write -P 7 25088 512", "wrote 512/512")
    assert disk.read_bytes() == content[: 99 * SECTOR] + b"\7" * SECTOR + content[100 * SECTOR :]


@pytest.mark.parametrize("structured", [False, True])
def test_a_client_that_does_not_read_holds_up_no_swap(
    structured: bool, tmp_path: Path, dmtool: Core
) -> None:
    """It asks for much more than any socket takes. Each answer is all of the one table or all of
    the other."""
    length, requests = 4 << 20, 16
    for name in "AB":
        (tmp_path / name).write_bytes(name.encode() * length)
    dmtool("create", "d", "--table", f"0 {length // SECTOR} linear A 0")
    got = []
    with nbd.connect(dmtool.nbd, "d", structured=structured, timeout=60) as client:
        for number in range(requests):
            cookie = protocol.U64.pack(number)
            head = (protocol.REQUEST_MAGIC, 0, protocol.CMD_READ, cookie, 0, length)
            client.sock.sendall(protocol.REQUEST.pack(*head))
        client.sock.recv(1, socket.MSG_PEEK)  # the answers have begun
        dmtool("load", "d", "--table", f"0 {length // SECTOR} linear B 0")
        dmtool("suspend", "d")
        dmtool("resume", "d")
        for _ in range(requests):
            data = bytearray(length)
            client._cookie = next_cookie(client.sock)
            client._answer(memoryview(data), 0)
            assert data in (b"A" * length, b"B" * length)
            got.append(data[:1])
    assert got[0] == b"A"
    assert got[-1] == b"B"


def next_cookie(sock: socket.socket) -> int:
    """The cookie of the answer that comes next, which stays unread."""
    head = sock.recv(16, socket.MSG_PEEK | socket.MSG_WAITALL)
    (cookie,) = protocol.U64.unpack(head[8:])
    return int(cookie)


def test_read_and_write_are_pipes(disk: Path, content: bytes, dmtool: Core) -> None:
    dmtool("create", "a", "--table", "0 4000 linear disk.img 96")
    (dmtool.files / "other.img").touch()
    with (dmtool.files / "other.img").open("r+b") as file:
        file.truncate(4000 * SECTOR)
    dmtool("create", "b", "--table", "0 4000 linear other.img 0")
    reader = dmtool.start("read", "a", stdin=subprocess.DEVNULL)
    writer = dmtool.start("write", "b", stdin=reader.stdout)
    assert reader.stdout is not None
    reader.stdout.close()
    assert writer.communicate(timeout=60) == (b"", b"")
    assert (reader.wait(60), writer.returncode) == (0, 0)
    assert reader.stderr is not None
    reader.stderr.close()
    assert (dmtool.files / "other.img").read_bytes() == content[96 * SECTOR :]

    # a part, at odd bytes
    assert (
        dmtool.output("read", "a", "--offset", "1001", "--length", "77")
        == (content[96 * SECTOR + 1001 :][:77])
    )
    dmtool("write", "b", "--offset", "1001", stdin=b"odd")
    assert (dmtool.files / "other.img").read_bytes()[1000:1005] == (
        content[96 * SECTOR + 1000 : 96 * SECTOR + 1001]
        + b"odd"
        + content[96 * SECTOR + 1004 : 96 * SECTOR + 1005]
    )
    # too much, from a pipe
    before = (dmtool.files / "other.img").read_bytes()
    dmtool.fails("write", "b", "--offset", str(4000 * SECTOR - 3), stdin=b"12345")
    assert (dmtool.files / "other.img").read_bytes() in (before, before[:-3] + b"123")


def test_a_reader_that_goes_away_is_no_error_to_shout_about(disk: Path, dmtool: Core) -> None:
    """``dmtool read d | head``."""
    dmtool("create", "d", "--table", "0 4096 linear disk.img 0")
    reader = dmtool.start("read", "d", stdin=subprocess.DEVNULL)
    assert reader.stdout is not None
    assert reader.stdout.read(10) == disk.read_bytes()[:10]
    reader.stdout.close()
    assert reader.stderr is not None
    words = reader.stderr.read()
    reader.stderr.close()
    reader.wait(60)
    assert b"Traceback" not in words
    dmtool("remove", "--retry", "d")


@pytest.mark.tools("nbdcopy", "nbdinfo")
def test_fifty_devices_at_once(tmp_path: Path, dmtool: Core, tools: Tools) -> None:
    """Made by fifty commands that run at the same time, where no core runs yet."""
    parts = [random.Random(i).randbytes((7 + i) * SECTOR) for i in range(50)]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.img").write_bytes(part)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(
                lambda i: dmtool("create", f"d{i}", "--table", f"0 {7 + i} linear {i}.img 0"),
                range(50),
            )
        )
        infos = json.loads(dmtool("info", "--json"))["devices"]
        assert {one["name"] for one in infos} == {f"d{i}" for i in range(50)}
        assert sorted(one["minor"] for one in infos) == list(range(50))
        base = dmtool.uri("d0")
        uris = [base.replace("/d0?", f"/d{i}?") for i in range(50)]
        list(pool.map(lambda i: tools("nbdcopy", uris[i], f"copy{i}"), range(50)))
    for number, part in enumerate(parts):
        assert (tmp_path / f"copy{number}").read_bytes() == part
    dmtool("remove_all")
    assert dmtool("ls") == "No devices found\n"


@pytest.mark.tools("qemu-io")
def test_a_device_in_use_is_not_removed(disk: Path, dmtool: Core) -> None:
    dmtool("create", "d", "--table", "0 100 linear disk.img 0")
    with QemuIo(dmtool.uri("d")) as qemu:
        assert dmtool.info("d")["open_count"] == 1
        words = dmtool.fails("remove", "d")
        assert words.startswith(
            "device-mapper: remove ioctl on d  failed: Device or resource busy\n"
        )
        assert words.endswith("Command failed.\n")
        dmtool("remove_all")
        qemu.do("read 1024 512", "read 512/512")
    dmtool("remove", "--retry", "d")
    assert dmtool("ls") == "No devices found\n"


@pytest.mark.tools("qemu-io")
def test_a_deferred_removal_waits_for_the_last_client(disk: Path, dmtool: Core) -> None:
    dmtool("create", "d", "--table", "0 100 linear disk.img 0")
    with QemuIo(dmtool.uri("d")) as qemu:
        dmtool("remove", "--deferred", "d")
        assert dmtool.info("d")["deferred_remove"] is True
        qemu.do("read 1024 512", "read 512/512")
        waiting = dmtool.start("wait", "d", "0")
    waiting.communicate(timeout=60)  # ends when the device is gone
    assert dmtool("ls") == "No devices found\n"


@pytest.mark.tools("qemu-io")
def test_a_forced_removal_fails_what_waits(disk: Path, dmtool: Core) -> None:
    """A read waits at a suspended device; ``remove -f`` cannot remove it while it is open, but
    puts an error target under it, so that nobody waits for ever."""
    dmtool("create", "d", "--table", "0 100 linear disk.img 0")
    with QemuIo(dmtool.uri("d")) as qemu:
        dmtool("suspend", "d")
        qemu.ask("read 4096 512")
        assert "Device or resource busy" in dmtool.fails("remove", "-f", "d")
        qemu.answers("read failed: Input/output error")
    dmtool("remove", "--retry", "d")


@pytest.mark.tools("nbdcopy")
def test_the_digest_of_a_pipe(disk: Path, content: bytes, dmtool: Core) -> None:
    """As in ``dmtool read d | sha256sum`` and ``nbdcopy URI - | sha256sum``."""
    dmtool("create", "d", "--table", "0 4096 linear disk.img 0")
    expected = hashlib.sha256(content).hexdigest()
    assert hashlib.sha256(dmtool.output("read", "d")).hexdigest() == expected
    copied = subprocess.run(
        ["nbdcopy", dmtool.uri("d"), "-"], capture_output=True, check=True, timeout=60
    )
    assert hashlib.sha256(copied.stdout).hexdigest() == expected
