# SPDX-License-Identifier: Apache-2.0
"""Every recorded mapping table, given to our commands: they answer as the kernel did.

What is compared: accepted or refused, exit status, what dmsetup printed, the kernel's reason,
``table``, ``status``, ``info``, ``deps``, the size, where every sector is read from, what writes
answer, and which sectors of the disks they change.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from dmtool.client.nbd import Nbd
from tests.kernel.background import Background
from tests.kernel.bench import Bench, Done
from tests.kernel.differences import TABLES
from tests.kernel.disks import RECORDED, SECTOR, WRITTEN, pattern, word
from tests.kernel.recordings import answers, comparable, needs_loops, parameter, recorded
from tests.kernel.resync import changed_at, progress, without_events, without_progress

Case = dict[str, Any]
Answer = dict[str, Any]
Runs = list[tuple[int, int, str, int | None]]
Content = dict[int, bytes | int]  # sector: its bytes, or the errno of reading it

_HANG = {"error": "hang"}  # of a write


def _input(case: Case) -> bytes:
    if "input_b64" in case:
        return base64.b64decode(case["input_b64"])
    return str(case.get("input", "")).encode()


def _text(case: Case) -> str:
    """All that a case says of tables."""
    more = [*case.get("create_opts", ()), *case.get("pre_cmds", ())]
    return " ".join([_input(case).decode("latin-1"), *more])


def _cases() -> Iterator[Any]:
    for case in recorded("tables.jsonl"):
        text = _text(case)
        if comparable(re.split(r"[\s']+", text)):
            yield parameter(case, loops=needs_loops(text))


CASES = list(_cases())


@dataclass
class Observed:
    """What our commands did with a case; fields as in a recording."""

    create: Done
    shown: dict[str, str] = field(default_factory=dict)
    size: int | str | None = None
    iomap: Content = field(default_factory=dict)
    writes: list[Any] = field(default_factory=list)
    iomap_after: Content = field(default_factory=dict)
    remove: Done | None = None  # while a write is held
    changed: dict[str, dict[int, bytes]] = field(default_factory=dict)


class Replay:
    """One case on one bench."""

    def __init__(self, bench: Bench, case: Case) -> None:
        self.bench = bench
        self.case = case
        self.answers = answers(case)
        self.held = ExitStack()
        self.hanging: list[Background] = []

    # -- what we do ----------------------------------------------------------------------------

    def observe(self) -> Observed:
        bench, case = self.bench, self.case
        for command in case.get("pre_cmds", ()):
            self._prepare(command)
        for file in case.get("files", ()):
            data = bytes(file["zero"] * SECTOR) if "zero" in file else base64.b64decode(file["b64"])
            bench.disks.disks[file["dev"]].write(file["sector"], data)
        table = bench.ours(os.fsdecode(_input(case)))
        options = shlex.split(bench.ours(shlex.join(case.get("create_opts", ()))))
        with self.held:
            observed = Observed(bench.dmsetup("create", "t", *options, stdin=os.fsencode(table)))
        if observed.create.status == 0:
            self._look(observed)
            self._end_held(observed)
            assert bench.dmsetup("remove", "t") == Done(0, "", "")
        assert "t" not in [info["name"] for info in bench.client.call("list")]
        disks = bench.disks.disks
        observed.changed = {n: changed for n, d in disks.items() if (changed := d.changed())}
        return observed

    def _end_held(self, observed: Observed) -> None:
        """Let go of the writes that are held: the recorder switched its machine off."""
        if not self.hanging:
            return
        observed.remove = self.bench.dmsetup("remove", "t")
        assert not any(write.answered for write in self.hanging)
        assert self.bench.dmsetup("suspend", "t") == Done(0, "", "")
        assert [write.result() for write in self.hanging] == [errno.EIO] * len(self.hanging)

    def _prepare(self, command: str) -> None:
        words = shlex.split(self.bench.ours(command))
        if words[0] == "dmsetup":
            assert self.bench.dmsetup(*words[1:]) == Done(0, "", "")
        elif words[0] == "ln":
            os.symlink(words[-2], words[-1])
        elif words[0] == "mknod":
            name = next(n for n, (n2, _, _) in RECORDED.items() if n2 == ":".join(words[3:5]))
            os.symlink(self.bench.disks.disks[name].path, words[1])
        else:
            # A mounted file system claims its device; so does this, and it leaves no trace.
            assert "mount" in words
            claim = os.open(words[words.index("-F") + 1], os.O_RDONLY | os.O_EXCL)
            self.held.callback(os.close, claim)

    def _look(self, observed: Observed) -> None:
        show = self.bench.dmsetup
        if "settle_s" in self.case:
            self.bench.settle()
        # Uuids were recorded as the kernel has them.
        report = ["info", "--manglename", "none", "-c", "--noheadings", "-o"]
        columns = "name,major,minor,attr,open,segments,events,uuid"
        observed.shown = {
            "table": self._shown(show("table", "t")),
            "status": self._shown(show("status", "t")),
            "info": self._shown(show(*report, columns, "t")),
            "deps": self._shown(show("deps", "-o", "blkdevname", "t")),
        }
        if observed.shown["info"].split(":")[3][0] != "L":
            # The recorder found no node to open, and asked no status of it.
            observed.size, observed.shown["status"] = "ENOENT", ""
            return
        with self.bench.opened("t") as disk:
            size, rest = divmod(disk.size, SECTOR)
            assert not rest
            observed.size = size
            self._do_io(disk, observed)
        observed.shown["status_after"] = self._shown(show("status", "t"))

    def _shown(self, done: Done) -> str:
        assert (done.status, done.stderr) == (0, "")
        return self.bench.theirs(done.stdout)

    def _do_io(self, disk: Nbd, observed: Observed) -> None:
        known = self.answers["6.1"]
        if "iomap" not in known:
            return
        runs = known["iomap"]["runs"]
        unit = max(disk.minimum, SECTOR) // SECTOR
        observed.iomap = _read(disk, runs, unit)
        hang = [sector for sector, _, answer in known.get("writes", ()) if answer == _HANG]
        for sector, count in self.case.get("write_requests", ()):
            data = b"".join(word(WRITTEN, sector + i) for i in range(count))
            answer: dict[str, Any] = {"wrote": count}
            if sector in hang:
                answer = self._hung(sector, data)
            else:
                try:
                    disk.pwrite(data, sector * SECTOR)
                except OSError as error:
                    answer = {"error": errno.errorcode[error.errno or 0]}
            observed.writes.append([sector, count, answer])
        if observed.writes:
            observed.iomap_after = _read(disk, known["iomap_after"]["runs"], unit)

    def _hung(self, sector: int, data: bytes) -> dict[str, Any]:
        """A write that is held, which the status tells."""
        before = self.bench.dmsetup("status", "t")
        write = Background(self.bench, "t", sector, data)
        self.hanging.append(write)
        while not write.answered and self.bench.dmsetup("status", "t") == before:
            pass  # each is an answer from the core
        return {} if write.answered else _HANG

    # -- and how it compares -------------------------------------------------------------------

    def disagreements(self, observed: Observed) -> list[str]:
        """How we differ from the recording that we differ least from."""
        found = [list(self._against(known, observed)) for known in self.answers.values()]
        return min(found, key=len)

    def _against(self, known: Answer, observed: Observed) -> Iterator[str]:
        done = observed.create
        if (known["expected"], known["exit"]) != ("fail" if done.status else "ok", done.status):
            yield f"create: {known['expected']}, here {done}"
            return
        if done.stdout != known["stdout"]:
            yield f"stdout: {known['stdout']!r}, here {done.stdout!r}"
        yield from self._stderr(known, self.bench.theirs(done.stderr))
        if done.status == 0:
            for what in ("table", "status", "info", "deps"):
                yield from self._compare(what, known[what], observed.shown[what])
            if known["size"] != observed.size:
                yield f"size: {known['size']}, here {observed.size}"
            after = known.get("status_after", known["status"] if known.get("writes") else None)
            if after is not None:
                yield from self._compare("status_after", after, observed.shown["status_after"])
            if known.get("writes", []) != observed.writes:
                yield f"writes: {known['writes']}, here {observed.writes}"
            for what, content in (
                ("iomap", observed.iomap),
                ("iomap_after", observed.iomap_after),
            ):
                yield from _map(what, known.get(what, {"runs": []})["runs"], content)
        if "remove" in known:
            status, out, err = known["remove"]
            if observed.remove is None or (status, out) != observed.remove[:2]:
                yield f"remove: {known['remove']}, here {observed.remove}"
            else:
                yield from self._said(err, self.bench.theirs(observed.remove.stderr))
        if "mount" in _text(self.case):
            return  # what mke2fs wrote, which was not run here
        changed = known.get("changed", {})
        if copying := progress(known.get("status", "")):
            changed = changed_at(changed, known["size"] // copying[1], observed.changed)
        for name in sorted(changed.keys() | observed.changed.keys()):
            sectors: Content = dict(observed.changed.get(name, {}))
            yield from _map(f"changed on {name}", changed.get(name, []), sectors)

    def _compare(self, what: str, known: str, here: str) -> Iterator[str]:
        known = self.bench.recorded(known)
        if progress(self.answers["6.1"].get("status", "")):
            known, here = without_progress(known, here)
            if what == "info":
                known, here = without_events(known), without_events(here)
        if known != here:
            yield f"{what}: {known!r}, here {here!r}"

    def _stderr(self, known: Answer, here: str) -> Iterator[str]:
        """What dmsetup printed is there, the first line first and the last one last; between
        them is the kernel's reason."""
        yield from self._said(known["stderr"], here)
        lines = here.splitlines()
        for reason in _reasons(known["dmesg"]) if known["expected"] == "fail" else ():
            if self.bench.recorded(reason) not in here:
                yield f"reason: {self.bench.recorded(reason)!r}, here {lines}"

    def _said(self, known: str, here: str) -> Iterator[str]:
        said, lines = self.bench.recorded(known).splitlines(), here.splitlines()
        left = iter(lines)
        if not all(line in left for line in said) or [*said[:1], *said[-1:]] != [
            *lines[:1],
            *lines[-1:],
        ]:
            yield f"stderr: {said}, here {lines}"


