"""A trace store in one SQLite file: WAL, one connection, usable from any thread under a lock."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from recov_graph.errors import StoreError
from recov_graph.store.guard import checked_name, harden, refuse_other_objects
from recov_graph.store.holding import held
from recov_graph.store.migrations import migrations

BUSY_SECONDS = 60.0
MEMORY = ":memory:"


class SqliteFile:
    """The file behind a `TraceStore`. Whoever calls holds the store's lock.

    A file that may not be written, as on a read-only medium, is opened to be read.

    Args:
        path: the file, made with its folders where missing; ":memory:" for none at all.
        read_only: whether nothing may be written.

    Raises:
        StoreError: a database of another program, or of a newer version of this one.
    """

    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError, OverflowError, UnicodeError)
    passing: tuple[type[Exception], ...] = ()

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only or (path != MEMORY and _only_readable(Path(path)))
        if path != MEMORY and not self.read_only:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        how: dict[str, Any] = {
            "timeout": BUSY_SECONDS,
            "check_same_thread": False,
            "isolation_level": None,
        }
        self.connection = (
            open_to_read(Path(path), **how) if self.read_only else sqlite3.connect(path, **how)
        )
        self._db = Database(self.connection)
        try:
            self._prepare()
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self) -> None:
        harden(self.connection)
        self.run("PRAGMA foreign_keys = ON")
        pending = self._pending()
        self._refuse_others(views=not pending)
        if self.read_only:
            if pending:
                raise StoreError(
                    f"{self.path} is of an older recov-graph and is only read, so that it "
                    "cannot be upgraded; copy it to where it can be written"
                )
            return
        self._write_ahead()
        self.run("PRAGMA synchronous = NORMAL")
        if pending:
            with self.transaction():
                migrations.apply(self._db)
                self._refuse_others(views=True)

    def _refuse_others(self, *, views: bool) -> None:
        refuse_other_objects(lambda sql: self.read(sql)[1], self.path, views=views)

    def _write_ahead(self) -> None:
        """Switch to WAL; unlike other statements the switch does not wait for a busy file."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._db.enable_wal()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _pending(self) -> bool:
        """Whether steps of the schema are missing; refuses what is not ours or is newer."""
        tables = set(self._db.table_names())
        if tables and "_sqlite_migrations" not in tables:
            raise StoreError(
                f"{self.path} is a database of another program, not of recov-graph; "
                "name another file with --db or RECOV_GRAPH_DB"
            )
        known = {migration.name for migration in migrations.pending(Database(memory=True))}
        applied = {migration.name for migration in migrations.applied(self._db)}
        for name in sorted(applied - known):
            raise StoreError(
                f"{self.path} was written by a newer recov-graph (it has {name!r}); "
                "upgrade with `pip install -U recov-graph` or name another file with --db"
            )
        return applied != known

    @staticmethod
    def advice(error: Exception) -> str:
        """What to do about an error."""
        if "disk is full" in str(error):
            return "make room; then the same command goes on, where it has --resume"
        return "check that the path can be written and is a recov-graph database"

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Any]]:
        """The names of the columns and the rows of a SELECT."""
        cursor = self.connection.execute(sql, parameters)
        return [column[0] for column in cursor.description], cursor.fetchall()

    @contextmanager
    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Iterator[Any]]:
        """The rows of a SELECT one by one, through a connection of its own: nobody waits for it."""
        with closing(open_to_read(Path(self.path), timeout=BUSY_SECONDS)) as connection:
            harden(connection)
            yield iter(connection.execute(sql, parameters))

    def recover(self) -> None:
        """Nothing passes by itself here."""

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Carry out a statement that gives nothing back."""
        self.connection.execute(sql, parameters)

    def upsert(self, table: str, columns: tuple[str, ...], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows, or update those whose id is there."""
        self.connection.executemany(upsert_sql(table, columns), rows)

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All that is written inside, or none of it.

        Args:
            durable: once it returns, this and all before it survive a loss of power; otherwise
                the last moments before one may be missing, and nothing else.
        """
        if durable:
            self.run("PRAGMA synchronous = FULL")
        try:
            self.run("BEGIN IMMEDIATE")
            yield
            self.run("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.rollback()
            raise
        finally:
            if durable:
                self.run("PRAGMA synchronous = NORMAL")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment."""
        self.run("BEGIN")
        try:
            yield
        finally:
            self.run("COMMIT")

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold a name, such as a run's id; false where another process holds it."""
        if self.path == MEMORY:
            yield True
            return
        with held(Path(f"{self.path}.{name}.lock")) as mine:
            yield mine

    def version(self) -> int:
        """A number that changes whenever somebody else has written."""
        return int(self.read("PRAGMA data_version")[1][0][0])

    def unsettled(self) -> bool:
        """Whether a row may yet appear before those that are there: one writes at a time here."""
        return False

    def schema(self) -> str:
        """The SQL that makes an empty store."""
        return self._db.schema


@lru_cache(maxsize=256)
def upsert_sql(table: str, columns: tuple[str, ...]) -> str:
    """The statement that inserts a row, or updates the one that has its id.

    Raises:
        StoreError: one of the names is none.
    """
    for name in (table, *columns):
        checked_name(name)
    names = ", ".join(f'"{column}"' for column in columns)
    values = ", ".join("?" * len(columns))
    changed = ", ".join(f'"{c}" = excluded."{c}"' for c in columns if c != "id")
    do = f"UPDATE SET {changed}" if changed else "NOTHING"
    return f'INSERT INTO "{table}" ({names}) VALUES ({values}) ON CONFLICT (id) DO {do}'


def _only_readable(path: Path) -> bool:
    return path.is_file() and not os.access(path, os.W_OK)


def open_to_read(path: Path, **options: Any) -> sqlite3.Connection:
    """A connection that writes nothing, with options of `sqlite3.connect`."""
    _roll_back(path)
    # Beside a file in WAL mode SQLite has to write, were it only to read; a file that nobody can
    # write is taken as it is, unless somebody's writing is still in its log.
    alone = not os.access(path.parent, os.W_OK) and not _is_there(
        path.with_name(f"{path.name}-wal")
    )
    uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
    connection: sqlite3.Connection = sqlite3.connect(uri, uri=True, **options)
    return connection


def _roll_back(path: Path) -> None:
    """Undo what a process that was killed while it made the file left half written."""
    # Whoever may only read is refused until somebody has; with a log of its own (WAL) it is not so.
    journal = path.with_name(f"{path.name}-journal")
    if not (_is_there(journal) and os.access(path, os.W_OK)):
        return
    with suppress(sqlite3.Error):  # whoever reads next says what is wrong
        uri = f"{path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, timeout=BUSY_SECONDS, uri=True)) as file:
            file.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _is_there(path: Path) -> bool:
    """Whether it is a file with something in it."""
    return path.is_file() and path.stat().st_size > 0
