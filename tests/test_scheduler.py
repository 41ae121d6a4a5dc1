"""One budget over many problems: never exceeded, spent where worth most, each problem once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.types import interrupt

from recov_graph import Budget, build_recovery_graph, create_recovery_graph
from recov_graph.batch import Batch, run_batch, summary
from recov_graph.cli.running import run
from recov_graph.errors import InvalidInputError
from recov_graph.interventions import Retry
from recov_graph.interventions.base import Attempt
from recov_graph.models import Capability
from recov_graph.models.embedded import bundled_problems
from recov_graph.problem import Problem
from recov_graph.routing import Candidate, Decision, Evidence, RuleRouter, default_policy
from recov_graph.scheduler import Pool, Scheduler, run_pooled
from recov_graph.store import TraceStore
from tests.searching import examples

pytestmark = pytest.mark.slow

SAMPLES = 4
Ended = list[tuple[Problem, dict[str, Any]]]


class Promising:
    """Always retries; what it promises is the problem's task, less with every failure."""

    name = "promising"
    content_hash = "0" * 16

    def __init__(self, *, fading: bool = True, operator: str = "retry", told: bool = True) -> None:
        self.fading, self.operator, self.told = fading, operator, told

    def wants_features(self, evidence: Evidence) -> bool:
        return False

    def decide(self, evidence: Evidence) -> Decision:
        rescue = float(evidence.task) / (1 + len(evidence.tried) * self.fading)
        listed = tuple(
            Candidate(name, None, rescue, evidence.costs.get(name, 1))
            for name in (self.operator, "retry")
        )
        candidates = listed if self.told else ()
        operator = self.operator if self.operator in evidence.costs else None
        return Decision(operator, "sampling", 1.0, rescue, candidates, "promised")


class Free(Retry):
    """Makes its attempt without a model."""

    name = "free"
    needs = frozenset({Capability.SAMPLE, Capability.SCORE})

    def expected_cost(self, lengths: Any) -> int:
        return 1

    def apply(self, failure: Any, model: Any) -> Attempt:
        return Attempt(failure.traces[0].rollout)


def problems(*promises: float, prompt: str = "one?") -> list[Problem]:
    return [
        Problem(id=f"p{place}", prompt=prompt, answer="never", task=str(promise))
        for place, promise in enumerate(promises)
    ]


def scheduler(model: Any, pool: Pool, verifier: Any = "exact", **options: Any) -> Scheduler:
    options = {"router": Promising(), "seed": 0, **options}
    each = getattr(options.get("budget"), "max_tokens", None)
    graph = build_recovery_graph(model, verifier, open_problems=1000, **options)
    return Scheduler(graph, SAMPLES, pool, max_tokens=each)


def spent(ended: Ended) -> tuple[int, int]:
    """Tokens and attempts of all."""
    usage = [output["usage"] for _, output in ended]
    return sum(u["tokens"] for u in usage), sum(u["attempts"] for u in usage)


def sampled(model: Any) -> list[str]:
    """The prompt of every single rollout after the first samples, in the order they were made."""
    calls = [call.arguments for call in model.calls if call.method == "sample"]
    return [arguments["prompt"] for arguments in calls if arguments["n"] == 1]


# --- what may be spent ---


@pytest.mark.parametrize("total", ["tokens", "attempts"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9", float("nan"), float("inf")])
def test_bad_totals_are_refused(total: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{total} is .*a whole number above 0, or None"):
        Pool(**{total: value})


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "1", None])
def test_a_bad_least_worth_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"least_worth is .*; it must be 0 or more"):
        Pool(100, 100, value)


ROUTERS = {
    "retry": lambda: Promising(),
    "without candidates": lambda: Promising(told=False),
    "dense": lambda: Promising(operator="dense_steer"),
    "sparse": lambda: Promising(operator="sparse_steer"),
    "local": lambda: Promising(operator="local_temp"),
    "free": lambda: Promising(operator="free"),
    "rule": RuleRouter,
    "shipped": lambda: None,
}


