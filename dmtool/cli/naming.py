# SPDX-License-Identifier: Apache-2.0
r"""Names and uuids between people and the core: mangled on the way in, unmangled on the way out.

The rules, limits and messages are libdevmapper's (libdm-common.c: mangle_string,
unmangle_string, dm_task_set_name). ``auto`` keeps a name that is mangled already, ``hex`` mangles
every byte that is not plain (the backslash too), ``none`` passes names through.
"""

from __future__ import annotations

import os

from dmtool.cli.options import MANGLING_MODES
from dmtool.names import NAME_MAX, PLAIN, UUID_MAX, unmangle

ENVIRONMENT = "DM_DEFAULT_NAME_MANGLING_MODE"


class BadName(Exception):
    """A name that cannot be used; the arguments are the lines to print."""


class Naming:
    """One mangling mode at work. ``mode``: None for the environment's, else ``auto``."""

    def __init__(self, mode: str | None = None) -> None:
        chosen = (mode or os.environ.get(ENVIRONMENT) or "auto").lower()
        self.mode = chosen if chosen in MANGLING_MODES else "auto"

    def device(self, name: str) -> str:
        """A name as the core has it. Raises BadName."""
        if _length(name) > NAME_MAX:
            raise BadName(f'Name "{name}" too long.')
        return self._mangle(name, "name", NAME_MAX, f'Failed to mangle device name "{name}".')

    def new_name(self, name: str) -> str:
        """The name that ``rename`` gives. Raises BadName."""
        if "/" in name:
            raise BadName(f'Name "{name}" invalid. It contains "/".')
        if _length(name) > NAME_MAX:
            raise BadName(f'Name "{name}" too long')
        if not name:
            raise BadName("Non empty new name is required.")
        failed = f'Failed to mangle new device name "{name}"'
        return self._mangle(name, "new name", NAME_MAX, failed)

    def uuid(self, uuid: str) -> str:
        """A uuid as the core has it. Raises BadName."""
        return self._mangle(uuid, "UUID", UUID_MAX, f'Failed to mangle device uuid "{uuid}".')

    def new_uuid(self, uuid: str) -> str:
        """The uuid that ``rename --setuuid`` gives. Raises BadName."""
        if _length(uuid) > UUID_MAX:
            raise BadName(f'Uuid "{uuid}" too long')
        failed = f'Failed to mangle new device uuid "{uuid}"'
        return self._mangle(uuid, "new UUID", UUID_MAX, failed)

    def shown(self, name: str, what: str = "name") -> str:
        """What people see of a name out of the core. Raises BadName.

        ``none`` shows names as they are. In the other modes a name with a byte that should have
        been mangled was made in mode ``none``, and libdm refuses to show it.
        """
        if self.mode == "none":
            return name
        if any(byte not in PLAIN and byte != 0x5C for byte in _bytes(name)):
            raise BadName(
                f'The {what} "{name}" should be mangled but it contains blacklisted characters.'
            )
        return unmangle(name)

    def mangled(self, shown: str, what: str, limit: int) -> str:
        """The mangled form of a name that is shown, for reports; the mode ``none`` mangles too."""
        mode = "hex" if self.mode == "hex" else "auto"
        return mangle(shown, what, limit, mode)

    def _mangle(self, name: str, what: str, limit: int, failed: str) -> str:
        if self.mode == "auto" and "\\x5cx" in name:
            raise BadName(
                f'The {what} "{name}" seems to be mangled more than once. '
                "This is not allowed in auto mode."
            )
        if self.mode == "none":
            return name
        try:
            return mangle(name, what, limit, self.mode)
        except BadName as error:
            raise BadName(*error.args, failed) from None


def mangle(name: str, what: str, limit: int, mode: str) -> str:
    """``name`` mangled, at most ``limit`` bytes. Raises BadName with libdm's one line.

    In mode ``auto`` a name has either escapes or bytes to be escaped, not both.
    """
    raw = _bytes(name)
    mangled = bytearray()
    escaped: bool | None = None  # None: nothing seen that tells
    place = 0
    while place < len(raw):
        byte = raw[place]
        if mode == "auto" and raw.startswith(b"\\x", place):
            if len(raw) - place < 4 or escaped:
                raise _mixed(name, what)
            escaped = False
            mangled += raw[place : place + 4]
            place += 4
        else:
            if byte in PLAIN:
                mangled.append(byte)
            elif mode == "auto" and escaped is False:
                raise _mixed(name, what)
            else:
                mangled += b"\\x%02x" % byte
                escaped = True
            place += 1
        if len(mangled) > limit:
            raise BadName(f'Mangled form of the {what} too long for "{name}".')
    return mangled.decode("utf-8", "surrogateescape")


def _mixed(name: str, what: str) -> BadName:
    return BadName(
        f'The {what} "{name}" contains mixed mangled and unmangled characters or '
        "it's already mangled improperly."
    )


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _length(name: str) -> int:
    return len(_bytes(name))
