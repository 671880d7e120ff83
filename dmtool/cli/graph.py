# SPDX-License-Identifier: Apache-2.0
"""``ls --dot`` and ``ls --mermaid``: the stack of devices as a graph, for Graphviz and Mermaid.

An arrow leads from a device to what it stands on. Names are shown as people see them; bytes that
are no characters, and control characters, as ``\\xNN``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dmtool.cli.session import Failed, Session
from dmtool.cli.tree import Node, Stack


def draw(session: Session) -> None:
    """Print the graph: of all devices, or of those that ``-S`` selects and all below them."""
    dot = "dot" in session.switches
    if dot and "mermaid" in session.switches:
        raise Failed("Please use one of --dot and --mermaid.")
    roots = _roots(session)
    if roots is None:
        return
    nodes = list(_below(roots))
    session.out("".join(line + "\n" for line in (_dot(nodes) if dot else _mermaid(nodes))))


def _roots(session: Session) -> list[Node] | None:
    """The devices to begin with; None where the help of selections was asked for."""
    stack = Stack.of(session)
    if "select" not in session.switches:
        return stack.devices
    from dmtool.cli.report import Report, ReportError
    from dmtool.cli.rows import rows

    try:
        session.report = Report(session, "info")
    except ReportError as error:
        raise Failed(*error.args) from None
    if session.report.only_help:
        return None
    return [
        node
        for node in stack.devices
        if any(map(session.report.selects, rows(session, node.info or {})))
    ]


def _below(roots: Iterable[Node]) -> Iterator[Node]:
    """The nodes, each once, and all below them."""
    seen: set[Node] = set()
    todo = list(roots)[::-1]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            yield node
            todo += reversed(node.uses)


def _edges(nodes: list[Node]) -> Iterator[tuple[int, int]]:
    numbers = {node: number for number, node in enumerate(nodes)}
    for node in nodes:
        yield from ((numbers[node], numbers[lower]) for lower in node.uses)


def _label(node: Node) -> list[str]:
    """The lines of a node."""
    return [node.name, node.place] if node.info else [node.place]


def _dot(nodes: list[Node]) -> Iterator[str]:
    """The language DOT (https://graphviz.org/doc/info/lang.html)."""
    yield "digraph dmtool {"
    yield '  node [shape=box, fontname="sans-serif"];'
    for number, node in enumerate(nodes):
        label = "\\n".join(map(_quoted_for_dot, _label(node)))
        shape = "" if node.info else ", shape=cylinder"
        yield f'  n{number} [label="{label}"{shape}];'
    yield from (f"  n{upper} -> n{lower};" for upper, lower in _edges(nodes))
    yield "}"


def _quoted_for_dot(text: str) -> str:
    """Inside of the quotes of a label, where backslashes are escapes and HTML entities are read."""
    text = _visible(text).replace("&", "&amp;")
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _mermaid(nodes: list[Node]) -> Iterator[str]:
    """A flowchart of Mermaid (https://mermaid.js.org/syntax/flowchart.html)."""
    yield "flowchart TD"
    for number, node in enumerate(nodes):
        label = "<br>".join(map(_quoted_for_mermaid, _label(node)))
        begin, end = ("[", "]") if node.info else ("[(", ")]")
        yield f'  n{number}{begin}"{label}"{end}'
    yield from (f"  n{upper} --> n{lower}" for upper, lower in _edges(nodes))


def _quoted_for_mermaid(text: str) -> str:
    """Inside of quotes; what could be markup is a number, as Mermaid has it: ``#34;`` is ``"``."""
    return "".join(c if c.isalnum() or c in " /.,:=_+@-" else f"#{ord(c)};" for c in _visible(text))


def _visible(text: str) -> str:
    """Without control characters and bytes that are no characters."""
    raw = (c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in _bytes(c)) for c in text)
    return "".join(raw)


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", "surrogateescape")
