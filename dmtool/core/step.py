# SPDX-License-Identifier: Apache-2.0
"""At which ioctl a command failed: dmsetup names it in the first line of every error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dmtool.errors import DmtoolError


class CommandFailed(Exception):
    """A command that failed at the ioctl named ``step``; ``devno`` where dmsetup prints it."""

    def __init__(self, error: DmtoolError | OSError, step: str, devno: str | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.step = step
        self.devno = devno

    def data(self) -> dict[str, Any]:
        """``data`` of the error object that goes to the client."""
        error = self.error
        if isinstance(error, OSError):
            number = error.errno or 0
            told: dict[str, Any] = {
                "error": "OSError",
                "reason": error.strerror or os.strerror(number),
                "errno": number,
                "hint": None,
            }
        else:
            told = error.as_dict()
        told.setdefault("cause", getattr(error, "cause", None))
        told.setdefault("causes", [])
        return {**told, "step": self.step, "devno": self.devno}


@contextmanager
def step(word: str, devno: str | None = None) -> Iterator[None]:
    """What goes wrong inside failed at the ioctl ``word``, unless an inner step says another."""
    try:
        yield
    except (DmtoolError, OSError) as error:
        raise CommandFailed(error, word, devno) from error
