"""Following a run from another process: what is counted, what is told, and what it costs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from stories import RUN, add_attempt, add_decision, add_problem, add_run, end, hard
from terminals import COMMAND, OnTerminal, bare, into_pipe, on_terminal

from recov_graph.cli import main
from recov_graph.store import TraceStore
from recov_graph.store.following import Follower

ESC = "\x1b[31m\u202e\x07"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A run with a rescue, a first solve and a problem under way."""
    path = tmp_path / "traces.db"
    with TraceStore(path) as store:
        add_run(store)
        hard(store)
        add_problem(store, "easy")
        add_attempt(store, "easy", 0, "12", passed=True)
        end(store, "easy", "solved", routed=False)
        add_problem(store, "open")
    return path


# The follower


def test_a_look_counts_all_there_is_and_later_ones_what_came(db: Path) -> None:
    with TraceStore(db) as store, TraceStore(db) as writer:
        follower = Follower(store)
        seen = follower.look()
        assert seen is not None
        assert (seen.begun, dict(seen.ended)) == (3, {"rescued": 1, "solved_first": 1})
        assert (seen.failed, seen.tokens) == (1, 246)
        assert seen.operators["local_temp"] == {"attempts": 1, "rescued": 1, "tokens": 50}
        assert [event["kind"] for event in seen.events][-2:] == ["end", "end"]
        again = follower.look()
        assert again is not None
        assert (again.begun, again.events) == (3, [])
        add_decision(writer, "open", None, 0)
        end(writer, "open", "out_of_reach")
        later = follower.look()
        assert later is not None
        assert [(e["kind"], e["outcome"] or e["operator"]) for e in later.events] == [
            ("decision", "stop"),
            ("end", "out_of_reach"),
        ]
        assert (later.failed, later.tokens, later.ended["out_of_reach"]) == (2, 369, 1)


def test_counts_are_those_of_a_fresh_look_even_where_rows_go(db: Path) -> None:
    with TraceStore(db) as store, TraceStore(db) as writer:
        follower = Follower(store)
        follower.look()
        writer._engine.connection.execute("DELETE FROM interventions WHERE id = 'hard/4'")
        add_problem(writer, "more")
        seen, fresh = follower.look(), Follower(writer).look()
    assert seen is not None
    assert fresh is not None
    assert seen.operators == fresh.operators
    assert (seen.begun, seen.tokens, seen.ended) == (fresh.begun, fresh.tokens, fresh.ended)


def test_it_goes_over_to_a_run_that_begins_unless_one_was_named(db: Path) -> None:
    with TraceStore(db) as store, TraceStore(db) as writer:
        newest, named, later = Follower(store), Follower(store, RUN), Follower(store, "run1")
        assert (newest.look(), later.look()) != (None, later.look())
        named.look()
        add_run(writer, "run1", started_at="2026-02-01T00:00:00.000+00:00")
        add_problem(writer, "of1", run_id="run1")
        add_decision(writer, "of1", "retry", 0)
        for follower in (newest, later):
            seen = follower.look()
            assert seen is not None
            assert (seen.run["id"], seen.begun, len(seen.events)) == ("run1", 1, 1)
        still = named.look()
        assert still is not None
        assert (still.run["id"], still.begun, still.events) == (RUN, 3, [])


def test_the_rate_is_that_of_the_problems_that_ended_last(db: Path) -> None:
    with TraceStore(db) as store:
        follower = Follower(store)
        follower.look()
        assert follower.rate() is None  # both ended at once
        stamp = "2026-01-01T00:01:{:02}.000+00:00"
        for i in range(5):
            add_problem(store, f"p{i}")
            end(store, f"p{i}", "solved", routed=False)
            store._engine.connection.execute(
                "UPDATE outcomes SET finished_at = ? WHERE id = ?", [stamp.format(2 * i), f"p{i}"]
            )
        assert follower.rate() == pytest.approx(60 * 6 / 8)


def test_looking_again_reads_only_what_came(db: Path) -> None:
    """As many steps of SQLite's machine as ever, however much is stored."""
    with TraceStore(db) as store, TraceStore(db) as writer:
        rows = [{"id": f"c{i}", "problem_id": "open", "purpose": "p"} for i in range(20_000)]
        spent = {"prompt_tokens": 1, "completion_tokens": 1, "scored_tokens": 0, "seconds": 0.0}
        writer.write(calls=[{**row, **spent} for row in rows])
        follower = Follower(store)
        first = steps(store, follower.look)
        assert steps(store, follower.look) == 0
        add_problem(writer, "one more")
        end(writer, "one more", "solved", routed=False)
        assert steps(store, follower.look) < first / 20
        seen = follower.look()
    assert seen is not None
    assert (seen.begun, seen.tokens) == (4, 246 + 40_000 + 123)


