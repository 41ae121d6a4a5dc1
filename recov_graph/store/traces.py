"""All SQL of the trace store. Writes are upserts on ids made by the caller, so a repeat is safe."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from recov_graph.errors import InvalidInputError, StoreError
from recov_graph.rollout import Rollout
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store.belonging import BELONGING, STORED
from recov_graph.store.blobs import pack, pack_topk, unpack, unpack_topk
from recov_graph.store.engine import Engine, engine_of
from recov_graph.store.guard import loaded
from recov_graph.store.location import shown
from recov_graph.store.redacted import FREE_COLUMNS, TEXT_COLUMNS
from recov_graph.trace import Trace, measure
from recov_graph.words import storable

StoreText = Literal["full", "hash", "none"]
Row = dict[str, Any]
T = TypeVar("T")
TRIES, PAUSE = 6, 0.2  # of what may pass, and seconds between
# As `batch.summary` counts: who was routed had failed first, and so had who had no attempt left.
HOW = (
    "CASE WHEN solved = 1 AND regime IS NULL THEN 'solved_first' WHEN solved = 1 THEN 'rescued' "
    "WHEN attempts = 0 OR (regime IS NULL AND stop_reason = 'verifier_error') THEN 'unjudged' "
    "ELSE stop_reason END"
)
PROBLEMS = (
    f"SELECT problems.*, outcomes.*, problems.id AS id, {HOW} AS how, "
    "prompt_tokens + completion_tokens + scored_tokens AS tokens "
    "FROM problems LEFT JOIN outcomes ON outcomes.id = problems.id"
)


def now() -> str:
    """The time in UTC as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class TraceStore:
    """One SQLite file in WAL mode, or a PostgreSQL database; usable from any thread.

    It is written through one locked connection.

    Args:
        path: the file, made with its folders where missing; ":memory:" for a store that is gone
            when closed. A file that may not be written is opened to be read. Or the address of a
            database, ``postgresql://user@host/database``, with the extra ``postgres``.
        read_only: nothing is written, were it only to bring the file up to date.
        store_text: "full" keeps prompts, answers and outputs; "hash" keeps salted hashes of them;
            "none" keeps neither. Token ids, reasons and details of interventions may be text in
            another guise and are kept with "full" only. Hashes hide text from a glance, not from
            someone who holds the file and can guess: the salt is in the file.

    Raises:
        StoreError: the file cannot be opened or written, is no database, or is of a newer version.
    """

    def __init__(
        self, path: str | Path, *, store_text: StoreText = "full", read_only: bool = False
    ) -> None:
        if store_text not in get_args(StoreText):
            raise InvalidInputError(
                f"store_text is {store_text!r}; it must be one of {', '.join(get_args(StoreText))}"
            )
        self.address = str(path)
        if not self.address:
            raise InvalidInputError("the store's path is empty; name a file, or ':memory:'")
        self.path = shown(self.address)
        self.store_text = store_text
        self._lock = threading.RLock()
        self._engine_type = engine_of(self.address)
        with self._clear_errors():
            self._engine: Engine = self._engine_type(self.address, read_only=read_only)
        try:
            self._salt = self._own_salt()
        except BaseException:
            self._engine.close()
            raise
        # With "none" not even a guess at an id may be confirmed by whoever holds the file.
        self._key_salt = secrets.token_bytes(16) if self.store_text == "none" else self._salt

    def _own_salt(self) -> bytes:
        """The store's salt, made once: of two who make it at a time one is first."""
        sql = "SELECT value FROM settings WHERE id = 'salt'"
        if not (rows := self.rows(sql)):
            self._written_at_once(
                lambda: self._engine.run(
                    "INSERT INTO settings (id, value) VALUES ('salt', ?) ON CONFLICT DO NOTHING",
                    [secrets.token_hex(16)],
                )
            )
            rows = self.rows(sql)
        return bytes.fromhex(rows[0][0])

    def close(self) -> None:
        """Close the file; a closed store cannot be used again."""
        with self._lock:
            self._engine.close()

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, **tables: Sequence[Mapping[str, Any]]) -> None:
        """Insert or update rows by their id, all or none: ``write(runs=[...], problems=[...])``.

        Text columns are kept, hashed or dropped as `store_text` says. Tables that are referred to
        come before those that refer to them.

        Raises:
            StoreError: the database refuses the rows; nothing of this call is stored then.
        """
        self._written_at_once(lambda: self._upsert(tables))

    def write_paid(self, **tables: Sequence[Mapping[str, Any]]) -> None:
        """As `write`, for what cost something: a loss of power afterwards takes none of it."""
        self._written_at_once(lambda: self._upsert(tables), durable=True)

    def _upsert(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        for table, rows in tables.items():
            kept = self._redacted(table, rows)
            for columns, alike in groupby(kept, key=tuple):
                self._engine.upsert(table, columns, [tuple(row.values()) for row in alike])

    def settle(self, outcome: Mapping[str, Any], **kept: Collection[str]) -> None:
        """Write how a problem ended; of what was written of it before, only these ids stay.

        The rest, all of a table that is not named, is of a timeline that was abandoned: a thread
        was taken back to an older checkpoint, and went on from there.
        """

        def settled() -> None:
            self._upsert({"outcomes": [outcome]})
            _, stored = self._engine.read(STORED, [outcome["id"]])
            stale = [(table, name) for table, name in stored if name not in kept.get(table, ())]
            for table, name in stale:
                self._engine.run(f'DELETE FROM "{table}" WHERE id = ?', [name])

        self._written_at_once(settled)

    def replace_problems(self, ids: Sequence[str], **tables: Sequence[Mapping[str, Any]]) -> None:
        """Put rows in the place of all that is stored of some problems, all or none, durably."""
        marks = ", ".join("?" * len(ids))

        def replaced() -> None:
            if ids:
                for table, own in reversed(list(BELONGING.items())):
                    self._engine.run(f'DELETE FROM "{table}" WHERE {own.format(marks)}', ids)
            self._upsert(tables)

        self._written_at_once(replaced, durable=True)

    def reopen(self, problem_id: str) -> None:
        """Take back that a problem has ended, as what ended in an error is tried again."""
        if self.rows("SELECT 1 FROM outcomes WHERE id = ?", [problem_id]):
            sql = "DELETE FROM outcomes WHERE id = ?"
            self._written_at_once(lambda: self._engine.run(sql, [problem_id]))

    def write_traces(
        self, traces: Mapping[str, Trace], calls: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Store what was measured on failed rollouts that are in the store already, by their id.

        Args:
            traces: what was measured.
            calls: those that measured it, as rows; either all of both is stored or nothing.
        """
        self.write_paid(
            calls=calls,
            token_arrays=[self._arrays(name, trace) for name, trace in traces.items()],
            features=[
                {"id": name, **trace.features._asdict(), "feature_version": FEATURE_VERSION}
                for name, trace in traces.items()
            ],
        )

    def _arrays(self, rollout_id: str, trace: Trace) -> Row:
        full = self.store_text == "full"
        rollout = trace.rollout
        return {
            "id": rollout_id,
            "length": len(rollout),
            "signals": pack(np.asarray(trace.signals, np.float32)),
            "taken": pack(rollout.token_ids) if full else None,
            "pieces": json.dumps(rollout.pieces) if full and rollout.pieces is not None else None,
            "specialist": pack_topk(rollout.specialist) if full else None,
            "ancestor": pack_topk(rollout.ancestor) if full else None,
        }

    def read_trace(self, rollout_id: str) -> Trace | None:
        """What `write_traces` stored; None where there is nothing or the tokens were not kept.

        Signals and features are computed anew from the tokens, so they are what they were.
        """
        rows = self.query(
            "SELECT * FROM token_arrays JOIN rollouts USING (id) "
            "WHERE id = ? AND taken IS NOT NULL "
            "AND specialist IS NOT NULL AND ancestor IS NOT NULL",
            [rollout_id],
        )
        if not rows:
            return None
        row = rows[0]
        rollout = Rollout(
            text=row["text"],
            token_ids=unpack(row["taken"])[0],
            finish_reason=row["finish_reason"],
            specialist=unpack_topk(row["specialist"]),
            ancestor=unpack_topk(row["ancestor"]),
            pieces=None if row["pieces"] is None else tuple(loaded(row["pieces"], list, "pieces")),
        )
        return measure(rollout, row["temperature"])

    def run(self, run_id: str | None = None) -> Row | None:
        """A run by its id, or the latest; None where there is none."""
        rows = self.query(
            "SELECT * FROM runs WHERE ?1 IS NULL OR id = ?1 ORDER BY started_at DESC LIMIT 1",
            [run_id],
        )
        return rows[0] if rows else None

    def run_problems(self, run_id: str) -> list[Row]:
        """The problems of a run with how each ended, in order; tokens are those of all calls."""
        return self.query(f"{PROBLEMS} WHERE run_id = ? ORDER BY problems.rowid", [run_id])

    def run_problem(self, run_id: str, key: str) -> Row | None:
        """One problem of a run by the user's own id of it."""
        rows = self.query(
            f"{PROBLEMS} WHERE run_id = ? AND key IN (?, ?)", [run_id, *self.keys(key)]
        )
        return rows[0] if rows else None

    def problem_attempts(self, problem_id: str) -> list[Row]:
        """The rollouts of a problem with verdict and, for interventions, the decision's id."""
        return self.query(
            "SELECT rollouts.*, verdicts.value, verdicts.answer, verdicts.explanation, "
            "interventions.decision_id, interventions.outcome FROM rollouts "
            "LEFT JOIN verdicts USING (id) LEFT JOIN interventions USING (id) "
            "WHERE problem_id = ? ORDER BY position",
            [problem_id],
        )

    def problem_decisions(self, problem_id: str) -> list[Row]:
        """The router's decisions on a problem, in order."""
        return self.query(
            "SELECT * FROM decisions WHERE problem_id = ? ORDER BY step", [problem_id]
        )

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of a SELECT as dictionaries."""
        with self._clear_errors(), self._lock:
            names, rows = self._engine.read(sql, parameters)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Rows of a SELECT as tuples: where there are very many."""
        with self._clear_errors(), self._lock:
            return self._engine.read(sql, parameters)[1]

    @contextmanager
    def stream(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Iterator[Any]]:
        """The rows of a SELECT one by one, beside whatever else is read and written."""
        with (
            self._within(self._engine.stream(sql, parameters)) as rows,
            closing(self._clearly(rows)) as told,
        ):
            yield told

    def _clearly(self, rows: Iterator[Any]) -> Generator[Any, None, None]:
        with self._clear_errors():
            yield from rows

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment, whatever others write; nothing is written."""
        with self._lock, self._within(self._engine.snapshot()):
            yield

    @contextmanager
    def hold(self, run_id: str) -> Iterator[None]:
        """Work on a run while the block lasts.

        Raises:
            StoreError: another process works on it.
        """
        with self._within(self._engine.hold(run_id)) as mine:
            if not mine:
                raise StoreError(
                    f"run {run_id} of {self.path} is being worked on by another process; wait for "
                    "it or end it, or leave out --resume to begin a new run"
                )
            yield

    @contextmanager
    def _within(self, entered: AbstractContextManager[T]) -> Iterator[T]:
        """Tell of errors on the way in and out; what is done inside tells of its own."""
        with ExitStack() as stack:
            with self._clear_errors():
                value = stack.enter_context(entered)
            try:
                yield value
            finally:
                with self._clear_errors():
                    stack.close()

    def version(self) -> int:
        """A number that changes whenever somebody else has written to the store."""
        with self._clear_errors(), self._lock:
            return self._engine.version()

    def unsettled(self) -> bool:
        """Whether somebody is in the midst of writing rows that may go before what is there."""
        with self._clear_errors(), self._lock:
            return self._engine.unsettled()

    def schema(self) -> str:
        """The SQL that makes an empty store."""
        return self._engine.schema()

    def key(self, value: str) -> str:
        """A user's own id as the `key` column holds it: itself, or its salted hash."""
        return value if self.store_text == "full" else self._hash(value, self._key_salt)

    def keys(self, value: str) -> tuple[str, str]:
        """What a user's own id may be held as, whatever was kept when it was stored."""
        return value, self._hash(value)

    def _redacted(self, table: str, rows: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
        if self.store_text == "full":
            return map(dict, rows)
        return (self._without_text(table, row) for row in rows)

    def kept_text(self, value: str) -> str | None:
        """A user's or a model's text as its column holds it: itself, its salted hash or None."""
        if self.store_text == "full":
            return value
        return self._hash(value) if self.store_text == "hash" else None

    def _without_text(self, table: str, row: Mapping[str, Any]) -> Row:
        kept = dict(row)
        for column in TEXT_COLUMNS.get(table, ()):
            if kept.get(column) is not None:
                kept[column] = self.kept_text(kept[column])
        kept |= dict.fromkeys(FREE_COLUMNS.get(table, ()))
        if self.store_text == "none" and "problem_id" in kept and "seed" in kept:
            kept["seed"] = 0  # it is made of the user's own id, so that a guess could be confirmed
        if table == "problems":
            kept["key"] = self.key(kept["key"])
        return kept

    def _hash(self, text: str, salt: bytes | None = None) -> str:
        key = self._salt if salt is None else salt
        return hashlib.blake2b(storable(text).encode(), digest_size=16, key=key).hexdigest()

    def _written_at_once(self, work: Callable[[], None], *, durable: bool = False) -> None:
        """Do some work in one transaction, over again where what hindered it may pass.

        That is safe: whatever is written may be written twice.
        """
        with self._clear_errors(), self._lock:
            for left in reversed(range(TRIES)):
                try:
                    with self._engine.transaction(durable=durable):
                        work()
                    return
                except self._engine.passing:
                    if not left:
                        raise
                    time.sleep(PAUSE * (TRIES - left))
                    self._engine.recover()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except self._engine_type.errors as error:
            raise StoreError(
                f"trace store {self.path}: {' '.join(str(error).split())}; "
                f"{self._engine_type.advice(error)}, "
                "or name another with --db or RECOV_GRAPH_DB"
            ) from error
