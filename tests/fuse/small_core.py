# SPDX-License-Identifier: Apache-2.0
"""A core as small as can be: mapped devices by name, with their files. Also a program:

    python small_core.py DIRECTORY [NAME=TABLE ...]

Tables are given with ``;`` for the end of a line. The devices are served over NBD too, at
``DIRECTORY/nbd.sock``. It says ``ready``, and ends at SIGTERM, or when its standard input, if that
is a pipe, is closed: with whoever has started it.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import threading
from pathlib import Path

from dmtool.backing import Backing
from dmtool.device import MappedBacking, MappedDevice
from dmtool.errors import DeviceError, NoSuchDevice, TableError, TableErrors, Where
from dmtool.export.fuse import Access, FuseExport
from dmtool.export.nbd import NbdServer
from dmtool.names import NAME_MAX
from dmtool.table import Table, load

LOWER = "/dev/mapper/"


class SmallCore:
    """DevicesView and ControlPort in one."""

    def __init__(self) -> None:
        self.devices: dict[str, MappedDevice] = {}
        self.owners: dict[str, Access] = {}
        self._lock = threading.Lock()
        self._minors = 0

    # -- DevicesView ----------------------------------------------------------------------------

    def names(self) -> list[str]:
        with self._lock:
            return sorted(self.devices)

    def lookup(self, name: str) -> MappedDevice | None:
        with self._lock:
            return self.devices.get(name)

    def access(self, device: MappedDevice) -> Access:
        return self.owners.get(device.name, Access())

    # -- ControlPort ----------------------------------------------------------------------------

    def create(self, name: str) -> None:
        if len(name) > NAME_MAX:
            raise DeviceError("too long", errno=errno.EINVAL)
        with self._lock:
            if name in self.devices:
                raise DeviceError(f"a mapped device {name} exists already", errno=errno.EBUSY)
            self.devices[name] = MappedDevice(name, minor=self._minors)
            self._minors += 1

    def load(self, name: str, text: str, source: str, cwd: str) -> None:
        table = load(text, source=source, cwd=cwd, readonly=False, devices=self)
        if table is None:
            raise TableErrors([TableError("no targets specified", Where(source, 1, 1))])
        self._device(name).load(table)

    def suspend(self, name: str, *, noflush: bool, client_fd: int) -> None:
        self._device(name).suspend(noflush=noflush, client_fd=client_fd)

    def resume(self, name: str, *, client_fd: int) -> None:
        self._device(name).resume(client_fd=client_fd)

    def clear(self, name: str) -> None:
        self._device(name).clear()

    def remove(self, name: str) -> None:
        device = self._device(name)
        with self._lock:
            if device.open_count:
                raise DeviceError(f"{name} is open", errno=errno.EBUSY)
            del self.devices[name]
        device.destroy()

    def rename(self, name: str, new: str) -> None:
        device = self._device(name)
        with self._lock:
            if new in self.devices:
                raise DeviceError(f"{new} exists already", errno=errno.EBUSY)
            self.devices[new] = self.devices.pop(name)
        device.rename(new)

    def message(self, name: str, sector: int, text: str) -> str | None:
        if text == "echo":
            return f"{name} at {sector}"
        if text == "event":
            self._device(name).raise_event()
            return None
        raise DeviceError("Unsupported message", errno=errno.EINVAL)

    def table(self, name: str) -> str:
        live = self._device(name).live
        return _lines(live, live.text) if live else ""

    def status(self, name: str) -> str:
        live = self._device(name).live
        return _lines(live, live.status) if live else ""

    def trouble(self, name: str) -> str | None:
        return None

    # -- for tests ------------------------------------------------------------------------------

    def mapped(self, word: str) -> Backing | None:
        """The device that a table names."""
        device = self.lookup(word.removeprefix(LOWER)) if word.startswith(LOWER) else None
        return MappedBacking(device) if device else None

    def add(
        self, name: str, text: str, *, cwd: Path | str = "/", readonly: bool = False
    ) -> MappedDevice:
        """A device with a live table."""
        self.create(name)
        table = load(text, source=name, cwd=str(cwd), readonly=readonly, devices=self)
        assert table is not None
        device = self.devices[name]
        device.load(table)
        device.resume()
        return device

    def close(self) -> None:
        for device in list(self.devices.values()):
            device.destroy()

    def _device(self, name: str) -> MappedDevice:
        device = self.lookup(name)
        if device is None:
            raise NoSuchDevice(name)
        return device


def _lines(table: Table, tell: object) -> str:
    assert callable(tell)
    return "".join(
        f"{ti.begin} {ti.len} {ti.type.name} {tell(number)}\n"
        for number, ti in enumerate(table.targets)
    )


def _follow() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    stop = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_follow, daemon=True).start()
    directory = Path(sys.argv[1])
    core = SmallCore()
    for spec in sys.argv[2:]:
        name, _, text = spec.partition("=")
        core.add(name, text.replace(";", "\n"), cwd=os.getcwd())
    export = FuseExport(directory, core, core)
    export.start()
    nbd = NbdServer(core.lookup, core.names)
    nbd.listen_unix(str(directory / "nbd.sock"))
    nbd.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    signal.sigwait(stop)
    nbd.close()
    (directory / "nbd.sock").unlink()
    export.close()
    core.close()


if __name__ == "__main__":
    main()
