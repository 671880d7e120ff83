# SPDX-License-Identifier: Apache-2.0
"""Runs the recorder's shell commands: dmsetup in this process, tools on /dev/mapper by NBD."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack

from tests.kernel.bench import Bench, Done
from tests.kernel.disks import SECTOR

_PREFIX = "/dev/mapper/"


class _NeedsShellError(Exception):
    """A command line of which only a shell makes sense."""


class Steps:
    """The steps of one scenario. What they keep open is closed with the context manager."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._held = ExitStack()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()

    def run(self, command: str) -> Done:
        """Run a recorded command line, in a shell of its own."""
        command = self._bench.ours(command)
        with ExitStack() as shell:
            try:
                lines = [_pipeline(words) for words in _split(_words(command), ";")]
            except _NeedsShellError:
                return self._bench.shell(command)
            done = Done(0, "", "")
            for line in lines:
                status, out, err = self._run_line(line, shell)
                done = Done(status, done.stdout + out, done.stderr + err)
            return done

    def _run_line(self, line: list[list[str]], shell: ExitStack) -> Done:
        words, *filters = line
        merged = words[-3:] == ["2", ">&", "1"]
        status, out, err = self._run_words(words[:-3] if merged else words, shell)
        if merged:
            # of these tools only dd is asked so, and it prints on stderr alone
            out, err = out + err, ""
        for name, *arguments in filters:
            lines = out.splitlines(keepends=True)
            if name == "head":
                kept = lines[: int(arguments[0][1:])]
            else:
                kept = [text for text in lines if arguments[1].lower() in text.lower()]
            out = "".join(kept)
            status = int(name == "grep" and not kept)
        return Done(status, out, err)

    def _run_words(self, words: list[str], shell: ExitStack) -> Done:
        match words:
            case ["dmsetup" | "dmstats" as prog, *arguments]:
                return self._bench.dmsetup(*arguments, prog=prog)
            case ["blockdev", question, path]:
                return Done(0, f"{self._asked(question, _device(path))}\n", "")
            case ["od", "-An", "-tx1", count, path]:
                return Done(0, self._dumped(int(count[2:]), _device(path)), "")
            case ["dd", *operands]:
                return self._copied(dict(word.split("=", 1) for word in operands))
            case ["exec", "9", "<", path]:
                shell.enter_context(self._bench.opened(_device(path)))
            case ["sleep", "20", "<", path, "&", "echo", "$!", ">", _]:
                self._held.enter_context(self._bench.opened(_device(path)))
            case ["kill", "$(cat", _]:
                self._held.close()
            case _:
                assert words[0] == "sleep"  # nothing to wait for: what they did is done
        return Done(0, "", "")

    # -- tools that the recorder ran on device nodes ---------------------------------------------

    def _asked(self, question: str, name: str) -> int:
        if question == "--getra":
            ahead: int = self._bench.client.call("info", device={"name": name})["read_ahead"]
            return ahead
        with self._bench.opened(name) as disk:
            return {"--getsz": disk.size // SECTOR, "--getro": int(disk.readonly)}[question]

    def _dumped(self, count: int, name: str) -> str:
        with self._bench.opened(name) as disk:
            return f" {disk.pread(count, 0).hex(' ')}\n"

    def _copied(self, operands: dict[str, str]) -> Done:
        """One sector read, or zeroed, by dd."""
        writing = operands["of"].startswith(_PREFIX)
        path = operands["of" if writing else "if"]
        sector = int(operands.get("seek" if writing else "skip", 0))
        error, records = "", 0
        with self._bench.opened(_device(path)) as disk:
            try:
                if writing:
                    disk.pwrite(bytes(SECTOR), sector * SECTOR)
                elif sector * SECTOR < disk.size:  # reading at the end gives nothing, and no error
                    disk.pread(SECTOR, sector * SECTOR)
                records = int(writing or sector * SECTOR < disk.size)
            except OSError as failed:
                doing = "writing" if writing else "reading"
                error = f"dd: error {doing} '{path}': {os.strerror(failed.errno or 0)}\n"
        counts = f"{records}+0 records in\n{records}+0 records out\n"
        return Done(int(bool(error)), "", f"{error}{counts}{records * SECTOR} bytes copied\n")


def _words(command: str) -> list[str]:
    """The words and operators of a command line. Raises _NeedsShellError.

    A shell, and so a process of their own, is also for commands that look at more of the process
    than its streams: --exec runs programs, --tree draws by the locale that the process began with.
    """
    if any(sign in command for sign in ("--exec", "--tree", "$'", '"$(')):
        raise _NeedsShellError
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";|<>&")
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def _split(words: list[str], at: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _pipeline(words: list[str]) -> list[list[str]]:
    """The commands of a pipeline, if this module can run them. Raises _NeedsShellError."""
    first, *filters = _split(words, "|")
    if any(words[0] not in {"head", "grep"} for words in filters):
        raise _NeedsShellError
    known = first[0] in {"dmsetup", "dmstats", "blockdev", "od", "dd", "exec", "sleep", "kill"}
    if not known or (first[0] == "dmsetup" and {"<", ">", "&"} & set(first)):
        raise _NeedsShellError
    return [first, *filters]


def _device(path: str) -> str:
    assert path.startswith(_PREFIX)
    return path.removeprefix(_PREFIX)
