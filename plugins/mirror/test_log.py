# SPDX-License-Identifier: Apache-2.0
"""The disk log: the kernel's bytes, written before it is too late, believed when it may be."""

from __future__ import annotations

import errno
import hashlib
import shutil
import struct
import threading
from functools import partial
from pathlib import Path

import pytest

from dmtool import Device
from dmtool.api import Op, TargetError
from dmtool.device.process import _Below
from dmtool.errors import DmtoolError
from dmtool.plugins.mirror.testbed import (
    Bench,
    Started,
    SteppedCopier,
    bench,
    copier_of,
    health,
    mirror_of,
    status,
    stepped,
    until,
)
from dmtool.table import load
from dmtool.testing import make_pattern, pattern

REGIONS = 32
REGION = 16
SECTORS = REGIONS * REGION
TABLE = "disk 2 {log} 16 2 {a} 0 {b} 0"
HANDLE = f"{TABLE} 1 handle_errors"
KEEP = f"{TABLE} 2 handle_errors keep_log"

# tests/kernel/tables.jsonl, mirror/disk and others: the first 8 bytes of SHA-256 of a sector
RECORDED_HEADER = "40c7ccb6a5ed48ed"
RECORDED_ALL_CLEAN = "eac0bc584b30b30f"
# mirror/disk-region-tiny: removed when so many of 8192 regions of 2 sectors were copied
RECORDED_UNFINISHED = {2867: "31ee953d31727407", 1414: "6d67aa00352bee5c"}


def header(regions: int = REGIONS, version: int = 2, magic: int = 0x4D695272) -> bytes:
    return struct.pack("<IIQ", magic, version, regions).ljust(1024, b"\0")


def digest(made: Bench, sector: int) -> str:
    content = made.content("log")[sector * 512 : (sector + 1) * 512]
    return hashlib.sha256(content).hexdigest()[:16]


def bits(made: Bench) -> int:
    (found,) = struct.unpack_from("<Q", made.content("log"), 1024)
    assert isinstance(found, int)
    return found


def patterns(made: Bench, log: bytes = b"") -> None:
    for index, name in enumerate("ab", 1):
        make_pattern(made.paths[name], index, made.sectors)
    made.paths["log"].write_bytes(log.ljust(made.sectors * 512, b"\0"))


