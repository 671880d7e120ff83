# SPDX-License-Identifier: Apache-2.0
"""Command lines for hypothesis to try on dmsetup and on us: most of them are a little wrong."""

from __future__ import annotations

import re
import shlex

from hypothesis import strategies as st

from dmtool.cli.columns import COLUMNS, NUMBER, SIZE, SPECIAL_COLUMNS, STRING
from dmtool.cli.options import OPTIONS

Words = st.SearchStrategy[list[str]]

# Of one row of splitname, and of one device.
SPLITNAME = [c.id for c in COLUMNS if c.id in {"subsystem", "vg_name", "lv_name", "lv_layer"}]
DEVICE = [c.id for c in COLUMNS[: [c.id for c in COLUMNS].index("read_count")]]
ANY = [c.id for c in (*COLUMNS, *SPECIAL_COLUMNS)]
_TYPES = {c.id: c.type for c in (*COLUMNS, *SPECIAL_COLUMNS)}
# They repeat a report for ever, debug what libdm does, ask for a kernel or for a terminal.
_NOT_TRIED = {"count", "interval", "verbose", "version", "exec", "debug", "json", "offset",
              "dot", "format", "mermaid", "abort", "from", "rate", "to"}  # fmt: skip

NAMES = st.text("ab-_.:\\ é", max_size=12)
NOISE = "&|,#!()[]{}\"'=~<> %kMb.5a-_\t"


@st.composite
def noisy(draw: st.DrawFn, text: st.SearchStrategy[str], noise: str = NOISE) -> str:
    """``text``, often with a character too many or too few."""
    line = draw(text)
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        place = draw(st.integers(0, len(line)))
        line = line[:place] + draw(st.text(noise, max_size=2)) + line[place + draw(st.booleans()) :]
    return line


@st.composite
def spelled(draw: st.DrawFn, ids: list[str]) -> str:
    """One column, in one of the ways in which libdm takes its name."""
    word = draw(st.sampled_from([*ids, *ids, *SPLITNAME, "selected"]))
    match draw(st.integers(0, 19)):
        case 0:
            return word.replace("_", "")
        case 1:
            return word.upper()
        case 2:
            return word.replace("_", "__") + "_"
        case 3:
            return draw(st.sampled_from(["help", "?", "nosuch", word * 9]))
    return word


@st.composite
def columns(draw: st.DrawFn, ids: list[str]) -> str:
    """The argument of ``-o``."""
    groups = ["all", "splitname_all", "SplitNameAll", "info_all", "region_all", ""]
    one = st.one_of(spelled(ids), spelled(ids), st.sampled_from(groups))
    plus = draw(st.sampled_from(["", "+"]))
    return plus + draw(noisy(st.lists(one, max_size=4).map(",".join), ",_+?x"))


@st.composite
def keys(draw: st.DrawFn, ids: list[str]) -> str:
    """The argument of ``-O``."""
    one = st.builds(str.__add__, st.sampled_from(["", "+", "-"]), spelled(ids))
    return draw(noisy(st.lists(one, max_size=3).map(",".join), ",_+-x"))


REGEXES = st.lists(
    st.sampled_from(
        ["a", "b", "-", ".", ".*", "^", "$", "[ab]", "[^a]", "a*", "b+", "a?", "|", "\\.", "[a-c]",
         "(ab)", "(a|b)", "(a|b)*", "\\n", "[]", "[^]a]", ""]
    ),
    max_size=5,
).map("".join)  # fmt: skip


@st.composite
def comparison(draw: st.DrawFn, ids: list[str], values: list[str]) -> str:
    """One comparison of a selection."""
    name = draw(spelled(ids))
    blank = st.sampled_from(["", "", " ", "\t", "  "])
    number = _TYPES.get(name, STRING) in {NUMBER, SIZE}
    operators = ["=", "!=", ">", ">=", "<", "<="] if number else ["=", "!=", "=~", "=~", "!~"]
    wrong = ["since", "after", "until", "before", "==", "!", "~", ">", "=~"]
    operator = draw(st.sampled_from(wrong if draw(st.integers(0, 15)) == 15 else operators))
    if "~" in operator:
        value = draw(REGEXES)
    elif number:
        unit = draw(st.sampled_from(["", "", "", "k", "M", "s", "%", "z", ".5"]))
        digits = st.sampled_from(["0", "1", "2", "8", "256", "1000", "1.5", ".", "", "9" * 20])
        value = draw(digits) + unit
    else:
        value = draw(st.sampled_from(values))
    opening, closing = draw(st.sampled_from([("", "")] * 3 + ["''", '""', "()", "[]", "{}"]))  # type: ignore[list-item]
    return f"{name}{draw(blank)}{operator}{draw(blank)}{opening}{value}{closing}"


