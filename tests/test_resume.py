"""Runs that are left half done and gone on with: nothing is paid twice, and the end is the same."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recov_graph import TraceStore
from recov_graph.batch import Batch, summary
from recov_graph.cli import cli
from recov_graph.errors import InvalidInputError, ModelError, StoreError
from recov_graph.models import Capability, embedded
from recov_graph.models.embedded import bundled_problems
from recov_graph.problem import Problem
from recov_graph.resuming import half_done
from recov_graph.routing import Decision, Evidence
from recov_graph.routing.decision import Candidate
from recov_graph.runner import Runner
from recov_graph.runs import RunSpec, begin, stored_outputs
from recov_graph.scheduler import Found, Pool, Scheduler
from recov_graph.store.checkup import check_up
from recov_graph.store.sqlite import SqliteFile
from recov_graph.verifiers import as_verifier
from tests.crashes import Command, Done, Remembered, ended, healthy
from tests.openai_server import OpenAIServer
from tests.test_openai_model import behind, two

# One that is solved at once, two that fail at first and one that is given up.
CHOSEN = [bundled_problems()[i] for i in (3, 30, 90, 150)]
STEERING = ("sparse_steer", "dense_steer", "local_temp", "retry")


class Forced:
    """Chooses one operator after the other, with features or without."""

    name = "forced"
    content_hash = "f" * 16

    def __init__(self, *operators: str, wants: bool = False) -> None:
        self._operators, self._wants = operators, wants

    def wants_features(self, evidence: Evidence) -> bool:
        return self._wants

    def decide(self, evidence: Evidence) -> Decision:
        chosen = self._operators[len(evidence.tried) % len(self._operators)]
        chosen = chosen if chosen in evidence.costs else "retry"
        listed = tuple(Candidate(name, None, 0.5, cost) for name, cost in evidence.costs.items())
        regime = "steerable_hard" if evidence.features else "sampling"
        return Decision(chosen, regime, 1.0, 0.5, listed, "forced")


SPEC = RunSpec("numeric", max_attempts=8)
WAYS: dict[str, RunSpec] = {
    "usual": SPEC,
    "measured first": replace(SPEC, policy=Forced(*STEERING, wants=True)),
    "measured when needed": replace(SPEC, policy=Forced("retry", *STEERING)),
    "few tokens": replace(SPEC, max_tokens=700),
    "hardly any tokens": replace(SPEC, max_tokens=260, policy=Forced(*STEERING, wants=True)),
    "attempts for all": replace(SPEC, total_attempts=26),
    "tokens for all": replace(SPEC, total_tokens=1500),
    "tokens for all, measured": replace(
        SPEC, total_tokens=2500, policy=Forced("retry", *STEERING, wants=False)
    ),
    "worth something": replace(SPEC, total_attempts=100, least_worth=0.3),
    "for all and for each": replace(SPEC, total_tokens=1500, max_tokens=400),
    "black box": replace(SPEC, interventions=("retry", "temp_lift", "extend")),
}


class Died(BaseException):
    """The process has ended."""


class Counted(Remembered):
    """The pair, with a note of each call."""

    def __init__(self, *, black_box: bool = False) -> None:
        super().__init__()
        if black_box:
            self.capabilities = frozenset({Capability.SAMPLE, Capability.TEMPERATURE})
        self.calls: Counter[str] = Counter()
        self.broken = False

    def asked(self, *call: Any) -> None:
        if self.broken:
            raise ModelError("the server is down")
        self.calls[repr(call)] += 1


@contextmanager
def dying_after(transactions: int | None) -> Iterator[None]:
    """The process ends right after so many transactions have been stored."""
    real, left = SqliteFile.transaction, transactions

    @contextmanager
    def counted(self: SqliteFile, *, durable: bool = False) -> Iterator[None]:
        nonlocal left
        with real(self, durable=durable):
            yield
        if left is not None:
            left -= 1
            if left <= 0:
                raise Died

    with pytest.MonkeyPatch.context() as patch:
        if transactions is not None:
            patch.setattr(SqliteFile, "transaction", counted)
        yield


def session(
    path: Path,
    model: Any,
    spec: RunSpec = SPEC,
    problems: Sequence[Problem] = CHOSEN,
    *,
    resume: bool = False,
    concurrency: int = 1,
    verifier: Any = "numeric",
    die_after: int | None = None,
) -> Batch:
    """One process that works on a run."""
    batch = Batch(keep="failures")
    spec = spec if spec.policy else spec.routed(None)
    with TraceStore(path, store_text=spec.store_text) as store, dying_after(die_after):
        begun = begin(store, spec, len(problems), resume=resume)
        graph = spec.graph(model, as_verifier(verifier), store, begun.start)
        if spec.pooled:
            run_pooled(batch, store, begun, graph, spec, problems)
            return batch
        runner = Runner(graph, store, begun.ids, concurrency=concurrency, resume=begun.before)
        for order, problem, output in runner.run(enumerate(problems)):
            batch.add(problem, output, order)
    return batch


def run_pooled(
    batch: Batch, store: TraceStore, begun: Any, graph: Any, spec: RunSpec, problems: Any
) -> None:
    def found(order: int, problem: Problem) -> Found:
        name = begun.ids.register(problem, order)
        output = stored_outputs(store, {name: problem}).get(name)
        return Found(output, None if output else half_done(store, problem, name))

    pool = Pool(spec.total_tokens, spec.total_attempts, spec.least_worth)
    scheduler = Scheduler(graph, spec.samples, pool, max_tokens=spec.max_tokens, found=found)
    for problem, output in scheduler.run(problems):
        batch.add(problem, output)
    batch.not_reached = len(scheduler.not_reached)


def figures(batch: Batch) -> dict[str, Any]:
    return {name: value for name, value in summary(batch).items() if name != "seconds"}


def transactions_of(path: Path, model: Any, spec: RunSpec) -> tuple[int, Batch]:
    """How many transactions a run has that nobody disturbs, and what it comes to."""
    count, real = 0, SqliteFile.transaction

    @contextmanager
    def counted(self: SqliteFile, *, durable: bool = False) -> Iterator[None]:
        nonlocal count
        count += 1
        with real(self, durable=durable):
            yield

    TraceStore(path, store_text=spec.store_text).close()  # whose making does not count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteFile, "transaction", counted)
        batch = session(path, model, spec)
    return count, batch


def dies_and_goes_on(way: str, folder: Path, places: Callable[[int], Iterable[int]]) -> None:
    """End a run after each of the places among its writes, and go on with it."""
    spec, black_box = WAYS[way], way == "black box"
    whole = Counted(black_box=black_box)
    total, expected = transactions_of(folder / "whole.db", whole, spec)
    rows = ended(folder / "whole.db")
    assert total > 20
    for number in places(total):
        path, model = folder / f"{number}.db", Counted(black_box=black_box)
        with pytest.raises(Died):
            session(path, model, spec, die_after=number)
        batch = session(path, model, spec, resume=True)
        assert ended(path) == rows, number
        assert figures(batch) == figures(expected), number
        assert model.calls == whole.calls, number
        healthy(path)
        path.unlink()


@pytest.mark.parametrize("way", ["usual", "measured when needed", "tokens for all", "black box"])
def test_a_process_that_ends_after_a_write_is_followed_by_one_that_goes_on(
    way: str, tmp_path: Path
) -> None:
    dies_and_goes_on(way, tmp_path, lambda total: range(4 + len(way) % 5, total, total // 2))


@pytest.mark.slow
def test_measuring_for_an_attempt_that_was_never_made_is_part_of_what_it_costs(
    tmp_path: Path,
) -> None:
    dies_and_goes_on("measured when needed", tmp_path, lambda total: range(6, 12))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["usual", "black box"])
@pytest.mark.long
def test_a_process_may_end_after_any_write(way: str, tmp_path: Path) -> None:
    dies_and_goes_on(way, tmp_path, lambda total: range(1, total))


@pytest.mark.long
@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("usual", "black box")])
def test_a_process_may_end_after_any_write_in_any_way(way: str, tmp_path: Path) -> None:
    dies_and_goes_on(way, tmp_path, lambda total: range(1, total))


def test_what_has_ended_is_not_asked_for_again(tmp_path: Path) -> None:
    first = session(tmp_path / "t.db", Counted())
    model = Counted()
    again = session(tmp_path / "t.db", model, resume=True)
    assert figures(again) == figures(first)
    assert not model.calls
    assert [one[:-1] for one in again.failures] == [one[:-1] for one in first.failures]


@pytest.mark.parametrize("store_text", ["hash", "none"])
def test_without_texts_what_is_half_done_begins_anew(store_text: Any, tmp_path: Path) -> None:
    spec = replace(SPEC, store_text=store_text)
    expected = session(tmp_path / "whole.db", Counted(), spec)
    for number in (9, 14, 20):
        path = tmp_path / f"{number}.db"
        with pytest.raises(Died):
            session(path, Counted(), spec, die_after=number)
        with TraceStore(path) as store:  # whose rows are token ids: text in another guise
            assert store.rows("SELECT count(*) FROM underway") == [(0,)]
        assert figures(session(path, Counted(), spec, resume=True)) == figures(expected)
        with TraceStore(path) as store:
            assert store.rows("SELECT count(*) FROM problems") == [(len(CHOSEN),)]
            assert store.rows("SELECT count(*) FROM underway") == [(0,)]
            (attempts,) = store.rows("SELECT sum(attempts) FROM outcomes")
            assert store.rows("SELECT count(*) FROM rollouts") == [attempts]


def test_any_number_side_by_side_comes_to_the_same(tmp_path: Path) -> None:
    problems = bundled_problems()[:16:2]
    one = session(tmp_path / "one.db", Counted(), problems=problems)
    many = session(tmp_path / "many.db", Counted(), problems=problems, concurrency=8)
    assert figures(one) == figures(many)
    assert ended(tmp_path / "one.db") == ended(tmp_path / "many.db")


def test_what_ended_in_an_error_is_tried_again(tmp_path: Path) -> None:
    expected = session(tmp_path / "whole.db", Counted())
    model = Counted()
    model.broken = True
    down = session(tmp_path / "t.db", model)
    assert down.figures.errors == len(CHOSEN)
    model.broken = False
    up = session(tmp_path / "t.db", model, resume=True)
    assert figures(up) == figures(expected)


class Breaking(Counted):
    """A model that fails at one call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def asked(self, *call: Any) -> None:
        self.left -= 1
        self.broken = self.left == 0
        super().asked(*call)


