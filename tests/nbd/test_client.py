# SPDX-License-Identifier: Apache-2.0
"""dmtool's own client, and the threads that the server lends."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from dmtool.backing import HOLE, ZERO
from dmtool.client.nbd import NbdError, connect, exports
from dmtool.export.nbd import protocol as p
from dmtool.export.nbd import workers
from dmtool.export.nbd.workers import Workers

MIB = 1 << 20


def test_reads_and_writes_of_any_length(served: Any, structured: bool) -> None:
    served.image("a.img", 40 * MIB)
    served.table(f"0 {40 * MIB // 512} linear a.img 0")
    with served.nbd(structured=structured) as nbd:
        assert (nbd.size, nbd.minimum, nbd.preferred) == (40 * MIB, 1, 4096)
        assert nbd.maximum == 32 * MIB
        assert not nbd.readonly
        data = os.urandom(35 * MIB)
        assert nbd.pwrite(data, MIB) == len(data)
        assert nbd.pread(len(data), MIB) == data
        assert nbd.pread(0, 0) == b""
        assert nbd.pwrite(b"", 0) == 0
        assert nbd.pwrite(memoryview(b"abc"), 5, fua=True) == 3
        assert nbd.pread(5, 4) == b"\0abc\0"
        nbd.flush()
        nbd.cache(MIB, 0)
        nbd.write_zeroes(MIB, MIB, no_hole=True, fua=True)
        assert nbd.pread(MIB, MIB) == bytes(MIB)
        nbd.trim(MIB, 2 * MIB)
        if structured:
            # allocated zeros may be told as a hole as long as nobody has read them
            (hole, flags), data_part = nbd.block_status(4 * MIB, 0)[-2:]
            assert hole >= MIB
            assert flags == HOLE | ZERO
            assert data_part == (MIB, 0)
            assert nbd.block_status(MIB, 2 * MIB, one=True) == [(MIB, HOLE | ZERO)]


def test_errors_are_the_servers(disk: Any) -> None:
    disk.table("0 8 linear a.img 0\n8 8 error", readonly=True)
    with disk.nbd() as nbd:
        assert nbd.readonly
        with pytest.raises(PermissionError, match="the device is read-only"):
            nbd.pwrite(b"x", 0)
        with pytest.raises(OSError, match="Input/output error") as caught:
            nbd.pread(8192, 0)
        assert caught.value.errno == p.EIO
        assert nbd.pread(4096, 0) == disk.data[:4096]
    with disk.nbd(structured=False) as nbd, pytest.raises(PermissionError):
        nbd.flush() or nbd.trim(512, 0)


def test_server_that_goes(disk: Any) -> None:
    nbd = disk.nbd()
    disk.server.close()
    with pytest.raises(ConnectionError):
        nbd.pread(512, 0)
    nbd.close()
    nbd.close()


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect(tmp_path / "none", "dev")
    with pytest.raises(FileNotFoundError):
        exports(tmp_path / ("x" * 200) / "none")


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request",
        b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53\x00\x00",  # oldstyle
        b"NBDMAGICIHAVEOPT\x00\x02",  # newstyle, not fixed
        b"NBDMAGICIHAVEOPT\x00\x03" + bytes(20),
    ],
)
def test_what_is_no_nbd_server(tmp_path: Path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()

        def speak() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(ConnectionError):
                sock.sendall(said)
                while sock.recv(100):
                    pass

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(NbdError):
            connect(tmp_path / "sock", "dev", timeout=20)
        thread.join(20)
        assert not thread.is_alive()


class TestWorkers:
    def test_at_most_so_many_at_once(self) -> None:
        pool = Workers("test", 3)
        running, go = threading.Semaphore(0), threading.Event()
        over: list[int] = []

        def job(number: int) -> None:
            running.release()
            go.wait(20)
            over.append(number)

        for i in range(10):
            pool.submit(lambda number=i: job(number))
        for _ in range(3):
            assert running.acquire(timeout=20)
        assert not running.acquire(timeout=0.02)
        go.set()
        for _ in range(7):
            assert running.acquire(timeout=20)
        pool.close()

    def test_a_thread_is_used_again(self) -> None:
        pool = Workers("test", 30)
        threads = set()
        for _ in range(20):
            done = threading.Event()

            def job(done: threading.Event = done) -> None:
                threads.add(threading.current_thread())
                done.set()

            while pool._threads and not pool._free:
                pass
            pool.submit(job)
            assert done.wait(20)
        assert len(threads) == 1
        pool.close()
        (thread,) = threads
        thread.join(20)
        assert not thread.is_alive()

    def test_threads_that_have_nothing_to_do_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(workers, "_IDLE_SECONDS", 0.01)
        pool = Workers("test", 30)
        for _ in range(3):
            threads: list[threading.Thread] = []
            done = threading.Event()

            def job(
                threads: list[threading.Thread] = threads, done: threading.Event = done
            ) -> None:
                threads.append(threading.current_thread())
                done.set()

            pool.submit(job)
            assert done.wait(20)
            threads[0].join(20)
            assert not threads[0].is_alive()
            assert (pool._threads, pool._free) == (0, 0)

    def test_a_job_that_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        pool = Workers("test", 1)
        done = threading.Event()
        pool.submit(lambda: 1 // 0)
        pool.submit(done.set)
        assert done.wait(20)
        assert "ZeroDivisionError" in caplog.text
        pool.close()

    def test_a_system_without_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", none)
        pool = Workers("test", 1)
        done: list[int] = []
        pool.submit(lambda: done.append(1))
        pool.submit(lambda: done.append(2))
        assert done == [1, 2]
