# SPDX-License-Identifier: Apache-2.0
"""Command lines that nobody chose, to dmsetup and to us under its name: the same, byte for byte.

dmsetup answers much without a driver. Where it needs one it gets ``driver.c``, with the devices
that ``Words``, our core of words, has too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings

from tests.cli.lines import LINES, is_libdms_own, of_devices, shown

pytestmark = pytest.mark.tools("dmsetup")

NO_DRIVER = "/dev/mapper/control: open failed"
# The device is the same for every example, and none changes it.
SETTINGS = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# What a device is, and the letter that says so to driver.c.
FLAGS = {"live": "L", "inactive": "I", "suspended": "s", "readonly": "r"}
Answer = tuple[int, str, str]
Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("POSIXLY_CORRECT", raising=False)
    # an error's text is in the user's language
    monkeypatch.setenv("LC_ALL", "C")
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield


def dmsetup(words: list[str], prog: str = "dmsetup", **environment: str) -> Answer:
    """What the real one says; its status is negative where it crashed."""
    done = subprocess.run(
        [prog, *words],
        executable=shutil.which("dmsetup"),
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    return done.returncode, out, err


@SETTINGS
@given(LINES)
def test_without_a_driver(run: Run, words: list[str]) -> None:
    assume(not is_libdms_own(words))
    theirs = dmsetup(words)
    assume(theirs[0] >= 0 and NO_DRIVER not in theirs[2])
    assert tuple(run(*words, prog="dmsetup")) == theirs, shown(words)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver, compiled."""
    library = tmp_path_factory.mktemp("driver") / "driver.so"
    source = Path(__file__).with_name("driver.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def devices(words: Any) -> Any:
    """A core with devices of all kinds."""
    words.add("base", "0 64 linear 7:0 0", uuid="LVM-1", open_count=2, event_nr=3)
    words.add("vg-lv", "0 32 linear 1000:0 0", "32 8 error", uuid="LVM-2", inactive=True)
    words.add("vg-l--v-real", "0 8 linear 1000:0 32", uuid="CRYPT-3", suspended=True)
    words.add("sp\\x20ace", "0 8 striped 2 8 1000:1 0 7:0 a,b;c\\d", uuid="LVM-x\\x20y")
    words.add("loaded", live=False, inactive=True, readonly=True, event_nr=12)
    words.add("ro", "0 1 zero", readonly=True, uuid="x")
    words.deps["base"] = [words.block("loop0", 7, 0)]
    words.deps["vg-lv"] = [words.mapped("base")]
    words.deps["vg-l--v-real"] = [words.mapped("base")]
    words.deps["sp\\x20ace"] = [words.block("loop0", 7, 0), words.mapped("vg-lv")]
    for device in words.devices:
        words.answers |= {
            method: lambda params: words._find(params["device"])
            for method in ("suspend", "resume", "clear")
        }
        words.answers["remove"] = lambda params: _remove(words, params)
        del device["error"]
    return words


def _remove(words: Any, params: dict[str, Any]) -> Any:
    device = words._find(params["device"])
    if device["open_count"]:
        raise words.refusal(16)
    return device


def _told(words: Any) -> Iterator[str]:
    """The devices as driver.c reads them."""
    for device in sorted(words.devices, key=lambda device: str(device["name"])):
        flags = "".join(letter for what, letter in FLAGS.items() if device[what])
        numbers = [device["minor"], flags, device["open_count"], device["event_nr"]]
        yield "\t".join(map(str, ["device", device["name"], device["uuid"], *numbers]))
        for target in words.tables[device["name"]]:
            yield "\t".join(map(str, ["target", *target.values()]))
        for dep in words.deps.get(device["name"], []):
            yield f"dep\t{dep['major']}\t{dep['minor']}"


@pytest.fixture
def with_driver(devices: Any, driver: Path, tmp_path: Path) -> dict[str, str]:
    """The environment in which dmsetup finds these devices."""
    told = tmp_path / "devices"
    told.write_text("".join(line + "\n" for line in _told(devices)))
    return {"LD_PRELOAD": str(driver), "DM_WORDS": str(told), "DM_DISABLE_UDEV": "1"}


@pytest.mark.tools("cc")
def test_with_devices(run: Run, devices: Any, with_driver: dict[str, str]) -> None:
    names = [device["name"] for device in devices.devices] + ["sp ace"]

    @SETTINGS
    @given(of_devices(names))
    def same(words: list[str]) -> None:
        assume(not is_libdms_own(words))
        theirs = dmsetup(words, **with_driver)
        assume(theirs[0] >= 0)
        assert tuple(run(*words, prog="dmsetup")) == theirs, shown(words)

    same()


@pytest.mark.tools("cc")
@pytest.mark.parametrize(
    "line",
    ["1000 3", "1000:3", " 01750: 0x3x", "1000x 3z", "1000 9", "7 0", "1000", "1000:", "", "-h",
     "1 2 3", "08:1", "1000 -1"],
)  # fmt: skip
def test_devmap_name(run: Run, with_driver: dict[str, str], line: str) -> None:
    words = line.split() if " 0x" not in line else [line]
    theirs = dmsetup(words, "devmap_name", **with_driver)
    assert tuple(run(*words, prog="devmap_name")) == theirs
