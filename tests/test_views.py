"""The views: they say what the graph returned, of every kind of run, and canned queries run."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from sqlite_utils import Database

from recov_graph import Problem, RecoveryMiddleware, create_recovery_graph
from recov_graph.batch import Batch
from recov_graph.batch import summary as summed
from recov_graph.errors import StoreError
from recov_graph.figures import recovery_tokens
from recov_graph.importing import import_file
from recov_graph.record import Settings, record
from recov_graph.store import TraceStore
from recov_graph.store.canned import HIDDEN, QUERIES, datasette_metadata
from recov_graph.store.migrations import migrations
from recov_graph.store.views import COLUMNS, VIEWS
from tests.scripted_chat import ScriptedChat
from tests.test_store import CALL, DECISION, NOW, OUTCOME, PROBLEM, ROLLOUT, RUN, rows_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "exploring.md"
TYPES = {"text": {"text", "null"}, "integer": {"integer", "null"}, "real": {"real", "null"}}
# Of all texts of the views: where it changes, stores that exist need a migration that calls
# make_views, and then what it is now goes here.
DIGEST = "7c3464e0491bdafb"


# Some of each way to end, and quick to run.
SHOWN = "chain-1-001 product-2-001 remainder-1-001 remainder-1-002 mixed-1-002 paren-3-010 "
SHOWN += "remainder-4-004 remainder-4-001 product-3-025 remainder-5-005 chain-3-012 remainder-5-001"


def rows(path: Path, sql: str, **named: Any) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(sql, named)]


def asked(path: Path, name: str, run: str = "") -> list[dict[str, Any]]:
    """What a canned query answers."""
    return rows(path, QUERIES[name].sql, run=run)


# What the graph returned ------------------------------------------------------------------------


def test_a_problem_is_what_the_graph_returned(demo: tuple[Path, Batch]) -> None:
    path, batch = demo
    found = {row["key"]: row for row in rows(path, "SELECT * FROM problem")}
    failed = {problem.id for problem, _ in batch.failed}
    assert len(found) == len(batch.results) > len(failed) > 1
    assert sum(row["rescued"] for row in found.values()) > 1
    assert sum(row["stopped"] for row in found.values()) > 1
    for problem, output in batch.results:
        row, route = found[problem.id], output["route"]
        assert row["attempts"] == len(output["attempts"]) == output["usage"]["attempts"]
        assert row["interventions"] == len(output["attempts"]) - 4
        assert row["samples"] == 4
        assert row["tokens"] == output["usage"]["tokens"]
        assert row["recovery_tokens"] == recovery_tokens(output)
        assert row["first_tokens"] + row["recovery_tokens"] == row["tokens"]
        assert row["seconds"] == output["usage"]["seconds"]
        assert row["solved"] == output["solved"]
        assert row["first_failed"] == (problem.id in failed)
        assert row["rescued"] == (output["solved"] and bool(route))
        assert row["rescued_by"] == (output["best"]["operator"] if row["rescued"] else None)
        assert row["stop_reason"] == output["stop_reason"]
        assert row["stopped"] == (output["stop_reason"] == "out_of_reach")
        assert row["first_regime"] == (route[0]["regime"] if route else None)
        assert row["regime"] == output["regime"]
        assert (row["prompt"], row["task"]) == (problem.prompt, problem.task)
        assert batch.retry is not None
        alone = batch.retry.get(problem.id)
        measured = (row["retry_rescued"], row["retry_attempts"], row["retry_tokens"])
        assert measured == (
            (None,) * 3 if alone is None else (alone.rescued, alone.attempts, alone.tokens)
        )
        for name, value in (output["features"] or {}).items():
            assert row[name] == pytest.approx(value), name


def test_problems_add_up_to_the_summary(demo: tuple[Path, Batch]) -> None:
    path, batch = demo
    figures = summed(batch)
    (sums,) = rows(
        path,
        "SELECT COUNT(*) AS problems, SUM(first_failed) AS failed, SUM(rescued) AS rescued, "
        "SUM(stopped) AS stopped, SUM(tokens) AS tokens, "
        "SUM(CASE WHEN first_failed THEN recovery_tokens END) AS recovery_tokens FROM problem",
    )
    assert sums == {name: figures[name] for name in sums}


def test_attempts_and_decisions_are_what_the_graph_returned(demo: tuple[Path, Batch]) -> None:
    path, batch = demo
    attempts = {row["attempt_id"]: row for row in rows(path, "SELECT * FROM attempt")}
    decisions = {row["decision_id"]: row for row in rows(path, "SELECT * FROM decision")}
    outputs = [output for _, output in batch.results]
    assert len(attempts) == sum(len(output["attempts"]) for output in outputs)
    assert len(decisions) == sum(len(output["route"]) for output in outputs)
    for output in outputs:
        for attempt in output["attempts"]:
            row, verdict = attempts[attempt["id"]], attempt["verdict"]
            plain = attempt["operator"] == "sample"
            for name in ("position", "operator", "temperature", "seed", "finish_reason", "text"):
                assert row[name] == attempt[name], name
            assert row["kind"] == ("sample" if plain else "intervention")
            assert row["tokens_written"] == attempt["tokens"]
            assert row["tokens_spent"] == (None if plain else attempt["spent"])
            assert row["verdict"] == verdict["value"]
            for name in ("score", "answer", "explanation"):
                assert row[name] == verdict[name], name
            assert row["rescued"] == (None if plain else verdict["value"] == "passed")
        made = [a for a in output["attempts"] if a["operator"] != "sample"]
        for place, decision in enumerate(output["route"]):
            row = decisions[decision["id"]]
            for name in ("step", "regime", "operator", "probability", "expected_rescue", "policy"):
                assert row[name] == decision[name], name
            assert row["stop"] == (decision["operator"] is None)
            assert json.loads(row["candidates"]) == decision["candidates"]
            if place < len(made):
                attempt = attempts[made[place]["id"]]
                assert attempt["decision_id"] == decision["id"]
                assert attempt["step"] == decision["step"]
                assert (row["carried_out"], row["tokens"], row["rescued"]) == (
                    attempt["operator"],
                    attempt["tokens_spent"],
                    attempt["rescued"],
                )
            else:
                assert (row["carried_out"], row["outcome"], row["rescued"]) == (None,) * 3


def test_first_samples_of_an_agent_are_all_it_calls_until_it_answers(store: TraceStore) -> None:
    def price_of(item: str) -> str:
        """The price of an item."""
        return "12.50"

    call = AIMessage("", tool_calls=[{"name": "price_of", "args": {"item": "lamp"}, "id": "1"}])
    replies = [call, "12", call, "13", "12.50"]
    agent = create_agent(
        ScriptedChat(replies=replies),
        [price_of],
        middleware=[
            RecoveryMiddleware(lambda text: text == "12.50", store=store, interventions=["retry"])
        ],
    )
    result = agent.invoke({"messages": [("user", "What is a lamp?")]})["recovery"]
    (row,) = store.query("SELECT * FROM problem")
    assert row["run_kind"] == "agent"
    assert (row["samples"], row["attempts"]) == (1, len(result["attempts"]))
    assert row["attempts"] == 3
    assert row["first_tokens"] == result["attempts"][0]["spent"]
    assert row["recovery_tokens"] == recovery_tokens(result) > 0
    assert row["rescued"] == 1


def test_a_black_box_has_features_of_its_own(store: TraceStore) -> None:
    graph = create_recovery_graph(
        ScriptedChat(replies=["1", "1", "2"]), "numeric", samples=2, store=store, seed=0
    )
    output = graph.invoke({"problem": {"prompt": "1+1?", "answer": 2}})
    (row,) = store.query("SELECT * FROM problem")
    names = ("failed_share", "agreement", "truncated", "length")
    assert {name: row[name] for name in names} == output["features"]
    assert (row["spread"], row["concentration"], row["logit_dispersion"]) == (None,) * 3
    assert row["recovery_tokens"] == recovery_tokens(output)


def test_recorded_and_imported_problems_are_there_with_what_is_known(
    store: TraceStore, tmp_path: Path, scripted: Any
) -> None:
    problem = Problem(prompt="1+1?", answer="2", id="two", task="sums")
    settings = Settings(samples=2, attempts=2, temperature=0.6, max_new_tokens=9, seed=0)
    record(scripted(last="A:3"), "exact", [problem], store, settings=settings)
    lines = [
        {"problem": "p", "operator": "sample", "passed": False, "tokens": 9},
        {"problem": "p", "operator": "retry", "passed": True, "tokens": 9}
        | {"features": {"spread": 0.25, "concentration": 1.5, "logit_dispersion": -1.0}},
    ]
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    import_file(file, store)
    recorded, imported = store.query("SELECT * FROM problem ORDER BY run_kind DESC")
    assert (recorded["run_kind"], recorded["stop_reason"]) == ("record", "recorded")
    assert (recorded["samples"], recorded["failed_samples"], recorded["first_failed"]) == (2, 2, 1)
    assert recorded["tokens"] > 0
    assert recorded["attempts"] > 2
    assert recorded["spread"] is not None
    assert (imported["run_kind"], imported["failed_samples"]) == ("import", 1)
    assert (imported["spread"], imported["concentration"]) == (0.25, 1.5)
    for name in ("samples", "first_failed", "solved", "attempts", "tokens"):
        assert imported[name] is None, name
    for row in (recorded, imported):  # of nothing that was not routed a rate of rescues is made
        for name in ("rescued", "interventions", "first_tokens", "recovery_tokens"):
            assert row[name] is None, name


def test_a_problem_under_way_is_there_with_what_it_has_cost(store: TraceStore) -> None:
    store.write(runs=[RUN], problems=[PROBLEM], calls=[CALL], rollouts=[ROLLOUT])
    (row,) = store.query("SELECT * FROM problem")
    known = ("attempts", "samples", "tokens", "first_tokens", "recovery_tokens", "first_failed")
    assert [row[name] for name in known] == [1, 1, 3, 3, 0, 0]
    assert [row[name] for name in ("solved", "stopped", "stop_reason")] == [None] * 3
    (attempt,) = store.query("SELECT * FROM attempt")
    assert (attempt["verdict"], attempt["rescued"]) == (None, None)


def test_what_was_measured_by_another_version_is_left_out(store: TraceStore) -> None:
    store.write(runs=[RUN], **rows_of("q", attempts=0))
    sql = "SELECT spread, failed_share FROM problem"
    assert store.query(sql) == [{"spread": 0.5, "failed_share": 1.0}]
    other = rows_of("q", attempts=0)
    for table in ("features", "rollout_features"):
        store.write(**{table: [{**row, "feature_version": 99} for row in other[table]]})
    assert store.query(sql) == [{"spread": None, "failed_share": None}]
    assert store.query("SELECT spread FROM attempt") == [{"spread": None}]


def test_a_decision_is_one_row_whatever_an_abandoned_timeline_left(store: TraceStore) -> None:
    tried = {"decision_id": "q/decision0", "operator": "retry", "tokens": 3, "details": None}
    store.write(
        runs=[RUN],
        problems=[PROBLEM],
        rollouts=[{**ROLLOUT, "id": f"q/{i}", "position": i} for i in range(3)],
        decisions=[DECISION],
        interventions=[
            {**tried, "id": "q/1", "outcome": "failed"},
            {**tried, "id": "q/2", "outcome": "rescued"},
        ],
    )
    (row,) = store.query("SELECT * FROM decision")
    assert row["outcome"] == "rescued"


# Their columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_columns_that_are_described(store: TraceStore, view: str) -> None:
    names = [row["name"] for row in store.query(f"SELECT name FROM pragma_table_info('{view}')")]
    assert names == list(COLUMNS[view])
    assert all(len(one.description) > 5 for one in COLUMNS[view].values())
    assert store.query(f"SELECT * FROM {view}") == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_column_holds_what_it_is_said_to(demo: tuple[Path, Batch], view: str) -> None:
    path, _ = demo
    for name, column in COLUMNS[view].items():
        found = rows(path, f"SELECT DISTINCT TYPEOF({name}) AS type FROM {view}")
        assert {row["type"] for row in found} <= TYPES[column.kind], name


@pytest.mark.parametrize("store_text", ["none", "hash"])
def test_no_text_is_in_a_view_that_is_not_kept(
    tmp_path: Path, scripted: Any, store_text: Any
) -> None:
    with TraceStore(tmp_path / "t.db", store_text=store_text) as store:
        graph = create_recovery_graph(
            scripted(["SECRET-1"] * 5, last="SECRET-2"), "exact", store=store, seed=0
        )
        graph.invoke({"problem": {"prompt": "SECRET?", "answer": "SECRET-2", "id": "SECRET"}})
        for view in VIEWS:
            found = store.query(f"SELECT * FROM {view}")
            assert found, view
            assert "SECRET" not in json.dumps(found), view
        if store_text == "none":
            (row,) = store.query("SELECT * FROM problem")
            assert (row["prompt"], row["answer"]) == (None, None)


# Stores that exist ------------------------------------------------------------------------------


@pytest.fixture
def fourth(tmp_path: Path) -> Path:
    """A database of the fourth version with a problem that has ended."""
    path = tmp_path / "fourth.db"
    db = Database(path)
    migrations.apply(db, stop_before="m005_views")
    db.table("settings").insert({"id": "salt", "value": "00" * 16})
    for table, of_it in {"runs": [RUN], **rows_of("q", 1), "outcomes": [OUTCOME]}.items():
        db.table(table).insert_all(of_it)
    db.close()
    return path


def test_a_store_of_the_version_before_gets_the_views_when_it_is_opened(
    fourth: Path, tmp_path: Path
) -> None:
    assert rows(fourth, "SELECT name FROM sqlite_master WHERE type = 'view'") == []
    TraceStore(fourth).close()
    TraceStore(tmp_path / "new.db").close()
    views = "SELECT name, sql FROM sqlite_master WHERE type = 'view' ORDER BY name"
    assert rows(fourth, views) == rows(tmp_path / "new.db", views) != []
    (row,) = rows(fourth, "SELECT * FROM problem")
    assert (row["problem_id"], row["solved"], row["finished_at"]) == ("q", 1, NOW)
    assert row["policy"] == "p"
    TraceStore(fourth).close()  # and nothing is left to do


def test_views_of_an_older_version_are_replaced(fourth: Path) -> None:
    with closing(sqlite3.connect(fourth)) as database, database:
        database.execute("CREATE VIEW problem AS SELECT id AS old FROM problems")
    with TraceStore(fourth) as store:
        assert store.query("SELECT problem_id FROM problem") == [{"problem_id": "q"}]


def test_a_table_of_somebodys_with_a_views_name_is_not_touched(fourth: Path) -> None:
    with closing(sqlite3.connect(fourth)) as database, database:
        database.execute("CREATE TABLE attempt (mine TEXT)")
    with pytest.raises(StoreError, match="attempt"):
        TraceStore(fourth)
    assert rows(fourth, "SELECT * FROM attempt") == []
    assert rows(fourth, "SELECT * FROM _sqlite_migrations WHERE name = 'm005_views'") == []


def test_views_that_change_reach_stores_that_exist() -> None:
    digest = hashlib.blake2b("".join(VIEWS.values()).encode(), digest_size=8).hexdigest()
    assert digest == DIGEST, "add a migration that calls make_views, then write the new digest"


# Canned queries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUERIES)
def test_a_canned_query_runs_on_an_empty_store(store: TraceStore, name: str) -> None:
    assert asked(Path(store.path), name) == []
    assert store.query("SELECT COUNT(*) AS n FROM problem") == [{"n": 0}]


@pytest.mark.parametrize("name", QUERIES)
def test_a_canned_query_answers(demo: tuple[Path, Batch], name: str) -> None:
    path, _ = demo
    (run,) = rows(path, "SELECT id FROM runs")
    everything = asked(path, name)
    assert asked(path, name, run["id"]) == everything
    if ":run" in QUERIES[name].sql:
        assert asked(path, name, "another") == []
    # These two find only what is wrong with a policy.
    if name not in ("better_candidates", "stops_that_retry_alone_rescued"):
        assert everything


def test_rescue_rates_have_wilsons_interval(demo: tuple[Path, Batch]) -> None:
    path, batch = demo
    by_operator = summed(batch)["by_intervention"]
    found = asked(path, "rescue_rate_by_operator")
    assert {row["operator"] for row in found} == set(by_operator)
    for row in found:
        n, k = row["attempts"], row["rescues"]
        figures = by_operator[row["operator"]]
        assert (n, k) == (figures["attempts"], figures["rescues"])
        p, z = k / n, 1.96
        middle, half = p + z * z / 2 / n, z * math.sqrt(p * (1 - p) / n + z * z / 4 / n / n)
        low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
        assert row["low_percent"] == pytest.approx(100 * low, abs=0.06)
        assert row["high_percent"] == pytest.approx(100 * high, abs=0.06)


def test_queries_agree_with_the_summary(demo: tuple[Path, Batch]) -> None:
    path, batch = demo
    figures = summed(batch)
    (run,) = asked(path, "runs_compared")
    assert (run["problems"], run["first_failed"]) == (figures["problems"], figures["failed"])
    assert (run["rescued"], run["stopped"]) == (figures["rescued"], figures["stopped"])
    loops = {row["first_regime"]: row for row in asked(path, "loop_and_retry_alone")}
    for regime, row in figures["by_regime"].items():
        found = loops[regime]
        assert (found["failed"], found["rescued"]) == (row["problems"], row["rescued"])
        assert found["recovery_tokens"] == row["tokens"]
        assert found["rescued_by_retry_alone"] == row["retry_alone"]["rescued"]
    cells = asked(path, "rescue_rate_by_regime_and_operator")
    for cell in cells:
        tried = figures["by_regime"][cell["first_regime"]]["by_intervention"][cell["operator"]]
        assert (cell["attempts"], cell["rescues"]) == (tried["attempts"], tried["rescues"])
        assert cell["tokens"] == tried["tokens"]
    purposes = asked(path, "tokens_by_purpose")
    assert sum(row["tokens"] for row in purposes) == figures["tokens"]
    steps = asked(path, "rescues_by_step")
    assert steps[-1]["rescues_so_far"] == figures["rescued"]
    assert sum(row["decisions"] for row in asked(path, "calibration")) == sum(
        row["attempts"] for row in steps
    )
    assert len(asked(path, "never_solved")) == figures["failed"] - figures["rescued"]


def test_better_candidates_are_those_that_promise_more_for_their_cost(store: TraceStore) -> None:
    def candidate(name: str, rescue: float, cost: int) -> dict[str, Any]:
        return {"operator": name, "expected_rescue": rescue, "expected_cost": cost}

    offered = [candidate("retry", 0.1, 100), candidate('odd"name', 0.3, 100)]
    dear = [candidate("retry", 0.1, 100), candidate("steer", 0.3, 100)]
    decision = {**DECISION, "operator": "retry"}
    store.write(
        runs=[RUN],
        problems=[PROBLEM],
        decisions=[
            {**decision, "candidates": json.dumps(offered), "once": None},
            {**decision, "id": "q/decision1", "step": 1, "candidates": json.dumps(dear)}
            | {"once": json.dumps({"steer": 900})},
            {**decision, "id": "q/decision2", "step": 2, "candidates": "[]", "once": "{}"},
        ],
    )
    (found,) = asked(Path(store.path), "better_candidates")
    assert (found["step"], found["operator"], found["better"]) == (0, "retry", 'odd"name')
    worth = (found["rescues_per_1000_tokens"], found["better_rescues_per_1000_tokens"])
    assert worth == (1.0, 3.0)


# Datasette --------------------------------------------------------------------------------------


def test_the_metadata_in_the_repository_is_what_is_made() -> None:
    path = Path("storage", "datasette.json")
    written = (ROOT / path).read_text(encoding="utf-8")
    made = json.dumps(datasette_metadata(), indent=2) + "\n"
    assert written == made, f"write it again: recov-graph export --db traces.db --datasette {path}"


def test_the_tables_behind_the_views_are_hidden_and_no_other(store: TraceStore) -> None:
    tables = store.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    assert {row["name"] for row in tables} - {"runs"} == set(HIDDEN)


@pytest.fixture(scope="module")
def datasette(
    demo: tuple[Path, Batch], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """Datasette on the demo's traces, and its page of the database, where it can be had."""
    pytest.importorskip("datasette")
    folder = tmp_path_factory.mktemp("datasette")
    path = Path(shutil.copy(demo[0], folder / "traces.db"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    metadata = ROOT / "storage" / "datasette.json"
    command = [sys.executable, "-m", "datasette", path, "--metadata", metadata, "--port", str(port)]
    with TraceStore(path), (folder / "log").open("w") as log:  # a run may go on meanwhile
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield awaited(f"http://127.0.0.1:{port}/traces"), str(folder / "log")
        finally:
            process.terminate()
            process.wait(timeout=20)


def awaited(address: str) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urlopen(f"{address}.json", timeout=10):
                return address
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def got(address: str) -> Any:
    with urlopen(address, timeout=30) as reply:  # any status but 200 raises
        content = reply.read().decode()
    return json.loads(content) if address.partition("?")[0].endswith(".json") else content


def test_datasette_runs_every_canned_query(
    datasette: tuple[str, str], demo: tuple[Path, Batch]
) -> None:
    address, _ = datasette
    for name in QUERIES:
        answer = got(f"{address}/{name}.json?_shape=objects")
        assert not answer.get("error"), name
        assert answer["rows"] == asked(demo[0], name), name


def test_datasette_shows_the_views_explained(
    datasette: tuple[str, str], demo: tuple[Path, Batch]
) -> None:
    address, log = datasette
    for view in VIEWS:
        page = got(f"{address}/{view}")
        assert COLUMNS[view]["problem_id"].description in page
        answer = got(f"{address}/{view}.json?_shape=objects&_size=max")
        assert answer.get("error") is None
        assert len(answer["rows"]) == len(rows(demo[0], f"SELECT * FROM {view}"))
        assert answer["facet_results"], view
    page = got(address)
    assert [one.title for one in QUERIES.values() if one.title not in page] == []
    assert "Traceback" not in Path(log).read_text()


# The page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_lists_every_column(view: str) -> None:
    section = re.split(r"^### ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"`{view}`"))
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    assert listed == [(n, one.kind, one.description) for n, one in COLUMNS[view].items()]


def test_the_page_lists_every_canned_query() -> None:
    _, _, text = PAGE.read_text("utf-8").partition("| query | question |")
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", text, re.MULTILINE)
    assert listed == [(name, one.title) for name, one in QUERIES.items()]
