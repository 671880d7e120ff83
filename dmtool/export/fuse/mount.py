# SPDX-License-Identifier: Apache-2.0
"""Mount and unmount: by the system call where one may, else with fusermount3 (or fusermount).

Nothing here ever looks at a path inside a mount, or at its root: of a dead one every look fails
with ENOTCONN, and of one that hangs it hangs too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import subprocess

from dmtool.errors import DmtoolError, os_reason

DEVICE = "/dev/fuse"
TYPE = "fuse.dmtool"
SOURCE = "dmtool"
_NAMES = ("fusermount3", "fusermount")

# sys/mount.h
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_DETACH, _NOFOLLOW = 2, 8

_NOT_ALLOWED = (errno.EPERM, errno.EACCES)
_OCTAL = re.compile(rb"\\([0-7]{3})")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p),
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


class FuseUnavailable(DmtoolError):
    """no files for mapped devices: {reason}

    This machine, or this container, cannot mount a FUSE file system. Nothing else needs it.
    """

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason=reason, hint=hint, errno=errno.ENODEV)


def mount(mountpoint: str, read_most: int) -> int:
    """Mount a FUSE file system; its connection, a descriptor that does not block.

    A read has at most ``read_most`` bytes. Raises FuseUnavailable.
    """
    if not os.path.exists(DEVICE):
        raise FuseUnavailable(
            f"there is no {DEVICE}",
            hint="load the kernel's fuse module; give a container --device /dev/fuse",
        )
    options = f"default_permissions,max_read={read_most}"
    fd = _mount(mountpoint, options)
    if fd is None:
        fd = _with_helper(mountpoint, options)
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    return fd


def _mount(mountpoint: str, options: str) -> int | None:
    """By the system call; None where that is not allowed."""
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NOT_ALLOWED:
            return None
        raise FuseUnavailable(f"{DEVICE}: {os_reason(error)}") from error
    # allow_other: file modes and owners decide, as in /dev; the directory of the core is private
    options += f",fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    done = _libc.mount(
        SOURCE.encode(),
        os.fsencode(mountpoint),
        TYPE.encode(),
        _NOSUID | _NODEV | _NOEXEC,
        options.encode(),
    )
    if done == 0:
        return fd
    number = ctypes.get_errno()
    os.close(fd)
    if number in _NOT_ALLOWED:
        return None
    raise FuseUnavailable(f"cannot mount at {mountpoint}: {os.strerror(number)}")


def _helper() -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/bin", "/bin"])
    return next(filter(None, (shutil.which(name, path=path) for name in _NAMES)), None)


def _with_helper(mountpoint: str, options: str) -> int:
    """With fusermount3, which passes the connection back through a socket (its _FUSE_COMMFD)."""
    helper = _helper()
    if helper is None:
        raise FuseUnavailable(
            f"mounting at {mountpoint} needs root or the command fusermount3",
            hint="install fuse3 (Debian, Fedora and Arch call it so)",
        )
    options += f",fsname={SOURCE},subtype={SOURCE},nosuid,nodev,noexec"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            [helper, "-o", options, "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        theirs.close()
        if done.returncode == 0:
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
            if fds:
                return fds[0]
    reason = done.stderr.strip() or f"{helper} ended with status {done.returncode}"
    raise FuseUnavailable(reason, hint=f"may this user open {DEVICE}, and is {helper} setuid root?")


def unmount(mountpoint: str) -> None:
    """Take what is mounted there last out of the tree, whatever is still open in it.

    Raises OSError EINVAL if nothing is mounted there, or what the helper says.
    """
    if _libc.umount2(os.fsencode(mountpoint), _DETACH | _NOFOLLOW) == 0:
        return
    number = ctypes.get_errno()
    helper = _helper()
    if number in _NOT_ALLOWED and helper is not None:
        command = [helper, "-u", "-z", "--", mountpoint]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return
        raise OSError(number, done.stderr.strip())
    raise OSError(number, os.strerror(number))


def mounted(mountpoint: str) -> int:
    """How many file systems of this package are mounted there, one above the other, alive or
    not."""
    wanted = os.fsencode(_resolved(mountpoint))
    count = 0
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            # proc(5): ... mount point, options, optional fields, "-", type, source, options
            before, _, after = line.partition(b" - ")
            path = _OCTAL.sub(lambda m: bytes([int(m[1], 8)]), before.split(b" ")[4])
            if path == wanted and after.startswith(TYPE.encode() + b" "):
                count += 1
    return count


def _resolved(mountpoint: str) -> str:
    directory, name = os.path.split(os.path.abspath(mountpoint))
    return os.path.join(os.path.realpath(directory), name)


def clean(mountpoint: str) -> None:
    """Unmount what a core that was killed has left. Raises OSError."""
    for _ in range(mounted(mountpoint)):
        unmount(mountpoint)
