# SPDX-License-Identifier: Apache-2.0
"""The rows of reports: what the columns in ``dmtool.cli.columns`` are asked of."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from dmtool.cli import columns
from dmtool.cli.columns import Value
from dmtool.cli.naming import Naming
from dmtool.cli.session import Device, Session
from dmtool.cli.splitname import Parts, split, subsystem_of
from dmtool.cli.tree import Node, Stack


class Row:
    """One mapped device in a report; what takes a question to the core is asked when needed."""

    kinds = frozenset({columns.TASK, columns.INFO, columns.DEPS, columns.TREE, columns.NAME})

    def __init__(self, session: Session, info: dict[str, Any]) -> None:
        self.session = session
        self.naming: Naming = session.naming
        self.info: dict[str, Any] = info
        self._inactive = "inactive" in session.switches

    @cached_property
    def name(self) -> str:
        return self.session.shown(self.info["name"])

    @cached_property
    def uuid(self) -> str:
        return self.session.shown(self.info["uuid"], "UUID")

    @property
    def readonly(self) -> bool:
        return bool(self.info["inactive_readonly" if self._inactive else "readonly"])

    @property
    def target_count(self) -> int:
        return int(self.info["inactive_target_count" if self._inactive else "target_count"])

    @property
    def open_count(self) -> int:
        return int(self.info["open_count"])

    @cached_property
    def deps(self) -> list[dict[str, Any]]:
        device = Device(name=self.info["name"])
        answer = self.session.ioctl("deps", device, "deps", inactive=self._inactive)
        return list(answer["deps"])

    @property
    def devnos_used(self) -> list[str]:
        return [str(dep["path"]) if dep["major"] is None else f"{dep['major']}:{dep['minor']}"
                for dep in self.deps]  # fmt: skip

    @property
    def blkdevs_used(self) -> list[str]:
        return [f"dm-{d['minor']}" if d["kind"] == "dm" else str(d["name"]) for d in self.deps]

    @cached_property
    def _node(self) -> Node:
        return Stack.of(self.session).node(self.info)

    @property
    def names_used(self) -> list[str]:
        return [node.name for node in self._node.uses if node.info]

    @property
    def users(self) -> list[Node]:
        return self._node.used_by

    @property
    def names_using(self) -> list[str]:
        return [node.name for node in self.users]

    @property
    def devnos_using(self) -> list[str]:
        return [f"{node.major}:{node.minor}" for node in self.users]

    def statistic(self, column: str) -> Value:
        """What a column of statistics says; only rows of statistics have them."""
        raise LookupError(column)

    @cached_property
    def parts(self) -> Parts:
        return split(self.name, subsystem_of(self.uuid))


class NameRow(Row):
    """The one row of ``splitname``: a name that need not be any device's."""

    kinds = frozenset({columns.NAME})

    def __init__(self, session: Session, parts: Parts) -> None:
        super().__init__(session, {})
        self.parts = parts


def rows(session: Session, info: dict[str, Any]) -> list[Row]:
    """The rows that one device makes in the session's report."""
    assert session.report is not None
    if session.report.kinds & {columns.STATS, columns.REGION}:
        from dmtool.cli.stats import rows_of

        return list(rows_of(session, info, {"region", "group"}))
    return [Row(session, info)]