@given(
    tokens=st.none() | st.integers(1, 900),
    attempts=st.none() | st.integers(1, 30),
    lengths=st.lists(st.sampled_from([1, 2, 3, 30, 150]), min_size=1, max_size=6),
    router=st.sampled_from(sorted(ROUTERS)),
    each=st.none() | st.integers(1, 300),
    least_worth=st.sampled_from([0.0, 5.0]),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=examples(60))
def test_the_total_is_never_exceeded(
    scripted: Any,
    tokens: int | None,
    attempts: int | None,
    lengths: Sequence[int],
    router: str,
    each: int | None,
    least_worth: float,
    seed: int,
) -> None:
    model = scripted(chr(97 + place % 26) * n for place, n in enumerate(cycle(lengths)))
    given_problems = problems(0.9, 0.1, 0.5)
    ours = scheduler(
        model,
        Pool(tokens, attempts, least_worth),
        router=ROUTERS[router](),
        interventions=["retry", "sparse_steer", "local_temp", "dense_steer", Free()],
        budget=Budget(max_attempts=9, max_tokens=each),
        seed=seed,
    )
    ended = list(ours.run(given_problems))
    assert spent(ended) == (ours.tokens, ours.attempts)
    assert ours.tokens <= (tokens or float("inf"))
    assert ours.attempts <= (attempts or float("inf"))
    assert all(out["usage"]["tokens"] <= (each or float("inf")) for _, out in ended)
    assert all(out["usage"]["attempts"] <= 9 for _, out in ended)
    assert all(out["stop_reason"] in ("budget_exhausted", "out_of_reach") for _, out in ended)
    begun = [problem.id for problem, _ in ended]
    assert Counter([*begun, *(p.id for p in ours.not_reached)]) == Counter(["p0", "p1", "p2"])


def test_all_of_the_attempts_are_spent_where_none_helps(scripted: Any) -> None:
    ours = scheduler(scripted(last="0"), Pool(attempts=21))
    ended = list(ours.run(problems(0.5, 0.5, 0.5)))
    assert spent(ended)[1] == ours.attempts == 21
    assert {out["stop_reason"] for _, out in ended} == {"budget_exhausted"}


def test_all_but_less_than_a_call_of_the_tokens_is_spent(scripted: Any) -> None:
    ours = scheduler(scripted(last="0"), Pool(tokens=130))
    list(ours.run(problems(0.5, 0.5, 0.5)))
    retry = len("one?") + len("0") + 1
    assert 130 - retry < ours.tokens <= 130


def test_a_router_that_lists_no_candidates_is_held_to_the_total(scripted: Any) -> None:
    """Nothing says what its attempts cost, so nothing may be assumed of it."""
    texts = ["0"] * SAMPLES + ["0" * 150] * 9
    ours = scheduler(scripted(texts), Pool(tokens=100), router=Promising(told=False))
    list(ours.run(problems(0.5)))
    assert ours.tokens <= 100


def test_an_attempt_far_longer_than_expected_is_held_to_the_total(scripted: Any) -> None:
    texts = ["0"] * SAMPLES + ["0" * 150] * 9
    ours = scheduler(scripted(texts), Pool(tokens=100))
    ((_, out),) = ours.run(problems(0.5))
    assert out["attempts"][SAMPLES]["finish_reason"] == "length"
    assert ours.tokens <= 100


def test_the_limit_of_each_problem_holds_as_well(scripted: Any) -> None:
    ours = scheduler(scripted(last="0"), Pool(tokens=10_000), budget=Budget(100, max_tokens=50))
    ended = list(ours.run(problems(0.5, 0.5)))
    assert all(out["usage"]["tokens"] <= 50 for _, out in ended)
    assert ours.not_reached == []


