"""A store in PostgreSQL, on a real server: the same rows, the same answers, the same errors."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from recov_graph import TraceStore
from recov_graph.cli import cli
from recov_graph.cli.options import StoreAddress
from recov_graph.errors import InvalidInputError, MissingExtraError, StoreError
from recov_graph.exporting import export
from recov_graph.merging import merge
from recov_graph.refit import refit
from recov_graph.report import build_report
from recov_graph.routing import default_policy
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import following, learning
from recov_graph.store.checkup import check_up
from recov_graph.store.dialect import translated
from recov_graph.store.following import Follower, Standing, all_runs
from recov_graph.store.location import check_server, is_server, short_name, shown
from recov_graph.tape import read_tape
from tests import test_store
from tests.conftest import Demo
from tests.postgres import Server, running
from tests.test_store import (  # these run once more here, on the `store` below
    filled,
    test_a_closed_store_says_so,
    test_a_row_written_again_is_updated_and_keeps_what_refers_to_it,
    test_a_table_that_is_not_named_is_emptied_of_the_problem,
    test_eight_threads_lose_nothing,
    test_rows_with_different_columns_lose_none,
    test_the_texts_of_tokens_are_kept_with_the_text_only,
    test_traces_of_unknown_rollouts_are_refused_together,
    test_values_that_sqlite_cannot_hold_are_refused_like_others,
    test_what_was_never_measured_reads_as_nothing,
    traces,
)
from tests.writers import RUN, SPENT, write_problem

pytestmark = pytest.mark.slow  # a server of its own; less than a minute

__all__ = [
    "filled",
    "test_a_closed_store_says_so",
    "test_a_row_written_again_is_updated_and_keeps_what_refers_to_it",
    "test_a_table_that_is_not_named_is_emptied_of_the_problem",
    "test_eight_threads_lose_nothing",
    "test_rows_with_different_columns_lose_none",
    "test_the_texts_of_tokens_are_kept_with_the_text_only",
    "test_traces_of_unknown_rollouts_are_refused_together",
    "test_values_that_sqlite_cannot_hold_are_refused_like_others",
    "test_what_was_never_measured_reads_as_nothing",
    "traces",
]

VIEWS = {"problem": "problem_id", "attempt": "attempt_id", "decision": "decision_id"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def store(server: Server) -> Iterator[TraceStore]:
    """An empty trace store in a database of its own."""
    with TraceStore(server.database()) as opened:
        yield opened


def as_user(address: str, user: str) -> str:
    return address.replace("tester@", f"{user}@")


def name_of(address: str) -> str:
    return address.rpartition("/")[2]


@pytest.fixture(scope="module")
def copied(server: Server, demo: Demo) -> str:
    """The address of a database with all that the demo stored; only to be read."""
    address = server.database()
    merge([demo.path], address)
    return address


@contextmanager
def both(demo: Demo, copied: str) -> Iterator[tuple[TraceStore, TraceStore]]:
    with TraceStore(demo.path) as here, TraceStore(copied) as there:
        yield here, there


def alike(value: Any) -> Any:
    """For comparison: sums of floats may differ in their last digits."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-12, nan_ok=True)
    if isinstance(value, dict):
        return {name: alike(one) for name, one in value.items()}
    return [alike(one) for one in value] if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """Tuples as lists."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


# The same rows and answers ------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_the_same(demo: Demo, copied: str, view: str) -> None:
    with both(demo, copied) as (here, there):
        sql = f"SELECT * FROM {view} ORDER BY {VIEWS[view]}"
        rows = there.query(sql)
        assert rows == alike(here.query(sql))
        assert {type(value) for row in rows for value in row.values()} <= {
            int,
            float,
            str,
            type(None),
        }


READERS: dict[str, Callable[[TraceStore], Any]] = {
    "runs": all_runs,
    "run": lambda store: store.run(),
    "problems": lambda store: store.run_problems(store.run()["id"]),  # type: ignore[index]
    "stored problems": learning.stored_problems,
    "samples": learning.stored_samples,
    "features": learning.stored_features,
    "rollout features": learning.stored_rollout_features,
    "outcomes": learning.stored_outcomes,
    "decisions": learning.stored_decisions,
    "tape": learning.tape_problems,
    "operators": learning.tape_operators,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_read_is_the_same(demo: Demo, copied: str, name: str) -> None:
    with both(demo, copied) as (here, there):
        assert plain(READERS[name](there)) == alike(plain(READERS[name](here)))


def test_arrays_come_back(demo: Demo, copied: str) -> None:
    with both(demo, copied) as (here, there):
        ids = [name for (name,) in here.rows("SELECT id FROM token_arrays ORDER BY id")]
        assert ids
        for name in ids[:5]:
            mine, theirs = here.read_trace(name), there.read_trace(name)
            assert mine is not None
            assert theirs is not None
            assert theirs.features == mine.features
            assert theirs.rollout.pieces == mine.rollout.pieces


def test_a_tape_is_read_alike(server: Server, tmp_path: Path) -> None:
    here, there = tmp_path / "tape.db", server.database()
    at = RUN["started_at"]
    problem = {"run_id": "tape", "task": "t", "started_at": at}
    spent = {"prompt_tokens": 9, "completion_tokens": 80, "scoring_tokens": 160}
    told = {"failed_samples": 4, "spread": 0.25, "concentration": 0.5, "logit_dispersion": 1.5}
    ids = ["b", "A", "_", "é", "10", "9"]
    with TraceStore(here) as store:
        store.write(
            runs=[{**RUN, "id": "tape", "kind": "record"}],
            problems=[{"id": one, "key": f"key {one}", **problem} for one in ids],
            profiles=[{"id": n, **told, "feature_version": FEATURE_VERSION, **spent} for n in ids],
            tape=[
                {"id": f"{one}/{operator}/{n}", "problem_id": one, "operator": operator}
                | {"position": n, "seed": n, "passed": int(n == 2), "tokens": 20 + n}
                for one in ids
                for operator in ("retry", "dense_steer")
                for n in range(11)
            ],
        )
    merge([here], there)
    tapes = [read_tape(here), read_tape(there)]
    assert len(tapes[0]) == len(ids)
    assert str(tapes[1]) == str(tapes[0])


def test_a_run_is_followed_alike(demo: Demo, copied: str) -> None:
    with both(demo, copied) as (here, there):
        mine, theirs = Follower(here).look(), Follower(there).look()
        assert theirs == mine
        followed = Follower(there, first=3, later=-1)
        assert followed.look() is not None
        with TraceStore(copied) as writer:
            version = there.version()
            writer.write(settings=[{"id": "note", "value": "x"}])
        assert there.version() != version


def test_a_report_a_policy_and_an_export_are_alike(demo: Demo, copied: str) -> None:
    with both(demo, copied) as (here, there):
        mine, theirs = build_report(here), build_report(there)
        assert (theirs.problems, theirs.failed) == (mine.problems, mine.failed)
        told = [plain(asdict(one)) for one in (mine, theirs)]
        for one in told:
            del one["database"], one["made_at"]
        assert told[1] == alike(told[0])
        fitted = [refit(store, default_policy()).policy.model_dump() for store in (here, there)]
        for one in fitted:
            del one["created"]
        assert fitted[1] == alike(fitted[0])
        files = [io.BytesIO(), io.BytesIO()]
        for store, file in zip((here, there), files, strict=True):
            export(store, file, "attempt", "jsonl")
        assert files[0].getvalue() == files[1].getvalue()


def test_the_command_line_takes_the_address(demo: Demo, copied: str) -> None:
    with TraceStore(demo.path) as store:
        run = store.run()
        key = store.rows("SELECT key FROM problem WHERE first_failed = 1 ORDER BY key")[0][0]
    assert run is not None
    for command in (
        ["show", "--plain"],
        ["show", "--runs", "--plain"],
        ["show", "--problem", key, "--plain"],
        ["watch", "--once", "--plain"],
        ["export", "decision"],
        ["export", "attempt", "--run", run["id"], "--format", "csv"],
    ):
        told = [told_by(*command, "--db", str(db)) for db in (demo.path, copied)]
        assert told[0] == told[1].replace(copied, str(demo.path))
        assert told[0]


def told_by(*command: str) -> str:
    """What a command says."""
    done = CliRunner().invoke(cli, list(command), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_doctor_finds_it_whole_and_says_what_is_wrong(server: Server) -> None:
    address = server.database()
    with TraceStore(address) as store:
        write_problem(store, "p")
        assert check_up(address).healthy
        store.write(
            outcomes=[
                {"id": "p", "solved": 1, "stop_reason": "solved", "attempts": 9}
                | {**SPENT, "finished_at": RUN["started_at"]}
            ]
        )
    checkup = check_up(address)
    assert not checkup.healthy
    assert "attempts are not all there" in str(checkup.findings)


# Runs ---------------------------------------------------------------------------------------------


COMMAND = (sys.executable, "-m", "recov_graph.cli", "run")
HOW = ("--verifier", "numeric", "--no-baseline")


def run(problems: Path, db: str | Path, *options: str) -> dict[str, Any]:
    told = told_by("run", str(problems), *HOW, "--db", str(db), "--json", "-", *options)
    figures: dict[str, Any] = json.loads(told)
    return {name: figures[name] for name in figures if name not in ("seconds", "run", "db")}


def test_a_killed_run_goes_on(server: Server, tmp_path: Path) -> None:
    from tests.crashes import some_problems

    problems, address = some_problems(tmp_path, 12), server.database()
    expected = run(problems, tmp_path / "here.db")
    command = [*COMMAND, str(problems), *HOW, "--db", address, "--plain"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with TraceStore(address) as store:
        while store.rows("SELECT count(*) FROM outcomes")[0][0] < 4:
            assert killed.poll() is None
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert check_up(address).healthy
    assert run(problems, address, "--resume") == expected
    with TraceStore(address) as store:
        assert store.rows("SELECT count(*), count(DISTINCT key) FROM problems") == [(12, 12)]


def test_a_restart_of_the_server_between_two_writes_is_nothing(server: Server) -> None:
    with TraceStore(server.database()) as store:
        write_problem(store, "before")
        server.stop()
        server.start()
        assert store.rows("SELECT count(*) FROM problems") == [(1,)]
        server.stop("immediate")
        server.start()
        write_problem(store, "after")
        assert store.rows("SELECT count(*) FROM problems") == [(2,)]


def test_a_server_that_is_away_for_a_moment_is_waited_for(server: Server) -> None:
    with TraceStore(server.database()) as store:
        write_problem(store, "before")
        server.stop()
        back = threading.Timer(1.0, server.start)
        back.start()
        try:
            write_problem(store, "after")
        finally:
            back.join()
        assert store.rows("SELECT count(*) FROM problems") == [(2,)]


def test_a_server_that_stays_away_is_an_error_in_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recov_graph.store import postgres

    monkeypatch.setattr(postgres, "PATIENCE", 0.3)
    with TraceStore(server.database()) as store:
        server.stop()
        try:
            for work in (lambda: write_problem(store, "p"), store.run):
                with pytest.raises(StoreError, match=r"refused.* check that the server") as error:
                    work()
                assert "\n" not in str(error.value)
        finally:
            server.start()
        assert store.run() is None


def test_a_writer_that_is_killed_leaves_whole_transactions(server: Server) -> None:
    address = server.database()
    TraceStore(address).close()
    command = [sys.executable, "-m", "tests.writers", address, "w", "60"]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()
    with TraceStore(address) as store:
        while store.rows("SELECT count(*) FROM outcomes")[0][0] < 20:
            assert writer.poll() is None
            time.sleep(0.01)
        writer.kill()
        writer.wait()
        writer.stdin.close()
        # Rollouts and calls are of one transaction, and so are the four verdicts.
        sql = (
            "SELECT count(DISTINCT rollouts.id), count(DISTINCT calls.id), "
            "count(DISTINCT verdicts.id) FROM problems "
            "LEFT JOIN rollouts ON rollouts.problem_id = problems.id "
            "LEFT JOIN calls ON calls.problem_id = problems.id "
            "LEFT JOIN verdicts ON verdicts.id = rollouts.id GROUP BY problems.id"
        )
        assert set(store.rows(sql)) <= {(4, 1, 4), (4, 1, 0), (0, 0, 0)}
    assert check_up(address).healthy


def test_who_writes_the_same_rows_in_another_order_is_let_through(server: Server) -> None:
    address = server.database()
    rows = [{"id": str(number), "value": "x" * 100} for number in range(300)]

    def write(rows: list[dict[str, str]]) -> None:
        with TraceStore(address) as store:
            for _ in range(5):
                store.write(settings=rows)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (rows, rows[::-1])))
    with TraceStore(address) as store:
        assert store.rows("SELECT count(*) FROM settings WHERE id <> 'salt'") == [(300,)]


def test_one_process_works_on_a_run_at_a_time(server: Server) -> None:
    address = server.database()
    with TraceStore(address) as store, TraceStore(address) as other:
        with store.hold("r"), pytest.raises(StoreError, match="is being worked on by another"):
            other.hold("r").__enter__()
        with other.hold("r"):
            pass


def test_many_may_open_a_new_database_at_once(server: Server) -> None:
    address = server.database()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: TraceStore(address).close(), range(8)))
    with TraceStore(address) as store:
        assert store.rows("SELECT count(*) FROM settings") == [(1,)]


def test_rows_that_come_before_others_that_were_seen_are_not_passed_over(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One begins to write, another writes all of his, and only then the first is done."""
    monkeypatch.setattr(following, "DOUBT_SECONDS", 0.0)
    address = server.database()
    of_run = {"run_id": "shared", "task": "t", "started_at": RUN["started_at"]}
    outcome = {"solved": 1, "stop_reason": "solved", "attempts": 0, **SPENT}
    outcome["finished_at"] = RUN["started_at"]
    with TraceStore(address) as store, TraceStore(address) as slow, TraceStore(address) as quick:
        write_problem(quick, "first")
        follower = Follower(store)
        follower.look()
        begun, go_on = threading.Event(), threading.Event()

        def write_slowly() -> None:
            with slow._engine.transaction():
                slow._upsert({"problems": [{"id": "slow", "key": "slow", **of_run}]})
                slow._upsert({"outcomes": [{"id": "slow", **outcome}]})
                begun.set()
                go_on.wait(30)

        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(write_slowly)
            assert begun.wait(30)
            write_problem(quick, "quick")
            before = store.version()
            told = [event["key"] for event in _looked(follower).events]
            go_on.set()
            written.result(30)
        assert store.version() != before
        told += [event["key"] for event in _looked(follower).events]
        told += [event["key"] for event in _looked(follower).events]
        assert told == ["quick", "slow"]
        deadline = time.monotonic() + 10
        while _looked(follower).begun < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert _looked(follower).ended.total() == 3


