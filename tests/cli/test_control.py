# SPDX-License-Identifier: Apache-2.0
"""What commands ask of the core, and what they refuse before that."""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
INCOMPATIBLE = "--[no]table, --minor, --uuid and --inactive"


class Stdin:
    """Standard input with some bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.fixture
def a(words: Any) -> Any:
    """A core with a device ``a``, which makes what it is asked to."""
    device = words.add("a", "0 8 zero ")
    words.answers |= {"create": device, "load": device, "remove_all": {"left": 0}}
    return words


def asked(words: Any, method: str) -> dict[str, Any]:
    return next(params for name, params in reversed(words.asked) if name == method)


@pytest.mark.parametrize(
    ("line", "method", "params"),
    [
        ("suspend a", "suspend", {"noflush": False, "nolockfs": False}),
        ("suspend --noflush --nolockfs a", "suspend", {"noflush": True, "nolockfs": True}),
        ("resume a", "resume", {"read_ahead": None}),
        ("resume --readahead 32 a", "resume", {"read_ahead": 32}),
        ("resume --readahead +32 a", "resume", {"read_ahead": 256}),
        ("resume --readahead none a", "resume", {"read_ahead": 0}),
        ("clear a", "clear", {}),
        ("remove a", "remove", {"force": False, "deferred": False}),
        ("remove -f --deferred a", "remove", {"force": True, "deferred": True}),
        ("remove_all --force", "remove_all", {"force": True, "deferred": False}),
        ("wipe_table a", "wipe", {"noflush": False, "nolockfs": False}),
        ("wipe_table -f a", "wipe", {"noflush": True, "nolockfs": True}),
        ("rename a b", "rename", {"new_name": "b"}),
        ("rename a b;c", "rename", {"new_name": "b\\x3bc"}),
        ("rename a --setuuid U/1", "set_uuid", {"uuid": "U\\x2f1"}),
        ("message a 16 hello world", "message", {"sector": 16, "message": "hello world"}),
        ("message -j 1000 -m 0 3 x", "message", {"device": {"minor": 0}, "sector": 3}),
        ("wait a", "wait", {"event_nr": 0}),
        ("wait a 7", "wait", {"event_nr": 7}),
        ("table --inactive --noflush a", "table", {"inactive": True, "noflush": True}),
    ],
)
def test_asks(run: Run, a: Any, line: str, method: str, params: dict[str, Any]) -> None:
    done = run(*line.split())
    assert done == (0, "", "") or method == "table"
    found = asked(a, method)
    assert {name: found[name] for name in params} == params


def test_verbose_shows_the_device_afterwards(run: Run, a: Any) -> None:
    shown = run("info", "a").out
    for line in ("suspend -v a", "resume -v a", "clear -v a", "wait -v a", "create -v -n x"):
        assert run(*line.split()).out == shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("suspend", "No device specified."),
        ("remove", "No device specified."),
        ("wipe_table", "No device specified."),
        ("wait", "No device specified."),
        ("rename a", "No device specified."),
        ("load", "Please specify device."),
        ("load -n a", "--notable only available when creating new device."),
        ("load -u x a b", "Too many command line arguments."),
        ("create", "Please provide a name for the new device."),
        ("create sl/ash -n", 'Name "sl/ash" invalid. It contains "/".'),
        ("create /dev/mapper/x -n", 'Name "/dev/mapper/x" invalid. It contains "/".'),
        ("create --concise x -n", f"--concise is incompatible with {INCOMPATIBLE}."),
        ("message a x hello", "Invalid sector."),
        ("message a 18446744073709551616 hello", "Invalid sector."),
        ("explain a 1+x", "Invalid sector."),
        ("read a --offset 1x", "Invalid argument for --offset: 1x."),
        ("daemon restart", "Unknown action: restart. It is one of run, status, stop."),
    ],
)
def test_refuses(run: Run, a: Any, line: str, message: str) -> None:
    assert run(*line.split()) == (1, "", f"{message}\nCommand failed.\n")


def test_message(run: Run, a: Any) -> None:
    a.answers["message"] = {"response": "one\ntwo"}
    assert run("message", "a", "0", "x").out == "one\ntwo\n"
    a.answers["message"] = {"response": "one\n"}
    assert run("message", "a", "0", "x").out == "one\n"
    a.answers["message"] = {"response": ""}
    done = run("message", "a", "0")
    assert (done.out, done.err) == ("", "No message supplied.\n")
    assert asked(a, "message")["message"] == ""


def test_remove_retries_while_busy(run: Run, a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    a.refuse("remove", errno.EBUSY)
    line = "device-mapper: remove ioctl on a  failed: Device or resource busy\nCommand failed.\n"
    assert run("remove", "a") == (1, "", line)
    assert slept == []
    assert run("remove", "--retry", "a") == (1, "", line)
    assert slept == [0.2] * 24
    a.refuse("remove", errno.ENXIO, error="NoSuchDevice")
    slept.clear()
    run("remove", "--retry", "a")
    assert slept == []


def test_remove_force_of_nothing_fails_thrice(run: Run, words: Any) -> None:
    """Recorded: nonexistent."""
    line = "device-mapper: {} ioctl on no  failed: No such device or address\n"
    steps = "".join(map(line.format, ("table", "reload", "remove")))
    assert run("remove", "-f", "no") == (1, "", steps + "Command failed.\n")
    steps = "".join(map(line.format, ("table", "reload")))
    assert run("wipe_table", "no") == (1, "", steps + "Command failed.\n")


def test_remove_all_tells_what_it_left(run: Run, a: Any) -> None:
    a.answers["remove_all"] = {"left": 2}
    assert run("remove_all") == (0, "", "")
    assert run("remove_all", "-f") == (0, "", "Unable to remove 2 device(s).\n")


def test_setgeometry(run: Run, words: Any) -> None:
    words.add("a", "0 1024 zero ")
    for numbers in ("2 16 32 0", "0 0 0 0"):
        assert run("setgeometry", "a", *numbers.split()) == (0, "", "")
    for numbers, why in (
        ("70000 16 32 0", "Geometry exceeds range limits."),
        ("2 300 32 0", "Geometry exceeds range limits."),
        ("x 16 32 0", "Unable to interpret geometry settings."),
        ("2 16 32 2000", "Start sector is beyond the geometry limits."),
    ):
        line = "device-mapper: setgeometry ioctl on a  failed: Invalid argument\n"
        done = run("setgeometry", "a", *numbers.split())
        assert done == (1, "", f"{line}{why}\nCommand failed.\n")
    line = "device-mapper: setgeometry ioctl on no  failed: No such device or address\n"
    assert run("setgeometry", "no", "1", "1", "1", "0").err == line + "Command failed.\n"


def test_create(run: Run, a: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("create", "sp ace", "-u", "U 1", "-r", "--table", "0 8 zero").status == 0
    found = asked(a, "create")
    assert found["name"] == "sp\\x20ace"
    assert found["uuid"] == "U\\x201"
    assert (found["readonly"], found["table"]) == (True, "0 8 zero")
    assert (found["minor"], found["read_ahead"], found["mode"]) == (None, None, None)
    assert (found["source"], found["cwd"]) == ("--table", str(tmp_path))
    run("create", "x", "-n", "-j", "1000", "-m", "5", "-M", "0640", "-U", "7", "-G", "8")
    found = asked(a, "create")
    assert (found["table"], found["minor"], found["mode"]) == (None, 5, 0o640)
    assert (found["uid"], found["gid"]) == (7, 8)


def test_tables_come_from_files_and_from_stdin(
    run: Run, a: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "t.table"
    file.write_bytes(b"0 8 linear \xff.img 0\r\n")
    text = "0 8 linear \udcff.img 0\r\n"
    run("create", "x", str(file))
    assert (asked(a, "create")["table"], asked(a, "create")["source"]) == (text, str(file))
    run("load", "a", str(file), "--readonly")
    assert (asked(a, "load")["table"], asked(a, "load")["readonly"]) == (text, True)
    monkeypatch.setattr(sys, "stdin", Stdin(file.read_bytes()))
    run("create", "x")
    assert (asked(a, "create")["table"], asked(a, "create")["source"]) == (text, "<stdin>")
    run("load", "-u", "U", str(file))
    assert asked(a, "load")["device"] == {"uuid": "U"}
    lines = run("create", "x", "/nonexistent").err.splitlines()
    assert lines[0] == "Couldn't open '/nonexistent' for reading."
    assert lines[1] == "/nonexistent: No such file or directory"
    # as in dmsetup "-" is a file
    assert run("create", "x", "-").err.startswith("Couldn't open '-' for reading.\n")


def test_create_concise(run: Run, a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"c1,u 1,,,0 8 zero;c2,,7,ro,0 8 zero,8 8 error\n"))
    assert run("create", "--concise") == (0, "", "")
    first, second = [params for name, params in a.asked if name == "create"]
    assert (first["name"], first["uuid"], first["minor"]) == ("c1", "u\\x201", None)
    assert (second["minor"], second["readonly"]) == (7, True)
    assert second["table"] == "0 8 zero\n8 8 error\n"


def test_manglename(run: Run, a: Any) -> None:
    run("--manglename", "none", "create", "x y", "-n")
    assert asked(a, "create")["name"] == "x y"
    a.add("x y", "0 8 zero ")
    assert run("--manglename", "none", "ls").out == "a\t(1000:0)\nx y\t(1000:1)\n"
    done = run("ls")
    assert done.status == 1
    assert done.err.splitlines()[0].startswith('The name "x y" should be mangled but')


def test_mangle(run: Run, a: Any) -> None:
    a.add("x y", "0 8 zero ", uuid="U")
    assert run("mangle", "x y") == (0, "x y: renaming to x\\x20y\n", "")
    assert asked(a, "rename") == {"device": {"name": "x y"}, "new_name": "x\\x20y"}
    a.devices.pop()
    assert run("mangle").out == "a: [no UUID]: name already in correct form\n"
    a.add("b\\x20c", "0 8 zero ", uuid="U")
    assert run("mangle", "b\\x20c").out == "b\\x20c: U: name and UUID already in correct form\n"
    a.devices[-1]["uuid"] = "U 1"
    assert run("mangle", "b\\x20c").err == (
        "b\\x20c: U 1: UUID in incorrect form. \n"
        "Unable to change device UUID. The device must be deactivated first.\nCommand failed.\n"
    )


def test_check(run: Run, a: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"0 8 zero\n"))
    a.answers["check"] = {"ok": True, "errors": [], "targets": 1, "size": 8}
    assert run("check") == run("check", "-") == (0, "", "")
    cause = {"source": "t", "line": 1, "column": 5, "reason": "no", "text": "0 8 x", "hint": "y?"}
    a.answers["check"] = {"ok": False, "errors": [cause, cause], "targets": 0, "size": 0}
    assert run("check", "--table", "0 8 x") == (
        1,
        "",
        2 * "t:1:5: no\n  0 8 x\n      ^\nhint: y?\n",
    )
    done = run("check", "--json", "--table", "0 8 x")
    assert (done.status, json.loads(done.out)["errors"]) == (1, [cause, cause])


def test_explain(run: Run, a: Any) -> None:
    way = [{"device": "to\\x20p", "sector": 5}, {"device": "low", "sector": 105}]
    piece = {"start": 5, "length": 2, "path": way, "type": "linear"}
    a.answers["explain"] = [
        {**piece, "kind": "file", "name": "/a b.img", "offset": 4096},
        {**piece, "start": 7, "kind": "zero", "name": "", "offset": None, "type": "zero"},
    ]
    lines = run("explain", "a", "5+4").out.splitlines()
    assert asked(a, "explain") == {"device": {"name": "a"}, "sector": 5, "count": 4}
    assert lines[1].split(None, 3)[:3] == ["5", "2", "linear"]
    assert "to p:5 > low:105" in lines[1]
    assert lines[1].split("/a b.img")[1].strip() == "4096"
    assert lines[2].endswith("(zero)")
    pieces = json.loads(run("explain", "a", "5+4", "--json").out)["pieces"]
    assert pieces[0]["path"][0]["device"] == "to p"


def test_select_does_it_to_those_only(run: Run, a: Any) -> None:
    a.add("b", "0 8 zero ")
    assert run("suspend", "-S", "name=b") == (0, "", "")
    assert [params["device"] for name, params in a.asked if name == "suspend"] == [{"name": "b"}]
    assert run("resume", "-S", "name=c") == (0, "", "")
    assert not [name for name, _ in a.asked if name == "resume"]
    status, _, said = run("remove", "-S", "nosuch=1")
    assert status == 1
    assert "Unrecognised selection field: nosuch" in said
    assert not [name for name, _ in a.asked if name == "remove"]
