# SPDX-License-Identifier: Apache-2.0
"""``python -m dmtool.core``: the core as a process of its own (docs/control-protocol.md)."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from logging.handlers import RotatingFileHandler

from dmtool.core.process import IDLE, Core
from dmtool.directory import Directory, locate
from dmtool.errors import CoreError

LOG_MAX = 1 << 20  # bytes, once more in its predecessor

log = logging.getLogger("dmtool.core")


class _Log(RotatingFileHandler):
    """The log; the standard streams of the process follow it."""

    def doRollover(self) -> None:  # noqa: N802  # logging's name
        super().doRollover()
        self.take_streams()

    def take_streams(self) -> None:
        if self.stream is not None:
            for fd in (1, 2):
                os.dup2(self.stream.fileno(), fd)


def main() -> int:
    """Run a core; the process's exit status."""
    options = _options()
    directory = Directory(os.path.abspath(options.directory)) if options.directory else locate()
    os.umask(0o077)
    # taken by one thread, below; every other one inherits the mask
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        directory.prepare()
        _open_log(directory, foreground=options.foreground)
        core = Core(directory, idle=options.idle)
        started = core.start()
    except CoreError as error:
        hint = f" ({error.hint})" if error.hint else ""
        _report(options.ready_fd, f"error {error}{hint}")
        log.error("%s", error)
        return 1
    except Exception as error:
        _report(options.ready_fd, f"error {type(error).__name__}: {error}")
        log.exception("start")
        return 1
    if not started:
        _report(options.ready_fd, "running")
        return 0
    os.chdir("/")
    threading.Thread(target=_stop_at, args=(core, signals), name="signals", daemon=True).start()
    _report(options.ready_fd, "ready")
    try:
        core.run()
    finally:
        core.close()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dmtool.core", description=__doc__)
    parser.add_argument("--directory", help="state directory (default: what DMTOOL_DIR says)")
    parser.add_argument(
        "--ready-fd", type=int, metavar="N", help="where to say that it runs, or why not"
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=IDLE,
        metavar="SECONDS",
        help="end after so long without device and client (default: %(default)g)",
    )
    parser.add_argument("--foreground", action="store_true", help="log to standard error as well")
    return parser.parse_args()


def _open_log(directory: Directory, *, foreground: bool) -> None:
    file = _Log(directory.log, maxBytes=LOG_MAX, backupCount=1, encoding="utf-8",
                errors="backslashreplace")  # fmt: skip
    handlers: list[logging.Handler] = [file]
    if foreground:
        handlers.append(logging.StreamHandler())
    else:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        file.take_streams()
    level = os.environ.get("DMTOOL_LOG", "INFO").upper()
    logging.basicConfig(
        level=level if level in logging.getLevelNamesMapping() else "INFO",
        handlers=handlers,
        format="%(asctime)s %(process)d %(threadName)s %(levelname)s %(name)s: %(message)s",
    )


def _stop_at(core: Core, signals: set[signal.Signals]) -> None:
    log.info("%s", signal.Signals(signal.sigwait(signals)).name)
    core.request_stop()
    # what is defined is stored; only what waits for I/O is cut off
    log.warning("%s again", signal.Signals(signal.sigwait(signals)).name)
    os._exit(1)


def _report(fd: int | None, line: str) -> None:
    if fd is None:
        return
    try:
        os.write(fd, line.replace("\n", " ").encode("utf-8", "backslashreplace") + b"\n")
        os.close(fd)
    except OSError as error:
        log.warning("ready fd: %s", error)


if __name__ == "__main__":
    sys.exit(main())
