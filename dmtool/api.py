# SPDX-License-Identifier: Apache-2.0
"""All that the author of a target type imports.

Stable: what stands here changes only with a new major version.
"""

from __future__ import annotations

from dmtool.backing import HOLE, ZERO, Backing, Bytes
from dmtool.errors import TargetError
from dmtool.hookspecs import hookimpl
from dmtool.plan import Extent, Fail, Mirrored, Pieces, Plan, Striped, Zero
from dmtool.sectors import SECTOR
from dmtool.targets.args import Args
from dmtool.targets.io import Defer, Delay, Done, Fanout, Io, Op, Remap, Requeue, Verdict
from dmtool.targets.target import Target

__all__ = [
    "HOLE",
    "SECTOR",
    "ZERO",
    "Args",
    "Backing",
    "Bytes",
    "Defer",
    "Delay",
    "Done",
    "Extent",
    "Fail",
    "Fanout",
    "Io",
    "Mirrored",
    "Op",
    "Pieces",
    "Plan",
    "Remap",
    "Requeue",
    "Striped",
    "Target",
    "TargetError",
    "Verdict",
    "Zero",
    "hookimpl",
]