def copied_regions(made: Bench, size: int = REGION) -> list[int]:
    """Which regions of b have a's bytes; all others must have their own."""
    found, b = [], made.content("b")
    for region in range(made.sectors // size):
        at, length = region * size * 512, size * 512
        if b[at : at + length] == pattern(1, at, length):
            found.append(region)
        else:
            assert b[at : at + length] == pattern(2, at, length)
    return found


def test_a_new_log_has_the_recorded_bytes(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made)
        device = made.make(TABLE)
        assert status(device).endswith(f" 3 disk 1000:{made.lower['log'].mapped.minor} A")
        device.mapped.wait(0)
        assert digest(made, 0) == RECORDED_HEADER
        device.close()
        assert digest(made, 2) == RECORDED_ALL_CLEAN
        assert made.content("log")[1536:] == bytes(SECTORS * 512 - 1536)
        assert copied_regions(made) == list(range(REGIONS))


@pytest.mark.parametrize("copied", RECORDED_UNFINISHED)
def test_the_log_of_an_unfinished_copy_has_the_recorded_bytes(
    copied: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dmtool.plugins.mirror.Copier", SteppedCopier)
    with bench(tmp_path, 16384) as made:
        patterns(made)
        device = made.make("disk 2 {log} 2 2 {a} 0 {b} 0")
        assert stepped(device).step(copied * 2 * 512)
        assert health(device) == f"{copied}/8192 AA"
        device.close()
        assert made.content("log")[:1024] == header(8192)
        assert digest(made, 2) == RECORDED_UNFINISHED[copied]
        assert made.content("log")[1536:] == bytes(16384 * 512 - 1536)
        assert copied_regions(made, 2) == list(range(copied))
        # and what is taken up again is the rest
        device = made.make("disk 2 {log} 2 2 {a} 0 {b} 0")
        assert health(device) == f"{copied}/8192 AA"
        made.faults["b"].seen.clear()
        while stepped(device).step():
            pass
        written = [at for op, at, _ in made.faults["b"].seen if op is Op.WRITE]
        assert min(written) == copied * 2
        assert made.content("b") == made.content("a")


def test_what_else_is_in_its_sectors_stays(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, b"\xee" * 4096)
        device = made.make(TABLE)
        device.mapped.wait(0)
        device.close()
        content = made.content("log")
        assert content[:16] == header()[:16]
        assert content[16:1024] == b"\xee" * 1008
        assert content[1024:1032] == b"\xff\xff\xff\xff\0\0\0\0"
        assert content[1032:4096] == b"\xee" * (4096 - 1032)


@pytest.mark.parametrize(
    ("log", "arguments", "copied", "events"),
    [
        (header() + b"\xff\xff\xff\xff", "", [], 1),
        (header() + b"\xff\xff\x00\xff", "", list(range(16, 24)), 1),
        (header() + b"\xfe\xff\xff\x7f", "", [0, 31], 1),
        (header(version=1) + b"\xff\xff\xff\xfe", "", [24], 1),
        (header(regions=16) + b"\xff\xff", "", list(range(16, 32)), 1),
        (header(regions=16) + b"\xff\xff\xff\xff", "", list(range(16, 32)), 1),
        (header(regions=64) + b"\xff" * 8, "", [], 1),
        (header(magic=1) + b"\xff\xff\xff\xff", "", list(range(32)), 1),
        (header() + b"\xff\xff\xff\xff", "sync", list(range(32)), 1),
        (header(), "nosync", [], 0),
        (b"", "nosync", [], 0),
        (b"", "sync", list(range(32)), 1),
    ],
)
def test_what_a_log_says_is_what_is_copied(
    log: bytes, arguments: str, copied: list[int], events: int, tmp_path: Path
) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, log)
        count = 3 if arguments else 2
        device = made.make(f"disk {count} {{log}} 16 {arguments} 2 {{a}} 0 {{b}} 0")
        until(device, lambda mirror: mirror.in_sync)
        device.mapped.suspend()
        assert device.mapped.event_nr == events
        assert health(device) == "32/32 AA"
        assert copied_regions(made) == copied
        assert digest(made, 0) == RECORDED_HEADER
        assert bits(made) == 0xFFFFFFFF


def test_a_log_of_another_version_is_not_touched(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header(version=3) + b"\xff")
        before = made.content("log")
        with pytest.raises(TargetError, match="incompatible disk log version"):
            made.make(TABLE)
        assert made.content("log") == before


def test_a_log_is_read_when_the_table_is_resumed_for_good(tmp_path: Path) -> None:
    """Not when it is loaded, and not when something else refused: until then another table may
    write it."""
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header() + b"\xff\xff\xff\xff")
        device = made.make(TABLE)
        device.mapped.wait(0)
        table = load(made.table(KEEP), devices=_Below(made.lower, False))
        assert table is not None
        table.targets[0].type.call("preresume", table.targets[0])
        made.faults["b"].failing = {Op.WRITE}
        device.pwrite(b"\xee" * 512, 0)
        made.faults["b"].failing = set()
        device.mapped.load(table)
        device.mapped.resume()
        assert mirror_of(device).options.keep_log
        device.mapped.wait(1)
        assert made.content("b")[:512] == b"\xee" * 512


def test_a_readonly_table_leaves_the_log_alone(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header(version=1) + b"\xff\xff\xff\x7f")
        before = made.content("log")
        with Device.from_table(made.table(TABLE), below=made.lower, readonly=True) as device:
            assert health(device) == "31/32 AA"
            assert status(device).split()[-1] == "A"
        assert made.content("log") == before


def test_too_small(tmp_path: Path) -> None:
    with bench(tmp_path, 2) as made:
        make_pattern(made.paths["a"], 1, 2)
        with pytest.raises(DmtoolError, match="Error creating mirror dirty log"):
            made.make("disk 2 {log} 2 2 {a} 0 {b} 0")


def test_a_region_is_marked_on_stable_storage_before_it_is_written(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header() + b"\xff\xff\xff\xff")
        device = made.make(TABLE)
        device.mapped.wait(0)
        until(device, lambda _: bits(made) == 0xFFFFFFFF)
        seen = made.faults["log"].seen
        seen.clear()
        gate = made.faults["a"].gate = threading.Event()
        write = Started(lambda: device.pwrite(b"\xee" * 512, REGION * 5 * 512))
        made.faults["a"].arrived()
        assert [op for op, _, _ in seen] == [Op.WRITE, Op.FLUSH]
        assert seen[0][1:] == (2, 1)  # not the header again
        assert bits(made) == 0xFFFFFFFF & ~(1 << 5)
        # a second write to the region needs no second mark
        made.faults["a"].gate = None
        device.pwrite(b"\xdd" * 512, (REGION * 5 + 1) * 512)
        assert len(seen) == 2
        gate.set()
        write.result()
        # and when all has been quiet, the legs are flushed and it is clean again
        until(device, lambda _: bits(made) == 0xFFFFFFFF)
        flushed = made.faults["a"].seen, made.faults["b"].seen
        assert all(Op.FLUSH in [op for op, _, _ in each] for each in flushed)


