# SPDX-License-Identifier: Apache-2.0
"""``control/``: devices by mkdir, cat and echo."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmtool.backing.descriptor import Descriptor
from tests.fuse.conftest import refused, write

AT_FDCWD, NOREPLACE, EXCHANGE = -100, 1, 2
_libc = ctypes.CDLL(None, use_errno=True)
Images = Callable[..., Path]


def test_a_directory_is_a_device(served: Any, vol: Path) -> None:
    assert os.listdir(served.control) == ["vol"]
    assert served.core.names() == ["vol"]
    assert sorted(os.listdir(vol)) == sorted(
        ["table", "state", "status", "info", "deps", "error", "message", "events"]
    )
    assert all((vol / name).stat().st_size == 0 for name in os.listdir(vol))
    assert refused(vol.mkdir) == errno.EEXIST
    vol.rmdir()
    assert served.core.names() == []
    assert refused(vol.rmdir) == errno.ENOENT


def test_devices_made_elsewhere_are_there(served: Any) -> None:
    served.add("other", "0 8 zero")
    assert (served.control / "other" / "table").read_text() == "0 8 zero \n"
    served.core.remove("other")
    assert not (served.control / "other").exists()


def test_a_table_is_loaded_and_activated(served: Any, vol: Path, images: Images) -> None:
    image = images("a.img", content=b"a")
    text = f"0 8 linear {image} 0\n8 8 zero\n"
    write(vol / "table", text)
    assert (vol / "table").read_text() == text.replace("zero", "zero ")
    assert (served.mapper / "vol").read_bytes() == b"a" + bytes(8191)
    assert (vol / "deps").read_text() == f"{image}\n"
    assert (vol / "status").read_text() == "0 8 linear \n8 8 zero \n"
    info = (vol / "info").read_text()
    assert "Tables present:    LIVE\n" in info
    assert "Number of targets: 2\n" in info
    write(vol / "table", "0 8 zero\n")
    assert (served.mapper / "vol").stat().st_size == 4096


def test_a_table_without_a_newline_is_activated_at_the_close(served: Any, vol: Path) -> None:
    fd = os.open(vol / "table", os.O_WRONLY)
    os.write(fd, b"0 8 zero")
    assert served.core.lookup("vol").inactive is None
    os.close(fd)
    assert (served.mapper / "vol").stat().st_size == 4096


def test_relative_paths_start_where_the_writer_is(
    served: Any, vol: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = images("a.img")
    monkeypatch.chdir(image.parent)
    write(vol / "table", "0 8 linear a.img 0\n")
    assert (vol / "deps").read_text() == f"{image}\n"


def test_a_bad_table_fails_the_write_and_says_why(served: Any, vol: Path) -> None:
    write(vol / "table", "0 8 zero\n")
    fd = os.open(vol / "table", os.O_WRONLY)
    assert refused(lambda: os.write(fd, b"0 8 linear gone.img 0\n8 8 linaer x 0\n")) == errno.EINVAL
    os.close(fd)  # has been told
    said = (vol / "error").read_text()
    assert "table:1:12: linear: Device lookup failed: gone.img" in said
    assert "  0 8 linear gone.img 0\n" in said
    assert "table:2:" in said
    assert "hint: did you mean linear?" in said
    assert (vol / "table").read_text() == "0 8 zero \n"
    write(vol / "table", "0 16 zero\n")
    assert (vol / "error").read_text() == ""


def test_a_bad_table_without_a_newline_fails_the_close(vol: Path) -> None:
    fd = os.open(vol / "table", os.O_WRONLY)
    os.write(fd, b"0 8 linaer x 0")
    assert refused(lambda: os.close(fd)) == errno.EINVAL
    assert "linaer" in (vol / "error").read_text()


def test_a_large_table_in_many_writes(served: Any, vol: Path) -> None:
    lines = [f"{8 * n} 8 zero\n" for n in range(50_000)]
    with (vol / "table").open("w", buffering=4096) as file:
        file.writelines(lines)
    assert (served.mapper / "vol").stat().st_size == 50_000 * 4096
    assert (vol / "table").read_text() == "".join(line[:-1] + " \n" for line in lines)


def test_a_mistake_at_the_end_of_a_large_table(vol: Path) -> None:
    file = (vol / "table").open("w", buffering=4096)
    file.writelines([f"{8 * n} 8 zero\n" for n in range(5000)])
    file.write("40000 8 zreo\n")
    assert refused(file.close) == errno.EINVAL
    assert "table:5001:9: zreo: unknown target type" in (vol / "error").read_text()


@pytest.mark.parametrize(
    "lines",
    [
        ["# two lines\n", "\n", "0 8 zero\n", "8 8 zero\n"],
        ["begin\n", "0 8 zero # the first\n", "8 8 zero\n", "end\n"],
        ["0 8 zero\n8 8", " zero\n"],
    ],
)
def test_a_table_line_by_line(served: Any, vol: Path, lines: list[str]) -> None:
    """What cannot be the whole is not refused for that."""
    with (vol / "table").open("wb", buffering=0) as file:
        for line in lines:
            assert file.write(line.encode()) == len(line)
    assert (vol / "table").read_text() == "0 8 zero \n8 8 zero \n"


def test_a_table_that_is_cut_off(vol: Path) -> None:
    fd = os.open(vol / "table", os.O_WRONLY)
    os.write(fd, b"begin\n0 8 zero\n")
    assert refused(lambda: os.close(fd)) == errno.EINVAL
    assert "end" in (vol / "error").read_text()


HOSTILE = [
    b"\0" * 5000,
    b"\xff\xfe\n",
    b"0 8 ze\0ro\n",
    b"0 18446744073709551616 zero\n",
    b"0 8 linear /dev/fuse 0\n",
    b"0 8 linear . 0\n",
    b"-1 8 zero\n",
    b"9" * 5000 + b" x\n",
    b"18446744073709551616 echo\n",
    b"18446744073709551615 sing\n",
    b"\\\n",
    b"suspend noflush now\n",
    b"suspend\0\n",
    bytes(range(256)) * 2000,
]


@pytest.mark.parametrize("file", ["table", "state", "message"])
def test_garbage_is_refused(
    served: Any, vol: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With EINVAL or its like and a reason, and nothing is changed by it."""
    write(vol / "table", "0 8 zero\n")
    for garbage in HOSTILE:
        fd = os.open(vol / file, os.O_WRONLY)
        numbers = []
        try:
            os.write(fd, garbage)
        except OSError as error:
            numbers.append(error.errno)
        try:
            os.close(fd)
        except OSError as error:
            numbers.append(error.errno)
        assert numbers, garbage[:20]
        assert errno.EIO not in numbers, garbage[:20]
        assert (vol / "error").read_text(errors="surrogateescape").strip(), garbage[:20]
        assert (vol / "table").read_text() == "0 8 zero \n"
        assert (vol / "state").read_text() == "active\n"
    assert not caplog.records


