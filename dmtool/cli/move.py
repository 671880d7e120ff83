# SPDX-License-Identifier: Apache-2.0
"""``move``: a device, in use, from one image file to another (docs/move.md)."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import deque
from typing import Any

from dmtool.cli.session import Failed, Session
from dmtool.client import ClientError
from dmtool.client.move import Move
from dmtool.client.moveplaces import unescape
from dmtool.client.movetables import Copied

# Seconds between two looks at how far it is: for people, for programs.
_SHOWN, _TOLD = 0.2, 1.0
_WINDOW = 5.0  # seconds of which the rate is shown
_RATE = re.compile(r"([1-9][0-9]{0,17})(?:([KMGT])iB|B)?(?:/s)?", re.ASCII)
_MIB = 1 << 20


def move(session: Session, operands: list[str]) -> None:
    """``move DEVICE --from A --to B`` and ``move DEVICE --abort``."""
    switches = session.switches
    source, target = switches.value("from"), switches.value("to")
    rate = _rate(switches.value("rate"))
    device = session.device(operands)
    info = session.ioctl("info", device, "info")
    told = _teller(session, info["name"], source or "", target or "")
    mover = Move(
        session.client.directory, info["minor"], told.at, interval=told.interval, rate=rate
    )
    session.client.close()
    try:
        if "abort" in switches:
            on = mover.abort()
            told.end("aborted", unescape(on))
        elif source is None or target is None:
            raise Failed("Please say where to move --from and --to.")
        else:
            on = mover.run(source, target, force="force" in switches)
            told.end("done", unescape(on))
    except ClientError as error:
        told.stop()
        session.fail(None, device, error)
    except KeyboardInterrupt:
        told.stop()
        session.error(
            "Interrupted. What is being copied goes on; the same command takes it up, "
            "--abort puts back what was."
        )
        raise
    finally:
        told.stop()
        mover.close()


def _rate(text: str | None) -> int | None:
    """Bytes a second, as the mirror's message has them."""
    if text is None:
        return None
    found = _RATE.fullmatch(text)
    if found is None:
        raise Failed(f"Invalid argument for --rate: {text}.")
    return int(found[1]) << (10 * " KMGT".index(found[2] or " "))


class _Rate:
    """Bytes a second, of the last seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def at(self, done: int) -> float | None:
        """None: not known yet."""
        points, now = self._points, time.monotonic()
        if points and done < points[-1][1]:
            points.clear()  # it began anew
        points.append((now, done))
        while len(points) > 2 and now - points[1][0] > _WINDOW:
            points.popleft()
        (begun, before), taken = points[0], now - points[0][0]
        return (done - before) / taken if taken > 0 and begun != now else None


class _Silent:
    """Says nothing while it goes on; at the end, where all lies."""

    interval: float | None = None

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = session.shown(name)

    def at(self, copied: Copied) -> None:
        """So much is copied."""

    def stop(self) -> None:
        """The terminal is free for other words."""

    def end(self, state: str, place: str) -> None:
        """It has come to its end."""
        self.stop()
        self.session.out(f"{self.name} lies on {place}\n")


class _Bar(_Silent):
    """A bar on a terminal."""

    interval = _SHOWN

    def __init__(self, session: Session, name: str) -> None:
        super().__init__(session, name)
        self._rate = _Rate()
        self._bar: Any = None

    def at(self, copied: Copied) -> None:
        import click

        if self._bar is None:
            self._bar = click.progressbar(
                length=copied.total,
                label=self.name,
                file=sys.stderr,
                width=0,
                show_eta=False,
                show_percent=True,
                item_show_func=lambda text: text,
            )
        rate = self._rate.at(copied.done)
        text = ""
        if rate is not None:
            text = f"{rate / _MIB:.0f} MiB/s"
        if rate:
            left = int((copied.total - copied.done) / rate)
            text += f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        self._bar.update(copied.done - self._bar.pos, text)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None


class _Lines(_Silent):
    """JSON, an object a line."""

    interval = _TOLD

    def __init__(self, session: Session, name: str, source: str, target: str) -> None:
        super().__init__(session, name)
        self._names = {"device": self.name, "from": source, "to": target}
        self._rate = _Rate()

    def at(self, copied: Copied) -> None:
        rate = self._rate.at(copied.done)
        self._say(
            "copying",
            copied=copied.done,
            size=copied.total,
            rate=None if rate is None else int(rate),
            left=round((copied.total - copied.done) / rate, 1) if rate else None,
        )

    def end(self, state: str, place: str) -> None:
        self._say(state, on=place)

    def _say(self, state: str, **more: Any) -> None:
        document = {"version": 1, "state": state, **self._names, **more}
        self.session.out(json.dumps(document) + "\n")
        self.session.flush()


def _teller(session: Session, name: str, source: str, target: str) -> _Silent:
    if session.json:
        return _Lines(session, name, source, target)
    return _Bar(session, name) if sys.stderr.isatty() else _Silent(session, name)
