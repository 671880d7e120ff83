# SPDX-License-Identifier: Apache-2.0
"""One bench of image files and one of loop devices for all replays of a session."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.kernel.bench import Bench
from tests.kernel.disks import Images, Loops


@pytest.fixture(scope="session")
def image_bench() -> Iterator[Bench]:
    bench = Bench(Images)
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def loop_bench() -> Iterator[Bench]:
    try:
        bench = Bench(Loops)
    except subprocess.CalledProcessError as error:  # a container, where root is not quite root
        pytest.skip(f"needs loop devices: {error.stderr.strip()}")
    yield bench
    bench.close()


@pytest.fixture
def on_images(image_bench: Bench) -> Iterator[Bench]:
    """The bench of image files; cleared afterwards."""
    yield image_bench
    image_bench.clear()


@pytest.fixture
def on_loops(loop_bench: Bench) -> Iterator[Bench]:
    """The bench of loop devices; cleared afterwards."""
    yield loop_bench
    loop_bench.clear()