def _reasons(dmesg: list[str]) -> Iterator[str]:
    for line in dmesg:
        found = re.match(r"device-mapper: table: \d+:\d+: (?:\S+: )?(.*?)(?: \(-E\w+\))?$", line)
        if found and "alignment inconsistency" not in line:
            yield found[1].replace("\\x5c", "\\")


def _read(disk: Nbd, runs: Runs, unit: int) -> Content:
    """Every sector of the runs, ``unit`` of them a request; longer requests say the same."""
    content: Content = {}
    for first, count, *_ in runs:
        for at in range(first, first + count, unit):
            got = _request(disk, at, unit)
            for i in range(unit):
                content[at + i] = (
                    got if isinstance(got, int) else got[i * SECTOR : (i + 1) * SECTOR]
                )
        _check_long_read(disk, first, count, content)
    if len(content) * SECTOR == disk.size:
        _check_long_read(disk, 0, len(content), content)
    return content


def _check_long_read(disk: Nbd, first: int, count: int, content: Content) -> None:
    sectors = [content[sector] for sector in range(first, first + count)]
    failed = [one for one in sectors if isinstance(one, int)]
    joined = b"".join(one for one in sectors if isinstance(one, bytes))
    assert _request(disk, first, count) == (failed[0] if failed else joined)


