# SPDX-License-Identifier: Apache-2.0
"""What statistics cost on the way of NBD: one device, which is counted every second time.

Counted means: by a region of 64 areas over all of it, with a latency histogram of 8 bins. The
device, its image and the pages that it is in are the same both times, so that nothing else
differs; there are more rounds than elsewhere, because what is looked for is small.
"""

from __future__ import annotations

from functools import partial

from benchmarks import loads, servers
from benchmarks.bench import Bench, Measurement
from benchmarks.machine import cpu_of

KEPT = 0.97  # of the throughput
OFF, ON = "not counted", "counted"
ROUNDS = 2  # times as many as of other loads
REGION = "@stats_create - /64 2 precise_timestamps histogram:"
BOUNDS = (1000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 10_000_000)  # nanoseconds


class _Counted:
    """A device of a core, with a region or without."""

    def __init__(self, core: servers.Core, end: servers.Endpoint, light: loads.Light) -> None:
        self._core = core
        self._end = end
        self._light = light
        self._region: str | None = None
        self.costs: dict[str, list[float]] = {OFF: [], ON: []}

    def run(self, load: loads.Load, seconds: float, *, counted: bool) -> float:
        """The rate of a load in its unit; the core's CPU for each request goes to ``costs``."""
        self._count(counted)
        before = cpu_of(self._end.pid)
        rate = self._light.run(load, self._end, seconds)
        used = cpu_of(self._end.pid) - before
        requests = rate / load.in_unit(1, seconds + loads.WARMUP)
        self.costs[ON if counted else OFF].append(used / requests)
        return rate

    def _count(self, counted: bool) -> None:
        if counted and self._region is None:
            self._region = self._message(REGION + ",".join(map(str, BOUNDS)))
        elif not counted and self._region is not None:
            self._message(f"@stats_delete {self._region}")
            self._region = None

    def _message(self, text: str) -> str:
        device = {"name": self._end.export}
        answer = self._core.call("message", device=device, sector=0, message=text)
        return str(answer["response"]).strip()


def run(bench: Bench) -> None:
    settings = bench.settings
    light = loads.Light(settings.folder)
    images = servers.make_images(settings.folder, "stats", 1, settings.size)
    with servers.Core(settings.folder) as core:
        end = core.create("counted", servers.joined(images, size=settings.size))
        for load in (loads.READ_1, loads.READ_32, loads.WRITE_32, loads.READ_1M):
            device = _Counted(core, end, light)
            run = partial(device.run, load, settings.seconds)
            values = bench.turns(
                {OFF: partial(run, counted=False), ON: partial(run, counted=True)},
                settings.rounds * ROUNDS,
            )
            measured = bench.add(
                Measurement(
                    f"stats-{load.key}",
                    load.title,
                    load.unit,
                    values,
                    device.costs,
                    group="Statistics",
                )
            )
            bench.ratio(f"{load.title}, counted", "not counted", KEPT, measured, ON, [OFF])