def selections(ids: list[str], values: list[str]) -> st.SearchStrategy[str]:
    """The argument of ``-S``."""

    def larger(one: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        join = st.sampled_from(["&&", ",", "||", "#", " && ", " || ", ", "])
        return st.one_of(
            st.builds(lambda a, between, b: a + between + b, one, join, one),
            one.map(lambda a: f"({a})"),
            one.map(lambda a: f"!({a})"),
            one.map(lambda a: f" ! ( {a} ) "),
        )

    whole = st.recursive(comparison(ids, values), larger, max_leaves=4)
    return st.one_of(noisy(whole), noisy(whole), st.sampled_from(["all", "help", "?", "", " "]))


def is_libdms_own(words: list[str]) -> bool:
    """Whether this may be a command line of which docs/differences.md says that we differ.

    ``!`` of what has a ``!`` already; ``|`` in an expression with an alternative that begins with
    brackets; the help of selections in place of one. Says yes to some harmless ones.
    """
    if {word.lower() for word in words} & {"help", "?"} and "-S" in words:
        return not {"-c", "--columns", "splitname"} & set(words)
    return any(
        re.search(r"!\s*\([\s(]*!", word)
        or ("~" in word and "|" in word and re.search(r"[(|~\"'\[{]\s*\(", word))
        for word in words
    )


@st.composite
def reports(draw: st.DrawFn, ids: list[str], values: list[str]) -> list[str]:
    """The options of a report."""
    words: list[str] = []
    if draw(st.booleans()):
        words += ["-o", draw(columns(ids))]
    if draw(st.integers(0, 3)) == 3:
        words += ["-O", draw(keys(ids))]
    if draw(st.booleans()):
        words += ["-S", draw(selections(DEVICE, values))]
    for option in ("noheadings", "nameprefixes", "unquoted", "rows", "unbuffered"):
        if draw(st.integers(0, 3)) == 3:
            words.append(f"--{option}")
    if draw(st.integers(0, 5)) == 5:
        words += ["--separator", draw(st.sampled_from([":", "", "é", ", ", "%s"]))]
    if draw(st.integers(0, 9)) == 9:
        words += ["--count", "1"]
    return words


@st.composite
def mixed(draw: st.DrawFn, command: list[str], options: list[str]) -> list[str]:
    """A command line with its options before, behind or between its words."""
    place = draw(st.integers(0, len(command)))
    words = [*command[:place], *options, *command[place:]]
    if draw(st.integers(0, 9)) == 9:
        words.insert(draw(st.integers(0, len(words))), "--")
    return words


@st.composite
def splitnames(draw: st.DrawFn) -> list[str]:
    """``splitname`` with the options of reports."""
    command = ["splitname", draw(NAMES)]
    if draw(st.integers(0, 3)) == 3:
        command.append(draw(st.sampled_from(["LVM", "CRYPT", "", "x"])))
    ids = draw(st.sampled_from([SPLITNAME, SPLITNAME, ANY]))
    return draw(mixed(command, draw(reports(ids, ["a", "b", "ab", "LVM", "", "a-b", "é"]))))


@st.composite
def options(draw: st.DrawFn) -> list[str]:
    """Options in all their spellings, with a command that needs no driver, or with none."""
    words: list[str] = []
    for option in draw(st.lists(st.sampled_from(OPTIONS), max_size=3)):
        if option.name in _NOT_TRIED:
            continue
        value = draw(st.sampled_from(["", "0", "1", "-1", "x", "08", "auto", "+5", "0x10", "-5"]))
        length = draw(st.integers(1, len(option.name)))
        word = f"--{option.name[: max(length, draw(st.integers(1, 6)))]}"
        if option.short and draw(st.booleans()):
            word = f"-{draw(st.sampled_from(option.short))}"
        with_value = draw(st.integers(0, 9)) == 9
        if word.startswith("--") and (with_value or (option.argument and draw(st.booleans()))):
            words.append(f"{word}={value}")
        else:
            words += [word, value] if option.argument else [word]
    commands = [
        [], ["help"], ["nosuch"], ["splitname", "a-b"], ["splitname"], ["ls", "x"], ["create"],
        ["load"], ["wait"], ["udevflags", "0x30000"], ["message"], ["rename"], ["version", "x"],
        ["setgeometry", "a", "1", "2", "3"], ["target-version"], ["wipe_table"], ["-"],
    ]  # fmt: skip
    return draw(mixed(draw(st.sampled_from(commands)), words))


@st.composite
def concise(draw: st.DrawFn) -> list[str]:
    """``create --concise``: what it makes of entries that are wrong."""
    field = st.sampled_from(["", "a", "b c", " x", "\\,", "\\\\", "\\;", "0", "ro", "rx", "é"])
    entry = st.lists(field, max_size=6).map(",".join)
    text = draw(noisy(st.lists(entry, min_size=1, max_size=3).map(";".join), ",;\\ \n"))
    return draw(mixed(["create", *([] if draw(st.integers(0, 9)) == 9 else [text])], ["--concise"]))


LINES = st.one_of(splitnames(), splitnames(), splitnames(), options(), options(), concise())


@st.composite
def of_devices(draw: st.DrawFn, names: list[str]) -> list[str]:
    """Commands that show devices, or do to them what has no effect in the test."""
    values = [*names, "", "Live", "L--w", "1000:0", "Active", "ab", "LVM", "vg", "1000:1,1000:0"]
    command = draw(st.sampled_from(_OF_DEVICES)).split()
    words: list[str] = []
    if "-c" in command or "--columns" in command:
        words = draw(reports(DEVICE, values))
    elif command[0] not in {"ls", "mangle"} and draw(st.integers(0, 2)):
        words = ["-S", draw(selections(DEVICE, values))]
    if "--tree" in command:
        style = st.sampled_from(
            "active ascii blkdevname compact device inverted nodevice open rw status table utf "
            "uuid".split()
        )
        # by default it depends on the locale
        words = ["-o", draw(noisy(st.lists(style, max_size=4).map(",".join), "x,")) + ",ascii"]
    elif command[0] in {"ls", "deps"} and draw(st.booleans()):
        naming = st.sampled_from(["devno", "blkdevname", "devname", "dev", "b", "x", ""])
        words += ["-o", draw(st.lists(naming, min_size=1, max_size=2).map(",".join))]
    if command[0] not in {"ls", "setgeometry"}:
        some = st.lists(st.sampled_from([*names, *names, "nosuch", "a/b"]), max_size=3)
        command += draw(st.one_of(st.just([]), some))
    for extra in (["--noopencount"], ["--noflush"], ["--manglename", "hex"],
                  ["--manglename", "none"], ["--target", "linear"]):  # fmt: skip
        if draw(st.integers(0, 19)) == 19:
            words += extra
    return draw(mixed(command, words))


_OF_DEVICES = (
    "info -c", "info -c", "info --columns", "info", "status -v", "ls", "ls --target linear", "ls --target zero",
    "ls --tree", "deps", "status", "table", "table --concise", "status --target error",
    "suspend", "resume", "clear", "remove", "mangle",
    "info -c -u LVM-x\\x20y", "info -u LVM-1", "info -c -j 1000 -m 1", "info -j 1000 -m 3",
    "table -j 0 -m 1", "rename -j -1 -m 0 x", "remove -j 1000 -m -1", "message -j 7 -m 0 0 x",
    "setgeometry -j 1000 -m 1 1 2 3 4 5", "setgeometry base 1 2 3 4", "setgeometry -u LVM-1 1 1 1 1 x",
)  # fmt: skip


def shown(words: list[str]) -> str:
    """A command line as a shell takes it."""
    return shlex.join(["dmsetup", *words])
