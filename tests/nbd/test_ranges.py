# SPDX-License-Identifier: Apache-2.0
"""What lies under a range of bytes: holes, zeros, errors, stripes, several targets."""

from __future__ import annotations

from typing import Any

import pytest

from dmtool.backing import HOLE, ZERO
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd.largeread import LARGE

MIB = 1 << 20


def test_trim_and_zeroes(disk: Any) -> None:
    path = disk.folder / "a.img"
    wire = disk.wire()
    assert path.stat().st_blocks * 512 >= 4 * MIB
    assert wire.ask(p.CMD_TRIM, 0, MIB).error == 0
    assert path.stat().st_blocks * 512 < 3.1 * MIB
    assert wire.ask(p.CMD_WRITE_ZEROES, MIB, MIB).error == 0
    assert path.stat().st_blocks * 512 < 2.1 * MIB
    assert wire.ask(p.CMD_READ, MIB, MIB).data == bytes(MIB)
    assert wire.ask(p.CMD_WRITE_ZEROES, 0, MIB, flags=p.CMD_FLAG_NO_HOLE).error == 0
    assert path.stat().st_blocks * 512 > 2.9 * MIB
    assert wire.ask(p.CMD_WRITE_ZEROES, 2 * MIB + 100, 1000).error == 0
    disk.data[2 * MIB + 100 : 2 * MIB + 1100] = bytes(1000)
    assert wire.ask(p.CMD_READ, 2 * MIB, 4096).data == disk.data[2 * MIB : 2 * MIB + 4096]
    assert wire.ask(p.CMD_CACHE, 0, 4 * MIB).error == 0


def test_block_status(served: Any) -> None:
    served.image("a.img", 2 * MIB)
    with (served.folder / "a.img").open("r+b") as file:
        file.seek(MIB)
        file.write(b"x" * 4096)
    served.table("0 4096 linear a.img 0\n4096 2048 zero\n6144 8 error")
    wire = served.wire()
    size = wire.size
    hole = HOLE | ZERO
    everything = [(MIB, hole), (4096, 0), (MIB - 4096 + MIB, hole), (4096, 0)]
    assert wire.ask(p.CMD_BLOCK_STATUS, 0, size).extents == everything
    assert wire.ask(p.CMD_BLOCK_STATUS, 512, 512).extents == [(512, hole)]
    ends = wire.ask(p.CMD_BLOCK_STATUS, MIB - 1, 4098).extents
    assert ends == [(1, hole), (4096, 0), (1, hole)]
    one = wire.ask(p.CMD_BLOCK_STATUS, 0, size, flags=p.CMD_FLAG_REQ_ONE).extents
    assert one == everything[:1]
    assert served.wire(structured=False).ask(p.CMD_BLOCK_STATUS, 0, 512).error == p.EINVAL


def test_block_status_of_much(served: Any) -> None:
    """More than is asked of the table at once, and more than fits a reply."""
    served.table(f"0 {(4 << 30) // 512 - 8} zero")
    length = (4 << 30) - 4096
    wire = served.wire()
    for flags in (0, p.CMD_FLAG_REQ_ONE):
        reply = wire.ask(p.CMD_BLOCK_STATUS, 0, length, flags=flags)
        assert reply.extents == [(length, HOLE | ZERO)]
    lines = "".join(f"{8 * i} 8 {'zero' if i % 2 else 'error'}\n" for i in range(5000))
    served.table(lines)
    extents = wire.ask(p.CMD_BLOCK_STATUS, 0, 5000 * 4096).extents
    assert extents == [(4096, 0), (4096, HOLE | ZERO)] * 2048


def test_holes_are_told_not_sent(served: Any) -> None:
    served.image("a.img", 8 * MIB)
    with (served.folder / "a.img").open("r+b") as file:
        file.seek(MIB)
        file.write(b"x" * MIB)
    served.table("0 16384 linear a.img 0\n16384 2048 zero")
    data = bytes(MIB) + b"x" * MIB + bytes(7 * MIB)
    wire = served.wire()
    reply = wire.ask(p.CMD_READ, 0, 9 * MIB)
    assert reply.data == data
    sent, told = p.REPLY_TYPE_OFFSET_DATA, p.REPLY_TYPE_OFFSET_HOLE
    assert [kind for kind, _, _ in reply.chunks] == [told, sent, told, told]
    whole = wire.ask(p.CMD_READ, 0, 9 * MIB, flags=p.CMD_FLAG_DF)
    assert whole.data == data
    assert whole.chunks == [(sent, 0, 9 * MIB)]
    small = wire.ask(p.CMD_READ, 8 * MIB, 4096)
    assert small.chunks == [(told, 8 * MIB, 4096)]
    assert wire.ask(p.CMD_READ, 8 * MIB, 4096, flags=p.CMD_FLAG_DF).data == bytes(4096)
    assert wire.ask(p.CMD_READ, 8 * MIB - 512, 1024).data == bytes(1024)
    plain = served.wire(structured=False)
    assert plain.ask(p.CMD_READ, 0, 9 * MIB).data == data
    assert plain.ask(p.CMD_READ, 8 * MIB, 4096).data == bytes(4096)
    assert plain.ask(p.CMD_READ, 0, 4096).data == bytes(4096)


