# SPDX-License-Identifier: Apache-2.0
"""Where the core's directory is, and who may be in it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from dmtool.directory import SOCKET_PATH_MAX, Directory, locate
from dmtool.errors import CoreError


@pytest.mark.parametrize(
    ("uid", "environ", "path"),
    [
        (0, {"DMTOOL_DIR": "/x/../d", "XDG_RUNTIME_DIR": "/r"}, "/d"),
        (0, {"XDG_RUNTIME_DIR": "/r", "HOME": "/h"}, "/run/dmtool"),
        (7, {"DMTOOL_DIR": "/d", "XDG_RUNTIME_DIR": "/r"}, "/d"),
        (7, {"DMTOOL_DIR": "", "XDG_RUNTIME_DIR": "/r", "HOME": "/h"}, "/r/dmtool"),
        (7, {"XDG_RUNTIME_DIR": "r", "XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/dmtool"),
        (7, {"XDG_STATE_HOME": "s", "HOME": "/h"}, "/h/.local/state/dmtool"),
    ],
)
def test_the_directory_of_an_environment(
    monkeypatch: pytest.MonkeyPatch, uid: int, environ: dict[str, str], path: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert locate(environ).path == path


def test_a_relative_directory_starts_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate({"DMTOOL_DIR": "d"}).path == str(tmp_path / "d")


def test_the_user_s_home_without_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(os.path, "expanduser", lambda path: "/h")
    assert locate({}).path == "/h/.local/state/dmtool"


def test_it_is_made_for_its_owner_only(directory: Directory) -> None:
    inner = Directory(os.path.join(directory.path, "a", "b"))
    old = os.umask(0)
    try:
        inner.prepare()
    finally:
        os.umask(old)
    for path in (inner.path, os.path.dirname(inner.path)):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    inner.prepare()


def test_a_directory_that_others_may_enter_is_not_used(directory: Directory) -> None:
    os.chmod(directory.path, 0o750)
    with pytest.raises(CoreError, match="mode 0750") as caught:
        directory.prepare()
    assert (
        caught.value.hint == f"chmod 700 {directory.path}, or set DMTOOL_DIR to another directory"
    )
    assert stat.S_IMODE(os.stat(directory.path).st_mode) == 0o750


def test_another_user_s_directory_is_not_used(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(CoreError, match=f"belongs to another user \\(uid {uid}\\)"):
        directory.prepare()


def test_a_file_in_its_place(directory: Directory) -> None:
    path = os.path.join(directory.path, "f")
    Path(path).touch()
    for name in (path, os.path.join(path, "d")):
        with pytest.raises(CoreError, match="Not a directory") as caught:
            Directory(name).prepare()
        assert caught.value.errno == errno.ENOTDIR


def test_a_path_too_long_for_sockets(directory: Directory) -> None:
    room = SOCKET_PATH_MAX - len("/control.sock") - len(directory.path) - 1
    fits = Directory(os.path.join(directory.path, "ü" * (room // 2) + "x" * (room % 2)))
    fits.prepare()
    too_long = Directory(fits.path + "x")
    with pytest.raises(CoreError, match="has 108 bytes") as caught:
        too_long.prepare()
    assert caught.value.errno == errno.ENAMETOOLONG
    assert "DMTOOL_DIR" in (caught.value.hint or "")
    assert not os.path.exists(too_long.path)
