"""A database of the first or the second schema version, opened by this one."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlite_utils import Database

from recov_graph.errors import StoreError, TapeError
from recov_graph.graph import create_recovery_graph
from recov_graph.problem import Problem
from recov_graph.record import Settings, record
from recov_graph.store import TraceStore
from recov_graph.store.learning import stored_decisions, stored_outcomes
from recov_graph.store.migrations import migrations
from recov_graph.stored import logged_decisions, read_failures
from recov_graph.tape import read_tape

NOW = "2026-01-01T00:00:00.000+00:00"
SECOND, THIRD = "m002_learning", "m003_rollout_features"
# What the first version had: steps that were ever released are not edited.
FIRST_TABLES = {
    "settings",
    "runs",
    "problems",
    "outcomes",
    "calls",
    "rollouts",
    "verdicts",
    "token_arrays",
    "features",
    "decisions",
    "interventions",
}
FIRST_DECISIONS = {
    "id": "q/decision0",
    "problem_id": "q",
    "step": 0,
    "regime": "sampling",
    "operator": "retry",
    "probability": 1.0,
    "expected_rescue": 0.25,
    "candidates": json.dumps(
        [{"operator": "retry", "score": None, "expected_rescue": 0.25, "expected_cost": 28}]
    ),
    "reason": "no feature stands out",
    "policy": "p",
    "policy_hash": "0",
    "created_at": NOW,
}
ADDED = ("attempts_left", "tokens_left", "measured", "once")
ROWS: dict[str, list[dict[str, Any]]] = {
    "settings": [{"id": "salt", "value": "00" * 16}],
    "runs": [
        {
            "id": "r",
            "kind": "run",
            "model": "m",
            "verifier": "exact",
            "policy": "p",
            "policy_hash": "0",
            "package_version": "0.1.0",
            "feature_version": 1,
            "router_version": 1,
            "store_text": "full",
            "seed": 1,
            "started_at": NOW,
        }
    ],
    "problems": [
        {
            "id": "q",
            "run_id": "r",
            "key": "one",
            "task": "sums",
            "prompt": "1+1?",
            "answer": "2",
            "started_at": NOW,
        }
    ],
    "rollouts": [
        {
            "id": f"q/{position}",
            "problem_id": "q",
            "position": position,
            "operator": operator,
            "temperature": 0.6,
            "seed": 1,
            "finish_reason": "stop",
            "tokens": 3,
            "text": text,
            "created_at": NOW,
        }
        for position, (operator, text) in enumerate([("sample", "A:3"), ("retry", "A:2")])
    ],
    "verdicts": [
        {"id": f"q/{position}", "value": value, "score": score, "verifier": "exact"}
        for position, (value, score) in enumerate([("failed", 0.0), ("passed", 1.0)])
    ],
    "decisions": [FIRST_DECISIONS],
    "interventions": [
        {
            "id": "q/1",
            "decision_id": "q/decision0",
            "operator": "retry",
            "outcome": "rescued",
            "tokens": 28,
            "details": "{}",
        }
    ],
}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A database of the first version with a problem that was rescued."""
    path = tmp_path / "first.db"
    db = Database(path)
    migrations.apply(db, stop_before=SECOND)
    for table, rows in ROWS.items():
        db.table(table).insert_all(rows)
    db.close()
    return path