def _looked(follower: Follower) -> Standing:
    standing = follower.look()
    assert standing is not None
    return standing


def test_shards_are_merged_from_and_into_it(server: Server, demo: Demo, tmp_path: Path) -> None:
    address = server.database()
    assert merge([demo.path, demo.path], address).problems == len(demo.batch.results)
    back = tmp_path / "back.db"
    merge([address], back)
    with TraceStore(back) as store, TraceStore(demo.path) as before:
        for table in ("problems", "rollouts", "decisions", "token_arrays", "retries"):
            sql = f"SELECT * FROM {table} ORDER BY id"
            assert store.query(sql) == before.query(sql)


# What it will not do ------------------------------------------------------------------------------


def test_texts_that_it_cannot_hold_are_mended(server: Server) -> None:
    with TraceStore(server.database()) as store:
        store.write(runs=[{**RUN, "model": "a\0b"}])
        assert store.run()["model"] == "a\ufffdb"  # type: ignore[index]


def test_nothing_of_a_refused_write_is_stored(server: Server) -> None:
    with TraceStore(server.database()) as store:
        with pytest.raises(StoreError, match="foreign key"):
            store.write(
                runs=[RUN], calls=[{"id": "c", "problem_id": "none", "purpose": "x", **SPENT}]
            )
        assert store.rows("SELECT count(*) FROM runs") == [(0,)]


