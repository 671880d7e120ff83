# SPDX-License-Identifier: Apache-2.0
"""Mapped devices: ``mapped.py`` is one, ``gate.py`` what suspends it, ``stacked.py`` one below
another, ``process.py`` the use in one's own process."""

from __future__ import annotations

from dmtool.device.mapped import MAJOR, MappedDevice
from dmtool.device.stacked import MappedBacking

__all__ = ["MAJOR", "MappedBacking", "MappedDevice"]
