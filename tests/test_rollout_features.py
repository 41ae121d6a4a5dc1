"""Features of black-box models: what their failed samples tell, stored, learned and routed by."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from recov_graph import Budget
from recov_graph.cli import cli
from recov_graph.errors import InvalidInputError, PolicyError
from recov_graph.evaluate.bench import bench_of_tape
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.graph import create_recovery_graph
from recov_graph.interventions import Attempt
from recov_graph.models import Capability
from recov_graph.problem import Problem
from recov_graph.record import Settings, record
from recov_graph.refit import refit
from recov_graph.rollout_features import (
    ROLLOUT_FEATURE_VERSION,
    ROLLOUT_FEATURES,
    FailedSample,
    RolloutFeatures,
    features_from,
    rollout_features,
)
from recov_graph.routing import (
    Decision,
    Evidence,
    PosteriorRouter,
    RuleRouter,
    as_router,
    default_policy,
    load_policy,
)
from recov_graph.routing.belief import Believer
from recov_graph.routing.outcomes import Outcomes, cell_moments, z_scores
from recov_graph.routing.policy import NO_ROLLOUTS, Moments, Policy, RolloutPart
from recov_graph.routing.posterior import fit_posterior
from recov_graph.store import TraceStore
from recov_graph.stored import logged_decisions, read_failures
from recov_graph.tape import read_tape, shipped_tape

BLACK_BOX = (Capability.SAMPLE, Capability.TEMPERATURE, Capability.INSTRUCT)
SAMPLE = st.builds(
    FailedSample,
    st.sampled_from(["", " \n", "7", "8", " 7 "]) | st.text(),
    st.sampled_from(["stop", "length"]),
    st.integers(0, 10**6),
)
SAMPLES = st.lists(SAMPLE, min_size=1, max_size=9)


class Another:
    """A fresh sample by another name."""

    needs = frozenset({Capability.SAMPLE})

    def __init__(self, name: str) -> None:
        self.name = name

    def expected_cost(self, lengths: Any) -> int:
        return int(lengths.prompt + lengths.completion)

    def apply(self, failure: Any, model: Any) -> Attempt:
        made = model.sample(
            failure.problem.prompt,
            temperature=failure.temperature,
            max_tokens=failure.max_tokens,
            seed=failure.seed,
        )
        return Attempt(made.rollouts[0], {})


OPERATORS = ("retry", "temp_lift", "replan", "extend")
INTERVENTIONS = ["retry", *map(Another, OPERATORS[1:])]


def told(**changes: float) -> RolloutFeatures:
    """Four samples that failed like those of the shipped population."""
    return RolloutFeatures(1.0, 0.5, 0.0, 1.5)._replace(**changes)


def part(**changes: Any) -> RolloutPart:
    """Forty failures of one cell: every feature 0.5 with a standard deviation of 0.25."""
    moments = {name: Moments(mean=0.5, sd=0.25, count=40) for name in ROLLOUT_FEATURES}
    return RolloutPart(**{"population": moments, "cells": {"m|t": moments}, **changes})


def cold(**changes: Any) -> Policy:
    """The shipped policy without a posterior, and without what it knows of `extend`."""
    shipped = default_policy()
    rescue = {name: rates for name, rates in shipped.rescue.items() if name != "extend"}
    given_ = {"posterior": None, "rollout": part(), "rescue": rescue, **changes}
    return shipped.model_copy(update=given_)


def evidence(features: Any = None, **changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "model": "m",
        "task": "t",
        "features": told() if features is None else features,
        "failed_samples": 4,
        "tried": (),
        "costs": {"retry": 500, "temp_lift": 500, "replan": 540, "extend": 800},
        "attempts_left": 8,
        "draw": 1.0,
    }
    return Evidence(**{**fields, **changes})


def path_of(router: Any, asked: Evidence) -> list[str]:
    """What is tried while everything fails."""
    tried: list[str] = []
    while asked.attempts_left:
        operator = router.decide(asked).operator
        if operator is None:
            break
        tried.append(operator)
        asked = replace(asked, tried=tuple(tried), attempts_left=asked.attempts_left - 1)
    return tried


# The numbers


def test_the_numbers_by_hand() -> None:
    failed = [
        FailedSample("7", "stop", 10),
        FailedSample(" 7\n", "length", 20),
        FailedSample("8", "stop", 30),
        FailedSample(" ", "length", 340),
    ]
    assert rollout_features(failed, 5) == (0.8, 0.5, 0.5, 2.0)


@given(failed=SAMPLES, others=st.integers(0, 5))
def test_every_feature_is_in_its_range(failed: list[FailedSample], others: int) -> None:
    found = rollout_features(failed, len(failed) + others)
    assert 0 < found.failed_share <= 1
    assert (found.failed_share == 1) == (others == 0)
    assert 0 <= found.agreement <= 1
    assert 0 <= found.truncated <= 1
    assert 0 <= found.length <= 6
    answered = [sample for sample in failed if sample.answer.strip()]
    assert (found.agreement > 0) == bool(answered)
    assert all(type(value) is float for value in found)


@given(failed=SAMPLES, order=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(failed: list[FailedSample], order: Any) -> None:
    shuffled = failed.copy()
    order.shuffle(shuffled)
    assert rollout_features(shuffled, 9) == pytest.approx(rollout_features(failed, 9))


@given(failed=SAMPLES)
def test_saying_everything_twice_changes_nothing(failed: list[FailedSample]) -> None:
    once, twice = rollout_features(failed, 9), rollout_features(failed * 2, 18)
    assert twice == pytest.approx(once)


@given(n=st.integers(1, 9), answer=st.text().filter(str.strip), tokens=st.integers(1, 10**6))
def test_samples_that_agree_agree_wholly(n: int, answer: str, tokens: int) -> None:
    found = rollout_features([FailedSample(answer, "stop", tokens)] * n, n)
    assert found == pytest.approx((1.0, 1.0, 0.0, math.log10(tokens)))


@pytest.mark.parametrize("tokens", [0, 1])
def test_empty_samples_agree_with_nobody_and_count_as_one_token(tokens: int) -> None:
    assert rollout_features([FailedSample("", "stop", tokens)] * 4, 4) == (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("failed", "samples", "fragment"),
    [
        ([], 4, "0 of 4 samples failed"),
        ([FailedSample("7", "stop", 3)] * 2, 1, "2 of 1 samples failed"),
        ([FailedSample("7", "stop", -1)], 1, "tokens is -1"),
    ],
)
def test_what_cannot_be_is_refused(failed: Any, samples: int, fragment: str) -> None:
    with pytest.raises(InvalidInputError, match=fragment):
        rollout_features(failed, samples)


@pytest.mark.parametrize("features", [told(), ProblemFeatures(0.5, 1.0, -2.0)])
def test_names_tell_the_set(features: Any) -> None:
    data = json.loads(json.dumps(features._asdict()))
    assert features_from(data) == features
    assert type(features_from(data)) is type(features)


@pytest.mark.parametrize(
    "keys", [(), ("spread",), ROLLOUT_FEATURES[:3], FEATURES + ROLLOUT_FEATURES]
)
def test_names_of_no_set_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match=r"all of spread, .*, or all of failed_share, "):
        features_from(dict.fromkeys(keys, 0.5))


# The policy


def test_the_shipped_policy_is_the_one_before_with_a_section_more(tmp_path: Path) -> None:
    shipped = default_policy()
    assert shipped.rollout is not None
    assert shipped.rollout.rule == {"truncated": "extend", "agreement": "replan"}
    counts = {one.count for one in shipped.rollout.population.values()}
    assert counts == {len(shipped_tape())}
    without = shipped.model_copy(update={"rollout": None})
    without.save(tmp_path / "p.json")
    assert "rollout" not in json.loads((tmp_path / "p.json").read_text())
    assert load_policy(tmp_path / "p.json") == without


def test_what_was_learned_is_what_it_was_where_no_failure_has_any() -> None:
    """The shipped posterior, fitted before there were rollout features, to the last digit."""
    outcomes = bench_of_tape(shipped_tape(), "the tape").outcomes
    assert np.isnan(outcomes.rollout).all()
    for base in (default_policy(), default_policy().model_copy(update={"rollout": None})):
        assert fit_posterior(outcomes, base, explore=0.05) == default_policy().posterior


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"population": {}}, "population has []"),
        ({"cells": {"m|t": cold().model_dump()["population"]}}, "m|t has ['concentration'"),
        ({"rule": {"spread": "replan"}}, "rule names ['spread']"),
        ({"feature_version": ROLLOUT_FEATURE_VERSION + 1}, "made for rollout feature version 2"),
        ({"extra": 1}, "unknown field 'rollout.extra'"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused(
    tmp_path: Path, change: dict[str, Any], fragment: str
) -> None:
    path = tmp_path / "policy.json"
    cold().save(path)
    data = json.loads(path.read_text())
    data["rollout"] |= change
    path.write_text(json.dumps(data))
    with pytest.raises(PolicyError) as refused:
        load_policy(path)
    assert fragment in str(refused.value)


def test_a_section_survives_its_file_and_changes_the_hash(tmp_path: Path) -> None:
    cold().save(tmp_path / "p.json")
    assert load_policy(tmp_path / "p.json") == cold()
    hashes = {cold(rollout=one).content_hash for one in (None, part(), part(rule={}))}
    assert len(hashes) == 3


# The rule


def test_the_rule_names_the_feature_that_stands_out() -> None:
    decision = RuleRouter(cold()).decide(evidence(told(truncated=1.0, agreement=0.75)))
    assert decision.operator == "extend"
    assert decision.reason == "truncated is 2.0 sd above 40 stored failures of this cell: extend"
    assert decision.regime == "steerable_hard"
    assert [c.operator for c in decision.candidates][:2] == ["extend", "replan"]


@pytest.mark.parametrize("section", [None, part(rule={}), NO_ROLLOUTS])
def test_without_a_population_nothing_stands_out(section: RolloutPart | None) -> None:
    decision = RuleRouter(cold(rollout=section)).decide(evidence(told(truncated=1.0)))
    assert decision.reason.startswith("no feature stands out: retry")
    assert decision.regime == "sampling"


def test_the_sets_are_never_compared() -> None:
    """What tokens tell is judged by one population, what samples tell by the other."""
    far = {name: Moments(mean=1e6, sd=1.0, count=40) for name in ROLLOUT_FEATURES}
    tokens = evidence(ProblemFeatures(9.0, 1.0, -2.0), costs={"retry": 1, "dense_steer": 1})
    router = RuleRouter(cold(rollout=part(population=far, cells={"m|t": far})))
    assert router.decide(tokens) == RuleRouter(cold(rollout=None)).decide(tokens)
    assert "no feature" in router.decide(evidence()).reason


def test_a_share_that_never_varied_stands_out_where_it_does() -> None:
    still = {name: Moments(mean=0.0, sd=0.0, count=99) for name in ROLLOUT_FEATURES}
    router = RuleRouter(cold(rollout=part(population=still, cells={})))
    cut = router.decide(evidence(told(truncated=1.0, agreement=0.0)))
    assert cut.operator == "extend"
    assert cut.reason.startswith("truncated is 10.1 sd above 99 stored failures of other cells")
    assert router.decide(evidence(told(truncated=0.0, agreement=0.0))).operator == "retry"


def test_rates_of_operators_that_are_impossible_here_say_nothing() -> None:
    """What nobody measured counts as the worst that was, of what may be chosen."""
    decision = RuleRouter(cold()).decide(evidence(told(truncated=0.0, agreement=0.0)))
    expected = {c.operator: c.expected_rescue for c in decision.candidates}
    assert set(expected.values()) == {cold().rescue["retry"].after(0)}
    alone = RuleRouter(cold()).decide(evidence(costs={"temp_lift": 500}))
    assert alone.expected_rescue == min(rescue.after(0) for rescue in cold().rescue.values())


@pytest.mark.parametrize("router", [as_router(None), RuleRouter()])
@pytest.mark.parametrize(
    ("features", "first"),
    [
        (told(truncated=1.0, agreement=0.25), "extend"),
        (told(agreement=1.0), "replan"),
        (told(agreement=0.25), "retry"),
    ],
)
def test_a_cold_start_takes_turns(router: Any, features: RolloutFeatures, first: str) -> None:
    costs = {"retry": 1100, "temp_lift": 1100, "replan": 1146, "extend": 1900}
    if not features.truncated:
        del costs["extend"]
    tried = path_of(router, evidence(features, model="gpt", costs=costs))
    assert tried[0] == first
    assert {"retry", "temp_lift", "replan"} <= set(tried)
    # Of `extend` it is known how often it helps where a sample was cut: it may follow itself.
    assert all(a != b or a == "extend" for a, b in pairwise(tried))


# What is learned


def outcomes_of(n: int = 400, *, black_box: float = 1.0, seed: int = 0) -> Outcomes:
    """Failures of which agreement, or spread, tells how hard they are."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    dark = rng.random(n) < black_box
    values = np.column_stack([np.ones(n), hard, rng.random(n), 1 + rng.random(n)])
    tokens = np.column_stack([hard, rng.random(n), rng.random(n)])
    attempts = np.full((n, 2), 8.0)
    return Outcomes(
        operators=("retry", "replan"),
        cells=("b|t", "w|t"),
        cell=np.where(dark, 0, 1),
        features=np.where(dark[:, None], np.nan, tokens),
        failed_samples=np.full(n, 4.0),
        passed=rng.binomial(8, 0.6 * (1 - hard[:, None]), (n, 2)).astype(float),
        attempts=attempts,
        rollout=np.where(dark[:, None], values, np.nan),
    )


