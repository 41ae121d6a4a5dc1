"""Telling the truth about a trace store without changing it: is all there, and what is to be done.

Everything is read in one snapshot through a connection that cannot write, so that a store that
somebody is writing to at this moment is told of as it was at one moment.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlite_utils import Database

from recov_graph.errors import StoreError
from recov_graph.store.blobs import unpack
from recov_graph.store.guard import harden, refuse_other_objects, triggers
from recov_graph.store.location import is_server, shown
from recov_graph.store.migrations import migrations
from recov_graph.store.rules import FOR_GOOD, RULES
from recov_graph.store.sqlite import open_to_read
from recov_graph.store.traces import TraceStore
from recov_graph.words import count, listed

Ask = Callable[[str], list[Any]]
Status = Literal["ok", "note", "wrong"]
LEAST_FREE = 100 << 20  # bytes of the disk
ARRAYS = 2_000  # token arrays that are looked into
RUNS = 20
# What rows have to agree on beside `RULES`, with those that do not.
BESIDE = {
    "problems that are in one run twice": (
        "SELECT key FROM problems JOIN runs ON runs.id = run_id "
        "WHERE kind IN ('run', 'demo') GROUP BY run_id, key HAVING count(*) > 1"
    ),
    "notes for going on left of problems that have ended": (
        "SELECT underway.id FROM underway JOIN rollouts ON rollouts.id = underway.id "
        "JOIN outcomes ON outcomes.id = problem_id "
        f"WHERE {FOR_GOOD}"
    ),
}
STANDING = (
    "SELECT runs.id, kind, model, runs.started_at, planned, settings, count(problems.id), "
    "count(outcomes.id) FROM runs LEFT JOIN problems ON run_id = runs.id "
    "LEFT JOIN outcomes ON outcomes.id = problems.id "
    "GROUP BY runs.id ORDER BY runs.started_at DESC"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at: how it is, what that means, and what to do about it."""

    name: str
    status: Status
    says: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class RunStanding:
    """How far a run has come; `planned` is None where it was not said."""

    id: str
    kind: str
    model: str
    started_at: str
    planned: int | None
    begun: int
    ended: int
    resumable: bool


@dataclass(slots=True)
class Checkup:
    """What was found of a store.

    Attributes:
        address: of the store.
        findings: what was looked at, in order.
        runs: the latest runs, the latest first.
    """

    address: str
    findings: list[Finding] = field(default_factory=list)
    runs: list[RunStanding] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.status != "wrong" for finding in self.findings)

    def note(self, name: str, status: Status, says: str, fix: str = "") -> None:
        """Something more was found."""
        self.findings.append(Finding(name, status, says, fix))


def check_up(address: str | Path) -> Checkup:
    """Examine a store.

    Raises:
        StoreError: there is no such file.
    """
    checkup = Checkup(shown(address))
    if is_server(address):
        with TraceStore(address, read_only=True) as store, store.snapshot():
            checkup.note("schema", "ok", "of this version")
            _rows(store.rows, checkup)
            _runs(store.rows, checkup)
        return checkup
    path = Path(address)
    try:
        found, empty = path.exists(), path.is_file() and path.stat().st_size == 0
    except OSError:
        found = empty = False
    if not found:
        raise StoreError(f"no trace store at {address}; run `recov-graph demo` first or name one")
    if not path.is_file():
        checkup.note("file", "wrong", "it is no file", "name the file of a store with --db")
        return checkup
    if empty:
        checkup.note("file", "note", "it is empty; the first that is stored makes a store of it")
        return checkup
    _file(path, checkup)
    try:
        with closing(open_to_read(path, isolation_level=None)) as file:
            harden(file)
            file.execute("BEGIN")
            if _pages(path, file, checkup) and _schema(file, checkup):
                _references(file, checkup)
                _rows(lambda sql: file.execute(sql).fetchall(), checkup)
                _runs(lambda sql: file.execute(sql).fetchall(), checkup)
    except sqlite3.Error as error:
        _cannot_be_read(path, error, checkup)
    return checkup


def _file(path: Path, checkup: Checkup) -> None:
    log = path.with_name(f"{path.name}-wal")
    size = sum(one.stat().st_size for one in (path, log) if one.is_file())
    free = shutil.disk_usage(path.parent).free
    checkup.note("size", "ok", f"{size / 1e6:,.1f} MB, {free / 1e6:,.0f} MB of the disk are free")
    if free < LEAST_FREE:
        checkup.note(
            "disk",
            "wrong",
            f"only {free / 1e6:.1f} MB are free; what cannot be stored ends a run",
            "make room; then the same command with --resume goes on",
        )
    if not os.access(path, os.W_OK):
        checkup.note(
            "writing", "note", "the file may only be read; it can be shown, and not added to"
        )
    if log.is_file() and log.stat().st_size:
        checkup.note(
            "log",
            "note",
            "a process is writing to it, or was ended in the middle of it; what it had stored is "
            "in the log beside the file, and nothing is lost: keep the two together",
        )