def test_attempts_that_cost_nothing_are_counted_too(scripted: Any) -> None:
    free = {"router": Promising(operator="free"), "interventions": [Free()]}
    ours = scheduler(scripted(last="0"), Pool(attempts=3 * SAMPLES + 2), **free)
    ended = list(ours.run(problems(0.5, 0.5, 0.5)))
    assert spent(ended)[1] == 3 * SAMPLES + 2
    assert {out["stop_reason"] for _, out in ended} == {"budget_exhausted"}


# --- where it is spent ---


def test_the_attempt_worth_most_comes_first(scripted: Any) -> None:
    samples = ["0"] * 3 * SAMPLES
    ours = scheduler(scripted([*samples, *["never"] * 3]), Pool(tokens=10_000))
    ended = list(ours.run(problems(0.1, 0.5, 0.3)))
    assert [problem.id for problem, _ in ended] == ["p1", "p2", "p0"]
    assert all(out["solved"] for _, out in ended)


def test_a_failure_makes_room_for_another_problem(scripted: Any) -> None:
    model = scripted(last="0")
    given_problems = [
        Problem(id=prompt, prompt=prompt, answer="never", task=task)
        for prompt, task in (("a?", "0.8"), ("b?", "0.5"))
    ]
    list(scheduler(model, Pool(attempts=2 * SAMPLES + 6)).run(given_problems))
    # worth falls as 0.8, 0.4, 0.27, 0.2 and as 0.5, 0.25
    assert sampled(model) == ["a?", "b?", "a?", "a?", "b?", "a?"]


def test_of_two_equal_chances_the_cheaper_comes_first(scripted: Any) -> None:
    model = scripted(last="0")
    given_problems = [
        Problem(id=prompt, prompt=prompt, answer="never", task="0.5")
        for prompt in ("a long question?", "short?")
    ]
    list(scheduler(model, Pool(attempts=2 * SAMPLES + 1)).run(given_problems))
    assert sampled(model) == ["short?"]


def test_what_must_be_measured_first_is_part_of_the_price(scripted: Any) -> None:
    class Mixed(Promising):
        def decide(self, evidence: Evidence) -> Decision:
            self.operator = "retry" if evidence.task == "0.5" else "sparse_steer"
            return super().decide(evidence)

    model = scripted(last="0")
    # As dear to try, but for what sparse_steer has to measure.
    ours = scheduler(model, Pool(attempts=2 * SAMPLES + 1), router=Mixed())
    by_id = {problem.id: out for problem, out in ours.run(problems(0.6, 0.5))}
    assert by_id["p0"]["route"][0]["once"]["sparse_steer"] > 0
    assert {name: len(out["attempts"]) for name, out in by_id.items()} == {"p0": 4, "p1": 5}


@pytest.mark.parametrize(("least", "tried"), [(0.0, ["0", "1"]), (60.0, ["1"]), (90.0, [])])
def test_what_is_worth_too_little_is_not_tried(
    scripted: Any, least: float, tried: list[str]
) -> None:
    cost = len("one?") + len("0") + 1
    ours = scheduler(
        scripted(last="0"), Pool(attempts=100, least_worth=least), budget=Budget(SAMPLES + 1)
    )
    # What is promised for 1,000 tokens: 50 and 80 rescues.
    ended = list(ours.run(problems(0.05 * cost, 0.08 * cost)))
    assert sorted(p.id[1:] for p, out in ended if len(out["attempts"]) > SAMPLES) == tried
    assert {out["stop_reason"] for _, out in ended} == {"budget_exhausted"}


# --- results ---


def test_results_come_as_problems_end(scripted: Any) -> None:
    texts = ["never", *["0"] * (4 * SAMPLES - 1), "never", "0", "0"]
    model = scripted(texts, last="0")
    results = scheduler(model, Pool(attempts=4 * SAMPLES + 3)).run(problems(0.9, 0.1, 0.5, 0.2))
    assert isinstance(results, Iterator)
    assert model.calls == []
    problem, out = next(results)
    assert (problem.id, out["solved"], len(model.calls)) == ("p0", True, 1)
    problem, out = next(results)
    assert (problem.id, out["solved"], len(model.calls)) == ("p2", True, 5)
    rest = list(results)
    assert [problem.id for problem, _ in rest] == ["p1", "p3"]
    assert len(model.calls) == 7


