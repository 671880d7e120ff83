# SPDX-License-Identifier: Apache-2.0
"""An ext4 file system, cut up over several files, put together by a table, and used by the NBD
clients of libnbd and qemu."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clients.conftest import Core, Tools

pytestmark = pytest.mark.tools("mkfs.ext4", "e2fsck", "debugfs", "nbdcopy", "nbdinfo", "qemu-io")

SECTOR, BLOCK = 512, 4096
CHUNK = 7  # sectors of a stripe: neither a power of two nor a part of a block
SECTORS = 3 * CHUNK * 8 * 300  # a whole number of stripes, and of blocks


@dataclass(frozen=True)
class Piece:
    """``length`` sectors of the device from ``start`` on are those of ``file`` from ``offset``."""

    start: int
    length: int
    file: str
    offset: int


@dataclass(frozen=True)
class Layout:
    """A table, and where by our own reckoning it puts every sector of the device."""

    table: str
    pieces: list[Piece]

    def scatter(self, image: bytes, files: dict[str, bytearray]) -> None:
        for piece in self.pieces:
            data = image[piece.start * SECTOR : (piece.start + piece.length) * SECTOR]
            begin = piece.offset * SECTOR
            files[piece.file][begin : begin + len(data)] = data

    def gather(self, files: dict[str, bytearray]) -> bytes:
        return b"".join(
            files[piece.file][piece.offset * SECTOR : (piece.offset + piece.length) * SECTOR]
            for piece in self.pieces
        )


def linear() -> tuple[Layout, dict[str, bytearray]]:
    """Pieces of odd lengths, in no order, with bytes of others' around them."""
    chance = random.Random(1)
    lengths: list[int] = []
    while (left := SECTORS - sum(lengths)) > 9001:
        lengths.append(chance.randrange(1, 9000, 2))
    lengths.append(left)
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    files = {f"piece{i}.img": bytearray() for i in range(4)}
    pieces = []
    for start, length in chance.sample(list(zip(starts, lengths, strict=True)), len(lengths)):
        name = chance.choice(sorted(files))
        files[name] += chance.randbytes(chance.randrange(0, 64) * SECTOR)
        pieces.append(Piece(start, length, name, len(files[name]) // SECTOR))
        files[name] += bytes(length * SECTOR)
    for name in files:
        files[name] += chance.randbytes(chance.randrange(5000))  # a tail that is no sector
    pieces.sort(key=lambda piece: piece.start)
    table = "".join(f"{p.start} {p.length} linear {p.file} {p.offset}\n" for p in pieces)
    return Layout(table, pieces), files


def striped() -> tuple[Layout, dict[str, bytearray]]:
    """Chunks dealt out to three files in turn."""
    chance = random.Random(2)
    offsets = {"a.img": 0, "b.img": 13, "c.img": 2048}
    each = SECTORS // 3
    files = {n: bytearray(chance.randbytes((o + each + 5) * SECTOR)) for n, o in offsets.items()}
    pieces = []
    for number in range(SECTORS // CHUNK):
        name = "abc"[number % 3] + ".img"
        pieces.append(Piece(number * CHUNK, CHUNK, name, offsets[name] + number // 3 * CHUNK))
    words = " ".join(f"{name} {offset}" for name, offset in offsets.items())
    return Layout(f"0 {SECTORS} striped 3 {CHUNK} {words}\n", pieces), files


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred files, from none to three million bytes."""
    root = tmp_path_factory.mktemp("tree")
    chance = random.Random(2001)
    (root / "large").write_bytes(chance.randbytes(3_000_001))
    for number in range(300):
        folder = root / f"folder{number % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"file{number}").write_bytes(chance.randbytes(int(2 ** chance.uniform(0, 16))))
    (root / "empty").touch()
    (root / "link").symlink_to("folder1/file1")
    with (root / "sparse").open("wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    return root


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 image with these files."""
    from subprocess import run

    path = tmp_path_factory.mktemp("image") / "ext4.img"
    with path.open("wb") as file:
        file.truncate(SECTORS * SECTOR)
    run(["mkfs.ext4", "-q", "-b", str(BLOCK), "-d", tree, path], check=True, capture_output=True)
    return path


class Disk:
    """The device ``fs`` made of the pieces of the image."""

    def __init__(self, dmtool: Core, image: Path, layout: Layout, files: dict[str, bytearray]):
        self.folder = dmtool.files
        self.image = image
        self.layout = layout
        self.files = files
        layout.scatter(image.read_bytes(), files)
        for name, content in files.items():
            write_sparse(self.folder / name, content)
        dmtool("create", "fs", stdin=layout.table)
        self.uri = dmtool.uri("fs")

    def content(self) -> bytes:
        """What the files have of the image now; whatever else is in them is as it was."""
        now = {name: bytearray((self.folder / name).read_bytes()) for name in self.files}
        content = self.layout.gather(now)
        self.layout.scatter(content, self.files)
        assert now == self.files
        return content


@pytest.fixture(params=[linear, striped])
def disk(request: pytest.FixtureRequest, dmtool: Core, image: Path) -> Disk:
    make: Callable[[], tuple[Layout, dict[str, bytearray]]] = request.param
    return Disk(dmtool, image, *make())


def write_sparse(path: Path, content: bytes | bytearray) -> None:
    """Write a file; blocks of zeros become holes."""
    zeros = bytes(BLOCK)
    with path.open("wb") as file:
        for at in range(0, len(content), BLOCK):
            block = content[at : at + BLOCK]
            if block != zeros[: len(block)]:
                file.seek(at)
                file.write(block)
        file.truncate(len(content))


def holes(path: Path, offset: int, length: int) -> Iterator[tuple[int, bool]]:
    """What the file system says of a part of a file: (bytes, whether it is a hole), in order."""
    end = offset + length
    with path.open("rb") as file:
        while offset < end:
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                data = end
            hole = data > offset
            to = min(end, data if hole else os.lseek(file.fileno(), offset, os.SEEK_HOLE))
            yield to - offset, hole
            offset = to


def check_filesystem(tools: Tools, path: Path) -> None:
    assert "UNEXPECTED INCONSISTENCY" not in tools("e2fsck", "-fn", path)


def free_runs(tools: Tools, path: Path) -> list[tuple[int, int]]:
    """(first, number) of the runs of free blocks."""
    runs = []
    for line in tools("dumpe2fs", path).splitlines():
        head, _, rest = line.partition(": ")
        if head == "  Free blocks":
            for word in filter(None, rest.split(", ")):
                first, _, last = word.partition("-")
                runs.append((int(first), int(last or first) - int(first) + 1))
    return runs


def test_clients_read_what_was_cut_up(disk: Disk, dmtool: Core, tools: Tools) -> None:
    tools("nbdcopy", disk.uri, "copy.img")
    assert tools.sha256("copy.img") == tools.sha256(disk.image)
    check_filesystem(tools, tools.path / "copy.img")
    said = tools("qemu-img", "compare", "-f", "raw", "-F", "raw", disk.uri, disk.image)
    assert said == "Images are identical.\n"
    assert dmtool.output("read", "fs") == disk.image.read_bytes()


def test_one_connection_and_many(disk: Disk, tools: Tools) -> None:
    """nbdcopy's ways to ask: one request at a time, small ones, several connections."""
    assert "can_multi_conn: true" in tools("nbdinfo", disk.uri)
    expected = tools.sha256(disk.image)
    ways = ("--synchronous", "--request-size=4096 --requests=64", "--connections=4 --threads=4")
    for options in ways:
        tools("nbdcopy", *options.split(), "--no-extents", disk.uri, "copy.img")
        assert tools.sha256("copy.img") == expected, options


def test_map_shows_the_holes_of_the_files(disk: Disk, tools: Tools) -> None:
    expected: list[tuple[int, int, int]] = []
    for piece in disk.layout.pieces:
        start, path = piece.start * SECTOR, disk.folder / piece.file
        for length, hole in holes(path, piece.offset * SECTOR, piece.length * SECTOR):
            flags = 3 if hole else 0  # NBD_STATE_HOLE, NBD_STATE_ZERO
            if expected and expected[-1][2] == flags:
                first, before, _ = expected.pop()
                expected.append((first, before + length, flags))
            else:
                expected.append((start, length, flags))
            start += length
    assert {flags for _, _, flags in expected} == {0, 3}
    assert tools.map(disk.uri) == expected


def test_writes_and_discards_are_those_of_a_plain_image(disk: Disk, tools: Tools) -> None:
    """qemu-io does the same to the export and to a copy of the image: in the blocks of one of its
    files, and in free ones, so that it is a sound file system all the time."""
    plain = Path(shutil.copy(disk.image, tools.path / "plain.img"))
    chance = random.Random(3)
    words = tools("debugfs", "-R", "blocks /large", plain).split()
    blocks = [int(word) for word in words if word != "0"]
    commands = []
    for block in chance.sample(blocks, 30):
        offset = block * BLOCK + chance.randrange(BLOCK)
        length = min(chance.randrange(1, BLOCK), (block + 1) * BLOCK - offset)
        flags = chance.choice(["", "-f ", "-z "])
        pattern = "" if flags == "-z " else f"-P {chance.randrange(256)} "
        commands.append(f"write {flags}{pattern}{offset} {length}")
    runs = free_runs(tools, plain)
    for first, number in chance.choices(runs, [number for _, number in runs], k=30):
        start = first * BLOCK // SECTOR + chance.randrange(8)
        length = chance.randrange(1, number * BLOCK // SECTOR - 8)
        command = chance.choice(["write -P 85", "write -z", "write -z -u", "discard"])
        commands.append(f"{command} {start * SECTOR} {length * SECTOR}")
    commands.append("flush")

    for target in (disk.uri, plain):
        tools.qemu_io(target, *commands)
    said = tools("qemu-img", "compare", "-f", "raw", "-F", "raw", disk.uri, plain)
    assert said == "Images are identical.\n"
    content = disk.content()
    assert content == plain.read_bytes()
    assert content != disk.image.read_bytes()
    joined = tools.path / "joined.img"
    joined.write_bytes(content)
    check_filesystem(tools, joined)


def test_discarded_space_is_given_back(disk: Disk, tools: Tools) -> None:
    """A TRIM of everything leaves holes and nothing else of the device in the files."""
    tools.qemu_io(disk.uri, f"discard 0 {SECTORS * SECTOR}", "flush")
    assert disk.content() == bytes(SECTORS * SECTOR)
    before = disk.image.stat().st_blocks * SECTOR
    around = sum(len(content) for content in disk.files.values()) - SECTORS * SECTOR
    after = sum((disk.folder / name).stat().st_blocks * SECTOR for name in disk.files)
    # every end of a piece may keep a block; chunks of 7 sectors that are next to each other in a
    # file are discarded together
    assert after < around + before / 2


def test_a_changed_file_system_is_copied_back(disk: Disk, tree: Path, tools: Tools) -> None:
    changed = Path(shutil.copy(disk.image, tools.path / "changed.img"))
    (tools.path / "new").write_bytes(random.Random(4).randbytes(500_000))
    script = ["rm /large", "mkdir /later", "write new /later/new", "rm /folder3/file3", "quit"]
    (tools.path / "script").write_text("\n".join(script) + "\n")
    tools("debugfs", "-w", "-f", "script", changed)

    tools("nbdcopy", "--flush", changed, disk.uri)
    content = disk.content()
    assert content == changed.read_bytes()
    joined = tools.path / "joined.img"
    joined.write_bytes(content)
    check_filesystem(tools, joined)
    tools("debugfs", "-R", f"rdump / {tools.path}", joined)
    assert (tools.path / "later" / "new").read_bytes() == (tools.path / "new").read_bytes()
    gone = {"folder3/file3", "large", "link"}
    for path in tree.rglob("*"):
        name = str(path.relative_to(tree))
        if path.is_file() and name not in gone:
            assert (tools.path / name).read_bytes() == path.read_bytes(), name
        assert (tools.path / name).exists() == (name not in {"large", "folder3/file3"})