def learned(outcomes: Outcomes) -> Policy:
    population, cells = cell_moments(outcomes)
    dark, dark_cells = cell_moments(outcomes, ROLLOUT_FEATURES)
    base = cold(population=population, cells=cells)
    base = base.model_copy(update={"rollout": part(population=dark, cells=dark_cells)})
    return base.model_copy(update={"posterior": fit_posterior(outcomes, base, max_types=32)})


@pytest.mark.parametrize("black_box", [1.0, 0.5])
def test_features_of_samples_tell_how_hard_a_failure_is(black_box: float) -> None:
    policy = learned(outcomes_of(black_box=black_box))
    assert policy.posterior is not None
    coefficients = policy.posterior.covariates.coefficients
    assert {*FEATURES, *ROLLOUT_FEATURES} <= coefficients.keys()
    assert coefficients["agreement"] < -0.3
    assert max(abs(coefficients[name]) for name in ("truncated", "length")) < 0.2
    router = PosteriorRouter(policy, explore=0.0)
    easy, hard = (
        router.chance(evidence(told(agreement=a), model="b", costs={"retry": 9, "replan": 9}))
        for a in (0.0, 1.0)
    )
    assert easy > hard + 0.1


def test_only_what_nothing_is_known_of_is_widened() -> None:
    policy = learned(outcomes_of(black_box=0.5))
    assert policy.posterior is not None
    assert policy.posterior.covariates.spread > 0
    believer = Believer(policy)
    narrow = policy.posterior.model_copy(
        update={"covariates": policy.posterior.covariates.model_copy(update={"spread": 0.0})}
    )
    unwidened = Believer(policy.model_copy(update={"posterior": narrow}))
    nothing, some = np.full((1, 3), np.nan), np.array([[1.0, 0.5, 0.5, 1.5]])

    def differ(features: Any, rollout: Any) -> bool:
        asked = (["b|t"], np.zeros(1, np.int64), features, np.array([4.0]), rollout)
        first = [one.first(*asked).informed for one in (believer, unwidened)]
        return not np.array_equal(*first)

    assert differ(nothing, np.full((1, 4), np.nan))
    assert differ(nothing, None)
    assert not differ(nothing, some)
    assert not differ(np.array([[0.5, 0.5, 0.5]]), np.full((1, 4), np.nan))


