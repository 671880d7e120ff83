# SPDX-License-Identifier: Apache-2.0
"""Random operations on a file, each compared with a model in memory, as fsx does:

    python exerciser.py FILE OPERATIONS SEED

The file keeps its size. What it did is told in one line of JSON; the first difference ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import random
import sys
from collections import Counter

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
LONGEST = 256 << 10
BLOCK = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class Exerciser:
    """``model`` is what the file must hold."""

    def __init__(self, path: str, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.fd = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.size = os.fstat(self.fd).st_size
        self.model = bytearray(self._read(self.fd, 0, self.size))
        self.memory: mmap.mmap | None = None
        with contextlib.suppress(OSError):  # ENODEV: Linux before 6.6 maps no such file
            self.memory = mmap.mmap(self.fd, self.size)
        self.buffer = mmap.mmap(-1, LONGEST)  # aligned
        self.done: Counter[str] = Counter()

    def run(self, operations: int) -> None:
        kinds = [self.read, self.write, self.read_direct, self.write_direct, self.punch, self.zero]
        kinds += [self.read, self.write, self.refuse, self.sync, self.reopen, self.seek]
        if self.memory is not None:
            kinds += [self.read_memory, self.write_memory, self.sync_memory]
        for number in range(operations):
            kind = self.random.choice(kinds)
            try:
                kind()
            except AssertionError as error:
                raise AssertionError(f"operation {number}, {kind.__name__}: {error}") from error
            self.done[kind.__name__] += 1
        if self.memory is not None:
            self.memory.flush()
        self._same(0, self._read(self.fd, 0, self.size), "the whole file")

    def read(self) -> None:
        offset, length = self._range()
        self._same(offset, self._read(self.fd, offset, length), "read")

    def write(self) -> None:
        offset, length = self._range()
        data = self.random.randbytes(length)
        assert os.pwrite(self.fd, data, offset) == length
        self.model[offset : offset + length] = data

    def read_direct(self) -> None:
        offset, length = self._range(BLOCK)
        view = memoryview(self.buffer)[:length]
        assert os.preadv(self.direct, [view], offset) == length
        self._same(offset, bytes(view), "direct read")

    def write_direct(self) -> None:
        offset, length = self._range(BLOCK)
        data = self.random.randbytes(length)
        self.buffer[:length] = data
        assert os.pwritev(self.direct, [memoryview(self.buffer)[:length]], offset) == length
        self.model[offset : offset + length] = data

    def punch(self) -> None:
        self._fallocate(PUNCH_HOLE | KEEP_SIZE)

    def zero(self) -> None:
        self._fallocate(ZERO_RANGE | self.random.choice((0, KEEP_SIZE)))

    def refuse(self) -> None:
        size = self.random.choice((0, self.size, self.random.randrange(2 * self.size)))
        refused = 0
        try:
            os.ftruncate(self.fd, size)
        except OSError as error:
            refused = error.errno or 0
        assert refused == errno.EINVAL, f"truncate: {os.strerror(refused)}"
        assert os.fstat(self.fd).st_size == self.size

    def sync(self) -> None:
        self.random.choice((os.fsync, os.fdatasync))(self.fd)

    def reopen(self) -> None:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def seek(self) -> None:
        """What is in a hole is zero."""
        if self.memory is not None:
            self.memory.flush()  # the kernel asks without looking at what it has not written yet
        offset = self.random.randrange(self.size)
        try:
            data = os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = self.size
        assert not any(self.model[offset:data]), f"{offset} to {data} is no hole"

    def read_memory(self) -> None:
        assert self.memory is not None
        offset, length = self._range()
        self._same(offset, self.memory[offset : offset + length], "read of memory")

    def write_memory(self) -> None:
        assert self.memory is not None
        offset, length = self._range()
        data = self.random.randbytes(length)
        self.memory[offset : offset + length] = data
        self.model[offset : offset + length] = data

    def sync_memory(self) -> None:
        assert self.memory is not None
        self.memory.flush()

    def _range(self, unit: int = 1) -> tuple[int, int]:
        longest = self.random.choice((64, BLOCK, LONGEST, LONGEST))
        length = max(self.random.randrange(1, longest + 1) // unit * unit, unit)
        offset = self.random.randrange(self.size - length + 1) // unit * unit
        return offset, length

    def _fallocate(self, mode: int) -> None:
        offset, length = self._range()
        arguments = ctypes.c_int64(offset), ctypes.c_int64(length)
        assert _libc.fallocate(self.fd, mode, *arguments) == 0, os.strerror(ctypes.get_errno())
        self.model[offset : offset + length] = bytes(length)

    def _read(self, fd: int, offset: int, length: int) -> bytes:
        parts = []
        while length:
            part = os.pread(fd, length, offset)
            assert part, f"end of the file at {offset}"
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def _same(self, offset: int, found: bytes, what: str) -> None:
        expected = self.model[offset : offset + len(found)]
        if found != expected:
            first = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
            raise AssertionError(f"{what} at {offset}: differs from byte {offset + first} on")


def main() -> None:
    path, operations, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    exerciser = Exerciser(path, seed)
    exerciser.run(operations)
    sys.stdout.write(json.dumps(exerciser.done) + "\n")


if __name__ == "__main__":
    main()
