# SPDX-License-Identifier: Apache-2.0
"""What the file systems need of a core: its devices, and the means to change them.

Names are mangled (names.py). Methods may be called from any thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dmtool.device import MappedDevice


@dataclass(frozen=True, slots=True)
class Access:
    """Whom a device's file belongs to; None: the user whose core it is, and mode 0600."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DevicesView(Protocol):
    """The devices. No method may block: every other request would wait."""

    def names(self) -> list[str]:
        """The names of all devices, sorted."""

    def lookup(self, name: str) -> MappedDevice | None:
        """The device of that name; None where there is none, or no longer."""

    def access(self, device: MappedDevice) -> Access:
        """Whom its file belongs to."""


class ControlPort(Protocol):
    """What can be done to devices. Methods may take as long as they need; they raise DmtoolError
    or OSError."""

    def create(self, name: str) -> None:
        """A device without a table."""

    def load(self, name: str, text: str, source: str, cwd: str) -> None:
        """Fill the inactive slot; relative paths start at ``cwd``."""

    def suspend(self, name: str, *, noflush: bool, client_fd: int) -> None:
        """Returns when the I/O under way has ended; raises OSError EINTR when the other end of
        the socket ``client_fd`` is closed before that."""

    def resume(self, name: str, *, client_fd: int) -> None:
        """Make the inactive table live, if there is one, and let I/O in; EINTR as ``suspend``."""

    def clear(self, name: str) -> None:
        """Empty the inactive slot."""

    def remove(self, name: str) -> None:
        """Remove the device; EBUSY while it is open."""

    def rename(self, name: str, new: str) -> None:
        """Give the device another name."""

    def message(self, name: str, sector: int, text: str) -> str | None:
        """Send a message to the target at ``sector``; its answer."""

    def table(self, name: str) -> str:
        """The live table, a line a target."""

    def status(self, name: str) -> str:
        """The status of the live table's targets, a line each."""

    def trouble(self, name: str) -> str | None:
        """Why the device has no live table although it should have one, or None."""
