# SPDX-License-Identifier: Apache-2.0
"""``stats create``, ``delete``, ``group`` and ``ungroup``: regions and groups of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

from dmtool.cli.histogram import MS, parse_bounds
from dmtool.cli.regions import PROGRAM, Group, Listing, Region, parse_ranges
from dmtool.cli.session import Device, Failed, Session
from dmtool.cli.show import each, present
from dmtool.cli.sizes import sectors_of
from dmtool.cli.stats import program

T = TypeVar("T")

_NOT_MAPPED = (
    "A mapped device here is no disk that a file system of this machine could be on, so the places\n"
    "of a file's extents on it cannot be asked for: --filemap is not supported."
)


class Wanted(NamedTuple):
    """What is to be created; sectors. ``step`` below 0: so many areas. ``length`` 0: not given."""

    start: int
    length: int
    step: int
    options: str
    program_id: str
    user_data: str

    def areas(self, length: int) -> int:
        """Of a region of that length."""
        if not length:
            return 1
        return -self.step if self.step < 0 else -(-length // self.step)

    def message(self, start: int, length: int) -> str:
        where = f"{start}+{length}" if start or length else "-"
        step = f"/{-self.step}" if self.step < 0 else str(self.step)
        words = [f"@stats_create {where} {step}", self.options, self.program_id, self.user_data]
        return " ".join(word for word in words if word)


def create(session: Session, operands: list[str]) -> None:
    """``create [DEVICE...]``: a region over a device, over a range, or over each of its targets."""
    switches = session.switches
    for option in ("allregions", "allprograms"):
        if option in switches:
            raise Failed(f"Cannot use --{option} with create.")
    if "areas" in switches and "areasize" in switches:
        raise Failed("Please specify one of --areas and --areasize.")
    if switches.value("programid") == "" and "force" not in switches:
        raise Failed("Creating a region with no program id requires --force.")
    if "filemap" in switches:
        _filemap(session, operands)
    for device in _devices(session, operands):
        _create(session, device)


def _create(session: Session, device: Device) -> None:
    switches = session.switches
    areas = switches.number("areas") or 1
    step = sectors_of(switches.value("areasize") or "0", "areasize") or -areas
    start = sectors_of(switches.value("start") or "0", "start")
    length = sectors_of(switches.value("length") or "0", "length")
    if "alias" in switches and "nogroup" in switches:
        raise Failed("Cannot set alias with --nogroup.")
    bounds = switches.value("bounds")
    parsed = parse_bounds(bounds) if bounds is not None else []
    answer = session.ioctl("table", device, "table")
    name = session.shown(answer["info"]["name"])
    try:
        wanted = Wanted(start, length, step, _options(session, parsed), *_labels(session))
        ranges = _ranges(session, wanted, answer["targets"])
        ids = [_create_one(session, device, name, wanted, *one) for one in ranges]
    except Failed as failure:
        raise Failed(*failure.args, f"{name}: Could not create statistics region.") from None
    if "segments" in switches and "nogroup" not in switches:
        _group_segments(session, device, ids)


def _ranges(
    session: Session, wanted: Wanted, targets: list[dict[str, int]]
) -> Iterator[tuple[int, int]]:
    if "segments" in session.switches:
        yield from ((target["start"], target["length"]) for target in targets)
    else:
        yield wanted.start, wanted.length or sum(target["length"] for target in targets)


def _create_one(
    session: Session, device: Device, name: str, wanted: Wanted, start: int, length: int
) -> int:
    answer = session.ioctl(
        "message", device, "message", sector=0, message=wanted.message(start, length)
    )
    number = int(answer["response"])
    areas = wanted.areas(length)
    if session.json:
        session.add_json("regions", {"device": name, "region_id": number, "areas": areas})
    else:
        session.out(f"{name}: Created new region with {areas} area(s) as region ID {number}\n")
    return number


def _labels(session: Session) -> tuple[str, str]:
    """Program id and user data."""
    given = session.switches.value("programid")
    return (PROGRAM if given is None else given or "-"), session.switches.value("userdata") or ""


def _options(session: Session, bounds: list[int]) -> str:
    """The optional arguments of the message."""
    precise = "precise" in session.switches or any(bound % MS for bound in bounds)
    if any(after < before for before, after in pairwise(bounds)):
        raise Failed("Histogram boundaries must be in order of increasing magnitude.")
    words = ["precise_timestamps"] * precise
    if bounds:
        scale = 1 if precise else MS
        words.append("histogram:" + ",".join(str(bound // scale) for bound in bounds))
    return " ".join([str(len(words)), *words]) if words else ""


def _tell(session: Session, device: Device, group: int, text: str) -> None:
    """What became of a group: ``text`` is dmstats' own line."""
    if session.json:
        name = session.shown(present(session, device, "info")["name"])
        session.add_json("groups", {"device": name, "group_id": group})
    else:
        session.out(text)


