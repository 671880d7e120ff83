# SPDX-License-Identifier: Apache-2.0
"""Programs that know nothing of devices use the files; several at once, and NBD clients with
them. With DMTOOL_TEST_LONG=1 fio verifies for a minute."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.conftest import LONG, MIB, run

Images = Callable[..., Path]
SECTORS = 64 << 11  # 64 MiB
STRIPED = f"0 {SECTORS} striped 2 64 a.img 0 b.img 8"


@pytest.fixture
def striped(images: Images) -> str:
    for name in ("a.img", "b.img"):
        images(name, 33 * MIB)
    return f"vol={STRIPED}"


@pytest.mark.timeout(300)
@pytest.mark.tools("fio")
def test_fio_verifies_while_nbd_is_used(serve: Any, striped: str, tmp_path: Path) -> None:
    """Eight jobs through the file, others through NBD, each on its own range."""
    process = serve(striped)
    seconds = 60 if LONG else 3
    common = [
        *("fio", "--output-format=json", "--rw=randwrite", "--verify=crc32c", "--do_verify=1"),
        *("--verify_fatal=1", "--verify_backlog=64", "--time_based", f"--runtime={seconds}"),
        *("--size=4M", "--bsrange=512-128k", "--blockalign=512", "--random_generator=tausworthe64"),
    ]
    jobs = [
        [*common, "--name=file", f"--filename={process.mapper / 'vol'}", "--ioengine=libaio",
         "--iodepth=8", "--numjobs=4", "--offset_increment=4M"],
        [*common, "--name=direct", f"--filename={process.mapper / 'vol'}", "--ioengine=libaio",
         "--iodepth=8", "--direct=1", "--numjobs=4", "--offset=16M", "--offset_increment=4M"],
        [*common, "--name=nbd", "--ioengine=nbd", "--iodepth=8", "--numjobs=2", "--offset=32M",
         f"--uri=nbd+unix:///vol?socket={process.mapper.parent / 'nbd.sock'}",
         "--offset_increment=4M"],
    ]  # fmt: skip
    with ThreadPoolExecutor(len(jobs)) as pool:
        for told in pool.map(lambda job: run(*job, timeout=seconds + 120, cwd=tmp_path), jobs):
            for job in json.loads(told[told.index("{") :])["jobs"]:
                assert job["error"] == 0
                assert job["write"]["total_ios"] > 0
                assert job["read"]["total_ios"] > 0
    process.stop()


def test_many_readers_and_writers(served: Any, striped: str, tmp_path: Path) -> None:
    served.add("vol", STRIPED, cwd=tmp_path)
    path = served.mapper / "vol"

    def work(number: int) -> bool:
        chance = random.Random(number)
        part = bytearray(MIB)
        with path.open("r+b", buffering=0) as file:
            for _ in range(60):
                length = chance.randrange(1, 100_000)
                at = chance.randrange(MIB - length)
                if chance.random() < 0.5:
                    part[at : at + length] = chance.randbytes(length)
                    assert os.pwrite(file.fileno(), part[at : at + length], number * MIB + at)
                elif os.pread(file.fileno(), length, number * MIB + at) != part[at : at + length]:
                    return False
        return True

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(work, range(64)))


def test_dd(serve: Any, striped: str, tmp_path: Path, images: Images) -> None:
    process = serve(striped)
    vol = process.mapper / "vol"
    data = images("data", 10 * MIB, random.Random(1).randbytes(10 * MIB))
    run("dd", f"if={data}", f"of={vol}", "bs=64k", "status=none")
    run("dd", f"if={data}", f"of={vol}", "bs=1M", "seek=20", "conv=notrunc", "oflag=direct")
    run(
        "dd", f"if={vol}", f"of={tmp_path / 'copy'}", "bs=1M", "skip=20", "count=10", "iflag=direct"
    )
    assert (tmp_path / "copy").read_bytes() == data.read_bytes()
    run("dd", "if=/dev/zero", f"of={vol}", "bs=512", "count=1")
    assert vol.read_bytes()[: 10 * MIB] == bytes(512) + data.read_bytes()[512:]
    assert vol.stat().st_size == SECTORS << 9
    process.stop()


@pytest.mark.tools("qemu-img", "qemu-io")
def test_qemu(serve: Any, striped: str, images: Images, tmp_path: Path) -> None:
    process = serve(striped)
    vol = process.mapper / "vol"
    data = images("data", SECTORS << 9, random.Random(2).randbytes(5 * MIB))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", data, vol)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", data, vol)
    run("qemu-io", "-f", "raw", "-d", "unmap", "-c", "write -P 7 1M 1M", "-c", "discard 2M 1M",
        "-c", "write -z 3M 1M", "-c", "read -P 7 1M 1M", "-c", "flush", "-t", "none", vol)  # fmt: skip
    holes = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", vol))
    data_bytes = sum(extent["length"] for extent in holes if extent["data"])
    assert data_bytes < 6 * MIB
    assert vol.read_bytes()[MIB : 4 * MIB] == b"\7" * MIB + bytes(2 * MIB)
    process.stop()


def test_sqlite(serve: Any, striped: str, tmp_path: Path) -> None:
    """Its journal has to be elsewhere: nothing can be made in the directory."""
    process = serve(striped)
    made = tmp_path / "made.db"
    with sqlite3.connect(made) as db:
        db.execute("create table numbers (n integer primary key, square integer)")
    db.close()
    (process.mapper / "vol").write_bytes(made.read_bytes())
    for _ in range(2):
        db = sqlite3.connect(process.mapper / "vol")
        db.execute("pragma journal_mode = memory")
        with db:
            db.executemany(
                "insert or replace into numbers values (?, ?)", [(n, n * n) for n in range(20_000)]
            )
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        assert db.execute("select sum(square) from numbers").fetchone() == (2666466670000,)
        db.close()
    process.stop()


def test_a_closed_file_is_closed_when_the_program_has_ended(serve: Any, striped: str) -> None:
    """The kernel tells of the close without waiting: the device is not busy for it."""
    process = serve(striped)
    for _ in range(200):
        with (process.mapper / "vol").open("rb") as file:
            file.read(1)
        (process.control / "vol").rmdir()
        (process.control / "vol").mkdir()
        (process.control / "vol" / "table").write_text("0 8 zero\n")
    process.stop()