def test_a_model_that_fails_in_the_middle_loses_no_attempt(tmp_path: Path) -> None:
    whole = Counted()
    expected = session(tmp_path / "whole.db", whole)
    for number in range(1, sum(whole.calls.values()), 6):
        model, path = Breaking(number), tmp_path / f"{number}.db"
        assert session(path, model).figures.errors == 1
        assert figures(session(path, model, resume=True)) == figures(expected)
        assert ended(path) == ended(tmp_path / "whole.db")
        assert model.calls == whole.calls
        healthy(path)


def test_what_is_tried_again_after_an_error_may_be_left_half_done_as_well(tmp_path: Path) -> None:
    """Such a problem is neither ended nor damaged, and the doctor says so."""
    whole = Counted()
    expected = session(tmp_path / "whole.db", whole, problems=CHOSEN[:1])
    for at, after in ((1, 7), (2, 1), (3, 3), (4, 1)):
        model, path = Breaking(at), tmp_path / f"{at}.db"
        assert session(path, model, problems=CHOSEN[:1]).figures.errors == 1
        with pytest.raises(Died):
            session(path, model, problems=CHOSEN[:1], resume=True, die_after=after)
        wrong = [one.says for one in check_up(path).findings if one.status == "wrong"]
        assert wrong == []
        again = session(path, model, problems=CHOSEN[:1], resume=True)
        assert figures(again) == figures(expected)
        assert model.calls == whole.calls


