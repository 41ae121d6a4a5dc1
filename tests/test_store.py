"""The trace store: what it refuses, what it keeps, and what it never lets reach the disk."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlite_utils import Migrations

import recov_graph.store.sqlite as sqlite_module
from recov_graph.errors import InvalidInputError, StoreError
from recov_graph.graph import create_recovery_graph
from recov_graph.interventions import Attempt
from recov_graph.models import Capability
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.rollout import Rollout
from recov_graph.routing import default_policy
from recov_graph.store import TraceStore, default_path
from recov_graph.store.blobs import pack, unpack
from recov_graph.trace import Trace, measure

CHECKOUT = Path(__file__).parents[1]
NOW = "2026-01-01T00:00:00.000+00:00"
RUN = {
    "id": "r",
    "kind": "run",
    "model": "m",
    "verifier": "exact",
    "policy": "p",
    "policy_hash": "0",
    "package_version": "0",
    "feature_version": 1,
    "router_version": 1,
    "store_text": "full",
    "seed": 1,
    "started_at": NOW,
}
PROBLEM = {
    "id": "q",
    "run_id": "r",
    "key": "one",
    "task": "sums",
    "prompt": "1+1?",
    "answer": "2",
    "started_at": NOW,
}
ROLLOUT = {
    "id": "q/0",
    "problem_id": "q",
    "position": 0,
    "operator": "sample",
    "temperature": 0.6,
    "seed": 1,
    "finish_reason": "stop",
    "tokens": 3,
    "text": "A:3",
    "created_at": NOW,
}
FEATURES = {
    "id": "q/0",
    "junction": 0,
    "spread": 0.5,
    "concentration": 0.5,
    "logit_dispersion": 0.5,
    "feature_version": 1,
}
TEXT_TABLES = {
    "problems": ("prompt", "answer"),
    "rollouts": ("text",),
    "verdicts": ("answer", "explanation"),
}


@pytest.fixture
def filled(store: TraceStore) -> TraceStore:
    store.write(runs=[RUN], problems=[PROBLEM], rollouts=[ROLLOUT])
    return store


def dump(path: str | Path) -> list[str]:
    """Everything a database says, in SQL."""
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def count(store: TraceStore, table: str) -> int:
    return int(store.query(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def files_of(path: str | Path) -> dict[str, bytes]:
    """The database with its -wal and -shm, by name."""
    path = Path(path)
    return {file.name: file.read_bytes() for file in path.parent.glob(f"{path.name}*")}


# What is refused


@pytest.mark.parametrize("column", ["spread", "concentration", "logit_dispersion"])
def test_nan_is_refused_where_a_number_belongs(filled: TraceStore, column: str) -> None:
    with pytest.raises(StoreError, match=rf"features\.{column}"):
        filled.write(features=[{**FEATURES, column: float("nan")}])
    assert count(filled, "features") == 0


@pytest.mark.parametrize(
    ("table", "row"),
    [
        pytest.param("runs", {**RUN, "id": "r2", "seed": "one"}, id="text for a whole number"),
        pytest.param("runs", {**RUN, "id": "r2", "seed": 1.5}, id="a fraction for a whole number"),
        pytest.param("runs", {**RUN, "id": "r2", "seed": np.int64(1)}, id="a numpy integer"),
        pytest.param("runs", {**RUN, "id": "r2", "kind": b"run"}, id="bytes for text"),
        pytest.param("runs", {**RUN, "id": None}, id="no key"),
        pytest.param("runs", {**RUN, "id": "r2", "kind": None}, id="nothing for text"),
        pytest.param("features", {**FEATURES, "spread": "much"}, id="text for a number"),
        pytest.param("features", {**FEATURES, "spread": np.float32(0.5)}, id="a numpy float32"),
        pytest.param("runs", {"id": "r2", "kind": "run"}, id="columns missing"),
        pytest.param("runs", {**RUN, "colour": "red"}, id="a column that does not exist"),
        pytest.param("colours", {"id": "red", "name": "Red"}, id="a table that does not exist"),
    ],
)
def test_wrong_rows_are_refused_and_change_nothing(
    filled: TraceStore, table: str, row: dict[str, Any]
) -> None:
    before = dump(filled.path)
    with pytest.raises(StoreError, match=r"traces\.db"):
        filled.write(**{table: [row]})
    assert dump(filled.path) == before


@pytest.mark.parametrize("wrong", [{"seed": 2**63}, {"kind": "\ud800"}], ids=["integer", "text"])
def test_values_that_sqlite_cannot_hold_are_refused_like_others(
    filled: TraceStore, wrong: dict[str, Any]
) -> None:
    with pytest.raises(StoreError):
        filled.write(runs=[{**RUN, "id": "r2", **wrong}])


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("problems", {**PROBLEM, "id": "q2", "run_id": "nobody"}),
        ("rollouts", {**ROLLOUT, "id": "q/1", "problem_id": "nobody"}),
        ("features", {**FEATURES, "id": "nobody"}),
    ],
)
def test_orphans_are_refused(filled: TraceStore, table: str, row: dict[str, Any]) -> None:
    before = count(filled, table)
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        filled.write(**{table: [row]})
    assert count(filled, table) == before


def test_a_write_is_stored_whole_or_not_at_all(filled: TraceStore) -> None:
    before = dump(filled.path)
    good = {**ROLLOUT, "id": "q/1", "position": 1}
    with pytest.raises(StoreError):
        filled.write(
            runs=[{**RUN, "id": "r2"}, {**RUN, "kind": "changed"}],
            rollouts=[good, {**good, "id": "q/2", "temperature": float("nan")}],
        )
    assert dump(filled.path) == before
    filled.write(rollouts=[good])  # the store goes on working
    assert count(filled, "rollouts") == 2


def test_rows_with_different_columns_lose_none(filled: TraceStore) -> None:
    without = {name: value for name, value in RUN.items() if name != "seed"}
    filled.write(runs=[{**without, "id": "r2"}, {**RUN, "id": "r3", "seed": 7}])
    row = filled.run("r3")
    assert row is not None
    assert row["seed"] == 7


def test_every_table_of_ours_is_strict(store: TraceStore) -> None:
    tables = store.query(
        "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
    )
    ours = {row["name"]: row["strict"] for row in tables if not row["name"].startswith("sqlite_")}
    ours.pop("_sqlite_migrations")  # kept by sqlite-utils
    assert len(ours) >= 10
    assert all(ours.values()), ours


def test_an_unknown_store_text_names_the_legal_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"'some'.*full, hash, none"):
        TraceStore(tmp_path / "traces.db", store_text="some")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# Writing again, at once, and from several sides


def test_the_same_rows_written_twice_are_there_once(filled: TraceStore) -> None:
    before = dump(filled.path)
    filled.write(runs=[RUN], problems=[PROBLEM], rollouts=[ROLLOUT])
    assert dump(filled.path) == before


def test_a_row_written_again_is_updated_and_keeps_what_refers_to_it(filled: TraceStore) -> None:
    filled.write(problems=[{**PROBLEM, "task": "other"}])
    (row,) = filled.run_problems("r")
    assert row["task"] == "other"
    assert count(filled, "rollouts") == 1


OUTCOME = {
    "id": "q",
    "solved": 1,
    "best_rollout": "q/1",
    "regime": None,
    "stop_reason": "solved",
    "attempts": 2,
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "scored_tokens": 1,
    "seconds": 0.5,
    "finished_at": NOW,
}
DECISION = {
    "id": "q/decision0",
    "problem_id": "q",
    "step": 0,
    "regime": "sampling",
    "operator": "retry",
    "probability": 1.0,
    "expected_rescue": 0.5,
    "candidates": "[]",
    "reason": None,
    "policy": "p",
    "policy_hash": "0",
    "created_at": NOW,
}
CALL = {
    "id": "q/call0",
    "problem_id": "q",
    "purpose": "sample",
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "scored_tokens": 1,
    "seconds": 0.5,
}
# What a recovery writes of a problem, apart from how it ended.
OF_A_PROBLEM = ("verdicts", "interventions", "features", "token_arrays", "rollouts", "decisions")
OF_A_PROBLEM += ("calls", "rollout_features")


def rows_of(problem_id: str, attempts: int) -> dict[str, list[dict[str, Any]]]:
    """Everything a recovery writes of a problem: a sample, and so many attempts after it."""

    def named(row: dict[str, Any], name: str, number: int, **changes: Any) -> dict[str, Any]:
        return {**row, "id": f"{problem_id}/{name}{number}", **changes}

    of_it = {"problem_id": problem_id}
    every, later = range(attempts + 1), range(1, attempts + 1)
    verdict = {"value": "failed", "score": None, "verifier": "exact"}
    tried = {"operator": "retry", "outcome": "failed", "tokens": 3, "details": None}
    told = {"failed_share": 1.0, "agreement": 0.0, "truncated": 0.0, "length": 1.0}
    return {
        "problems": [{**PROBLEM, "id": problem_id, "key": problem_id}],
        "rollouts": [named(ROLLOUT, "", i, position=i, **of_it) for i in every],
        "verdicts": [named(verdict, "", i) for i in every],
        "features": [named(FEATURES, "", i) for i in every],
        "token_arrays": [named({"length": 1, "signals": b""}, "", i) for i in every],
        "decisions": [named(DECISION, "decision", i, step=i, **of_it) for i in every],
        "interventions": [
            named(tried, "", i, decision_id=f"{problem_id}/decision{i - 1}") for i in later
        ],
        "calls": [named(CALL, "call", i, **of_it) for i in every],
        "rollout_features": [{**told, "id": problem_id, "feature_version": 1}],
    }


def ids_of(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    return {table: [row["id"] for row in rows[table]] for table in OF_A_PROBLEM}


def stored_ids(store: TraceStore) -> dict[str, set[str]]:
    return {
        table: {row["id"] for row in store.query(f"SELECT id FROM {table}")}
        for table in OF_A_PROBLEM
    }


@pytest.mark.parametrize("store_text", ["full", "hash", "none"])
def test_what_does_not_belong_to_how_a_problem_ended_is_forgotten(
    tmp_path: Path, store_text: Any
) -> None:
    with TraceStore(tmp_path / "t.db", store_text=store_text) as store:
        store.write(runs=[RUN], **rows_of("q", attempts=4))
        store.write(**rows_of("other", attempts=4))
        store.write(outcomes=[{**OUTCOME, "stop_reason": "budget_exhausted"}])
        kept, others = ids_of(rows_of("q", attempts=1)), ids_of(rows_of("other", attempts=4))
        store.settle(OUTCOME, **kept)
        assert stored_ids(store) == {
            table: {*kept[table], *others[table]} for table in OF_A_PROBLEM
        }
        assert store.query("PRAGMA foreign_key_check") == []
        ended = store.query("SELECT id, stop_reason FROM outcomes")
        assert ended == [{"id": "q", "stop_reason": "solved"}]
        assert count(store, "problems") == 2


def test_what_belongs_to_how_a_problem_ended_stays(filled: TraceStore) -> None:
    rows = rows_of("q", attempts=2)
    filled.write(**rows)
    before = [line for line in dump(filled.path) if "outcomes" not in line]
    filled.settle(OUTCOME, **ids_of(rows))
    assert [line for line in dump(filled.path) if "outcomes" not in line] == before


def test_a_table_that_is_not_named_is_emptied_of_the_problem(filled: TraceStore) -> None:
    filled.write(**rows_of("q", attempts=2))
    filled.settle(OUTCOME)
    assert not any(stored_ids(filled).values())
    assert count(filled, "problems") == count(filled, "outcomes") == 1


def test_where_the_outcome_is_refused_nothing_is_forgotten(filled: TraceStore) -> None:
    filled.write(**rows_of("q", attempts=2))
    before = dump(filled.path)
    with pytest.raises(StoreError, match="solved"):
        filled.settle({**OUTCOME, "solved": None})
    # A decision cannot go while an attempt that is kept was made because of it.
    kept = ids_of(rows_of("q", attempts=2)) | {"decisions": []}
    with pytest.raises(StoreError, match="FOREIGN KEY"):
        filled.settle(OUTCOME, **kept)
    assert dump(filled.path) == before


def test_the_store_writes_ahead(store: TraceStore) -> None:
    assert store.query("PRAGMA journal_mode")[0]["journal_mode"] == "wal"
    store.write(runs=[RUN])
    assert sorted(files_of(store.path)) == ["traces.db", "traces.db-shm", "traces.db-wal"]


def test_a_reader_is_not_kept_waiting_by_a_writer(filled: TraceStore) -> None:
    writer = sqlite3.connect(filled.path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE runs SET kind = 'changed'")
    run = filled.run("r")
    writer.execute("COMMIT")
    writer.close()
    assert run is not None
    assert run["kind"] == "run"


def test_eight_threads_lose_nothing(filled: TraceStore) -> None:
    def work(thread: int) -> None:
        for number in range(40):
            name = f"{thread}-{number}"
            filled.write(
                problems=[{**PROBLEM, "id": name, "key": name}],
                rollouts=[
                    {**ROLLOUT, "id": f"{name}/{place}", "problem_id": name, "position": place}
                    for place in range(3)
                ],
            )
            assert len(filled.problem_attempts(name)) == 3

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert count(filled, "problems") == 1 + 8 * 40
    assert count(filled, "rollouts") == 1 + 8 * 40 * 3


OPEN_TOGETHER = """
import sys, time
from recov_graph.store import TraceStore
print("ready", flush=True)
start, folder, me, run = float(sys.stdin.readline()), sys.argv[1], sys.argv[2], eval(sys.argv[3])
for number in range(20):
    while time.time() < start + number * 0.05:
        pass
    with TraceStore(f"{folder}/{number}.db") as store:
        store.write(runs=[{**run, "id": me}])
