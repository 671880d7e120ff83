# SPDX-License-Identifier: Apache-2.0
"""What statistics cost on the way of NBD: two devices of one core, of which one is counted.

The counted one has a region of 64 areas over all of it, with a latency histogram of 8 bins.
"""

from __future__ import annotations

from functools import partial

from benchmarks import loads, servers
from benchmarks.bench import Bench, Measurement

KEPT = 0.97  # of the throughput
OFF, ON = "not counted", "counted"
REGION = "@stats_create - /64 2 precise_timestamps histogram:"
BOUNDS = (1000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000)  # nanoseconds


def run(bench: Bench) -> None:
    folder, size = bench.settings.folder, bench.settings.size
    light = loads.Light(folder)
    images = servers.make_images(folder, "stats", 2, size)
    with servers.Core(folder) as core:
        table = partial(servers.joined, size=size // 2)
        ends = {
            name: core.create(name.replace(" ", "-"), table([image]))
            for name, image in zip((OFF, ON), images, strict=True)
        }
        message = REGION + ",".join(map(str, BOUNDS))
        core.call("message", device={"name": ends[ON].export}, sector=0, message=message)
        for load in (loads.READ_1, loads.READ_32, loads.WRITE_32, loads.READ_1M):
            seconds = bench.settings.seconds
            runs = {name: partial(light.run, load, end, seconds) for name, end in ends.items()}
            values = bench.turns(runs)
            measured = bench.add(
                Measurement(
                    f"stats-{load.key}", load.title, load.unit, values, {}, True, "Statistics"
                )
            )
            bench.ratio(f"{load.title}, counted", "not counted", KEPT, measured, ON, [OFF])
