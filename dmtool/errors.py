# SPDX-License-Identifier: Apache-2.0
"""Every error that dmtool tells a user, as one family.

The docstring of an error class is its message template: what the user reads is the first
line of the docstring with the instance's fields filled in. Nothing here knows how an error
is printed; ``as_dict`` is the form in which an error crosses the control socket and the form
that ``--json`` prints.
"""

from __future__ import annotations

import errno as _errno
import os
from dataclasses import dataclass
from typing import Any, ClassVar


class DmtoolError(Exception):
    """{reason}"""

    exit_status: ClassVar[int] = 1
    errno: int = _errno.EINVAL

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        if "errno" in fields:
            self.errno = fields["errno"]
        super().__init__(fields)

    def __str__(self) -> str:
        template = (
            (type(self).__doc__ or "{reason}").strip().split("\n\n")[0].replace("\n    ", " ")
        )
        return template.format_map(_Fields(self.fields))

    @property
    def hint(self) -> str | None:
        """What the user might try, or None."""
        return self.fields.get("hint")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form: ``error`` (class name), ``reason`` (text), ``errno``, ``hint``."""
        return {
            "error": type(self).__name__,
            "reason": str(self),
            "errno": self.errno,
            "hint": self.hint,
        }


class _Fields(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return f"<{key}>"


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a table: source name, 1-based line and column, and the line's own text."""

    source: str
    line: int
    column: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


class TargetError(DmtoolError):
    """{reason}

    Raised by a target's ``ctr`` (and ``message``) with the kernel's own text as ``reason``.
    ``cause`` says what lies behind it ("b.img: No such file or directory"), ``hint`` what to
    try, ``word`` which argument is meant (0-based position after the type, None: the whole
    line), ``errno`` what an ioctl would have returned.
    """

    def __init__(
        self,
        reason: str,
        *,
        cause: str | None = None,
        hint: str | None = None,
        word: int | None = None,
        errno: int = _errno.EINVAL,
    ) -> None:
        super().__init__(reason=reason, cause=cause, hint=hint, word=word, errno=errno)

    @property
    def cause(self) -> str | None:
        cause: str | None = self.fields["cause"]
        return cause

    @property
    def word(self) -> int | None:
        word: int | None = self.fields["word"]
        return word


class TableError(DmtoolError):
    """{reason}

    One line of a table is refused. ``reason`` is the kernel's text where it has one, without
    the type; ``type`` the target type's name or "" where the kernel's log names none.
    ``syntax`` marks lines that dmsetup itself refuses ("Invalid format on line ..."), before
    any ioctl; ``too_long`` a target type name of more than 15 bytes.
    """

    def __init__(
        self,
        reason: str,
        where: Where,
        *,
        type: str = "",
        cause: str | None = None,
        hint: str | None = None,
        errno: int = _errno.EINVAL,
        syntax: bool = False,
        too_long: str | None = None,
    ) -> None:
        self.where = where
        self.type = type
        self.cause = cause
        self.syntax = syntax
        self.too_long = too_long
        super().__init__(reason=reason, hint=hint, errno=errno)

    def as_dict(self) -> dict[str, Any]:
        return {
            **super().as_dict(),
            "source": self.where.source,
            "line": self.where.line,
            "column": self.where.column,
            "text": self.where.text,
            "type": self.type,
            "cause": self.cause,
            "syntax": self.syntax,
            "too_long": self.too_long,
        }


class TableErrors(DmtoolError):
    """{count} errors in the table

    All the errors of one table, in the order of its lines; ``errors`` is never empty. The
    kernel stops at the first; its errno is ours too.
    """

    def __init__(self, errors: list[TableError]) -> None:
        self.errors = errors
        super().__init__(count=len(errors), errno=errors[0].errno)

    def __str__(self) -> str:
        return str(self.errors[0]) if len(self.errors) == 1 else super().__str__()

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "causes": [error.as_dict() for error in self.errors]}


class DeviceError(DmtoolError):
    """{reason}

    An operation on a mapped device is refused; ``errno`` is what the ioctl would return.
    """

    def __init__(self, reason: str, *, errno: int, hint: str | None = None) -> None:
        super().__init__(reason=reason, errno=errno, hint=hint)


class NoSuchDevice(DeviceError):
    """No mapped device {device}"""

    def __init__(self, device: str) -> None:
        DmtoolError.__init__(self, device=device, errno=_errno.ENXIO)


class PluginError(DmtoolError):
    """target type "{type}" ({distribution}) has a bug: {hook}() {what}"""

    def __init__(self, type: str, distribution: str, hook: str, what: str) -> None:
        super().__init__(
            type=type, distribution=distribution, hook=hook, what=what, errno=_errno.EIO
        )


class UnknownTarget(DmtoolError):
    """unknown target type"""

    def __init__(self, type: str, near: list[str]) -> None:
        hint = f"did you mean {' or '.join(near)}?" if near else None
        super().__init__(type=type, hint=hint, errno=_errno.EINVAL)


class DuplicateTarget(DmtoolError):
    """target type "{type}" is claimed by {first} and by {second}"""

    def __init__(self, type: str, first: str, second: str) -> None:
        super().__init__(
            type=type,
            first=first,
            second=second,
            hint="uninstall one of the two distributions",
            errno=_errno.EEXIST,
        )


class CoreError(DmtoolError):
    """{reason}

    The core process cannot be reached or started, or its directory cannot be used.
    """

    def __init__(self, reason: str, *, hint: str | None = None, errno: int = _errno.EIO) -> None:
        super().__init__(reason=reason, hint=hint, errno=errno)


def os_reason(error: OSError) -> str:
    """The system's words for an OSError, without Python's "[Errno N]"."""
    return os.strerror(error.errno) if error.errno else str(error)