def test_an_array_that_is_damaged_is_drawn_anew(tmp_path: Path) -> None:
    spec = WAYS["measured first"]
    expected = session(tmp_path / "whole.db", Counted(), spec)
    for table, column, after in (("underway", "specialist", 4), ("token_arrays", "ancestor", 9)):
        path, rows = tmp_path / f"{table}.db", 0
        while not rows:
            path.unlink(missing_ok=True)
            with pytest.raises(Died):
                session(path, Counted(), spec, die_after=after)
            with TraceStore(path) as store:
                sql = f"SELECT {table}.id FROM {table} JOIN rollouts USING (id) "
                names = store.rows(f"{sql} WHERE problem_id NOT IN (SELECT id FROM outcomes)")
                rows = len(names)
            if rows:
                with closing(sqlite3.connect(path)) as file, file:
                    sql = f"UPDATE {table} SET {column} = x'00' WHERE id = ?"
                    file.execute(sql, names[0])
            after += 1
        assert figures(session(path, Counted(), spec, resume=True)) == figures(expected)
        healthy(path)


def test_a_verifier_that_failed_is_asked_again(tmp_path: Path) -> None:
    def broken(problem: Problem, text: str) -> bool:
        raise RuntimeError("no compiler")

    expected = session(tmp_path / "whole.db", Counted())
    model = Counted()
    assert session(tmp_path / "t.db", model, verifier=broken).figures.errors == len(CHOSEN)
    asked = sum(model.calls.values())
    up = session(tmp_path / "t.db", model, resume=True)
    assert figures(up) == figures(expected)
    assert sum(one for call, one in model.calls.items() if "'n': 4" in call) == asked