@pytest.mark.parametrize(
    *next(iter(test_store.test_wrong_rows_are_refused_and_change_nothing.pytestmark)).args
)
def test_what_sqlite_refuses_is_refused(store: TraceStore, table: str, row: dict[str, Any]) -> None:
    tables = ("runs", "features")
    before = {name: store.query(f"SELECT * FROM {name}") for name in tables}
    with pytest.raises(StoreError):
        store.write(**{table: [row]})
    assert {name: store.query(f"SELECT * FROM {name}") for name in tables} == before


def test_rows_are_those_that_sqlite_makes_of_the_same_values(store: TraceStore) -> None:
    profile = {"id": "p", "feature_version": True, "failed_samples": 3.0, "spread": float("nan")}
    profile |= {"concentration": float("inf"), "logit_dispersion": 1}
    settings = [{"id": name, "value": name} for name in ("a", "B", "_c", "Z", "é", "a b", "a-b")]
    settings += [{"id": "1", "value": 5}, {"id": "2", "value": True}, {"id": "3", "value": 1.5}]
    read = []
    with TraceStore(":memory:") as here:
        for one in (here, store):
            write_problem(one, "p")
            one.write(profiles=[profile], settings=settings)
            kept = one.rows("SELECT id, value FROM settings WHERE id <> 'salt' ORDER BY id")
            read.append((one.query("SELECT * FROM profiles"), kept))
    assert read[0] == read[1]
    assert [list(map(type, row.values())) for row in read[1][0]] == [
        list(map(type, row.values())) for row in read[0][0]
    ]


