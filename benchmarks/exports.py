# SPDX-License-Identifier: Apache-2.0
"""NBD over a unix socket: a table of two linear lines beside every server that is installed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median

from benchmarks import loads, servers
from benchmarks.bench import Bench, Measurement
from benchmarks.loads import Load
from benchmarks.servers import DMTOOL, NBDKIT, QEMU, Endpoint

BEST_NBDKIT = "best nbdkit"
STRIPED = "dmtool striped"
REMAP = "dmtool remap"

# What dmtool must be by the light client, in proportion to the best nbdkit.
LIGHT_ROWS = [
    (loads.READ_32, 2.5),
    (loads.WRITE_32, 1.4),
    (loads.READ_1M, 2.5),
    (loads.WRITE_1M, 1.4),
    (loads.READ_1, 1.3),
]
# A light client that uses so much of a core is what is measured.
LIMIT = 0.95
FIO_NBDKIT, FIO_QEMU = 1.2, 3.0
STRIPED_LINEAR = 0.8
REMAP_PLUGIN = 3.0


def run(bench: Bench) -> None:
    """Everybody serves all the time; one at a time is asked for something."""
    folder, size = bench.settings.folder, bench.settings.size
    light = loads.Light(folder)
    with ExitStack() as stack:
        core = stack.enter_context(servers.Core(folder))
        images = servers.make_images(folder, "dmtool", 2, size)
        ends = {DMTOOL: core.create("linear", servers.joined(images, size))}
        for peer in servers.PEERS:
            if peer.there():
                end = stack.enter_context(servers.peer_serving(peer, folder, size))
                ends[peer.name] = end
            else:
                bench.note(servers.missing(peer))
        _light(bench, light, ends)
        if loads.fio_there():
            _fio(bench, ends)
        else:
            bench.note("fio, or its nbd engine, is missing: sudo apt install fio")
        legs = servers.make_images(folder, "leg", 4, size)
        ends[STRIPED] = core.create("striped", servers.striped(legs, size, 64))
        _striped(bench, light, {name: ends[name] for name in (DMTOOL, STRIPED)})
        ends = {REMAP: core.create("remap", servers.joined(images, size, "remap"))}
        if servers.PYTHON_PEER.there():
            peer = servers.PYTHON_PEER
            end = stack.enter_context(servers.peer_serving(peer, folder, size))
            ends[peer.name] = end
        else:
            bench.note(servers.missing(servers.PYTHON_PEER))
        _remap(bench, light, ends)


def carried(
    bench: Bench,
    load: Load,
    ends: dict[str, Endpoint],
    client: Callable[[Load, Endpoint, float], float],
    by: str,
) -> Measurement:
    """One load, carried by each in turn."""
    costs: dict[str, list[float]] = {name: [] for name in ends}

    def once(name: str) -> float:
        end = ends[name]
        seconds = bench.settings.seconds
        before = end.cpu()
        rate = client(load, end, seconds)
        # the time before it counts is the server's work too
        requests = rate / load.in_unit(1, 1) * (seconds + loads.WARMUP)
        costs[name].append((end.cpu() - before) / requests)
        return rate

    values = bench.turns({name: partial(once, name) for name in ends})
    key = f"nbd-{by}-{load.key}"
    return bench.add(Measurement(key, load.title, load.unit, values, costs, group=f"NBD, {by}"))


def _light(bench: Bench, light: loads.Light, ends: dict[str, Endpoint]) -> None:
    for load, wanted in LIGHT_ROWS:
        busy: dict[Endpoint, list[float]] = {end: [] for end in ends.values()}

        def client(load: Load, end: Endpoint, seconds: float) -> float:
            rate = light.run(load, end, seconds)
            busy[end].append(light.busy)  # noqa: B023  # it is called before the next one is made
            return rate

        measured = carried(bench, load, ends, client, "light client")
        title = f"NBD {load.title}, light client"
        bench.ratio(title, BEST_NBDKIT, wanted, measured, DMTOOL, NBDKIT)
        for name, end in ends.items():
            if median(busy[end]) > LIMIT:
                bench.note(f"{title}: with {name} the client never waited: it is the limit")


def _fio(bench: Bench, ends: dict[str, Endpoint]) -> None:
    for load in (*loads.BASIC, loads.READ_4X8):
        measured = carried(bench, load, ends, loads.fio, "fio")
        title = f"NBD {load.title}, fio"
        bench.ratio(title, BEST_NBDKIT, FIO_NBDKIT, measured, DMTOOL, NBDKIT)
        if load.connections == 1:
            bench.ratio(title, "qemu-nbd", FIO_QEMU, measured, DMTOOL, QEMU)


def _striped(bench: Bench, light: loads.Light, ends: dict[str, Endpoint]) -> None:
    for load in loads.BASIC[:4]:
        measured = carried(bench, load, ends, light.run, "light client, striped")
        title = f"striped over 4 files, 64 KiB chunk, {load.title}"
        bench.ratio(title, "our own linear", STRIPED_LINEAR, measured, STRIPED, [DMTOOL])


def _remap(bench: Bench, light: loads.Light, ends: dict[str, Endpoint]) -> None:
    measured = carried(bench, loads.READ_32, ends, light.run, "light client, in Python")
    bench.ratio(
        "a target type in Python without a plan, 4K random read, 32 deep",
        servers.PYTHON_PLUGIN,
        REMAP_PLUGIN,
        measured,
        REMAP,
        [servers.PYTHON_PLUGIN],
    )
