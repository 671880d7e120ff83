# SPDX-License-Identifier: Apache-2.0
"""Tables.

The way of the data: text (``text.py``) -> table (``build.py``, ``table.py``) -> plan ->
segments (``segments.py``) -> bytes (the backings). A target without a plan is asked for every
I/O (``mapping.py``).
"""

from __future__ import annotations

from dmtool.table.build import check, load
from dmtool.table.opener import MappedDevices
from dmtool.table.table import Table

__all__ = ["MappedDevices", "Table", "check", "load"]