def test_a_problem_has_features_of_one_set() -> None:
    outcomes = outcomes_of(4)
    with pytest.raises(InvalidInputError, match="never both"):
        replace(outcomes, features=np.zeros((4, 3)))
    with pytest.raises(InvalidInputError, match=r"rollout has shape \(4, 3\)"):
        replace(outcomes, rollout=np.zeros((4, 3)))


def test_outcomes_need_not_say_anything_of_them() -> None:
    mixed = outcomes_of(40, black_box=0.5)
    fields = {name: getattr(mixed, name) for name in mixed.__dataclass_fields__}
    del fields["rollout"]
    assert np.isnan(Outcomes(**fields).rollout).all()
    kept = mixed.take(np.arange(0, 40, 3))
    np.testing.assert_array_equal(kept.rollout, mixed.rollout[::3])


@given(
    values=st.lists(st.tuples(*[st.floats(0, 1)] * 3, st.floats(0, 6)), min_size=1, max_size=9),
)
def test_scores_of_the_second_set_are_finite(values: list[tuple[float, ...]]) -> None:
    features = np.array([*values, (math.nan,) * 4])
    cell = np.zeros(len(features), np.int64)
    for policy in (cold(), cold(rollout=None), default_policy()):
        z = z_scores(policy, ["m|t"], cell, features, ROLLOUT_FEATURES)
        assert z.shape == features.shape
        assert np.isfinite(z).all()
        assert not z[-1].any()


