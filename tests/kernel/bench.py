# SPDX-License-Identifier: Apache-2.0
"""Where recordings are replayed: disks, a core process of its own, and the real commands."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from dmtool.cli import main
from dmtool.client import Client, nbd
from dmtool.directory import Directory
from tests.kernel.disks import Disks, Images, Loops
from tests.kernel.resync import progress


class Done(NamedTuple):
    """What a command did; bytes that are not UTF-8 are lone surrogates."""

    status: int
    stdout: str
    stderr: str


class Bench:
    """The recorder's machine: ``/`` is a folder here, ``/dev`` and ``/w`` are in it.

    Threads: one, and the process is its own while a command runs: streams, environment and
    working directory are exchanged.
    """

    def __init__(self, kind: type[Images] | type[Loops]) -> None:
        # not pytest's: the path of a unix socket has 107 bytes and no more
        self.root = Path(tempfile.mkdtemp(prefix="dmtool-"))
        for folder in ("bin", "dev", "w"):
            (self.root / folder).mkdir()
        self._core = Directory(str(self.root / "run"))
        # A dmsetup on the PATH, for steps that are more than commands.
        code = "import sys; from dmtool.cli import main; sys.argv[0] = 'dmsetup'; sys.exit(main())"
        script = self.root / "bin" / "dmsetup"
        script.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-c", code])} "$@"\n')
        script.chmod(0o755)
        # C: a locale without UTF-8, as the recorder had; trees are drawn by it.
        self.environment = os.environ | {
            "DMTOOL_DIR": self._core.path,
            "LC_ALL": "C",
            "PATH": f"{script.parent}:{os.environ['PATH']}",
        }
        self._client: Client | None = None
        try:
            self.disks: Disks = kind(self.root)
        except BaseException:
            shutil.rmtree(self.root)
            raise
        self._kept = set(self.root.rglob("*"))

    def close(self) -> None:
        """End the core; remove all."""
        try:
            if self._client is not None:
                self._client.call("stop")
                self._client.wait_for_end()
                self._client.close()
        finally:
            self.disks.close()
            shutil.rmtree(self.root)

    @property
    def client(self) -> Client:
        """A control connection, held so that the core stays."""
        if self._client is None:
            self.dmsetup("version")
            self._client = Client(self._core, start=False)
        return self._client

    # -- running -----------------------------------------------------------------------------

    def dmsetup(self, *words: str, stdin: bytes = b"", prog: str = "dmsetup") -> Done:
        """Run a command line, in this process, under the name of dmsetup or dmstats."""
        streams = {
            name: io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="")
            for name, data in (("stdin", stdin), ("stdout", b""), ("stderr", b""))
        }
        with (
            mock.patch.object(sys, "argv", [prog]),
            mock.patch.object(sys, "stdin", streams["stdin"]),
            mock.patch.object(sys, "stdout", streams["stdout"]),
            mock.patch.object(sys, "stderr", streams["stderr"]),
            mock.patch.dict(os.environ, self.environment),
            chdir(self.root),
        ):
            status = main(words)
        printed = []
        for name in ("stdout", "stderr"):
            streams[name].seek(0)
            printed.append(streams[name].read())
        return Done(status, *printed)

    def shell(self, command: str) -> Done:
        """Run a shell's command line, in which dmsetup is ours."""
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
        return Done(done.returncode, out, err)

    @contextmanager
    def opened(self, name: str) -> Iterator[nbd.Nbd]:
        """A connection to a mapped device's export; afterwards the core has seen it go."""
        disk = nbd.connect(self._core.nbd, name, structured=False)
        try:
            yield disk
        finally:
            count = self._open_count(name)
            disk.close()
            for _ in range(10_000):  # each is an answer from the core
                if self._open_count(name) < count:
                    break
            else:
                raise AssertionError(f"{name} stays open")

    def _open_count(self, name: str) -> int:
        count: int = self.client.call("info", device={"name": name})["open_count"]
        return count

    def settle(self) -> None:
        """Wait as the recorder did by sleeping: until every mirror is copied, or cannot be.

        Both are events, and so is a log that says that there is nothing to copy.
        """
        for name in [info["name"] for info in self.client.call("list")]:
            if not re.search(r" mirror (?!.* nosync )", self.dmsetup("table", name).stdout):
                continue
            event_nr = 0
            while not event_nr or progress(self.dmsetup("status", name).stdout):
                info = self.client.call("wait", device={"name": name}, event_nr=event_nr)
                event_nr = info["event_nr"]

    @contextmanager
    def waiting(self, command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A shell's command that waits for an event: started, and now waiting or done."""
        before = self._watches()
        with subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                while process.poll() is None and not self._watches() - before:
                    self.client.call("version")  # an answer from the core
                yield process
            finally:
                process.kill()
                while self._watches() - before:
                    self.client.call("version")

    def _watches(self) -> set[str]:
        """The descriptors that the core has of the kind that it takes to wait for an event."""
        found = set()
        pid = Path(self._core.lock).read_text().strip()
        for path in Path(f"/proc/{pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.update(re.findall(r"eventfd-id:\s*(\d+)", path.read_text()))
        return found

    def clear(self) -> None:
        """Leave nothing: no device, no file in /w, every disk as it was."""
        left = self.client.call("remove_all")["left"]
        if left:  # of a test that has failed
            self.client.call("remove_all", force=True)
        for folder in ("dev", "w"):
            for entry in set((self.root / folder).iterdir()) - self._kept:
                entry.unlink()
        for disk in self.disks.disks.values():
            disk.restore()
        assert not left

    # -- translating -------------------------------------------------------------------------

    def ours(self, text: str) -> str:
        """Text of a recorded table or command, for use here."""
        text = re.sub(r"\b254:(?=\d)", "1000:", text)
        text = re.sub(r"(?<=-j )254\b", "1000", text)
        text = re.sub(r"(?<![\w.])/w/", f"{self.root}/w/", text)
        return self.disks.ours(text)

    def theirs(self, text: str) -> str:
        """Text that was printed here, to be compared with ``recorded`` text."""
        return self.disks.theirs(text)

    def recorded(self, text: str) -> str:
        """Recorded text as it should be here, but for the names of disks."""
        text = re.sub(r"\b254(?=:\d|, +\d| +\d+ [-L])", "1000", text)
        text = text.replace("Name             Maj Min", "Name             Maj  Min")
        return self.disks.recorded(text)
