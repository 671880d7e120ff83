# SPDX-License-Identifier: Apache-2.0
"""What each of dmsetup's commands does, in a few words, for the manual and for shell completion.

dmtool's own commands say it themselves (``Command.summary``).
"""

from __future__ import annotations

COMMANDS = {
    "help": "show the usage text",
    "create": "make a device",
    "remove": "remove devices",
    "remove_all": "remove all devices",
    "suspend": "hold the I/O of devices",
    "resume": "activate the inactive table, and let I/O through",
    "load": "load a table into the inactive slot",
    "clear": "empty the inactive slot",
    "reload": "load a table into the inactive slot",
    "wipe_table": "replace a table by one of errors",
    "rename": "give a device another name, or a uuid",
    "measure": "show what integrity measurement would be told",
    "message": "send a message to a target",
    "ls": "list devices",
    "info": "show the state of devices",
    "deps": "show what devices stand on",
    "stats": "count I/O (dmstats)",
    "status": "show the state of targets",
    "table": "show the tables of devices",
    "wait": "wait for an event",
    "mknodes": "do nothing: there are no nodes",
    "mangle": "bring names into the mangled form",
    "udevcreatecookie": "do nothing: there is no udev",
    "udevreleasecookie": "do nothing: there is no udev",
    "udevflags": "show the flags of a cookie",
    "udevcomplete": "do nothing: there is no udev",
    "udevcomplete_all": "do nothing: there is no udev",
    "udevcookies": "show an empty list: there is no udev",
    "target-version": "show the version of target types",
    "targets": "show the target types",
    "version": "show versions",
    "setgeometry": "check a geometry",
    "splitname": "take the name of an LVM device apart",
}

STATS = {
    "help": "show the usage text and the columns of reports",
    "clear": "set the counters of regions to zero",
    "create": "make regions, which begin to count",
    "delete": "remove regions",
    "group": "put regions under one name, and add them up",
    "list": "show regions and groups",
    "print": "show the counters as the kernel has them",
    "report": "show what was counted since the last report",
    "ungroup": "take a group apart; its regions stay",
    "update_filemap": "refused, as create --filemap is",
    "version": "show versions",
}
