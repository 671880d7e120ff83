# SPDX-License-Identifier: Apache-2.0
"""Targets that change their plan under I/O, and flushes that fail below them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dmtool import Device
from dmtool.api import Args, Defer, Done, Extent, Io, Mirrored, Op, Remap, Target, hookimpl
from dmtool.targets.registry import TARGETS

Make = Callable[..., Device]


def _plugin(name: str, **hooks: Callable[..., object]) -> None:
    module = ModuleType(f"dmtool_{name}")
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(specname=hook)(function))
    TARGETS.register(module, name, "under test")


def _remap(ti: Target[Any], io: Io) -> Remap:
    extent: Extent = ti.context.extents[0]
    return Remap(extent.device, extent.start + io.sector - ti.begin)


def _flush_fails(reported: dict[str, int]) -> Callable[[Target[Any], Io, int], int]:
    def end_io(ti: Target[Any], io: Io, error: int) -> int:
        reported[str(io.device)] = error
        return ti.context.answer if io.op is Op.FLUSH else error

    return end_io


class _Context:
    def __init__(self, *extents: Extent) -> None:
        self.extents = extents
        self.answer = 0


@pytest.fixture
def unflushable(tmp_path: Path) -> Any:
    """A device whose flushes fail while ``failing`` has something in it; its writes do not."""
    with ExitStack() as stack:

        def make(name: str, failing: list[int]) -> Device:
            def answer(ti: Target[Extent], io: Io) -> Remap | Done:
                if io.op is Op.FLUSH and failing:
                    raise OSError(failing[0], os.strerror(failing[0]))
                return Remap(ti.context.device, ti.context.start + io.sector)

            def ctr(ti: Target[Extent], args: Args) -> Extent:
                ti.ops |= {Op.FLUSH}
                return args.extent()

            _plugin(f"unflushable{name}", ctr=ctr, map=answer)
            path = tmp_path / name
            path.write_bytes(bytes(64 * 512))
            return stack.enter_context(Device.from_table(f"0 64 unflushable{name} {path} 0"))

        yield make


def test_devices_of_one_process_are_told_apart(dm_pattern: Callable[..., str]) -> None:
    a, b = dm_pattern("a"), dm_pattern("b")
    with (
        Device.from_table(f"0 8 linear {a} 0") as one,
        Device.from_table(f"0 8 linear {b} 0") as other,
        Device.from_table(
            "0 8 linear /dev/mapper/one 0\n8 8 linear /dev/mapper/other 0",
            below={"one": one, "other": other},
        ) as top,
    ):
        assert top.pread(512, 0) == one.pread(512, 0)
        assert top.pread(512, 4096) == other.pread(512, 0)
        assert one.pread(512, 0) != other.pread(512, 0)


def test_a_target_has_a_say_when_a_flush_fails_below_it(unflushable: Any, dm_device: Make) -> None:
    failing = [errno.EIO]
    low = unflushable("low", failing)
    reported: dict[str, int] = {}
    _plugin(
        "forgiving",
        ctr=lambda ti, args: _Context(args.extent()),
        map=_remap,
        plan=lambda ti: ti.context.extents[0],
        end_io=_flush_fails(reported),
    )
    below = {"low": low}
    device = dm_device("0 8 forgiving /dev/mapper/low 0", below=below)
    name = f"1000:{low.mapped.minor}"
    device.flush()
    assert reported == {name: errno.EIO}
    device.mapped.suspend()
    device.mapped.resume()
    assert device.mapped.live is not None
    device.mapped.live.targets[0].context.answer = errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        device.flush()
    # who does not forgive is not overruled by one who does
    mixed = dm_device("0 8 forgiving /dev/mapper/low 0\n8 8 linear /dev/mapper/low 8", below=below)
    with pytest.raises(OSError, match="Input/output"):
        mixed.flush()


def test_a_mirrors_write_through_is_a_write_and_flushes(unflushable: Any, dm_device: Make) -> None:
    """A flush that fails is not taken for a write that did, which would be done again."""
    failing: list[int] = []
    legs = {name: unflushable(name, failing if name == "b" else []) for name in "ab"}
    reported: dict[str, int] = {}
    asked: list[Io] = []

    def answer(ti: Target[_Context], io: Io) -> Remap:
        asked.append(io)
        return _remap(ti, io)

    _plugin(
        "twolegs",
        ctr=lambda ti, args: _Context(args.extent(), args.extent()),
        map=answer,
        plan=lambda ti: Mirrored(ti.context.extents),
        end_io=_flush_fails(reported),
    )
    device = dm_device("0 8 twolegs /dev/mapper/a 0 /dev/mapper/b 0", below=legs)
    device.mapped.write(0, b"\xee" * 512, fua=True)
    failing.append(errno.EIO)
    device.mapped.write(512, b"\xdd" * 512, fua=True)
    assert reported == {f"1000:{legs['b'].mapped.minor}": errno.EIO}
    assert not asked
    for leg in legs.values():
        assert leg.pread(1024, 0) == b"\xee" * 512 + b"\xdd" * 512


def test_zeros_that_a_map_has_put_somewhere_are_flushed(unflushable: Any, dm_device: Make) -> None:
    low = unflushable("low", [errno.EIO])
    _plugin("mapping", ctr=lambda ti, args: _Context(args.extent()), map=_remap)
    device = dm_device("0 8 mapping /dev/mapper/low 0", below={"low": low})
    device.write_zeroes(0, 4096)
    with pytest.raises(OSError, match="Input/output"):
        device.mapped.write_zeroes(0, 4096, fua=True)


def test_a_target_may_replan_from_within_its_map(
    dm_pattern: Callable[..., str], dm_device: Make
) -> None:
    def answer(ti: Target[_Context], io: Io) -> Defer:
        def give_up_the_plan() -> Remap:
            if not ti.context.answer:
                ti.context.answer = 1
                ti.replan(wait=False)
            return _remap(ti, io)

        return Defer(give_up_the_plan)

    def plan(ti: Target[_Context]) -> Mirrored | None:
        return None if ti.context.answer else Mirrored(ti.context.extents[::-1])

    _plugin(
        "fickle",
        ctr=lambda ti, args: _Context(args.extent(), args.extent()),
        map=answer,
        plan=plan,
        iterate_devices=lambda ti, fn: None,
    )
    a, b = dm_pattern("a"), dm_pattern("b")
    device = dm_device(f"0 64 fickle {a} 0 {b} 0")
    table = device.mapped.live
    assert table is not None
    os.truncate(b, 0)
    expected = Path(a).read_bytes()[:512]
    assert device.pread(512, 0) == expected
    assert table.plans[0] is None
    assert device.pread(512, 0) == expected
    assert table.blocks(0, 512)
    # a plan that is back is not held to have blocked
    table.targets[0].context.answer = 0
    table.targets[0].replan()
    assert not table.blocks(0, 512)


def test_partial_writes_take_turns_across_a_replan(dm_pattern: Callable[..., str]) -> None:
    """Both read the sector first: what one has written must not be lost to the other."""
    inside, go = threading.Semaphore(0), threading.Event()

    def answer(ti: Target[_Context], io: Io) -> Remap | Defer:
        def wait() -> Remap:
            inside.release()
            assert go.wait(10)
            return _remap(ti, io)

        return Defer(wait) if io.op is Op.WRITE else _remap(ti, io)

    _plugin(
        "slow",
        ctr=lambda ti, args: _Context(args.extent()),
        map=answer,
        iterate_devices=lambda ti, fn: None,
    )
    a = dm_pattern("a")
    with Device.from_table(f"0 64 slow {a} 0") as device:
        assert device.mapped.live is not None
        first = threading.Thread(target=device.pwrite, args=(b"\xee" * 10, 0))
        first.start()
        assert inside.acquire(timeout=10)
        device.mapped.live.targets[0].replan(wait=False)
        second = threading.Thread(target=device.pwrite, args=(b"\xdd" * 10, 100))
        second.start()
        go.set()
        first.join()
        second.join()
        assert device.pread(10, 0) == b"\xee" * 10
        assert device.pread(10, 100) == b"\xdd" * 10


def test_a_removal_tells_targets_before_it_waits_for_their_io(
    dm_pattern: Callable[..., str],
) -> None:
    suspending, held = threading.Event(), threading.Event()

    def hold() -> Done:
        held.set()
        assert suspending.wait(10)
        raise OSError(errno.EIO, "given up")

    _plugin(
        "held",
        ctr=lambda ti, args: _Context(args.extent()),
        map=lambda ti, io: Defer(hold),
        presuspend=lambda ti: suspending.set(),
        iterate_devices=lambda ti, fn: None,
    )
    device = Device.from_table(f"0 64 held {dm_pattern('a')} 0")
    errors: list[int | None] = []

    def read() -> None:
        try:
            device.pread(512, 0)
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=read)
    thread.start()
    assert held.wait(10)
    device.close()
    thread.join(10)
    assert errors == [errno.EIO]
