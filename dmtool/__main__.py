# SPDX-License-Identifier: Apache-2.0
"""``python -m dmtool``."""

from __future__ import annotations

import sys

from dmtool.cli import main

if __name__ == "__main__":
    sys.exit(main())