"""


def test_processes_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_TOGETHER, tmp_path, name, repr(RUN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    start = time.time() + 0.1
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{start}\n")
        process.stdin.flush()
    assert [process.communicate(timeout=60)[1] for process in processes] == ["", ""]
    for number in range(20):
        with TraceStore(tmp_path / f"{number}.db") as store:
            assert count(store, "runs") == 2


def test_opening_a_new_file_waits_for_who_is_writing_to_it(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    try:
        with TraceStore(path) as store:
            store.write(runs=[RUN])
    finally:
        release.join()
        other.close()


# Files that cannot be used


def test_a_newer_file_is_refused_and_left_alone(filled: TraceStore) -> None:
    filled.query("SELECT 1")
    filled.close()
    path = Path(filled.path)
    newer = sqlite3.connect(path)
    with newer:
        newer.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('recov_graph', 'm999_from_the_future', ?)",
            [NOW],
        )
    newer.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"newer recov-graph.*m999_from_the_future.*upgrade") as e:
        TraceStore(path)
    assert str(path) in str(e.value)
    assert path.read_bytes() == before


def test_migrations_of_others_in_the_same_file_are_none_of_our_business(
    filled: TraceStore,
) -> None:
    filled.close()
    connection = sqlite3.connect(filled.path)
    with connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('other_program', 'm999', ?)",
            [NOW],
        )
    connection.close()
    with TraceStore(filled.path) as again:
        assert count(again, "runs") == 1


def a_text_file(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("These are notes, and no database at all.\n" * 20)
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "folder"
    path.mkdir()
    return path


def below_a_file(folder: Path) -> Path:
    return a_text_file(folder) / "traces.db"


def a_damaged_database(folder: Path) -> Path:
    path = folder / "damaged.db"
    with TraceStore(path) as store:
        store.write(runs=[RUN])
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes(len(content) - 100))
    return path


@pytest.mark.parametrize("place", [a_text_file, a_folder, below_a_file, a_damaged_database])
def test_an_unusable_place_is_named_with_the_fix_and_left_alone(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    path = place(tmp_path)
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(StoreError, match=r"--db or RECOV_GRAPH_DB") as caught:
        TraceStore(path)
    assert str(path) in str(caught.value)
    assert {p: p.is_file() and p.read_bytes() for p in before} == before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_file_that_cannot_be_used_is_closed_again(tmp_path: Path) -> None:
    path = a_text_file(tmp_path)
    with pytest.raises(StoreError) as caught:
        TraceStore(path)
    open_files = {os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()}
    assert str(path) in str(caught.value)
    assert str(path.resolve()) not in open_files


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_without_write_permission_is_refused(filled: TraceStore) -> None:
    filled.close()
    Path(filled.path).chmod(0o400)
    with pytest.raises(StoreError, match="readonly"):
        TraceStore(filled.path)


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.sqlite"
    other = sqlite3.connect(path)
    with other:
        other.execute("CREATE TABLE bookmarks (id INTEGER PRIMARY KEY, url TEXT)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="recov-graph"):
        TraceStore(path)
    assert path.read_bytes() == before


def test_folders_are_made_where_missing(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "a" / "b" / "traces.db") as store:
        assert Path(store.path).is_file()


def test_a_migration_that_fails_midway_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite_module.migrations
    breaking = Migrations(real.name)
    for migration in real.pending(sqlite_module.Database(memory=True)):
        breaking(name=migration.name)(migration.fn)

    @breaking()
    def m999_breaks(db: Any) -> None:
        db["colours"].create({"id": str}, pk="id")
        db.execute("UPDATE runs SET kind = 'changed'")
        db.execute("INSERT INTO runs (id) VALUES ('half a row')")

    new, old = tmp_path / "new.db", tmp_path / "old.db"
    with TraceStore(old) as store:
        store.write(runs=[RUN])
    before = dump(old)
    monkeypatch.setattr(sqlite_module, "migrations", breaking)
    for path in (new, old):
        with pytest.raises(StoreError, match="NOT NULL"):
            TraceStore(path)
    assert dump(old) == before
    assert dump(new) == dump(":memory:")
    monkeypatch.undo()
    with TraceStore(new) as store:
        store.write(runs=[RUN])


def test_a_closed_store_says_so(filled: TraceStore) -> None:
    filled.close()
    with pytest.raises(StoreError, match="closed"):
        filled.write(runs=[RUN])


# What comes back


@pytest.fixture(scope="module")
def traces(pair: EmbeddedPair) -> list[Trace]:
    prompt = bundled_problems()[0].prompt
    rollouts = pair.sample(prompt, n=2, temperature=1.0, seed=0).rollouts
    ancestor = pair.score(prompt, [r.token_ids for r in rollouts], role="ancestor").topk
    specialist = pair.score(prompt, [r.token_ids for r in rollouts], role="specialist").topk
    return [
        measure(type(r)(r.text, r.token_ids, r.finish_reason, s, a), 0.6)
        for r, s, a in zip(rollouts, specialist, ancestor, strict=True)
    ]


def test_a_trace_comes_back_as_it_was_measured(filled: TraceStore, traces: list[Trace]) -> None:
    trace = traces[0]
    said = {"text": trace.rollout.text, "finish_reason": trace.rollout.finish_reason}
    filled.write(rollouts=[{**ROLLOUT, **said}])
    filled.write_traces({"q/0": trace})
    read = filled.read_trace("q/0")
    assert read is not None
    assert {name: getattr(read.rollout, name) for name in said} == said
    np.testing.assert_array_equal(read.rollout.token_ids, trace.rollout.token_ids)
    for side in ("specialist", "ancestor"):
        for given, back in zip(
            getattr(trace.rollout, side), getattr(read.rollout, side), strict=True
        ):
            np.testing.assert_array_equal(back, given)
            assert back.dtype == given.dtype
    assert read.features == trace.features
    for given, back in zip(trace.signals, read.signals, strict=True):
        np.testing.assert_array_equal(back, given)
    assert measure(read.rollout, 0.6).features == trace.features


@pytest.mark.parametrize("store_text", ["full", "hash", "none"])
def test_the_texts_of_tokens_are_kept_with_the_text_only(
    tmp_path: Path, traces: list[Trace], store_text: Any
) -> None:
    pieces = ("1", "\n", "", "\u202eé", '"')
    trace = traces[0]._replace(rollout=replace(traces[0].rollout, pieces=pieces))
    with TraceStore(tmp_path / "pieces.db", store_text=store_text) as store:
        store.write(runs=[RUN], problems=[PROBLEM], rollouts=[ROLLOUT])
        store.write_traces({"q/0": trace})
        ((kept,),) = store.rows("SELECT pieces FROM token_arrays")
        read = store.read_trace("q/0")
    assert (kept is None) == (store_text != "full")
    if store_text == "full":
        assert read is not None
        assert read.rollout.pieces == pieces


def test_a_trace_written_twice_is_there_once(filled: TraceStore, traces: list[Trace]) -> None:
    filled.write_traces({"q/0": traces[0]})
    before = dump(filled.path)
    filled.write_traces({"q/0": traces[0]})
    assert dump(filled.path) == before


def test_traces_of_unknown_rollouts_are_refused_together(
    filled: TraceStore, traces: list[Trace]
) -> None:
    with pytest.raises(StoreError):
        filled.write_traces({"q/0": traces[0], "nobody": traces[1]})
    assert count(filled, "token_arrays") == count(filled, "features") == 0


def test_what_was_never_measured_reads_as_nothing(filled: TraceStore) -> None:
    assert filled.read_trace("q/0") is None
    assert filled.read_trace("nobody") is None


def test_a_damaged_array_is_an_error_that_says_so(filled: TraceStore, traces: list[Trace]) -> None:
    filled.write_traces({"q/0": traces[0]})
    other = sqlite3.connect(filled.path)
    with other:
        other.execute("UPDATE token_arrays SET taken = zeroblob(40)")
    other.close()
    with pytest.raises(StoreError, match="damaged"):
        filled.read_trace("q/0")


def test_arrays_of_any_shape_survive_packing() -> None:
    arrays = [
        np.zeros((0, 3), np.int32),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.array([np.nan, -np.inf, 0.1], np.float32),
    ]
    for given, back in zip(arrays, unpack(pack(*arrays)), strict=True):
        np.testing.assert_array_equal(back, given)
        assert back.dtype == given.dtype


def test_objects_hidden_in_an_array_are_never_loaded() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match="damaged"):
        unpack(zlib.compress(buffer.getvalue()))


def test_a_header_that_is_no_python_is_an_error_of_the_store() -> None:
    raw = zlib.decompress(pack(np.zeros(5)))
    with pytest.raises(StoreError, match="damaged"):
        unpack(zlib.compress(raw.replace(b"False, ", b"False,)")))


# What never reaches the disk

MARKS = {
    "prompt": "PROMPTMARK",
    "answer": "ANSWERMARK",
    "id": "PROBLEMIDMARK",
    "metadata": "METADATAMARK",
    "first": "FIRSTOUTPUTMARK",
    "later": "LATEROUTPUTMARK",
    "explanation": "EXPLANATIONMARK",
}
REFITTED = ("features", "token_arrays", "decisions", "interventions", "outcomes", "verdicts")


def explaining(problem: Any, text: str) -> Any:
    from recov_graph.verifiers import Verdict

    passed = "right" in text
    return Verdict(
        "passed" if passed else "failed",
        answer=text,
        explanation=f"{MARKS['explanation']} {problem.answer} is not {text}",
    )


@pytest.fixture
def recovered(tmp_path: Path, scripted: Any) -> Callable[[Any], Iterator[tuple[TraceStore, str]]]:
    """Marked problems through the graph: one solved at once, one rescued, one never."""

    def recover(store_text: Any) -> TraceStore:
        wrong = f"{MARKS['first']} wrong"
        texts = [f"{MARKS['first']} right"] * 4 + [wrong] * 4 + [f"{MARKS['later']} wrong"] * 2
        texts += [f"{MARKS['later']} right"] + [wrong] * 4
        store = TraceStore(tmp_path / f"{store_text}.db", store_text=store_text)
        graph = create_recovery_graph(
            scripted(texts, last=f"{MARKS['later']} wrong"),
            explaining,
            store=store,
            router=default_policy().model_copy(update={"stop_below": 0.0}),
            interventions=["dense_steer", "retry"],
            seed=1,
        )
        ends = []
        for number in range(3):
            problem = {
                "prompt": f"{MARKS['prompt']} {number}",
                "answer": f"{MARKS['answer']} {number}",
                "id": f"{MARKS['id']}-{number}",
                "task": "marked",
                "metadata": {"note": MARKS["metadata"]},
            }
            ends.append(graph.invoke({"problem": problem})["stop_reason"])
        assert ends == ["solved", "solved", "budget_exhausted"]
        return store

    return recover


def readings(store: TraceStore) -> Iterator[tuple[str, bytes]]:
    """The bytes of the store's files, and every blob in it as far as it can be unpacked."""
    yield from files_of(store.path).items()
    for row in store.query("SELECT * FROM token_arrays"):
        for column in ("signals", "taken", "specialist", "ancestor"):
            if row[column] is not None:
                for array in unpack(row[column]):
                    yield column, array.tobytes()


