# SPDX-License-Identifier: Apache-2.0
"""Target types by name.

The entry points of the group ``dmtool.targets`` name them; a type's module is imported when a
table first names it, as the kernel's ``request_module("dm-NAME")`` does. pluggy checks each
plugin against the hookspecs; then the plain functions are taken out of it, once, into a
TargetType, so that no I/O ever passes through pluggy.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, NoReturn

import pluggy

from dmtool import hookspecs
from dmtool.errors import DmtoolError, DuplicateTarget, PluginError, UnknownTarget
from dmtool.plan import Extent, Fail, Zero

GROUP = "dmtool.targets"
HOOKS = (
    "ctr dtr map plan end_io status table message presuspend presuspend_undo postsuspend "
    "preresume resume iterate_devices io_hints"
).split()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TargetType:
    """One target type: its name, version, origin and functions (None where it has none).

    Threads: immutable, any thread.
    """

    name: str
    version: tuple[int, int, int]
    module: str
    distribution: str
    hooks: dict[str, Callable[..., Any]] = field(repr=False)
    # what every line of the type is, where no line needs its own ctr (see hookspecs.py, BULK)
    bulk: type[Extent] | Zero | Fail | None = field(repr=False)
    # the two that run for every I/O, taken out of ``hooks`` for speed
    map: Callable[..., Any] | None = field(repr=False)
    end_io: Callable[..., Any] | None = field(repr=False)

    def has(self, hook: str) -> bool:
        return hook in self.hooks

    def call(self, hook: str, *args: Any) -> Any:
        """Call a hook; None where the type does not have it.

        DmtoolErrors and OSErrors pass; anything else that comes out is the plugin's bug and is
        raised as PluginError.
        """
        function = self.hooks.get(hook)
        if function is None:
            return None
        try:
            return function(*args)
        except (DmtoolError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  # a plugin may raise anything
            self.bug(hook, error)

    def bug(self, hook: str, error: Exception) -> NoReturn:
        """Log what came out of a hook and raise it as PluginError."""
        log.exception("target type %s (%s): %s()", self.name, self.distribution, hook)
        what = f"raised {type(error).__name__}: {error}"
        raise PluginError(self.name, self.distribution, hook, what) from error


class Targets:
    """The registry.

    Threads: any; a lock is held while a type is imported.
    """

    def __init__(self, found: Callable[[], list[EntryPoint]] | None = None) -> None:
        self._find = found or (lambda: list(entry_points(group=GROUP)))
        self._entries: dict[str, list[EntryPoint]] | None = None
        self._types: dict[str, TargetType] = {}
        self._lock = threading.RLock()
        self._pm = pluggy.PluginManager("dmtool")
        self._pm.add_hookspecs(hookspecs)

    def __getitem__(self, name: str) -> TargetType:
        """The type of that name. Raises UnknownTarget, DuplicateTarget, PluginError."""
        found = self._types.get(name)
        if found is None:
            with self._lock:
                found = self._types.get(name) or self._load(name)
                self._types[name] = found
        return found

    def names(self) -> list[str]:
        """The names of all installed types, sorted; nothing is imported."""
        return sorted(self._found())

    def forget(self) -> None:
        """Look at the entry points again at the next name: a plugin was (un)installed."""
        with self._lock:
            self._entries = None

    def _found(self) -> dict[str, list[EntryPoint]]:
        with self._lock:
            if self._entries is None:
                self._entries = {}
                for entry in self._find():
                    same = self._entries.setdefault(entry.name, [])
                    # one distribution seen twice (editable and installed) is no conflict
                    if all(entry.value != other.value for other in same):
                        same.append(entry)
            return self._entries

    def _load(self, name: str) -> TargetType:
        entries = self._found().get(name)
        if not entries:
            raise UnknownTarget(name, get_close_matches(name, self._found(), cutoff=0.5))
        if len(entries) > 1:
            # pluggy alone would keep the first and drop the second without a word
            raise DuplicateTarget(name, _distribution(entries[0]), _distribution(entries[1]))
        entry = entries[0]
        try:
            module = entry.load()
        except Exception as error:  # a plugin may raise anything
            log.exception("target type %s: import of %s", name, entry.value)
            what = f"cannot be imported: {type(error).__name__}: {error}"
            raise PluginError(name, _distribution(entry), entry.value, what) from error
        return self.register(module, name, _distribution(entry))

    def register(self, module: ModuleType, name: str, distribution: str = "") -> TargetType:
        """Check a plugin against the hookspecs and make it the type ``name``.

        For tests of plugins, which have no entry point; tables find types by entry point.
        Raises PluginError for unknown hooks or arguments, and where neither ``map`` nor
        ``plan`` is there.
        """
        with self._lock:
            try:
                if not self._pm.is_registered(module):  # `error` and `io_error` are one module
                    self._pm.register(module, f"{module.__name__} {id(module)}")
                    self._pm.check_pending()
            except Exception as error:  # a plugin may raise anything
                if self._pm.is_registered(module):
                    self._pm.unregister(module)
                raise PluginError(name, distribution, "hookimpl", f"is wrong: {error}") from error
            hooks = self._functions(module)
            for needed in ("ctr", "map" if "plan" not in hooks else "plan"):
                if needed not in hooks:
                    raise PluginError(name, distribution, needed, "is missing")
            made = TargetType(
                name=name,
                version=tuple(getattr(module, "VERSION", (0, 0, 0))),
                module=module.__name__,
                distribution=distribution,
                hooks=hooks,
                bulk=_bulk(module, name, distribution, hooks),
                map=hooks.get("map"),
                end_io=hooks.get("end_io"),
            )
            self._types[name] = made
            return made

    def _functions(self, module: ModuleType) -> dict[str, Callable[..., Any]]:
        functions: dict[str, Callable[..., Any]] = {}
        for caller in self._pm.get_hookcallers(module) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is module:
                    spec = caller.spec
                    names = tuple(spec.argnames) if spec else tuple(impl.argnames)
                    functions[caller.name] = _with_all(impl.function, names, impl.argnames)
        return functions


# A target made in bulk has no state and no life of its own.
_PER_TARGET = frozenset(HOOKS) - {"ctr", "map", "plan", "table"}


def _bulk(
    module: ModuleType, name: str, distribution: str, hooks: dict[str, Callable[..., Any]]
) -> type[Extent] | Zero | Fail | None:
    bulk = getattr(module, "BULK", None)
    if bulk is None or bulk is Extent or isinstance(bulk, Zero | Fail):
        lives = sorted(_PER_TARGET & hooks.keys())
        if bulk is None or not lives:
            return bulk
        raise PluginError(name, distribution, "BULK", f"does not go together with {lives}")
    raise PluginError(name, distribution, "BULK", f"is {bulk!r}: not Extent, Zero() or Fail()")


def _with_all(
    function: Callable[..., Any], names: tuple[str, ...], taken: tuple[str, ...] | list[str]
) -> Callable[..., Any]:
    """A hook implementation may take fewer arguments than its spec has, by name."""
    if tuple(taken) == names:
        return function
    picked = [names.index(name) for name in taken]
    return lambda *args: function(*[args[i] for i in picked])


def _distribution(entry: EntryPoint) -> str:
    dist = entry.dist
    return f"{dist.name} {dist.version}" if dist else entry.value


TARGETS = Targets()