def test_rows_are_streamed_by_parameters_and_percents_are_letters(store: TraceStore) -> None:
    write_problem(store, "p")
    sql = "SELECT key FROM problem WHERE run_id = ? AND key <> '100%'"
    with store.stream(sql, ["shared"]) as rows:
        assert list(rows) == [("p",)]


def test_what_the_address_asks_for_is_heeded(server: Server) -> None:
    asked = "?application_name=mine&options=-c%20work_mem%3D8MB"
    sql = "SELECT current_setting('application_name'), current_setting('work_mem')"
    with TraceStore(server.database() + asked) as store:
        assert store.rows(sql) == [("mine", "8MB")]
        write_problem(store, "p")
        assert short_name(store.path).startswith("db")
        assert "?" not in short_name(store.path)


def test_texts_of_any_language_need_an_encoding_that_holds_them(server: Server) -> None:
    latin = server.database("LATIN1")
    with pytest.raises(StoreError, match=r"encoding LATIN1.*createdb -E UTF8"):
        TraceStore(latin)
    with TraceStore(server.database("SQL_ASCII")) as store:
        store.write(runs=[{**RUN, "model": "語"}])
        assert store.run()["model"] == "語"  # type: ignore[index]


# Rights and passwords -----------------------------------------------------------------------------


