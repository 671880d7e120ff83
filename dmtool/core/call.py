# SPDX-License-Identifier: Apache-2.0
"""How a request becomes the call of a function: a method's parameters are the keyword arguments
of its function, and their annotations are what they are checked against."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from dmtool.core.control import INVALID_PARAMS, ProtocolError
from dmtool.core.entry import Reference
from dmtool.sectors import U64

# Annotations beside str, bool, int (up to 64 bits, unsigned) and Reference.
Path: TypeAlias = str  # an absolute one
Number32: TypeAlias = int  # unsigned

_U32 = (1 << 32) - 1
# What neither UTF-8 nor Python's surrogateescape has bytes for.
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Call:
    """A method: its function, parameters, and dmsetup's word for its ioctl."""

    function: Callable[..., Any]
    parameters: dict[str, inspect.Parameter]
    word: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Call | None:
        """Of a function with a ``method`` mark; else None."""
        word = getattr(function, "word", None)
        if word is None:
            return None
        return cls(function, dict(inspect.signature(function).parameters), word)

    def check(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call. Raises ProtocolError."""
        own = {key: p for key, p in self.parameters.items() if key != "peer"}
        unknown = params.keys() - own.keys()
        if unknown:
            raise ProtocolError(INVALID_PARAMS, f"{method}: no parameter {min(unknown)!r}")
        for key, parameter in own.items():
            if key not in params and parameter.default is parameter.empty:
                raise ProtocolError(INVALID_PARAMS, f"{method}: parameter {key!r} is missing")
        return {
            key: _checked(f"{method}: {key}", str(own[key].annotation), value)
            for key, value in params.items()
        }


def method(word: str) -> Callable[[F], F]:
    """Mark a function as the method of its name, less a final underscore; ``word`` is what
    dmsetup calls its ioctl."""

    def mark(function: F) -> F:
        function.word = word  # type: ignore[attr-defined]
        return function

    return mark


def _checked(what: str, wanted: str, value: Any) -> Any:
    if value is None and wanted.endswith("| None"):
        return None
    match wanted.removesuffix(" | None"):
        case "str" if _text(value):
            return value
        case "Path" if _text(value) and os.path.isabs(value) and "\0" not in value:
            return value
        case "bool" if isinstance(value, bool):
            return value
        case "int" if _unsigned(value, U64):
            return value
        case "Number32" if _unsigned(value, _U32):
            return value
        case "Reference" if isinstance(value, dict) and len(value) == 1:
            ((kind, which),) = value.items()
            if kind in ("name", "uuid") and _text(which):
                return Reference(kind, which)
            if kind == "minor" and _unsigned(which, U64):
                return Reference(kind, which)
    raise ProtocolError(INVALID_PARAMS, f"{what} is not of type {wanted}")


def _text(value: Any) -> bool:
    return isinstance(value, str) and (value.isascii() or not _NO_BYTES.search(value))


def _unsigned(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
