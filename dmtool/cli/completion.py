# SPDX-License-Identifier: Apache-2.0
r"""What can stand in the place of the last word of a command line: shell completion.

The shells' own parts are in ``completion/``. They run the program with ``_DMTOOL_COMPLETE`` set
and the words up to the cursor as arguments. The answer is lines: on the first one what the shell
is to do itself (``files``, ``commands``: offer those; ``nospace``: more may follow), then one for
each word that fits, a tab, and a few words about it.

No core is started, and one that does not answer is not waited for.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from dmtool.cli import columns, summaries
from dmtool.cli.command import Command
from dmtool.cli.commands import BY_NAME, COMMANDS
from dmtool.cli.getopt import CommandLineError, Option, scan
from dmtool.cli.options import MANGLING_MODES, OPTIONS

if TYPE_CHECKING:
    from types import FrameType

# Seconds that a core has to answer: who presses Tab waits for it.
PATIENCE = 2

_BY_NAME = {option.name: option for option in OPTIONS}
_BY_LETTER = {letter: option for option in OPTIONS for letter in option.short}
_STATISTICS = frozenset({columns.STATS, columns.REGION})


class Word(NamedTuple):
    """A word that fits, and what it is."""

    text: str
    about: str = ""


class Answer(NamedTuple):
    """What fits. ``modes``: what the shell is to do."""

    words: list[Word]
    modes: tuple[str, ...] = ()

    def lines(self) -> str:
        """As the shells read it. A word that is no line cannot be offered."""
        shown = [" ".join(self.modes)]
        shown += [f"{word.text}\t{word.about}" for word in self.words if word.text.isprintable()]
        return "".join(line + "\n" for line in shown)


class _Mark(str):
    """Stands for the word that is to be completed: equal to no word, found by identity."""

    __slots__ = ()


class Line:
    """A command line up to the cursor. Raises CommandLineError where it cannot be read.

    ``last`` is the word at the cursor, ``pending`` the option that it is the argument of;
    ``given`` are the options before it, ``operands`` the command and its operands.
    """

    def __init__(self, words: Sequence[str], prog: str) -> None:
        *before, self.last = words or [""]
        mark = _Mark("\0")
        self.given: dict[str, str] = {}
        self.pending: Option | None = None
        self.operands = scan([*before, mark], OPTIONS, prog, self._accept)
        # behind `--`, and behind the first operand where POSIX rules, nothing is an option
        self.ended = False
        if self.pending is None:
            self.operands.pop()
            self.ended = "--help" in scan([*before, "--help"], OPTIONS, prog, _ignore)
        if prog == "dmstats":
            self.operands.insert(0, "stats")

    def _accept(self, option: Option, value: str) -> None:
        if isinstance(value, _Mark):
            self.pending = option
        else:
            self.given[option.name] = value

    @property
    def command(self) -> Command | None:
        return BY_NAME.get(self.operands[0]) if self.operands else None

    @property
    def subcommand(self) -> str:
        """The command of ``stats``."""
        return self.operands[1] if len(self.operands) > 1 else ""


def _ignore(_option: Option, _value: str) -> None:
    """What an option is does not matter, only that it is one."""


def complete(words: Sequence[str], prog: str) -> Answer:
    """What fits in the place of the last of ``words``; ``prog`` is the name that we go by."""
    try:
        line = Line(words, prog)
    except CommandLineError:
        return Answer([])
    last = line.last
    if line.pending is not None:
        return _of(_argument(line, line.pending, last))
    if not line.ended and last.startswith("--") and "=" in last:
        name, _, value = last.partition("=")
        option = _BY_NAME.get(name[2:])
        return _of(_argument(line, option, value), f"{name}=") if option else Answer([])
    if not line.ended and last.startswith("-"):
        glued = None if last.startswith("--") else _BY_LETTER.get(last[1:2])
        if glued is not None and glued.argument and len(last) > 2:
            return _of(_argument(line, glued, last[2:]), last[:2])
        return _of(_Offer(_options(line), last))
    return _of(_operand(line))


class _Offer(NamedTuple):
    """Words that may fit, those that begin with ``start`` do."""

    words: Iterable[Word] = ()
    start: str = ""
    modes: tuple[str, ...] = ()


def _of(offer: _Offer, before: str = "") -> Answer:
    """The words that fit, each with what stands in the same word before it."""
    found = [
        Word(before + word.text, word.about)
        for word in offer.words
        if word.text.startswith(offer.start)
    ]
    return Answer(found, offer.modes)


# -- options ---------------------------------------------------------------------------------------


def options_of(command: Command, subcommand: str = "") -> list[Option]:
    """The options that mean something to a command; of ``stats`` to its command."""
    names = list(command.options)
    if command.select:
        names.append("select")
    if command.subcommands and subcommand:
        from dmtool.cli.stats import SUBCOMMANDS

        usage = " ".join(known.usage for known in SUBCOMMANDS if known.name == subcommand)
        named = set(re.findall(r"--([a-z]+)", usage))
        reports = set(BY_NAME["info"].options) | _SHOWN
        names = [
            name
            for name in names
            if name in named or (subcommand in {"list", "report"} and name in reports)
        ]
    if command.own:
        names.append("help")
    return [_BY_NAME[name] for name in dict.fromkeys(names)]


# Which of the options of statistics are about what is shown.
_SHOWN = frozenset(
    "area region group raw histogram relative units nosuffix notimesuffix json".split()
)


def _options(line: Line) -> Iterator[Word]:
    from dmtool.cli.parameters import HELP

    command = line.command
    if command is None:
        found = [_BY_NAME[name] for name in ("help", "version", "verbose", "debug")]
    else:
        found = options_of(command, line.subcommand)
    for option in sorted(found, key=lambda option: option.name):
        if option.name not in line.given:
            yield Word(f"--{option.name}", HELP.get(option.name, ""))


def _argument(line: Line, option: Option, start: str) -> _Offer:
    """What the argument of an option may be."""
    if option.name == "options":
        return _listed(_shown_by(line), start)
    if option.name == "sort":
        return _listed(_signed(_columns(line), start), start)
    if option.name == "select":
        return _Offer(_columns(line), start, ("nospace",))
    usage = line.command.usage if line.command else ""
    mode = _SHELLS.get(option.name)
    if re.search(rf"--{option.name} <\w*(file|path)\w*>", usage):
        mode = "files"
    if mode:
        return _Offer(start=start, modes=(mode,))
    words = _ARGUMENTS.get(option.name)
    return _Offer(words(), start) if words else _Offer()


def _listed(words: Iterable[Word], start: str) -> _Offer:
    """The last of words that are parted by commas; none that is there already."""
    head, comma, _ = start.rpartition(",")
    before = head + comma
    if not comma and start.startswith("+"):
        before = "+"
    known = set(head.removeprefix("+").split(","))
    found = (Word(before + word.text, word.about) for word in words if word.text not in known)
    return _Offer(found, start, ("nospace",))


def _signed(words: Iterable[Word], start: str) -> Iterator[Word]:
    """Sort keys: with the sign that the last one has."""
    sign = start.rpartition(",")[2][:1]
    sign = sign if sign in {"+", "-"} else ""
    return (Word(sign + word.text, word.about) for word in words)


def _shown_by(line: Line) -> Iterator[Word]:
    """What ``-o`` may say: styles of a tree, ways to name devices, or columns."""
    name = line.operands[0] if line.operands else ""
    if name == "ls" and "tree" in line.given:
        from dmtool.cli.tree import WORDS

        return (Word(word) for word in sorted(WORDS))
    if name in {"ls", "deps"} and "columns" not in line.given:
        from dmtool.cli.ls import NAMINGS

        return (Word(word) for word in NAMINGS)
    return _columns(line, all_of_them=True)


def _columns(line: Line, *, all_of_them: bool = False) -> Iterator[Word]:
    """The columns that a command's reports have."""
    name = line.operands[0] if line.operands else ""
    for column in columns.COLUMNS:
        statistic = column.kind in _STATISTICS
        if name == "splitname" and column.kind != columns.NAME:
            continue
        if not statistic or name == "stats":
            yield Word(column.id, column.description)
    if all_of_them:
        yield Word("all", "All columns of the report.")
        yield Word("help", "Show help.")