def test_rights_that_are_missing_are_named(server: Server) -> None:
    server.query("postgres", "CREATE ROLE alice LOGIN")
    address = server.database()
    mine, name = as_user(address, "alice"), name_of(address)
    with pytest.raises(StoreError, match="CREATE SCHEMA recov_graph AUTHORIZATION"):
        TraceStore(mine)
    server.query(name, "CREATE SCHEMA recov_graph AUTHORIZATION alice")
    with TraceStore(mine) as store:
        write_problem(store, "p")

    address = server.database()
    mine, name = as_user(address, "alice"), name_of(address)
    with TraceStore(address) as store:
        write_problem(store, "p")
    with pytest.raises(StoreError, match=r"permission denied .*grant it"):
        TraceStore(mine)
    server.query(name, "GRANT USAGE ON SCHEMA recov_graph TO alice")
    server.query(name, "GRANT SELECT ON ALL TABLES IN SCHEMA recov_graph TO alice")
    with TraceStore(mine) as store:
        assert len(store.query("SELECT * FROM problem")) == 1
        with pytest.raises(StoreError, match=r"permission denied .*grant it"):
            write_problem(store, "q")


def test_a_wrong_password_is_said_and_not_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.database()
    server.query("postgres", "CREATE ROLE bob LOGIN PASSWORD 'right' SUPERUSER")
    server.ask_for_password("bob")
    for user in ("bob:wr0ng", "bob"):
        with pytest.raises(StoreError, match=r"password.* set PGPASSWORD") as error:
            TraceStore(as_user(address, user))
        assert "wr0ng" not in str(error.value)
        assert "\n" not in str(error.value)
    with TraceStore(as_user(address, "bob:right")) as store:
        assert store.path == as_user(address, "bob:***")
        write_problem(store, "p")
    for command in (["show", "--plain"], ["doctor", "--json", "-"], ["watch", "--once", "--plain"]):
        assert "right" not in told_by(*command, "--db", as_user(address, "bob:right"))
    monkeypatch.setenv("PGPASSWORD", "right")
    monkeypatch.setenv("RECOV_GRAPH_DB", as_user(address, "bob"))
    assert "problems=1" in told_by("show", "--runs", "--plain")


