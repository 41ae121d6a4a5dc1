"""What can still be read of a damaged SQLite file: whole problems, in a new file.

SQLite has no checksums: it notices a page that makes no sense, not a letter that was changed. So a
problem is taken only where its rows agree with one another, as `RULES` has it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recov_graph.errors import StoreError
from recov_graph.store.belonging import BELONGING
from recov_graph.store.guard import harden, refuse_other_objects
from recov_graph.store.rules import RULES
from recov_graph.store.sqlite import SqliteFile, open_to_read, upsert_sql

HIGHEST = 1 << 40  # where the last row cannot be told
MOST_FAILURES = 20_000  # of reads around damage, for each table
TABLES = ("settings", "runs", *BELONGING)
# Problems of a run that is gone, those that had not ended, and those that an attempt is missing of.
_ITS = "FROM rollouts WHERE problem_id = problems.id"
DOUBTFUL = f"""
    SELECT id FROM problems WHERE run_id NOT IN (SELECT id FROM runs)
    OR EXISTS (SELECT 1 {_ITS} AND operator <> 'sample'
      AND id NOT IN (
        SELECT id FROM interventions WHERE decision_id IN (SELECT id FROM decisions)))
    OR (id NOT IN (SELECT id FROM outcomes)
      AND run_id IN (SELECT id FROM runs WHERE kind NOT IN ('record', 'import')))"""
ORPHANS = {
    "problem_id": ("calls", "rollouts", "decisions", "tallies", "tape"),
    "rollout": ("verdicts", "token_arrays", "features", "underway", "interventions"),
    "problem": ("outcomes", "rollout_features", "profiles", "retries"),
}


@dataclass(slots=True)
class Salvaged:
    """What was had of a damaged file.

    Attributes:
        rows: rows that were read.
        unreadable: places at which reading failed.
        dropped: problems that were left out, as not all of them could be had.
    """

    rows: int = 0
    unreadable: int = 0
    dropped: int = 0


def salvage(damaged: Path, into: Path) -> Salvaged:
    """Copy the problems of a damaged store that are whole into a new one.

    Raises:
        StoreError: nothing can be read of it, not even which tables it has.
    """
    done = Salvaged()
    SqliteFile(str(into)).close()
    with (
        closing(_opened(damaged)) as source,
        closing(sqlite3.connect(into, isolation_level=None)) as target,
    ):
        target.execute("PRAGMA foreign_keys = OFF")
        target.execute("BEGIN")
        for table in TABLES:
            _copy(source, target, table, done)
        _drop_what_is_not_whole(target, done)
        target.execute("COMMIT")
    return done


def _opened(path: Path) -> sqlite3.Connection:
    source = open_to_read(path, isolation_level=None)
    source.text_factory = _strict_text
    try:
        harden(source)
        if source.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            raise sqlite3.DatabaseError("it has no tables")
    except sqlite3.Error as error:
        source.close()
        raise StoreError(
            f"{path} is damaged where the names of its tables are ({error}); nothing can be had "
            "of it. Use a copy made before"
        ) from None
    try:
        refuse_other_objects(lambda sql: source.execute(sql).fetchall(), str(path), views=False)
    except BaseException:
        source.close()
        raise
    return source


def _strict_text(raw: bytes) -> str:
    return raw.decode()


def _copy(
    source: sqlite3.Connection, target: sqlite3.Connection, table: str, done: Salvaged
) -> None:
    known = {row[1] for row in target.execute(f'PRAGMA table_info("{table}")')}
    columns = [row[1] for row in source.execute(f'PRAGMA table_info("{table}")')]
    kept = tuple(column for column in columns if column in known)
    if "id" not in kept:
        return
    sql = upsert_sql(table, kept)
    for row in _readable(source, table, kept, done):
        try:
            target.execute(sql, row)
            done.rows += 1
        except sqlite3.Error:  # no such row was ever written
            done.unreadable += 1


def _readable(
    source: sqlite3.Connection, table: str, columns: tuple[str, ...], done: Salvaged
) -> Iterator[Any]:
    """Rows by their numbers; where a range cannot be read, its halves are tried."""
    names = ", ".join(f'"{column}"' for column in columns)
    sql = f'SELECT {names} FROM "{table}" NOT INDEXED WHERE rowid BETWEEN ? AND ?'
    try:
        last = source.execute(f'SELECT max(rowid) FROM "{table}"').fetchone()[0] or 0
    except sqlite3.Error:
        last = HIGHEST
    ranges, failures = [(1, last)], 0
    while ranges and failures < MOST_FAILURES:
        low, high = ranges.pop()
        try:
            yield from source.execute(sql, (low, high)).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            failures += 1
            if low < high:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
            else:
                done.unreadable += 1
    done.unreadable += len(ranges)


def _drop_what_is_not_whole(target: sqlite3.Connection, done: Salvaged) -> None:
    doubtful = {row for sql in (DOUBTFUL, *RULES.values()) for row in target.execute(sql)}
    done.dropped = len(doubtful)
    for (name,) in doubtful:
        target.execute("DELETE FROM problems WHERE id = ?", [name])
    of_problem = "NOT IN (SELECT id FROM problems)"
    for table in ORPHANS["problem_id"]:
        target.execute(f"DELETE FROM {table} WHERE problem_id {of_problem}")
    for table in ORPHANS["problem"]:
        target.execute(f"DELETE FROM {table} WHERE id {of_problem}")
    for table in ORPHANS["rollout"]:
        target.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT id FROM rollouts)")
    target.execute("DELETE FROM interventions WHERE decision_id NOT IN (SELECT id FROM decisions)")
