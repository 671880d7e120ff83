# SPDX-License-Identifier: Apache-2.0
"""create --concise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmtool.cli.concise import ConciseError, Entry, entries


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("c1,,,,0 8 zero", [Entry("c1", "", None, False, "0 8 zero")]),
        (
            "c2,u2,,rw,0 8 linear /dev/ram0 0,8 8 error;c3,,5,ro,0 16 zero",
            [
                Entry("c2", "u2", None, False, "0 8 linear /dev/ram0 0\n8 8 error"),
                Entry("c3", "", 5, True, "0 16 zero"),
            ],
        ),
        (r"n\,ame,,,rw,0 8 zero", [Entry("n,ame", "", None, False, "0 8 zero")]),
        (
            "c8, , ,rw, 0 8 zero;\nc9,,,rw,0 8 zero;\n",
            [Entry(name, "", None, False, "0 8 zero") for name in ("c8", "c9")],
        ),
    ],
)
def test_reads(text: str, found: list[Entry]) -> None:
    assert list(entries(text)) == found


def test_devices_before_an_error_are_made() -> None:
    found = entries("a,,,,0 8 zero;b")
    assert next(found).name == "a"
    with pytest.raises(ConciseError) as raised:
        next(found)
    assert raised.value.args == (
        "Five comma-separated fields are required for each device",
        "Parsed 1 fields: name: b uuid: (null) minor: (null) flags: (null) table: (null)",
    )


def test_flags() -> None:
    with pytest.raises(ConciseError) as raised:
        list(entries("c5,,,xx,0 8 zero"))
    assert raised.value.args == ("Invalid flags parameter 'xx' must be 'ro' or 'rw' or empty.",)


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs"]), min_size=1)


@given(st.lists(st.tuples(NAMES, NAMES, st.lists(NAMES, min_size=1)), max_size=4))
def test_what_table_prints_is_read_back(devices: list[tuple[str, str, list[str]]]) -> None:
    def quoted(text: str) -> str:
        return "".join("\\" + c if c in ",;\\" else c for c in text)

    text = ";".join(
        ",".join([quoted(name), quoted(uuid), "1", "ro", *map(quoted, lines)])
        for name, uuid, lines in devices
    )
    found = list(entries(text + "\n" if text else ""))
    told = [(e.name, e.uuid, e.table.removesuffix("\n").split("\n")) for e in found]
    assert told == devices
