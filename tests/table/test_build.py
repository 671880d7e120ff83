# SPDX-License-Identifier: Apache-2.0
"""Text to table: the kernel's checks, in its order, each with its place and its cause."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmtool.errors import TableError, TableErrors
from dmtool.table import check, load
from dmtool.testing import make_pattern
from tests.openfiles import open_in


@pytest.fixture
def folder(tmp_path: Path) -> str:
    make_pattern(tmp_path / "a.img", 1, 100)
    make_pattern(tmp_path / "b c.img", 2, 100)
    return str(tmp_path)


def _errors(text: str, folder: str) -> list[TableError]:
    with pytest.raises(TableErrors) as caught:
        load(text, source="t", cwd=folder)
    assert not open_in(folder)
    return caught.value.errors


def test_files_of_a_table_are_open(folder: str) -> None:
    table = load("0 8 linear a.img 0", cwd=folder)
    assert table is not None
    assert open_in(folder)
    table.close()
    assert not open_in(folder)


@pytest.mark.parametrize(
    ("text", "reason", "place"),
    [
        ("0 0 nosuch", "zero-length target", (1, 3)),
        ("0 8 nosuch", "unknown target type", (1, 5)),
        ("8 8 zero", "Gap in table", (1, 1)),
        ("0 8 zero\n\n  9 8 zero", "Gap in table", (3, 3)),
        ("0 8 zero\n7 8 zero", "Gap in table", (2, 1)),
        ("0 8 zero\n16 8 linear x", "Gap in table", (2, 1)),
        ("0 8 linear a.img", "Invalid argument count", (1, 5)),
        ("0 8 linear a.img x", "Invalid device sector", (1, 18)),
        ("0 8 linear x.img 0", "Device lookup failed", (1, 12)),
        (
            "0 8 linear a.img 93",
            "too small for target: start=93, len=8, dev_size=100",
            (1, 12),
        ),
        ("0 18014398509481984 zero", "too large device", (1, 3)),
        (
            "0 9223372036854775808 zero\n9223372036854775808 9223372036854775808 zero",
            "too l",
            (1, 3),
        ),
        ("0 -8 zero", "too large device", (1, 3)),
        ("0 8 linear a.img 18446744073709551616", "Invalid device sector", (1, 18)),
        ("0 16 linear a.img 18446744073709551608", "too small for target", (1, 13)),
        ("zero", "Invalid format", (1, 1)),
    ],
)
def test_refused(folder: str, text: str, reason: str, place: tuple[int, int]) -> None:
    error = _errors(text, folder)[0]
    assert reason in str(error)
    assert (error.where.line, error.where.column) == place


def test_all_errors_at_once_and_each_once(folder: str) -> None:
    text = "0 8 linear a.img\n8 8 nosuch\n20 8 zero\n28 8 linear a.img 99\nrubbish\n50 8 zero x\n"
    found = [str(error) for error in check(text, source="t", cwd=folder).errors]
    assert [reason.rpartition("/")[2] for reason in found] == [
        "Invalid argument count",
        "unknown target type",
        "Gap in table",
        "Invalid format",
        "No arguments required",
        "a.img too small for target: start=99, len=8, dev_size=100",
    ]


def test_what_dmsetup_itself_refuses_comes_before_all_else(folder: str) -> None:
    assert [str(e) for e in _errors("0 8 nosuch\nrubbish\n", folder)] == ["Invalid format"]


def test_no_lines_no_table(folder: str) -> None:
    for text in ("", "\n\n", "# nothing\n", b"  \t\n"):
        assert load(text, cwd=folder) is None


def test_printed_tables_are_read_back(folder: str) -> None:
    table = load("0 8 linear b\\ c.img +0".replace("+", ""), cwd=folder)
    assert table is not None
    text = f"0 8 linear {table.text(0)}"
    assert text == f"0 8 linear {folder}/b\\ c.img 0"
    table.close()
    again = load(text, cwd="/")
    assert again is not None
    assert f"0 8 linear {again.text(0)}" == text
    again.close()


def test_one_device_by_two_names_is_opened_once(folder: str) -> None:
    os.symlink("a.img", Path(folder, "link"))
    table = load("0 8 linear a.img 0\n8 8 linear ./link 8\n16 8 linear link 16", cwd=folder)
    assert table is not None
    assert [str(backing) for backing in table.backings] == [f"{folder}/a.img"]
    table.close()


def test_the_largest_device(folder: str) -> None:
    table = load("0 18014398509481983 zero", cwd=folder)
    assert table is not None
    assert table.size == (1 << 63) - 512
    assert table.read(table.size - 512, 512) == bytes(512)
    table.close()


def test_thousands_of_targets_find_their_bytes(folder: str) -> None:
    lines = [f"{i} 1 linear a.img {(i * 37) % 100}" for i in range(5000)]
    table = load("\n".join(lines), cwd=folder)
    assert table is not None
    image = Path(folder, "a.img").read_bytes()
    expected = b"".join(image[(i * 37 % 100) * 512 :][:512] for i in range(5000))
    assert table.read(0, table.size) == expected
    assert table.read(1000, 100_000) == expected[1000:101_000]
    table.close()
