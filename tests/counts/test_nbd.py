# SPDX-License-Identifier: Apache-2.0
"""What requests over NBD cost: system calls, and bytes copied; not time.

The bounds leave room for a socket that holds less than a batch and for clients that are slow or
quick. A request that costs a call more than it did is beyond them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.incoming import BUFFER
from tests.counts.trace import MIB, Calls, Traced

# one traced core for all, so one worker runs them
pytestmark = [pytest.mark.tools("strace"), pytest.mark.xdist_group("counts")]

SECTORS = 16 << 11  # of each image
DEPTH = 32
BATCHES = 16
LARGE = 8
READS = ("pread64", "preadv", "preadv2", "read")
WRITES = ("pwrite64", "pwritev", "pwritev2")
# what a thread may look for more before it sleeps; in C it looks for a time
LOOKS = 200
# that a batch reads from; that a write goes to
FILES = {"linear": 2, "striped": 4, "mirror": 1}
LEGS = {"mirror": 2}
# of a large request
PIECES = {"whole": 1, "pieces": 4}


@pytest.fixture(scope="module", params=["python", pytest.param("native", marks=pytest.mark.native)])
def traced(request: pytest.FixtureRequest) -> Generator[Traced]:
    """All loads, one after the other, on one connection to a device of each kind; plain requests
    in Python, and in C."""
    # tmpfs: a disk that others use must not make reads wait
    folder = Path(tempfile.mkdtemp(prefix="dmtool-counts-", dir="/dev/shm"))
    try:
        images = [folder / name for name in "abcd"]
        for image in images:
            image.write_bytes(b"\xd5" * (SECTORS * 512))
        a, b, *_ = images
        made = Traced(folder, DMTOOL_LANE=request.param)
        lines = [f"{n * 8} 8 linear {(a, b)[n % 2]} {n * 8}" for n in range(SECTORS // 8)]
        made.create("linear", "\n".join(lines))
        legs = " ".join(f"{image} 0" for image in images)
        made.create("striped", f"0 {SECTORS * 2} striped 4 128 {legs}")
        made.create("whole", f"0 {SECTORS} linear {a} 0")
        made.create("pieces", f"0 {SECTORS * 2} striped 2 512 {a} 0 {b} 0")
        made.create("mirror", f"0 {SECTORS} mirror core 2 64 nosync 2 {a} 0 {b} 0")
        for name in ("linear", "striped", "mirror"):
            _small(made, name)
        for name in ("whole", "pieces"):
            for structured in (False, True):
                _large(made, name, structured)
        made.end()
        yield made
    finally:
        shutil.rmtree(folder)


def _small(traced: Traced, name: str) -> None:
    load = traced.connect(name)
    word = name[:3].upper()
    load.batches(p.CMD_READ, 4096, DEPTH, 8)  # what is read is cached: that is found out first
    with load.marked(f"{word}READ"):
        load.batches(p.CMD_READ, 4096, DEPTH, BATCHES)
    with load.marked(f"{word}WRIT"):
        load.batches(p.CMD_WRITE, 4096, DEPTH, BATCHES)
    with load.marked(f"{word}ONE"):
        load.batches(p.CMD_READ, 4096, 1, DEPTH)
    load.mark(f"{word}IDLE")  # and never again
    traced.client.call("version")
    load.close()


def _large(traced: Traced, name: str, structured: bool) -> None:
    load = traced.connect(name, structured=structured)
    word = name[0].upper() + ("CHU" if structured else "SIM")
    load.read_large(LARGE)
    with load.marked(f"{word}READ"):
        load.read_large(LARGE)
    with load.marked(f"{word}WRIT"):
        load.write_large(LARGE)
    load.close()


@pytest.mark.parametrize("name", ["linear", "striped", "mirror"])
class TestSmall:
    def calls(self, traced: Traced, name: str, load: str) -> Calls:
        return traced.calls(f"{name[:3].upper()}{load}")

    def test_a_batch_of_reads_is_received_once_and_answered_once(
        self, traced: Traced, name: str
    ) -> None:
        calls = self.calls(traced, name, "READ")
        assert calls.number("recvfrom") <= 2 * BATCHES, calls
        assert calls.number("sendmsg", "sendto") <= 2 * BATCHES, calls
        # of each file once a batch: whether it is still whole
        assert calls.number("lseek") <= FILES[name] * 2 * BATCHES, calls
        assert calls.done <= BATCHES * DEPTH / 3, calls

    def test_reads_are_sent_without_a_copy(self, traced: Traced, name: str) -> None:
        calls = self.calls(traced, name, "READ")
        assert calls.number(*READS) == 0, calls
        assert calls.bytes("sendmsg") == BATCHES * DEPTH * (4096 + p.SIMPLE_REPLY.size)

    def test_a_write_is_one_call_a_leg(self, traced: Traced, name: str) -> None:
        calls = self.calls(traced, name, "WRIT")
        assert calls.number(*WRITES) == BATCHES * DEPTH * LEGS.get(name, 1), calls
        assert calls.done <= (LEGS.get(name, 1) + 1) * BATCHES * DEPTH, calls

    def test_a_write_is_copied_twice(self, traced: Traced, name: str) -> None:
        calls = self.calls(traced, name, "WRIT")
        assert calls.bytes(*WRITES) == BATCHES * DEPTH * 4096 * LEGS.get(name, 1)
        # the mark at the end may be received with it
        most = BATCHES * DEPTH * (4096 + p.REQUEST.size) + p.REQUEST.size
        assert calls.bytes("recvfrom", "recvmsg") <= most

    def test_one_request_at_a_time(self, traced: Traced, name: str) -> None:
        calls = self.calls(traced, name, "ONE")
        assert calls.done <= 4 * DEPTH, calls
        assert calls.looks <= LOOKS * (DEPTH + 1), calls

    def test_an_idle_connection_costs_nothing(self, traced: Traced, name: str) -> None:
        calls = self.calls(traced, name, "IDLE")
        assert calls.looks <= LOOKS, calls
        assert calls.done <= 32, calls


@pytest.mark.parametrize("name", ["whole", "pieces"])
@pytest.mark.parametrize("replies", ["simple", "structured"])
class TestLarge:
    def calls(self, traced: Traced, name: str, replies: str, load: str) -> Calls:
        return traced.calls(f"{name[0].upper()}{'SIM' if replies == 'simple' else 'CHU'}{load}")

    def test_reads_are_sent_by_the_kernel(self, traced: Traced, name: str, replies: str) -> None:
        calls = self.calls(traced, name, replies, "READ")
        assert calls.bytes("sendfile") == LARGE * MIB, calls
        assert calls.bytes("sendmsg", "sendto", *READS) <= LARGE * 128, calls

    def test_a_read_does_not_search_the_file_for_holes(
        self, traced: Traced, name: str, replies: str
    ) -> None:
        calls = self.calls(traced, name, replies, "READ")
        assert calls.number("lseek") <= 4 * LARGE * PIECES[name], calls
        # tmpfs looks at every page up to the next hole: of a file without, at all of it
        assert not [call for call in calls if "SEEK_HOLE" in call.text]

    def test_writes_arrive_in_large_pieces(self, traced: Traced, name: str, replies: str) -> None:
        calls = self.calls(traced, name, replies, "WRIT")
        most = LARGE * (MIB + p.REQUEST.size) + p.REQUEST.size
        assert calls.bytes("recvfrom", "recvmsg") <= most, calls
        # into the file's mapping; but before the first nobody knows that it is one of many
        assert calls.bytes(*WRITES) <= BUFFER, calls
        assert calls.number(*WRITES, "recvfrom", "recvmsg") <= LARGE * MIB // (8 << 10), calls