def test_a_run_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    session(tmp_path / "t.db", Counted())
    with TraceStore(tmp_path / "t.db") as store:
        spec = replace(SPEC, temperature=0.7, samples=3).routed(None)
        other = begin(store, spec, 4, resume=True)
        assert not other.before
        assert "temperature 0.6, not 0.7" in other.differs
        assert "samples 4, not 3" in other.differs
        assert begin(store, SPEC.routed(None), 4, resume=True).before
        assert not begin(store, SPEC.routed(None), 4).before


def test_problems_may_be_added_and_left_out_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    session(path, Counted(), problems=CHOSEN[:2])
    model = Counted()
    more = session(path, model, problems=CHOSEN, resume=True)
    assert figures(more) == figures(session(tmp_path / "whole.db", Counted()))
    assert all(CHOSEN[0].prompt not in call for call in model.calls)
    assert session(path, model, problems=CHOSEN[1:], resume=True).figures.problems == 3
    for name, value in (("prompt", "1+1?"), ("answer", -1)):
        changed = CHOSEN[0].model_copy(update={name: value})
        with pytest.raises(InvalidInputError, match=f"another {name}"):
            session(path, model, problems=[changed], resume=True)


def test_one_process_works_on_a_run_at_a_time(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "t.db") as store, TraceStore(tmp_path / "t.db") as other:
        with store.hold("r"):
            with pytest.raises(StoreError, match=r"run r of .* is being worked on by another"):
                other.hold("r").__enter__()
            with other.hold("s"):
                pass
        with other.hold("r"):
            pass
    assert not list(tmp_path.glob("*.lock"))


def test_concurrency_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="concurrency is 0"):
        session(tmp_path / "t.db", Counted(), concurrency=0)


# A server ----------------------------------------------------------------------------------------


def asked_of(*servers: OpenAIServer) -> Counter[tuple[str, str]]:
    """What costs something: how a text is cut into tokens is told for nothing, and remembered."""
    asked = (one for each in servers for one in each.requests)
    return Counter((one.path, str(one.body)) for one in asked if "tokenize" not in one.path)


