# SPDX-License-Identifier: Apache-2.0
"""``measure``: what the kernel's integrity measurement would be told of a table.

The form is the kernel's (Documentation/admin-guide/device-mapper/dm-ima.rst, and
``STATUSTYPE_IMA`` in each target type): ``target_name=linear,target_version=1.4.0,`` and the
arguments by name. As there, a type without arguments has nothing; a type that the kernel does not
have says its arguments as the table has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dmtool.cli.session import Device, Session
from dmtool.cli.show import show_lines, show_targets, targets_of
from dmtool.names import escape

# Types of which the kernel has nothing to say.
_SILENT = frozenset({"error", "zero"})
_SIGNS = frozenset(",;=")


def measure(session: Session, operands: list[str]) -> None:
    """``measure [DEVICE...]``."""
    show_targets(session, operands, _measured, show_lines)


def _measured(session: Session, device: Device) -> dict[str, Any]:
    answer = targets_of(session, device, "status")
    tables = targets_of(session, Device(name=answer["info"]["name"]), "table")["targets"]
    versions = {found["name"]: found["version"] for found in session.client.call("targets")}
    targets = [
        {**status, "params": measured(table, status["params"], versions[status["type"]])}
        # a table that was exchanged meanwhile has other targets
        for status, table in zip(answer["targets"], tables, strict=False)
    ]
    return {**answer, "targets": targets}


def measured(target: dict[str, Any], status: str, version: list[int]) -> str:
    """The measurement of one target as ``table`` has it. ``status``: its parameters in ``status``."""
    name = str(target["type"])
    if name in _SILENT and not target["params"]:
        return ""
    words = words_of(target["params"])
    pairs = [("target_name", name), ("target_version", ".".join(map(str, version)))]
    pairs += _KNOWN.get(name, _unknown)(words, words_of(status))
    return ",".join(f"{key}={value}" for key, value in pairs) + ";"


Pairs = Iterator[tuple[str, Any]]


def _linear(words: list[str], _status: list[str]) -> Pairs:
    device, start = words
    yield "device_name", _quoted(device)
    yield "start", start


def _striped(words: list[str], status: list[str]) -> Pairs:
    """Table ``N CHUNK {DEVICE START}``, status ``N {DEVICE} 1 HEALTH``."""
    count = int(words[0])
    yield "stripes", count
    yield "chunk_size", words[1]
    for number, health in enumerate(status[-1][:count]):
        device, start = words[2 + 2 * number : 4 + 2 * number]
        yield f"stripe_{number}_device_name", _quoted(device)
        yield f"stripe_{number}_physical_start", start
        yield f"stripe_{number}_status", health


def _mirror(words: list[str], status: list[str]) -> Pairs:
    """Table ``LOG N {LOG ARGUMENT} N {DEVICE START} [N {FEATURE}]``, status ``N {DEVICE} ...
    1 HEALTH ...``."""
    log = 2 + int(words[1])
    count = int(words[log])
    legs = words[log + 1 : log + 1 + 2 * count : 2]
    features = words[log + 2 + 2 * count :]
    health = status[int(status[0]) + 3]
    yield "nr_mirrors", count
    for number, (device, state) in enumerate(zip(legs, health, strict=True)):
        yield f"mirror_device_{number}", _quoted(device)
        yield f"mirror_device_{number}_status", state
    for feature in ("handle_errors", "keep_log"):
        yield feature, "y" if feature in features else "n"
    yield "log_type_status", ""


def _unknown(words: list[str], _status: list[str]) -> Pairs:
    yield "arguments", _quoted(" ".join(map(escape, words)))


_KNOWN: dict[str, Callable[[list[str], list[str]], Pairs]] = {
    "linear": _linear,
    "striped": _striped,
    "mirror": _mirror,
}


def words_of(params: str) -> list[str]:
    """The arguments in the parameters of a target; backslashes as in a table."""
    words = [""]
    characters = iter(params)
    for character in characters:
        if character == "\\":
            words[-1] += next(characters, "")
        elif character.isspace():
            words.append("")
        else:
            words[-1] += character
    return [word for word in words if word]


def _quoted(text: str) -> str:
    """With a backslash before what parts and ends the pairs."""
    return "".join("\\" + c if c in _SIGNS or c == "\\" else c for c in text)