@pytest.mark.parametrize(
    "user", ["me:se/cret@", "me:se@cret@", "me:s%zzecret@", "me:se cret@", "me@corp@"]
)
def test_a_password_that_would_be_misread_is_refused_unseen(user: str) -> None:
    address = f"postgresql://{user}127.0.0.1:1/db"
    with pytest.raises(StoreError, match="%40") as error:
        check_server(address)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://",
        "postgresql:///db?user=a@b",
        "postgres://me:a%40b:c?d@h/db",
        "postgres://h/d@x",
    ],
)
def test_addresses_that_are_well_formed_pass(address: str) -> None:
    check_server(address)


def test_without_its_driver_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "recov_graph.store.postgres", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'recov-graph\[postgres\]'"):
        TraceStore("postgresql://host/db")


def test_an_address_that_was_made_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="as text, with //"):
        TraceStore(Path("postgresql://host/db"))


def test_the_option_takes_files_and_addresses() -> None:
    kind = StoreAddress()
    assert kind.convert("postgres.db", None, None) == Path("postgres.db")
    assert kind.convert("C:/traces.db", None, None) == Path("C:/traces.db")
    assert kind.convert("postgres://h/d", None, None) == "postgres://h/d"
    for wrong in ("mysql://h/d", "postgresql:/h/d"):
        with pytest.raises(click.BadParameter, match="is not known; name a file, or postgresql"):
            kind.convert(wrong, None, None)


def test_a_newer_database_is_refused(server: Server) -> None:
    address = server.database()
    TraceStore(address).close()
    server.query(address.rpartition("/")[2], "INSERT INTO recov_graph.steps VALUES (99, 'm099')")
    with pytest.raises(StoreError, match=r"newer recov-graph .*'m099'.* upgrade"):
        TraceStore(address)


