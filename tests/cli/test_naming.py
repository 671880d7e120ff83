# SPDX-License-Identifier: Apache-2.0
r"""Names are mangled and unmangled as libdm does it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmtool.cli.naming import BadName, Naming, mangle

AUTO, HEX, NONE = Naming("auto"), Naming("hex"), Naming("none")


@pytest.mark.parametrize(
    ("naming", "name", "mangled"),
    [
        (AUTO, "a#b+c-d.e_f@g:h=i", "a#b+c-d.e_f@g:h=i"),
        (AUTO, "sp ace", r"sp\x20ace"),
        (AUTO, r"sp\x20ace", r"sp\x20ace"),
        (AUTO, "ünï", r"\xc3\xbcn\xc3\xaf"),
        (AUTO, "new\nline", r"new\x0aline"),
        (AUTO, "a\\b", r"a\x5cb"),
        (AUTO, "raw\udcff", r"raw\xff"),
        (HEX, r"p\x20q", r"p\x5cx20q"),
        (NONE, "x y", "x y"),
        (NONE, r"x\x20y", r"x\x20y"),
    ],
)
def test_mangles(naming: Naming, name: str, mangled: str) -> None:
    assert naming.device(name) == mangled


MIXED = (
    'The name "{}" contains mixed mangled and unmangled characters or '
    "it's already mangled improperly."
)


@pytest.mark.parametrize("name", [r"b@d\x20 m", r"sp ace\x20", "a\\x2"])
def test_refuses_what_is_mangled_in_part(name: str) -> None:
    with pytest.raises(BadName) as raised:
        AUTO.device(name)
    assert raised.value.args == (MIXED.format(name), f'Failed to mangle device name "{name}".')


def test_refuses_what_is_mangled_twice() -> None:
    with pytest.raises(BadName, match="mangled more than once"):
        AUTO.device(r"p\x5cx20q")


def test_lengths() -> None:
    """As recorded: 127 bytes of a name, 128 of a uuid, counted as they will be mangled."""
    assert AUTO.device("n" * 127) == "n" * 127
    assert AUTO.uuid("u" * 128) == "u" * 128
    assert AUTO.device(" " * 31) == r"\x20" * 31
    for call, text, line in (
        (AUTO.device, "n" * 128, 'Name "{}" too long.'),
        (AUTO.new_name, "n" * 128, 'Name "{}" too long'),
        (AUTO.device, " " * 32, 'Mangled form of the name too long for "{}".'),
        (AUTO.uuid, "u" * 129, 'Mangled form of the UUID too long for "{}".'),
        (AUTO.new_uuid, "u" * 129, 'Uuid "{}" too long'),
    ):
        with pytest.raises(BadName) as raised:
            call(text)
        assert raised.value.args[0] == line.format(text)


def test_new_names() -> None:
    for name, line in (
        ("a/b", 'Name "a/b" invalid. It contains "/".'),
        ("", "Non empty new name is required."),
    ):
        with pytest.raises(BadName) as raised:
            AUTO.new_name(name)
        assert raised.value.args == (line,)


def test_shows_names_as_people_type_them() -> None:
    assert AUTO.shown(r"sp\x20ace") == HEX.shown(r"sp\x20ace") == "sp ace"
    assert NONE.shown(r"sp\x20ace") == r"sp\x20ace"
    with pytest.raises(BadName, match='"x y" should be mangled but it contains blacklisted'):
        AUTO.shown("x y")


def test_the_mode_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DM_DEFAULT_NAME_MANGLING_MODE", "hex")
    assert Naming().mode == "hex"
    assert Naming("none").mode == "none"
    monkeypatch.setenv("DM_DEFAULT_NAME_MANGLING_MODE", "rubbish")
    assert Naming().mode == "auto"


@given(st.binary(min_size=1, max_size=31))
def test_every_name_comes_back(raw: bytes) -> None:
    name = raw.decode("utf-8", "surrogateescape")
    assert HEX.shown(mangle(name, "name", 127, "hex")) == name