# The graph


class Chooses:
    """A router that takes turns, and keeps what it was asked."""

    name = "turns"
    content_hash = "0"

    def __init__(self) -> None:
        self.asked: list[Evidence] = []

    def decide(self, asked: Evidence) -> Decision:
        self.asked.append(asked)
        names = list(asked.costs)
        chosen = names[len(asked.tried) % len(names)]
        return Decision(chosen, "sampling", 1.0 / len(names), 0.5, (), "")


PROBLEM = {"prompt": "1+1?", "answer": 2, "id": "p", "task": "t"}
FAILS = ["A:3", "A:3", "A:4", "no idea"]


def run(store: Any, model: Any, **options: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result of one problem, and the custom events."""
    options = {"budget": Budget(max_attempts=6), "interventions": INTERVENTIONS, **options}
    graph = create_recovery_graph(model, "numeric", store=store, seed=0, **options)
    events: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for mode, item in graph.stream({"problem": PROBLEM}, stream_mode=["custom", "values"]):
        if mode == "custom":
            events.append(item)
        else:
            result = item
    return result, events


def test_a_black_box_is_featurized_once_and_at_no_cost(scripted: Any, store: TraceStore) -> None:
    model, router = scripted([*FAILS, "A:5", "A:6"], capabilities=BLACK_BOX, name="m"), Chooses()
    result, events = run(store, model, router=router)
    expected = rollout_features(
        [FailedSample(text, "stop", len(text) + 1) for text in ("3", "3", "4")]
        + [FailedSample("no idea", "stop", 8)],
        4,
    )._replace(length=math.log10((4 + 4 + 4 + 8) / 4))
    assert features_from(result["features"]) == pytest.approx(expected)
    assert [e["features"] for e in events if e["type"] == "features"] == [result["features"]]
    kinds = [event["type"] for event in events]
    assert kinds == ["attempt"] * 4 + ["features"] + ["decision", "attempt"] * 2 + ["finished"]
    assert {call.method for call in model.calls} == {"sample"}
    assert len(model.calls) == 3
    assert [asked.features for asked in router.asked] == [features_from(result["features"])] * 2
    (row,) = store.query("SELECT * FROM rollout_features")
    assert row.pop("feature_version") == ROLLOUT_FEATURE_VERSION
    assert row.pop("id") == store.query("SELECT id FROM problems")[0]["id"]
    assert row == result["features"]
    assert store.query("SELECT * FROM features") == []
    assert [r["measured"] for r in store.query("SELECT measured FROM decisions")] == [1, 1]


def test_samples_that_cannot_be_judged_count_as_samples(scripted: Any) -> None:
    def judge(problem: Problem, text: str) -> bool:
        if text == "?":
            raise ValueError("cannot tell")
        return False

    model = scripted(["?", "x", "x", "y"], last="z", capabilities=BLACK_BOX)
    graph = create_recovery_graph(model, judge, budget=Budget(max_attempts=5), seed=0)
    features = graph.invoke({"problem": PROBLEM})["features"]
    assert features["failed_share"] == 0.75
    assert features["agreement"] == pytest.approx(2 / 3)


def test_what_was_cut_is_counted(scripted: Any) -> None:
    model = scripted(last="A:123456789", capabilities=BLACK_BOX)
    features = run(None, model, max_new_tokens=5)[0]["features"]
    assert (features["truncated"], features["agreement"]) == (1.0, 1.0)
    assert features["length"] == pytest.approx(math.log10(5))


def test_a_model_that_scores_is_not_told_by_its_samples(scripted: Any, store: TraceStore) -> None:
    result, events = run(store, scripted(last="A:3"), router=Chooses())
    assert set(result["features"]) == set(FEATURES)
    assert store.query("SELECT * FROM rollout_features") == []
    assert [e["features"] for e in events if e["type"] == "features"] == [result["features"]]


def test_a_solved_problem_has_no_features(scripted: Any, store: TraceStore) -> None:
    result, events = run(store, scripted(last="A:2", capabilities=BLACK_BOX))
    assert result["features"] is None
    assert "features" not in {event["type"] for event in events}
    assert store.query("SELECT * FROM rollout_features") == []


@pytest.mark.parametrize("store_text", ["full", "hash", "none"])
def test_numbers_are_kept_whatever_becomes_of_the_text(
    scripted: Any, tmp_path: Path, store_text: Any
) -> None:
    with TraceStore(tmp_path / "t.db", store_text=store_text) as store:
        result, _ = run(store, scripted(last="A:3", capabilities=BLACK_BOX))
        (row,) = store.query(f"SELECT {', '.join(ROLLOUT_FEATURES)} FROM rollout_features")
    assert row == result["features"]


# The store, and refitting from it


def stored(store: TraceStore, scripted: Any, count: int, *, model: str, black_box: bool) -> None:
    """Problems that failed: where the samples agree, retry never rescues; else it always does."""
    capabilities = BLACK_BOX if black_box else tuple(Capability)
    for i in range(count):
        texts = ["A:3"] * 4 if i % 2 else [f"A:{n}" for n in range(3, 7)]
        said = scripted(
            [*texts, *(["A:9"] * 2 if i % 2 else ["A:2"])], capabilities=capabilities, name=model
        )
        graph = create_recovery_graph(
            said,
            "numeric",
            router=Chooses(),
            store=store,
            seed=0,
            interventions=["retry", Another("replan")],
            budget=Budget(max_attempts=6),
        )
        graph.invoke({"problem": {**PROBLEM, "id": f"{model}{i}", "prompt": f"{i}?"}})


def test_a_refit_learns_from_black_boxes(scripted: Any, store: TraceStore, tmp_path: Path) -> None:
    stored(store, scripted, 60, model="b", black_box=True)
    made = refit(store, default_policy()).policy
    assert made.rollout is not None
    assert made.posterior is not None
    assert made.rollout.population["agreement"] == Moments(mean=0.625, sd=0.375, count=60)
    assert list(made.rollout.cells) == ["b|t"]
    assert made.rollout.rule == {"truncated": "extend", "agreement": "replan"}
    assert made.posterior.covariates.coefficients["agreement"] < -0.1
    assert made.population == default_policy().population
    made.save(tmp_path / "p.json")
    assert load_policy(tmp_path / "p.json") == made
    router = PosteriorRouter(made, explore=0.0)
    costs = {"retry": 9, "replan": 9}
    easy, hard = (
        router.decide(evidence(told(agreement=a), model="b", costs=costs)).expected_rescue
        for a in (0.25, 1.0)
    )
    assert easy > hard


def test_a_store_of_both_kinds_never_mixes_them(scripted: Any, store: TraceStore) -> None:
    stored(store, scripted, 12, model="b", black_box=True)
    stored(store, scripted, 12, model="w", black_box=False)
    failures = read_failures(store)
    outcomes = failures.outcomes
    dark = np.array([failures.models[c] == "b" for c in outcomes.cell])
    np.testing.assert_array_equal(outcomes.has(ROLLOUT_FEATURES), dark)
    np.testing.assert_array_equal(outcomes.has(FEATURES), ~dark)
    log = logged_decisions(store, failures)
    assert {type(one.evidence.features) for one in log if dark[one.row]} == {RolloutFeatures}
    assert {type(one.evidence.features) for one in log if not dark[one.row]} == {ProblemFeatures}
    made = refit(store, default_policy()).policy
    assert made.rollout is not None
    assert made.posterior is not None
    assert (list(made.rollout.cells), list(made.cells)) == (["b|t"], ["w|t"])
    assert made.rollout.population["length"].count == made.population["spread"].count == 12
    assert {*FEATURES, *ROLLOUT_FEATURES} <= made.posterior.covariates.coefficients.keys()


def test_a_refit_without_black_boxes_keeps_the_section(scripted: Any, store: TraceStore) -> None:
    stored(store, scripted, 8, model="w", black_box=False)
    made = refit(store, default_policy()).policy
    assert made.rollout == default_policy().rollout
    assert made.posterior is not None
    assert not {*ROLLOUT_FEATURES} & made.posterior.covariates.coefficients.keys()
    assert refit(store, cold(rollout=None)).policy.rollout is None


def test_features_of_another_version_are_not_learned_from(scripted: Any, store: TraceStore) -> None:
    stored(store, scripted, 4, model="b", black_box=True)
    rows = store.query("SELECT * FROM rollout_features")
    store.write(rollout_features=[{**row, "feature_version": 99} for row in rows])
    assert np.isnan(read_failures(store).outcomes.rollout).all()


def test_a_recorded_black_box_is_told_too(scripted: Any, store: TraceStore) -> None:
    problems = [Problem(prompt=f"{i}?", answer=2, id=str(i), task="t") for i in range(3)]
    how = Settings(samples=4, attempts=2, temperature=0.6, max_new_tokens=9, seed=0)
    said = {"b": scripted(last="A:3", capabilities=BLACK_BOX, name="b"), "w": scripted(last="A:3")}
    for model in said.values():
        record(model, "numeric", problems, store, settings=how, interventions=["retry"])
    rows = store.query(
        "SELECT model, rollout_features.*, spread FROM profiles JOIN problems USING (id) "
        "JOIN runs ON runs.id = run_id LEFT JOIN rollout_features ON "
        "rollout_features.id = problems.id"
    )
    assert len(rows) == 6
    for row in rows:
        dark = row["model"] == "b"
        assert (row["spread"] is None, row["agreement"] is None) == (dark, not dark)
    outcomes = read_failures(store, model="b").outcomes
    np.testing.assert_allclose(outcomes.rollout, [[1.0, 1.0, 0.0, math.log10(4)]] * 3)
    assert len(read_tape(store.path)) == 6


def test_the_gate_asks_with_the_features_of_recorded_black_boxes(
    scripted: Any, store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [Problem(prompt=f"{i}?", answer=2, id=str(i), task="t") for i in range(8)]
    how = Settings(samples=2, attempts=2, temperature=0.6, max_new_tokens=9, seed=0)
    model = scripted(last="A:3", capabilities=BLACK_BOX, name="b")
    operators = ["retry", Another("replan")]
    record(model, "numeric", problems, store, settings=how, interventions=operators)
    monkeypatch.setattr("recov_graph.refit.LEAST_ESS", 2)
    asked: list[Evidence] = []

    class Watched(PosteriorRouter):
        def decide(self, evidence: Evidence) -> Decision:
            asked.append(evidence)
            return super().decide(evidence)

    monkeypatch.setattr("recov_graph.refit.as_router", Watched)
    assert refit(store, default_policy()).verdict.figures
    assert {one.features for one in asked} == {RolloutFeatures(1.0, 1.0, 0.0, math.log10(4))}


def test_the_command_line_shows_the_section(scripted: Any, store: TraceStore) -> None:
    stored(store, scripted, 8, model="b", black_box=True)
    with_one = CliRunner().invoke(cli, ["policy", "show", "shipped"])
    assert "rollout features" in with_one.output
    assert "truncated extend, agreement replan" in with_one.output
    folder = str(Path(store.path).parent / "policies")
    done = CliRunner().invoke(cli, ["refit", "--db", store.path, "--policies", folder])
    assert done.exit_code == 0, done.output
    assert "rollout features of 8 of them: failed_share 1, agreement 0.625" in done.output
