# SPDX-License-Identifier: Apache-2.0
"""The functions of dmtool.table.columns in Python and, where they are there, in C."""

from __future__ import annotations

from typing import Any

from dmtool.table import columns

LANES: dict[str, tuple[Any, Any, Any]] = {
    "python": (columns.python_scan, columns.python_check, columns.python_lines)
}
try:
    from dmtool import _table
except ImportError:  # no C compiler where dmtool was installed
    pass
else:
    LANES["native"] = (_table.scan, _table.check, _table.lines)
