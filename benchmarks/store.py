"""The trace store against raw sqlite3: the same rows, schema, pragmas and transactions.

What is written is what runs write: problems with four samples, half of them routed to three more
attempts, in batches as an import or a large run does, and problem by problem as the loop does. Raw
is the fastest that is honest: `executemany` of tuples that lie ready, in a transaction for a batch.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.refit import NOW, run_row
from benchmarks.rows import Row, clock, in_turn, of_times
from recov_graph.interventions import default_interventions
from recov_graph.models import Capability
from recov_graph.models.embedded import bundled_problems
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore

PROBLEMS, BATCH, RUNS = 2_000, 100, 11
Tables = dict[str, list[dict[str, Any]]]
# A table, its columns, and its rows as tuples.
Ready = list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]
READ = (
    "SELECT rollouts.*, verdicts.value, verdicts.answer FROM rollouts JOIN verdicts USING (id) "
    "ORDER BY problem_id, position"
)


def problem_rows(number: int, rng: np.random.Generator) -> Tables:
    """All that is stored of one problem, but arrays of its tokens."""
    asked = bundled_problems()[number % len(bundled_problems())]
    name, routed = f"r/{number:06}", number % 2
    tables: Tables = {
        "problems": [
            {
                "id": name,
                "run_id": "r",
                "key": f"{asked.id}/{number}",
                "task": asked.task,
                "prompt": asked.prompt,
                "answer": str(asked.answer),
                "started_at": NOW,
            }
        ],
        "rollouts": [],
        "verdicts": [],
        "features": [],
        "decisions": [],
        "interventions": [],
    }
    for position in range(7 if routed else 4):
        _rollout(tables, name, position, asked.prompt, rng)
    if routed:
        for step in range(3):
            _decision(tables, name, step, rng)
    return tables


def _rollout(
    tables: Tables, problem: str, position: int, prompt: str, rng: np.random.Generator
) -> None:
    name = f"{problem}/{position}"
    steps = [f"{a}*{b}={a * b};" for a, b in rng.integers(10, 99, (8, 2)).tolist()]
    tables["rollouts"].append(
        {
            "id": name,
            "problem_id": problem,
            "position": position,
            "operator": "sample" if position < 4 else "dense_steer",
            "temperature": 0.6,
            "seed": int(rng.integers(2**31)),
            "text": prompt + "".join(steps),
            "finish_reason": "stop",
            "tokens": 80,
            "created_at": NOW,
        }
    )
    tables["verdicts"].append(
        {
            "id": name,
            "value": "failed",
            "score": 0.0,
            "answer": str(position),
            "explanation": f"{position} is not the answer that was expected",
            "verifier": "numeric",
        }
    )
    if position < 4:
        spread, concentration, dispersion = rng.random(3).tolist()
        tables["features"].append(
            {
                "id": name,
                "junction": position,
                "spread": spread,
                "concentration": concentration,
                "logit_dispersion": dispersion,
                "feature_version": FEATURE_VERSION,
            }
        )


def _decision(tables: Tables, problem: str, step: int, rng: np.random.Generator) -> None:
    names = list(default_interventions(frozenset(Capability)))
    chances = rng.random(len(names)).tolist()
    candidates = [
        {"operator": one, "score": None, "expected_rescue": chance, "expected_cost": 150}
        for one, chance in zip(names, chances, strict=True)
    ]
    tables["decisions"].append(
        {
            "id": f"{problem}/decision{step}",
            "problem_id": problem,
            "step": step,
            "regime": "steerable_hard",
            "operator": "dense_steer",
            "probability": 0.95,
            "expected_rescue": 0.2,
            "candidates": json.dumps(candidates),
            "reason": "dense_steer is expected to rescue 21% of such failures for 148 tokens",
            "policy": "embedded",
            "policy_hash": "0" * 16,
            "created_at": NOW,
            "attempts_left": 8 - step,
            "measured": 1,
            "once": "{}",
        }
    )
    tables["interventions"].append(
        {
            "id": f"{problem}/{4 + step}",
            "decision_id": f"{problem}/decision{step}",
            "operator": "dense_steer",
            "outcome": "failed",
            "details": json.dumps({"mode": "path", "alpha": 0.7}),
            "tokens": 150,
        }
    )


def joined(problems: Sequence[Tables]) -> Tables:
    """The rows of several problems, table by table."""
    return {table: [row for one in problems for row in one[table]] for table in problems[0]}


def ready(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Ready:
    """The rows as raw sqlite3 takes them."""
    return [
        (table, tuple(rows[0]), [tuple(row.values()) for row in rows])
        for table, rows in tables.items()
        if rows
    ]


def written(path: Path, batches: Sequence[Tables]) -> float:
    """Seconds that a `TraceStore` takes to write batches."""
    with TraceStore(path) as store:
        store.write(runs=[run_row()])
        started = clock()
        for tables in batches:
            store.write(**tables)
        return clock() - started


def written_raw(path: Path, batches: Sequence[Ready]) -> float:
    """Seconds that raw sqlite3 takes to write the same, one transaction for a batch."""
    with TraceStore(path) as store:  # the schema, with its indexes and views
        store.write(runs=[run_row()])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")
        started = clock()
        for batch in batches:
            connection.execute("BEGIN IMMEDIATE")
            for table, columns, rows in batch:
                marks = ", ".join("?" * len(columns))
                sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
                connection.executemany(sql, rows)
            connection.execute("COMMIT")
        return clock() - started


def writes(folder: Path, problems: Sequence[Tables], size: int) -> Row:
    """Writing so many problems at a time."""
    batches = [joined(problems[i : i + size]) for i in range(0, len(problems), size)]
    raw = [ready(tables) for tables in batches]
    ours: list[float] = []
    other: list[float] = []
    for run in range(RUNS + 1):
        ours.append(written(folder / f"{size}-{run}-ours.db", batches))
        other.append(written_raw(folder / f"{size}-{run}-raw.db", raw))
    rows = sum(len(rows) for tables in batches for rows in tables.values())
    name = f"store, writing {rows:,} rows, {size} problem{'s' if size > 1 else ''} a transaction"
    return of_times(name, ours[1:], other[1:], "raw sqlite3", target=0.5)


def reads(path: Path) -> list[Row]:
    """Reading rollouts with their verdicts, as dictionaries and as tuples."""
    with TraceStore(path) as store, closing(sqlite3.connect(path)) as connection:
        size = len(store.rows(READ))
        ours, plain, other = in_turn(
            RUNS,
            lambda: store.query(READ),
            lambda: store.rows(READ),
            lambda: connection.execute(READ).fetchall(),
        )
    against = "raw sqlite3, tuples"
    return [
        of_times(f"store, reading {size:,} rows as dictionaries", ours, other, against),
        of_times(f"store, reading {size:,} rows as tuples", plain, other, against, target=0.5),
    ]


def main() -> list[Row]:
    """Print the ratio of raw sqlite3's time to ours."""
    rng = np.random.default_rng(0)
    problems = [problem_rows(number, rng) for number in range(PROBLEMS)]
    with tempfile.TemporaryDirectory() as folder:
        rows = [writes(Path(folder), problems, BATCH)]
        rows.append(writes(Path(folder), problems[: PROBLEMS // 4], 1))
        rows += reads(Path(folder) / f"{BATCH}-{RUNS}-ours.db")
    for row in rows:
        print(row.line())
    return rows


if __name__ == "__main__":
    main()
