# SPDX-License-Identifier: Apache-2.0
"""``ls --tree``: which device stands on which, drawn; and that stack, for reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dmtool.cli import terminal
from dmtool.cli.getopt import CommandLineError
from dmtool.cli.session import Device, Session

# Deeper nodes are not drawn.
MAX_DEPTH = 100
# Of a terminal's width, and the width where there is no terminal.
_MARGIN, _WIDTH = 3, 80


@dataclass(eq=False, slots=True)
class Node:
    """A mapped device (``info`` has the core's answer) or what is below all of them (None).

    ``name`` is what people see, "" for a backing; ``place`` its number or path.
    """

    key: str
    name: str
    place: str
    blkdevname: str
    info: dict[str, Any] | None = None
    uuid: str = ""
    uses: list[Node] = field(default_factory=list)
    used_by: list[Node] = field(default_factory=list)

    @property
    def major(self) -> int:
        return int(self.info["major"]) if self.info else 0

    @property
    def minor(self) -> int:
        return int(self.info["minor"]) if self.info else 0


class Stack:
    """All mapped devices and what they use, as libdm's dependency tree orders them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._nodes: dict[str, Node] = {}
        self._infos = {info["minor"]: info for info in session.client.call("list")}
        for info in sorted(self._infos.values(), key=lambda info: str(info["name"])):
            self._add(info)

    @classmethod
    def of(cls, session: Session) -> Stack:
        """The session's stack; made once."""
        if session.stack is None:
            session.stack = cls(session)
        return session.stack

    def node(self, info: dict[str, Any]) -> Node:
        """The node of one mapped device."""
        return self._nodes.get(_key(info["major"], info["minor"])) or self._add(info)

    @property
    def empty(self) -> bool:
        return not self._infos

    @property
    def devices(self) -> list[Node]:
        """The mapped devices, in the order of their names."""
        infos = sorted(self._infos.values(), key=lambda info: str(info["name"]))
        return [self.node(info) for info in infos]

    def roots(self, *, inverted: bool = False) -> list[Node]:
        """Devices that no other uses; inverted: what uses none."""
        return [n for n in self._nodes.values() if not (n.uses if inverted else n.used_by)]

    def _add(self, info: dict[str, Any]) -> Node:
        """A mapped device, and before it is linked to a user, all below it."""
        key = _key(info["major"], info["minor"])
        if key in self._nodes:
            return self._nodes[key]
        session = self._session
        node = Node(
            key,
            session.shown(info["name"]),
            key,
            f"dm-{info['minor']}",
            info,
            session.shown(info["uuid"], "UUID"),
        )
        self._nodes[key] = node
        inactive = "inactive" in session.switches
        device = Device(name=info["name"])
        for dep in session.ioctl("deps", device, "deps", inactive=inactive)["deps"]:
            lower = self._infos.get(dep["minor"]) if dep["kind"] == "dm" else None
            below = self._add(lower) if lower else self._backing(dep)
            if below not in node.uses:
                node.uses.append(below)
                below.used_by.append(node)
        return node

    def _backing(self, dep: dict[str, Any]) -> Node:
        key = str(dep["path"]) if dep["major"] is None else _key(dep["major"], dep["minor"])
        return self._nodes.setdefault(key, Node(key, "", key, str(dep["name"])))


def _key(major: int, minor: int) -> str:
    return f"{major}:{minor}"


@dataclass(frozen=True, slots=True)
class Symbols:
    """What lines are drawn with: before a child, before its later ones, before the last."""

    branch: str
    vertical: str
    last: str
    single: str
    first: str
    empty: str = "  "


_BEGIN, _END = "\033(0\017", "\033(B"
ASCII = Symbols("|-", "| ", "`-", "---", "-+-")
UTF = Symbols("├─", "│ ", "└─", "───", "─┬─")
VT100 = Symbols(
    f"{_BEGIN}tq{_END}",
    f"{_BEGIN}x{_END} ",
    f"{_BEGIN}mq{_END}",
    f"{_BEGIN}qqq{_END}",
    f"{_BEGIN}qwq{_END}",
)

# In the order in which an abbreviation finds them.
WORDS = (
    "device", "blkdevname", "nodevice", "status", "table", "active", "open", "uuid", "rw",
    "utf", "vt100", "ascii", "inverted", "compact", "notrunc",
)  # fmt: skip


@dataclass(slots=True)
class Style:
    """``ls --tree -o``."""

    symbols: Symbols = ASCII
    device: bool = True
    truncate: bool = True
    words: frozenset[str] = frozenset()

    @classmethod
    def of(cls, options: str | None) -> Style:
        """Raises CommandLineError for words that mean nothing."""
        style = cls(UTF if terminal.utf8() else ASCII)
        words = set()
        rest = options or ""
        while rest:
            word, _, after = rest.partition(",")
            full = next((known for known in WORDS if known.startswith(word)), None)
            if full is None:
                raise CommandLineError(f"Tree options not recognised: {rest}.")
            words.add(full)
            match full:
                case "device" | "nodevice":
                    style.device = full == "device"
                case "utf" | "ascii" | "vt100":
                    style.symbols = {"utf": UTF, "ascii": ASCII, "vt100": VT100}[full]
            rest = after
        style.truncate = "notrunc" not in words
        style.words = frozenset(words)
        return style

    @property
    def attributes(self) -> bool:
        return bool(self.words & {"active", "rw", "open", "uuid"})

    @property
    def compact(self) -> bool:
        return (
            "compact" in self.words and not self.attributes and not self.words & {"table", "status"}
        )


def _terminal_width(style: Style) -> int:
    columns = None if style.symbols is VT100 else terminal.columns()
    return columns - _MARGIN if columns is not None and columns > _MARGIN else _WIDTH


class Drawing:
    """Draws nodes into lines of at most the terminal's width."""

    def __init__(self, style: Style, width: int | None = None) -> None:
        self._style = style
        self._width = _terminal_width(style) if width is None else width
        self._line: list[str] = []
        self._done: list[str] = []
        self._more: dict[int, bool] = {}
        self._indent: dict[int, int] = {}

    def draw(self, roots: list[Node]) -> str:
        """All nodes below ``roots``, and them."""
        self._children(roots, 0)
        # A compact line ends with its last node, which may be one that is not drawn.
        return "".join(self._done) + self._text()

    def _children(self, nodes: list[Node], depth: int) -> None:
        for number, node in enumerate(nodes):
            below = node.used_by if "inverted" in self._style.words else node.uses
            self._node(node, depth, last=number == len(nodes) - 1, has_children=bool(below))
            if below:
                self._children(below, depth + 1)

    def _node(self, node: Node, depth: int, *, last: bool, has_children: bool) -> None:
        style = self._style
        hidden = not node.name and not style.device and "blkdevname" not in style.words
        if depth + 2 > MAX_DEPTH or hidden:
            return
        self._more[depth] = not last
        self._indent[depth] = 0
        first_on_line = not self._line
        if not style.compact or first_on_line:
            self._prefix(depth)
        start = len(self._line)
        if style.compact and not first_on_line:
            self._put(style.symbols.single if last else style.symbols.first)
        self._put(node.name)
        if "blkdevname" in style.words:
            self._put(f" <{node.blkdevname}>")
        if style.device:
            self._put(f" ({node.place})")
        if style.attributes and node.info:
            self._put(f" [{', '.join(self._attributes(node))}]")
        if style.compact:
            self._indent[depth] = len(self._line) - start
        if not style.compact or not has_children:
            self._newline()

    def _attributes(self, node: Node) -> list[str]:
        info, words = node.info or {}, self._style.words
        every = {
            "active": "SUSPENDED" if info["suspended"] else "ACTIVE",
            "rw": "RO" if info["readonly"] else "RW",
            "open": str(info["open_count"]),
            "uuid": node.uuid,
        }
        return [value for word, value in every.items() if word in words]

    def _prefix(self, depth: int) -> None:
        symbols = self._style.symbols
        for level in range(depth):
            self._put(" " * (self._indent.get(level, 0) + 1))
            more = self._more.get(level + 1, False)
            if level == depth - 1:
                self._put(symbols.branch if more else symbols.last)
            else:
                self._put(symbols.vertical if more else symbols.empty)

    def _put(self, text: str) -> None:
        self._line += text

    def _newline(self) -> None:
        self._done.append(self._text() + "\n")
        self._line = []

    def _text(self) -> str:
        """The line so far, cut to the width."""
        text = "".join(self._line)
        # The last column holds one character, or dots where more are left (or that one is wide).
        room = self._width - 1
        if self._style.truncate and (len(text) > room + 1 or not text[room:].isascii()):
            text = text[:room] + "..."
        return text
