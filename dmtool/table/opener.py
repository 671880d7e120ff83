# SPDX-License-Identifier: Apache-2.0
"""The devices of a table that is being built: each is opened once, by whatever names."""

from __future__ import annotations

import os
from typing import Protocol

from dmtool.backing import Backing
from dmtool.backing.open import devno, open_backing


class MappedDevices(Protocol):
    """Who knows the mapped devices that a table may name."""

    def mapped(self, word: str) -> Backing | None:
        """The mapped device that ``word`` (MAJ:MIN or an absolute path) names, opened; None if
        it names no mapped device. Raises OSError where it does but cannot be opened."""


class NoMappedDevices:
    """None: for tables that are built outside a core."""

    def mapped(self, word: str) -> Backing | None:
        return None


class Opener:
    """Opens what the lines of one table name. ``backings`` are the open ones, in order.

    Threads: one.
    """

    def __init__(self, cwd: str, devices: MappedDevices, *, readonly: bool) -> None:
        self.backings: list[Backing] = []
        self._cwd = cwd
        self._devices = devices
        self._readonly = readonly
        self._opened: dict[str, Backing] = {}
        self._refused: dict[str, OSError] = {}  # asked once, however many lines name it
        self._known: dict[tuple[str, str], Backing] = {}

    def open(self, word: str) -> Backing:
        """The device that a word names. Raises OSError."""
        backing = self._opened.get(word)
        if backing is None:
            if word in self._refused:
                raise self._refused[word]
            try:
                backing = self._opened[word] = self._once(self._open_new(word))
            except OSError as error:
                self._refused[word] = error
                raise
        return backing

    def is_named(self, device: Backing, word: str) -> bool:
        """Whether the word is one by which this device was opened."""
        opened = self._opened.get(word)
        return opened is device or (opened is not None and str(opened) == str(device))

    def _open_new(self, word: str) -> Backing:
        name = word if devno(word) else os.path.normpath(os.path.join(self._cwd, word))
        mapped = self._devices.mapped(name)
        if mapped is not None:
            return mapped
        return open_backing(word, self._cwd, readonly=self._readonly)

    def _once(self, backing: Backing) -> Backing:
        """A device that the table has open under another name is opened no second time."""
        known = self._known.setdefault((backing.kind, str(backing)), backing)
        if known is not backing:
            backing.close()
            return known
        self.backings.append(backing)
        return backing
