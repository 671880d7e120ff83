# SPDX-License-Identifier: Apache-2.0
"""What NBD clients do is counted once, before they have their answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from dmtool.backing import Backing
from dmtool.client.nbd import Nbd, connect
from dmtool.export.nbd import protocol as p
from tests.stats.home import Home

SECTORS = 8192
SIZE = SECTORS * 512

Counts = tuple[int, int, int, int, int]  # reads, sectors, writes, sectors, in flight


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


@pytest.fixture
def attach(home: Home) -> Generator[Callable[..., Nbd]]:
    """Create a device `d` with a region over all of it, and connect."""
    made: list[Nbd] = []

    def attach(table: str, *, structured: bool = True) -> Nbd:
        home.create("d", table)
        home.message("d", "@stats_create - /1")
        made.append(connect(Path(home.directory.nbd), "d", structured=structured))
        return made[-1]

    yield attach
    for nbd in made:
        nbd.close()


def counts(home: Home, name: str = "d") -> Counts:
    words = list(map(int, home.message(name, "@stats_print 0").split()[1:]))
    return words[0], words[2], words[4], words[6], words[8]


@pytest.mark.parametrize("structured", [True, False])
@pytest.mark.parametrize("length", [512, 4096, 65536, 1 << 20])
def test_reads_and_writes(
    home: Home, attach: Callable[..., Nbd], image: Path, structured: bool, length: int
) -> None:
    nbd = attach(f"0 {SECTORS} linear {image} 0", structured=structured)
    sectors = length // 512
    for turn in range(1, 4):
        assert len(nbd.pread(length, 0)) == length
        assert counts(home)[:2] == (turn, turn * sectors)
        nbd.pwrite(bytes(length), 4096)
        assert counts(home) == (turn, turn * sectors, turn, turn * sectors, 0)


def test_other_commands(home: Home, attach: Callable[..., Nbd], image: Path) -> None:
    nbd = attach(f"0 {SECTORS} linear {image} 0")
    nbd.trim(4096, 0)
    nbd.write_zeroes(4096, 4096)
    nbd.pwrite(bytes(512), 0, fua=True)
    nbd.flush()
    assert counts(home) == (0, 0, 3, 17, 0)


def test_a_batch_in_which_all_kinds_are_mixed(
    home: Home, attach: Callable[..., Nbd], image: Path
) -> None:
    nbd = attach(f"0 {SECTORS} linear {image} 0", structured=False)
    stream = b"".join(
        p.REQUEST.pack(p.REQUEST_MAGIC, flags, command, bytes(8), offset, length) + payload
        for flags, command, offset, length, payload in (
            (0, p.CMD_READ, 0, 512, b""),
            (0, p.CMD_WRITE, 512, 512, bytes(512)),
            (0, p.CMD_READ, SIZE, 512, b""),  # refused
            (p.CMD_FLAG_FUA, p.CMD_WRITE, 1024, 1024, bytes(1024)),  # a worker's
            (0, 77, 0, 512, b""),  # refused
            (0, p.CMD_WRITE, SIZE, 512, bytes(512)),  # refused
            (0, p.CMD_TRIM, 0, 4096, b""),  # a worker's
            (0, p.CMD_READ, 512, 1024, b""),
        )
    )
    nbd.sock.sendall(stream)
    answer = bytearray()
    while len(answer) < 8 * p.SIMPLE_REPLY.size + 512 + 1024:
        answer += nbd.sock.recv(1 << 16)
    assert counts(home) == (2, 3, 3, 11, 0)


def test_a_read_only_device_counts_no_writes(
    home: Home, attach: Callable[..., Nbd], image: Path
) -> None:
    nbd = attach(f"0 {SECTORS} linear {image} 0")
    home.call("load", device={"name": "d"}, table=f"0 {SECTORS} linear {image} 0", readonly=True)
    home.call("resume", device={"name": "d"})
    with pytest.raises(PermissionError):
        nbd.pwrite(bytes(512), 0)
    assert counts(home) == (0, 0, 0, 0, 0)


def test_what_fails_counts(home: Home, attach: Callable[..., Nbd]) -> None:
    nbd = attach("0 8 error")
    with pytest.raises(OSError, match="Input/output"):
        nbd.pread(512, 0)
    with pytest.raises(OSError, match="Input/output"):
        nbd.pwrite(bytes(1024), 0)
    assert counts(home) == (1, 1, 1, 2, 0)


def test_what_takes_time_is_seen_in_flight(
    home: Home, attach: Callable[..., Nbd], image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbd = attach(f"0 {SECTORS} linear {image} 0")
    live = home.device("d").live
    assert live is not None
    entered, may_end = threading.Event(), threading.Event()

    def flush(_backing: Backing) -> None:
        entered.set()
        assert may_end.wait(20)

    monkeypatch.setattr(type(live.backings[0]), "flush", flush)
    thread = threading.Thread(target=lambda: nbd.pwrite(bytes(512), 0, fua=True))
    thread.start()
    assert entered.wait(20)
    assert counts(home) == (0, 0, 0, 0, 1)
    may_end.set()
    thread.join()
    assert counts(home) == (0, 0, 1, 1, 0)
    words = list(map(int, home.message("d", "@stats_print 0").split()[1:]))
    assert words[9] == words[12] <= words[10]


def test_devices_below_count_what_passes_through(
    home: Home, attach: Callable[..., Nbd], image: Path
) -> None:
    home.create("lower", f"0 {SECTORS} linear {image} 0")
    nbd = attach("0 64 linear /dev/mapper/lower 64")
    nbd.pread(512, 0)
    home.message("lower", "@stats_create - /1")
    nbd.pread(1024, 0)
    nbd.pwrite(bytes(512), 512)
    nbd.pwrite(bytes(512), 512, fua=True)
    assert counts(home) == (2, 3, 2, 2, 0)
    assert counts(home, "lower") == (1, 2, 2, 2, 0)


@pytest.mark.parametrize("length", [4096, 1 << 20])
def test_devices_below_in_several_pieces_and_levels(
    home: Home, attach: Callable[..., Nbd], image: Path, length: int
) -> None:
    home.create("lowest", f"0 {SECTORS} linear {image} 0")
    pieces = "0 4096 linear /dev/mapper/lowest 0\n4096 4000 linear /dev/mapper/lowest 4100"
    home.create("pieces", pieces)
    home.create("whole", "0 8000 linear /dev/mapper/pieces 8")
    nbd = attach("0 7000 linear /dev/mapper/whole 100")
    for name in ("lowest", "pieces", "whole"):
        home.message(name, "@stats_create - /1")
    nbd.pread(length, 512)
    nbd.pwrite(bytes(length), 0)
    sectors = length // 512
    for name in ("d", "whole", "pieces", "lowest"):
        assert counts(home, name) == (1, sectors, 1, sectors, 0), name
    home.message("whole", "@stats_delete 0")
    home.message("whole", "@stats_create 100+1 1")
    nbd.pread(512, 0)
    nbd.pread(512, 512)
    assert counts(home, "whole") == (1, 1, 0, 0, 0)


def test_regions_come_and_go_while_a_client_is_connected(
    home: Home, attach: Callable[..., Nbd], image: Path
) -> None:
    nbd = attach(f"0 {SECTORS} linear {image} 0")
    nbd.pread(512, 0)
    home.message("d", "@stats_delete 0")
    nbd.pread(512, 0)
    home.message("d", "@stats_create 8+8 1")
    nbd.pread(8192, 0)
    lines = home.message("d", "@stats_print 0").splitlines()
    assert [line.split()[1] for line in lines] == ["1"] * 8