def _group_segments(session: Session, device: Device, ids: list[int]) -> None:
    text = ",".join(map(str, ids))
    alias = session.switches.value("alias")
    try:
        number = _make_group(session, Listing(session, device), text, alias or "")
    except Failed as failure:
        raise Failed(*failure.args, f"Failed to create group for regions {text}.") from None
    named = f" with alias {alias}" if alias is not None else ""
    _tell(session, device, number, f"Grouped regions {text} as group ID {number}{named}\n")


def delete(session: Session, operands: list[str]) -> None:
    """``delete --regionid N|--allregions|--groupid N [DEVICE...]``."""
    switches = session.switches
    if "regionid" in switches and "groupid" in switches:
        raise Failed("Please use one of --regionid and --groupid.")
    if not {"regionid", "allregions", "groupid"} & switches.given().keys():
        raise Failed("Please specify a --regionid or --groupid, or use --allregions.")
    for device in _devices(session, operands):
        listing = Listing(session, device, program(session))
        if not listing.regions and "allregions" in switches:
            continue
        if "groupid" in switches:
            number = switches.number("groupid") or 0
            _delete_group(listing, number)
            _tell(session, device, number, f"Deleted statistics group {number}.\n")
            continue
        ids = [switches.number("regionid") or 0]
        for number in list(listing.regions) if "allregions" in switches else ids:
            _telling(partial(_delete, listing, number), "Could not delete statistics region")


def _delete_group(listing: Listing, number: int) -> None:
    def both() -> None:
        for member in _ungroup(listing, number, clear=False):
            listing.message(f"@stats_delete {member}")

    _telling(both, "Could not delete statistics group.")


def _delete(listing: Listing, number: int) -> None:
    region = listing.regions.get(number)
    if not listing.regions:
        raise Failed(f"Could not delete region ID {number}: no regions found")
    if region is None:
        raise Failed(f"Region ID {number} does not exist")
    if region.group is not None and region.group in listing.groups:
        _leave_group(listing, region)
    listing.message(f"@stats_delete {number}")
    del listing.regions[number]


def _leave_group(listing: Listing, region: Region) -> None:
    """Take a region out of its group, which ends with its first region."""
    assert region.group is not None
    group = listing.groups[region.group]
    group.regions.remove(region.id)
    if region.id == group.id:
        del listing.groups[group.id]
    listing.set_aux(group.id)


def group(session: Session, operands: list[str]) -> None:
    """``group --regions LIST [--alias NAME] [DEVICE...]``."""
    regions = session.switches.value("regions")
    if regions is None:
        raise Failed("Group requires --regions.")
    for device in _devices(session, operands):
        name = _name(session, operands, device)
        listing = Listing(session, device)
        alias = session.switches.value("alias") or ""
        number = _telling(
            partial(_make_group, session, listing, regions, alias),
            f"Could not create group on {name}: {regions}",
        )
        text = f"Grouped regions {regions} as group ID {number} on {name}\n"
        _tell(session, device, number, text)


def _make_group(session: Session, listing: Listing, text: str, alias: str) -> int:
    """Group regions; the id of the group. Raises Failed."""
    if not listing.regions:
        raise Failed("Could not create group: no regions found.")
    ids = parse_ranges(text)
    if ids is None:
        raise Failed(f"Could not parse list: '{text}'")
    if not ids or ids[-1] > listing.largest:
        raise Failed(f"Invalid region ID: {ids[-1] if ids else -1}")
    members = [_ungrouped(listing, number) for number in ids]
    bounds = {region.bounds for region in members if region.bounds}
    if len(bounds) > 1:
        raise Failed("All region histogram bounds must match exactly")
    if len({region.precise for region in members}) > 1:
        session.error(
            "WARNING: Grouping regions with different clock resolution: precision may be lost."
        )
    session.error(*_overlaps(members))
    listing.groups[ids[0]] = Group(ids[0], alias, ids)
    listing.set_aux(ids[0])
    return ids[0]


