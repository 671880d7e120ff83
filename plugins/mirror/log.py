# SPDX-License-Identifier: Apache-2.0
"""The dirty log: which regions may differ between the legs (dm-log.c).

``core`` knows nothing after a restart. ``disk`` keeps a bit a region on a device of its own: set
while all legs are known to have the same bytes, cleared on stable storage before a write may make
them differ. Little-endian on disk, whatever the machine:

    0     u32  magic 0x4D695272 ("rRiM" as bytes)
    4     u32  version: 2 (1 is the same)
    8     u64  number of regions
    1024  the bits, whole 64-bit words; those beyond the last region are clear
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from dmtool.api import Backing, TargetError
from dmtool.plugins.mirror.bits import Bits, octets

MAGIC = 0x4D695272
VERSION = 2
_HEADER = struct.Struct("<IIQ")
_BITS_AT = 1024

# Third word of a log's arguments: copy all at the start, copy nothing, or what the log says.
SYNC, NOSYNC, DEFAULT = "sync", "nosync", ""


class CoreLog:
    """``region_size`` in sectors; ``sync`` is SYNC, NOSYNC or DEFAULT. Nothing is kept.

    ``failed``: writes can not be noted any more; ``started``: the state of regions is known.
    """

    kind = "core"
    persistent = False

    def __init__(self, region_size: int, sync: str) -> None:
        self.region_size = region_size
        self.sync = sync
        self.failed = False
        self.started = not self.persistent
        self.on_failure: Callable[[], None] = lambda: None

    def arguments(self) -> str:
        """As in a table."""
        return self._arguments([])

    def _arguments(self, words: list[str]) -> str:
        words = [*words, str(self.region_size), *filter(None, [self.sync])]
        return f"{self.kind} {len(words)} {' '.join(words)}"

    def status(self) -> str:
        return f"1 {self.kind}"

    def mark(self, first: int, end: int) -> int:
        """Regions are about to be written: 0, or what ``commit`` must have seen before."""
        return 0

    def commit(self, mark: int) -> bool:
        """All marks up to ``mark`` are on stable storage; False where that failed."""
        return True


class DiskLog(CoreLog):
    """A log on ``device``, from its first byte on. ``clean``: the bits, a region each.

    Threads: any. Marks of several threads share one write and flush of the device.
    """

    kind = "disk"
    persistent = True

    def __init__(self, device: Backing, region_size: int, sync: str, regions: int) -> None:
        super().__init__(region_size, sync)
        self.device = device
        self.letter = "A"
        bits = octets(regions)
        block = device.block_size
        self.size = -(-(_BITS_AT + bits) // block) * block
        self._image = bytearray()
        self._place_bits(regions, bytearray(self.size))
        self._lock = threading.Lock()  # the image and what is below
        self._writing = threading.Lock()  # one writes to the device at a time
        self._marks: list[tuple[int, int, int]] = []  # first, end, mark: not yet committed
        self._mark = 0
        self._committed = 0
        self._changed = (self.size, 0)  # bytes of the image that the device has not got
        self._known = 0

    def _place_bits(self, regions: int, image: bytearray) -> None:
        self._image = image
        place = memoryview(image)[_BITS_AT : _BITS_AT + octets(regions)]
        if regions % 64:
            beyond = int.from_bytes(place, "little") & ((1 << regions) - 1)
            place[:] = beyond.to_bytes(len(place), "little")
        self.clean = Bits(regions, place)

    def arguments(self) -> str:
        return self._arguments([str(self.device)])

    def status(self) -> str:
        return f"3 {self.kind} {self.device} {self.letter}"

    def read(self) -> None:
        """Read what the device has, until ``start``. Raises TargetError for another version of
        the format."""
        if self.started:
            return
        try:
            image = bytearray(self.device.pread(self.size, 0))
        except OSError:
            self._fail("D")
            image = bytearray(self.size)
        magic, version, known = _HEADER.unpack_from(image)
        if self.sync or magic != MAGIC:
            known = 0
        elif version not in (1, VERSION):
            raise TargetError(
                "incompatible disk log version",
                cause=f"{self.device} has a log of version {version}",
                hint="with `sync` or `nosync` it is made anew",
            )
        self._known = min(known, self.clean.size)
        self._place_bits(self.clean.size, image)

    def start(self, *, write: bool) -> None:
        """Take what was read as the state of the regions, those that it does not know by
        ``sync``, and write it back."""
        with self._lock:
            self.clean.fill(self._known, self.clean.size, self.sync == NOSYNC)
            _HEADER.pack_into(self._image, 0, MAGIC, VERSION, self.clean.size)
            self._mark += 1
            self._changed = (0, self.size)
            self.started = True
        if write:
            self.commit(self._mark)

    def save(self) -> None:
        """All that is in memory is on stable storage."""
        with self._lock:
            self._mark += 1
        self.commit(self._mark)

    def mark(self, first: int, end: int) -> int:
        with self._lock:
            if self.clean.find(True, first, end) < end:
                self._mark += 1
                self._marks.append((first, end, self._mark))
                self.clean.fill(first, end, False)
                self._touch(first, end)
                return self._mark
            made = (mark for low, high, mark in self._marks if low < end and first < high)
            return max(made, default=0)

    def unclean(self, regions: int) -> int:
        """Those of ``regions`` (a mask) that are not clean."""
        with self._lock:
            return regions & ~self.clean.mask()

    def set_clean(self, regions: int) -> None:
        """``regions`` (a mask) are the same on all legs, on stable storage; for ``commit``."""
        if not regions:
            return
        with self._lock:
            self.clean.load(self.clean.mask() | regions)
            self._touch((regions & -regions).bit_length() - 1, regions.bit_length())

    def _touch(self, first: int, end: int) -> None:
        low, high = self._changed
        self._changed = (
            min(low, _BITS_AT + (first >> 3)),
            max(high, _BITS_AT + ((end + 7) >> 3)),
        )

    def commit(self, mark: int, *, flush: bool = True) -> bool:
        """``flush`` False: it may take as long as it likes to be on stable storage."""
        with self._writing:
            if flush and self._committed >= mark:
                return True
            with self._lock:
                upto = self._mark
                changed, self._changed = self._changed, (self.size, 0)
                block = self.device.block_size
                low, high = changed[0] // block * block, -(-changed[1] // block) * block
                data = bytes(self._image[low:high])
            try:
                if data:
                    self.device.pwrite(data, low)
            except OSError:
                with self._lock:
                    low, high = self._changed
                    self._changed = (min(low, changed[0]), max(high, changed[1]))
                self._fail("D")
                return False
            if not flush:
                return True
            try:
                self.device.flush()
            except OSError:
                self._fail("F")
                return False
            with self._lock:
                self._committed = upto
                self._marks = [entry for entry in self._marks if entry[2] > upto]
            return True

    def _fail(self, letter: str) -> None:
        if self.letter == "F":
            return
        self.failed = True
        first, self.letter = self.letter == "A", letter
        if first:
            self.on_failure()


Log = CoreLog | DiskLog
