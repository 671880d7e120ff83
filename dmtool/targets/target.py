# SPDX-License-Identifier: Apache-2.0
"""One target: a run of sectors of a mapped device, and what its type made of its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from dmtool.targets.io import Op

if TYPE_CHECKING:
    from dmtool.targets.registry import TargetType

C = TypeVar("C")

READS_AND_WRITES = frozenset((Op.READ, Op.WRITE))


class Owner(Protocol):
    """What a target may ask of the table that it is part of."""

    readonly: bool
    noflush: bool

    def event(self, target: Target[Any], what: str) -> None: ...
    def replan(self, target: Target[Any], wait: bool) -> None: ...


class _Gone:
    """The owner of a target whose table is closed: nobody wants to hear of it any more."""

    def __init__(self, owner: Owner) -> None:
        self.readonly = owner.readonly
        self.noflush = owner.noflush

    def event(self, target: Target[Any], what: str) -> None:
        pass

    def replan(self, target: Target[Any], wait: bool) -> None:
        pass


class Target(Generic[C]):
    """The kernel's struct dm_target.

    ``begin``, ``len``  sectors on the mapped device.
    ``type``            its target type.
    ``context``         what ``ctr`` returned.
    ``max_io_len``      sectors; where not 0, I/O is split at multiples of it from ``begin``
                        on before it reaches ``map``.
    ``ops``             what ``map`` is called for: reads and writes, unless ``ctr`` adds more.
                        Without DISCARD discards are dropped; without WRITE_ZEROES zeros are
                        written; without FLUSH only the backings are flushed, as they are in any
                        case (the kernel's num_*_bios).
    ``blocks``          ``map`` answers with Defer or Delay: it is asked where it may wait. If
                        ``ctr`` does not say so, the first such answer does.
    ``readonly``        the table is loaded read-only.

    Threads: ``event`` and ``replan`` from any thread, but ``replan`` that waits never from within
    ``map``, ``end_io`` or a deferred function: it waits for all I/O under way.
    """

    __slots__ = ("_owner", "begin", "blocks", "context", "len", "max_io_len", "ops", "text", "type")

    def __init__(self, type: TargetType, begin: int, len: int, owner: Owner) -> None:
        self.type = type
        self.begin = begin
        self.len = len
        self.context: C = None  # type: ignore[assignment]  # until ctr has returned
        self.max_io_len = 0
        self.ops = READS_AND_WRITES
        self.text = ""  # the arguments as `dmtool table` prints them
        # set by ctr, or at the first Defer or Delay: from then on, until the next plan, the
        # exports keep this target's I/O off the threads that serve others
        self.blocks = False
        self._owner = owner

    @property
    def readonly(self) -> bool:
        return self._owner.readonly

    @property
    def noflush(self) -> bool:
        """The suspend under way is one without flush: I/O that cannot be done may be answered
        with Requeue (dm_noflush_suspending)."""
        return self._owner.noflush

    def event(self, what: str = "") -> None:
        """Raise the mapped device's event number: wakes `dmtool wait` (dm_table_event). ``what``
        happened, in a few words, is what `dmtool events` shows."""
        self._owner.event(self, what)

    def replan(self, *, wait: bool = True) -> None:
        """Ask ``plan`` again and put its answer in place of the old one: no I/O that begins after
        this has returned uses the old one; with ``wait`` none that does is under way either."""
        self._owner.replan(self, wait)

    def disown(self) -> None:
        """The table is closed, and this target knows it no more: for the table itself."""
        self._owner = _Gone(self._owner)