def _pages(path: Path, file: sqlite3.Connection, checkup: Checkup) -> bool:
    """Whether the pages make sense; where some do not, the rest is not worth telling of."""
    complaints = [str(row[0]) for row in file.execute("PRAGMA integrity_check(100)")]
    if complaints == ["ok"]:
        checkup.note("pages", "ok", "every page makes sense")
        return True
    checkup.note("pages", "wrong", f"damaged: {listed(complaints, 3)}", _salvage(path))
    return False


def _salvage(path: Path | str) -> str:
    return (
        f"`recov-graph merge {path} --db repaired.db` takes the problems that are whole; the "
        "command of the run with --db repaired.db --resume works out the rest"
    )


def _cannot_be_read(path: Path, error: sqlite3.Error, checkup: Checkup) -> None:
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_NOTADB:
        says, fix = "it is no database, or its first page is damaged", "name another with --db"
        checkup.note("file", "wrong", says, f"{fix}, or use a copy made before")
    elif isinstance(error, sqlite3.OperationalError):
        checkup.note("file", "wrong", f"it cannot be read: {error}", "see that it may be read")
    else:
        checkup.note("pages", "wrong", f"damaged: {error}", _salvage(path))


def _schema(file: sqlite3.Connection, checkup: Checkup) -> bool:
    """Whether it is a store of this version."""
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
    if tables and "_sqlite_migrations" not in tables:
        says = "it is a database of another program"
        checkup.note("schema", "wrong", says, "name another file with --db")
        return False
    known = [migration.name for migration in migrations.pending(Database(memory=True))]
    sql = "SELECT name FROM _sqlite_migrations WHERE migration_set = ?"
    applied = {name for (name,) in file.execute(sql, [migrations.name])} if tables else set()
    if newer := sorted(applied - set(known)):
        says = f"written by a newer recov-graph (it has {newer[0]!r})"
        checkup.note("schema", "wrong", says, "upgrade with `pip install -U recov-graph`")
        return False
    if missing := [name for name in known if name not in applied]:
        had = f"of an older version, up to {known[len(applied) - 1]!r}" if applied else "not made"
        says = f"{had}; whatever opens it next brings it up to date ({listed(missing, 3)})"
        checkup.note("schema", "note", says)
        return False
    try:
        refuse_other_objects(lambda sql: file.execute(sql).fetchall(), checkup.address)
    except StoreError as error:
        checkup.note("schema", "wrong", str(error), "name another with --db")
        return False
    checkup.note("schema", "ok", f"of this version, {known[-1]!r}")
    if added := triggers(lambda sql: file.execute(sql).fetchall()):
        says = f"it has triggers of somebody's own: {listed(added, 3)}"
        checkup.note("schema", "note", says, "they run whenever something is stored here")
    return True


def _references(file: sqlite3.Connection, checkup: Checkup) -> None:
    broken = file.execute("PRAGMA foreign_key_check").fetchmany(100)
    if broken:
        tables = sorted({str(row[0]) for row in broken})
        says = f"rows of {listed(tables, 5)} refer to rows that are not there"
        checkup.note("references", "wrong", says, _salvage(Path(checkup.address)))
    else:
        checkup.note("references", "ok", "every row finds the rows it refers to")


def _rows(ask: Ask, checkup: Checkup) -> None:
    wrong = 0
    for name, sql in {**RULES, **BESIDE}.items():
        names = [str(row[0]) for row in ask(f"{sql} LIMIT 1000")]
        if names:
            wrong += 1
            says = f"{len(names)} {name}: {listed(names, 3)}"
            checkup.note("rows", "wrong", says, _salvage(checkup.address))
    if not wrong:
        checkup.note("rows", "ok", "attempts, verdicts, decisions, calls and outcomes agree")
    _arrays(ask, checkup)


def _arrays(ask: Ask, checkup: Checkup) -> None:
    bad = [name for name, blob in _blobs(ask) if not _unpacks(blob)]
    looked = min(ARRAYS, ask("SELECT count(*) FROM token_arrays")[0][0])
    if bad:
        says = f"{len(bad)} of {count(looked, 'token array')} looked into are damaged: "
        checkup.note("arrays", "wrong", says + listed(bad, 3), "measure these problems anew")
    else:
        checkup.note("arrays", "ok", f"{count(looked, 'token array')} looked into, all whole")


def _blobs(ask: Ask) -> Iterator[tuple[str, Any]]:
    sql = "SELECT id, signals, taken, specialist, ancestor FROM token_arrays "
    for name, *blobs in ask(f"{sql} ORDER BY rowid DESC LIMIT {ARRAYS}"):
        yield from ((name, blob) for blob in blobs if blob is not None)


def _unpacks(blob: Any) -> bool:
    try:
        unpack(blob)
    except (StoreError, TypeError):
        return False
    return True


def _runs(ask: Ask, checkup: Checkup) -> None:
    rows = ask(STANDING)
    checkup.runs = [
        RunStanding(name, kind, model, at, planned, begun, ended, settings is not None)
        for name, kind, model, at, planned, settings, begun, ended in rows[:RUNS]
    ]
    half = sum(row[6] - row[7] for row in rows if row[1] in ("run", "demo"))
    if half:
        says = f"{count(half, 'problem')} half done"
        fix = "the same command with --resume goes on with the run"
        checkup.note("under way", "note", says, fix)
