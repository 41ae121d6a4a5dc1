"""A trace store in PostgreSQL: for several machines that write to one place.

Its tables are those of SQLite, derived from them, in a schema of their own. Each has a column
``rowid``, which SQLite's have without saying so. Functions let statements written for SQLite, which
takes a comparison for a number, mean the same here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from recov_graph.errors import MissingExtraError, StoreError
from recov_graph.store.dialect import storable_value, translated
from recov_graph.store.location import shown
from recov_graph.store.sqlite import MEMORY, SqliteFile, upsert_sql
from recov_graph.store.views import COLUMNS, VIEWS

try:
    import psycopg
    from psycopg.adapt import Loader
except ImportError:
    raise MissingExtraError(
        "a store at postgresql:// needs psycopg; install it with "
        "`pip install 'recov-graph[postgres]'`"
    ) from None

SCHEMA = "recov_graph"
LOCK = 5_301_606  # of those who make or change the tables
TYPES = {
    "TEXT": "text",
    "INTEGER": "bigint",
    "REAL": "double precision",
    "FLOAT": "double precision",
}
TYPES["BLOB"] = "bytea"
KINDS = {"text": "::text", "integer": "", "real": "::double precision"}
# What SQLite does by itself: sums of truths, truths as numbers, a choice as a function.
FUNCTIONS = """
CREATE OR REPLACE FUNCTION recov_graph.add_truth(bigint, boolean) RETURNS bigint
  LANGUAGE sql IMMUTABLE
  AS 'SELECT CASE WHEN $2 IS NULL THEN $1 ELSE coalesce($1, 0) + $2::int END';
DO $$ BEGIN
  CREATE AGGREGATE recov_graph.sum(boolean) (SFUNC = recov_graph.add_truth, STYPE = bigint);
EXCEPTION WHEN duplicate_function THEN NULL; END $$;
CREATE OR REPLACE FUNCTION recov_graph.whole(boolean) RETURNS bigint
  LANGUAGE sql IMMUTABLE AS 'SELECT $1::int::bigint';
CREATE OR REPLACE FUNCTION recov_graph.whole(numeric) RETURNS bigint
  LANGUAGE sql IMMUTABLE AS 'SELECT $1::bigint';
CREATE OR REPLACE FUNCTION recov_graph.whole(integer) RETURNS bigint
  LANGUAGE sql IMMUTABLE AS 'SELECT $1::bigint';
CREATE OR REPLACE FUNCTION recov_graph.whole(bigint) RETURNS bigint
  LANGUAGE sql IMMUTABLE AS 'SELECT $1';