@pytest.mark.parametrize("dialect", ["chat", pytest.param("vllm", marks=pytest.mark.slow)])
def test_a_server_is_asked_for_nothing_twice(
    dialect: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOV_GRAPH_CACHE", str(tmp_path / "cache"))
    spec = replace(SPEC, max_attempts=6, model="openai:specialist")
    with two(dialect) as servers:
        model = behind(*servers) if dialect == "vllm" else behind(servers[0])
        assert model.capabilities  # which is asked once
        for server in servers:
            server.requests.clear()
        chosen = CHOSEN[::3]
        TraceStore(tmp_path / "whole.db").close()
        expected = session(tmp_path / "whole.db", model, spec, chosen)
        whole = asked_of(*servers)
        rows = ended(tmp_path / "whole.db")
        for number in (2, 5, 8, 12):
            for server in servers:
                server.requests.clear()
            path = tmp_path / f"{number}.db"
            with pytest.raises(Died):
                session(path, model, spec, chosen, die_after=number)
            again = session(path, model, spec, chosen, resume=True)
            assert figures(again) == figures(expected)
            assert ended(path) == rows
            assert asked_of(*servers) == whole


# The command line --------------------------------------------------------------------------------


class Said:
    """What a command said, and what it asked the model."""

    def __init__(self, result: Any, calls: Counter[str]) -> None:
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr
        self.error, self.calls = result.exception, calls

    @property
    def figures(self) -> dict[str, Any]:
        told = json.loads(self.out)
        return {name: told[name] for name in told if name not in ("seconds", "db")}

    @property
    def sums(self) -> dict[str, Any]:
        return {name: value for name, value in self.figures.items() if name != "run"}


Recov = Callable[..., Said]


@pytest.fixture
def recov(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recov:
    """Runs problems on the command line, in this process."""
    calls: Counter[str] = Counter()

    class Noted(Remembered):
        def asked(self, *call: Any) -> None:
            calls[repr(call)] += 1

    monkeypatch.setattr(embedded, "EmbeddedPair", Noted)

    def run(problems: Sequence[Problem] | Path, *options: Any, db: str = "t.db") -> Said:
        calls.clear()
        file = problems if isinstance(problems, Path) else tmp_path / "problems.jsonl"
        if not isinstance(problems, Path):
            file.write_text("".join(one.model_dump_json() + "\n" for one in problems))
        how = ("--verifier", "numeric", "--no-baseline", "--max-attempts", 8, "--json", "-")
        named = ["run", file, *how, "--db", tmp_path / db, *options]
        result = CliRunner().invoke(cli, [str(one) for one in named])
        return Said(result, Counter(calls))

    return run


def test_a_run_that_has_ended_is_shown_again_and_asks_nothing(recov: Recov) -> None:
    first = recov(CHOSEN)
    assert first.code == 0, first.error
    again = recov(CHOSEN, "--resume")
    assert again.figures == first.figures  # and the run
    assert not again.calls
    assert f"going on with run {first.figures['run']}" in again.err


def test_where_there_is_nothing_to_go_on_with_a_run_is_begun(recov: Recov) -> None:
    first = recov(CHOSEN[:2], "--resume")
    assert first.code == 0
    assert "beginning a new run" in first.err
    assert "no run of this store can be gone on with" in first.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--seed", 3), "seed 0, not 3"),
        (("--temperature", 0.7), "temperature 0.6, not 0.7"),
        (("--max-tokens", 900), "max_tokens None, not 900"),
        (("--interventions", "retry"), "interventions None, not"),
        (("--total-attempts", 30), "total_attempts None, not 30"),
        (("--store-text", "hash"), "store_text"),
    ],
)
def test_other_settings_are_another_run_and_that_is_said(
    options: Any, told: str, recov: Recov
) -> None:
    first = recov(CHOSEN[:2])
    other = recov(CHOSEN[:2], "--resume", *options)
    assert other.code == 0, other.error
    assert other.figures["run"] != first.figures["run"]
    assert (
        f"beginning a new run, {other.figures['run']}: run {first.figures['run']} has" in other.err
    )
    assert told in other.err
    back = recov(CHOSEN[:2], "--resume")
    assert back.figures == first.figures
    assert not back.calls


def test_another_name_of_the_file_is_another_run(recov: Recov, tmp_path: Path) -> None:
    first = recov(CHOSEN[:2])
    renamed = tmp_path / "others.jsonl"
    (tmp_path / "problems.jsonl").rename(renamed)
    other = recov(renamed, "--resume")
    assert other.figures["run"] != first.figures["run"]
    assert "problems" in other.err
    (tmp_path / "elsewhere").mkdir()
    moved = renamed.rename(tmp_path / "elsewhere" / "problems.jsonl")
    again = recov(moved, "--resume")
    assert again.figures == first.figures  # the name counts, not the folder


