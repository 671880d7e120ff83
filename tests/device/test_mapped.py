# SPDX-License-Identifier: Apache-2.0
"""One mapped device: tables swap under I/O, a refused step leaves all as it was."""

from __future__ import annotations

import errno
import gc
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from dmtool.api import (
    Args,
    Extent,
    Fail,
    Fanout,
    Io,
    Mirrored,
    Remap,
    Target,
    TargetError,
    hookimpl,
)
from dmtool.device import MappedBacking, MappedDevice
from dmtool.errors import TableErrors
from dmtool.table import Table, load
from dmtool.targets.registry import TARGETS
from dmtool.testing import pattern
from tests.openfiles import open_in


def _table(text: str, **options: object) -> Table:
    table = load(text, source="test", **options)  # type: ignore[arg-type]
    assert table is not None
    return table


def _device(text: str, **options: object) -> MappedDevice:
    device = MappedDevice("t")
    device.load(_table(text, **options))
    device.resume()
    return device


def test_load_does_not_touch_the_live_table(dm_pattern: Callable[..., str]) -> None:
    a, b = dm_pattern("a"), dm_pattern("b")
    device = _device(f"0 8 linear {a} 0")
    device.load(_table(f"0 16 linear {b} 0"))
    assert device.size == 4096
    assert device.read(0, 512) == pattern(1, 0, 512)
    device.resume()
    assert device.size == 8192
    assert device.read(0, 512) == pattern(2, 0, 512)
    assert device.inactive is None
    device.destroy()


def test_clear_and_second_load_close_what_they_replace(dm_pattern: Callable[..., str]) -> None:
    a = dm_pattern("a")
    device = _device("0 8 zero")
    for _ in range(3):
        device.load(_table(f"0 8 linear {a} 0"))
    assert open_in(os.path.dirname(a))
    device.clear()
    device.clear()
    assert not open_in(os.path.dirname(a))
    device.destroy()


def test_suspended_io_waits_and_is_done_on_the_new_table(dm_pattern: Callable[..., str]) -> None:
    a, b = dm_pattern("a"), dm_pattern("b")
    device = _device(f"0 8 linear {a} 0")
    device.suspend()
    device.suspend()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(device.read(0, 512)))
    thread.start()
    device.load(_table(f"0 8 linear {b} 0"))
    assert device.suspended
    assert not got
    device.resume()
    thread.join(10)
    assert got == [pattern(2, 0, 512)]
    device.destroy()


def test_no_request_fails_or_tears_while_tables_swap(dm_pattern: Callable[..., str]) -> None:
    a, b = dm_pattern("a"), dm_pattern("b")
    device = _device(f"0 2048 linear {a} 0")
    whole = {pattern(1, 0, 1 << 20), pattern(2, 0, 1 << 20)}
    stop = threading.Event()
    wrong: list[object] = []

    def reader() -> None:
        try:
            while not stop.is_set():
                if device.read(0, 1 << 20) not in whole:
                    wrong.append("torn")
        except OSError as error:
            wrong.append(error)

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(100):
        device.load(_table(f"0 2048 linear {(b, a)[i % 2]} 0"))
        device.resume()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    device.destroy()


def test_removal_turns_waiting_io_away() -> None:
    device = _device("0 8 zero")
    device.suspend()
    errors: list[int | None] = []

    def read() -> None:
        try:
            device.read(0, 512)
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=read)
    thread.start()
    device.destroy()
    thread.join(10)
    assert errors == [errno.ENXIO]
    with pytest.raises(OSError, match="No such device"):
        device.resume()


def test_a_device_without_table() -> None:
    device = MappedDevice("t")
    device.resume()  # as in the kernel: nothing happens
    assert device.size == 0
    with pytest.raises(OSError, match="Input/output"):
        device.read(0, 0)
    with pytest.raises(OSError, match="No such device"):
        device.open()


