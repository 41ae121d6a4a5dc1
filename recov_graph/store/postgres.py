"""A trace store in PostgreSQL: for several machines that write to one place.

Statements are those of SQLite, translated; tables and views are derived from SQLite's, in a schema
of their own, so that the database may hold other things as well.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from recov_graph.errors import MissingExtraError, StoreError
from recov_graph.store.dialect import fitting, storable_value, translated
from recov_graph.store.location import check_server, shown
from recov_graph.store.postgres_schema import SCHEMA, column_types, statements, wanted_steps
from recov_graph.store.sqlite import upsert_sql

try:
    import psycopg
    from psycopg.adapt import Loader
except ImportError:
    raise MissingExtraError(
        "a store at postgresql:// needs psycopg; install it with "
        "`pip install 'recov-graph[postgres]'`"
    ) from None

# What is tried again is nobody's business; without a handler Python prints it on standard error.
logging.getLogger("psycopg").addHandler(logging.NullHandler())
LOCK = 5_301_606  # of those who make or change the tables
OLDEST = 13  # the server's version
PATIENCE = 30.0  # seconds that a server may be away
AT_ONCE = 500  # rows that are fetched at a time
# A machine that is switched off in the middle of writing keeps nobody waiting for longer.
STUCK = "60s"
# A transaction has a number before a row of its has one, so that `unsettled` knows of it.
BEGIN = (
    "SELECT pg_current_xact_id(), "
    f"set_config('idle_in_transaction_session_timeout', '{STUCK}', true)"
)
QUICKLY = f"{BEGIN}, set_config('synchronous_commit', 'off', true)"
DURABLY = (
    f"{BEGIN}, set_config('synchronous_commit', "
    "COALESCE(NULLIF(current_setting('synchronous_commit'), 'off'), 'on'), true)"
)
# What is not said in the address or by the variable of the environment.
USUAL = {
    "connect_timeout": ("30", "PGCONNECT_TIMEOUT"),
    "application_name": ("recov-graph", "PGAPPNAME"),
    "keepalives_idle": ("30", None),
    "keepalives_interval": ("10", None),
    "keepalives_count": ("3", None),
    "tcp_user_timeout": ("60000", None),
}
# What to do about it: by a part of what was said, the first that is found.
ADVICE = (
    ("is not permitted to log in", "name a user that may: `createuser NAME` makes one"),
    ("password", "set PGPASSWORD, or have the password in ~/.pgpass"),
    ('role "', "name a user that the server knows; `createuser NAME` makes one"),
    ('database "', "make it with `createdb NAME`"),
    (
        "permission denied for database",
        f"have an administrator say CREATE SCHEMA {SCHEMA} AUTHORIZATION your_user in it",
    ),
    (
        "permission denied",
        f"have the owner of schema {SCHEMA} grant it: USAGE on the schema, and SELECT, INSERT, "
        "UPDATE and DELETE on its tables",
    ),
    ("must be owner", "have the owner of the tables open it once, which brings them up to date"),
    ("too many", "raise max_connections of the server, or let fewer processes write"),
    ("no pg_hba.conf entry", "let pg_hba.conf of the server allow this user from this machine"),
    ("read-only transaction", "name the server that takes writes: this one only copies it"),
    ("connection", "check that the server runs, and its host and port"),
    ("resolve host", "check the host's name"),
)


class _Truth(Loader):
    """A boolean as SQLite has it."""

    def load(self, data: Any) -> int:
        return int(bytes(data) == b"t")


class _Number(Loader):
    """A sum of whole numbers as one."""

    def load(self, data: Any) -> int | float:
        text = bytes(data).decode()
        return int(text) if text.lstrip("-").isdigit() else float(text)


class PostgresDatabase:
    """The database behind a `TraceStore`. Whoever calls holds the store's lock.

    Args:
        address: ``postgresql://user@host:port/database``; what it leaves out is looked for where
            every client looks: PGHOST, PGPASSWORD, ~/.pgpass.
        read_only: whether nothing may be written.

    Raises:
        StoreError: the tables are of a newer version, or the server or the database is not one
            that can hold them.
    """

    errors: tuple[type[Exception], ...] = (psycopg.Error, OSError, OverflowError, UnicodeError)
    passing: tuple[type[Exception], ...] = (
        psycopg.OperationalError,  # also deadlocks, and a server that is shut down
        psycopg.errors.IdleInTransactionSessionTimeout,
    )

    def __init__(self, address: str, *, read_only: bool = False) -> None:
        check_server(address)
        scheme, _, rest = address.partition("://")
        self._address, self.read_only = f"{scheme.lower()}://{rest}", read_only
        self._closed = self._inside = self._given_up = False
        self._connection = self._connected()
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    @staticmethod
    def advice(error: Exception) -> str:
        """What to do about an error."""
        said = str(error)
        return next(
            (advice for part, advice in ADVICE if part in said),
            "check that the server and the database are the ones that are meant",
        )

    def _connected(self) -> psycopg.Connection[Any]:
        said = psycopg.conninfo.conninfo_to_dict(self._address)
        usual: dict[str, Any] = {
            name: value
            for name, (value, variable) in USUAL.items()
            if name not in said and (variable is None or variable not in os.environ)
        }
        connection: psycopg.Connection[Any] = psycopg.connect(
            self._address,
            autocommit=True,
            cursor_factory=psycopg.RawCursor,
            client_encoding="utf8",
            **usual,
        )
        connection.server_cursor_factory = psycopg.RawServerCursor
        connection.adapters.register_loader("bool", _Truth)
        connection.adapters.register_loader("numeric", _Number)
        connection.execute(
            f"SET search_path = {SCHEMA}; SET client_min_messages = warning; "
            f"SET default_transaction_read_only = {'on' if self.read_only else 'off'}"
        )
        return connection

    def _prepare(self) -> None:
        done, wanted = self._steps(), wanted_steps()
        if done == wanted:
            return
        for name in sorted(set(done) - set(wanted)):
            raise StoreError(
                f"{shown(self._address)} was written by a newer recov-graph (it has {name!r}); "
                "upgrade with `pip install -U recov-graph` or name another with --db"
            )
        if self.read_only:
            raise StoreError(
                f"{shown(self._address)} is of an older recov-graph, or empty, and is only read"
            )
        self._check_that_it_can()
        with self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock($1)", [LOCK])
            # Even where it is there, making it needs a right that its owner may not have.
            if not self._rows("SELECT 1 FROM pg_namespace WHERE nspname = $1", SCHEMA):
                self._connection.execute(f"CREATE SCHEMA {SCHEMA}")
            if self._steps() != wanted:
                for statement in statements():
                    self._connection.execute(statement)

    def _check_that_it_can(self) -> None:
        info = self._connection.info
        if info.server_version < OLDEST * 10_000:
            raise StoreError(
                f"{shown(self._address)} is PostgreSQL {info.server_version // 10_000}; "
                f"{OLDEST} or newer is needed"
            )
        encoding = info.parameter_status("server_encoding")
        if encoding not in ("UTF8", "SQL_ASCII"):
            raise StoreError(
                f"{shown(self._address)} has the encoding {encoding}, which cannot hold every "
                "text; make another with `createdb -E UTF8 -T template0 NAME`"
            )

    def _steps(self) -> tuple[str, ...]:
        """The steps of the schema that were made, in order."""
        if not self._rows("SELECT 1 WHERE to_regclass($1) IS NOT NULL", f"{SCHEMA}.steps"):
            return ()
        return tuple(n for (n,) in self._rows(f"SELECT name FROM {SCHEMA}.steps ORDER BY number"))

    def _rows(self, sql: str, *parameters: Any) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._connection.close()

    def recover(self) -> None:
        """Connect anew where the connection is gone; a server that starts again is waited for."""
        if self._closed:
            raise psycopg.OperationalError("the store is closed")
        connection = self._connection
        if not connection.closed and (
            connection.pgconn.pipeline_status or connection.pgconn.transaction_status
        ):
            connection.close()  # it was lost in the midst of something, and cannot be used again
        # Who has waited in vain has done so for all others that wait for their turn.
        deadline, pause = time.monotonic() + (0.0 if self._given_up else PATIENCE), 0.1
        while self._connection.closed:
            try:
                self._connection = self._connected()
                self._given_up = False
            except psycopg.OperationalError:
                if time.monotonic() + pause > deadline:
                    self._given_up = True
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 2.0)

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Any]]:
        """The names of the columns and the rows of a SELECT."""
        try:
            return self._read(sql, parameters)
        except self.passing:
            if self._inside or not self._connection.closed:
                raise
        self.recover()
        return self._read(sql, parameters)

    def _read(self, sql: str, parameters: Sequence[Any]) -> tuple[list[str], list[Any]]:
        cursor = self._connection.execute(translated(sql), _bound(parameters))
        names = [column.name for column in cursor.description or ()]
        rows = cursor.fetchall()
        if "rowid" in names and "rowid" not in sql.partition(" FROM ")[0]:  # of a SELECT *
            kept = [place for place, name in enumerate(names) if name != "rowid"]
            rows = [tuple(row[place] for place in kept) for row in rows]
            names = [names[place] for place in kept]
        return names, rows

    @contextmanager
    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Iterator[Any]]:
        """The rows of a SELECT one by one, through a connection of its own."""
        with closing(self._connected()) as connection:
            connection.autocommit = False
            with connection.cursor("recov_graph_rows") as cursor:
                cursor.itersize = AT_ONCE
                cursor.execute(translated(sql), _bound(parameters))
                yield iter(cursor)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Carry out a statement that gives nothing back."""
        self._connection.execute(translated(sql), _bound(parameters))

    def upsert(self, table: str, columns: tuple[str, ...], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows, or update those whose id is there."""
        kinds = column_types().get(table, {})
        checked = (fitting(table, columns, kinds, row) for row in rows)
        # One statement for each row, sent without waiting for answers: arrays of all rows in one
        # statement were measured to be slower, with bytes seven times.
        with self._connection.cursor() as cursor:
            cursor.executemany(translated(upsert_sql(table, columns)), checked)

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All that is written inside, or none of it; `durable`: it survives a loss of power."""
        self._inside = True
        try:
            with self._connection.transaction():
                self._connection.execute(DURABLY if durable else QUICKLY)
                yield
        finally:
            self._inside = False

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment."""
        self.read("SELECT 1")  # connects anew where that is needed
        self._inside = True
        try:
            with self._connection.transaction():
                self._connection.execute(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
                )
                yield
        finally:
            self._inside = False

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Hold a name, such as a run's id; false where another connection holds it."""
        sql = "SELECT pg_{}advisory_{}lock(hashtextextended(?, 0))"
        mine = bool(self.read(sql.format("try_", ""), [name])[1][0][0])
        try:
            yield mine
        finally:
            if mine and not self._connection.closed:
                self.read(sql.format("", "un"), [name])

    def version(self) -> int:
        """A number that changes whenever somebody has written."""
        # All of it: what others are in the midst of counts, and may end in any order.
        said = self.read("SELECT pg_current_snapshot()::text")[1][0][0]
        return int.from_bytes(str(said).encode())

    def unsettled(self) -> bool:
        """Whether somebody is in the midst of writing; a later row may then be seen before his."""
        sql = "SELECT pg_snapshot_xmin(s) <> pg_snapshot_xmax(s) FROM pg_current_snapshot() AS s"
        return bool(self.read(sql)[1][0][0])

    def schema(self) -> str:
        """The SQL that makes an empty store."""
        made = (f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}", *statements())
        return ";\n".join(statement.strip().rstrip(";") for statement in made) + ";\n"


def _bound(parameters: Sequence[Any]) -> list[Any]:
    return [storable_value(value) for value in parameters]