def as_token_ids(text: str) -> bytes:
    """The text as the scripted model's tokens."""
    return np.array([ord(character) for character in text], np.int32).tobytes()


def traces_of(text: str, store: TraceStore) -> list[str]:
    """Where a text can be found, in clear, as UTF-16 or as token ids."""
    forms = (text.encode(), text.encode("utf-16-le"), as_token_ids(text))
    return [name for name, content in readings(store) if any(form in content for form in forms)]


def test_full_keeps_what_was_said(recovered: Any) -> None:
    with recovered("full") as store:
        for kind in ("prompt", "answer", "id", "first", "later", "explanation"):
            assert traces_of(MARKS[kind], store), kind
        assert "taken" in traces_of(MARKS["first"], store)  # so the search below would find it


@pytest.mark.parametrize("store_text", ["none", "hash"])
def test_no_text_reaches_the_disk(recovered: Any, store_text: str) -> None:
    with recovered(store_text) as store:
        assert any(name.endswith("-wal") for name, _ in readings(store))
        for kind, mark in MARKS.items():
            assert traces_of(mark, store) == [], kind
        store.query("PRAGMA wal_checkpoint(TRUNCATE)")
        for kind, mark in MARKS.items():
            assert traces_of(mark, store) == [], kind


class Critique:
    """A user's own intervention, which writes down what it read."""

    name = "critique"
    needs = frozenset({Capability.SAMPLE})

    def expected_cost(self, lengths: Any) -> int:
        return 1

    def apply(self, failure: Any, model: Any) -> Attempt:
        rollout = Rollout("x", np.array([120], np.int32), "stop")
        return Attempt(rollout, {"critique": f"{MARKS['later']} of {failure.problem.prompt}"})


