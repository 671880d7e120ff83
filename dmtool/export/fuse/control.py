# SPDX-License-Identifier: Apache-2.0
"""``control/``: a directory for each mapped device, whose files are read and written in place of
commands.

Whatever may take time is done by workers; a device's own files take turns.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary

from dmtool.device import MappedDevice
from dmtool.errors import DmtoolError, TableErrors
from dmtool.export.fuse import protocol as p
from dmtool.export.fuse import texts
from dmtool.export.fuse.callers import Callers
from dmtool.export.fuse.controlfiles import FILES, Control, ControlFile, DeviceDirectory
from dmtool.export.fuse.events import Events, Waiting
from dmtool.export.fuse.mapper import Numbers, device_name
from dmtool.export.fuse.session import Incoming
from dmtool.export.fuse.tree import Tree, error
from dmtool.export.fuse.views import ControlPort, DevicesView
from dmtool.export.nbd.workers import Workers

WORKERS_MOST = 64
_DIGITS = len(str((1 << 64) - 1))


@dataclass(eq=False)
class Said:
    """The last words about a device: why something failed, and what a target answered."""

    error: str = ""
    answer: str = ""


@dataclass(eq=False)
class OpenControl:
    """An open file. ``text`` is what is read from it, ``written`` what was written to it; of a
    table ``loaded`` says how much of that is in the inactive slot."""

    file: ControlFile
    opener: int
    text: bytes | None = None
    written: bytearray = field(default_factory=bytearray)
    loaded: int = 0

    @property
    def device(self) -> MappedDevice:
        return self.file.device


class ControlTree(Tree):
    """The file system of the control files."""

    def __init__(
        self, view: DevicesView, port: ControlPort, settle: Callable[[], None] = lambda: None
    ) -> None:
        """``settle()`` waits until the other file system has closed what programs have closed."""
        numbers = Numbers()
        super().__init__(Control(view, numbers))
        self.view = view
        self._numbers = numbers
        self._settle = settle
        self._port = port
        self._said: WeakKeyDictionary[MappedDevice, Said] = WeakKeyDictionary()
        self._waiting = Waiting()
        self._callers = Callers()
        self._workers = Workers("fuse-control", WORKERS_MOST)
        self._answers |= {
            p.OPEN: self._open,
            p.READ: self._read,
            p.WRITE: self._write,
            p.FLUSH: self._flush,
            p.SETATTR: self._setattr,
            p.POLL: self._poll,
            p.MKDIR: self._mkdir,
            p.RMDIR: self._rmdir,
            p.RENAME: partial(self._rename, p.RENAME_IN.size),
            p.RENAME2: self._rename2,
        }

    def interrupt(self, unique: int) -> None:
        self._waiting.interrupt(unique)
        self._callers.interrupt(unique)

    def released(self, handle: object) -> None:
        if isinstance(handle, Events):
            self._waiting.remove(handle)

    def close(self) -> None:
        super().close()
        self._callers.close()
        self._waiting.close()
        self._workers.close()

    # -- directories ----------------------------------------------------------------------------

    def _do(self, unique: int, do: Callable[[], bytes], device: MappedDevice | None = None) -> None:
        """Do on a worker what may take time, and reply; what fails is remembered."""
        self._workers.submit(partial(self._done, unique, do, device))

    def _done(self, unique: int, do: Callable[[], bytes], device: MappedDevice | None) -> None:
        try:
            reply = do()
        except (DmtoolError, OSError) as failed:
            if device is not None:
                self.said(device).error = texts.reason(failed)
            # whatever is wrong with a table is one thing to who writes it into a file
            number = errno.EINVAL if isinstance(failed, TableErrors) else failed.errno
            self.session.fail(unique, number or errno.EIO)
        except Exception:
            self.session.fail(unique, errno.EIO)
            raise
        else:
            self.session.reply(unique, reply)
        finally:
            self._callers.end(unique)

    def said(self, device: MappedDevice) -> Said:
        return self._said.setdefault(device, Said())

    def _mkdir(self, unique: int, number: int, incoming: Incoming) -> None:
        self._in_root(number)
        name = device_name(incoming.name(p.MKDIR_IN.size))

        def create() -> None:
            try:
                self._port.create(name)
                device = self.view.lookup(name)
                if device is None:
                    raise error(errno.ENOENT)
            except (DmtoolError, OSError) as failed:
                self.session.fail(unique, _errno_of_mkdir(failed))
            else:
                self.enter(unique, DeviceDirectory(self._numbers, device))

        self._workers.submit(create)

    def _rmdir(self, unique: int, number: int, incoming: Incoming) -> None:
        self._in_root(number)
        name = device_name(incoming.name())
        device = self.view.lookup(name)
        if device is None:
            raise error(errno.ENOENT)

        def remove() -> bytes:
            self._settle()
            self._port.remove(name)
            return b""

        self._do(unique, remove, device)

    def _rename(self, begin: int, unique: int, number: int, incoming: Incoming) -> None:
        (into,) = p.RENAME_IN.unpack_from(incoming.body())
        old, new, *_ = bytes(incoming.body(begin)).split(b"\0")
        self._in_root(number)
        self._in_root(into)
        name, wanted = (device_name(os.fsdecode(raw)) for raw in (old, new))
        device = self.view.lookup(name)
        if device is None:
            raise error(errno.ENOENT)

        def rename() -> bytes:
            self._port.rename(name, wanted)
            return b""

        self._do(unique, rename, device)

    def _rename2(self, unique: int, number: int, incoming: Incoming) -> None:
        _, flags, _ = p.RENAME2_IN.unpack_from(incoming.body())
        if flags & ~p.RENAME_NOREPLACE:  # no rename here ever replaces a device
            raise error(errno.EINVAL)
        self._rename(p.RENAME2_IN.size, unique, number, incoming)

    def _in_root(self, number: int) -> None:
        if number != p.ROOT:
            raise error(errno.EPERM)

    # -- files ----------------------------------------------------------------------------------

    def _open(self, unique: int, number: int, incoming: Incoming) -> None:
        file = self.node(number)
        if not isinstance(file, ControlFile):
            raise error(errno.EISDIR)
        flags, _ = p.OPEN_IN.unpack(incoming.body())
        if flags & os.O_ACCMODE != os.O_RDONLY and not FILES[file.kind] & 0o200:
            raise error(errno.EACCES)  # mode bits do not stop root
        if file.kind != "events":
            self.opened(unique, OpenControl(file, incoming.pid), p.FOPEN_DIRECT_IO)
            return
        device = file.device

        def gone() -> bool:
            return self.view.lookup(device.name) is not device

        events = Events(self.session, device, gone, waits=not flags & os.O_NONBLOCK)
        self._waiting.add(events)
        self.opened(unique, events, p.FOPEN_DIRECT_IO | p.FOPEN_NONSEEKABLE | p.FOPEN_STREAM)

    def _opened(self, number: int) -> OpenControl:
        handle = self.handle(number)
        if not isinstance(handle, OpenControl):
            raise error(errno.EBADF)
        return handle

    def _setattr(self, unique: int, number: int, incoming: Incoming) -> None:
        valid, _, _, size = p.SETATTR_IN.unpack_from(incoming.body())
        if valid & (p.SETATTR_MODE | p.SETATTR_UID | p.SETATTR_GID):
            raise error(errno.EPERM)
        if valid & p.SETATTR_SIZE and size:
            raise error(errno.EINVAL)  # 0 is the shell's `>`
        self.session.reply(unique, self.node(number).attributes().reply())

    def _poll(self, unique: int, _: int, incoming: Incoming) -> None:
        number, kh, flags, _ = p.POLL_IN.unpack(incoming.body())
        handle = self.handle(number)
        ready = 0o5  # a file like others: POLLIN and POLLOUT
        if isinstance(handle, Events):
            ready = handle.poll(kh if flags & p.POLL_SCHEDULE_NOTIFY else None)
        self.session.reply(unique, p.POLL_OUT.pack(ready, 0))

    def _read(self, unique: int, _: int, incoming: Incoming) -> None:
        number, offset, size = p.READ_IN.unpack_from(incoming.body())[:3]
        handle = self.handle(number)
        if isinstance(handle, Events):
            handle.read(unique, size)
            return
        opened = self._opened(number)

        def read() -> bytes:
            if opened.text is None or not offset:
                opened.text = os.fsencode(self._text(opened.file))
            return opened.text[offset : offset + size]

        self._do(unique, read)

    def _text(self, file: ControlFile) -> str:
        device = file.device
        match file.kind:
            case "table":
                return self._port.table(device.name)
            case "status":
                return self._port.status(device.name)
            case "state":
                return texts.state(device)
            case "info":
                return texts.info(device)
            case "deps":
                return texts.deps(device)
            case "message":
                return self.said(device).answer
        trouble = self._port.trouble(device.name)
        return self.said(device).error or (f"{trouble}\n" if trouble else "")

    def _write(self, unique: int, _: int, incoming: Incoming) -> None:
        number, offset, size = p.WRITE_IN.unpack_from(incoming.body())[:3]
        opened = self._opened(number)
        data = bytes(incoming.take(p.WRITE_DATA, size))
        caller = self._callers.add(unique)

        def write() -> bytes:
            if opened.file.kind == "table":
                self._write_table(opened, offset, data)
            else:
                self.said(opened.device).error = ""
                for line in data.decode("utf-8", "surrogateescape").splitlines():
                    if line.strip():
                        self._command(opened, line, caller.fd)
            return p.WRITE_OUT.pack(size, 0)

        self._do(unique, write, opened.device)

    def _flush(self, unique: int, _: int, incoming: Incoming) -> None:
        """A descriptor is being closed: a table that was written becomes the live one."""
        handle = self.handle(p.FLUSH_IN.unpack_from(incoming.body())[0])
        if not isinstance(handle, OpenControl) or not handle.written:
            self.session.reply(unique)
            return
        opened, caller = handle, self._callers.add(unique)

        def activate() -> bytes:
            self._activate(opened, caller.fd)
            return b""

        self._do(unique, activate, opened.device)

    # -- writing --------------------------------------------------------------------------------

    def _write_table(self, opened: OpenControl, offset: int, data: bytes) -> None:
        """Take a part of a table. The first part may be the whole: then load it, for many a
        program looks at the outcome of a write and never at that of a close."""
        if not offset:
            opened.written.clear()
        if offset != len(opened.written):
            raise error(errno.ESPIPE)
        opened.written += data
        opened.loaded = 0
        if not offset and _may_be_whole(data):
            self._load(opened)

    def _load(self, opened: OpenControl) -> None:
        device = opened.device
        text = opened.written.decode("utf-8", "surrogateescape")
        self.said(device).error = ""
        try:
            self._port.load(device.name, text, "table", _directory_of(opened.opener))
        except (DmtoolError, OSError):
            opened.written.clear()
            raise
        opened.loaded = len(opened.written)

    def _activate(self, opened: OpenControl, client_fd: int) -> None:
        if not opened.written.strip():
            return
        if opened.loaded != len(opened.written):
            self._load(opened)
        elif opened.device.inactive is None:
            return  # done at an earlier close: descriptors are passed on, and closed one by one
        if not opened.device.suspended:
            self._port.resume(opened.device.name, client_fd=client_fd)

    def _command(self, opened: OpenControl, line: str, client_fd: int) -> None:
        device = opened.device
        if opened.file.kind == "message":
            sector, _, text = line.strip().partition(" ")
            if not (sector.isascii() and sector.isdigit()):
                sector, text = "0", line.strip()
            self.said(device).answer = ""
            answer = self._port.message(device.name, _sector(sector), text)
            if answer is not None:
                self.said(device).answer = answer + "\n"
            return
        match line.split():
            case ["suspend"]:
                self._port.suspend(device.name, noflush=False, client_fd=client_fd)
            case ["suspend", "noflush"]:
                self._port.suspend(device.name, noflush=True, client_fd=client_fd)
            case ["resume"]:
                self._port.resume(device.name, client_fd=client_fd)
            case ["clear"]:
                self._port.clear(device.name)
            case _:
                reason = f"{line.strip()!r} is none of: suspend, suspend noflush, resume, clear"
                raise DmtoolError(reason=reason)


def _may_be_whole(text: bytes) -> bool:
    """Whether this may be a table, rather than its beginning: it ends with a line, has a line that
    is no comment, and an ``end`` if there is a ``begin``."""
    if not text.endswith(b"\n"):
        return False
    lines = (line.strip() for line in text.splitlines())
    said = [line for line in lines if line and not line.startswith(b"#")]
    return bool(said) and (said[0].split()[0] != b"begin" or said[-1].split()[0] == b"end")


def _sector(digits: str) -> int:
    """Raises DmtoolError for what is beyond all devices."""
    if len(digits.lstrip("0")) > _DIGITS or int(digits) >= 1 << 64:
        raise DmtoolError(
            reason=f"sector {digits[:_DIGITS]}... does not fit 64 bits", errno=errno.EINVAL
        )
    return int(digits)


def _directory_of(thread: int) -> str:
    """Where the relative paths of a process start; "/" if that cannot be seen."""
    try:
        return os.readlink(f"/proc/{thread}/cwd")
    except OSError:
        return "/"


def _errno_of_mkdir(failed: DmtoolError | OSError) -> int:
    """What mkdir says: the name is taken, rather than busy."""
    return errno.EEXIST if failed.errno == errno.EBUSY else failed.errno or errno.EIO