def _ungrouped(listing: Listing, number: int) -> Region:
    region = listing.regions.get(number)
    if region is None:
        raise Failed(f"Region ID {number} does not exist")
    if region.group is not None:
        raise Failed(f"Region ID {number} already a member of group ID {region.group}")
    return region


def _overlaps(members: list[Region]) -> Iterator[str]:
    """A warning for each region that lies on what is before it."""
    last, end = -1, 0
    for region in sorted(members, key=lambda region: region.start):
        if last >= 0 and region.start < end:
            yield (
                f"WARNING: region IDs {last} and {region.id} overlap."
                " Some events will be counted twice."
            )
        if region.start + region.length > end:
            last, end = region.id, region.start + region.length


def ungroup(session: Session, operands: list[str]) -> None:
    """``ungroup --groupid N [DEVICE...]``: the regions stay."""
    if "groupid" not in session.switches:
        raise Failed("Please specify group id.")
    number = session.switches.number("groupid") or 0
    for device in _devices(session, operands):
        name = _name(session, operands, device)
        listing = Listing(session, device)
        _telling(
            partial(_ungroup, listing, number),
            f"Could not delete group {number} on {name}.",
        )
        _tell(session, device, number, f"Removed group ID {number} on {name}\n")


def _ungroup(listing: Listing, number: int, *, clear: bool = True) -> list[int]:
    """Forget a group; its members. ``clear``: also where it is stored."""
    if number < 0 or number > listing.largest:
        raise Failed(f"Invalid group ID: {number}")
    if number not in listing.groups:
        raise Failed(f"Group ID {number} does not exist")
    members = listing.groups.pop(number).regions
    if clear:
        listing.set_aux(number)
    return members


def update_filemap(session: Session, operands: list[str]) -> None:
    """``update_filemap``: refused, as ``create --filemap``."""
    if not operands:
        raise Failed("update_filemap requires a file path argument")
    if "groupid" not in session.switches:
        raise Failed("--groupid is required to update a filemap group.")
    _refuse_filemap(operands[0], f"Could not update regions from file {_path(operands[0])}")


def _filemap(session: Session, operands: list[str]) -> None:
    switches = session.switches
    if not operands:
        raise Failed("--filemap requires a file path argument")
    if "areas" in switches or "areasize" in switches:
        raise Failed("--filemap is incompatible with --areas and --area-size.")
    if "start" in switches or "length" in switches:
        raise Failed("--filemap is incompatible with --start and --length.")
    if "segments" in switches:
        raise Failed("--filemap and --segments are incompatible.")
    if "userdata" in switches:
        raise Failed("--userdata is not yet supported with --filemap.")
    if "uuid" in switches or "major" in switches:
        raise Failed("--uuid and --major are incompatible with --filemap.")
    if "alldevices" in switches:
        raise Failed("--alldevices is incompatible with --filemap.")
    _refuse_filemap(operands[0], f"Could not create regions from file {_path(operands[0])}.")


def _refuse_filemap(path: str, result: str) -> None:
    if not os.path.exists(path):
        raise Failed(f"Could not canonicalize file name: {path}")
    raise Failed("Cannot map file: not a device-mapper device.", _NOT_MAPPED, result)


def _path(path: str) -> str:
    return os.path.realpath(path)


def _devices(session: Session, operands: list[str]) -> Iterator[Device]:
    """The devices to change something of: all of them only if ``--alldevices`` says so."""
    named = operands or "uuid" in session.switches or "major" in session.switches
    if not named and "alldevices" not in session.switches:
        raise Failed("Please specify device(s) or use --alldevices.")
    for device, _ in each(session, operands):
        yield device


def _name(session: Session, operands: list[str], device: Device) -> str:
    """A device as messages name it: as it was given."""
    if operands:
        return operands[0]
    return session.shown(device.name) if device.name else "(null)"


def _telling(do: Callable[[], T], failed: str) -> T:
    """``do``; where it fails, the reason is followed by what has failed."""
    try:
        return do()
    except Failed as failure:
        raise Failed(*failure.args, failed) from None
