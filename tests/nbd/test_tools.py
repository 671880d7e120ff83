# SPDX-License-Identifier: Apache-2.0
"""The clients that people use."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
SIZE = 16 * MIB


def run(*command: str | Path, path: str | None = None) -> str:
    env = {**os.environ, "PATH": path} if path else None
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def uri(served: Any) -> str:
    """Of 16 MiB in three parts, with a hole and zeros in it; ``served.bytes()`` reads it."""
    served.image("a.img", 8 * MIB, seed=1)
    served.image("b.img", 8 * MIB)
    with (served.folder / "b.img").open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"b" * MIB)
    served.table(
        "0 16384 striped 2 128 a.img 0 b.img 0\n"
        "16384 8192 linear b.img 8192\n"
        "24576 8192 linear a.img 8192"
    )
    served.bytes = lambda: served.device.read(0, SIZE)
    return f"nbd+unix:///dev?socket={served.socket}"


@pytest.mark.tools("nbdinfo")
def test_nbdinfo(uri: str) -> None:
    told = json.loads(run("nbdinfo", "--json", uri))
    (export,) = told["exports"]
    assert told["protocol"] == "newstyle-fixed"
    assert told["structured"]
    assert export["export-name"] == "dev"
    assert export["description"] == "mapped device 1000:3, 3 targets"
    assert export["contexts"] == ["base:allocation"]
    assert export["export-size"] == SIZE
    sizes = [export[f"block_size_{which}"] for which in ("minimum", "preferred", "maximum")]
    assert sizes == [1, 4096, 32 * MIB]
    wanted = "can_cache can_df can_fua can_flush can_multi_conn can_trim can_zero".split()
    assert all(export[flag] for flag in wanted)
    assert not export["is_read_only"]
    listed = run("nbdinfo", "--list", "--json", uri)
    assert {e["export-name"] for e in json.loads(listed)["exports"]} == {"dev"}


@pytest.mark.tools("nbdinfo")
def test_nbdinfo_map(served: Any, uri: str) -> None:
    """The allocation that the map tells is true: what it calls zero reads as zeros."""
    data = served.bytes()
    end = zeros = 0
    for extent in json.loads(run("nbdinfo", "--map", "--json", uri)):
        begin, length = extent["offset"], extent["length"]
        assert begin == end
        end = begin + length
        if extent["type"] & 2:
            zeros += length
            assert data[begin:end] == bytes(length)
    assert end == SIZE
    assert zeros > 3 * MIB


@pytest.mark.tools("nbdcopy")
@pytest.mark.parametrize("options", [[], ["--connections=1", "--requests=4"], ["--synchronous"]])
def test_nbdcopy(served: Any, uri: str, options: list[str], tmp_path: Path) -> None:
    copy, other = tmp_path / "copy", tmp_path / "other"
    run("nbdcopy", *options, uri, copy)
    assert copy.read_bytes() == served.bytes()
    other.write_bytes(bytes(MIB) + b"other" * (3 * MIB) + bytes(0))
    run("nbdcopy", *options, "--flush", other, uri)
    assert served.bytes() == other.read_bytes() + served.bytes()[SIZE:]


@pytest.mark.tools("qemu-img")
def test_qemu_img(served: Any, uri: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, copy)
    assert copy.read_bytes() == served.bytes()
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, copy)
    with copy.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"c" * 3 * MIB)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", copy, uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, copy)
    assert json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri))


@pytest.mark.tools("qemu-io")
def test_qemu_io(served: Any, uri: str) -> None:
    commands = [
        "write -P 0x11 0 1M",
        "write -P 0x22 -f 1M 70000",
        "write -z 2M 1M",
        "write -z -u 3M 64k",
        "discard 4M 1M",
        "aio_write -P 0x33 6M 3M",
        "aio_write -P 0x44 9M 512",
        "aio_flush",
        "flush",
        "read -P 0x11 0 1M",
        "read -P 0x22 1M 70000",
        "read -P 0 2M 1M",
        "read -P 0x33 6M 3M",
        "read -P 0x44 9M 512",
    ]
    out = run("qemu-io", "-f", "raw", *[w for c in commands for w in ("-c", c)], uri)
    assert "failed" not in out
    assert served.bytes()[:MIB] == b"\x11" * MIB


@pytest.mark.tools("nbdsh")
def test_nbdsh(uri: str) -> None:
    """libnbd with its own checks of what servers send."""
    script = """
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(URI)
assert h.get_structured_replies_negotiated()
buf = h.pread(1 << 20, 512)
chunks = []
def chunk(data, offset, status, error):
    chunks.append((offset, len(data), status))
assert h.pread_structured(1 << 20, 512, chunk) == buf
assert h.pread_structured(1 << 20, 512, chunk, nbd.CMD_FLAG_DF) == buf
for i in range(200):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i]) * 8192), 8192 * i)
while h.aio_in_flight():
    h.poll(-1)
for i in range(200):
    assert h.pread(8192, 8192 * i) == bytes([i]) * 8192
h.flush()
try:
    h.pread(512, h.get_size())
except nbd.Error as error:
    assert error.errno == "EINVAL", error
else:
    raise AssertionError
h.shutdown()
""".replace("URI", repr(uri))
    # with the python3 that it was packaged for
    run("nbdsh", "-c", script, path="/usr/bin:/bin")


@pytest.mark.tools("fio")
@pytest.mark.parametrize(
    "how",
    [["--bs=4k"], ["--bs=128k"], ["--bsrange=512-64k"], ["--bs=4k", "--verify_backlog=64"]],
    ids=["4k", "128k", "512-64k", "4k at once"],
)
def test_fio_verifies(uri: str, how: list[str]) -> None:
    run(
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", *how,
        "--size=16m", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--fsync=50",
        "--randseed=1", "--verify_state_save=0",
    )  # fmt: skip