def test_the_progress_is_told_with_every_result(scripted: Any) -> None:
    model, told = scripted(last="never"), []
    graph = build_recovery_graph(model, "exact", seed=0)
    pool = Pool(attempts=3 * SAMPLES)

    def on_result(batch: Batch) -> None:
        told.append((len(batch.results), len(model.calls)))

    batch = run_pooled(graph, problems(0.1, 0.1, 0.1, 0.1), SAMPLES, pool, on_result)
    assert told == [(1, 1), (2, 2), (3, 3)]
    assert (len(batch.results), batch.not_reached) == (3, 1)
    assert summary(batch)["not_reached"] == 1
    assert batch.seconds > 0


def test_problems_that_are_not_begun_are_counted(scripted: Any, store: TraceStore) -> None:
    ours = scheduler(scripted(last="0"), Pool(attempts=2 * SAMPLES + 3), store=store)
    ended = list(ours.run(problems(*[0.5] * 5)))
    assert sorted(problem.id for problem, _ in ended) == ["p0", "p1"]
    assert [problem.id for problem in ours.not_reached] == ["p2", "p3", "p4"]
    assert [row["key"] for row in store.query("SELECT key FROM problems")] == ["p0", "p1"]


def test_none_is_begun_with_less_than_the_samples(scripted: Any) -> None:
    model = scripted(last="0")
    ours = scheduler(model, Pool(attempts=SAMPLES - 1))
    assert list(ours.run(problems(0.5, 0.5))) == []
    assert len(ours.not_reached) == 2
    assert model.calls == []


def test_one_whose_samples_are_refused_is_the_last_to_be_begun(
    scripted: Any, store: TraceStore
) -> None:
    first = len("one?") + SAMPLES * len("0\n")
    ours = scheduler(scripted(last="0"), Pool(tokens=first + 5), store=store)
    ended = list(ours.run(problems(0.5, 0.5, 0.5, 0.5)))
    attempts = {problem.id: len(out["attempts"]) for problem, out in ended}
    assert attempts == {"p0": SAMPLES, "p1": 0}
    assert [problem.id for problem in ours.not_reached] == ["p2", "p3"]
    assert len(store.query("SELECT id FROM outcomes")) == 2


def test_a_problem_refused_by_its_own_limit_does_not_stop_the_others(scripted: Any) -> None:
    ours = scheduler(scripted(last="0"), Pool(tokens=1000), budget=Budget(max_tokens=9))
    given_problems = [*problems(0.5, prompt="a long question?"), *problems(0.5)]
    ended = list(
        ours.run([p.model_copy(update={"id": str(i)}) for i, p in enumerate(given_problems)])
    )
    assert [len(out["attempts"]) for _, out in ended] == [0, 4]
    assert ours.not_reached == []


def test_a_model_that_breaks_for_one_problem_leaves_the_others(scripted: Any) -> None:
    texts = [ConnectionError("down"), *["0"] * SAMPLES, "never"]
    ours = scheduler(scripted(texts), Pool(tokens=1000))
    ended = {problem.id: out for problem, out in ours.run(problems(0.5, 0.5))}
    assert [ended[name]["stop_reason"] for name in ("p0", "p1")] == ["model_error", "solved"]


