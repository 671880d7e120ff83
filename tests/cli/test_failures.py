# SPDX-License-Identifier: Apache-2.0
"""How errors look: dmsetup's line, then where and why, then "Command failed."."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from dmtool.cli.failures import cause_lines, ioctl_line
from dmtool.cli.session import Device

Run = Callable[..., Any]


def cause(**more: Any) -> dict[str, Any]:
    return {
        "reason": "Device lookup failed",
        "source": "pool.table",
        "line": 2,
        "column": 14,
        "text": "64 64 linear b.img 0",
        "type": "linear",
        "cause": "b.img: No such file or directory",
        "hint": None,
        "syntax": False,
        "too_long": None,
        **more,
    }


@pytest.mark.parametrize(
    ("device", "devno", "line"),
    [
        (Device("x"), "1000:1", "reload ioctl on x (1000:1) failed: Invalid argument"),
        (Device("x"), None, "reload ioctl on x  failed: Invalid argument"),
        (Device("b", "U-1"), None, "reload ioctl on b U-1 failed: Invalid argument"),
        (Device("b", "U-1"), "1000:1", "reload ioctl on b (1000:1) failed: Invalid argument"),
        (Device(uuid="U-1"), None, "reload ioctl on  U-1 failed: Invalid argument"),
        (Device(), "1000:9", "reload ioctl on  (1000:9) failed: Invalid argument"),
    ],
)
def test_ioctl_line(device: Device, devno: str | None, line: str) -> None:
    assert ioctl_line("reload", device, errno.EINVAL, devno) == f"device-mapper: {line}"


def test_place_line_and_caret() -> None:
    assert list(cause_lines(cause(hint="is it in another directory?"))) == [
        "pool.table:2:14: linear: Device lookup failed: b.img: No such file or directory",
        "  64 64 linear b.img 0",
        "               ^",
        "hint: is it in another directory?",
    ]


def test_the_caret_stands_below_whatever_is_above() -> None:
    """Tabs stay tabs, wide characters are two columns, what a terminal would obey is not sent."""
    lines = list(cause_lines(cause(text="0\t8 日本 e\u0301 \x1b[2J x", column=16)))
    assert lines[1:] == ["  0\t8 日本 e\u0301 ?[2J x", "   \t" + " " * 14 + "^"]


def test_of_a_long_line_the_part_round_the_caret_is_shown() -> None:
    text = "0 8 striped " + "x" * 500 + " here " + "y" * 500
    _, shown, caret = cause_lines(cause(text=text, column=text.index("here") + 1))
    assert len(shown) < 110
    assert shown.startswith("  ...")
    assert shown.endswith("...")
    assert shown[caret.index("^") :].startswith("here")


def test_create_names_the_step_and_the_device(run: Run, words: Any) -> None:
    words.refuse(
        "create",
        errno.ENOENT,
        "1 error",
        step="reload",
        devno="1000:0",
        causes=[cause(), cause(line=5)],
    )
    done = run("create", "t", "--table", "0 64 linear a 0")
    assert done.status == 1
    assert done.err.splitlines() == [
        "device-mapper: reload ioctl on t (1000:0) failed: No such file or directory",
        "pool.table:2:14: linear: Device lookup failed: b.img: No such file or directory",
        "  64 64 linear b.img 0",
        "               ^",
        "pool.table:5:14: linear: Device lookup failed: b.img: No such file or directory",
        "  64 64 linear b.img 0",
        "               ^",
        "Command failed.",
    ]


@pytest.mark.parametrize(
    ("source", "name"), [("<stdin>", "on stdin"), ("--table", ""), ("pool.table", "pool.table")]
)
def test_what_dmsetup_itself_refuses(run: Run, words: Any, source: str, name: str) -> None:
    wrong = cause(reason="expected a length", cause=None, type="", syntax=True, source=source)
    words.refuse("create", errno.EINVAL, step="create", causes=[cause(line=1), wrong])
    lines = run("create", "t", "-n").err.splitlines()
    assert lines[0] == f"Invalid format on line 2 of table {name}."
    assert lines[4] == f"{source}:2:14: expected a length"


def test_a_target_type_too_long(run: Run, words: Any) -> None:
    words.refuse("load", errno.EINVAL, causes=[cause(too_long="a" * 16, syntax=True)])
    lines = run("load", "t", "--table", "x").err.splitlines()
    assert lines[0] == f"Target type name {'a' * 16} is too long."


def test_the_reason_of_other_refusals_follows(run: Run, words: Any) -> None:
    reason = "Target type does not support messages"
    words.refuse("message", errno.EINVAL, reason, hint="try another", cause="linear")
    assert run("message", "a", "0", "hello").err == (
        "device-mapper: message ioctl on a  failed: Invalid argument\n"
        f"{reason}: linear\nhint: try another\nCommand failed.\n"
    )


def test_nothing_is_said_twice(run: Run, words: Any) -> None:
    words.refuse("suspend", errno.EBUSY)
    assert run("suspend", "a").err == (
        "device-mapper: suspend ioctl on a  failed: Device or resource busy\nCommand failed.\n"
    )


def test_bugs_and_unreachable_cores(run: Run, words: Any) -> None:
    from dmtool.client import ClientError
    from dmtool.errors import CoreError

    words.answers["clear"] = ClientError(-32603, "a bug: see the log, entry 7")
    assert run("clear", "a").err == "dmtool: a bug: see the log, entry 7\nCommand failed.\n"
    words.answers["list"] = CoreError("no core", hint="start one")
    assert run("ls") == (1, "", "dmtool: no core\nhint: start one\nCommand failed.\n")


def test_no_traceback_but_for_debug(run: Run, words: Any) -> None:
    words.answers["list"] = ZeroDivisionError("division\nby zero")
    line = "dmtool: internal error: ZeroDivisionError: division by zero (--debug shows more)\n"
    assert run("ls") == (1, "", line)
    assert "Traceback" in run("--debug", "ls").err


def test_interrupt(run: Run, words: Any) -> None:
    words.answers["list"] = KeyboardInterrupt()
    words.answers["wait"] = lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
    assert run("wait", "a").status == 130
