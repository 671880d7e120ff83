# SPDX-License-Identifier: Apache-2.0
"""I/O that is held until a suspend, in the test's own process; and descriptors that wait for one."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

import pytest

from dmtool.device import MappedDevice
from dmtool.table import Table, load
from tests.nbd.holding import Holding


def _table(text: str) -> Table:
    table = load(text)
    assert table is not None
    return table


@pytest.mark.parametrize("noflush", [True, False])
def test_held_io_is_done_on_the_next_table_after_a_suspend_without_flush(
    dm_pattern: Callable[..., str], noflush: bool
) -> None:
    holding = Holding()
    a, b = dm_pattern("a"), dm_pattern("b")
    device = MappedDevice("dev")
    device.load(_table(f"0 8 holding {a} 0"))
    device.resume()
    got: list[object] = []

    def write() -> None:
        try:
            device.write(0, b"\xee" * 512)
            got.append(device.read(0, 512))
        except OSError as error:
            got.append(error.errno)

    thread = threading.Thread(target=write)
    thread.start()
    holding.wait()
    device.suspend(noflush=noflush)
    device.load(_table(f"0 8 linear {b} 0"))
    device.resume()
    thread.join(10)
    assert got == [b"\xee" * 512 if noflush else errno.EIO]
    device.destroy()


def test_descriptors_of_a_removed_device_go_with_its_last_opener() -> None:
    device = MappedDevice("dev")
    device.load(_table("0 8 zero"))
    device.resume()
    device.open()
    fds = device.closed_fd, device.open_fd
    device.destroy()
    assert all(os.fstat(fd) for fd in fds)
    device.close()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