def test_readonly_refuses_writes_and_opens_readonly(dm_pattern: Callable[..., str]) -> None:
    a = dm_pattern("a")
    device = _device(f"0 8 linear {a} 0", readonly=True)
    for write in (
        lambda: device.write(0, b"x" * 512),
        lambda: device.discard(0, 512),
        lambda: device.write_zeroes(0, 512),
    ):
        with pytest.raises(OSError, match="not permitted") as caught:
            write()
        assert caught.value.errno == errno.EPERM
    device.flush()
    device.destroy()


def test_out_of_range() -> None:
    device = _device("0 8 zero")
    with pytest.raises(OSError, match="Invalid argument"):
        device.read(4095, 2)
    with pytest.raises(OSError, match="No space left"):
        device.write(4096, b"x")
    assert device.read(4096, 0) == b""
    device.destroy()


def test_events_wake_waiters_and_survive_reload() -> None:
    device = _device("0 8 zero")
    device.raise_event()
    assert device.wait(0) == 1
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(device.wait(1)))
    thread.start()
    device.load(_table("0 8 error"))
    device.resume()
    assert device.event_nr == 1
    device.rename("u")
    thread.join(10)
    assert got == [2]
    reading, writing = os.pipe()
    os.close(writing)  # hung up: the one who asked has gone
    assert device.wait(2, reading) is None
    os.close(reading)
    device.destroy()
    with pytest.raises(OSError, match="No such device"):
        device.wait(2)


class _Below:
    def __init__(self, device: MappedDevice) -> None:
        self.device = device

    def mapped(self, word: str) -> MappedBacking | None:
        return MappedBacking(self.device) if word == "/dev/mapper/low" else None


def test_stacked_devices(dm_pattern: Callable[..., str]) -> None:
    a = dm_pattern("a")
    low = _device(f"0 8 linear {a} 8\n8 8 error\n16 8 linear {a} 100")
    low.minor = 7
    top = _device("0 20 linear /dev/mapper/low 2\n", devices=_Below(low))
    assert low.open_count == 1
    assert top.live is not None
    assert top.live.text(0) == "1000:7 2"
    assert top.read(0, 3072) == pattern(1, 10 * 512, 3072)
    sizes = [(length, isinstance(data, bytes)) for _, length, data in top.read_parts(0, 20 * 512)]
    assert sizes == [(3072, True), (4096, False), (3072, True)]
    top.write(0, b"\xee" * 3072, fua=True)
    assert low.read(1024, 3072) == b"\xee" * 3072
    with pytest.raises(
        TableErrors, match="dm-7 too small for target: start=5, len=20, dev_size=24"
    ):
        load("0 20 linear /dev/mapper/low 5", devices=_Below(low))
    assert low.open_count == 1
    top.destroy()
    assert low.open_count == 0
    low.destroy()


def _plugin(name: str, **hooks: Callable[..., object]) -> ModuleType:
    module = ModuleType(f"dmtool_{name}")
    for hook, function in hooks.items():
        setattr(module, hook, hookimpl(specname=hook)(function))
    TARGETS.register(module, name, "under test")
    return module


def test_preresume_may_refuse_and_nothing_has_happened(dm_pattern: Callable[..., str]) -> None:
    def refuse(ti: Target[None]) -> None:
        raise TargetError("not today")

    _plugin(
        "refusing",
        ctr=lambda ti, args: args.rest() and None,
        plan=lambda ti: Fail(errno.EIO),
        preresume=refuse,
    )
    a = dm_pattern("a")
    device = _device(f"0 8 linear {a} 0")
    device.load(_table("0 8 refusing"))
    with pytest.raises(TargetError, match="not today"):
        device.resume()
    assert not device.suspended
    assert device.inactive is not None
    assert device.read(0, 512) == pattern(1, 0, 512)
    device.suspend()
    with pytest.raises(TargetError, match="not today"):
        device.resume()
    assert device.suspended
    device.destroy()