def test_what_is_unfinished_ends_with_its_best_attempt(scripted: Any, store: TraceStore) -> None:
    def closeness(problem: Problem, text: str) -> float:
        return {"near": 0.9}.get(text, 0.1)

    texts = ["0", "near", "0", "0", *["0"] * SAMPLES]
    ours = scheduler(
        scripted(texts, last="0"), Pool(attempts=2 * SAMPLES + 1), closeness, store=store
    )
    first, second = sorted(ours.run(problems(0.1, 0.9)), key=lambda item: item[0].id)
    for _, out in (first, second):
        assert (out["stop_reason"], out["solved"], out["error"]) == (
            "budget_exhausted",
            False,
            None,
        )
    assert (first[1]["answer"], first[1]["best"]["position"]) == ("near", 1)
    # What it waited for was decided, but never done.
    assert [d["operator"] for d in first[1]["route"]] == ["retry"]
    assert len(first[1]["attempts"]) == SAMPLES
    rows = store.query(
        "SELECT key, best_rollout, stop_reason FROM outcomes JOIN problems USING (id)"
    )
    assert {row["key"]: row["best_rollout"] for row in rows} == {
        problem.id: out["best"]["id"] for problem, out in (first, second)
    }


def test_who_asks_a_person_is_refused(scripted: Any) -> None:
    def ask(problem: Problem, text: str) -> bool:
        return bool(interrupt("is it right?"))

    ours = scheduler(scripted(last="0"), Pool(attempts=20), ask)
    with pytest.raises(InvalidInputError, match="problem 'p0' waits for an answer"):
        list(ours.run(problems(0.5)))


CHOSEN = list(bundled_problems()[:12])


@lru_cache
def alone() -> set[tuple[Any, ...]]:
    """What comes of the problems one by one."""
    graph = create_recovery_graph("embedded", "numeric", seed=0, router=default_policy())
    return {outcome(*result) for result in run_batch(graph, CHOSEN).results}


def outcome(problem: Problem, output: dict[str, Any]) -> tuple[Any, ...]:
    """All that came of a problem, but for ids and times."""
    attempts = [(a["operator"], a["text"], a["seed"], a["spent"]) for a in output["attempts"]]
    route = [{name: d[name] for name in d if name not in ("id", "policy")} for d in output["route"]]
    kept = ("solved", "answer", "regime", "stop_reason", "features", "error")
    told = [output[name] for name in kept]
    return problem.id, json.dumps([told, attempts, route, output["usage"]["tokens"]])


@pytest.mark.parametrize("pool", [Pool(), Pool(10**9), Pool(None, 10**6), Pool(10**9, 10**6)])
def test_without_an_effective_limit_it_is_as_if_each_ran_alone(pool: Pool) -> None:
    graph = build_recovery_graph("embedded", "numeric", seed=0, router=default_policy())
    together = run_pooled(graph, CHOSEN, SAMPLES, pool)
    assert {outcome(*result) for result in together.results} == alone()
    assert together.not_reached == 0
    assert sum(len(out["route"]) for _, out in together.results) > 10


def test_everything_is_in_the_store_once(store: TraceStore) -> None:
    chosen = list(bundled_problems()[:20])
    graph = build_recovery_graph(
        "embedded", "numeric", seed=0, router=default_policy(), store=store, kind="run"
    )
    batch = run_pooled(graph, chosen, SAMPLES, Pool(attempts=20 * SAMPLES + 15))
    assert len(batch.results) == 20
    outputs = [out for _, out in batch.results]
    assert len({out["stop_reason"] for out in outputs}) > 1
    run_row = store.run()
    assert run_row is not None
    rows = {row["key"]: row for row in store.run_problems(run_row["id"])}
    assert len(store.query("SELECT id FROM runs")) == 1
    for problem, out in batch.results:
        row = rows.pop(problem.id)
        assert (row["solved"], row["stop_reason"]) == (int(out["solved"]), out["stop_reason"])
        assert (row["tokens"], row["attempts"]) == (
            out["usage"]["tokens"],
            out["usage"]["attempts"],
        )
        texts = [a["text"] for a in store.problem_attempts(row["id"])]
        assert texts == [a["text"] for a in out["attempts"]]
        reasons = [d["reason"] for d in store.problem_decisions(row["id"])]
        assert reasons == [d["reason"] for d in out["route"]]
    assert rows == {}
    attempts = [attempt for out in outputs for attempt in out["attempts"]]
    counts = {
        "outcomes": len(outputs),
        "rollouts": len(attempts),
        "verdicts": len(attempts),
        "decisions": sum(len(out["route"]) for out in outputs),
        "interventions": sum(attempt["operator"] != "sample" for attempt in attempts),
    }
    for table, count in counts.items():
        assert len(store.query(f"SELECT id FROM {table}")) == count, table
    spent_in_calls = store.query(
        "SELECT sum(prompt_tokens + completion_tokens + scored_tokens) AS n FROM calls"
    )
    assert spent_in_calls[0]["n"] == sum(out["usage"]["tokens"] for out in outputs)