@pytest.mark.parametrize("store_text", ["none", "hash"])
def test_no_text_in_an_interventions_details_reaches_the_disk(
    tmp_path: Path, scripted: Any, store_text: Any
) -> None:
    with TraceStore(tmp_path / "traces.db", store_text=store_text) as store:
        graph = create_recovery_graph(
            scripted(last="wrong"), "exact", store=store, interventions=[Critique()], seed=0
        )
        graph.invoke({"problem": {"prompt": MARKS["prompt"], "answer": "right"}})
        assert count(store, "interventions") > 0
        assert [mark for mark in MARKS.values() if traces_of(mark, store)] == []


def test_none_keeps_neither_text_nor_hash_nor_tokens(recovered: Any) -> None:
    with recovered("none") as store:
        for table, columns in TEXT_TABLES.items():
            for row in store.query(f"SELECT * FROM {table}"):
                assert [row[column] for column in columns] == [None] * len(columns)
        arrays = store.query("SELECT * FROM token_arrays")
        assert arrays
        for row in arrays:
            assert (row["taken"], row["specialist"], row["ancestor"]) == (None, None, None)
            assert store.read_trace(row["id"]) is None


def test_none_keeps_all_numbers_that_refitting_needs(recovered: Any) -> None:
    with recovered("none") as store, recovered("full") as full:
        for table in REFITTED:
            assert count(store, table) == count(full, table) > 0, table
        same = {
            "features": "junction, spread, concentration, logit_dispersion",
            "decisions": "step, regime, operator, probability, expected_rescue, candidates",
            "interventions": "operator, outcome, tokens",
            "outcomes": "solved, regime, stop_reason, attempts, completion_tokens, scored_tokens",
            "verdicts": "value, score, verifier",
            "problems": "task",
            "token_arrays": "length, signals",
        }
        for table, columns in same.items():
            sql = f"SELECT {columns} FROM {table} ORDER BY rowid"
            assert store.query(sql) == full.query(sql), table
        for row in store.query("SELECT * FROM decisions"):
            names = [candidate["operator"] for candidate in json.loads(row["candidates"])]
            assert row["operator"] in names
            assert 0 < row["probability"] <= 1