def test_replan_moves_a_target_without_losing_io(
    tmp_path: Path, dm_pattern: Callable[..., str]
) -> None:
    def ctr(ti: Target[list[Extent]], args: Args) -> list[Extent]:
        return [args.extent(), args.extent()]

    _plugin("moving", ctr=ctr, plan=lambda ti: ti.context[0])
    a, b = dm_pattern("a"), dm_pattern("b")
    device = _device(f"0 8 linear {b} 50\n8 8 moving {a} 0 {b} 0")
    assert device.read(4096, 512) == pattern(1, 0, 512)
    assert device.live is not None
    target = device.live.targets[1]
    target.context.reverse()
    target.replan()
    assert device.read(4096, 512) == pattern(2, 0, 512)
    device.destroy()


def test_life_cycle_hooks_come_in_the_kernels_order() -> None:
    calls: list[str] = []
    hooks = "presuspend postsuspend preresume resume dtr".split()
    _plugin(
        "loud",
        ctr=lambda ti, args: calls.append("ctr"),
        plan=lambda ti: Fail(errno.EIO),
        **{hook: lambda ti, hook=hook: calls.append(hook) for hook in hooks},  # type: ignore[misc]
    )
    device = _device("0 8 loud")
    device.suspend()
    device.resume()
    device.destroy()
    assert (
        calls
        == (
            "ctr preresume resume presuspend postsuspend preresume resume presuspend postsuspend dtr"
        ).split()
    )


def test_a_mirrored_plan_falls_back_to_map(dm_pattern: Callable[..., str]) -> None:
    asked: list[Io] = []

    def answer(ti: Target[Mirrored], io: Io) -> Fanout:
        asked.append(io)
        at = io.sector - ti.begin
        return Fanout(tuple(Remap(e.device, e.start + at) for e in ti.context.extents[1:]))

    _plugin(
        "twice",
        ctr=lambda ti, args: Mirrored((args.extent(), args.extent())),
        map=answer,
        plan=lambda ti: ti.context,
    )
    a, b = dm_pattern("a"), dm_pattern("b")
    device = _device(f"0 8 zero\n8 16 twice {a} 8 {b} 4")
    assert device.read(4096, 512) == pattern(1, 4096, 512)
    device.write(4000, b"\xee" * 1000)
    table = device.live
    assert table is not None
    extent = table.read_extent(4096, 512)
    assert extent is not None
    assert (str(extent[0]), extent[1]) == (a, 4096)
    assert Path(a).read_bytes()[4096:5000] == b"\xee" * 904
    assert Path(b).read_bytes()[2048:2952] == b"\xee" * 904
    assert not asked
    os.truncate(a, 0)
    assert device.read(8192, 512) == pattern(2, 6144, 512)
    assert [(io.sector, io.count) for io in asked] == [(16, 1)]
    device.destroy()


def test_a_retired_device_cannot_be_opened() -> None:
    device = _device("0 8 zero")
    device.open()
    assert device.retire() == 1
    device.close()
    assert device.retire() == 0
    with pytest.raises(OSError, match="No such device"):
        device.open()
    device.unretire()
    device.open()
    device.close()
    device.destroy()


def test_a_table_that_is_gone_leaves_nothing_behind(dm_pattern: Callable[..., str]) -> None:
    """No cycle keeps it: an idle process does not look for them."""
    _plugin(
        "alone",
        ctr=lambda ti, args: args.rest() and None,
        plan=lambda ti: Fail(errno.EIO),
        dtr=lambda ti: ti.event(),
    )
    a = dm_pattern("a")
    device = _device(f"0 8 linear {a} 0\n8 8 alone")
    assert device.live is not None
    gone = weakref.ref(device.live)
    device.live.targets[1].replan(wait=False)
    target = device.live.targets[1]
    gc.disable()
    try:
        device.destroy()
        del device
        assert gone() is None
    finally:
        gc.enable()
    # what runs on in the background may still say so
    target.event()
    target.replan()