def rows_of(path: Path, table: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
    finally:
        connection.close()


def as_before(path: Path, before: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The same tables now, without the columns that came since."""
    now = {table: zip(rows_of(path, table), old, strict=True) for table, old in before.items()}
    return {
        table: [{name: new[name] for name in old} for new, old in both]
        for table, both in now.items()
    }


def test_the_first_step_is_what_it_was(first: Path) -> None:
    tables = {row["name"] for row in rows_of(first, "pragma_table_list") if row["strict"]}
    assert tables == FIRST_TABLES
    columns = [row["name"] for row in rows_of(first, "pragma_table_info('decisions')")]
    assert columns == list(FIRST_DECISIONS)


def test_a_database_of_the_first_version_keeps_its_rows(first: Path) -> None:
    before = {table: rows_of(first, table) for table in FIRST_TABLES - {"decisions"}}
    TraceStore(first).close()
    assert as_before(first, before) == before
    (decision,) = rows_of(first, "decisions")
    assert {name: decision.pop(name) for name in ADDED} == dict.fromkeys(ADDED)
    assert decision == FIRST_DECISIONS
    for table in ("profiles", "tallies", "tape", "rollout_features"):
        assert rows_of(first, table) == []


def test_a_database_of_the_first_version_becomes_one_like_any_other(
    first: Path, tmp_path: Path
) -> None:
    def columns(path: Path) -> dict[str, list[tuple[Any, ...]]]:
        TraceStore(path).close()
        tables = [row["name"] for row in rows_of(path, "sqlite_master") if row["type"] == "table"]
        return {
            table: [tuple(row.values()) for row in rows_of(path, f"pragma_table_info('{table}')")]
            for table in sorted(tables)
        }

    migrated = columns(first)
    assert migrated == columns(tmp_path / "new.db")
    assert columns(first) == migrated  # opened again, nothing is left to do
    applied = [row["name"] for row in rows_of(first, "_sqlite_migrations")]
    assert applied[:3] == ["m001_traces", SECOND, THIRD]
    assert len(set(applied)) == len(applied)


def test_what_was_stored_before_can_be_learned_from(first: Path) -> None:
    with TraceStore(first) as store:
        assert stored_outcomes(store) == [("q", "retry", 1, 1)]
        # A decision that does not say what it was allowed is not asked again.
        assert stored_decisions(store) == []
        failures = read_failures(store)
        assert logged_decisions(store, failures) == []
    assert len(failures) == 1
    assert failures.outcomes.operators == ("retry",)
    assert failures.outcomes.passed.tolist() == [[1.0]]
    assert failures.outcomes.failed_samples.tolist() == [1.0]
    with pytest.raises(TapeError, match="recov-graph record"):
        read_tape(first)


def test_a_database_of_the_first_version_is_written_to_like_any_other(
    first: Path, scripted: Any
) -> None:
    problem = Problem(prompt="1+1?", answer="2", id="two", task="sums")
    with TraceStore(first) as store:
        model = scripted(["A:3"] * 4, last="A:2", name="m")
        graph = create_recovery_graph(model, "exact", interventions=["retry"], store=store, seed=0)
        graph.invoke({"problem": problem.model_dump()})
        assert len(stored_decisions(store)) == 1
        settings = Settings(samples=2, attempts=2, temperature=0.6, max_new_tokens=9, seed=0)
        record(scripted(last="A:3"), "exact", [problem], store, settings=settings)
    with TraceStore(first) as store:
        assert [row["kind"] for row in store.query("SELECT kind FROM runs ORDER BY rowid")] == [
            "run",
            "graph",
            "record",
        ]
    assert [one.id for one in read_tape(first)] == ["two"]
    assert rows_of(first, "decisions")[0]["attempts_left"] is None


def test_a_migration_that_cannot_be_written_leaves_the_file_as_it_was(first: Path) -> None:
    """Another program has taken a name that the second step needs."""
    connection = sqlite3.connect(first)
    with connection:
        connection.execute("CREATE TABLE profiles (id INTEGER PRIMARY KEY)")
    before = list(connection.iterdump())
    connection.close()
    with pytest.raises(StoreError, match="profiles"):
        TraceStore(first)
    connection = sqlite3.connect(first)
    assert list(connection.iterdump()) == before
    connection.close()


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A database of the second version with a problem that was rescued, and one from elsewhere."""
    path = tmp_path / "second.db"
    db = Database(path)
    migrations.apply(db, stop_before=THIRD)
    allowed = {"attempts_left": 11, "tokens_left": None, "measured": 0, "once": "{}"}
    added = {
        "decisions": [{**FIRST_DECISIONS, **allowed}],
        "profiles": [{"id": "q", "failed_samples": 1, "feature_version": 1}],
        "tallies": [
            {"id": "q/a", "problem_id": "q", "operator": "retry", "passed": 1.0, "attempts": 2.0}
        ],
        "tape": [
            {"id": "q/b", "problem_id": "q", "operator": "retry", "position": 0, "seed": 1}
            | {"passed": 0, "tokens": 9}
        ],
    }
    for table, rows in (ROWS | added).items():
        db.table(table).insert_all(rows)
    db.close()
    return path


def test_a_database_of_the_second_version_keeps_its_rows(second: Path) -> None:
    tables = {row["name"] for row in rows_of(second, "pragma_table_list") if row["strict"]}
    assert tables == FIRST_TABLES | {"profiles", "tallies", "tape"}
    before = {table: rows_of(second, table) for table in tables}
    with TraceStore(second) as store:
        (decision,) = logged_decisions(store, read_failures(store))
        assert decision.evidence.features is None
        assert np.isnan(read_failures(store).outcomes.rollout).all()
    assert as_before(second, before) == before
    assert rows_of(second, "rollout_features") == []