def test_writes_that_leave_something_out(vol: Path) -> None:
    fd = os.open(vol / "table", os.O_WRONLY)
    assert refused(lambda: os.pwrite(fd, b"0 8 zero\n", 100)) == errno.ESPIPE
    os.close(fd)
    assert (vol / "table").read_text() == ""


def test_nothing_written_is_no_table(served: Any, vol: Path) -> None:
    write(vol / "table", "")
    write(vol / "table", "\n")
    assert (vol / "table").read_text() == ""
    assert served.core.lookup("vol").live is None


def test_suspend_and_resume(served: Any, vol: Path) -> None:
    write(vol / "table", "0 8 zero\n")
    device = served.core.lookup("vol")
    assert (vol / "state").read_text() == "active\n"
    write(vol / "state", "suspend\n")
    assert device.suspended
    assert (vol / "state").read_text() == "suspended\n"
    # a table for a device that was suspended waits for resume
    write(vol / "table", "0 16 zero\n")
    assert (vol / "table").read_text() == "0 8 zero \n"
    write(vol / "state", "resume\n")
    assert (vol / "state").read_text() == "active\n"
    assert (vol / "table").read_text() == "0 16 zero \n"
    write(vol / "state", "suspend noflush\n")
    write(vol / "table", "0 24 zero\n")
    write(vol / "state", "clear\nresume\n")
    assert (vol / "table").read_text() == "0 16 zero \n"
    fd = os.open(vol / "state", os.O_WRONLY)
    assert refused(lambda: os.write(fd, b"sleep\n")) == errno.EINVAL
    os.close(fd)
    assert "'sleep' is none of: suspend" in (vol / "error").read_text()


