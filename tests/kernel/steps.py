# SPDX-License-Identifier: Apache-2.0
"""Runs the recorder's shell commands: dmsetup in this process, tools on /dev/mapper by NBD."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from contextlib import ExitStack

from tests.kernel.background import Background
from tests.kernel.bench import Bench, Done
from tests.kernel.disks import SECTOR

_PREFIX = "/dev/mapper/"

# A dd that may hang, and one that is killed then: here it is a test that fails then.
_IN_BACKGROUND = re.compile(r"\(dd ([^()>]*) > (\S+) 2>&1; echo dd \$\? >> \2\) & ")
_KILLED = re.compile(r"timeout -s KILL \d+ (?=dd )")
# A wait that may be for ever, and what is done meanwhile.
_WAIT = re.compile(
    r"(?:\(sleep \d+; (?P<meanwhile>[^()]*)\) & )?"
    r"timeout (?P<seconds>\d+) (?P<command>dmsetup wait [^;]*); echo \$\?$"
)
_KNOWN = frozenset(
    "background blockdev cat dd dmsetup dmstats echo exec grep kill od sleep".split()
)


class _NeedsShellError(Exception):
    """A command line of which only a shell makes sense."""


class Steps:
    """The steps of one scenario. What they keep open is closed with the context manager."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._held = ExitStack()
        self._background: dict[str, Background] = {}  # by the path of what dd prints

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()

    def run(self, command: str) -> Done:
        """Run a recorded command line, in a shell of its own."""
        command = self._bench.ours(command)
        command = _IN_BACKGROUND.sub(r"background \1 \2; ", _KILLED.sub("", command))
        # `sleep` was for that, and a process that has ended already cannot be killed
        command = re.sub(r"& sleep \d+; (?=kill \$!;)", "& wait $!; ", command)
        wait = _WAIT.search(command)
        if wait is None:
            return self._run(command)
        done = self._run(command[: wait.start()])
        waited = self._waited(wait["command"], wait["meanwhile"] or "", int(wait["seconds"]))
        return Done(waited.status, done.stdout + waited.stdout, done.stderr + waited.stderr)

    def _run(self, command: str) -> Done:
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

    def _waited(self, command: str, meanwhile: str, seconds: int) -> Done:
        """What busybox's timeout does: its child's status is its own, and the shell tells of the
        signal."""
        with self._bench.waiting(command) as process:
            done = self._run(meanwhile)
            try:
                out, err = (text.decode() for text in process.communicate(timeout=seconds))
                status = process.returncode
            except subprocess.TimeoutExpired:
                process.terminate()
                out, err, status = "", "Terminated\n", 128 - process.wait()
        return Done(0, f"{done.stdout}{out}{status}\n", done.stderr + err)

    def _run_line(self, line: list[list[str]], shell: ExitStack) -> Done:
        words, *filters = line
        errors, target = words[-3:-1], words[-1]
        status, out, err = self._run_words(words[:-3] if errors[:1] == ["2"] else words, shell)
        # of these tools only dd is asked so, and it prints on stderr alone
        if (errors, target) == (["2", ">&"], "1"):
            out, err = out + err, ""
        elif (errors, target) == (["2", ">"], "/dev/null"):
            err = ""
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
            case ["background", *operands, path]:
                name = _device(dict(word.split("=", 1) for word in operands)["of"])
                self._background[path] = Background(self._bench, name, 0, bytes(SECTOR))
            case ["echo", *texts]:
                return Done(0, f"{' '.join(texts)}\n", "")
            case ["cat", path]:
                return Done(0, self._printed(path, wait=False), "")
            case ["grep", "-v", "-e", one, "-e", other, path]:
                lines = self._printed(path, wait=True).splitlines(keepends=True)
                return Done(0, "".join(x for x in lines if one not in x and other not in x), "")
            case ["exec", "9", "<", path]:
                shell.enter_context(self._bench.opened(_device(path)))
            case ["sleep", "20", "<", path, "&", "echo", "$!", ">", _]:
                self._held.enter_context(self._bench.opened(_device(path)))
            case ["kill", "$(cat", _]:
                self._held.close()
            case _:
                assert words[0] == "sleep"
                self._settle()
        return Done(0, "", "")

    # -- what takes its time ---------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait for what the recorder gave time to: mirrors, and writes that are done or held. A
        mirror holds those that leave a region out of sync, and then it has a leg that failed."""
        self._bench.settle()
        for write in self._background.values():
            while not (write.answered or self._holds(write.name)):
                pass  # each is an answer from the core

    def _holds(self, name: str) -> bool:
        status = self._bench.dmsetup("status", name).stdout
        found = re.search(r" (\d+)/(\d+) 1 A*[DFRS]", status)
        return found is not None and found[1] != found[2]

    def _printed(self, path: str, *, wait: bool) -> str:
        """What dd in the background has printed, and its status; nothing while it hangs."""
        write = self._background[path]
        if not wait and not write.answered:
            return ""
        number = self._background.pop(path).result()
        error = f"dd: error writing '{_PREFIX}{write.name}': {os.strerror(number)}\n"
        return f"{error if number else ''}dd {int(bool(number))}\n"

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
        """One sector read, or zeroed, by dd; or a disk zeroed."""
        if _PREFIX not in operands["of"] + operands["if"]:
            count = int(operands["count"])
            disk = next(d for d in self._bench.disks.disks.values() if d.path == operands["of"])
            disk.write(0, bytes(count * SECTOR))
            return Done(0, "", f"{count}+0 records in\n{count}+0 records out\n")
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
    elsewhere = {
        "cat": not first[-1].endswith("/dd.out"),
        "dmsetup": bool({"<", ">", "&"} & set(first)),
        "echo": bool({"$?", ">"} & set(first)),
        "grep": not first[-1].endswith("/dd.out"),
        "od": not first[-1].startswith(_PREFIX),
    }
    if first[0] not in _KNOWN or elsewhere.get(first[0]):
        raise _NeedsShellError
    return [first, *filters]


def _device(path: str) -> str:
    assert path.startswith(_PREFIX)
    return path.removeprefix(_PREFIX)
