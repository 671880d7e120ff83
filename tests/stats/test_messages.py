# SPDX-License-Identifier: Apache-2.0
"""The kernel's messages: what they answer, and what they refuse.

tests/kernel replays recorded ones; here is the rest of drivers/md/dm-stats.c.
"""

from __future__ import annotations

import errno

import pytest

from dmtool.device import stats as module
from dmtool.device.stats import Stats
from dmtool.errors import DeviceError
from tests.stats.home import Home

SECTORS = 100


@pytest.fixture
def stats() -> Stats:
    return Stats()


def say(stats: Stats, text: str, sectors: int = SECTORS) -> str | None:
    return stats.message(text.split(" "), sectors)


def refused(stats: Stats, text: str) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        say(stats, text)
    return caught.value


@pytest.mark.parametrize(
    ("created", "listed"),
    [
        ("- 1", "0+100 1 - -"),
        ("- /1", "0+100 100 - -"),
        ("- /3", "0+100 34 - -"),
        ("- /1000", "0+100 1 - -"),
        ("5+10 3 prog", "5+10 3 prog -"),
        ("5+10 3 prog aux", "5+10 3 prog aux"),
        ("5+10 3 0 prog aux", "5+10 3 prog aux"),
        ("5+10 18446744073709551615", "5+10 18446744073709551615 - -"),
        ("1000+1 1", "1000+1 1 - -"),
        ("- 1 1 PRECISE_timestamps", "0+100 1 - - precise_timestamps"),
        ("- 1 1 histogram:1,2,50 p", "0+100 1 p - histogram:1,2,50"),
        ("- 1 2 histogram:7 precise_timestamps", "0+100 1 - - precise_timestamps histogram:7"),
    ],
)
def test_create(stats: Stats, created: str, listed: str) -> None:
    assert say(stats, f"@stats_create {created}") == "0"
    assert say(stats, "@stats_list") == f"0: {listed}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        "", "-", "1 1", "1+0 1", "+5 1", "1+2+3 1", "1+2x 1", "-1+2 1", "18446744073709551615+1 1",
        "- 0", "- /0", "- /", "- x", "- -1", "- /4294967296", "- 18446744073709551616",
        "- 1 1", "- 1 2 precise_timestamps", "- 1 1 other", "- 1 1 histogram:", "- 1 1 histogram:0",
        "- 1 1 histogram:2,1", "- 1 1 histogram:1,,2", "- 1 1 histogram:1,x", "- 1 1 histogram:1,1",
        "- 1 2 histogram:1 histogram:2", "- 1 prog aux more", "- 1 x y z",
    ],
)  # fmt: skip
def test_create_refuses(stats: Stats, arguments: str) -> None:
    error = refused(stats, f"@stats_create {arguments}".strip())
    assert error.errno == errno.EINVAL
    assert str(error) == "Invalid parameters for message @stats_create"
    assert error.hint
    assert error.hint.startswith("@stats_create <range> <step>")
    assert stats.meter is None


def test_a_device_without_sectors_has_one_to_count(stats: Stats) -> None:
    say(stats, "@stats_create - 1", 0)
    assert say(stats, "@stats_list") == "0: 0+1 1 - -\n"


