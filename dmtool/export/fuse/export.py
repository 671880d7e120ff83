# SPDX-License-Identifier: Apache-2.0
"""Both file systems of a core: ``mapper/`` and ``control/`` in one directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dmtool.errors import os_reason
from dmtool.export.fuse import mount as m
from dmtool.export.fuse.control import ControlTree
from dmtool.export.fuse.guardian import Guardian
from dmtool.export.fuse.mapper import MapperTree
from dmtool.export.fuse.session import Session
from dmtool.export.fuse.tree import Tree
from dmtool.export.fuse.views import ControlPort, DevicesView

log = logging.getLogger(__name__)


class FuseExport:
    """The files of a core's devices.

    Threads: ``start`` and ``close`` belong to one thread; ``settle`` may be called from any,
    but not by what answers the kernel's requests in ``mapper/``.
    """

    def __init__(
        self,
        directory: Path,
        devices: DevicesView,
        control: ControlPort | None = None,
        *,
        lock_fd: int | None = None,
    ) -> None:
        """``directory`` gets ``mapper/`` and, with ``control``, ``control/``. ``lock_fd``: have a
        guardian unmount if this process is killed, and keep the lock till then."""
        self.mapper = directory / "mapper"
        self.control = directory / "control"
        self._lock_fd = lock_fd
        self._guardian: Guardian | None = None
        self._mounts: list[tuple[Tree, Session]] = []
        self._trees: list[tuple[Path, Tree]] = [(self.mapper, MapperTree(devices))]
        if control is not None:
            self._trees.append((self.control, ControlTree(devices, control, self.settle)))

    def clean(self) -> None:
        """Unmount what a core that was killed has left. Raises FuseUnavailable."""
        for path, _ in self._trees:
            try:
                m.clean(str(path))
            except OSError as error:
                raise m.FuseUnavailable(f"{path}: {os_reason(error)}") from error

    def start(self) -> None:
        """Mount, over the remains of a core that was killed. Raises FuseUnavailable; nothing is
        mounted then."""
        self.clean()
        try:
            if self._lock_fd is not None:
                places = [str(path) for path, _ in self._trees]
                self._guardian = Guardian(places, self._lock_fd)
            for path, tree in self._trees:
                self._mount(path, tree)
        except BaseException:
            self.close()
            raise

    def _mount(self, path: Path, tree: Tree) -> None:
        try:
            with _writable(path):
                session = Session(str(path), tree)
                tree.session = session
                session.start()
        except OSError as error:
            raise m.FuseUnavailable(f"{path}: {os_reason(error)}") from error
        self._mounts.append((tree, session))
        log.info("mounted %s", path)

    @property
    def alive(self) -> bool:
        """Whether all of it is mounted: somebody else may have unmounted it."""
        return bool(self._mounts) and all(session.alive for _, session in self._mounts)

    @property
    def openers(self) -> int:
        """How many files and directories programs have open."""
        return sum(len(tree.handles()) for tree, _ in self._mounts)

    @property
    def requests(self) -> int:
        """How many there were so far; where it does not change nobody uses the files."""
        return sum(session.requests for _, session in self._mounts)

    def settle(self) -> None:
        """Wait until every file that a program has closed is closed here too: the kernel tells
        of it without waiting for an answer."""
        if self._mounts:
            self._mounts[0][1].settle()

    def close(self) -> None:
        """Unmount. Whoever has a file open gets ENOTCONN from now on; its device is closed."""
        for tree, session in reversed(self._mounts):
            session.close()
            tree.close()
        self._mounts.clear()
        if self._guardian is not None:
            self._guardian.dismiss()


@contextmanager
def _writable(path: Path) -> Generator[None]:
    """A directory to mount on. fusermount3 wants it to be writable; else it is not, so that who
    makes a device where no core runs is told so, and has not made a directory."""
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.fchmod(fd, 0o500)  # what is below the mount
        os.close(fd)
