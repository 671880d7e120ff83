# SPDX-License-Identifier: Apache-2.0
"""What every command works with: its options, the core, names, and where words go."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from dmtool.cli.naming import BadName, Naming
from dmtool.cli.options import Switches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmtool.cli.format import Headings
    from dmtool.cli.report import Report
    from dmtool.cli.stats import Showing
    from dmtool.cli.tree import Stack
    from dmtool.client import Client, ClientError

# The major number of mapped devices, in place of the kernel's 252-254 (docs/differences.md, 7).
MAJOR = 1000
MAPPER = "/dev/mapper"


class Failed(Exception):
    """A command failed. The arguments are lines still to be printed before "Command failed."."""


class Rejected(Exception):
    """A command line that is refused before a command runs; arguments as of Failed."""


class Device(NamedTuple):
    """A mapped device as the user named it; ``name`` and ``uuid`` mangled, "" if not used."""

    name: str = ""
    uuid: str = ""
    major: int | None = None
    minor: int | None = None

    @property
    def reference(self) -> dict[str, Any]:
        """The protocol's device reference."""
        if self.name:
            return {"name": self.name}
        if self.uuid:
            return {"uuid": self.uuid}
        return {"name": ""} if self.minor is None else {"minor": self.minor}

    @property
    def devno(self) -> str | None:
        """As libdm's errors have it: a negative minor number is none."""
        if self.major is None or self.major <= 0:
            return None
        return f"{self.major}:{self.minor if (self.minor or 0) >= 0 else ''}"

    def check(self) -> None:
        """Raises Failed for numbers that libdm does not take to the driver."""
        if self.major is not None and self.major <= 0 and (self.minor or 0) >= 0:
            raise Failed(
                "Missing major number for persistent device.", "Couldn't create ioctl argument."
            )


class Session:
    """One run of the command line; single-threaded.

    ``prog`` is the name that it was called by, ``switches`` its options. ``many``: several
    devices are shown, each line starts with its device's name. ``status`` is the exit status
    unless a command fails.
    """

    def __init__(self, prog: str, switches: Switches) -> None:
        self.prog = prog
        self.switches = switches
        self.naming = Naming(switches.value("manglename"))
        self.many = False
        self.status = 0
        self.report: Report | None = None
        self.stack: Stack | None = None
        self.document: dict[str, Any] | None = None
        self.headings: Headings = {}
        self.rows: list[Sequence[str]] = []
        self.concise_shown = False
        # of `stats` and `dmstats`: whether it is one, its command, and how that shows things
        self.stats = False
        self.subcommand = ""
        self.showing: Showing | None = None
        self._client: Client | None = None

    # -- words -------------------------------------------------------------------------------

    def out(self, text: str) -> None:
        sys.stdout.write(text)

    def flush(self) -> None:
        """Everything for stdout goes out now."""
        sys.stdout.flush()

    def error(self, *lines: str) -> None:
        """Lines on stderr, after all that went to stdout before."""
        self.flush()
        for line in lines:
            sys.stderr.write(line + "\n")

    def fault(self, *lines: str) -> None:
        """The lines of a failure on stderr; the first one says what has failed."""
        if lines:
            from dmtool.cli.terminal import RED, painted

            self.error(painted(lines[0], RED), *lines[1:])

    @property
    def json(self) -> bool:
        return "json" in self.switches

    @property
    def format(self) -> str | None:
        """What tables are formatted as; None for dmsetup's own ways."""
        return self.switches.value("format")

    def add_rows(self, headings: Headings, *rows: Sequence[str]) -> None:
        """Add to the table that is printed at the end, in the session's format or a plain one."""
        self.headings = headings
        self.rows += rows

    def add_json(self, key: str, *items: Any) -> None:
        """Append to the list ``key`` of the document that is printed at the end."""
        if self.document is None:
            self.document = {"version": 1}
        self.document.setdefault(key, []).extend(items)

    def put_json(self, **fields: Any) -> None:
        """Set fields of the document that is printed at the end."""
        self.document = {"version": 1, **(self.document or {}), **fields}

    # -- the core ----------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        if self._client is None:
            from dmtool.client import Client

            self._client = Client()
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def ioctl(self, word: str, device: Device, method: str, **params: Any) -> Any:
        """Call a method about one device; when it is refused, print why and raise Failed.

        ``word`` is what dmsetup calls the ioctl in its message.
        """
        from dmtool.client import ClientError

        try:
            return self.ask(device, method, **params)
        except ClientError as error:
            self.fail(word, device, error)

    def ask(self, device: Device, method: str, **params: Any) -> Any:
        """Call a method about one device. Raises ClientError."""
        device.check()
        if device.major is not None and (device.major != MAJOR or (device.minor or 0) < 0):
            from dmtool.client import ClientError

            text = os.strerror(errno.ENXIO)
            raise ClientError(-32000, text, {"errno": errno.ENXIO, "reason": text})
        return self.client.call(method, device=device.reference, **params)

    def fail(self, word: str | None, device: Device, error: ClientError) -> NoReturn:
        """Raise Failed with what dmsetup prints, and the cause. ``word`` None: the core's step."""
        from dmtool.cli.failures import refusal

        raise Failed(*refusal(word, device, error)) from None

    # -- devices -----------------------------------------------------------------------------

    def device(self, operands: list[str]) -> Device:
        """The one device of a command: its operand, else ``-u``, else ``-j`` and ``-m``."""
        device = self.maybe_device(operands)
        if device is None:
            raise Failed("No device specified.")
        return device

    def maybe_device(self, operands: list[str]) -> Device | None:
        """As ``device``, None if there is none."""
        switches = self.switches
        if operands:
            return Device(name=self._name(operands[0]))
        uuid = switches.value("uuid")
        if uuid is not None:
            return Device(uuid=self.named(self.naming.uuid, uuid))
        major, minor = switches.number("major"), switches.number("minor")
        if major is not None and minor is not None:
            return Device(major=major, minor=minor)
        return None

    def named(self, rule: Any, name: str) -> str:
        """``rule(name)`` for a rule of Naming; a bad name is a failure of the command."""
        try:
            return str(rule(name))
        except BadName as error:
            raise Failed(*error.args) from None

    def shown(self, name: str, what: str = "name") -> str:
        """A mangled name or uuid as people see it."""
        return self.named(lambda n: self.naming.shown(n, what), name)

    def _name(self, operand: str) -> str:
        """The mangled name that an operand means: a name, or the path of a device's node."""
        if "/" not in operand:
            return self.named(self.naming.device, operand)
        directory, base = os.path.split(operand)
        ours = (MAPPER, MAPPER.removeprefix("/dev/"), self.client.directory.mapper)
        if directory in ours or os.path.realpath(directory) == self.client.directory.mapper:
            # A path is taken as it stands: the node has the mangled name.
            from dmtool.client import ClientError

            try:
                self.client.call("info", device={"name": base})
            except ClientError as error:
                if error.errno != errno.ENXIO:
                    raise Failed(str(error)) from None
            else:
                return base
        elif os.path.exists(operand):
            raise Failed(f"Device {base} not found")
        raise Failed(f"Device {operand} not found")