def test_too_many_areas_or_too_much_memory(stats: Stats, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(stats, f"@stats_create 0+{module.AREAS_MOST + 1} 1").errno == errno.EOVERFLOW
    monkeypatch.setattr(module, "MEMORY_FACTOR", 1 << 40)
    assert refused(stats, "@stats_create - 1").errno == errno.ENOMEM


def test_ids_are_the_lowest_that_are_free(stats: Stats) -> None:
    assert [say(stats, "@stats_create - 1") for _ in range(3)] == ["0", "1", "2"]
    assert say(stats, "@stats_delete 1") is None
    assert say(stats, "@stats_create - 2") == "1"
    assert say(stats, "@stats_list") == "0: 0+100 1 - -\n1: 0+100 2 - -\n2: 0+100 1 - -\n"


def test_list_of_one_program(stats: Stats) -> None:
    say(stats, "@stats_create - 1 me")
    say(stats, "@stats_create - 1 you")
    assert say(stats, "@stats_list you") == "1: 0+100 1 you -\n"
    assert say(stats, "@stats_list nobody") == ""
    assert refused(stats, "@stats_list me you").errno == errno.EINVAL


def test_auxiliary_data_is_replaced(stats: Stats) -> None:
    say(stats, "@stats_create - 1 p old")
    assert say(stats, "@STATS_set_aux 0 new") is None
    assert say(stats, "@stats_list") == "0: 0+100 1 p new\n"
    for text in ("0", "0 a b", "x a"):
        assert refused(stats, f"@stats_set_aux {text}").errno == errno.EINVAL


def test_no_such_region(stats: Stats) -> None:
    for text in ("delete 0", "clear 0", "print 7", "print_clear 0", "set_aux 3 x"):
        assert refused(stats, f"@stats_{text}").errno == errno.ENOENT
    for text in ("delete", "delete x", "clear -1", "clear 0 1", "print", "print 0 1", "delete +0"):
        assert refused(stats, f"@stats_{text}").errno == errno.EINVAL


def count(stats: Stats) -> None:
    """A write of 1.5 ms, 2500 ms long ago, to all of the device's first 12 sectors."""
    assert stats.meter is not None
    begun = stats.meter.begin(True, 0, 12 * 512, 1_000)
    stats.meter.end(True, 0, 12 * 512, begun, 1_501_000)


def test_print(stats: Stats) -> None:
    say(stats, "@stats_create 0+20 8 1 histogram:1,2")
    say(stats, "@stats_create 0+20 8 2 precise_timestamps histogram:1000,2000000")
    count(stats)
    assert say(stats, "@stats_print 0") == (
        "0+8 0 0 0 0 1 0 8 1 0 1 1 0 1 0:1:0\n"
        "8+8 0 0 0 0 1 0 4 1 0 1 1 0 1 0:1:0\n"
        "16+4 0 0 0 0 0 0 0 0 0 0 0 0 0 0:0:0\n"
    )
    first = "0+8 0 0 0 0 1 0 8 1500000 0 1500000 1500000 0 1500000 0:1:0\n"
    second = "8+8 0 0 0 0 1 0 4 1500000 0 1500000 1500000 0 1500000 0:1:0\n"
    third = "16+4 0 0 0 0 0 0 0 0 0 0 0 0 0 0:0:0\n"
    for lines, expected in (
        ("", first + second + third),
        (" 1 1", second),
        (" 1 -", second + third),
        (" - 1", first),
        (" - -", first + second + third),
        (" 2 18446744073709551615", third),
        (" 3 1", ""),
        (" 0 0", ""),
    ):
        assert say(stats, f"@stats_print 1{lines}") == expected
    assert refused(stats, "@stats_print 0 x 1").errno == errno.EINVAL


def test_print_clear_and_clear(stats: Stats) -> None:
    say(stats, "@stats_create 0+16 8")
    count(stats)
    zero = "0+8 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    other = "8+8 0 0 0 0 1 0 4 1 0 1 1 0 1\n"
    assert say(stats, "@stats_print_clear 0 0 1") == "0+8 0 0 0 0 1 0 8 1 0 1 1 0 1\n"
    assert say(stats, "@stats_print 0") == zero + other
    assert say(stats, "@stats_clear 0") is None
    assert say(stats, "@stats_print 0 1 1") == "8+8" + zero[3:]


def test_a_meter_only_while_there_are_regions(stats: Stats) -> None:
    say(stats, "@stats_create - 1")
    before = stats.meter
    assert before is not None
    begun = before.begin(False, 0, 512)
    say(stats, "@stats_create - 1")
    assert stats.meter is not before
    # what began before the second region was there ends where it began
    before.end(False, 0, 512, begun)
    assert (say(stats, "@stats_print 0 0 1") or "").startswith("0+1 1 ")
    assert say(stats, "@stats_print 1 0 1") == "0+1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    say(stats, "@stats_delete 0")
    say(stats, "@stats_delete 1")
    assert stats.meter is None


# -- by way of the core -----------------------------------------------------------------------


def test_messages_reach_a_device(home: Home) -> None:
    home.create("a", "0 16 zero")
    assert home.message("a", "@stats_create - /2 prog au\\ x") == "0"
    assert home.message("a", "@stats_list") == "0: 0+16 8 prog au x\n"
    home.device("a").read(0, 4096)
    assert home.message("a", "@stats_print 0").split()[1:4] == ["1", "0", "8"]


def test_counters_outlive_tables_and_end_with_the_device(home: Home) -> None:
    device = home.create("a", "0 16 zero")
    home.message("a", "@stats_create - /1")
    device.read(0, 512)
    home.call("load", device={"name": "a"}, table="0 32 zero")
    home.call("resume", device={"name": "a"})
    device.read(0, 512)
    assert home.message("a", "@stats_print 0").split()[:2] == ["0+16", "2"]
    home.call("remove", device={"name": "a"})
    home.create("a", "0 16 zero")
    assert home.message("a", "@stats_list") == ""


def test_a_device_below_another_counts_for_itself(home: Home) -> None:
    lower = home.create("lower", "0 16 zero")
    upper = home.create("upper", "0 8 linear /dev/mapper/lower 8")
    home.message("lower", "@stats_create - /1")
    upper.read(0, 1024)
    upper.write(512, bytes(512))
    upper.discard(0, 4096)
    upper.write_zeroes(0, 512)
    lower.block_status(0, 512)
    lower.flush()
    with pytest.raises(OSError, match="Invalid"):
        lower.read(16 * 512, 512)
    words = home.message("lower", "@stats_print 0").split()
    assert (words[1], words[3]) == ("1", "2")
    assert (words[5], words[7]) == ("3", "10")
