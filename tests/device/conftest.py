# SPDX-License-Identifier: Apache-2.0
"""Every test of a device is run twice: its tables are built of objects, or in columns."""

from __future__ import annotations

import pytest

from dmtool.table import bulk


@pytest.fixture(autouse=True, params=["objects", "columns"])
def built(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How tables are built."""
    monkeypatch.setattr(bulk, "WORTH", 0 if request.param == "columns" else 1 << 60)
    return str(request.param)
