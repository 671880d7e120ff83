# SPDX-License-Identifier: Apache-2.0
"""What the user's terminal can show: its width, characters beyond ASCII, colour."""

from __future__ import annotations

import os

STDOUT, STDERR = 1, 2

# Attributes of text (ECMA-48, "Select graphic rendition").
BOLD, RED = "1", "31"


def utf8() -> bool:
    """Whether the user's locale has UTF-8.

    Python may have replaced the locale C by C.UTF-8 (PEP 538), in its environment too; what the
    process was started with tells.
    """
    import locale

    try:
        with open("/proc/self/environ", "rb") as file:
            pairs = [line.partition(b"=") for line in file.read().split(b"\0")]
        environment = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    except OSError:
        environment = dict(os.environ)
    chosen = next(filter(None, map(environment.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    named = "utf8" in chosen.lower().replace("-", "")
    return named and locale.nl_langinfo(locale.CODESET).upper() == "UTF-8"


def columns() -> int | None:
    """The width of the terminal on standard output; None where there is none."""
    try:
        return os.get_terminal_size(STDOUT).columns or None
    except OSError:
        return None


def coloured(stream: int) -> bool:
    """Whether what goes to that descriptor may have colours: a terminal that knows them, and no
    NO_COLOR (https://no-color.org: present and not empty)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "") in {"", "dumb"}:
        return False
    return os.isatty(stream)


def painted(text: str, attributes: str, stream: int = STDERR) -> str:
    """``text`` with attributes if the stream shows them, else as it is."""
    return f"\033[{attributes}m{text}\033[0m" if text and coloured(stream) else text