# --- the command ---


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "problems.jsonl"
    rows = [{"prompt": f"{n}+{n}?", "answer": 7777, "id": f"p{n}"} for n in range(1, 6)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def command(file: Path, *options: Any) -> Result:
    db = file.with_name("traces.db")
    given_options = ["--verifier", "numeric", "--no-baseline", "--db", db, *options]
    return CliRunner().invoke(run, [str(file), *map(str, given_options)])


def figures(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_the_command_keeps_to_its_totals(file: Path) -> None:
    found = figures(command(file, "--total-tokens", 500, "--json", "-"))
    assert 0 < found["tokens"] <= 500
    assert found["problems"] + found["not_reached"] == 5
    assert found["budget_exhausted"] > 0
    with TraceStore(file.with_name("traces.db")) as store:
        (row,) = store.query(
            "SELECT sum(prompt_tokens + completion_tokens + scored_tokens) AS n FROM calls"
        )
    assert row["n"] == found["tokens"]


def test_the_command_counts_attempts_of_all(file: Path) -> None:
    options = ("--total-attempts", 13, "--total-tokens", 10**6, "--json", "-")
    found = figures(command(file, *options))
    assert (found["problems"], found["not_reached"]) == (3, 2)
    assert sum(row["attempts"] for row in found["by_intervention"].values()) == 1


def test_the_command_says_what_was_not_begun(file: Path) -> None:
    done = command(file, "--total-attempts", 3)
    assert done.exit_code == 0, done.output
    assert "5 were not begun: the budget was spent." in " ".join(done.output.split())
    fewer = figures(command(file, "--total-attempts", 3, "--max-attempts", 3, "--json", "-"))
    assert (fewer["problems"], fewer["not_reached"]) == (1, 4)


def test_the_limits_of_each_problem_hold_in_the_command(file: Path) -> None:
    command(file, "--total-tokens", 10**6, "--max-tokens", 150, "--max-attempts", 6)
    with TraceStore(file.with_name("traces.db")) as store:
        run_row = store.run()
        assert run_row is not None
        rows = store.run_problems(run_row["id"])
    assert len(rows) == 5
    assert all(row["tokens"] <= 150 and row["attempts"] <= 6 for row in rows)


def test_the_command_tries_nothing_that_is_worth_too_little(file: Path) -> None:
    options = ("--total-tokens", 10**6, "--least-worth", 1000, "--json", "-")
    found = figures(command(file, *options))
    assert found["by_intervention"] == {}
    assert found["problems"] == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--total-tokens", 0), "tokens is 0"),
        (("--total-attempts", -4), "attempts is -4"),
        (("--total-tokens", 9, "--least-worth", "nan"), "least_worth is nan"),
        (("--total-tokens", 9, "--least-worth", -1), "least_worth is -1"),
    ],
)
def test_the_command_refuses_bad_totals(file: Path, options: Any, words: str) -> None:
    done = command(file, *options)
    assert isinstance(done.exception, InvalidInputError)
    assert words in str(done.exception)
    assert not file.with_name("traces.db").exists()


@pytest.mark.parametrize(
    "options", [("--total-tokens", "1.5"), ("--total-attempts", "many"), ("--least-worth", 1)]
)
def test_the_command_explains_options_that_do_not_fit(file: Path, options: Any) -> None:
    done = command(file, *options)
    assert done.exit_code == 2
    assert options[0] in done.output