# -- operands --------------------------------------------------------------------------------------


def _operand(line: Line) -> _Offer:
    command, last = line.command, line.last
    if command is None:
        return _Offer() if line.operands else _Offer(_commands(), last)
    place = len(line.operands) - 1
    named = {"uuid", "major"} & line.given.keys() and command.name != "create"
    kinds = list(command.operands)
    if named and kinds[:1] == ["device"]:
        kinds = kinds[1:]  # the device is named by an option
    if "..." in kinds:
        kinds.remove("...")
        place = min(place, len(kinds) - 1)
    if not 0 <= place < len(kinds):
        return _Offer()
    kind = kinds[place]
    if kind in _SHELLS:
        return _Offer(start=last, modes=(_SHELLS[kind],))
    if kind == "device":
        return _Offer((w for w in _devices() if w.text not in line.operands[1:]), last)
    words = _KINDS.get(kind)
    return _Offer(words(), last) if words else _Offer()


def _commands() -> Iterator[Word]:
    for command in COMMANDS:
        about = command.summary.partition(". ")[0].removesuffix(".")
        yield Word(command.name, about or summaries.COMMANDS.get(command.name, ""))


def _statistics() -> Iterator[Word]:
    from dmtool.cli.stats import SUBCOMMANDS

    for name in dict.fromkeys(known.name for known in SUBCOMMANDS):
        yield Word(name, summaries.STATS.get(name, ""))


