# SPDX-License-Identifier: Apache-2.0
"""What is in ``control/``: a directory for each mapped device, with the same files in each."""

from __future__ import annotations

import errno
import stat
import time

from dmtool.device import MappedDevice
from dmtool.export.fuse import protocol as p
from dmtool.export.fuse.mapper import Numbers, device_name, owned
from dmtool.export.fuse.tree import Directory, Node, error
from dmtool.export.fuse.views import Access, DevicesView

# name: mode; numbers follow that of the directory, in this order
FILES = {
    "table": 0o600,
    "state": 0o600,
    "status": 0o400,
    "info": 0o400,
    "deps": 0o400,
    "error": 0o400,
    "message": 0o600,
    "events": 0o400,
}
_STEP = 16


_BEGAN = int(time.time())


class DeviceDirectory(Directory):
    """``control/NAME/``."""

    def __init__(self, numbers: Numbers, device: MappedDevice) -> None:
        self.id = numbers.of(device) * _STEP
        self.device = device

    def attributes(self) -> p.Attributes:
        return owned(Access(), self.id, stat.S_IFDIR | 0o755, 0, _BEGAN, 2)

    def lookup(self, name: str) -> Node:
        if name not in FILES:
            raise error(errno.ENOENT)
        return ControlFile(self, name)

    def entries(self) -> list[tuple[str, int, int]]:
        return [(name, self.id + i, stat.S_IFREG) for i, name in enumerate(FILES, 1)]


class ControlFile(Node):
    """``control/NAME/table`` and the others. Their size is 0: it is not known beforehand."""

    def __init__(self, parent: DeviceDirectory, kind: str) -> None:
        self.id = parent.id + list(FILES).index(kind) + 1
        self.device = parent.device
        self.kind = kind

    def attributes(self) -> p.Attributes:
        return owned(Access(), self.id, stat.S_IFREG | FILES[self.kind], 0, _BEGAN)


class Control(Directory):
    """The root: a directory for each device."""

    id = p.ROOT

    def __init__(self, view: DevicesView, numbers: Numbers) -> None:
        self._view = view
        self._numbers = numbers

    def attributes(self) -> p.Attributes:
        # one link: nobody has counted what is in it (find looks into all of such a directory)
        return owned(Access(), self.id, stat.S_IFDIR | 0o755, 0, _BEGAN)

    def lookup(self, name: str) -> Node:
        device = self._view.lookup(device_name(name))
        if device is None:
            raise error(errno.ENOENT)
        return DeviceDirectory(self._numbers, device)

    def entries(self) -> list[tuple[str, int, int]]:
        view, numbers = self._view, self._numbers
        found = [(name, view.lookup(name)) for name in view.names()]
        return [
            (name, numbers.of(device) * _STEP, stat.S_IFDIR) for name, device in found if device
        ]
