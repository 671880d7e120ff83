# SPDX-License-Identifier: Apache-2.0
"""What tests need from the machine, and what happens where it is not there.

A test says it with a marker (they are listed in pyproject.toml) and is skipped, with the reason
and the Debian package, on a machine without. With DMTOOL_TEST_NO_SKIPS=1, as in CI, every skip,
from whatever cause, is a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator
from importlib.util import find_spec

import pytest

# command: Debian package
PACKAGES = {
    "blockdev": "util-linux",
    "btrfs": "btrfs-progs",
    "cc": "gcc",
    "debugfs": "e2fsprogs",
    "dmsetup": "dmsetup",
    "dot": "graphviz",
    "e2fsck": "e2fsprogs",
    "fio": "fio",
    "fish": "fish",
    "fusermount3": "fuse3",
    "losetup": "util-linux",
    "man": "man-db",
    "mandoc": "mandoc",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "nbdcopy": "libnbd-bin",
    "nbdinfo": "libnbd-bin",
    "nbdkit": "nbdkit",
    "nbdsh": "libnbd-bin",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "setpriv": "util-linux",
    "shellcheck": "shellcheck",
    "strace": "strace",
    "unshare": "util-linux",
    "xfs_repair": "xfsprogs",
    "zsh": "zsh",
}
# Debian keeps some of them where a user's PATH does not look.
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

NO_SKIPS = os.environ.get("DMTOOL_TEST_NO_SKIPS", "") not in ("", "0")


def _missing(item: pytest.Item) -> str | None:
    """Why this test cannot run here, or None."""
    for marker in item.iter_markers("tools"):
        for command in marker.args:
            if not shutil.which(command, path=PATH):
                return f"needs {command} (Debian: {PACKAGES.get(command, command)})"
    if item.get_closest_marker("root") and os.geteuid() != 0:
        return "needs to be root"
    if item.get_closest_marker("native"):
        from dmtool.btree import INDEX

        if INDEX != "native" or find_spec("dmtool._nbd") is None:
            return "needs what is in C: a C compiler and Python.h when dmtool is installed"
    return None


def pytest_configure() -> None:
    os.environ["PATH"] = PATH
    # a shell starts what it puts into the background with SIGINT ignored, and children inherit
    # that; the tests interrupt commands as a terminal does
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = _missing(item)
    if reason:
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, and DMTOOL_TEST_NO_SKIPS is set: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and DMTOOL_TEST_NO_SKIPS is set: {report.longrepr}"
    return report
