# SPDX-License-Identifier: Apache-2.0
"""Threads for work that may wait for a disk or for a target."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

log = logging.getLogger(__name__)

_IDLE_SECONDS = 10.0


class Workers:
    """At most ``most`` threads, started when there is work for one and ended when there is none.

    concurrent.futures costs several times as much a job, and nobody here asks for a result.

    Threads: any.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0  # threads that wait, less the jobs that wait for them

    def submit(self, job: Callable[[], None]) -> None:
        """Have ``job`` called on one of the threads; what it raises is logged."""
        with self._lock:
            start = self._free <= 0 and self._threads < self._most
            if start:
                self._threads += 1
            else:
                self._free -= 1
        if not start:
            self._jobs.put(job)
            return
        try:
            threading.Thread(target=self._run, args=(job,), name=self._name, daemon=True).start()
        except RuntimeError:  # the system has no thread left for us: slower, but done
            with self._lock:
                self._threads -= 1
            job()

    def close(self) -> None:
        """Let the threads end when they have done what is queued."""
        with self._lock:
            threads = self._threads
        for _ in range(threads):
            self._jobs.put(None)

    def _run(self, job: Callable[[], None] | None) -> None:
        while job is not None:
            try:
                job()
            except Exception:
                log.exception("a job of %s", self._name)
            job = self._next()

    def _next(self) -> Callable[[], None] | None:
        """The next job; None when this thread is to end, which it has then been counted out."""
        with self._lock:
            self._free += 1
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._free <= 0:
                        continue  # a job is on its way to this thread
                    self._free -= 1
                    self._threads -= 1
                return None
            if job is None:
                with self._lock:
                    self._free -= 1
                    self._threads -= 1
            return job