def test_image_of_many_small_holes(served: Any) -> None:
    served.image("a.img", MIB)
    with (served.folder / "a.img").open("r+b") as file:
        for at in range(0, MIB, 8192):
            file.seek(at)
            file.write(b"y" * 4096)
    served.table("0 2048 linear a.img 0")
    reply = served.wire().ask(p.CMD_READ, 0, MIB)
    assert reply.data == (b"y" * 4096 + bytes(4096)) * 128
    assert reply.chunks == [(p.REPLY_TYPE_OFFSET_DATA, 0, MIB)]


@pytest.mark.parametrize("length", [3 * 4096, LARGE])
def test_errors_in_part_of_a_range(served: Any, length: int) -> None:
    data = served.image("a.img", MIB, seed=3)
    served.table("0 8 linear a.img 0\n8 8 error\n16 1024 linear a.img 16\n1040 8 error")
    wire = served.wire()
    reply = wire.ask(p.CMD_READ, 0, length)
    assert reply.error == p.EIO
    assert reply.errors == [(p.EIO, 4096)]
    assert reply.message == "Input/output error"
    sent = p.REPLY_TYPE_OFFSET_DATA
    assert reply.chunks == [(sent, 0, 4096), (sent, 8192, length - 8192)]
    assert reply.data[:4096] == data[:4096]
    assert reply.data[8192:] == data[8192:length]
    whole = wire.ask(p.CMD_READ, 0, length, flags=p.CMD_FLAG_DF)
    assert (whole.chunks, whole.errors) == ([], [(p.EIO, 4096)])
    both = wire.ask(p.CMD_READ, 4096, 1048 * 512 - 4096)
    assert both.errors == [(p.EIO, 4096), (p.EIO, 1040 * 512)]
    assert wire.ask(p.CMD_READ, 4096, 512).errors == [(p.EIO, 4096)]
    plain = served.wire(structured=False)
    assert plain.ask(p.CMD_READ, 0, length).error == p.EIO
    assert plain.ask(p.CMD_READ, 0, 4096).data == data[:4096]


def test_a_write_does_its_good_parts(served: Any, structured: bool) -> None:
    served.image("a.img", MIB)
    served.table("0 8 linear a.img 0\n8 8 error\n16 1024 linear a.img 16")
    wire = served.wire(structured=structured)
    for length, byte in ((3 * 4096, b"a"), (200_000, b"b")):
        assert wire.ask(p.CMD_WRITE, 0, data=byte * length).error == p.EIO
        got = (served.folder / "a.img").read_bytes()[:length]
        assert got == byte * 4096 + bytes(4096) + byte * (length - 8192)


def test_reads_across_stripes_and_targets(served: Any, structured: bool) -> None:
    for name, seed in (("a.img", 1), ("b.img", 2)):
        served.image(name, MIB, seed=seed)
    served.table("0 2048 striped 2 8 a.img 0 b.img 0\n2048 1024 linear a.img 1024")
    data = served.device.live.read(0, 3072 * 512)
    assert len(data) == 3072 * 512
    wire = served.wire(structured=structured)
    for warm in (False, True):
        for offset, length in ((0, 4096), (1000, 10_000), (0, MIB), (5, 3072 * 512 - 7)):
            reply = wire.ask(p.CMD_READ, offset, length)
            assert reply.data == data[offset : offset + length]
            assert not structured or len(reply.chunks) == 1
        if not warm:
            wire.warm_up()


def test_image_without_a_mapping(served: Any, structured: bool) -> None:
    """As one too large for the address space."""
    data = served.image("a.img", 2 * MIB, seed=5)
    served.table("0 4096 linear a.img 0")
    (backing,) = served.device.live.backings
    backing._mapped = True
    assert backing.view is None
    wire = served.wire(structured=structured)
    for _ in range(2):
        for length in (512, LARGE - 512, LARGE, MIB):
            assert wire.ask(p.CMD_READ, 512, length).data == data[512 : 512 + length]
        wire.warm_up()
