# SPDX-License-Identifier: Apache-2.0
"""Target types by name: lazily, each name once, bugs told with their owner."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from dmtool import hookspecs
from dmtool.api import Fail, hookimpl
from dmtool.errors import DuplicateTarget, PluginError, UnknownTarget
from dmtool.targets.registry import GROUP, HOOKS, Targets


def _entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, GROUP)


def test_bundled_types() -> None:
    targets = Targets()
    names = targets.names()
    assert {"linear", "striped", "error", "io_error", "zero"} <= set(names)
    for name in ("linear", "striped", "error", "io_error", "zero"):
        assert targets[name].name == name
        assert targets[name].distribution.startswith("dmtool ")
        assert all(part >= 0 for part in targets[name].version)
    assert targets["error"].hooks == targets["io_error"].hooks


def test_a_type_is_imported_when_it_is_first_named() -> None:
    code = (
        "import sys\n"
        "from dmtool.targets.registry import Targets\n"
        "targets = Targets()\n"
        "targets.names()\n"
        "assert 'dmtool.plugins.zero' not in sys.modules\n"
        "targets['zero']\n"
        "assert 'dmtool.plugins.zero' in sys.modules\n"
        "assert 'dmtool.plugins.striped' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_type_suggests() -> None:
    with pytest.raises(UnknownTarget, match="unknown target type") as caught:
        Targets()["liner"]
    assert caught.value.hint == "did you mean linear?"


def test_two_distributions_claiming_one_name_are_refused() -> None:
    entries = [_entry("x", "dmtool.plugins.zero"), _entry("x", "dmtool.plugins.linear")]
    targets = Targets(lambda: entries)
    with pytest.raises(DuplicateTarget, match=r"plugins\.zero and by dmtool\.plugins\.linear"):
        targets["x"]


def test_one_distribution_seen_twice_is_no_conflict() -> None:
    targets = Targets(lambda: [_entry("x", "dmtool.plugins.zero")] * 2)
    assert targets["x"].module == "dmtool.plugins.zero"


def test_a_plugin_that_cannot_be_imported_is_told_with_its_owner() -> None:
    targets = Targets(lambda: [_entry("x", "no.such.module")])
    with pytest.raises(PluginError, match=r"no\.such\.module.*cannot be imported"):
        targets["x"]


def _module(**hooks: object) -> ModuleType:
    module = ModuleType("dmtool_made")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))  # type: ignore[type-var]
    return module


def test_misspelt_hook() -> None:
    def mapp(ti: object, io: object) -> None: ...
    def ctr(ti: object, args: object) -> None: ...

    with pytest.raises(PluginError, match="unknown hook 'mapp'"):
        Targets().register(_module(ctr=ctr, mapp=mapp), "x", "dist")


def test_wrong_argument_name() -> None:
    def ctr(ti: object, argz: object) -> None: ...

    with pytest.raises(PluginError, match="argz"):
        Targets().register(_module(ctr=ctr), "x", "dist")


def test_neither_map_nor_plan() -> None:
    def ctr(ti: object, args: object) -> None: ...

    with pytest.raises(PluginError, match=r"map\(\) is missing"):
        Targets().register(_module(ctr=ctr), "x", "dist")


def test_a_hook_may_take_fewer_arguments() -> None:
    def ctr(args: object) -> str:
        return f"got {args}"

    def plan() -> Fail:
        return Fail(5)

    made = Targets().register(_module(ctr=ctr, plan=plan), "x", "dist")
    assert made.call("ctr", "TI", "ARGS") == "got ARGS"
    assert made.call("plan", "TI") == Fail(5)
    assert made.call("status", "TI") is None


def test_a_bug_in_a_hook_is_told_with_its_owner() -> None:
    def ctr(ti: object, args: object) -> None:
        raise KeyError("oops")

    def plan(ti: object) -> Fail:
        return Fail(5)

    made = Targets().register(_module(ctr=ctr, plan=plan), "x", "some-dist 1.0")
    with pytest.raises(PluginError, match=r'"x" \(some-dist 1.0\) has a bug: ctr\(\) raised Key'):
        made.call("ctr", None, None)


def test_every_hook_is_documented_and_known() -> None:
    specs = {
        name: spec
        for name, spec in vars(hookspecs).items()
        if getattr(spec, "dmtool_spec", None) is not None
    }
    assert sorted(specs) == sorted(HOOKS)
    for name, spec in specs.items():
        assert spec.__doc__, f"{name} has no documentation"
