# SPDX-License-Identifier: Apache-2.0
r"""Regular expressions as libdm has them (``dm_regex``), for selections with ``=~``.

Small: ``. [] [^] ( ) | * + ? ^ $`` and the escapes ``\n \r \t``; every other escaped character is
itself, and there are neither classes nor counts. An expression may match anywhere in the first
line. ``^`` and ``$`` are characters that stand before and behind the text, so ``^`` is not magic in
front of a line, and ``.`` and ``[^a]`` match them too.

The texts of errors are libdm's, in its order. Matching follows all ways through the expression at
once, as libdm does: the time is linear in the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# What libdm puts before and behind the text, and behind the expression.
_BEFORE, _BEHIND, _END = 2, 3, 0
_ALL = (1 << 256) - 1
_ESCAPES = {ord("n"): ord("\n"), ord("r"): ord("\r"), ord("t"): ord("\t")}
_SPECIAL = frozenset(b"()*+?|")
# A token that is a set of characters; the others are special characters, or None at the end.
_SET = 0


class RegexError(Exception):
    """An expression that cannot be read; the arguments are libdm's lines."""


@dataclass(slots=True)
class _Part:
    """Part of an expression. Its places are bits of a number, one for each set of characters.

    ``first`` and ``last``: where a text that it matches may begin and end.
    """

    empty: bool
    first: int
    last: int


class Regex:
    """One expression. Raises RegexError for a bad one.

    ``warnings`` has what libdm says of an expression, and takes it nevertheless.
    """

    def __init__(self, pattern: str) -> None:
        self._sets: list[int] = []
        self._follow: list[int] = []
        parser = _Parser(pattern, self._sets, self._follow)
        try:
            root = parser.parse()
        except RecursionError:
            raise RegexError("Regular expression is nested too deeply.") from None
        self.warnings = parser.errors
        self._start = root.first
        self._accepts = [0] * 256
        for place, characters in enumerate(self._sets):
            for byte in range(256):
                if characters >> byte & 1:
                    self._accepts[byte] |= 1 << place

    def matches(self, text: str) -> bool:
        """Whether it matches somewhere in ``text``."""
        at = self._start
        for byte in (_BEFORE, *text.encode("utf-8", "surrogateescape"), _BEHIND):
            at = self._behind(at & self._accepts[byte])
            if at & self._accepts[_END]:
                return True
        return False

    def _behind(self, places: int) -> int:
        """The places that may follow any of ``places``."""
        found = 0
        for place in _each(places):
            found |= self._follow[place]
        return found


def _each(places: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while places:
        lowest = places & -places
        yield lowest.bit_length() - 1
        places ^= lowest


class _Parser:
    """Reads one expression; what stands in ``sets`` and ``follow`` is the automaton."""

    def __init__(self, pattern: str, sets: list[int], follow: list[int]) -> None:
        raw = pattern.encode("utf-8", "surrogateescape")
        # libdm wraps the expression as text, so its brackets may pair with those of the wrapping.
        self._text = b"(.*(%s)\0)" % raw
        self._place = 0
        self._token: int | None = None
        self._set = 0
        self._characters = sets
        self._follow = follow
        self.errors: list[str] = []

    def parse(self) -> _Part:
        self._next()
        part = self._any_of()
        if part is None:
            raise RegexError(*self.errors, "Parse error in regex", "Couldn't parse regex")
        return part

    def _any_of(self) -> _Part | None:
        """``a|b``."""
        whole = self._sequence()
        if whole is None:
            return None
        number = 0
        while self._token == ord("|"):
            number += 1
            self._next()
            part = self._sequence()
            if part is None:
                self.errors += ["Badly formed 'or' expression"] * number
                return None
            whole = _Part(
                whole.empty or part.empty, whole.first | part.first, whole.last | part.last
            )
        return whole

    def _sequence(self) -> _Part | None:
        """``ab``."""
        whole = self._repeated()
        while whole is not None and self._token != ord("|"):
            part = self._repeated()
            if part is None:
                break
            self._link(whole.last, part.first)
            whole = _Part(
                whole.empty and part.empty,
                whole.first | (part.first if whole.empty else 0),
                part.last | (whole.last if part.empty else 0),
            )
        return whole

    def _repeated(self) -> _Part | None:
        """``a``, ``a*``, ``a+``, ``a?``."""
        part = self._single()
        while part is not None and self._token in {ord("*"), ord("+"), ord("?")}:
            if self._token != ord("?"):
                self._link(part.last, part.first)
            part = _Part(part.empty or self._token != ord("+"), part.first, part.last)
            self._next()
        return part

    def _single(self) -> _Part | None:
        """A set of characters, or brackets."""
        if self._token == _SET:
            place = 1 << len(self._characters)
            self._characters.append(self._set)
            self._follow.append(0)
            self._next()
            return _Part(False, place, place)
        if self._token != ord("("):
            return None
        self._next()
        part = self._any_of()
        if self._token != ord(")"):
            self.errors.append("missing ')' in regular expression")
            return None
        self._next()
        return part

    def _link(self, places: int, to: int) -> None:
        for place in _each(places):
            self._follow[place] |= to

    # -- tokens ----------------------------------------------------------------------------------

    def _next(self) -> None:
        """Read one token: a special character, or a set of characters."""
        text = self._text
        if self._place >= len(text):
            self._token = None
            return
        byte = text[self._place]
        self._place += 1
        self._token = _SET
        if byte in _SPECIAL:
            self._token = byte
        elif byte == ord("["):
            self._bracket()
        elif byte == ord("."):
            self._set = _ALL & ~(1 << ord("\n") | 1 << ord("\r") | 1 << _END)
        elif byte == ord("\\"):
            self._set = 1 << _ESCAPES.get(text[self._place], text[self._place])
            self._place += 1
        else:
            self._set = 1 << {ord("^"): _BEFORE, ord("$"): _BEHIND}.get(byte, byte)

    def _bracket(self) -> None:
        """``[a-z]``, ``[^a]``. A hyphen makes a range wherever a character stands before it."""
        text = self._text
        negated = text[self._place] == ord("^")
        self._place += negated
        characters = 0
        last = 0
        while self._place < len(text) and text[self._place] != ord("]"):
            byte = text[self._place]
            low = None
            if byte == ord("\\"):
                self._place += 1
                byte = _ESCAPES.get(text[self._place], text[self._place])
            elif byte == ord("-") and last:
                self._place += 1
                low, byte = sorted((last, text[self._place]))
            for each in range(byte if low is None else low, byte + 1):
                characters |= 1 << each
            last = byte
            self._place += 1
        if self._place >= len(text):
            self._token = None
            return
        self._place += 1
        self._set = _ALL & ~characters & ~(1 << _END) if negated else characters