def test_a_problem_is_found_by_its_id_though_only_its_hash_is_kept(recovered: Any) -> None:
    with recovered("hash") as store:
        run = store.run()
        found = store.run_problem(run["id"], f"{MARKS['id']}-1")
        assert found["stop_reason"] == "solved"
        assert found["key"] == store.key(f"{MARKS['id']}-1") != f"{MARKS['id']}-1"
        assert store.run_problem(run["id"], "another") is None


def test_hashes_are_equal_for_equal_texts_within_a_file_only(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        with TraceStore(tmp_path / f"{name}.db", store_text="hash") as store:
            second = {**PROBLEM, "id": "q2", "key": "two"}
            third = {**PROBLEM, "id": "q3", "key": "three", "prompt": "1+2?"}
            store.write(runs=[RUN], problems=[PROBLEM, second, third])
            prompts = [row["prompt"] for row in store.run_problems("r")]
        assert prompts[0] == prompts[1] != prompts[2]
        hashes.append(prompts[0])
    assert hashes[0] != hashes[1]


def test_hashes_stay_the_same_when_a_file_is_opened_again(tmp_path: Path) -> None:
    for identity in ("q", "q2"):
        with TraceStore(tmp_path / "traces.db", store_text="hash") as store:
            store.write(runs=[RUN], problems=[{**PROBLEM, "id": identity}])
            prompts = {row["prompt"] for row in store.run_problems("r")}
    assert len(prompts) == 1


# Where it is


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECOV_GRAPH_DB", str(tmp_path / "mine.db"))
    assert default_path() == tmp_path / "mine.db"


@pytest.mark.parametrize("value", [None, ""])
def test_a_checkout_keeps_it_in_storage(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("RECOV_GRAPH_DB")
    if value is not None:
        monkeypatch.setenv("RECOV_GRAPH_DB", value)
    assert default_path() == CHECKOUT / "storage" / "traces.db"


def test_an_installed_package_keeps_it_in_the_users_data(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    ignored = shutil.ignore_patterns("pair", "__pycache__")
    shutil.copytree(CHECKOUT / "recov_graph", site / "recov_graph", ignore=ignored)
    code = "from recov_graph.store import default_path as d; import recov_graph; "
    code += "print(recov_graph.__file__); print(d())"
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(tmp_path / "home")}
    environment["XDG_DATA_HOME"] = str(tmp_path / "data")
    environment.pop("RECOV_GRAPH_DB")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    package, path = map(Path, done.stdout.split("\n")[:2])
    assert package.is_relative_to(site)
    assert path.name == "traces.db"
    assert "recov-graph" in path.parts
    assert path.is_relative_to(tmp_path)
    assert not path.is_relative_to(site)


# What it looks like


def test_the_schema_in_the_repository_is_that_of_an_empty_store() -> None:
    with TraceStore(":memory:") as store:
        schema = store.schema()
    written = (CHECKOUT / "storage" / "schema.sql").read_text(encoding="utf-8")
    again = "write it again: python -m recov_graph.store.schema > storage/schema.sql"
    assert written == f"{schema}\n", again


def test_the_schema_makes_a_store(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    with TraceStore(":memory:") as store:
        connection.executescript(store.schema())
        names = [row["name"] for row in store.query("SELECT name FROM sqlite_master ORDER BY 1")]
    made = connection.execute("SELECT name FROM sqlite_master ORDER BY 1").fetchall()
    connection.close()
    assert [name for (name,) in made] == names
