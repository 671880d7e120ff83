# SPDX-License-Identifier: Apache-2.0
"""The arguments of a target line, read one after the other (the kernel's struct dm_arg_set)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dmtool.backing import Backing
from dmtool.errors import TargetError, os_reason
from dmtool.names import escape
from dmtool.plan import Extent
from dmtool.sectors import U64, SectorOverflow, parse


class Args:
    """What stands after the type in a table line.

    Each method takes the next word and raises TargetError with the given reason (the kernel's
    own text, please) if it is missing or wrong. ``text`` is the line's arguments so far as
    ``table`` prints them back: devices by their canonical name, numbers without ``+`` and
    leading zeros, all else as it was.

    Threads: used by the one thread that builds the table.
    """

    def __init__(self, words: Sequence[str], open_device: Callable[[str], Backing]) -> None:
        self._words = words
        self._open = open_device
        self._next = 0
        self._printed = [escape(word) for word in words]

    def __len__(self) -> int:
        """How many words are left."""
        return len(self._words) - self._next

    @property
    def text(self) -> str:
        return " ".join(self._printed)

    def exactly(self, count: int, reason: str = "Invalid argument count") -> None:
        """Refuse any number of words left but ``count``."""
        if len(self) != count:
            raise TargetError(reason, cause=f"{count} wanted, {len(self)} given")

    def at_least(self, count: int, reason: str = "Not enough arguments") -> None:
        """Refuse fewer words left than ``count``."""
        if len(self) < count:
            raise TargetError(reason, cause=f"at least {count} wanted, {len(self)} given")

    def word(self, reason: str = "Not enough arguments") -> str:
        """The next word as it is."""
        if not len(self):
            raise TargetError(reason)
        self._next += 1
        return self._words[self._next - 1]

    def rest(self) -> list[str]:
        """All words that are left."""
        words = list(self._words[self._next :])
        self._next = len(self._words)
        return words

    def number(self, reason: str, *, least: int = 0, most: int = U64) -> int:
        """An unsigned decimal number as the kernel's kstrtou* takes it (``+`` allowed)."""
        word = self.word(reason)
        at = self._next - 1
        try:
            if word.startswith("-0"):  # kstrtou* takes no minus, even before nothing
                raise ValueError(word)
            value = parse(word)
        except SectorOverflow:
            raise TargetError(
                reason, cause=f"{word} does not fit 64 bits unsigned", word=at
            ) from None
        except ValueError:
            raise TargetError(reason, cause=f"{word!r} is not a number", word=at) from None
        if not least <= value <= most:
            limits = f"{least} or more" if value < least else f"{most} or less"
            raise TargetError(reason, cause=f"{value} is not {limits}", word=at)
        self._printed[at] = str(value)
        return value

    def sector(self, reason: str) -> int:
        """A sector number (unsigned 64-bit) as the kernel's ``sscanf("%llu%c")`` takes it."""
        if len(self) and self._words[self._next].startswith(("+", "-")):
            word = self._words[self._next]
            raise TargetError(reason, cause=f"{word!r} has a sign", word=self._next)
        return self.number(reason)

    def device(self, reason: str = "Device lookup failed") -> Backing:
        """The next word opened as a backing: a file, a block device, or a mapped device."""
        word = self.word(reason)
        return self._device(word, self._next - 1, reason)

    def extent(
        self, reason: str = "Invalid device sector", lookup: str = "Device lookup failed"
    ) -> Extent:
        """``<device> <offset>``. The offset is looked at first, as the kernel's ctrs do."""
        if len(self) < 2:
            raise TargetError("Not enough arguments")
        word, at = self.word(), self._next - 1
        start = self.sector(reason)
        return Extent(self._device(word, at, lookup), start)

    def _device(self, word: str, at: int, reason: str) -> Backing:
        try:
            backing = self._open(word)
        except OSError as error:
            cause = error.strerror or os_reason(error)
            raise TargetError(
                reason, cause=f"{word}: {cause}", errno=error.errno or 5, word=at
            ) from error
        self._printed[at] = str(backing)
        return backing