def _request(disk: Nbd, sector: int, count: int) -> bytes | int:
    try:
        return bytes(disk.pread(count * SECTOR, sector * SECTOR))
    except OSError as error:
        return error.errno or 0


def _map(what: str, runs: Runs, content: Content) -> Iterator[str]:
    left = content.keys() - {at for run in runs for at in range(run[0], run[0] + run[1])}
    for first, count, kind, source in runs:
        for i in range(count):
            here = content.get(first + i, b"not read, or not changed")
            if not _is(here, kind, None if source is None else source + i):
                yield f"{what}: sector {first + i}: {kind} {source}+{i}, here {_named(here)}"
                break
    if left:
        yield f"{what}: sectors {sorted(left)}, which were not in the recording"


def _is(here: bytes | int, kind: str, source: int | None) -> bool:
    if kind.startswith("E"):
        return here == int(getattr(errno, kind))
    if not isinstance(here, bytes):
        return False
    if kind == "zero":
        return here == bytes(SECTOR)
    if kind.startswith("fill:"):
        return here == bytes.fromhex(kind[5:]) * 64
    if kind.startswith("other:"):
        _, digest, start = kind.split(":")
        return hashlib.sha256(here).hexdigest()[:16] == digest and here[:16].hex() == start
    assert source is not None
    if kind == "written":
        return here == word(WRITTEN, source)
    return here == pattern(kind)[source * SECTOR : (source + 1) * SECTOR]


def _named(here: bytes | int) -> str:
    return errno.errorcode.get(here, str(here)) if isinstance(here, int) else here[:16].hex()


@pytest.mark.parametrize(("case", "loops"), CASES)
def test_agrees_with_the_kernel(case: Case, loops: bool, request: pytest.FixtureRequest) -> None:
    bench = request.getfixturevalue("on_loops" if loops else "on_images")
    replay = Replay(bench, case)
    disagreements = replay.disagreements(replay.observe())
    if case["id"] in TABLES:
        assert disagreements, "agrees: take it off the list of differences"
    elif disagreements:
        pytest.fail("\n".join(disagreements), pytrace=False)


def test_differences_are_of_cases() -> None:
    assert TABLES.keys() <= {param.id for param in CASES}


def test_every_mirror_is_compared() -> None:
    mirrors = {case["id"] for case in recorded("tables.jsonl") if case["target"] == "mirror"}
    assert len(mirrors) == 72
    assert mirrors <= {param.id for param in CASES}
