# SPDX-License-Identifier: Apache-2.0
"""The core's directory: where it is, what is in it, and that nobody else can get in.

Client and core both look here, so it must stay quick to import: paths are plain strings.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from dmtool.errors import CoreError, os_reason

# unix(7): sun_path has 108 bytes, the last of which is the NUL
SOCKET_PATH_MAX = 107


@dataclass(frozen=True, slots=True)
class Directory:
    """The core's directory (``path`` is absolute) and the files in it."""

    path: str

    @property
    def control(self) -> str:
        """The control socket: docs/control-protocol.md."""
        return os.path.join(self.path, "control.sock")

    @property
    def nbd(self) -> str:
        """The socket on which every mapped device is an NBD export."""
        return os.path.join(self.path, "nbd.sock")

    @property
    def state(self) -> str:
        """The state store, an SQLite file."""
        return os.path.join(self.path, "state.db")

    @property
    def log(self) -> str:
        """The core's log."""
        return os.path.join(self.path, "log")

    @property
    def lock(self) -> str:
        """The file that the one running core holds a flock on."""
        return os.path.join(self.path, "lock")

    @property
    def moves(self) -> str:
        """The file on which every `move` under way has a lock (fcntl): on the byte of its device's
        minor number."""
        return os.path.join(self.path, "moves")

    @property
    def mapper(self) -> str:
        """What stands for /dev/mapper: tables may name mapped devices by a path in it."""
        return os.path.join(self.path, "mapper")

    def check_socket_paths(self) -> None:
        """Raise CoreError (ENAMETOOLONG) if a socket here cannot be given to ``connect``."""
        for path in (self.control, self.nbd):
            length = len(os.fsencode(path))
            if length > SOCKET_PATH_MAX:
                raise CoreError(
                    f"the path of a socket is too long: {path} has {length} bytes, "
                    f"a unix socket's path at most {SOCKET_PATH_MAX}",
                    hint="set DMTOOL_DIR to a directory with a shorter path",
                    errno=errno.ENAMETOOLONG,
                )

    def prepare(self) -> None:
        """Make the directory, or see that it is ours alone. Raises CoreError.

        An existing directory is never given another mode: it may be one that was not meant.
        """
        self.check_socket_paths()
        try:
            _make(self.path)
            info = os.stat(self.path)
        except OSError as error:
            raise CoreError(
                f"cannot make the directory {self.path}: {os_reason(error)}",
                hint="set DMTOOL_DIR to a directory that you can write to",
                errno=error.errno or errno.EIO,
            ) from None
        if info.st_uid != os.geteuid():
            raise CoreError(
                f"the directory {self.path} belongs to another user (uid {info.st_uid})",
                hint="set DMTOOL_DIR to a directory of your own",
                errno=errno.EPERM,
            )
        mode = stat.S_IMODE(info.st_mode)
        if mode & 0o077:
            raise CoreError(
                f"the directory {self.path} is open to other users (mode {mode:04o})",
                hint=f"chmod 700 {self.path}, or set DMTOOL_DIR to another directory",
                errno=errno.EPERM,
            )


def _make(path: str) -> None:
    """Mkdir -p, every directory with mode 0700 (the XDG specification's for missing ones)."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    except FileNotFoundError:
        parent = os.path.dirname(path)
        if os.path.isdir(parent):
            raise  # /proc and its like say so when nobody can make a directory there
        _make(parent)
        _make(path)


def locate(environ: Mapping[str, str] = os.environ) -> Directory:
    """The directory that this user and this environment mean; it need not exist.

    ``$DMTOOL_DIR``, else ``/run/dmtool`` for root, else ``$XDG_RUNTIME_DIR/dmtool``, else
    ``dmtool`` in the user's state directory. A relative XDG path counts as unset, as the XDG
    specification demands; a relative DMTOOL_DIR is taken from the working directory.
    """
    chosen = environ.get("DMTOOL_DIR")
    if chosen:
        return Directory(os.path.abspath(chosen))
    if os.geteuid() == 0:
        return Directory("/run/dmtool")
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return Directory(os.path.join(runtime, "dmtool"))
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = environ.get("HOME", "")
        home = home if os.path.isabs(home) else os.path.expanduser("~")
        state = os.path.join(home, ".local", "state")
    return Directory(os.path.join(state, "dmtool"))
