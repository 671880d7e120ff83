# SPDX-License-Identifier: Apache-2.0
"""The real dmstats and ours, command by command, each with a core as its kernel.

What ours does otherwise on purpose is in docs/stats.md; these commands keep clear of it, or
``theirs`` takes it out.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stats.driver import Driver
from tests.stats.home import Done, Home, count, real_dmstats

pytestmark = pytest.mark.tools("dmsetup", "cc")

DEVICES = {
    "a": "0 2048 zero\n2048 2048 error",
    "b": "0 100000 zero",
    "sp\\x20ace": "0 8 zero",
}
MS = 1_000_000
# write, byte offset, bytes, when it began, how long it took
REQUESTS = [
    (False, 0, 4096, 100, 3_500_000),
    (False, 8192, 8192, 3000 * MS, 15 * MS),
    (True, 1 << 20, 65536, 6000 * MS, 250 * MS),
    (True, 0, 512, 9000 * MS, 1000),
    (False, (2 << 20) - 512, 512, 12000 * MS, 2000 * MS),
]

# Command lines, one after the other on one core each.
CHANGES = """
create a
create --areas 4 --bounds 10ms,20ms,1s a
list
list b
create --segments a
list -v
create --start 100 --length 1m --userdata foo b
create --areasize 10000s --programid me --alias al b
create --userdata '#x' b
create 'sp ace'
list --allprograms
list --programid me -o +user_data,precise
list --allprograms -o +user_data b
list 'sp ace'
group --regions 0,1 --alias grp a
list a
clear --allregions a
clear --allregions
clear --regionid 9 a
print --regionid 1 a
print --regionid 1 --clear a
print --regionid 77 a
print --regionid 0
group --regions 0-1 a
ungroup --groupid 0 a
group --regions 2,3 a
delete --regionid 2 a
list a
delete --regionid 9 a
delete --regionid 3 a
group --regions 0-1 a
delete --groupid 0 a
list
delete --groupid 0 a
delete --allregions b
delete --regionid 0 b
delete --allregions --allprograms --alldevices
list --allprograms
create --segments --alias seg --userdata u a
list -o +user_data
list --group
create --areas 3 --segments --nogroup a
create --bounds 5us,1ms,2 b
create --bounds 1000000ns --alldevices
list --histogram
list --histogram -v b
list -o name,hist_bounds,hist_ranges --notimesuffix
list -o hist_bounds,hist_ranges,region_start,region_len --noheadings
list --nameprefixes
list --rows
list --region -O -region_start,region_id --noheadings
list -o name,attr,uuid,obj_type,region_id --segments
list -o region_start,region_len,area_len,area_count,group_id,precise,hist_bins,hist_ranges b
list -o name -S 'region_id=1'
list -S 'region_len>1m && obj_type=region'
"""

REPORTS = """
report
report --raw
report -o region_id,obj_type,interval,interval_ns,throughput,util
report --histogram
report --histogram --relative
report --histogram --noheadings
report --histogram --notimesuffix
report -o hist_count,hist_count_ranges --nosuffix
report -o hist_percent,hist_percent_ranges
report --units s -o region_start,region_len,area_len,read_size_per_sec,avg_request_size --nosuffix
report --units 4k -o region_start,region_len,area_len,read_size_per_sec,avg_request_size
report --units r -o area_len,read_size_per_sec,write_size_per_sec
report --units H -o area_len,read_size_per_sec,write_size_per_sec
report --units B -o area_len,read_size_per_sec,write_size_per_sec
report --units m -o area_len,read_size_per_sec,write_size_per_sec
report --units 1.5k -o area_len,read_size_per_sec,write_size_per_sec
report --interval 5 -o reads_per_sec,util --count 1
report --programid nobody
report --group
report --region -o +read_count
report --area -O -area_len,region_id
report -o +stats_name -S 'read_count>1' --raw
report -o name,region_id,selected -S 'read_count>1' -O read_count,area_id
list -o read_count,region_id
"""

REFUSED = """

