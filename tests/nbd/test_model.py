# SPDX-License-Identifier: Apache-2.0
"""Random requests, many in flight, against a bytearray that does the same."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dmtool.export.nbd import protocol as p

SIZE = 3 << 20
TABLES = {
    "linear": "0 6144 linear a.img 0",
    "pieces": "0 8 linear a.img 6\n8 4088 linear b.img 0\n4096 2047 linear a.img 17\n"
    "6143 1 linear b.img 6000",
    "striped": "0 6144 striped 3 8 a.img 0 b.img 2048 c.img 1",
    "wide stripes": "0 6144 striped 2 1024 a.img 0 b.img 0",
}
LENGTHS = [1, 511, 512, 4096, 5000, 65536, 65537, 300_000, 1 << 20]
COMMANDS = [p.CMD_READ] * 5 + [p.CMD_WRITE] * 5 + [p.CMD_WRITE_ZEROES, p.CMD_FLUSH, p.CMD_CACHE]


class Model:
    """Requests whose ranges never meet one that is in flight, unless both are reads: all others
    are not ordered."""

    def __init__(self, wires: list[Any], seed: int) -> None:
        self.random = random.Random(seed)
        self.wires = wires
        self.data = bytearray(wires[0].nbd.pread(SIZE, 0))
        self.flying: dict[tuple[int, int], tuple[int, int, int, bytes]] = {}

    def step(self) -> None:
        number = self.random.randrange(len(self.wires))
        if len(self.flying) < 24 and self.random.random() < 0.6:
            self.ask(number)
        elif any(wire == number for wire, _ in self.flying):
            self.answer(number)

    def ask(self, number: int) -> None:
        command = self.random.choice(COMMANDS)
        length = 0 if command == p.CMD_FLUSH else self.random.choice(LENGTHS)
        offset = self.random.randrange(SIZE - length + 1) if length else 0
        if self.random.random() < 0.5:
            offset, length = offset & ~511, (length + 511) & ~511
        if offset + length > SIZE or self.meets(command, offset, length):
            return
        data = self.random.randbytes(length) if command == p.CMD_WRITE else b""
        flags = p.CMD_FLAG_FUA if self.random.random() < 0.1 else 0
        if length <= 65536:
            cookie = self.wires[number].send(command, offset, length, data, flags=flags)
        else:
            # the server may have to send what nobody takes yet before it receives all of this
            while any(wire == number for wire, _ in self.flying):
                self.answer(number)
            cookie = self.wires[number].send(command, offset, length, data, flags=flags)
        self.flying[number, cookie] = command, offset, length, data

    def meets(self, command: int, offset: int, length: int) -> bool:
        return any(
            offset < at + size and at < offset + length
            for other, at, size, _ in self.flying.values()
            if command != p.CMD_READ or other != p.CMD_READ
        )

    def answer(self, number: int) -> None:
        cookie, reply = self.wires[number].reply()
        command, offset, length, data = self.flying.pop((number, cookie))
        assert reply.error == 0
        if command == p.CMD_READ:
            assert reply.data == self.data[offset : offset + length]
        elif command == p.CMD_WRITE:
            self.data[offset : offset + length] = data
        elif command == p.CMD_WRITE_ZEROES:
            self.data[offset : offset + length] = bytes(length)

    def end(self) -> None:
        while self.flying:
            self.answer(next(iter(self.flying))[0])
        assert self.wires[0].nbd.pread(SIZE, 0) == self.data


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("connections", [1, 3])
def test_random_requests(served: Any, structured: bool, table: str, connections: int) -> None:
    for seed, name in enumerate(("a.img", "b.img", "c.img")):
        served.image(name, SIZE + 8192, seed=seed)
    served.table(TABLES[table])
    wires = [served.wire(structured=structured) for _ in range(connections)]
    model = Model(wires, seed=connections)
    for _ in range(400):
        model.step()
    model.end()
    assert served.device.read(0, SIZE) == model.data
