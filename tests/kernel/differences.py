# SPDX-License-Identifier: Apache-2.0
"""Where dmtool differs from the recordings on purpose, and what of them is not replayed yet.

Everything else agrees: this is the whole list. "DESIGN n" is item n of
docs/differences.md. What is listed and agrees nevertheless makes the tests fail.
"""

from __future__ import annotations

_ESCAPES = "backslash escapes work in arguments (DESIGN 4)"
_RAM_DISKS = "the kernel makes a ram disk when one is opened by its number; a user cannot"
_NO_NODES = "there are no device nodes that a command could find, or find missing"

# Cases of tables.jsonl: id, reason.
TABLES: dict[str, str] = {
    "linear/off-2^64": "numbers that do not fit 64 bits are refused, not wrapped (DESIGN 3)",
    "linear/off-30-digits": "refused as a number, not for what it wraps to (DESIGN 3)",
    "mirror/region-2^32+64": "a region size of more than 32 bits is refused, not cut to 64 (DESIGN 3)",
    "table/text-bs-before-space-extra": _ESCAPES,
    "table/text-bs-digit": _ESCAPES,
    "table/text-bs-space": _ESCAPES,
    "linear/regular-file": "an image file is a backing device; it is what dmtool is for",
    "linear/dev-minor-256": _RAM_DISKS,
    "linear/dev-minor-unused": _RAM_DISKS,
    "linear/on-dm-readonly": "a write above a read-only mapped device fails with EIO, as above any "
    "other read-only device; the kernel warns and lets it through",
    "linear/4k-write": "NBD takes any offset and length, as the kernel's page cache does; the "
    "recorder wrote past that, with O_DIRECT",
}

# Steps of scenarios.jsonl: (scenario, command), reason.
STEPS: dict[tuple[str, str], str] = {
    ("usage", "dmsetup targets"): "lists what is installed here",
    ("notable", "dmsetup info a"): _NO_NODES,
    ("notable", "dmsetup info b"): _NO_NODES,
    ("names", "dmsetup create . --table '0 8 zero'"): _NO_NODES,
    ("names", "dmsetup create .. --table '0 8 zero'"): _NO_NODES,
    ("names", "dmsetup create control --table '0 8 zero'"): _NO_NODES,
    (
        "ls-exec",
        "dmsetup ls --exec 'echo dev:'",
    ): "it gets the path of our file, or the NBD URI",
    ("ls-exec", "dmsetup ls --exec echo"): "it gets the path of our file, or the NBD URI",
    ("ls-exec", "dmsetup ls --target linear --exec 'echo found'"): "the same",
    ("uuid", "dmsetup ls --tree -o uuid"): "lines are cut at 80 characters, and our major "
    "number has four digits",
}

# What is cut out of commands of scenarios.jsonl: pattern, reason. Of what is left of a command
# standard output is not compared; one of which nothing is left is not run.
NOT_REPLAYED: dict[str, str] = {
    r"^ls /dev/mapper$|^ls -l .*|^ls /sys/block .*|^cat /sys/block/.*": _NO_NODES,
    r"; ls -l /dev/mapper/a .*": _NO_NODES,
    r"^(rm|touch) /dev/mapper/.*": _NO_NODES,
    r"^blockdev --setro .*": "what another program sets on a device node",
}