def steps(store: TraceStore, act: Any) -> int:
    """How many hundred instructions SQLite carried out."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    store._engine.connection.set_progress_handler(count, 100)
    act()
    store._engine.connection.set_progress_handler(None, 100)
    return counted


def test_looking_neither_writes_nor_waits_for_a_writer(db: Path) -> None:
    with TraceStore(db) as store, TraceStore(db) as writer:
        follower = Follower(store)
        store._engine.connection.execute(
            "PRAGMA query_only = ON"
        )  # whatever writes fails from here
        writer._engine.connection.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert follower.look() is not None
        assert follower.rate() is None
        assert time.monotonic() - began < 5.0
        writer._engine.connection.execute("ROLLBACK")


# The command


def test_once_prints_the_state_and_ends(db: Path) -> None:
    lines = into_pipe("watch", "--db", db, "--once").splitlines()
    assert lines[0].startswith("run id=run0 kind=run ")
    assert "operator name=local_temp attempts=1 rescued=1 tokens=50" in lines
    assert re.fullmatch(
        r"standing run=run0 begun=3 ended=2 failed=1 solved_first=1 rescued=1 out_of_reach=0 "
        r"budget_exhausted=0 model_error=0 verifier_error=0 unjudged=0 tokens=246 per_minute=- "
        r"unchanged_seconds=\d+",
        lines[-1],
    )


@pytest.mark.parametrize("columns", [40, 80])
def test_once_draws_the_state_on_a_terminal(db: Path, columns: int) -> None:
    seen = on_terminal("watch", "--db", db, "--once", columns=columns)
    text = bare(seen)
    assert max(map(len, text.splitlines())) <= columns
    for words in (
        "3 begun, 2 ended, 1 under way",
        "1 solved first, 1 failed",
        "1 rescued, 0 stopped",
    ):
        assert words in text
    assert re.search(r"^local_temp +1 +1 +50", text, re.MULTILINE)
    assert re.search(r"no change for \d+ days", text)
    assert "\x1b[1;32m1 rescued" in seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--run", "nosuch"], "run nosuch"), ([], "none.db"), (["--interval", "nan"], "nan")],
)
def test_once_says_what_is_not_there(
    db: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    path = db if "--run" in arguments else db.with_name("none.db")
    command = ["recov-graph", "watch", "--once", "--db", str(path), *arguments]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in said
    assert len(said.splitlines()) == 1
    assert not db.with_name("none.db").exists()


@contextmanager
def watching(*arguments: Any) -> Iterator[subprocess.Popen[str]]:
    command = [COMMAND, "watch", "--interval", "0.05", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_plain_appends_a_line_for_each_event_of_a_run_that_comes_later(tmp_path: Path) -> None:
    db = tmp_path / "later.db"
    with watching("--db", db, "--plain") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith('waiting what="a trace store at ')
        demo = [COMMAND, "demo", "--problems", "3", "--db", str(db), "--json", "-"]
        done = subprocess.run(demo, capture_output=True, text=True, timeout=60, check=True)
        lines = []
        while sum(line.startswith("end ") for line in lines) < 3:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    figures = json.loads(done.stdout)
    assert (process.returncode, errors) == (0, "")
    told = [line for line in lines if not line.startswith("waiting ")]
    assert told[0].startswith("run id=")
    attempts = sum(row["attempts"] for row in figures["by_intervention"].values())
    assert sum(line.startswith("attempt ") for line in told) == attempts
    last = rest.splitlines()[-1]
    for name in ("failed", "solved_first", "rescued", "tokens", "budget_exhausted"):
        assert f" {name}={figures[name]} " in last
    assert f" begun={figures['problems']} ended={figures['problems']} " in last


def test_a_terminal_shows_a_run_as_it_goes_on_and_keeps_the_last_state(db: Path) -> None:
    watch = OnTerminal("watch", "--db", db, "--interval", "0.05")
    watch.until("3 begun, 2 ended, 1 under way")
    with TraceStore(db) as store:
        end(store, "open", "budget_exhausted")
    watch.until("3 begun, 3 ended", "1 out of budget")
    with TraceStore(db) as store:
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        add_run(store, "run1", started_at=started, model=ESC)
        add_problem(store, "of1", run_id="run1", key=ESC, started_at=started)
        add_decision(store, "of1", ESC, 0)
    watch.until("run run1", "25% expected")
    os.killpg(watch.process.pid, signal.SIGINT)
    seen = watch.end()
    assert watch.process.returncode == 0
    assert "\\u001b[31m\\u202e\\u0007" in seen
    assert not set(seen) & set("\x07\u202e")
    last = bare(seen).split("run run1")[-1]
    assert "1 begun, 0 ended, 1 under way" in last
    assert "Ctrl-C" not in last
    assert seen.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_a_store_that_takes_the_place_of_another_is_followed(db: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with TraceStore(other) as store:
        add_run(store, "run9")
        add_problem(store, "new", run_id="run9")
    with watching("--db", db, "--plain") as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("end "):
            pass
        for suffix in ("-wal", "-shm"):
            db.with_name(db.name + suffix).unlink(missing_ok=True)
        other.replace(db)
        while not (line := process.stdout.readline()).startswith("run id=run9"):
            assert line


# run and demo


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "2+2?", "answer": 777, "id": "n o"}')
    return path


def test_run_tells_on_a_terminal_alone_what_to_look_at(problems: Path, tmp_path: Path) -> None:
    db = tmp_path / "run.db"
    options = ("run", problems, "--verifier", "numeric", "--max-attempts", 5, "--no-baseline")
    options += ("--db", db)
    text = " ".join(bare(on_terminal(*options, columns=300)).split())
    assert f"look closer: `recov-graph show --problem 'n o' --db {db}` or `recov-graph" in text
    assert "look closer" not in into_pipe(*options)


def test_run_ends_with_facts_where_they_are_asked_for(problems: Path, tmp_path: Path) -> None:
    options = ("--verifier", "numeric", "--max-attempts", 5, "--plain", "--db", tmp_path / "r.db")
    text = on_terminal("run", problems, *options)
    assert text.isascii()
    assert "\x1b" not in text
    last = text.splitlines()[-1]
    assert last.startswith("batch problems=1 solved_first=0 failed=1 rescued=0 ")
    assert re.search(r"^retry_alone regime=all problems=1 ", text, re.MULTILINE)
    assert re.search(r"^intervention regime=\S+ operator=", text, re.MULTILINE)
