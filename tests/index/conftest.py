# SPDX-License-Identifier: Apache-2.0
"""The implementations of the sector index, for tests that take `make` as they would BTree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from dmtool import btree

try:
    from dmtool import _btree
except ImportError:
    # Their marker, `native`, has the tests skipped, with a reason, before they would call this.
    SCALAR: Any = None
    AVX2: Any = None
else:
    SCALAR = partial(_btree.BTree, simd=False)
    AVX2 = _btree.BTree if _btree.simd_available() else None

PYTHON = [pytest.param(btree.BTree, id="python")]
NATIVE = [pytest.param(SCALAR, id="c-scalar", marks=pytest.mark.native)]
if AVX2:  # without, there is nothing to skip: this processor's C tree has one way
    NATIVE.append(pytest.param(AVX2, id="c-avx2", marks=pytest.mark.native))

Make = Callable[..., btree.BTree]


@pytest.fixture(scope="session", params=PYTHON + NATIVE)
def make(request: pytest.FixtureRequest) -> Make:
    """Each implementation in turn."""
    made: Make = request.param
    return made


@pytest.fixture(scope="session", params=NATIVE)
def make_native(request: pytest.FixtureRequest) -> Make:
    """The ones in C: for trees, and for batches, that would take Python long."""
    made: Make = request.param
    return made
