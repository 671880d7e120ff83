# SPDX-License-Identifier: Apache-2.0
"""Commands that dmsetup does not have."""

from __future__ import annotations

from dmtool.cli.command import WHICH, Command

OWN = (
    Command(
        "check",
        "examine:check",
        "[<table_file>]",
        most=1,
        options=("readonly", "table", "json"),
        operands=("file",),
        own=True,
        summary="Check a table without making a device; every error is shown. "
        "The table is read from standard input if no file is named. Exit status 0 or 1.",
    ),
    Command(
        "explain",
        "examine:explain",
        "<device> <sector>[+<count>]",
        least=1,
        most=2,
        options=("json", *WHICH),
        operands=("device", "sector"),
        own=True,
        summary="Show where sectors of a device are, down the whole stack to file and byte offset.",
    ),
    Command(
        "uri",
        "content:uri",
        "<device>",
        most=1,
        options=("json", *WHICH),
        operands=("device",),
        own=True,
        summary="Print the NBD URI of a device, for nbdcopy, qemu-img, nbdinfo and others.",
    ),
    Command(
        "path",
        "files:path",
        "<device>",
        most=1,
        options=("json", *WHICH),
        operands=("device",),
        own=True,
        summary="Print the path of a device's file, which any program can open.",
    ),
    Command(
        "mount-point",
        "files:mount_point",
        "",
        options=("json",),
        own=True,
        summary="Print the directory of mapper/, devices as files, and control/, their control "
        "by mkdir, cat and echo.",
    ),
    Command(
        "attach",
        "files:attach",
        "<device>",
        most=1,
        options=("json", *WHICH),
        operands=("device",),
        own=True,
        summary="Make a loop device over a device's file, and print it. For root.",
    ),
    Command(
        "detach",
        "files:detach",
        "<device>|<loop_device>",
        most=1,
        options=WHICH,
        operands=("device",),
        own=True,
        summary="Free the loop devices over a device's file, or the one that is named. For root.",
    ),
    Command(
        "read",
        "content:read",
        "<device> [--offset <bytes>] [--length <bytes>]",
        most=1,
        options=("offset", "length", *WHICH),
        operands=("device",),
        own=True,
        summary="Write bytes of a device to standard output: all of it, or LENGTH bytes from OFFSET.",
    ),
    Command(
        "write",
        "content:write",
        "<device> [--offset <bytes>] [--length <bytes>]",
        most=1,
        options=("offset", "length", *WHICH),
        operands=("device",),
        own=True,
        summary="Write standard input to a device, from OFFSET on; with LENGTH only so many bytes.",
    ),
    Command(
        "daemon",
        "daemon:daemon",
        "run|status|stop",
        least=1,
        most=1,
        options=("json",),
        operands=("action",),
        own=True,
        summary="The core process: run it in the foreground, show its state, or end it. "
        "Devices stay defined when it ends.",
    ),
)
