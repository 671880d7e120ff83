# SPDX-License-Identifier: Apache-2.0
"""device-mapper in user space.

``dmtool.Device`` is a mapped device in one's own process; ``dmtool.api`` is for authors of
target types, ``dmtool.testing`` for their tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmtool.device.process import Device as Device

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # the engine is imported by who uses it: the commands are thin clients that start fast
    if name == "Device":
        from dmtool.device.process import Device

        return Device
    raise AttributeError(name)