def test_an_older_database_gets_what_it_has_not(server: Server) -> None:
    address = server.database()
    with TraceStore(address) as store:
        write_problem(store, "p")
    name = address.rpartition("/")[2]
    server.query(name, "DROP TABLE recov_graph.underway")
    server.query(name, "ALTER TABLE recov_graph.runs DROP COLUMN planned")
    server.query(name, "DELETE FROM recov_graph.steps WHERE name = 'm006_resuming'")
    with pytest.raises(StoreError, match="older"):
        TraceStore(address, read_only=True)
    with TraceStore(address) as store:
        assert store.run()["planned"] is None  # type: ignore[index]
        assert store.rows("SELECT count(*) FROM problem") == [(1,)]
        assert store.rows("SELECT count(*) FROM underway") == [(0,)]


def test_tables_of_others_are_left_alone(server: Server) -> None:
    address = server.database()
    server.query(address.rpartition("/")[2], "CREATE TABLE problems (mine text)")
    with TraceStore(address) as store:
        write_problem(store, "p")
    assert server.query(address.rpartition("/")[2], "SELECT * FROM public.problems") == []


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda address: address.rpartition("/")[0] + "/nowhere", "does not exist"),
        (lambda address: "postgresql://tester:secret@127.0.0.1:1/db", "refused"),
    ],
    ids=["no database", "no server"],
)
def test_what_cannot_be_reached_is_said_in_one_line(
    server: Server, made: Callable[[str], str], says: str
) -> None:
    with pytest.raises(StoreError, match=says) as error:
        TraceStore(made(server.database()))
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgres://me:se@cr:et@host:1/db?x=1", "postgres://me:***@host:1/db?x=1"),
        (
            "postgresql:///db?user=me&password=secret&x=1",
            "postgresql:///db?user=me&password=***&x=1",
        ),
        ("postgres://me:se/c?r@et@host/db?x=1", "postgres://me:***@host/db?x=1"),
        ("postgres://me:sec?ret@host/db", "postgres://me:***@host/db"),
        ("postgres://me:a@b/secret?c@host/db?x=1", "postgres://me:***@host/db?x=1"),
        ("postgres://me:secret@host/db?user=a@b", "postgres://me:***@host/db?user=a@b"),
        ("postgresql:///db?password=x&secret&y=1", "postgresql:///db?password=***&***&y=1"),
        ("postgres://h/d?a@b=1&password=secret", "postgres://h/d?a@b=1&password=***"),
        ("postgres:///d?b&password=secret:@h", "postgres:///d?***&password=***"),
        ("postgres://h/d?password=x&se@cret", "postgres://h/d?password=***&***"),
        ("postgres://me:x?a@b/d&password=secret", "postgres://me:***@b/d&password=***"),
        ("postgres:///db?passw%6frd=secret", "postgres:///db?passw%6frd=***"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("traces.db", "traces.db"),
    ],
)
def test_passwords_are_not_shown(address: str, seen: str) -> None:
    assert shown(address) == seen


def test_files_stay_files() -> None:
    assert not any(map(is_server, ["postgres.db", "postgresql/x.db", Path("postgresql:/x"), "x"]))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT ? , ?", "SELECT $1 , $2"),
        ("SELECT ?2, ?1", "SELECT $2, $1"),
        ("SELECT '?', \"?\", ? -- why?", "SELECT '?', \"?\", $1 -- why?"),
        ("x WHERE ?1 IS NULL OR a = ?1", "x WHERE $1::text IS NULL OR a = $1"),
        ("a CROSS JOIN b ON c LIMIT ?4", "a JOIN b ON c LIMIT NULLIF($4::bigint, -1)"),
    ],
)
def test_statements_are_translated(sql: str, said: str) -> None:
    assert translated(sql) == said
