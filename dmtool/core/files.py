# SPDX-License-Identifier: Apache-2.0
"""The core's devices as its files (export/fuse) see them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from dmtool.core.devices import Devices
from dmtool.core.entry import Reference
from dmtool.core.state import Definition
from dmtool.core.step import CommandFailed
from dmtool.core.tables import Tables
from dmtool.device import MappedDevice
from dmtool.errors import NoSuchDevice
from dmtool.export.fuse import Access, FuseUnavailable

SETTING = "DMTOOL_FUSE"
_NEVER = ("never", "no", "off", "0")


def wanted() -> None:
    """Raise FuseUnavailable if the core's environment says that nothing is to be mounted."""
    setting = os.environ.get(SETTING, "")
    if setting.lower() in _NEVER:
        raise FuseUnavailable(
            f"the core was started with {SETTING}={setting}",
            hint=f"unset {SETTING}, and end the core: dmtool daemon stop",
        )


class Files:
    """DevicesView and ControlPort of one core.

    Threads: any.
    """

    def __init__(self, devices: Devices, tables: Tables) -> None:
        self._devices = devices
        self._tables = tables

    # -- DevicesView --------------------------------------------------------------------------

    def names(self) -> list[str]:
        return [entry.device.name for entry in self._devices.all()]

    def lookup(self, name: str) -> MappedDevice | None:
        with self._devices.lock:
            entry = self._devices.by_name(name)
            return entry.device if entry else None

    def access(self, device: MappedDevice) -> Access:
        with self._devices.lock:
            entry = self._devices.by_minor(device.minor)
        if entry is None or entry.device is not device:  # it was removed, and its number given anew
            return Access()
        definition = entry.definition
        return Access(definition.mode, definition.uid, definition.gid)

    # -- ControlPort --------------------------------------------------------------------------

    def create(self, name: str) -> None:
        with self._command():
            self._tables.create(Definition(minor=0, name=name), None, "", "", "/", readonly=False)

    def load(self, name: str, text: str, source: str, cwd: str) -> None:
        with self._command():
            self._tables.load(Reference("name", name), text, source, cwd, readonly=False)

    def suspend(self, name: str, *, noflush: bool, client_fd: int) -> None:
        with self._command():
            self._tables.suspend(Reference("name", name), noflush=noflush, client_fd=client_fd)

    def resume(self, name: str, *, client_fd: int) -> None:
        with self._command():
            self._tables.resume(Reference("name", name), client_fd=client_fd)

    def clear(self, name: str) -> None:
        with self._command():
            self._tables.clear(Reference("name", name))

    def remove(self, name: str) -> None:
        with self._command():
            self._tables.remove(Reference("name", name), force=False, deferred=False)

    def rename(self, name: str, new: str) -> None:
        with self._command():
            self._devices.rename(Reference("name", name), new)

    def message(self, name: str, sector: int, text: str) -> str | None:
        with self._command():
            return self._tables.message(Reference("name", name), sector, text)

    def table(self, name: str) -> str:
        return self._lines(name, "table")

    def status(self, name: str) -> str:
        return self._lines(name, "status")

    def trouble(self, name: str) -> str | None:
        try:
            return self._devices.find(Reference("name", name)).error
        except NoSuchDevice:
            return None

    def _lines(self, name: str, what: str) -> str:
        with self._command():
            entry = self._devices.find(Reference("name", name))
            found = self._tables.lines(entry, what, inactive=False)
        return "".join(f"{start} {length} {type} {words}\n" for start, length, type, words in found)

    @contextmanager
    def _command(self) -> Iterator[None]:
        """As a method of the control protocol: what it leaves to be done is done when it has
        ended. What failed is raised without the ioctl, which no file has."""
        with self._devices.settling.command():
            try:
                yield
            except CommandFailed as failed:
                raise failed.error from None
