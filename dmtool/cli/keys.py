# SPDX-License-Identifier: Apache-2.0
"""Keys in the parameters of targets, which ``table`` does not show without --showkeys
(``_display_crypt_params`` and ``_display_integrity_params`` of dmsetup.c)."""

from __future__ import annotations

import re
from typing import Any

_WITH_KEYS = re.compile(r"^\d+ \d+ (crypt|integrity) (.*)$", re.MULTILINE)


def hide_keys(targets: list[dict[str, Any]]) -> None:
    """Put zeros in place of the keys in parameters."""
    for target in targets:
        target["params"] = _hidden(target["type"], target["params"])


def without_keys(text: str) -> str:
    """The same in the lines of a table."""
    return _WITH_KEYS.sub(
        lambda line: line[0].removesuffix(line[2]) + _hidden(line[1], line[2]), text
    )


def _hidden(type: str, params: str) -> str:
    if type == "crypt":
        cipher, blank, rest = params.partition(" ")
        key, more, last = rest.partition(" ")
        if not key.startswith(":"):  # a reference to a key, not a key
            return cipher + blank + "0" * len(key) + more + last
    elif type == "integrity":
        return " ".join(map(_without_key, params.split(" ")))
    return params


def _without_key(word: str) -> str:
    """``internal_hash:ALG:KEY`` and its like with zeros for KEY."""
    name, _, rest = word.partition(":")
    if name not in {"internal_hash", "journal_crypt", "journal_mac"}:
        return word
    algorithm, colon, key = rest.partition(":")
    return f"{name}:{algorithm}{colon}{'0' * len(key)}"
