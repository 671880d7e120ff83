# SPDX-License-Identifier: Apache-2.0
"""What is read from the files of ``control/NAME/``."""

from __future__ import annotations

import os

from dmtool.device import MappedDevice
from dmtool.errors import DmtoolError, TableErrors


def state(device: MappedDevice) -> str:
    """What was last asked for: ``active`` or ``suspended``."""
    return "suspended\n" if device.suspended else "active\n"


def info(device: MappedDevice) -> str:
    """The block of lines that `info` prints, as far as a device knows it by itself."""
    live, inactive = device.live, device.inactive
    condition = "SUSPENDED" if device.suspended else "ACTIVE"
    condition += " (READ-ONLY)" if device.readonly else ""
    tables = " & ".join(word for word, it in (("LIVE", live), ("INACTIVE", inactive)) if it)
    lines = [
        ("Name:", device.name),
        ("State:", condition),
        ("Tables present:", tables or "None"),
        ("Open count:", str(device.open_count)),
        ("Event number:", str(device.event_nr)),
        ("Major, minor:", "{}, {}".format(*device.devno)),
        ("Number of targets:", str(len(live.targets) if live else 0)),
        ("Sectors:", str(live.sectors if live else 0)),
    ]
    if device.uuid:
        lines.append(("UUID:", device.uuid))
    return "".join(f"{head:<18} {value}\n" for head, value in lines)


def deps(device: MappedDevice) -> str:
    """What the live table lies on, one a line as a table would name it, in order of first use."""
    live = device.live
    return "".join(f"{backing}\n" for backing in live.backings) if live else ""


def reason(failed: DmtoolError | OSError) -> str:
    """Why something was refused: for each line of a table the place, the words, the hint."""
    if isinstance(failed, OSError):
        return f"{failed.strerror or os.strerror(failed.errno or 0)}\n"
    if not isinstance(failed, TableErrors):
        cause = getattr(failed, "cause", None)
        return ": ".join(filter(None, (str(failed), cause))) + "\n" + _hint(failed)
    text = ""
    for one in failed.errors:
        parts = (str(one.where), one.type, str(one), one.cause)
        text += ": ".join(filter(None, parts)) + "\n"
        if one.where.text:
            text += f"  {one.where.text.rstrip()}\n"
        text += _hint(one)
    return text


def _hint(failed: DmtoolError) -> str:
    return f"hint: {failed.hint}\n" if failed.hint else ""