def _ask(method: str) -> list[dict[str, Any]] | None:
    """What a core answers; None where none runs."""
    from dmtool.client import Client
    from dmtool.errors import DmtoolError

    try:
        with Client(start=False) as client:
            found: list[dict[str, Any]] = client.call(method)
    except (DmtoolError, TimeoutError):
        return None
    return found


def _infos() -> list[dict[str, Any]]:
    return _ask("list") or []


def _devices() -> Iterator[Word]:
    from dmtool.names import unmangle

    for info in _infos():
        yield Word(unmangle(info["name"]), f"{info['major']}:{info['minor']}")


def _uuids() -> Iterator[Word]:
    from dmtool.names import unmangle

    return (Word(unmangle(i["uuid"]), unmangle(i["name"])) for i in _infos() if i["uuid"])


def _majors() -> Iterator[Word]:
    return (Word(number) for number in {str(info["major"]) for info in _infos()})


def _minors() -> Iterator[Word]:
    from dmtool.names import unmangle

    return (Word(str(info["minor"]), unmangle(info["name"])) for info in _infos())


def _formats() -> Iterator[Word]:
    from tabulate import tabulate_formats

    return (Word(name) for name in tabulate_formats)


def _targets() -> Iterator[Word]:
    """The target types of the core that runs, else those that are installed here."""
    found = _ask("targets")
    if found is not None:
        return (Word(target["name"]) for target in sorted(found, key=lambda t: str(t["name"])))
    from importlib.metadata import entry_points

    names = {entry.name for entry in entry_points(group="dmtool.targets")}
    return (Word(name) for name in sorted(names))


def _fixed(*words: str) -> Callable[[], Iterator[Word]]:
    return lambda: map(Word, words)


# What the shell knows better.
_SHELLS = {"exec": "commands", "file": "files", "table": "files"}
_ARGUMENTS: dict[str, Callable[[], Iterable[Word]]] = {
    "follow": _fixed("inode", "path"),
    "format": _formats,
    "major": _majors,
    "manglename": _fixed(*MANGLING_MODES),
    "minor": _minors,
    "readahead": _fixed("auto", "none"),
    "target": _targets,
    "units": _fixed(*"hHbBsSkKmMgGtTpPeE"),
    "uuid": _uuids,
}
_KINDS: dict[str, Callable[[], Iterable[Word]]] = {
    "action": _fixed("run", "status", "stop"),
    "stats": _statistics,
    "subsystem": _fixed("LVM"),
    "target": _targets,
}


def answer(words: Sequence[str], prog: str) -> str:
    """The whole answer, for a shell. A core that hangs costs ``PATIENCE`` seconds, no more."""

    def give_up(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        return complete(words, prog).lines()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