foo
create
create nosuch
create --areas 2 --areasize 1m a
create --allregions a
create --allprograms a
create --programid '' a
create --alias x --nogroup --segments a
create --bounds x a
create --bounds 10,5 a
create --bounds 1ms,,2 a
create --bounds 5ms,5ms a
create --start x a
create --length 5x a
create --areasize 100 a
create --start 1g a
create --areas 3 --programid 'my prog' --userdata 'two words' a
create --precise=1 a
message
delete a
delete
delete --regionid 1 --groupid 2 a
delete --allregions
delete --allregions nosuch
delete --regionid 0
print a
clear a
group a
group --regions 0 nosuch
group --regions x a
group --regions 1-0 a
group --regions 9 a
group --regions 0,0 a
group --regions '' a
group --regions 0
group --regions 0 b
ungroup a
ungroup --groupid 1
list --allprograms --programid x
list --allregions --regionid 3
print --allregions --regionid 3 a
create --follow inode --nomonitor a
update_filemap
update_filemap f
update_filemap --groupid 3 nofile
create --filemap
create --filemap nofile
create --filemap --areas 3 f
create --filemap --start 3 f
create --filemap --segments f
create --filemap --userdata 3 f
create --filemap -u 3 f
create --filemap --alldevices f
create --filemap {file}
report --units x
report --units ''
report --units 2
list -o bogus
list -O bogus
list -o help
help
help x
-h
--version
version
version x
list nosuch
report nosuch
report --count -1
report --interval 0
"""


def theirs(done: Done) -> Done:
    """Without a region's ArStart, which libdm works out wrongly, and without what it says of its
    own memory."""
    own = re.compile(r"You have a memory leak|Internal error: Unreleased| \[0x")
    err = [line for line in done.err.splitlines(keepends=True) if not own.match(line)]
    out = re.sub(r"^(.* region .*) 0[bB] ", r"\1  0 ", done.out, flags=re.MULTILINE)
    return Done(done.status, out, "".join(err))


def agree(theirs: Done, ours: Done) -> bool:
    """Ours may say more on stderr: the cause."""
    left = iter(ours.err.splitlines())
    return theirs[:2] == ours[:2] and all(line in left for line in theirs.err.splitlines())


@pytest.fixture
def compare(
    homes: Callable[[], Home], call_as: Callable[..., Done], control: Path, frozen: None
) -> Callable[[str], None]:
    """``compare(command lines)``: fails where the two differ."""
    real, own = homes(), homes()
    for home in (real, own):
        for name, table in DEVICES.items():
            home.create(name, table)
    socket = real.path / "driver"
    Driver(real.directory, socket)

    def compare(lines: str) -> None:
        differ = []
        for line in lines.strip("\n").split("\n"):
            words = shlex.split(line)
            known = theirs(real_dmstats(control, socket, *words))
            here = call_as("dmstats", own, *words)
            if not agree(known, here):
                differ.append(f"$ dmstats {line}\n{known}\n{here}\n")
            for home in (real, own):
                device = home.device("a")
                if device.stats.meter is not None and line.startswith("create --precise a"):
                    count(device, *REQUESTS)
        assert not differ, "\n".join(differ)

    return compare


def test_regions_and_groups(compare: Callable[[str], None]) -> None:
    compare(CHANGES)


def test_reports(compare: Callable[[str], None]) -> None:
    compare("create --areas 2 --bounds 10ms,20ms,1s a\ncreate --precise a\n" + REPORTS.strip())


def test_what_is_refused(compare: Callable[[str], None], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    compare("create a\n" + REFUSED.strip("\n").format(file=file))


def test_more_intervals_than_one(
    homes: Callable[[], Home], call_as: Callable[..., Done], control: Path
) -> None:
    """Rates depend on the clock, but for what is 0."""
    home = homes()
    home.create("a", DEVICES["a"])
    home.message("a", "@stats_create - /1 dmstats")
    socket = home.path / "driver"
    driver = Driver(home.directory, socket)
    words = ("report", "--count", "2", "-o", "name,region_id,reads_per_sec,util")
    assert call_as("dmstats", home, *words) == real_dmstats(control, socket, *words)
    driver.close()
