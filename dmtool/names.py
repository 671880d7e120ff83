# SPDX-License-Identifier: Apache-2.0
r"""Device names and uuids as libdevmapper keeps them: mangled.

The kernel of device-mapper only ever sees the mangled form, in which each byte outside
``0-9A-Za-z#+-.:=@_`` is written ``\xNN`` (libdm/libdm-common.c). dmtool's core does the same, so
every name in it is printable ASCII; people see and type the unmangled form.
"""

from __future__ import annotations

import re

PLAIN = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz#+-.:=@_")
_ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")

NAME_MAX = 127  # bytes, DM_NAME_LEN less the NUL
UUID_MAX = 128  # bytes, DM_UUID_LEN less the NUL


class MixedMangling(ValueError):
    """A name that has both ``\\xNN`` escapes and bytes that should have been escaped."""


def mangle(name: str, mode: str = "auto", *, also_plain: bytes = b"") -> str:
    """The mangled form of ``name``.

    ``mode`` is dmsetup's ``--manglename``: ``none`` returns the name as it is, ``hex`` escapes
    every byte that is not plain, ``auto`` does so unless the name is mangled already; a name
    that mixes both raises MixedMangling. ``also_plain``: further bytes left alone.
    """
    if mode == "none":
        return name
    raw = name.encode("utf-8", "surrogateescape")
    plain = PLAIN | frozenset(also_plain)
    if mode == "auto" and _ESCAPE.search(raw):
        if any(byte not in plain for byte in _ESCAPE.sub(b"", raw)):
            raise MixedMangling(name)
        return name
    return "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in raw)


def unmangle(name: str) -> str:
    """The form that people see; bytes that are not UTF-8 become surrogate escapes."""
    raw = name.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 16)]), raw).decode("utf-8", "surrogateescape")


_NEEDS_ESCAPE = re.compile(r"[\s\\#]")


def escape(word: str) -> str:
    """A word as a table needs it: white space, backslash and ``#`` get a backslash before them.

    The inverse of the unquoting that dm_split_args (dm-table.c) does; ``\\#`` is dmtool's own.
    """
    return _NEEDS_ESCAPE.sub(lambda m: "\\" + m[0], word)
