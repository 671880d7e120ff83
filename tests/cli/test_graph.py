# SPDX-License-Identifier: Apache-2.0
"""ls --dot and ls --mermaid: stacks as graphs, odd names too."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest

Run = Callable[..., Any]

# What people see of each, and what the core has.
ODD = {
    'q"uote': "q\\x22uote",
    "back\\slash": "back\\x5cslash",
    "a&lt;b <c>": "a\\x26lt\\x3bb\\x20\\x3cc\\x3e",
    "new\nline": "new\\x0aline",
    "#35; `x`": "#35\\x3b\\x20\\x60x\\x60",
    "é": "\\xc3\\xa9",
    "no\udcff": "no\\xff",
    "end": "end",
}


def visible(name: str) -> str:
    return name.replace("\n", "\\x0a").replace("\udcff", "\\xff")


@pytest.fixture
def stack(words: Any) -> Any:
    words.add("low", minor=0)
    words.add("top", minor=1)
    words.add("other", minor=2)
    words.deps["low"] = [words.file("/img/a b.img"), words.block("ram0", 1, 0)]
    words.deps["top"] = [words.mapped("low")]
    return words


@pytest.fixture
def odd(words: Any) -> Any:
    for minor, mangled in enumerate(ODD.values()):
        words.add(mangled, minor=minor)
        words.deps[mangled] = [words.file('/img/"\\&amp;#x')]
    return words


def test_dot(run: Run, stack: Any) -> None:
    assert (
        run("ls", "--dot").out
        == """\
digraph dmtool {
  node [shape=box, fontname="sans-serif"];
  n0 [label="low\\n1000:0"];
  n1 [label="/img/a b.img", shape=cylinder];
  n2 [label="1:0", shape=cylinder];
  n3 [label="other\\n1000:2"];
  n4 [label="top\\n1000:1"];
  n0 -> n1;
  n0 -> n2;
  n4 -> n0;
}
"""
    )


def test_mermaid(run: Run, stack: Any) -> None:
    assert (
        run("ls", "--mermaid").out
        == """\
flowchart TD
  n0["low<br>1000:0"]
  n1[("/img/a b.img")]
  n2[("1:0")]
  n3["other<br>1000:2"]
  n4["top<br>1000:1"]
  n0 --> n1
  n0 --> n2
  n4 --> n0
"""
    )


def test_selected_devices_and_what_is_below(run: Run, stack: Any) -> None:
    out = run("ls", "--dot", "-S", "name=top").out
    assert re.findall(r'label="([^"\\]*)', out) == ["top", "low", "/img/a b.img", "1:0"]
    assert run("ls", "--mermaid", "-S", "name=nosuch").out == "flowchart TD\n"
    wrong = run("ls", "--dot", "-S", "nam=x")
    assert wrong.status == 1
    assert "Unrecognised selection field: nam\n" in wrong.err
    assert run("ls", "--dot", "-S", "help").out == ""


def test_no_devices(run: Run) -> None:
    assert run("ls", "--mermaid").out == "flowchart TD\n"
    assert run("ls", "--dot", "--mermaid") == (
        1,
        "",
        "Please use one of --dot and --mermaid.\nCommand failed.\n",
    )


def test_quotes_of_dot(run: Run, odd: Any) -> None:
    """Every line is one of the few forms; what is in quotes is the name."""
    labels = []
    for line in run("ls", "--dot").out.splitlines()[2:-1]:
        if "->" not in line:
            found = re.fullmatch(r'  n\d+ \[label="((?:[^"\\]|\\["\\n])*)"(, shape=\w+)?\];', line)
            assert found, line
            labels.append(found[1])
    read = {unescape(re.sub(r'\\(["\\])', r"\1", label.split("\\n1000:")[0])) for label in labels}
    assert read == {*map(visible, ODD), '/img/"\\&amp;#x'}


@pytest.mark.tools("dot")
def test_graphviz_reads_it(run: Run, odd: Any) -> None:
    source = run("ls", "--dot").out
    done = subprocess.run(
        ["dot", "-Tsvg"], input=source.encode(), capture_output=True, check=True, timeout=60
    )
    assert done.stderr == b""
    texts = {
        unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", done.stdout.decode())
    }
    assert {visible(name).replace("-", "-") for name in ODD} <= texts
    assert '/img/"\\&amp;#x' in texts


def test_quotes_of_mermaid(run: Run, odd: Any) -> None:
    labels = set()
    for line in run("ls", "--mermaid").out.splitlines()[1:]:
        if "-->" not in line:
            found = re.fullmatch(r'  n\d+\[\(?"((?:[\w /.,:=+@-]|#\d+;|<br>)*)"\)?\]', line)
            assert found, line
            labels.add(found[1].split("<br>")[0])
    read = {re.sub(r"#(\d+);", lambda m: chr(int(m[1])), label) for label in labels}
    assert read == {*map(visible, ODD), '/img/"\\&amp;#x'}
