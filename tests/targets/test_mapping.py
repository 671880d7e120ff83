# SPDX-License-Identifier: Apache-2.0
"""Targets without a plan: every answer that map may give, and what a plugin's bug does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from dmtool import Device
from dmtool.api import (
    Args,
    Defer,
    Delay,
    Done,
    Extent,
    Fail,
    Fanout,
    Io,
    Op,
    Remap,
    Requeue,
    Target,
    Verdict,
    Zero,
    hookimpl,
)
from dmtool.backing.image import ImageFile
from dmtool.targets.registry import TARGETS
from dmtool.targets.waiting import MustWait, hurry, patience
from dmtool.testing import pattern

Make = Callable[..., Device]


@pytest.fixture
def device(dm_pattern: Callable[..., str], dm_device: Make) -> Callable[..., Device]:
    """A device: 8 sectors linear, 16 of a made type on images 1 and 2, 8 linear."""

    def make(answer: Callable[[Target[Any], Io], Any], **more: Any) -> Device:
        module = ModuleType("dmtool_made")
        ops = more.pop("ops", None)
        max_io_len = more.pop("max_io_len", 0)

        def ctr(ti: Target[Any], args: Args) -> list[Extent]:
            ti.max_io_len = max_io_len
            if ops:
                ti.ops = ti.ops | ops
            return [args.extent(), args.extent()]

        for name, function in {"ctr": ctr, "map": answer, **more}.items():
            setattr(module, name, hookimpl(specname=name)(function))
        TARGETS.register(module, "made", "made-dist 1")
        a, b = dm_pattern("a"), dm_pattern("b")
        return dm_device(f"0 8 linear {a} 0\n8 16 made {a} 8 {b} 8\n24 8 linear {a} 24\n")

    return make


def _linear(ti: Target[Any], io: Io) -> Remap:
    extent = ti.context[0]
    return Remap(extent.device, extent.start + io.sector - ti.begin)


def test_remap_reads_and_writes_at_any_byte(device: Make) -> None:
    dev = device(_linear)
    model = bytearray(pattern(1, 0, 32 * 512))
    assert dev.pread(32 * 512, 0) == model
    for offset, length in [
        (4096, 512),
        (4000, 700),
        (5000, 3),
        (4100, 8000),
        (0, 16384),
        (12287, 2),
    ]:
        dev.pwrite(b"\xee" * length, offset)
        model[offset : offset + length] = b"\xee" * length
        assert dev.pread(32 * 512, 0) == model
    assert dev.pread(5000, 3333) == model[3333:8333]


def test_io_lies_within_the_target_and_max_io_len(device: Make) -> None:
    seen: list[tuple[int, int]] = []

    def answer(ti: Target[Any], io: Io) -> Remap:
        seen.append((io.sector, io.count))
        return _linear(ti, io)

    dev = device(answer, max_io_len=5)
    dev.pread(32 * 512, 0)
    assert seen == [(8, 5), (13, 5), (18, 5), (23, 1)]


def test_partial_remap_asks_again(device: Make) -> None:
    def answer(ti: Target[Any], io: Io) -> Remap:
        return Remap(ti.context[0].device, io.sector, min(io.count, 3))

    dev = device(answer)
    assert dev.pread(32 * 512, 0) == pattern(1, 0, 32 * 512)
    dev.pwrite(b"\xee" * 4096, 4096)
    assert dev.pread(4096, 4096) == b"\xee" * 4096


def test_fanout_writes_to_all_and_reads_the_first_that_can(device: Make) -> None:
    broken: list[bool] = []

    def answer(ti: Target[Any], io: Io) -> Fanout:
        at = io.sector - ti.begin
        start = 1 << 20 if broken else ti.context[0].start + at
        return Fanout((Remap(ti.context[0].device, start), Remap(ti.context[1].device, at + 8)))

    dev = device(answer)
    dev.pwrite(b"\xee" * 1024, 4096)
    assert dev.pread(1024, 4096) == b"\xee" * 1024
    broken.append(True)
    assert dev.pread(1024, 4096) == b"\xee" * 1024
    assert dev.pread(512, 4096 + 1024) == pattern(2, 4096 + 1024, 512)


def test_fail_zero_done(device: Make) -> None:
    def answer(ti: Target[Any], io: Io) -> Verdict:
        kind = io.sector % 3
        if kind == 0:
            return Fail(errno.ENOSPC)
        return Zero() if kind == 1 else Done(b"d" * 512 if io.op is Op.READ else None)

    dev = device(answer, max_io_len=1)
    parts = dev.mapped.read_parts(8 * 512, 3 * 512)  # sectors 8, 9, 10
    assert parts[0][2] == b"d" * 512
    failed = parts[1][2]
    assert isinstance(failed, OSError)
    assert failed.errno == errno.ENOSPC
    assert parts[2][2] == bytes(512)


def test_defer_and_delay(device: Make) -> None:
    def answer(ti: Target[Any], io: Io) -> Verdict:
        return Defer(lambda: Delay(0.0, _linear(ti, io)))

    dev = device(answer)
    live = dev.mapped.live
    assert live is not None
    assert not live.blocks(0, 32 * 512)
    assert dev.pread(32 * 512, 0) == pattern(1, 0, 32 * 512)
    assert live.blocks(0, 32 * 512)
    assert not live.blocks(0, 4096)
    assert not live.blocks(12288, 4096)


def test_write_data_may_be_replaced_and_reads_changed(device: Make) -> None:
    def swap(data: Any) -> bytes:
        return bytes(b ^ 0xFF for b in bytes(data))

    def answer(ti: Target[Any], io: Io) -> Remap:
        if io.op is Op.WRITE:
            io.data = swap(io.data)
        return _linear(ti, io)

    def end_io(ti: Target[Any], io: Io, error: int) -> int:
        if io.op is Op.READ and not error:
            io.data = swap(io.data)
        return error

    dev = device(answer, end_io=end_io)
    assert dev.pread(512, 4096) == swap(pattern(1, 4096, 512))
    dev.pwrite(b"hello", 5000)
    assert dev.pread(9, 4998) == swap(pattern(1, 4998, 2)) + b"hello" + swap(pattern(1, 5005, 2))
    # zeros are written as data, since the target changes what it stores
    dev.write_zeroes(4096, 1024)
    assert dev.pread(1024, 4096) == bytes(1024)


def test_end_io_may_heal_and_break(device: Make) -> None:
    def end_io(ti: Target[Any], io: Io, error: int) -> int:
        if error:
            io.data = b"healed!!" * (64 * io.count)
            return 0
        return errno.EIO

    dev = device(
        lambda ti, io: Fail(5) if io.sector == 8 else _linear(ti, io), end_io=end_io, max_io_len=1
    )
    assert dev.pread(512, 8 * 512) == b"healed!!" * 64
    with pytest.raises(OSError, match="Input/output error"):
        dev.pread(512, 9 * 512)


def test_flush_and_discard_only_where_declared(device: Make) -> None:
    seen: list[Op] = []

    def answer(ti: Target[Any], io: Io) -> Remap:
        seen.append(io.op)
        return _linear(ti, io)

    dev = device(answer)
    dev.flush()
    dev.discard(4096, 4096)
    assert seen == []
    dev = device(answer, ops={Op.FLUSH, Op.DISCARD, Op.WRITE_ZEROES})
    dev.flush()
    dev.discard(4096, 4096)
    dev.write_zeroes(4096, 4096)
    assert seen == [Op.FLUSH, Op.DISCARD, Op.WRITE_ZEROES]
    assert dev.pread(4096, 4096) == bytes(4096)


def _raises(ti: Target[Any], io: Io) -> Remap:
    raise KeyError("bug")


@pytest.mark.parametrize("split", [None, 3])
@pytest.mark.parametrize("allocate", [False, True])
def test_zeros_know_whether_they_take_up_space(
    device: Make, monkeypatch: pytest.MonkeyPatch, allocate: bool, split: int | None
) -> None:
    told = []

    def zero(self: ImageFile, offset: int, length: int, *, allocate: bool) -> None:
        told.append((offset, length, allocate))

    monkeypatch.setattr(ImageFile, "write_zeroes", zero)

    def answer(ti: Target[Any], io: Io) -> Remap:
        to = _linear(ti, io)
        return Remap(to.device, to.sector, split) if split and io.count > split else to

    dev = device(answer, ops={Op.WRITE_ZEROES})
    dev.mapped.write_zeroes(4096, 4096, allocate=allocate)
    assert sum(length for _, length, _ in told) == 4096
    assert {flag for _, _, flag in told} == {allocate}


def test_what_must_not_wait_does_not(device: Make) -> None:
    """It is told so before anything was waited for, and before end_io."""
    ran: list[str] = []

    def answer(ti: Target[Any], io: Io) -> Defer:
        ran.append("map")
        return Defer(lambda: ran.append("function") or _linear(ti, io))  # type: ignore[func-returns-value]

    dev = device(answer, end_io=lambda ti, io, error: ran.append("end_io") or error)
    with hurry():
        for call in (lambda: dev.pread(512, 4096), lambda: dev.pwrite(b"x", 4100)):
            with pytest.raises(MustWait):
                call()
        assert ran == ["map"] * 2
        with patience():
            assert dev.pread(512, 4096) == pattern(1, 4096, 512)
    assert ran[2:] == ["map", "function", "end_io"]
    dev.pwrite(b"x", 4100)
    assert dev.pread(1, 4100) == b"x"


@pytest.mark.parametrize("where", ["map", "end_io"])
def test_requeue_is_an_error_at_any_other_time(device: Make, where: str) -> None:
    """dm_io_complete (dm.c): the kernel takes it so only while it suspends without flush."""

    def requeue(*_: object) -> Remap:
        raise Requeue

    dev = device(requeue) if where == "map" else device(_linear, end_io=requeue)
    for call in (lambda: dev.pread(512, 4096), lambda: dev.pwrite(b"x", 4100)):
        with pytest.raises(OSError, match="Input/output error"):
            call()
    dev.mapped.suspend(noflush=True)
    dev.mapped.resume()
    with pytest.raises(OSError, match="Input/output error"):
        dev.pread(512, 4096)


def test_requeue_counts_more_than_errors(device: Make) -> None:
    """dm_io_set_error (dm.c), wherever in the I/O it comes."""
    suspending = threading.Event()
    arrived = threading.Event()

    def answer(ti: Target[Any], io: Io) -> Verdict:
        def hold() -> Verdict:
            arrived.set()
            assert suspending.wait(10)
            raise Requeue

        return Defer(hold) if io.sector % 3 == 1 and not suspending.is_set() else Fail(errno.EIO)

    for op in (
        lambda dev: dev.pread(4 * 512, 8 * 512),
        lambda dev: dev.pwrite(bytes(4 * 512), 8 * 512),
        lambda dev: dev.mapped.read_parts(8 * 512, 4 * 512),
    ):
        suspending.clear()
        arrived.clear()
        dev = device(answer, max_io_len=1, presuspend=lambda ti: suspending.set())
        done: list[object] = []
        thread = threading.Thread(target=lambda op=op, dev=dev, done=done: done.append(op(dev)))  # type: ignore[misc]
        thread.start()
        assert arrived.wait(10)
        dev.mapped.suspend(noflush=True)
        dev.reload("0 32 zero")
        dev.mapped.resume()
        thread.join(10)
        assert len(done) == 1


@pytest.mark.parametrize(
    "answer",
    [
        _raises,
        lambda ti, io: None,
        lambda ti, io: 5,
        lambda ti, io: Remap(ti.context[0].device, 1 << 40),
        lambda ti, io: Remap(ti.context[0].device, -1),
        lambda ti, io: Remap(ti.context[0].device, 0, io.count + 1),
        lambda ti, io: Remap(ti.context[0].device, 0, 0),
        lambda ti, io: Fanout(()),
        lambda ti, io: Done(b"short"),
        lambda ti, io: Defer(lambda: 1 / 0),
    ],
)
def test_a_plugins_bug_is_eio_and_hurts_nobody_else(
    device: Make, answer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    dev = device(answer)
    with pytest.raises(OSError, match="Input/output error"):
        dev.pread(16 * 512, 8 * 512)
    assert "made-dist 1" in caplog.text
    assert dev.pread(4096, 0) == pattern(1, 0, 4096)
    assert dev.pread(4096, 12288) == pattern(1, 12288, 4096)
