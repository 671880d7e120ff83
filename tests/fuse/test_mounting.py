# SPDX-License-Identifier: Apache-2.0
"""Mounts come and go; dead ones are cleaned up; where there is no FUSE, the reason is told."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmtool.export.fuse import FuseExport, FuseUnavailable
from dmtool.export.fuse import mount as m
from dmtool.export.fuse import protocol as p
from tests.fuse.conftest import refused, small_core

Images = Callable[..., Path]


def test_the_next_start_cleans_up_after_a_crash(serve: Any, images: Images, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    image = images("a.img")
    process = serve(f"vol=0 8 linear {image} 0", at=directory)
    fd = os.open(process.mapper / "vol", os.O_RDWR)
    os.pwrite(fd, b"before", 0)
    process.kill()
    assert refused(lambda: os.listdir(process.mapper)) == errno.ENOTCONN
    assert refused(lambda: os.pwrite(fd, b"lost", 0)) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert m.mounted(str(process.mapper)) == m.mounted(str(process.control)) == 1

    (directory / "nbd.sock").unlink()
    again = serve(f"vol=0 8 linear {image} 0", at=directory)
    assert m.mounted(str(again.mapper)) == m.mounted(str(again.control)) == 1
    assert (again.mapper / "vol").read_bytes()[:6] == b"before"
    again.stop()
    assert m.mounted(str(process.mapper)) == m.mounted(str(process.control)) == 0
    os.close(fd)
    assert sorted(os.listdir(directory)) == ["control", "mapper"]


def test_several_dead_mounts_one_above_the_other(served: Any, tmp_path: Path) -> None:
    place = tmp_path / "dead"
    place.mkdir()
    for _ in range(3):
        os.close(m.mount(str(place), 1 << 18))
    assert m.mounted(str(place)) == 3
    m.clean(str(place))
    assert m.mounted(str(place)) == 0


def test_mounts_with_strange_names(tmp_path: Path) -> None:
    place = tmp_path / "a b\t\\c\nd"
    place.mkdir()
    fd = m.mount(str(place), 1 << 18)
    assert m.mounted(str(place)) == 1
    os.close(fd)
    m.clean(str(place))
    assert m.mounted(str(place)) == 0


def test_somebody_else_unmounts(served: Any) -> None:
    served.add("vol", "0 8 zero")
    assert os.listdir(served.mapper) == ["vol"]
    m.unmount(str(served.mapper))
    assert os.listdir(served.mapper) == []
    served.export.close()  # says so in the log, and no more


def test_an_open_file_does_not_keep_the_mount(served: Any) -> None:
    device = served.add("vol", "0 8 zero")
    with (served.mapper / "vol").open("rb", buffering=0) as file:
        served.export.close()
        assert refused(file.read) in (errno.ENOTCONN, errno.ECONNABORTED)
    assert device.open_count == 0


def test_start_and_close_a_hundred_times(tmp_path: Path) -> None:
    gc.collect()
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    core = small_core.SmallCore()
    core.add("vol", "0 8 zero")
    for _ in range(100):
        export = FuseExport(tmp_path, core, core)
        export.start()
        assert os.listdir(export.mapper) == ["vol"]
        export.close()
    core.close()
    del export
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= fds
    assert threading.active_count() <= threads


def test_without_the_device_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "DEVICE", str(tmp_path / "fuse"))
    export = FuseExport(tmp_path, small_core.SmallCore())
    with pytest.raises(FuseUnavailable, match=r"there is no .*fuse") as caught:
        export.start()
    assert "--device /dev/fuse" in (caught.value.hint or "")


def test_without_the_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "_mount", lambda *_: None)
    monkeypatch.setattr(m, "_NAMES", ("no-such-helper",))
    with pytest.raises(FuseUnavailable, match="needs root or the command fusermount3") as caught:
        FuseExport(tmp_path, small_core.SmallCore()).start()
    assert "install fuse3" in (caught.value.hint or "")


def test_what_the_helper_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "fusermount3"
    helper.write_text("#!/bin/sh\necho 'fusermount3: not today' >&2\nexit 1\n")
    helper.chmod(0o755)
    monkeypatch.setattr(m, "_mount", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(FuseUnavailable, match="fusermount3: not today"):
        FuseExport(tmp_path, small_core.SmallCore()).start()


@pytest.mark.tools("fusermount3")
def test_with_the_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "_mount", lambda *_: None)
    core = small_core.SmallCore()
    core.add("vol", "0 8 zero")
    export = FuseExport(tmp_path, core, core)
    export.start()
    assert (export.mapper / "vol").read_bytes() == bytes(4096)
    m.unmount(str(export.control))
    export.close()
    assert not m.mounted(str(export.mapper))
    core.close()


def test_no_place_for_the_mount(tmp_path: Path) -> None:
    (tmp_path / "mapper").write_text("in the way")
    with pytest.raises(FuseUnavailable):
        FuseExport(tmp_path, small_core.SmallCore()).start()
    with pytest.raises(FuseUnavailable):
        FuseExport(tmp_path / "not" / "there", small_core.SmallCore()).start()


def test_only_one_of_the_two_can_be_mounted(tmp_path: Path) -> None:
    (tmp_path / "control").write_text("in the way")
    core = small_core.SmallCore()
    with pytest.raises(FuseUnavailable):
        FuseExport(tmp_path, core, core).start()
    assert not m.mounted(str(tmp_path / "mapper"))


def test_layouts_have_the_sizes_of_the_kernels_structures() -> None:
    """Those of linux/fuse.h that are a request or a reply by themselves."""
    sizes = {
        p.HEAD: 40, p.OUT: 16, p.INIT_OUT: 64, p.ENTRY_OUT: 128, p.ATTR_OUT: 104, p.OPEN_OUT: 16,
        p.WRITE_OUT: 8, p.STATFS_OUT: 80, p.LSEEK_OUT: 8, p.POLL_OUT: 8, p.FORGET_ONE: 16,
        p.DIRENT: 24, p.NOTIFY_POLL_OUT: 8,
    }  # fmt: skip
    assert {layout.format: layout.size for layout in sizes} == {
        layout.format: size for layout, size in sizes.items()
    }
    assert p.WRITE_DATA == 80
