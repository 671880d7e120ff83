# SPDX-License-Identifier: Apache-2.0
"""What a command costs before it does anything: files opened, counted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator

import pytest

from tests.counts.trace import opened

pytestmark = pytest.mark.tools("strace")

DMTOOL = [sys.executable, "-c", "import sys; from dmtool.cli import main; sys.exit(main())"]


@pytest.fixture
def directory() -> Generator[str]:
    """The directory of a core with a device, `one`."""
    path = tempfile.mkdtemp(prefix="dmtool-counts-")
    environment = {**os.environ, "DMTOOL_DIR": path}
    try:
        create = [*DMTOOL, "create", "one", "--table", "0 8 zero"]
        subprocess.run(create, check=True, env=environment)
        yield path
        subprocess.run([*DMTOOL, "remove", "one"], check=True, env=environment)
        subprocess.run([*DMTOOL, "daemon", "stop"], check=True, env=environment)
    finally:
        shutil.rmtree(path)


def test_a_command_opens_few_files_more_than_click_does(directory: str) -> None:
    click = opened([sys.executable, "-c", "import click"])
    table = opened([*DMTOOL, "table", "one"], DMTOOL_DIR=directory)
    assert table <= 1.5 * click, (click, table)
