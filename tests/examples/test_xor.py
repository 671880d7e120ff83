# SPDX-License-Identifier: Apache-2.0
"""The example of a third party's target type, as its user meets it: pip install, use, uninstall."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[2] / "examples" / "dmtool-xor"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packaging"), pytest.mark.timeout(300)]


def types(env: Any) -> dict[str, Any]:
    return {
        one["name"]: one for one in json.loads(env.run("dmtool", "targets", "--json"))["targets"]
    }


def test_installed_used_and_uninstalled(
    built: Any, environment: Callable[..., Any], tmp_path: Path
) -> None:
    env = environment(built.tree_wheel, "setuptools")
    source = shutil.copytree(EXAMPLE, tmp_path / "dmtool-xor")  # building leaves files behind
    disk = env.root / "disk.img"
    disk.write_bytes(bytes(range(256)) * 16)  # 8 sectors
    table = "0 6 xor disk.img 2 0ff0aa"

    assert "xor" not in types(env)
    env.run("dmtool", "create", "secret", "--table", table, status=1)

    # the core process is running: it sees what was installed since it was started
    env.pip("install", "--no-deps", "--no-build-isolation", source)
    assert types(env)["xor"]["distribution"] == "dmtool-xor 1.0.0"
    env.run("dmtool", "create", "secret", "--table", table)
    assert env.run("dmtool", "table", "secret") == f"0 6 xor {disk} 2 0ff0aa\n"

    # not aligned to anything: the key's phase counts from the target's first byte
    env.run("dmtool", "write", "secret", "--offset", "700", stdin="plain text")
    assert env.run("dmtool", "read", "secret", "--offset", "700", "--length", "10") == "plain text"
    key = bytes.fromhex("0ff0aa")
    at = 2 * 512 + 700
    wanted = bytes(b ^ key[(700 + i) % 3] for i, b in enumerate(b"plain text"))
    assert disk.read_bytes()[at : at + 10] == wanted
    # all round it is as it was
    untouched = (bytes(range(256)) * 16)[at + 10 :]
    assert disk.read_bytes()[at + 10 :] == untouched

    env.run("dmtool", "remove", "secret")
    env.pip("uninstall", "--yes", "dmtool-xor")
    assert "xor" not in types(env)
