# SPDX-License-Identifier: Apache-2.0
"""The floors of the package: each imports only from itself and from those below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

# From the top down. What stands on one line may import each other.
FLOORS = [
    ["dmtool.cli", "dmtool.__main__", "dmtool.testing"],
    ["dmtool.client"],
    ["dmtool.core"],
    ["dmtool.export"],
    ["dmtool.device"],
    ["dmtool.table"],
    ["dmtool.targets", "dmtool.api", "dmtool.hookspecs"],
    ["dmtool.backing", "dmtool.plan"],
    ["dmtool.sectors", "dmtool.names", "dmtool.btree", "dmtool.errors", "dmtool.directory"],
    ["dmtool.native"],
]
PLUGINS = "dmtool.plugins"


def modules() -> dict[str, Path]:
    """Module name: file, for the whole package but its tests."""
    found = {}
    for top, name in (("dmtool", "dmtool"), ("plugins", PLUGINS)):
        for path in (TOP / top).rglob("*.py"):
            parts = path.relative_to(TOP / top).with_suffix("").parts
            if parts[0] in ("plugins", "grammar") and top == "dmtool":
                continue  # the symlinks
            if any(part.startswith("test") for part in parts) and parts != ("testing",):
                continue
            found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """The modules of dmtool that a file imports, at whatever depth in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == "dmtool"}


def floor(module: str) -> int:
    """0 is the ground."""
    for height, names in enumerate(reversed(FLOORS)):
        if any(module == name or module.startswith(name + ".") for name in names):
            return height
    pytest.fail(f"{module} stands on no floor: name it in FLOORS")


def test_every_floor_has_its_module() -> None:
    missing = {name for names in FLOORS for name in names} - set(MODULES)
    assert not missing


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith(PLUGINS)])
def test_a_module_imports_only_from_below(module: str) -> None:
    below = imports(MODULES[module]) - {"dmtool"}
    if module == "dmtool":
        # the front door: names of the upper floors, imported when somebody asks for them
        return
    wrong = {name for name in below if floor(name) > floor(module)}
    assert not wrong


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith(PLUGINS + ".")])
def test_a_target_type_imports_only_the_api(module: str) -> None:
    # a type in several files may import its own
    own = ".".join(module.split(".")[:3])
    wrong = {
        name
        for name in imports(MODULES[module]) - {"dmtool.api"}
        if name != own and not name.startswith(own + ".")
    }
    assert not wrong


def loaded(module: str) -> set[str]:
    """What else an import of ``module`` imports."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["dmtool", "dmtool.cli.app", "dmtool.client"])
def test_a_client_is_quick_to_import(module: str) -> None:
    """The grammars, the plugins and the store are the core process's business."""
    assert not loaded(module) & {"lark", "pluggy", "sqlite3", "importlib.metadata", "dmtool.core"}


def test_pytest_loads_nothing_of_dmtool_but_the_fixtures() -> None:
    # pytest does it in every project of an environment that dmtool is installed in
    found = {name for name in loaded("dmtool.testing") if name.split(".")[0] == "dmtool"}
    assert found == {"dmtool", "dmtool.testing"}
