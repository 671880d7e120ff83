# SPDX-License-Identifier: Apache-2.0
"""What a table consists of: targets side by side, their plans, and the index that finds them."""

from __future__ import annotations

import logging
import threading
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dmtool.backing import Backing
from dmtool.btree import Index
from dmtool.errors import DmtoolError
from dmtool.plan import Mirrored, Pieces, Plan
from dmtool.sectors import to_bytes
from dmtool.table.bulk import Bulk, BulkRuns, BulkTargets, Row, Runs, printed
from dmtool.table.mapping import PythonMap
from dmtool.table.segments import Run, Single, compile_plan, uses
from dmtool.table.watch import Watch
from dmtool.targets.target import Target

log = logging.getLogger(__name__)


class Layout:
    """Targets from sector 0 on, without gaps.

    ``targets``     in order of their sectors, and the ``plans`` of each, by its number. Of a table
                    built in ``bulk`` most are made as they are asked for, and ``plans`` has only
                    those of the others.
    ``sectors``     length of the device; ``size`` the same in bytes.
    ``backings``    the devices opened for it, each once, in order of first use; the table owns
                    them.
    ``block_size``  bytes, the largest logical block size below.
    ``noflush``     the suspend under way is one without flush.
    ``on_event``    called with the target, and its words, of an event; ``drain``: waits until all
                    I/O under way is done. The mapped device that takes the table sets both.

    Threads: one at a time.
    """

    def __init__(self, *, readonly: bool) -> None:
        self.readonly = readonly
        self.noflush = False
        self.targets: Sequence[Target[Any]] = []
        self.plans: list[Plan | None] | dict[int, Plan | None] = []
        self.bulk: Bulk | None = None
        self.backings: list[Backing] = []
        self.block_size = 512
        self.sectors = 0
        self.size = 0
        self.on_event: Callable[[Target[Any], str], None] = lambda _target, _what: None
        self.drain: Callable[[], None] = lambda: None
        self.watch = Watch()
        self._runs: Runs = []
        # by the target's number, with a plan or without: what it serialises holds across a replan
        self._maps: dict[int, PythonMap] = {}
        self._mapped = False  # whether any target may be asked through its map
        self._begins = array("Q", [0])  # bytes; one more than there are targets
        self._find: Callable[[int], int] = Index([]).find
        self._replan = threading.Lock()

    # -- building -----------------------------------------------------------------------------

    def index(self) -> None:
        """Lay out runs and index, once ``targets`` and ``plans``, or ``bulk``, are complete."""
        objects = enumerate(self.targets) if self.bulk is None else self.bulk.odd.items()
        # whether there is a plan or not: what they serialise holds across a replan
        self._maps = {number: PythonMap(target) for number, target in objects}
        if self.bulk is None:
            self._runs = [self._run(number, self.plans[number]) for number in self._maps]
            begins = array("Q", [ti.begin for ti in self.targets])
            begins.append(self.targets[-1].begin + self.targets[-1].len)
        else:
            self.targets = BulkTargets(self.bulk, weakref.ref(self))
            self._runs, begins = BulkRuns(self.bulk), self.bulk.begins
            for number in self._maps:
                self._runs[number] = self._run(number, self.plans[number])
        self.sectors = begins[-1]
        self.size = to_bytes(self.sectors)
        # a device has less than 2^63 bytes, so its byte offsets fit 64 bits too
        self._begins = array("Q", map(to_bytes, begins))
        self._find = Index(array("Q", [begin - 1 for begin in begins[1:]])).find

    def event(self, target: Target[Any], what: str) -> None:
        self.on_event(target, what)

    def replan(self, target: Target[Any], wait: bool) -> None:
        with self._replan:
            i = self._find(target.begin)
            plan = target.type.call("plan", target)
            self.plans[i] = plan
            target.blocks = False  # it was the old plan that was seen to
            # I/O sees the old run or the new one
            self._runs[i] = self._run(i, plan)
            self.watch.replanned()
        if wait:
            self.drain()

    def _run(self, number: int, plan: Plan | None) -> Run:
        mapped = self._maps[number]
        if plan is None or isinstance(plan, Mirrored | Pieces):
            self._mapped = True
        if plan is None:
            return Single(mapped, to_bytes(mapped.target.begin))
        return compile_plan(plan, mapped)

    def close(self) -> None:
        """Destroy the targets and close the backings; no I/O may be under way. What fails is
        logged: the table is gone, and so is all that can be closed."""
        self.watch.closed()
        for target in self._objects():
            try:
                target.type.call("dtr", target)
            except (DmtoolError, OSError) as error:
                log.warning("dtr of target type %s: %s", target.type.name, error)
            target.disown()  # an idle process does not look for cycles
        for backing in self.backings:
            try:
                backing.close()
            except OSError as error:
                log.warning("close of %s: %s", backing, error)

    # -- looking ------------------------------------------------------------------------------

    def layout(self) -> tuple[array[int], Sequence[Run]]:
        """The byte at which each target begins, and that behind the last; the run of each."""
        return self._begins, self._runs

    def target_at(self, sector: int) -> Target[Any] | None:
        """The target that has this sector; None beyond the end."""
        return self.targets[self._find(sector)] if 0 <= sector < self.sectors else None

    def number_at(self, sector: int) -> int:
        """Index into ``targets`` of the one that has this sector of the device."""
        return self._find(sector)

    def having(self, hook: str) -> Iterator[Target[Any]]:
        """The targets whose type has ``hook``, in order."""
        yield from (target for target in self._objects() if target.type.has(hook))

    def _objects(self) -> Iterable[Target[Any]]:
        return self.targets if self.bulk is None else self.bulk.odd.values()

    def lines(self) -> Iterator[Row]:
        """(begin, length, type, arguments as `table` prints them) of all targets, in sectors."""
        if self.bulk is not None:
            return self.bulk.lines(self._line)
        return map(self._line, range(len(self.targets)))

    def parts(self) -> Iterator[str]:
        """The same as text, as `table` prints it: some lines at a time, each with its newline."""
        return map(printed, self.lines()) if self.bulk is None else self.bulk.parts(self._line)

    def _line(self, number: int) -> Row:
        target = self.targets[number]
        return target.begin, target.len, target.type.name, self.text(number)

    def uses(self, number: int, fn: Callable[[Backing, int, int], None]) -> None:
        """Call fn(device, start, length), in sectors, for all that target ``number`` uses."""
        target = self.targets[number]
        if self.bulk is None or number in self.bulk.odd:
            plan = self.plans[number]
        else:
            plan = self.bulk.plan(number)
        if target.type.has("iterate_devices"):
            target.type.call("iterate_devices", target, fn)
        elif plan is not None:
            uses(plan, target.len, fn)

    def status(self, number: int) -> str:
        """What `status` prints after the type of target ``number``."""
        target = self.targets[number]
        return target.type.call("status", target) or ""

    def text(self, number: int) -> str:
        """What `table` prints after the type of target ``number``; ctr reads it back."""
        target = self.targets[number]
        if target.type.has("table"):
            return str(target.type.call("table", target))
        return target.text
