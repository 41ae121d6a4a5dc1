"""The schema of a trace store in PostgreSQL, derived from SQLite's: there is one definition.

Each table has a column ``rowid``, which SQLite's have without saying so. Functions let statements
written for SQLite, which takes a comparison for a number, mean the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import lru_cache

from recov_graph.store.dialect import translated
from recov_graph.store.sqlite import MEMORY, SqliteFile
from recov_graph.store.views import COLUMNS, VIEWS

SCHEMA = "recov_graph"
TEXT = 'text COLLATE "C"'  # sorted as SQLite sorts, whatever language the database is set to
TYPES = {
    "TEXT": TEXT,
    "INTEGER": "bigint",
    "REAL": "double precision",
    "FLOAT": "double precision",
    "BLOB": "bytea",
}
KINDS = {"text": f"::{TEXT}", "integer": "", "real": "::double precision"}
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


@lru_cache(maxsize=1)
def wanted_steps() -> tuple[str, ...]:
    """The steps that lead to this version's schema."""
    with closing(SqliteFile(MEMORY)) as memory:
        _, rows = memory.read("SELECT name FROM _sqlite_migrations ORDER BY id")
    return tuple(name for (name,) in rows)


def statements() -> Iterator[str]:
    """What makes the tables in the schema, or adds what an older version has not."""
    yield FUNCTIONS
    for name in VIEWS:
        yield f"DROP VIEW IF EXISTS {SCHEMA}.{name}"
    with closing(SqliteFile(MEMORY)) as memory:
        for table in _tables(memory):
            yield from _table(memory, table)
    for name, sql in VIEWS.items():
        yield _view(name, sql)
    yield f"CREATE TABLE IF NOT EXISTS {SCHEMA}.steps (number bigint PRIMARY KEY, name text)"
    for number, name in enumerate(wanted_steps()):
        yield (
            f"INSERT INTO {SCHEMA}.steps VALUES ({number}, '{name}') "
            "ON CONFLICT (number) DO UPDATE SET name = excluded.name"
        )


@lru_cache(maxsize=1)
def column_types() -> Mapping[str, Mapping[str, str]]:
    """The columns of each table, with the types that SQLite has them in."""
    with closing(SqliteFile(MEMORY)) as memory:
        return {
            table: {row[1]: row[2] for row in memory.read(f'PRAGMA table_info("{table}")')[1]}
            for table in _tables(memory)
        }


def _tables(memory: SqliteFile) -> list[str]:
    sql = (
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' "
        "ESCAPE '\\' AND name NOT LIKE 'sqlite%' ORDER BY rowid"
    )
    return [name for (name,) in memory.read(sql)[1]]


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
