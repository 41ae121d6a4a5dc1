"""Joining stores into one: every problem once, and all of it from one of them.

Of a problem that several have, the one that has ended is taken, else the one that has more calls;
an end in an error is none, as such a problem is tried again.
So the order of the stores does not matter, nor how often they are merged.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recov_graph.errors import InvalidInputError, StoreError
from recov_graph.store import TraceStore
from recov_graph.store.belonging import BELONGING
from recov_graph.store.guard import harden
from recov_graph.store.location import is_server, shown
from recov_graph.store.rules import FOR_GOOD, RULES
from recov_graph.store.salvage import Salvaged, salvage
from recov_graph.store.sqlite import open_to_read
from recov_graph.store.traces import Row

AT_A_TIME = 500  # problems in one transaction
STANDING = (
    f"SELECT problems.id, finished_at IS NOT NULL AND {FOR_GOOD}, "
    "(SELECT count(*) FROM calls WHERE problem_id = problems.id), finished_at "
    "FROM problems LEFT JOIN outcomes ON outcomes.id = problems.id WHERE problems.id IN ({})"
)
HASHED = "SELECT 1 FROM runs WHERE store_text = 'hash' LIMIT 1"
NEXT = "SELECT rowid, id FROM problems WHERE rowid > ? ORDER BY rowid LIMIT ?"


@dataclass(slots=True)
class Shard:
    """What came of one of the stores.

    Attributes:
        source: its address.
        new: problems that the target did not have.
        replaced: problems of which it had less.
        known: problems that it had already.
        half_done: of the new and replaced, those that have not ended, or in an error.
        salvaged: what could be read of it, where it is damaged.
    """

    source: str
    new: int = 0
    replaced: int = 0
    known: int = 0
    half_done: int = 0
    salvaged: Salvaged | None = None


@dataclass(slots=True)
class Merged:
    """What was joined.

    Attributes:
        shards: the stores, in the order given.
        problems: that the target has now.
        salts: different salts that ids are hashed with; those hashed with another than the
            target's are not found by the user's own id.
    """

    shards: list[Shard] = field(default_factory=list)
    problems: int = 0
    salts: int = 0


def merge(
    sources: Sequence[str | Path],
    into: str | Path,
    on_shard: Callable[[Shard], object] = lambda shard: None,
) -> Merged:
    """Join stores into another, which is made where there is none. The sources stay as they are.

    Args:
        sources: stores; one that is damaged gives what can be read of it.
        into: the store that is added to.
        on_shard: called after each of the sources.

    Raises:
        InvalidInputError: a source is the target, or there is none.
        StoreError: a source is no store or is of a newer version, or the target cannot be written.
    """
    if not sources:
        raise InvalidInputError("there is no store to merge; name at least one")
    for source in sources:
        if _same(source, into):
            raise InvalidInputError(f"{shown(source)} is what is merged into; name another")
        if not _exists(source):
            raise StoreError(f"no trace store at {source}")
    merged, salts = Merged(), set()
    for source in sources:
        with _readable(source) as (store, salvaged), _target(into, store) as target:
            salts |= {_salt(one) for one in (store, target) if one.rows(HASHED)}
            shard = Shard(shown(source), salvaged=salvaged)
            _add(store, target, shard)
            merged.problems = target.rows("SELECT count(*) FROM problems")[0][0]
        merged.shards.append(shard)
        on_shard(shard)
    merged.salts = len(salts)
    return merged


def copy_problems(source: TraceStore, target: TraceStore, ids: Sequence[str]) -> None:
    """Put all that a store has of some problems in the place of what another has of them."""
    target.replace_problems(ids, **problem_rows(source, ids))


def problem_rows(store: TraceStore, ids: Sequence[str]) -> dict[str, list[Row]]:
    """All rows of some problems, by table, as `TraceStore.replace_problems` takes them."""
    marks = ", ".join("?" * len(ids))
    return {
        table: store.query(f'SELECT * FROM "{table}" WHERE {own.format(marks)} ORDER BY rowid', ids)
        for table, own in BELONGING.items()
    }


def _add(store: TraceStore, target: TraceStore, shard: Shard) -> None:
    _add_runs(store, target)
    last = 0
    with store.snapshot():
        while some := store.rows(NEXT, [last, AT_A_TIME]):
            last = some[-1][0]
            ids = [name for _, name in some]
            here, there = _standings(store, ids), _standings(target, ids)
            wanted = [name for name in ids if name not in there or here[name] > there[name]]
            if wanted:
                copy_problems(store, target, wanted)
            shard.new += sum(name not in there for name in ids)
            shard.replaced += sum(name in there for name in wanted)
            shard.known += len(ids) - len(wanted)
            shard.half_done += sum(not here[name][0] for name in wanted)


def _add_runs(store: TraceStore, target: TraceStore) -> None:
    """Runs that the target has not, and those that it knows to have begun later than they did."""
    known = {run["id"]: run["started_at"] for run in target.query("SELECT * FROM runs")}
    runs = store.query("SELECT * FROM runs ORDER BY started_at")
    target.write(
        runs=[run for run in runs if run["started_at"] < known.get(run["id"], "~")],
    )


def _standings(store: TraceStore, ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """By id what tells which of two is taken: the greater."""
    rows = store.rows(STANDING.format(", ".join("?" * len(ids))), ids)
    return {name: (ended, calls, _earlier(at)) for name, ended, calls, at in rows}


def _earlier(time: str | None) -> tuple[int, ...]:
    """Greater for an earlier time."""
    return tuple(-ord(character) for character in time or "")


@contextmanager
def _target(into: str | Path, source: TraceStore) -> Iterator[TraceStore]:
    """The store that is added to; a new one hashes ids as the first of its sources does."""
    with TraceStore(into) as target:
        if not target.rows("SELECT 1 FROM problems LIMIT 1"):
            target.write(settings=[{"id": "salt", "value": _salt(source)}])
        yield target


def _salt(store: TraceStore) -> str:
    return str(store.rows("SELECT value FROM settings WHERE id = 'salt'")[0][0])


@contextmanager
def _readable(source: str | Path) -> Iterator[tuple[TraceStore, Salvaged | None]]:
    """A store to read: itself, a copy brought up to date, or what can be had of a damaged one."""
    if is_server(source):
        with TraceStore(source, read_only=True) as store:
            yield store, None
        return
    path, salvaged = Path(source), None
    with tempfile.TemporaryDirectory(prefix="recov-graph-") as folder:
        if _damaged(path):
            salvaged = salvage(path, Path(folder, "salvaged.db"))
            path = Path(folder, "salvaged.db")
        else:
            path = _up_to_date(path, Path(folder, "copy.db"))
        with TraceStore(path, read_only=salvaged is None and path == Path(source)) as store:
            yield store, salvaged


def _up_to_date(path: Path, copy: Path) -> Path:
    """The file, or a copy of one of an older version."""
    try:
        TraceStore(path, read_only=True).close()
    except StoreError as error:
        if "is of an older recov-graph" not in str(error):
            raise
        with (
            closing(open_to_read(path)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy
    return path


def _damaged(path: Path) -> bool:
    """Whether SQLite finds a page that makes no sense, or rows do not agree with one another."""
    try:
        with closing(open_to_read(path)) as file:
            harden(file)
            if file.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return True
            return _disagrees(file)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreError(f"{path} is no trace store: {error}") from None
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{path} cannot be read: {error}") from None
        return True


def _disagrees(file: sqlite3.Connection) -> bool:
    try:
        asked = ("PRAGMA foreign_key_check", *(f"{sql} LIMIT 1" for sql in RULES.values()))
        return any(file.execute(sql).fetchone() for sql in asked)
    except sqlite3.OperationalError:  # it is of an older version, or of another program
        return False


def _exists(source: str | Path) -> bool:
    try:
        return is_server(source) or Path(source).is_file()
    except OSError:  # a name that is too long
        return False


def _same(source: str | Path, into: str | Path) -> bool:
    try:
        if is_server(source) or is_server(into):
            return source == into
        return Path(source).resolve() == Path(into).resolve()
    except OSError:
        return False
