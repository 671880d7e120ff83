# SPDX-License-Identifier: Apache-2.0
"""Moving a device that is in use from one backing to another (docs/adr/0008-move.md).

All that a move knows is in tables: a look at them says which step is next, and each step is one
that a crash of anybody before or after it does no harm to. So a move is taken up by beginning it
again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dmtool.client import Client, ClientError
from dmtool.client.follow import Follower
from dmtool.client.moveplaces import chosen, make_ready, resolve, unescape, word_of
from dmtool.client.movetables import (
    Copied,
    Line,
    MoveError,
    Run,
    Underlay,
    mirrored,
    names,
    overlap,
    plain,
    replaced,
    runs,
    same,
    used,
)
from dmtool.directory import Directory
from dmtool.errors import CoreError
from dmtool.names import NAME_MAX

Info = dict[str, Any]

# Cores that may go one after the other in one move. A move that kills its core must end.
_CRASHES_MOST = 100
_FLOCK = struct.Struct("hhqqi0q")  # struct flock: l_type, l_whence, l_start, l_len, l_pid


@dataclass(frozen=True)
class _Seen:
    """What a look found: the device and its table, and the device put below it, if there is."""

    info: Info
    lines: list[Line]
    below: Info | None
    under: Underlay | None

    @property
    def word(self) -> str:
        """The lower device in a table."""
        assert self.below is not None
        return f"{self.below['major']}:{self.below['minor']}"

    @property
    def inserted(self) -> bool:
        return self.below is not None and names(self.lines, self.word)


class Move:
    """The move of the device with that minor number.

    ``told`` is called with how far copying is, every ``interval`` seconds (None: only when
    something happens). ``rate``: bytes to copy in a second, None for as many as can be. Threads:
    one.

    Methods raise MoveError for what cannot be moved, ClientError for what the core refuses, and
    CoreError. Whatever they raise, the device can be used as before.
    """

    def __init__(
        self,
        directory: Directory,
        minor: int,
        told: Callable[[Copied], None] = lambda _: None,
        *,
        interval: float | None = None,
        rate: int | None = None,
    ) -> None:
        self._directory = directory
        self._minor = minor
        self._told = told
        self._interval = interval
        self._rate = rate
        self._crashes = 0
        self._made = ""  # the file that this made
        self._back_on = ""  # where all lies after an abort
        # one core answers what belongs together; a new one is looked at anew
        self._client = Client(directory, again=False)

    def close(self) -> None:
        self._client.close()

    # -- the two things to do ---------------------------------------------------------------------

    def run(self, source: str, target: str, *, force: bool = False) -> str:
        """Move what lies on ``source`` to ``target``, both as a user names them; the word of the
        target. ``force``: write over what is there."""
        with self._alone():
            to = resolve(self._client, target)
            while True:
                with self._over_crashes():
                    seen = self._look()
                    if self._step(seen, source, to, force=force):
                        return to

    def abort(self) -> str:
        """Put back what was; the word of the device on which the moved lies now. That is the target
        where all had been copied, and written to since."""
        with self._alone():
            while True:
                with self._over_crashes():
                    seen = self._look()
                    if seen.below is None and self._back_on:
                        return self._back_on
                    self._step_back(seen)

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Nobody else moves this device. Raises MoveError."""
        self._directory.prepare()
        fd = os.open(self._directory.moves, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._minor)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, self._minor, 1, 0)
                pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))[4]
                raise MoveError(
                    f"process {pid} is moving this device", "interrupt it first; nothing is lost"
                ) from None
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _over_crashes(self) -> Generator[None]:
        """What is inside is done again, with another core, where one has gone."""
        try:
            yield
        except CoreError as error:
            self._crashes += 1
            if error.errno != errno.ECONNRESET or self._crashes > _CRASHES_MOST:
                raise
            self._client.close()

    # -- looking ----------------------------------------------------------------------------------

    def _call(self, method: str, **params: Any) -> Any:
        return self._client.call(method, device={"minor": self._minor}, **params)

    def _call_below(self, seen: _Seen, method: str, **params: Any) -> Any:
        assert seen.below is not None
        return self._client.call(method, device={"minor": seen.below["minor"]}, **params)

    def _look(self) -> _Seen:
        answer = self._call("table")
        info = answer["info"]
        below, under = self._below(), None
        if below is not None:
            if not below["live"]:
                raise MoveError(f"{below['name']} has no live table: {below['error']}")
            table = self._client.call("table", device={"uuid": self._uuid})
            under = Underlay.of(table["targets"])
            if under is None:
                raise MoveError(f"{below['name']} has a table that is not one of a move")
        seen = _Seen(info, answer["targets"], below, under)
        if info["suspended"]:
            raise MoveError("the device is suspended", "resume it first")
        if not info["live"]:
            raise MoveError(
                ": ".join(filter(None, ["the device has no live table", info["error"]]))
            )
        return seen

    def _below(self) -> Info | None:
        try:
            info: Info = self._client.call("info", device={"uuid": self._uuid})
        except ClientError as error:
            if error.errno != errno.ENXIO:
                raise
            return None
        return info

    @property
    def _uuid(self) -> str:
        return f"DMTOOL-move-{self._minor}"

    # -- forward ----------------------------------------------------------------------------------

    def _step(self, seen: _Seen, source: str, to: str, *, force: bool) -> bool:
        """Whether that was the last one."""
        under = seen.under
        if under is None:
            return self._begin(seen, source, to, force=force)
        if under.source == to:
            self._exchange(seen, seen.word, to)
            self._remove_below(seen, under)
            return True
        self._check_same_move(seen, under, source, to)
        if not seen.inserted:
            if under.target is not None:
                raise MoveError(
                    "the device does not lie on the copy that is being made",
                    "--abort puts back what was",
                )
            # it was never put to use, and the table may have been changed since
            self._remove_below(seen, under)
        elif under.target is None:
            self._mirror(seen, under, to)
        else:
            self._copy(seen, under, to)
        return False

    def _mirror(self, seen: _Seen, under: Underlay, to: str) -> None:
        try:
            self._change(seen, mirrored(under.runs, under.source, to))
        except (MoveError, ClientError):
            self._step_back(self._look())
            self._discard_made()
            raise

    def _discard_made(self) -> None:
        if self._made:
            os.unlink(self._made)
            self._made = ""

    def _check_same_move(self, seen: _Seen, under: Underlay, source: str, to: str) -> None:
        assert seen.below is not None
        begun = self._client.call("areas", device={"uuid": self._uuid})
        number = chosen(begun["devices"], resolve(self._client, source))
        given = None if number is None else word_of(begun["devices"][number])
        if given != under.source or (under.target or to) != to:
            way = f"from {under.source}" + (f" to {under.target}" if under.target else "")
            raise MoveError(
                f"another move, {way}, is under way", "finish that one first, or --abort it"
            )

    def _begin(self, seen: _Seen, source: str, to: str, *, force: bool) -> bool:
        """Put a device under this one that has the same sectors in the same places. Whether there
        is nothing to do."""
        answer = self._call("areas")
        devices = answer["devices"]
        number = chosen(devices, resolve(self._client, source))
        there = chosen(devices, to)
        if number is None:
            if there is not None:
                return True  # this is the end of the move, seen by one who did not live to tell
            raise MoveError(f"nothing of the device lies on {source}")
        word = word_of(devices[number])
        if there == number:
            raise MoveError(f"{source} and the place to move to are the same")
        if there is not None:
            raise MoveError(f"the device lies on {to} already, besides {word}")
        if seen.info["inactive"]:
            raise MoveError("the device has an inactive table", "resume or clear it first")
        found = runs(seen.lines, answer["areas"], number, word)
        self._check_others(found, word, to)
        if make_ready(to, found, word, force=force):
            self._made = unescape(to)
        try:
            self._check_text(mirrored(found, word, to))
            self._check_text(replaced(seen.lines, word, to), readonly=seen.info["readonly"])
            self._create(seen, plain(found, word))
            try:
                below = self._below()
                assert below is not None
                self._exchange(seen, word, f"{below['major']}:{below['minor']}")
            except (MoveError, ClientError):
                self._client.call("remove", device={"uuid": self._uuid})
                raise
        except (MoveError, ClientError):
            self._discard_made()
            raise
        return False

    def _check_others(self, found: list[Run], word: str, to: str) -> None:
        """No other device uses the same sectors of one of the two: it would write past the copier,
        or over the copy."""
        for info in self._client.call("list"):
            device = {"minor": info["minor"]}
            if info["minor"] == self._minor:
                continue
            devices = self._client.call("deps", device=device)["deps"]
            if not {word, to} & {word_of(one) for one in devices}:
                continue
            answer = self._client.call("areas", device=device)
            for number, one in enumerate(answer["devices"]):
                theirs = used(answer["areas"], number)
                if word_of(one) in (word, to) and overlap(found, theirs):
                    raise MoveError(f"{info['name']} uses the same sectors of {word_of(one)}")

    def _check_text(self, text: str, *, readonly: bool = False) -> None:
        answer = self._client.call("check", table=text, readonly=readonly)
        for error in answer["errors"]:
            reason = ": ".join(filter(None, (error["reason"], error["cause"])))
            raise MoveError(reason, error["hint"])

    def _create(self, seen: _Seen, table: str) -> None:
        taken = {info["name"] for info in self._client.call("list")}
        number = 0
        while (name := f"{seen.info['name']}-move{number}") in taken:
            number += 1
        if len(name) > NAME_MAX:
            name = self._uuid
        self._client.call("create", name=name, uuid=self._uuid, table=table)

    def _exchange(self, seen: _Seen, old: str, new: str) -> None:
        """Put one device in place of another in the table of the device that is moved."""
        if not names(seen.lines, old):
            return
        text = replaced(seen.lines, old, new)
        if seen.info["inactive"]:
            inactive = self._call("table", inactive=True)["targets"]
            if not same(inactive, text):
                raise MoveError("the device has an inactive table", "resume or clear it first")
        self._call("load", table=text, readonly=seen.info["readonly"])
        self._call("resume")

    def _remove_below(self, seen: _Seen, under: Underlay) -> None:
        """Remove the lower device, which the live table does not name."""
        if seen.info["inactive"]:
            inactive = self._call("table", inactive=True)["targets"]
            if same(inactive, replaced(seen.lines, under.source, seen.word)):
                self._call("clear")
        self._call_below(seen, "remove")

    def _change(self, seen: _Seen, text: str, **only_if: Any) -> None:
        """Give the lower device another table."""
        self._call_below(seen, "load", table=text)
        self._call_below(seen, "resume", **only_if)

    # -- copying ----------------------------------------------------------------------------------

    def _copy(self, seen: _Seen, under: Underlay, to: str) -> None:
        """Wait until all is copied, and let go of the source."""
        assert seen.below is not None
        device = {"minor": seen.below["minor"]}
        with Follower(self._directory) as follower:
            follower.begin(device=device)
            if seen.below["inactive"]:
                # nobody shall resume it before its time
                self._call_below(seen, "clear")
            if self._progress(seen).failed:
                # it was told before; a table that is loaded anew tries anew
                self._change(seen, mirrored(under.runs, under.source, to))
            self._throttle(seen, under)
            while not follower.finished:
                # in this order: what happens after the number was asked for is another number
                event_nr = self._call_below(seen, "info")["event_nr"]
                copied = self._progress(seen)
                if copied.failed:
                    raise copied.error(under.source, to)
                self._told(copied)
                if copied.complete:
                    self._let_go(seen, under, to, event_nr)
                    return
                follower.next(self._interval)

    def _progress(self, seen: _Seen) -> Copied:
        return Copied.of(self._call_below(seen, "status")["targets"])

    def _throttle(self, seen: _Seen, under: Underlay) -> None:
        if self._rate is not None:
            each = max(self._rate // len(under.runs), 1)
            for low, _ in under.runs:
                self._call_below(seen, "message", sector=low, message=f"rate {each}")

    def _let_go(self, seen: _Seen, under: Underlay, to: str, event_nr: int) -> None:
        """From here on the target alone has what is written: it must have all that was before, on
        stable storage, as must be the fact itself."""
        try:
            self._change(seen, plain(under.runs, to), event_nr=event_nr, durable=True)
        except ClientError as error:
            if error.errno != errno.ESTALE:
                raise
            self._call_below(seen, "clear")

    # -- back -------------------------------------------------------------------------------------

    def _step_back(self, seen: _Seen) -> None:
        under = seen.under
        if under is None:
            raise MoveError("no move of the device is under way")
        if under.target is not None:
            self._change(seen, plain(under.runs, under.source))
        self._exchange(seen, seen.word, under.source)
        self._back_on = under.source
        self._remove_below(seen, under)
