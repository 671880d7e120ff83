# SPDX-License-Identifier: Apache-2.0
"""What outlives a crash: the definitions of all mapped devices, in one SQLite file.

Only the core process that holds the directory's lock opens the file. Everything is committed
when a method returns. ``synchronous=NORMAL`` with a write-ahead log: a killed process loses
nothing, a power cut may lose the last commits but never the file's consistency.

Tables are kept apart from devices, and their text in parts: an event number is written often,
and must not drag 400 MB of a ten-million-line table with it. Names and text are blobs, because
paths are bytes; ``sqlite3 state.db`` shows them as text all the same.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dmtool.errors import CoreError

log = logging.getLogger(__name__)

PART = 1 << 20  # characters of table text a row, about
LOG_MOST = 64 << 20  # bytes of the write-ahead log that are kept between transactions
ROOM_MOST = 64 << 20  # bytes of the file that nothing is in, and that are kept
READ_AHEAD = 256  # sectors, the kernel's default (128 KiB)

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE tables (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            minor INTEGER NOT NULL,
            readonly INTEGER NOT NULL,
            lower TEXT NOT NULL
        )
        """,
        "CREATE INDEX tables_minor ON tables (minor)",
        """
        CREATE TABLE table_text (
            id INTEGER NOT NULL REFERENCES tables ON DELETE CASCADE,
            part INTEGER NOT NULL,
            text BLOB NOT NULL,
            PRIMARY KEY (id, part)
        )
        """,
        """
        CREATE TABLE devices (
            minor INTEGER PRIMARY KEY,
            name BLOB NOT NULL UNIQUE,
            uuid BLOB NOT NULL,
            live INTEGER REFERENCES tables,
            inactive INTEGER REFERENCES tables,
            suspended INTEGER NOT NULL,
            event_nr INTEGER NOT NULL,
            read_ahead INTEGER NOT NULL,
            deferred_remove INTEGER NOT NULL,
            mode INTEGER,
            uid INTEGER,
            gid INTEGER
        )
        """,
    ),
)


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table in the store. ``lower``: minors of the mapped devices it lies on."""

    id: int
    readonly: bool
    lower: frozenset[int]


@dataclass(frozen=True, slots=True)
class Definition:
    """One mapped device as it is stored; the tables' texts stay in the store.

    ``live`` and ``inactive`` are what the device is meant to have: after a restart it may lack
    a table whose backing is gone, and the definition keeps it all the same.
    """

    minor: int
    name: str
    uuid: str = ""
    live: StoredTable | None = None
    inactive: StoredTable | None = None
    suspended: bool = False
    event_nr: int = 0
    read_ahead: int = READ_AHEAD
    deferred_remove: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class State:
    """The store.

    Threads: any; one lock around the one connection, held for the length of a transaction.
    """

    def __init__(self, path: str) -> None:
        """Open or make the file. Raises CoreError if it is not ours or cannot be written."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.execute(f"PRAGMA journal_size_limit = {LOG_MOST}")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise self._failed(error) from error
        if version > len(_MIGRATIONS):
            raise CoreError(
                f"{self._path} was written by a newer dmtool (format {version}, this one knows "
                f"{len(_MIGRATIONS)})",
                hint="upgrade dmtool, or set DMTOOL_DIR to another directory",
                errno=errno.EPROTO,
            )
        with self._transaction() as db:
            for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
                for statement in statements:
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")
            # tables that were stored for a device whose row was never written
            db.execute(
                "DELETE FROM tables WHERE id NOT IN (SELECT live FROM devices WHERE live NOTNULL)"
                " AND id NOT IN (SELECT inactive FROM devices WHERE inactive NOTNULL)"
            )

    def close(self) -> None:
        """Checkpoint and close; further calls raise CoreError. Where large tables have gone, the
        room that they took is given back."""
        with self._lock:
            try:
                free, pages, size = (
                    self._db.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("freelist_count", "page_count", "page_size")
                )
                # what is left has to be copied: not for less than as much
                if free * size > ROOM_MOST and free > pages // 2:
                    self._db.execute("VACUUM")
            except sqlite3.Error as error:
                log.warning("%s", self._failed(error))  # it is only larger than it need be
            finally:
                self._db.close()

    def devices(self) -> list[Definition]:
        """All definitions, by minor."""
        with self._transaction() as db:
            tables = {
                row[0]: StoredTable(row[0], bool(row[1]), frozenset(map(int, row[2].split())))
                for row in db.execute("SELECT id, readonly, lower FROM tables")
            }
            return [
                Definition(
                    minor=minor,
                    name=_text(name),
                    uuid=_text(uuid),
                    live=tables.get(live),
                    inactive=tables.get(inactive),
                    suspended=bool(suspended),
                    event_nr=event_nr,
                    read_ahead=read_ahead,
                    deferred_remove=bool(deferred),
                    mode=mode,
                    uid=uid,
                    gid=gid,
                )
                for (
                    minor, name, uuid, live, inactive, suspended, event_nr, read_ahead, deferred,
                    mode, uid, gid,
                ) in db.execute(
                    "SELECT minor, name, uuid, live, inactive, suspended, event_nr, read_ahead,"
                    " deferred_remove, mode, uid, gid FROM devices ORDER BY minor"
                )
            ]  # fmt: skip

    def text(self, table: StoredTable) -> str:
        """The text of a stored table, as ``store`` got it."""
        with self._transaction() as db:
            return "".join(
                _text(row[0])
                for row in db.execute(
                    "SELECT text FROM table_text WHERE id = ? ORDER BY part", (table.id,)
                )
            )

    def store(
        self, minor: int, lines: Iterable[str], *, readonly: bool, lower: frozenset[int]
    ) -> StoredTable:
        """Store a table for a device; it is dropped again unless ``save`` comes to name it.

        ``lines``: canonical table lines, each with its newline. They come out of plugins, and
        there may be millions: no lock is held while the next part of them is made.
        """
        with self._transaction() as db:
            number = db.execute(
                "INSERT INTO tables (minor, readonly, lower) VALUES (?, ?, ?)",
                (minor, readonly, " ".join(map(str, sorted(lower)))),
            ).lastrowid
            assert number is not None
        for part, text in enumerate(_parts(lines)):
            with self._transaction() as db:
                db.execute("INSERT INTO table_text VALUES (?, ?, ?)", (number, part, text))
        return StoredTable(number, readonly, lower)

    def save(self, device: Definition, *, durable: bool = False) -> None:
        """Write a device's row, and drop the tables of its that it no longer names; with
        ``durable`` all that was written up to now is on stable storage afterwards.

        The event number is not lowered: an event may have been counted, and written, meanwhile.
        """
        live = device.live.id if device.live else None
        inactive = device.inactive.id if device.inactive else None
        with self._transaction(durable=durable) as db:
            db.execute(
                "INSERT INTO devices (minor, name, uuid, live, inactive, suspended, event_nr,"
                " read_ahead, deferred_remove, mode, uid, gid)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (minor) DO UPDATE SET name = excluded.name, uuid = excluded.uuid,"
                " live = excluded.live, inactive = excluded.inactive,"
                " suspended = excluded.suspended, event_nr = max(event_nr, excluded.event_nr),"
                " read_ahead = excluded.read_ahead, deferred_remove = excluded.deferred_remove,"
                " mode = excluded.mode, uid = excluded.uid, gid = excluded.gid",
                (
                    device.minor, _blob(device.name), _blob(device.uuid), live, inactive,
                    device.suspended, device.event_nr, device.read_ahead, device.deferred_remove,
                    device.mode, device.uid, device.gid,
                ),
            )  # fmt: skip
            db.execute(
                "DELETE FROM tables WHERE minor = ? AND id IS NOT ? AND id IS NOT ?",
                (device.minor, live, inactive),
            )

    def save_events(self, numbers: dict[int, int]) -> None:
        """Write event numbers, by minor. They only ever rise, in whatever order they come."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE devices SET event_nr = max(event_nr, ?) WHERE minor = ?",
                [(event_nr, minor) for minor, event_nr in numbers.items()],
            )

    def delete(self, minor: int) -> None:
        """Forget a device and its tables."""
        with self._transaction() as db:
            db.execute("DELETE FROM devices WHERE minor = ?", (minor,))
            db.execute("DELETE FROM tables WHERE minor = ?", (minor,))

    @contextmanager
    def _transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                # FULL: every commit syncs the log (sqlite.org/pragma.html#pragma_synchronous)
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    # a full disk has rolled it back already
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> CoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        hint = None
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            hint = f"move {self._path} away: its devices are lost, the images are not"
        return CoreError(
            f"{self._path}: {error}",
            hint=hint,
            errno=errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO,
        )


def _parts(lines: Iterable[str]) -> Iterator[bytes]:
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= PART:
            yield _blob("".join(held))
            held.clear()
            size = 0
    if held:
        yield _blob("".join(held))


def _blob(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogateescape")
