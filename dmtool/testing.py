# SPDX-License-Identifier: Apache-2.0
"""For the tests of target types: pattern images, ``check_target``, pytest fixtures.

pytest imports this module in every project of an environment that has dmtool (entry point
``pytest11``), so it imports dmtool only where a test uses it.

Threads: tests call all of it from one thread.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dmtool.device.process import Device
    from dmtool.table import Table

SECTOR = 512


def pattern(index: int, offset: int, length: int) -> bytes:
    """``length`` bytes of a pattern image from byte ``offset`` on.

    Each aligned 8 bytes hold ``index << 56 | their own byte offset``, little-endian (the idea is
    nbdkit's pattern plugin): any wrong mapping shows in any read.
    """
    first, last = offset // 8, -(-(offset + length) // 8)
    words = (index << 56 | 8 * i for i in range(first, last))
    raw = b"".join(struct.pack("<Q", word) for word in words)
    return raw[offset - 8 * first :][:length]


def make_pattern(path: Path | str, index: int, sectors: int) -> str:
    """Write a pattern image of ``sectors`` sectors; returns its path."""
    Path(path).write_bytes(pattern(index, 0, sectors * SECTOR))
    return os.fspath(path)


def check_target(
    module: ModuleType,
    good: Sequence[str],
    bad: Mapping[str, str] | None = None,
    *,
    name: str | None = None,
    length: int = 64,
    sectors: int = 256,
    seed: int = 0,
) -> None:
    """Hold a target type to the contract; raises AssertionError with what is wrong.

    ``good``: arguments that make a target of ``length`` sectors; ``bad``: arguments that are
    refused, each with the reason, or a part of it. ``{a}``, ``{b}``, ``{c}``, ``{d}`` stand for
    pattern images of ``sectors`` sectors each. ``name``: the type's name, by default the
    module's last word without ``dmtool_``.

    Checked: hooks are known and complete; ``bad`` is refused for its reason and leaves nothing
    open; what ``table`` prints goes back in and gives the same; ``status`` is one line; all that
    is mapped lies inside the devices; ``plan`` and ``map`` agree, sector by sector and in random
    ranges; reads have the right length; ``dtr`` leaves no descriptor open.
    """
    from dmtool.table import load
    from dmtool.targets.registry import TARGETS

    type_name = name or module.__name__.rpartition(".")[2].removeprefix("dmtool_")
    TARGETS.register(module, type_name, "under test")
    with tempfile.TemporaryDirectory() as folder:
        images = {
            letter: make_pattern(Path(folder, f"{letter}.img"), i, sectors)
            for i, letter in enumerate("abcd", 1)
        }
        for args in good:
            before = _descriptors()
            line = f"0 {length} {type_name} {args.format_map(images)}"
            table = load(line, source="check_target")
            assert table is not None
            try:
                _check_table(table, Random(seed), line, length)
                again = f"0 {length} {type_name} {table.text(0)}"
            finally:
                table.close()
            assert _descriptors() == before, f"{line!r} leaves a device open"
            table = load(again, source="check_target")
            assert table is not None
            try:
                printed = f"0 {length} {type_name} {table.text(0)}"
                assert printed == again, f"{again!r}, read back, prints as {printed!r}"
            finally:
                table.close()
        for args, reason in (bad or {}).items():
            before = _descriptors()
            line = f"0 {length} {type_name} {args.format_map(images)}"
            said = _refusal(line)
            assert said is not None, f"{line!r} should have been refused: {reason}"
            assert said, f"{line!r} is refused without a reason"
            assert reason in said, f"{line!r}: {said}"
            assert _descriptors() == before, f"{line!r}, refused, leaves a device open"


def _refusal(line: str) -> str | None:
    """The reason for which a table is refused; None if it is not."""
    from dmtool.errors import TableErrors
    from dmtool.table import load

    try:
        table = load(line, source="check_target")
    except TableErrors as errors:
        return str(errors.errors[0])
    if table is not None:
        table.close()
    return None


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _check_table(table: Table, random: Random, line: str, length: int) -> None:
    assert "\n" not in table.status(0), f"{line!r}: status is not one line"
    assert "\n" not in table.text(0), f"{line!r}: table is not one line"
    for sector in range(length):
        for backing, offset, size in table.segments(sector * SECTOR, SECTOR):
            assert 0 <= offset <= offset + size <= backing.size, (
                f"{line!r}: sector {sector} lies outside of {backing}"
            )
    for _ in range(50):
        offset = random.randrange(length * SECTOR)
        size = random.randint(1, length * SECTOR - offset)
        parts = table.read_parts(offset, size)
        got = sum(part for _, part, _ in parts)
        assert got == size, f"{line!r}: a read of {size} bytes gave {got}"
    target = table.targets[0]
    if target.type.map is not None and table.plans[0] is not None:
        _check_agreement(table, random, line, length)


def _check_agreement(table: Table, random: Random, line: str, length: int) -> None:
    from dmtool.table.mapping import PythonMap
    from dmtool.targets.io import Io, Op, Remap

    target = table.targets[0]
    assert target.type.map is not None
    for sector in range(length):
        answer = target.type.map(target, Io(Op.READ, sector, 1))
        planned = table.extent(sector * SECTOR, SECTOR)
        if isinstance(answer, Remap):
            mapped = (answer.device, answer.sector * SECTOR)
            assert mapped == planned, f"{line!r}: map and plan differ at sector {sector}"
    mapping = PythonMap(target)
    for _ in range(50):
        offset = random.randrange(length * SECTOR)
        size = random.randint(1, length * SECTOR - offset)
        planned_bytes = _outcomes([(n, data) for _, n, data in table.read_parts(offset, size)])
        mapped_bytes = _outcomes(mapping.pread_parts(size, offset))
        assert planned_bytes == mapped_bytes, (
            f"{line!r}: map and plan read differently at byte {offset}, length {size}"
        )


def _outcomes(parts: list[tuple[int, bytes | OSError]]) -> list[int | None]:
    """One entry a byte: its value, or minus the errno."""
    flat: list[int | None] = []
    for size, data in parts:
        flat += [-(data.errno or 5)] * size if isinstance(data, OSError) else data
    return flat


@pytest.fixture
def dm_pattern(tmp_path: Path) -> Callable[..., str]:
    """``dm_pattern(name, sectors=2048)`` makes a pattern image and returns its path; the first
    has index 1, the next 2, and so on."""
    made: list[str] = []

    def make(name: str, sectors: int = 2048) -> str:
        made.append(name)
        return make_pattern(tmp_path / name, len(made), sectors)

    return make


@pytest.fixture
def dm_device() -> Iterator[Callable[..., Device]]:
    """``dm_device(table_text, **options)`` makes a device in this process, closed at the end."""
    import dmtool

    with ExitStack() as stack:

        def make(text: str, **options: Any) -> Device:
            return stack.enter_context(dmtool.Device.from_table(text, **options))

        yield make
