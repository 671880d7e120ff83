# SPDX-License-Identifier: Apache-2.0
"""A mapped device inside one's own process: no core, no socket, no name."""

from __future__ import annotations

from itertools import count
from types import TracebackType
from typing import Self

from dmtool.backing import Bytes
from dmtool.device.mapped import MappedDevice
from dmtool.device.stacked import MappedBacking
from dmtool.table import load

# A table takes devices of one number for one device.
_MINORS = count()


class Device:
    """A device from a table, to be used in this process and closed afterwards.

    ``with dmtool.Device.from_table("0 8 linear disk.img 0") as dev: dev.pread(512, 0)``

    Offsets and lengths are bytes. Threads: any, except ``reload`` and ``close``: one at a time.
    """

    def __init__(self, mapped: MappedDevice) -> None:
        self.mapped = mapped

    @classmethod
    def from_table(
        cls,
        text: str | bytes,
        *,
        readonly: bool = False,
        cwd: str | None = None,
        below: dict[str, Device] | None = None,
    ) -> Self:
        """Make a device; relative paths start at ``cwd``, by default the current directory.

        ``below``: devices that the table may name as ``/dev/mapper/NAME``. Raises TableErrors
        with all that is wrong with the table, or for one without lines.
        """
        device = cls(MappedDevice("", minor=next(_MINORS)))
        device.reload(text, readonly=readonly, cwd=cwd, below=below)
        return device

    def reload(
        self,
        text: str | bytes,
        *,
        readonly: bool = False,
        cwd: str | None = None,
        below: dict[str, Device] | None = None,
    ) -> None:
        """Put another table in place; I/O under way is finished first, none is lost."""
        table = load(
            text, source="table", cwd=cwd, readonly=readonly, devices=_Below(below or {}, readonly)
        )
        if table is not None:
            self.mapped.load(table)
            self.mapped.resume()

    @property
    def size(self) -> int:
        """Bytes."""
        return self.mapped.size

    def pread(self, length: int, offset: int) -> bytes:
        """As os.pread, but never short. Raises OSError."""
        return self.mapped.read(offset, length)

    def pwrite(self, data: Bytes, offset: int) -> int:
        """As os.pwrite, but never short. Raises OSError."""
        self.mapped.write(offset, data)
        return len(data)

    def flush(self) -> None:
        """Fdatasync of all that lies below. Raises OSError."""
        self.mapped.flush()

    def discard(self, offset: int, length: int) -> None:
        """Punch the range out of what lies below. Raises OSError."""
        self.mapped.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, *, allocate: bool = False) -> None:
        """Raises OSError."""
        self.mapped.write_zeroes(offset, length, allocate=allocate)

    def close(self) -> None:
        """Close all backings; once or more often."""
        self.mapped.destroy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Below:
    def __init__(self, devices: dict[str, Device], readonly: bool) -> None:
        self._devices = devices
        self._readonly = readonly

    def mapped(self, word: str) -> MappedBacking | None:
        device = self._devices.get(word.removeprefix("/dev/mapper/"))
        if device is None or not word.startswith("/dev/mapper/"):
            return None
        return MappedBacking(device.mapped, readonly=self._readonly)