def test_a_failed_flush_fails_the_suspend(
    served: Any, vol: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(vol / "table", f"0 8 linear {images('a.img')} 0\n")

    def fail(_: Descriptor) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fd = os.open(vol / "state", os.O_WRONLY)
    with monkeypatch.context() as patch:
        patch.setattr(Descriptor, "flush", fail)
        assert refused(lambda: os.write(fd, b"suspend\n")) == errno.EIO
    os.close(fd)
    assert (vol / "state").read_text() == "active\n"
    assert (vol / "error").read_text() == "Input/output error\n"


def test_messages(served: Any, vol: Path) -> None:
    write(vol / "table", "0 8 zero\n")
    write(vol / "message", "4 echo\n")
    assert (vol / "message").read_text() == "vol at 4\n"
    write(vol / "message", "echo")
    assert (vol / "message").read_text() == "vol at 0\n"
    fd = os.open(vol / "message", os.O_WRONLY)
    assert refused(lambda: os.write(fd, b"0 sing\n")) == errno.EINVAL
    os.close(fd)
    assert (vol / "error").read_text() == "Unsupported message\n"
    assert (vol / "message").read_text() == ""


def test_removal_of_an_open_device(served: Any, vol: Path) -> None:
    write(vol / "table", "0 8 zero\n")
    with (served.mapper / "vol").open("rb"):
        assert refused(vol.rmdir) == errno.EBUSY
        assert (vol / "error").read_text() == "vol is open\n"
    vol.rmdir()
    assert not vol.exists()


def test_renaming(served: Any, vol: Path) -> None:
    (served.control / "taken").mkdir()
    with (vol / "state").open() as file:
        vol.rename(served.control / "new name")
        assert served.core.names() == [r"new\x20name", "taken"]
        assert file.read() == "active\n"
    new = served.control / r"new\x20name"
    assert refused(lambda: new.rename(served.control / "taken")) in (errno.EBUSY, errno.EEXIST)
    assert refused(lambda: (new / "state").rename(served.control / "x")) == errno.EPERM
    old, taken = (os.fsencode(served.control / name) for name in (r"new\x20name", "taken"))
    for flags, number in ((EXCHANGE, errno.EINVAL), (NOREPLACE, errno.EEXIST)):
        assert _libc.renameat2(AT_FDCWD, old, AT_FDCWD, taken, flags) == -1
        assert ctypes.get_errno() == number
    assert _libc.renameat2(AT_FDCWD, old, AT_FDCWD, taken + b"2", NOREPLACE) == 0
    assert served.core.names() == ["taken", "taken2"]


@pytest.mark.parametrize("name", ["status", "info", "deps", "error", "events"])
def test_files_that_are_only_read(vol: Path, name: str) -> None:
    assert refused(lambda: os.open(vol / name, os.O_WRONLY)) == errno.EACCES


def test_nothing_else_can_be_made_or_removed(served: Any, vol: Path) -> None:
    assert refused((vol / "table").unlink) == errno.EPERM
    for do in (
        (vol / "sub").mkdir,
        (served.control / "file").touch,
        lambda: (vol / "table").chmod(0o666),
        lambda: os.truncate(vol / "table", 5),
        (served.control / ("x" * 200)).mkdir,
    ):
        refused(do)
    assert os.listdir(served.control) == ["vol"]