def test_a_region_that_is_being_written_is_not_clean(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header() + b"\xff\xff\xff\xff")
        device = made.make(TABLE)
        device.mapped.wait(0)
        copier_of(device).stop()  # the test cleans by itself
        mirror, b = mirror_of(device), made.faults["b"]
        gate = b.gate = threading.Event()
        write = Started(partial(device.pwrite, b"\xee" * 512, 0))
        b.arrived()
        mirror.clean()
        assert not bits(made) & 1
        gate.set()
        write.result()
        # written after the legs were flushed, or while they were: who knows
        b.gate, b.gated = threading.Event(), Op.FLUSH
        clean = Started(mirror.clean)
        b.arrived()
        device.pwrite(b"\xdd" * 512, 0)
        b.gate.set()
        clean.result()
        assert not bits(made) & 1
        mirror.clean()
        assert bits(made) & 1


def test_after_a_crash_the_dirty_regions_are_copied_and_no_others(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header() + b"\xff\xff\xff\xff")
        device = made.make(TABLE)
        device.mapped.wait(0)
        gate = made.faults["b"].gate = threading.Event()
        writes = [
            Started(partial(device.pwrite, b"\xee" * 4096, at * 512))
            for at in (REGION * 3, REGION * 9 - 4)
        ]
        for _ in writes:
            made.faults["b"].arrived()
        assert bits(made) == 0xFFFFFFFF & ~(1 << 3 | 1 << 8 | 1 << 9)
        # pulled out now: a has a write that b has not
        (tmp_path / "crash").mkdir()
        for name in ("a", "b", "log"):
            shutil.copy(made.paths[name], tmp_path / "crash" / f"{name}.img")
        gate.set()
        for write in writes:
            write.result()
    (tmp_path / "again").mkdir()
    with bench(tmp_path / "again", SECTORS) as after:
        for name in ("a", "b", "log"):
            shutil.copyfile(tmp_path / "crash" / f"{name}.img", after.paths[name])
        a, b = after.content("a"), after.content("b")
        device = after.make(TABLE)
        device.mapped.wait(0)
        assert after.content("a") == a
        expected = bytearray(b)
        for region in (3, 8, 9):
            place = slice(region * REGION * 512, (region + 1) * REGION * 512)
            expected[place] = a[place]
        assert after.content("b") == expected


def test_a_grown_mirror_copies_what_is_new(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header(regions=16) + b"\xff\xff")
        device = made.make(TABLE)
        device.mapped.wait(0)
        device.mapped.suspend()
        assert copied_regions(made) == list(range(16, 32))


@pytest.mark.parametrize(
    ("failing", "letter"), [({Op.WRITE}, "D"), ({Op.FLUSH}, "F"), ({Op.WRITE, Op.FLUSH}, "D")]
)
def test_a_log_that_fails(failing: set[Op], letter: str, tmp_path: Path) -> None:
    for table, outcome in ((TABLE, 512), (KEEP, errno.EIO)):
        with bench(tmp_path, SECTORS) as made:
            patterns(made, header() + b"\xff\xff\xff\xff")
            device = made.make(table)
            device.mapped.wait(0)
            made.faults["log"].failing = failing
            assert Started(partial(device.pwrite, b"\xee" * 512, 0)).result() == outcome
            assert status(device).split()[-1] == letter
            assert device.mapped.event_nr == 2
            assert health(device) == "32/32 AA"


def test_a_log_that_fails_holds_writes_until_another_table(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header() + b"\xff\xff\xff\xff")
        device = made.make(HANDLE)
        device.mapped.wait(0)
        made.faults["log"].failing = {Op.WRITE}
        write = Started(lambda: device.pwrite(b"\xee" * 512, 0))
        until(device, lambda mirror: bool(mirror.held))
        assert device.pread(512, 0) == pattern(1, 0, 512)
        device.mapped.suspend(noflush=True)
        device.reload(f"0 {SECTORS} linear {made.paths['a']} 0")
        assert write.result() == 512
        assert device.pread(512, 0) == b"\xee" * 512


def test_a_log_that_cannot_be_read_knows_nothing(tmp_path: Path) -> None:
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header() + b"\xff\xff\xff\xff")
        made.faults["log"].failing = {Op.READ}
        device = made.make(TABLE)
        until(device, lambda mirror: mirror.in_sync)
        assert copied_regions(made) == list(range(32))
        assert status(device).split()[-1] == "D"


def test_state_in_memory_outlives_a_suspend(tmp_path: Path) -> None:
    """A log that could not be written would say that all is well."""
    with bench(tmp_path, SECTORS) as made:
        patterns(made, header() + b"\xff\xff\xff\xff")
        device = made.make(TABLE)
        device.mapped.wait(0)
        made.faults["log"].failing = {Op.WRITE}
        made.faults["b"].failing = {Op.WRITE}
        device.pwrite(b"\xee" * 512, 0)
        assert health(device) == "31/32 AD"
        device.mapped.suspend()
        assert bits(made) == 0xFFFFFFFF
        device.mapped.resume()
        assert mirror_of(device).regions.sync.count == 31 or not mirror_of(device).regions.whole
