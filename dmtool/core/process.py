# SPDX-License-Identifier: Apache-2.0
"""The life of the core: one to a directory, from the lock to the last socket."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import resource
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dmtool.core.control import ControlServer
from dmtool.core.devices import Devices
from dmtool.core.methods import Methods
from dmtool.core.restore import restore
from dmtool.core.state import State
from dmtool.core.tables import Tables
from dmtool.device import MappedDevice
from dmtool.directory import Directory
from dmtool.errors import CoreError, DmtoolError, os_reason
from dmtool.export.nbd import NbdServer
from dmtool.names import mangle

if TYPE_CHECKING:
    from dmtool.export.fuse import FuseExport

log = logging.getLogger(__name__)

IDLE = 10.0  # seconds
PATIENCE = 30.0  # seconds that a starting core waits for one that is ending
LAST_REQUESTS = 10.0  # seconds that requests under way get to finish when the core ends


class Core:
    """The core of one directory.

    ``start``, ``run`` and ``close`` belong to one thread; ``request_stop`` to any. Used in
    a process of its own by ``python -m dmtool.core``, in the tests' own process by them.
    """

    devices: Devices
    tables: Tables

    def __init__(self, directory: Directory, *, idle: float | None = IDLE) -> None:
        """``idle``: seconds without device and client after which ``run`` returns, or None."""
        self.directory = directory
        self.started = 0
        self.stays = False  # also without any device: somebody may use the directories any time
        self._idle = idle
        self._lock_fd = -1
        self._state: State | None = None
        self._control = ControlServer(Methods(self).call, self._changed)
        self._nbd = NbdServer(self._lookup, self._names)
        self._mounting = threading.Lock()
        self._files: FuseExport | None = None
        self._files_used = 0
        self._cond = threading.Condition()
        self._stop = False
        self._changes = 0

    @property
    def connections(self) -> int:
        """Clients of both kinds."""
        return self._control.connections + self._nbd.connections

    # -- beginning ----------------------------------------------------------------------------

    def start(self) -> bool:
        """Take the directory and serve; False if another core has it and answers.

        Raises CoreError; then nothing is left behind.
        """
        self.directory.prepare()
        try:
            if not self._take_lock():
                return False
            self._serve()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise CoreError(
                    f"cannot serve in {self.directory.path}: {os_reason(error)}",
                    errno=error.errno or errno.EIO,
                ) from error
            raise
        return True

    def _serve(self) -> None:
        many_files()
        self._state = State(self.directory.state)
        self.devices = Devices(self._state, self._changed)
        self.tables = Tables(self.devices, self.directory.mapper)
        for path in (self.directory.control, self.directory.nbd):
            with suppress(FileNotFoundError):
                os.unlink(path)  # a core that was killed left it, for we have the lock
        # clients may connect from now on, and are served when everything is there
        self._control.listen(self.directory.control)
        restore(self.devices, self.tables)
        self._nbd.listen_unix(self.directory.nbd)
        self._nbd.start()
        try:
            self.files()
        except DmtoolError as error:  # nothing else needs them
            log.info("%s", error)
        self.devices.settling.start()
        self.started = int(time.time())
        self._control.start()
        log.info("core %d in %s, %d devices", os.getpid(), self.directory.path, len(self.devices))

    def files(self) -> FuseExport:
        """The devices as files: mounted at the start, or else when somebody asks for them and
        it can be done by then. Raises FuseUnavailable."""
        from dmtool.core.files import Files, wanted
        from dmtool.export.fuse import FuseExport

        with self._mounting:
            if self._files is not None and not self._files.alive:
                self._files.close()  # somebody has unmounted them
                self._files = None
            if self._files is None:
                view = Files(self.devices, self.tables)
                path = Path(self.directory.path)
                files = FuseExport(path, view, view, lock_fd=self._lock_fd)
                files.clean()
                wanted()
                files.start()
                self.devices.settle_openers = files.settle
                self._files = files
            return self._files

    def _take_lock(self) -> bool:
        """Lock the directory, waiting for a core that is ending; False if one serves it."""
        fd = os.open(self.directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock_fd = fd
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._answers():
                    os.close(fd)
                    self._lock_fd = -1
                    return False
                if time.monotonic() > deadline:
                    pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
                    raise CoreError(
                        f"the core process {pid} has {self.directory.path} and does not answer",
                        hint=f"see {self.directory.log}; if nothing else helps, kill {pid}",
                        errno=errno.EBUSY,
                    ) from None
                time.sleep(0.01)
                continue
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
            return True

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(self.directory.control)
            except OSError:
                return False
            return True

    # -- the middle ---------------------------------------------------------------------------

    def run(self) -> None:
        """Return when the core is to end: it was asked to, or has been idle for long enough."""
        with self._cond:
            while not self._stop:
                changes = self._changes
                if self._idle is None or self._busy():
                    self._cond.wait()
                elif self._quiet(changes) and self._control.end(unless=self._needed):
                    log.info("idle for %g s", self._idle)
                    return

    def _quiet(self, changes: int) -> bool:
        """Wait for the idle time; whether nothing came in it."""
        came = self._cond.wait_for(lambda: self._stop or self._changes != changes, self._idle)
        used = self._files.requests if self._files else 0
        came = came or used != self._files_used
        self._files_used = used
        return not came and not self._nbd.connections and not self._opened()

    def _busy(self) -> bool:
        return self.stays or self._defined() or self._control.busy

    def _needed(self) -> bool:
        return self.stays or self._defined() or self._opened()

    def _defined(self) -> bool:
        return bool(len(self.devices))

    def _opened(self) -> bool:
        return self._files is not None and bool(self._files.openers)

    def _changed(self) -> None:
        with self._cond:
            self._changes += 1
            self._cond.notify_all()

    def request_stop(self) -> None:
        """Make ``run`` return."""
        with self._cond:
            self._stop = True
            self._cond.notify_all()

    def _lookup(self, name: str) -> MappedDevice | None:
        with self.devices.lock:
            # clients that were not given the URI by `uri` may say the name as people do
            entry = self.devices.by_name(name) or self.devices.by_name(mangle(name, "hex"))
            return entry.device if entry else None

    def _names(self) -> list[str]:
        return [entry.device.name for entry in self.devices.all()]

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """End: sockets, requests under way, devices, state, lock, and then the connections.

        The devices stay defined. Once or more often.
        """
        if self._lock_fd < 0:
            return
        self._control.end()
        self._control.join(LAST_REQUESTS)
        self._nbd.close()
        if self._files is not None:
            self._files.close()
        with suppress(FileNotFoundError):
            os.unlink(self.directory.nbd)
        if self._state is not None:
            # I/O on a disk that does not answer would hold it up for ever
            closing = threading.Thread(target=self._close_devices, name="closing", daemon=True)
            closing.start()
            closing.join(LAST_REQUESTS)
            if closing.is_alive():
                log.error("I/O does not end; devices are left as they are")
            self._state.close()
        os.close(self._lock_fd)
        self._lock_fd = -1
        log.info("core %d has ended", os.getpid())
        self._control.close()

    def _close_devices(self) -> None:
        self.devices.settling.stop()
        left = self.devices.all()
        for entry in left:
            # a device that was to go when closed is closed now, but by the core's end
            entry.device.on_idle = None
        while left:
            # who lies on others first: its table closes them
            top = [e for e in left if not e.device.open_count] or left
            for entry in top:
                try:
                    entry.device.destroy()
                except Exception:  # the others are to be closed all the same
                    log.exception("%s", entry.device.name)
            left = [e for e in left if e not in top]
        self.devices.settling.write()


def many_files() -> None:
    """Allow as many open files as the system does: every image and every client is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