def test_of_several_runs_the_latest_is_gone_on_with(recov: Recov) -> None:
    first, second = recov(CHOSEN[:2]), recov(CHOSEN[:2])
    assert first.figures["run"] != second.figures["run"]
    assert first.sums == second.sums
    assert recov(CHOSEN[:2], "--resume").figures["run"] == second.figures["run"]
    elsewhere = recov(CHOSEN[:2], "--resume", db="other.db")
    assert elsewhere.figures["run"] not in (first.figures["run"], second.figures["run"])


def test_problems_are_added_left_out_and_refused_where_they_changed(recov: Recov) -> None:
    first = recov(CHOSEN[:2])
    more = recov(CHOSEN, "--resume")
    assert more.figures["run"] == first.figures["run"]
    assert more.sums == recov(CHOSEN, db="whole.db").sums
    assert not any(CHOSEN[0].prompt in call for call in more.calls)
    fewer = recov(CHOSEN[1:], "--resume")
    assert (fewer.figures["problems"], len(fewer.calls)) == (3, 0)
    changed = [CHOSEN[0].model_copy(update={"prompt": "1+1?"}), *CHOSEN[1:]]
    refused = recov(changed, "--resume")
    assert isinstance(refused.error, InvalidInputError)
    assert "another prompt" in str(refused.error)
    assert not refused.calls


def test_any_number_at_a_time_comes_to_the_same_on_the_command_line(recov: Recov) -> None:
    one = recov(CHOSEN)
    eight = recov(CHOSEN, "--concurrency", 8, db="eight.db")
    assert eight.sums == one.sums
    assert eight.calls == one.calls
    again = recov(CHOSEN, "--concurrency", 3, "--resume")  # as many as one likes
    assert again.figures == one.figures


