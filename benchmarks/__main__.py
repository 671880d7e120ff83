# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks: all of them, or the groups that are named.

Results are printed; of a run of all groups they are also written to docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench, Settings, say

# name: what it is about; each is a module here with run(bench)
GROUPS = {
    "exports": "NBD beside nbdkit and qemu, by a light client and by fio",
    "sharing": "NBD with a cold disk, and beside a connection that flushes",
    "fuse": "a device's file beside those of qemu-storage-daemon and xmount",
    "index": "the sector index; the charter's own benchmark",
    "tables": "a table of a million lines",
    "mirror": "copying beside cp, dd and qemu-img, and what it costs others",
    "stats": "what counting I/O costs",
    "startup": "how soon a command is done",
}
PAGES = Path(__file__).parents[1] / "docs" / "benchmarks"


def options() -> argparse.Namespace:
    listed = "\n".join(f"  {name:10} {about}" for name, about in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"groups:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for a load of a server in a round (default: 1)"
    )
    parser.add_argument("--size", type=int, default=256, help="MiB of a device (default: 256)")
    parser.add_argument(
        "--dir", type=Path, default=_memory(), help="tmpfs to make images in (default: %(default)s)"
    )
    parser.add_argument(
        "--disk", type=Path, default=Path("/var/tmp"), help="the same on a disk (default: /var/tmp)"
    )
    parser.add_argument(
        "--large", action="store_true", help="a table of 10,000,000 lines as well: takes 4 GiB"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="where other programs run: wait so long in all for them to be quiet (default: 0)",
    )
    parser.add_argument(
        "--out", type=Path, help="where to write results (default: docs/benchmarks)"
    )
    parser.add_argument("--no-write", action="store_true", help="only print them")
    chosen = parser.parse_args()
    unknown = [group for group in chosen.groups if group not in GROUPS]
    if unknown:
        parser.error(f"no such group: {' '.join(unknown)}")
    if chosen.size < 16 or chosen.size & (chosen.size - 1):
        parser.error("--size: a power of two, 16 or more")
    return chosen


def _memory() -> Path:
    shared = Path("/dev/shm")
    return shared if shared.is_dir() else Path(tempfile.gettempdir())


def main() -> int:
    chosen = options()
    # so that servers and images do not stay behind
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    groups = chosen.groups or list(GROUPS)
    with tempfile.TemporaryDirectory(dir=chosen.dir, prefix="dmtool-benchmarks-") as folder:
        settings = Settings(
            folder=Path(folder),
            disk=chosen.disk,
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            size=chosen.size,
            large=chosen.large,
            patience=chosen.patience,
        )
        bench = Bench(settings)
        for group in groups:
            say(f"{group}: {GROUPS[group]}")
            importlib.import_module(f"benchmarks.{group}").run(bench)
    for title, group_of in report.groups(bench.measurements).items():
        print(f"\n{title}\n\n{report.group_table(group_of, 'simple')}")
    print(f"\n{report.rows_table(bench.rows, 'simple')}\n\n{report.conclusion(bench.rows)}")
    for note in bench.notes:
        print(f"- {note}")
    if not chosen.no_write and (chosen.out or not chosen.groups):
        for path in report.write(bench, chosen.out or PAGES):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
