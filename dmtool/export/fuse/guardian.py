# SPDX-License-Identifier: Apache-2.0
"""A process that outlives a core which was killed, and takes the dead mounts out of the tree.

What it needs a megabyte for is to wait: a shell that reads a line. The line comes when the core has
unmounted by itself; the end of the pipe without one, when it could not any more.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from dmtool.errors import os_reason

log = logging.getLogger(__name__)

# umount does it for root, and where it is setuid, which is rare, for users; -l: it looks into
# nothing, and waits for nobody
_SCRIPT = """
read -r done && exit
for path do
    umount -l "$path" || fusermount3 -u -z "$path" || fusermount -u -z "$path"
done
"""
_PATIENCE = 2.0  # seconds


class Guardian:
    """The process.

    Threads: one.
    """

    def __init__(self, mountpoints: Sequence[str], lock_fd: int) -> None:
        """``lock_fd`` is held open by it as well: who gets that lock after a crash finds nothing
        mounted. Where there is no shell, the next start has to clean up."""
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "dmtool-guardian", *mountpoints],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                pass_fds=[lock_fd],
                start_new_session=True,
            )
        except OSError as error:
            log.warning("nobody will unmount after a crash: %s", os_reason(error))

    def dismiss(self) -> None:
        """All is unmounted: end it. Once or more often."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # somebody has ended it
            process.stdin.write(b"done\n")
        process.stdin.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
