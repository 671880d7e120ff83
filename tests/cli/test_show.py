# SPDX-License-Identifier: Apache-2.0
"""What is printed of devices: the formats of the recordings, with a core of words."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]
ABSENT = "Device does not exist.\nCommand failed.\n"

INFO = """\
Name:              {name}
State:             {state}
Read Ahead:        256
Tables present:    {tables}
Open count:        0
Event number:      0
Major, minor:      1000, {minor}
Number of targets: {targets}

"""


def block(
    name: str = "a", state: str = "ACTIVE", tables: str = "LIVE", minor: int = 0, targets: int = 1
) -> str:
    return INFO.format(name=name, state=state, tables=tables, minor=minor, targets=targets)


@pytest.fixture
def two(words: Any) -> Any:
    """Recorded: create-basic, remove-stacked."""
    words.add("low", "0 64 linear 1:0 0", minor=0, open_count=1)
    words.add("top", "0 64 linear 1000:0 0", minor=1)
    words.deps["low"] = [words.block("ram0", 1, 0)]
    words.deps["top"] = [words.mapped("low")]
    return words


@pytest.mark.parametrize("command", ["ls", "info", "table", "status", "deps", "ls --tree"])
def test_no_devices(run: Run, command: str) -> None:
    assert run(*command.split()) == (0, "No devices found\n", "")


def test_no_devices_in_a_report(run: Run) -> None:
    assert run("info", "-c") == (0, "No devices found\n", "")


def test_ls(run: Run, two: Any) -> None:
    two.add("sp\\x20ace", "0 8 zero", "8 8 error")
    assert run("ls").out == "low\t(1000:0)\nsp ace\t(1000:2)\ntop\t(1000:1)\n"
    assert run("ls", "-o", "blkdevname").out.splitlines()[0] == "low\t(dm-0)"
    assert run("ls", "-o", "devn").out.splitlines()[0] == "low\t(1000:0)"
    assert run("ls", "-o", "devname").out.splitlines()[1] == "sp ace\t(sp\\x20ace)"
    assert run("ls", "--target", "linear").out == "low\t(1000, 0)\ntop\t(1000, 1)\n"
    assert run("ls", "--target", "error").out == "sp ace\t(1000, 2)\n"
    assert run("ls", "--target", "nosuch") == (0, "", "")


def test_ls_exec(run: Run, two: Any) -> None:
    assert run("ls", "--exec", "echo dev:").out == ("dev: nbd+unix:///low\ndev: nbd+unix:///top\n")
    assert run("ls", "--exec", "/nonexistent") == (0, "", "")
    assert run("ls", "--exec", "false") == (0, "", "")
    assert run("ls", "-v", "--exec", "true").out == "low\t(1000, 0)\ntop\t(1000, 1)\n"


def test_info(run: Run, words: Any) -> None:
    words.add("a", "0 8 zero")
    assert run("info", "a") == run("info") == (0, block(), "")
    words.devices[0] |= {"suspended": True, "readonly": True, "inactive": True}
    assert run("info").out == block(state="SUSPENDED (READ-ONLY)", tables="LIVE & INACTIVE")
    words.devices[0] |= {"suspended": False, "readonly": False, "live": False, "target_count": 0}
    assert run("info").out == block(tables="INACTIVE", targets=0)
    words.devices[0] |= {"inactive": False}
    assert run("info").out == block(tables="None", targets=0).replace(
        "Read Ahead:        256\n", ""
    )


def test_info_of_a_device_with_a_uuid(run: Run, words: Any) -> None:
    words.add("a", "0 8 zero", uuid="has\\x20space")
    found = block()[:-1] + "UUID: has space\n\n"
    assert run("info", "-u", "has space").out == run("info", "-j1000", "-m0").out == found
    assert run("info", "--noopencount").out == run("info").out


def test_info_with_inactive_tells_of_the_inactive_table(run: Run, words: Any) -> None:
    words.add("a", "0 8 zero", inactive_target_count=3, inactive_readonly=True, inactive=True)
    state, tables = "ACTIVE (READ-ONLY)", "LIVE & INACTIVE"
    assert run("info", "--inactive").out == block(state=state, tables=tables, targets=3)


def test_report(run: Run, two: Any) -> None:
    assert run("info", "-c").out == (
        "Name             Maj  Min Stat Open Targ Event  UUID                            \n"
        "low              1000   0 L--w    1    1      0                                 \n"
        "top              1000   1 L--w    0    1      0                                 \n"
    )
    fields = "name,major,minor,attr,open,segments,events,uuid"
    assert run("info", "-c", "--noheadings", "-o", fields, "top").out == "top:1000:1:L--w:0:1:0:\n"


def test_report_columns(run: Run, two: Any) -> None:
    columns = (
        "devno,blkdevname,tables_loaded,suspended,readonly,read_ahead,device_count,devs_used,"
        "devnos_used,blkdevs_used,device_ref_count,names_using_dev,devnos_using_dev"
    )
    assert run("info", "-c", "--noheadings", "-o", columns).out == (
        "1000:0:dm-0:Live:Active:Writeable:256:1::1:0:ram0:1:top:1000:1\n"
        "1000:1:dm-1:Live:Active:Writeable:256:1:low:1000:0:dm-0:0::\n"
    )


def test_report_of_names(run: Run, words: Any) -> None:
    words.add("LV\\x20x", uuid="LVM-1")
    words.add("vg-a--b-cow", uuid="LVM-2")
    columns = "name,mangled_name,unmangled_name,subsystem,vg_name,lv_name,lv_layer"
    assert run("info", "-c", "--noheadings", "-o", columns).out == (
        "LV x:LV\\x20x:LV x:LVM:LV x::\nvg-a--b-cow:vg-a--b-cow:vg-a--b-cow:LVM:vg:a-b:cow\n"
    )


def test_report_is_sorted(run: Run, words: Any) -> None:
    for minor, name in ((10, "a"), (9, "b"), (8, "c"), (10, "d")):
        words.add(name, minor=minor)
    for keys, names in (
        ("minor", "cbad"),
        ("-minor", "adbc"),
        ("-minor,-name", "dabc"),
        ("-devno", "bcad"),
    ):
        out = run("info", "-c", "--noheadings", "-o", "name", "-O", keys).out
        assert out.replace("\n", "") == names


def test_report_rows(run: Run, two: Any) -> None:
    assert run("info", "-c", "--rows", "-o", "name,minor").out == "Name low top\nMin 0 1\n"
    assert run("info", "-c", "--nameprefixes", "--noheadings", "-o", "name,minor").out == (
        "DM_NAME='low':DM_MINOR='0'\nDM_NAME='top':DM_MINOR='1'\n"
    )


def test_report_repeats(run: Run, two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    out = run("info", "-c", "--count", "3", "--interval", "5", "-o", "name", "low").out
    assert out == "\n".join(["Name            \nlow             \n"] * 3)
    assert [round(seconds) for seconds in slept] == [5, 10]


def test_report_of_statistics_has_no_rows_without_regions(run: Run, two: Any) -> None:
    assert run("info", "-c", "-o", "all") == (0, "", "")


def test_table_and_status(run: Run, words: Any) -> None:
    words.add("a", "0 8 zero ", "8 8 linear 1:0 0")
    words.add("n", live=False)
    assert run("table", "a").out == "0 8 zero \n8 8 linear 1:0 0\n"
    assert run("table").out == "a: 0 8 zero \na: 8 8 linear 1:0 0\nn: \n"
    assert run("table", "n").out == "\n"
    assert run("status", "--target", "zero", "a", "n").out == "a: 0 8 zero \n"
    assert run("table", "--target", "nosuch") == (0, "", "")
    shown = block(targets=2)
    assert run("status", "-v", "a").out == shown + "0 8 zero \n8 8 linear 1:0 0\n"
    assert run("table", "-v", "a", "a").out == 2 * (shown + "0 8 zero \n8 8 linear 1:0 0\n\n")


def test_the_first_failure_ends_the_loop(run: Run, words: Any) -> None:
    words.add("a", "0 8 zero ")
    words.add("b", "0 8 zero ")
    assert run("table", "a", "no", "b") == (
        1,
        "a: 0 8 zero \n",
        "device-mapper: table ioctl on no  failed: No such device or address\nCommand failed.\n",
    )


def test_concise(run: Run, words: Any) -> None:
    words.add("c1", "0 8 zero ")
    words.add("n\\x2came", "0 8 linear 1:0 0", "8 8 error ", uuid="u;2", readonly=True)
    words.devices[1]["uuid"] = "u\\x3b2"
    assert run("table", "--concise").out == (
        "c1,,0,rw,0 8 zero ;n\\,ame,u\\;2,1,ro,0 8 linear 1:0 0,8 8 error \n"
    )


def test_keys_are_hidden(run: Run, words: Any) -> None:
    words.add("c", "0 8 crypt aes-xts-plain64 0123abcd 0 1:0 0")
    words.add("k", "0 8 crypt aes :32:logon:x 0 1:0 0")
    words.add("i", "0 8 integrity 1:0 0 - J 2 internal_hash:hmac(sha256):abcd block_size:512")
    assert run("table").out == (
        "c: 0 8 crypt aes-xts-plain64 00000000 0 1:0 0\n"
        "i: 0 8 integrity 1:0 0 - J 2 internal_hash:hmac(sha256):0000 block_size:512\n"
        "k: 0 8 crypt aes :32:logon:x 0 1:0 0\n"
    )
    assert "0123abcd" in run("table", "--showkeys", "c").out


def test_deps(run: Run, two: Any) -> None:
    two.deps["top"].insert(0, two.file("/img/a b.img"))
    assert run("deps", "low").out == "1 dependencies\t: (1, 0)\n"
    assert run("deps").out == (
        "low: 1 dependencies\t: (1, 0)\ntop: 2 dependencies\t: (/img/a b.img) (1000, 0)\n"
    )
    assert run("deps", "-o", "devname", "top").out.endswith(" (low)\n")
    assert run("deps", "-o", "blkdevname", "low", "top").out == (
        "low: 1 dependencies\t: (ram0)\ntop: 2 dependencies\t: (/img/a b.img) (dm-0)\n"
    )


def test_absent(run: Run) -> None:
    """Recorded: nonexistent."""
    assert run("info", "no") == run("status", "no") == (1, "", ABSENT)
    assert run("info", "-c", "no") == run("measure", "no") == (1, "", ABSENT)
    assert run("info", "-u", "no") == run("info", "-j", "254", "-m", "0") == (1, "", ABSENT)
    for arguments, line in (
        (("table", "no"), "table ioctl on no  failed"),
        (("deps", "no"), "deps ioctl on no  failed"),
        (("table", "-u", "no"), "table ioctl on  no failed"),
        (("table", "-j", "254", "-m", "7"), "table ioctl on  (254:7) failed"),
    ):
        assert run(*arguments) == (
            1,
            "",
            f"device-mapper: {line}: No such device or address\nCommand failed.\n",
        )
    assert run("mknodes", "no") == (0, "", "")
    assert run("mangle", "no") == (1, "", "Command failed.\n")


def test_paths(run: Run, words: Any) -> None:
    words.add("a", "0 8 zero ")
    for path in ("/dev/mapper/a", "mapper/a", f"{words.directory.mapper}/a"):
        assert run("table", path).out == "0 8 zero \n"
    for path, name in (
        ("/dev/mapper/no", "/dev/mapper/no"),
        ("/dev/nosuch", "/dev/nosuch"),
        ("/dev/null", "null"),
    ):
        assert run("info", path) == (1, "", f"Device {name} not found\nCommand failed.\n")


def test_targets(run: Run, words: Any) -> None:
    linear = {"name": "linear", "version": [1, 4, 0], "error": None}
    words.answers["targets"] = [{"name": "bad", "version": [0, 0, 0], "error": "broken"}, linear]
    assert run("targets") == (0, "linear           v1.4.0\n", "bad: broken\n")
    assert run("target-version", "linear").out == "linear           v1.4.0\n"
    failed = "device-mapper: target-version ioctl on {}  failed: Invalid argument\n"
    assert run("target-version", "linear", "no") == (
        1,
        "linear           v1.4.0\n",
        failed.format("no") + "Command failed.\n",
    )


def test_version(run: Run, words: Any) -> None:
    core = {"dmtool": "9.9", "driver": "4.48.0", "index": "native", "meter": "python"}
    core |= {"columns": "native", "lane": "python"}
    words.answers["version"] = core
    library = "Library version:   1.02.185 (2022-05-18)\n"
    driver = "Driver version:    4.48.0\n"
    ours = "dmtool version:    9.9\nSector index:      native\n"
    later = "I/O counters:      python\nPlain tables:      native\nNBD requests:      python\n"
    assert run("version").out == run("--version").out == library + driver + ours + later
    assert run("version", prog="dmsetup").out == library + driver
    for name in ("meter", "columns", "lane"):
        del core[name]  # a core of before there was a choice
    assert run("version").out == library + driver + ours


def test_json(run: Run, two: Any) -> None:
    def told(*args: str) -> Any:
        done = run(*args, "--json")
        document = json.loads(done.out)
        assert document.pop("version") == 1
        return document

    assert told("ls")["devices"][1] == {"name": "top", "uuid": "", "major": 1000, "minor": 1}
    assert told("info", "low")["devices"][0]["open_count"] == 1
    target = {"start": 0, "length": 64, "type": "linear", "params": "1:0 0"}
    assert told("table", "low")["devices"][0]["targets"] == [target]
    assert told("status")["devices"][1]["name"] == "top"
    assert told("deps", "top")["devices"][0]["dependencies"] == [two.mapped("low")]
    assert told("uri", "low") == {"uri": "nbd+unix:///low"}
    assert told("table", "low", "no", "top")["devices"][0]["name"] == "low"


def test_json_without_devices_is_an_empty_list(run: Run) -> None:
    for command in ("ls", "info", "table", "status", "deps"):
        assert json.loads(run(command, "--json").out) == {"version": 1, "devices": []}


def test_a_device_that_could_not_be_restored_says_why(run: Run, words: Any) -> None:
    words.add("a", live=False, target_count=0, error="a.img: No such file or directory")
    assert run("info", "a").err == "a: a.img: No such file or directory\n"


def test_other_errors_of_status_are_not_swallowed(run: Run, words: Any) -> None:
    words.refuse("status", errno.EIO)
    assert run("status", "a").err == (
        "device-mapper: status ioctl on a  failed: Input/output error\nCommand failed.\n"
    )
