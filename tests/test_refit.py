"""Refitting from stored traces, and the gate that a new policy has to pass."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from recov_graph.cli import cli
from recov_graph.errors import StoreError
from recov_graph.evaluate.bench import bench_of_tape
from recov_graph.gate import choices, judge_policy, judge_recorded
from recov_graph.policies import PolicyShelf
from recov_graph.refit import refit
from recov_graph.routing import (
    Decision,
    Evidence,
    PosteriorRouter,
    as_router,
    default_policy,
    load_policy,
)
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from recov_graph.stored import logged_decisions, newest, read_failures
from recov_graph.tape import shipped_tape

NAMES = ("retry", "steer", "mix")
COLD = default_policy().model_copy(
    update={"posterior": None, "name": "cold", "population": default_policy().population}
)
RUN = {
    "id": "r", "kind": "run", "model": "m", "verifier": "exact", "policy": "p", "policy_hash": "0",
    "package_version": "0", "feature_version": FEATURE_VERSION, "router_version": 1,
    "store_text": "full", "started_at": "2026-01-01T00:00:00.000+00:00",
}  # fmt: skip


def fill(
    store: TraceStore,
    count: int,
    rates: dict[str, float],
    *,
    seed: int = 0,
    tasks: tuple[str, ...] = ("t",),
    attempts: int = 3,
    first: int = 0,
    choose: Any = None,
) -> None:
    """Problems that failed twice, then were tried by operators chosen at random."""
    rng = random.Random(seed)
    tables: dict[str, list[dict[str, Any]]] = {"runs": [RUN]}

    def add(table: str, **row: Any) -> None:
        tables.setdefault(table, []).append(row)

    for i in range(first, first + count):
        problem, stamp = f"p{i}", f"2026-01-01T00:{i // 60 % 60:02}:{i % 60:02}.000+00:00"
        task = tasks[i % len(tasks)]
        add("problems", id=problem, run_id="r", key=problem, task=task, started_at=stamp)
        for position in range(2):
            _add_rollout(add, problem, position, "sample", False, stamp)
        for step in range(attempts):
            operator = choose(step) if choose else rng.choice(NAMES)
            passed = rng.random() < rates[operator]
            candidates = [
                {"operator": n, "score": None, "expected_rescue": 0.2, "expected_cost": 50}
                for n in NAMES
            ]
            add(
                "decisions", id=f"{problem}/d{step}", problem_id=problem, step=step,
                regime="sampling", operator=operator,
                probability=1.0 if choose else 1 / len(NAMES), expected_rescue=0.2,
                candidates=json.dumps(candidates), policy="p", policy_hash="0",
                created_at=stamp, attempts_left=attempts - step, measured=0, once="{}",
            )  # fmt: skip
            _add_rollout(add, problem, 2 + step, operator, passed, stamp)
            add(
                "interventions", id=f"{problem}/{2 + step}", decision_id=f"{problem}/d{step}",
                operator=operator, outcome="rescued" if passed else "failed", tokens=50,
            )  # fmt: skip
            if passed:
                break
    store.write(**tables)


def _add_rollout(
    add: Any, problem: str, position: int, operator: str, passed: bool, stamp: str
) -> None:
    row = f"{problem}/{position}"
    add(
        "rollouts", id=row, problem_id=problem, position=position, operator=operator,
        temperature=0.6, seed=0, finish_reason="stop", tokens=30, created_at=stamp,
    )  # fmt: skip
    add("verdicts", id=row, value="passed" if passed else "failed", verifier="exact")


def _attempt(
    store: TraceStore, problem: str, position: int, operator: str, passed: bool, stamp: str
) -> None:
    """One rollout with its verdict."""
    tables: dict[str, list[dict[str, Any]]] = {}

    def add(table: str, **row: Any) -> None:
        tables.setdefault(table, []).append(row)

    _add_rollout(add, problem, position, operator, passed, stamp)
    store.write(**tables)


GOOD = {"retry": 0.05, "steer": 0.5, "mix": 0.1}


def evidence(task: str = "t", **changes: Any) -> Evidence:
    """A fresh failure of model m."""
    fresh = Evidence("m", task, None, 2, [], dict.fromkeys(NAMES, 50), 3, draw=1.0)
    return replace(fresh, **changes)


class Fixed:
    """A router that always chooses one operator."""

    def __init__(self, operator: str | None, rescue: float = 0.2) -> None:
        self.name, self.content_hash = str(operator), str(operator)
        self._operator, self._rescue = operator, rescue

    def decide(self, evidence: Evidence) -> Decision:
        return Decision(self._operator, "sampling", 1.0, self._rescue, (), "fixed")


def test_what_is_learned_is_what_was_stored(store: TraceStore) -> None:
    fill(store, 200, GOOD)
    made = refit(store, COLD, name="mine")
    policy = made.policy
    assert policy.name == "mine"
    assert policy.counts is not None
    assert policy.counts.problems == 200
    assert made.cells == {"m|t": (200, policy.counts.attempts, policy.counts.rescues)}
    assert policy.window is not None
    assert policy.window.first < policy.window.last
    decided = PosteriorRouter(policy, explore=0.0).decide(evidence())
    assert decided.operator == "steer"
    assert decided.expected_rescue == pytest.approx(0.5, abs=0.08)
    rescue = {c.operator: c.expected_rescue for c in decided.candidates}
    assert rescue["mix"] == pytest.approx(0.1, abs=0.07)
    assert rescue["retry"] == pytest.approx(0.05, abs=0.06)


def test_a_handful_of_traces_hardly_moves_the_rule(store: TraceStore) -> None:
    fill(store, 2, {"retry": 0.0, "steer": 1.0, "mix": 0.0})
    made = refit(store, COLD)
    router = as_router(made.policy)
    assert isinstance(router, PosteriorRouter)
    assert 0 < router.trust("m", "t") < 0.1
    assert router.trust("another", "t") < router.trust("m", "t")
    assert not made.verdict.passed


def test_cells_are_told_apart(store: TraceStore) -> None:
    fill(store, 150, {"retry": 0.02, "steer": 0.6, "mix": 0.02}, tasks=("a",))
    fill(store, 150, {"retry": 0.02, "steer": 0.02, "mix": 0.6}, tasks=("b",), first=150, seed=1)
    router = PosteriorRouter(refit(store, COLD).policy, explore=0.0)
    assert router.decide(evidence("a")).operator == "steer"
    assert router.decide(evidence("b")).operator == "mix"
    only = refit(store, COLD, task="a")
    assert list(only.cells) == ["m|a"]


def test_hopeless_failures_are_stopped(store: TraceStore) -> None:
    fill(store, 200, dict.fromkeys(NAMES, 0.0))
    decided = as_router(refit(store, COLD).policy).decide(evidence())
    assert decided.operator is None
    assert decided.regime == "out_of_reach"


def test_texts_are_not_needed(tmp_path: Path) -> None:
    policies = []
    for text in ("full", "none"):
        with TraceStore(tmp_path / f"{text}.db", store_text=text) as store:
            fill(store, 60, GOOD)
            policies.append(refit(store, COLD).policy)
    assert policies[0].posterior == policies[1].posterior


def test_problems_seen_again_stay_on_one_side(store: TraceStore) -> None:
    fill(store, 40, GOOD)
    # The first ten are run again, last of all.
    rows = [
        {"id": f"again{i}", "run_id": "r", "key": f"p{i}", "task": "t",
         "started_at": f"2026-02-01T00:00:{i:02}.000+00:00"}
        for i in range(10)
    ]  # fmt: skip
    store.write(problems=rows)
    for i in range(10):
        _attempt(store, f"again{i}", 0, "sample", False, "2026-02-01")
        store.write(
            tallies=[
                {"id": f"again{i}/retry", "problem_id": f"again{i}", "operator": "retry",
                 "passed": 0.0, "attempts": 1.0}
            ]
        )  # fmt: skip
    older, held = newest(read_failures(store), 0.25)
    assert set(older.group) & set(held.group) == set()
    assert len(older) + len(held) == 50
    assert {f"again{i}" for i in range(10)} | {f"p{i}" for i in range(10)} <= set(held.ids)


def test_only_failures_with_judged_attempts_count(store: TraceStore) -> None:
    fill(store, 5, GOOD)
    stamp = "2026-03-01T00:00:00.000+00:00"
    for problem, passed in (("solved", True), ("untried", False)):
        store.write(
            problems=[
                {"id": problem, "run_id": "r", "key": problem, "task": "t", "started_at": stamp}
            ]
        )
        _attempt(store, problem, 0, "sample", passed, stamp)
    assert len(read_failures(store)) == 5


def test_a_store_without_failures_is_refused_in_words(store: TraceStore) -> None:
    with pytest.raises(StoreError, match="holds no failed problem with a judged intervention"):
        refit(store, COLD)
    fill(store, 3, GOOD)
    with pytest.raises(StoreError, match="of model 'other'"):
        refit(store, COLD, model="other")


def test_the_gate_lets_a_better_policy_pass(store: TraceStore) -> None:
    fill(store, 600, GOOD, attempts=2)
    failures = read_failures(store)
    log = logged_decisions(store, failures)
    better = judge_policy(Fixed("steer", 0.5), Fixed("retry", 0.05), log)
    assert better.passed, better.why
    assert better.problems == 600
    worse = judge_policy(Fixed("retry", 0.05), Fixed("steer", 0.5), log)
    assert not worse.passed
    assert "not shown to be no worse" in worse.why
    by = {(f.policy, f.estimate): f for f in better.figures}
    new = by["new", "self-normalised"].rescues_per_1000
    assert new.low <= 1000 * 0.5 / 50 <= new.high


def test_the_gate_says_when_there_is_too_little(store: TraceStore) -> None:
    fill(store, 30, GOOD)
    log = logged_decisions(store, read_failures(store))
    little = judge_policy(Fixed("steer"), Fixed("retry"), log)
    assert not little.passed
    assert "at least 50 are needed" in little.why
    assert "no routed problem is held out" in judge_policy(Fixed("steer"), Fixed("retry"), []).why


def test_a_log_without_chance_cannot_judge_another_policy(store: TraceStore) -> None:
    fill(store, 200, GOOD, choose=lambda step: "retry")
    log = logged_decisions(store, read_failures(store))
    blind = judge_policy(Fixed("steer"), Fixed("retry"), log)
    assert not blind.passed
    assert "effective sample of 0" in blind.why
    assert judge_policy(Fixed("retry"), Fixed("retry"), log).passed


def test_a_policy_that_stops_earlier_is_charged_less(store: TraceStore) -> None:
    fill(store, 300, dict.fromkeys(NAMES, 0.0))
    log = logged_decisions(store, read_failures(store))
    verdict = judge_policy(Fixed(None), Fixed("retry"), log)
    new = next(f for f in verdict.figures if f.policy == "new")
    assert new.mean_cost == 0
    assert new.problems == 300


def test_recorded_attempts_judge_exactly() -> None:
    tape = shipped_tape()[:80]
    bench = bench_of_tape(tape, "part of the shipped tape")
    steered = judge_recorded(Fixed("dense_steer"), Fixed("retry"), bench)
    assert steered.passed
    index = bench.operators.index("dense_steer")
    figure = steered.figures[0]
    rate = bench.rates[:, index]
    assert figure.rescue_rate == pytest.approx((1 - (1 - rate) ** 8).mean())
    assert not judge_recorded(Fixed("retry"), Fixed("dense_steer"), bench).passed


def test_probabilities_of_choices_add_up() -> None:
    router = as_router(default_policy())
    asked = Evidence("embedded", "mixed", None, 4, [], {"retry": 50, "dense_steer": 100}, 8)
    odds, decided = choices(router, asked)
    assert sum(odds.values()) == pytest.approx(1)
    assert odds[str(decided.operator)] == pytest.approx(decided.probability)


@pytest.fixture
def command(tmp_path: Path) -> Any:
    """The command line with a store and a policy shelf of its own."""
    path = tmp_path / "traces.db"
    with TraceStore(path) as store:
        fill(store, 400, GOOD)

    def run(*arguments: str) -> Any:
        options = ["--policies", str(tmp_path / "policies")]
        if arguments[0] == "refit":
            options += ["--db", str(path)]
        return CliRunner().invoke(cli, [*arguments, *options])

    return run


def test_refit_prints_what_it_learned_and_writes_a_policy(command: Any, tmp_path: Path) -> None:
    out = tmp_path / "policy.json"
    done = command("refit", "--out", str(out), "--name", "mine", "--explore", "0.1")
    assert done.exit_code == 0, done.output
    assert "m|t" in done.output
    assert "gate " in done.output
    assert "not activated" in done.output
    policy = load_policy(out)
    assert policy.name == "mine"
    assert policy.posterior is not None
    assert policy.posterior.explore == 0.1
    shelf = PolicyShelf(tmp_path / "policies")
    assert shelf.active() is None
    assert shelf.find("mine") == policy


def test_activation_goes_through_the_gate_and_back(command: Any, tmp_path: Path) -> None:
    shelf = PolicyShelf(tmp_path / "policies")
    refused = command("refit", "--activate", "--confidence", "0.999999")
    if refused.exit_code == 0:  # it passed even so: then it is active
        assert shelf.active() is not None
        shelf.rollback()
    else:
        assert "not activated" in str(refused.exception)
        assert shelf.active() is None
    forced = command("refit", "--activate", "--force", "--name", "forced")
    assert forced.exit_code == 0, forced.output
    active = shelf.active()
    assert active is not None
    assert active.name == "forced"
    assert "rollback" in forced.output
    assert command("policy", "rollback").exit_code == 0
    assert shelf.active() is None


def test_force_says_what_it_overrides(tmp_path: Path) -> None:
    path, policies = tmp_path / "few.db", tmp_path / "policies"
    with TraceStore(path) as store:
        fill(store, 20, GOOD)
    options = ["refit", "--db", str(path), "--policies", str(policies), "--activate"]
    refused = CliRunner().invoke(cli, options)
    assert "too little to go by" in str(refused.exception)
    forced = CliRunner().invoke(cli, [*options, "--force"])
    assert forced.exit_code == 0
    assert "--force overrides the gate, which said: too little to go by" in forced.output
    assert "forced against" in PolicyShelf(policies).history()[-1].why


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--force"], "only overrides the gate"),
        (["--explore", "2"], "--explore"),
        (["--out", "no/such/folder/p.json"], "cannot be written"),
        (["--model", "nobody"], "of model 'nobody'"),
    ],
)
def test_wrong_options_are_refused(command: Any, arguments: list[str], message: str) -> None:
    done = command("refit", *arguments)
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)


def test_an_activated_policy_is_what_graphs_route_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recov_graph import create_recovery_graph

    monkeypatch.setenv("RECOV_GRAPH_POLICIES", str(tmp_path))
    never = default_policy().model_copy(
        update={"name": "never", "stop_below": 1.0, "posterior": None}
    )
    question = {"problem": {"prompt": "37+48*2*9*8*7?", "answer": -1}}
    before = create_recovery_graph("embedded", "numeric", seed=0).invoke(question)
    assert before["route"][0]["policy"] == default_policy().name
    PolicyShelf().activate(never, why="a test")
    after = create_recovery_graph("embedded", "numeric", seed=0).invoke(question)
    assert after["route"][0]["policy"] == "never"
    assert after["stop_reason"] == "out_of_reach"


def test_simulated_value_agrees_with_the_estimate(store: TraceStore) -> None:
    """What the gate says of a policy is what comes of it."""
    fill(store, 1500, GOOD, seed=5, attempts=2)
    log = logged_decisions(store, read_failures(store))
    verdict = judge_policy(Fixed("steer", 0.5), Fixed("mix", 0.1), log)
    truth = 1 - (1 - GOOD["steer"]) ** 2
    rates = [f.rescue_rate for f in verdict.figures if f.policy == "new"]
    assert np.allclose(rates, truth, atol=0.08)


def test_stopping_early_does_not_pass_as_thrift() -> None:
    bench = bench_of_tape(shipped_tape()[:120], "part of the shipped tape")
    timid = default_policy().model_copy(update={"stop_below": 0.6})
    verdict = judge_recorded(as_router(timid), as_router(default_policy()), bench)
    new, active = verdict.figures
    assert new.rescues_per_1000.point > active.rescues_per_1000.point
    assert not verdict.passed
    assert "it rescues less" in verdict.why


def test_decisions_that_were_never_carried_out_are_left_out(store: TraceStore) -> None:
    fill(store, 10, dict.fromkeys(NAMES, 0.0))
    before = len(logged_decisions(store, read_failures(store)))
    decision = store.query("SELECT * FROM decisions LIMIT 1")[0]
    store.write(decisions=[{**decision, "id": "never", "step": 9}])
    assert len(logged_decisions(store, read_failures(store))) == before


def test_a_problem_seen_often_is_judged_by_once(store: TraceStore) -> None:
    fill(store, 400, GOOD, attempts=2)
    store.write(
        problems=[{**row, "key": "the same"} for row in store.query("SELECT * FROM problems")]
    )
    verdict = refit(store, COLD).verdict
    assert not verdict.passed
    assert verdict.problems <= 1


def test_logs_cannot_judge_a_policy_that_measures_first(store: TraceStore) -> None:
    fill(store, 200, GOOD)
    verdict = refit(store, COLD, measure=True).verdict
    assert not verdict.passed
    assert "measuring every failure first" in verdict.why


def test_other_models_never_take_over(store: TraceStore) -> None:
    fill(store, 3000, dict.fromkeys(NAMES, 0.0), attempts=1)
    router = as_router(refit(store, COLD).policy)
    assert isinstance(router, PosteriorRouter)
    assert router.trust("another", "t") <= 0.2
    asked = Evidence("another", "t", None, 4, [], {"retry": 50, "dense_steer": 100}, 8, draw=1.0)
    assert router.decide(asked).operator is not None


def test_an_unknown_operator_has_a_chance() -> None:
    router = as_router(default_policy())
    asked = Evidence("embedded", "mixed", None, 4, [], {"hotter": 50}, 8, draw=1.0)
    assert router.decide(asked).operator == "hotter"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explore", "nan"], "not a number"),
        (["--confidence", "nan"], "not a number"),
        (["--name", ""], "must not be empty"),
    ],
)
def test_numbers_that_are_none_are_refused(
    command: Any, arguments: list[str], message: str
) -> None:
    done = command("refit", *arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_the_store_is_never_written_over(command: Any, tmp_path: Path) -> None:
    for target in (tmp_path / "traces.db", tmp_path / "policies" / "history.jsonl"):
        done = command("refit", "--out", str(target))
        assert done.exit_code == 2, done.output
    with TraceStore(tmp_path / "traces.db") as store:
        assert len(read_failures(store)) == 400