def test_a_server_that_was_down_is_asked_again(
    recov: Recov, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOV_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with OpenAIServer(dialect="chat") as server:
        port = int(server.base_url.rsplit(":", 1)[1].split("/")[0])
        how = ("--model", "openai:specialist", "--base-url", server.base_url, "--max-attempts", 5)
        whole = recov(CHOSEN[1:3], *how, db="whole.db")
        assert whole.code == 0, (whole.err, whole.error)
        server.faults.add(*["401"] * 2)
        down = recov(CHOSEN[1:3], *how)
        assert (down.code, down.figures["unjudged"]) == (1, 2), down.out
        assert "2 of 2 ended early" in down.err
    with OpenAIServer(dialect="chat", port=port):
        up = recov(CHOSEN[1:3], *how, "--resume")
    assert up.code == 0, (up.err, up.error)
    assert up.figures["run"] == down.figures["run"]
    assert up.sums == whole.sums


def test_what_is_measured_beside_a_run_is_measured_of_those_that_ended_before(
    recov: Recov, tmp_path: Path
) -> None:
    """A process may end between the end of a problem and the survey of it."""

    def measured(name: str) -> list[Any]:
        rows = ended(tmp_path / name)
        return sorted((key, *row) for key in rows for row in rows[key] if row[0] == "features")

    chosen = [one for one in CHOSEN if one.id == "paren-3-009"]
    assert recov(chosen, "--baseline", db="whole.db").code == 0
    assert measured("whole.db")
    for after in range(14, 40):
        name = f"{after}.db"
        with dying_after(after):
            try:
                recov(chosen, "--baseline", db=name)
                break
            except Died:
                pass
        assert recov(chosen, "--baseline", "--resume", db=name).code == 0
        assert measured(name) == measured("whole.db"), after


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def number_ended(db: Path) -> int:
    return len(ended(db)) if db.exists() and db.stat().st_size else 0


def slow_run(folder: Path, seconds: float, *options: str) -> Command:
    """A run in a process of its own, whose every call takes its time."""
    problems = folder / "problems.jsonl"
    problems.write_text("".join(one.model_dump_json() + "\n" for one in bundled_problems()[:10]))
    how = ("--verifier", "numeric", "--max-attempts", "4", "--no-baseline", "--json", "-")
    named = ("run", problems, "--db", folder / "t.db", *how, *options)
    place = folder / f"said{len(options)}"
    place.mkdir()
    return Command(named, place, seconds=seconds)


def stopped_and_gone_on(folder: Path, first: Done, again: Done) -> None:
    """The first was stopped in good order, and the other has done the rest."""
    assert first.code == 130, first
    told = json.loads(first.out)
    assert 2 <= told["problems"] < 10
    assert "Traceback" not in first.err
    assert f"stopped when {told['problems']} of 10 had ended" in first.err
    (says,) = [line for line in first.err.splitlines() if "--resume" in line]
    assert says.endswith("goes on")
    assert again.code == 0, again
    figures = json.loads(again.out)
    assert f"going on with run {told['run']}" in again.err
    assert (figures["problems"] + figures["not_reached"], figures["run"]) == (10, told["run"])
    healthy(folder / "t.db")


def test_who_resumes_a_run_that_still_goes_on_is_told(tmp_path: Path) -> None:
    run = slow_run(tmp_path, 0.1)
    wait_until(lambda: number_ended(tmp_path / "t.db") >= 2)
    told = slow_run(tmp_path, 0.0, "--resume").wait()
    assert (told.code, told.calls) == (2, 0), told
    assert "is being worked on by another process" in told.err
    os.kill(run.number, signal.SIGKILL)
    run.wait()
    assert slow_run(tmp_path, 0.0, "--plain", "--resume").wait().code == 0
    healthy(tmp_path / "t.db")
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("options", [("--concurrency", "2"), ("--total-attempts", "36")])
def test_a_run_that_is_stopped_sums_up_and_can_be_gone_on_with(
    sent: signal.Signals, options: tuple[str, ...], tmp_path: Path
) -> None:
    db = tmp_path / "t.db"
    run = slow_run(tmp_path, 0.1, *options)
    wait_until(lambda: number_ended(db) >= 2)
    os.kill(run.number, sent)
    first = run.wait()
    before = ended(db)
    again = slow_run(tmp_path, 0, *options, "--resume").wait()
    stopped_and_gone_on(tmp_path, first, again)
    assert len(before) == json.loads(first.out)["problems"]
    after = ended(db)
    assert {key: after[key] for key in before} == before


def test_a_second_request_leaves_at_once_while_a_call_hangs(tmp_path: Path) -> None:
    run = slow_run(tmp_path, 60)
    wait_until(lambda: run.calls > 0)
    os.kill(run.number, signal.SIGINT)
    time.sleep(0.3)
    assert run.running()
    began = time.monotonic()
    os.kill(run.number, signal.SIGINT)
    done = run.wait()
    assert time.monotonic() - began < 5
    assert done.code == 130
    assert "once more to leave at once" in done.err
    assert "Traceback" not in done.err
    healthy(tmp_path / "t.db")


@pytest.mark.slow
def test_ctrl_c_stops_the_installed_command(tmp_path: Path) -> None:
    """As a person has it: started by a shell, with its own interpreter."""
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(one.model_dump_json() + "\n" for one in bundled_problems()[:10]))
    (tmp_path / "slow.py").write_text(
        "import time\ndef judge(problem, text):\n    time.sleep(0.05)\n    return False\n"
    )
    how = ("--verifier", "python:slow:judge", "--max-attempts", "4", "--no-baseline", "--json", "-")
    named = [sys.executable, "-m", "recov_graph.cli", "run", str(problems), *how]
    named += ["--db", str(tmp_path / "t.db")]
    told: list[Done] = []
    for resume in ((), ("--resume",)):
        with subprocess.Popen(
            [*named, *resume],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        ) as run:
            if not resume:
                wait_until(lambda: number_ended(tmp_path / "t.db") >= 2)
                run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=60)
        told.append(Done(run.returncode, out, err, 0))
    stopped_and_gone_on(tmp_path, *told)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--concurrency", 0), "--concurrency"),
        (("--concurrency", 2, "--total-attempts", 50), "take turns"),
        (("--address", "auto"), "needs --engine ray"),
        (("--workers", 2), "needs --engine ray"),
    ],
)
def test_wrong_options_are_said_in_a_line(
    options: tuple[Any, ...], says: str, recov: Recov, tmp_path: Path
) -> None:
    done = recov(CHOSEN[:1], *options)
    assert done.code == 2
    assert says in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "t.db").exists()