"""
# Of the views: what PostgreSQL wants to be two of a kind, or to have a name.
REWORDED = {
    "        FROM calls\n      )\n    )\n": "        FROM calls\n      ) AS told\n    ) AS dated\n",
    "COALESCE(tried.failed_samples > 0 AND tried.passed_samples = 0, 0)": (
        "COALESCE((tried.failed_samples > 0 AND tried.passed_samples = 0)::int, 0)"
    ),
}


class _Truth(Loader):
    """A boolean as SQLite has it."""

    def load(self, data: Any) -> int:
        return int(bytes(data) == b"t")


class _Number(Loader):
    """A sum of whole numbers as one."""

    def load(self, data: Any) -> int | float:
        text = bytes(data).decode()
        return int(text) if "." not in text and text.lstrip("-").isdigit() else float(text)


class PostgresDatabase:
    """The database behind a `TraceStore`. Whoever calls holds the store's lock.

    Args:
        address: ``postgresql://user@host:port/database``; what it leaves out is looked for where
            every client looks: PGHOST, PGPASSWORD, ~/.pgpass.
        read_only: whether nothing may be written.

    Raises:
        StoreError: the tables are of a newer version.
    """

    errors: tuple[type[Exception], ...] = (psycopg.Error, OSError, OverflowError, UnicodeError)
    passing: tuple[type[Exception], ...] = (
        psycopg.errors.SerializationFailure,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.AdminShutdown,
        psycopg.OperationalError,
    )
    hint = "check that the server runs, that the database is there (`createdb NAME`) and the user"

    def __init__(self, address: str, *, read_only: bool = False) -> None:
        self._address, self.read_only = address, read_only
        self._connection = self._connected()
        self._inside = False
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _connected(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = psycopg.connect(
            self._address,
            autocommit=True,
            cursor_factory=psycopg.RawCursor,
            options=f"-c search_path={SCHEMA} -c default_transaction_read_only="
            f"{'on' if self.read_only else 'off'} -c client_min_messages=warning",
            connect_timeout=30,
            application_name="recov-graph",
        )
        connection.adapters.register_loader("bool", _Truth)
        connection.adapters.register_loader("numeric", _Number)
        return connection

    def _prepare(self) -> None:
        if self._steps() == (wanted := _wanted()):
            return
        for name in sorted(set(self._steps()) - set(wanted)):
            raise StoreError(
                f"{shown(self._address)} was written by a newer recov-graph (it has {name!r}); "
                "upgrade with `pip install -U recov-graph` or name another with --db"
            )
        if self.read_only:
            raise StoreError(
                f"{shown(self._address)} is of an older recov-graph, or empty, and is only read"
            )
        with self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock($1)", [LOCK])
            if self._steps() != wanted:
                for statement in _statements():
                    self._connection.execute(statement)

    def _steps(self) -> list[str]:
        """The steps of the schema that were made, in order."""
        found = self._connection.execute(
            "SELECT to_regclass($1) IS NOT NULL AS there", [f"{SCHEMA}.steps"]
        ).fetchone()
        if not found or not found[0]:
            return []
        rows = self._connection.execute(f"SELECT name FROM {SCHEMA}.steps ORDER BY number")
        return [name for (name,) in rows]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def recover(self) -> None:
        """Connect anew where the connection is gone."""
        if self._connection.closed:
            self._connection = self._connected()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[str], list[Any]]:
        """The names of the columns and the rows of a SELECT."""
        try:
            return self._read(sql, parameters)
        except psycopg.OperationalError:
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
                cursor.execute(translated(sql), _bound(parameters))
                yield iter(cursor)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Carry out a statement that gives nothing back."""
        self._connection.execute(translated(sql), _bound(parameters))

    def upsert(self, table: str, columns: tuple[str, ...], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows, or update those whose id is there."""
        with self._connection.cursor() as cursor:
            cursor.executemany(translated(upsert_sql(table, columns)), map(_bound, rows))

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All that is written inside, or none of it; `durable`: it survives a loss of power."""
        self._inside = True
        try:
            with self._connection.transaction():
                if not durable:
                    self._connection.execute("SET LOCAL synchronous_commit = off")
                yield
        finally:
            self._inside = False

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment."""
        self._inside = True
        try:
            with self._connection.transaction():
                self._connection.execute(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
                )
                yield
        finally:
            self._inside = False

    def version(self) -> int:
        """A number that changes whenever somebody has written."""
        return int(self.read("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")[1][0][0])

    def schema(self) -> str:
        """The SQL that makes an empty store."""
        return ";\n".join(statement.strip().rstrip(";") for statement in _statements()) + ";\n"


def _bound(parameters: Sequence[Any]) -> list[Any]:
    return [storable_value(value) for value in parameters]


def _wanted() -> list[str]:
    """The steps that lead to this version's schema."""
    with closing(SqliteFile(MEMORY)) as memory:
        _, rows = memory.read("SELECT name FROM _sqlite_migrations ORDER BY id")
    return [name for (name,) in rows]


def _statements() -> Iterator[str]:
    """What makes the tables, or adds what an older version has not."""
    yield f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"
    yield FUNCTIONS
    for name in VIEWS:
        yield f"DROP VIEW IF EXISTS {SCHEMA}.{name}"
    with closing(SqliteFile(MEMORY)) as memory:
        sql = (
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' "
            "ESCAPE '\\' AND name NOT LIKE 'sqlite%' ORDER BY rowid"
        )
        for (table,) in memory.read(sql)[1]:
            yield from _table(memory, table)
    for name, sql in VIEWS.items():
        yield _view(name, sql)
    yield f"CREATE TABLE IF NOT EXISTS {SCHEMA}.steps (number bigint PRIMARY KEY, name text)"
    for number, name in enumerate(_wanted()):
        yield (
            f"INSERT INTO {SCHEMA}.steps VALUES ({number}, '{name}') "
            "ON CONFLICT (number) DO UPDATE SET name = excluded.name"
        )


def _table(memory: SqliteFile, table: str) -> Iterator[str]:
    refers = {
        row[3]: f' REFERENCES {SCHEMA}."{row[2]}" (id)'
        for row in memory.read(f'PRAGMA foreign_key_list("{table}")')[1]
    }
    columns = {}
    for _, name, kind, needed, _, key in memory.read(f'PRAGMA table_info("{table}")')[1]:
        rest = " PRIMARY KEY" if key else " NOT NULL" if needed else ""
        columns[name] = f'"{name}" {TYPES[kind]}{rest}{refers.get(name, "")}'
    rowid = "rowid bigint GENERATED ALWAYS AS IDENTITY UNIQUE"
    yield f'CREATE TABLE IF NOT EXISTS {SCHEMA}."{table}" ({", ".join(columns.values())}, {rowid})'
    for column in columns.values():
        if "PRIMARY KEY" not in column:
            yield f'ALTER TABLE {SCHEMA}."{table}" ADD COLUMN IF NOT EXISTS {column}'
    for _, index, _, origin, _ in memory.read(f'PRAGMA index_list("{table}")')[1]:
        if origin == "c":
            _, parts = memory.read(f'PRAGMA index_info("{index}")')
            over = ", ".join(f'"{part[2]}"' for part in parts)
            yield f'CREATE INDEX IF NOT EXISTS "{index}" ON {SCHEMA}."{table}" ({over})'


def _view(name: str, sql: str) -> str:
    """A view whose columns are of the kinds that they are documented to be."""
    for before, after in REWORDED.items():
        sql = sql.replace(before, after)
    body = sql.partition(" AS\n")[2]
    columns = ", ".join(
        f'whole("{column}") AS "{column}"' if kind == "integer" else f'"{column}"{KINDS[kind]}'
        for column, (kind, _) in COLUMNS[name].items()
    )
    return f"CREATE VIEW {SCHEMA}.{name} AS SELECT {columns} FROM ({translated(body)}) AS made"
