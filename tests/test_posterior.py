"""The fitted posterior: what it learns, what it believes, and how a router goes by it."""

from __future__ import annotations

import copy
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from recov_graph.evaluate.bench import bench_of_tape
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.graph import create_recovery_graph
from recov_graph.interventions import Escalate
from recov_graph.models import Capability
from recov_graph.routing import Evidence, Policy, PosteriorRouter, RuleRouter, load_policy
from recov_graph.routing.belief import Belief, Believer
from recov_graph.routing.decision import affordable, any_rescue
from recov_graph.routing.outcomes import cell_moments
from recov_graph.routing.policy import Covariates, Moments, Posterior, Rescue, cell_name
from recov_graph.routing.posterior import RescuePosterior, fit_posterior
from recov_graph.tape import shipped_tape
from tests.searching import examples

QUICK = settings(deadline=None, max_examples=examples(80))
FEW = settings(deadline=None, max_examples=15)
NAN = math.nan
OPERATORS = ("retry", "dense_steer", "local_temp")
UNMEASURED = (NAN, NAN, NAN)
Rows = NDArray[np.float64]


# --- a scikit-learn estimator ---


@parametrize_with_checks([RescuePosterior()])
def test_it_is_an_estimator_as_scikit_learn_wants_one(estimator: Any, check: Any) -> None:
    check(estimator)


def test_parameters_are_kept_and_can_be_changed() -> None:
    given_ = {
        "operators": OPERATORS,
        "use_features": False,
        "bandwidth": 0.7,
        "informed": 0.2,
        "max_types": 8,
    }
    model = RescuePosterior(**given_)
    assert model.get_params() == clone(model).get_params() == given_
    assert clone(model).set_params(informed=1.0).get_params() == {**given_, "informed": 1.0}


# --- what it learns ---


class World:
    """Types of failure: what each operator rescues of each, and attempts drawn from that."""

    def __init__(
        self,
        rescue: Sequence[Sequence[float]],
        weights: Sequence[Sequence[float]],
        features: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """Rescue [K, O]; weights [C, K], the share of each type in each cell; features [K, 3]."""
        self.rescue, self.weights, self.features = np.array(rescue), weights, features

    def attempts(self, problems: int, seed: int, most: int = 5) -> tuple[Rows, Rows, Rows, Rows]:
        """(X to learn from, the same as if asked in turn, y, groups): until a rescue."""
        rng = np.random.default_rng(seed)
        learned, asked, rescued, group = [], [], [], []
        for problem in range(problems):
            cell = problem % len(self.weights)
            kind = rng.choice(len(self.rescue), p=self.weights[cell])
            measured = UNMEASURED
            if self.features is not None:
                measured = tuple(rng.normal(self.features[kind], 0.1).tolist())
            failures = np.zeros(self.rescue.shape[1])
            for _ in range(most):
                operator = rng.integers(len(failures))
                passed = rng.random() < self.rescue[kind, operator]
                learned.append(row(operator, cell=cell, features=measured))
                asked.append(row(operator, failures, cell, measured))
                rescued.append(float(passed))
                group.append(float(problem))
                if passed:
                    break
                failures[operator] += 1
        return tuple(map(np.array, (learned, asked, rescued, group)))  # type: ignore[return-value]


def row(
    operator: int,
    failures: Sequence[float] | Rows = (0, 0, 0),
    cell: int = 0,
    features: Sequence[float] = UNMEASURED,
    samples: float = 4,
) -> list[float]:
    """A row of X."""
    return [cell, *features, samples, *failures, operator]


def chance(model: RescuePosterior, operator: int, *more: Any, **fields: Any) -> float:
    """The probability that an attempt rescues."""
    return float(model.predict_proba(np.array([row(operator, *more, **fields)]))[0, 1])


def fitted(world: World, problems: int = 600, **options: Any) -> RescuePosterior:
    x, _, y, groups = world.attempts(problems, seed=1)
    return RescuePosterior(OPERATORS, **options).fit(x, y, groups=groups)


# One works on some failures, another on others, and some are hopeless.
EITHER = World([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.02, 0.02, 0.02]], [[0.35, 0.35, 0.3]])
BY_CELL = World([[0.99, 0.2, 0.2], [0.01, 0.2, 0.2]], [[1, 0], [0, 1]])
MEASURED = World(EITHER.rescue.tolist(), EITHER.weights, [[0.7, 1, 0], [0.4, 1, 0], [0.1, 1, 0]])


@pytest.fixture(scope="module")
def either() -> RescuePosterior:
    return fitted(EITHER)


def test_it_learns_what_works_in_which_cell() -> None:
    model = fitted(BY_CELL)
    assert chance(model, 0, cell=0) > 0.85
    assert chance(model, 0, cell=1) < 0.1
    for cell in (0, 1):
        assert chance(model, 1, cell=cell) == pytest.approx(0.2, abs=0.07)
    assert 0.1 < chance(model, 0, cell=77) < 0.85  # a cell never seen is like any


def test_it_learns_that_one_works_where_the_other_failed(either: RescuePosterior) -> None:
    fresh, after = chance(either, 1), chance(either, 1, (2, 0, 0))
    assert after > fresh + 0.1
    assert chance(either, 0, (2, 0, 0)) < 0.1
    assert chance(either, 0, (0, 2, 0)) > chance(either, 0) + 0.1
    assert chance(either, 0, (3, 3, 3)) < 0.1  # by then it is one of the hopeless


def test_it_learns_what_features_tell() -> None:
    seen = fitted(MEASURED)
    hopeful, hopeless = (0.7, 1.0, 0.0), (0.1, 1.0, 0.0)
    assert chance(seen, 0, features=hopeful) > 3 * chance(seen, 0, features=hopeless)
    assert chance(seen, 0, features=hopeless) < chance(seen, 0) < chance(seen, 0, features=hopeful)
    blind = fitted(MEASURED, use_features=False)
    assert chance(blind, 0, features=hopeful) == chance(blind, 0, features=hopeless)


def test_groups_tell_which_attempts_are_of_one_problem(either: RescuePosterior) -> None:
    x, _, y, _ = EITHER.attempts(600, seed=1)
    apart = RescuePosterior(OPERATORS).fit(x, y)
    # Where every attempt is a problem of its own, nothing tells what failures say of others.
    gain = chance(either, 1, (3, 0, 0)) - chance(either, 1)
    assert gain > chance(apart, 1, (3, 0, 0)) - chance(apart, 1) + 0.1


def test_names_of_groups_and_the_order_of_rows_do_not_matter(either: RescuePosterior) -> None:
    x, asked, y, groups = EITHER.attempts(600, seed=1)
    order = np.random.default_rng(0).permutation(len(x))
    names = np.array([f"problem {int(group):05}" for group in groups])
    again = RescuePosterior(OPERATORS).fit(x[order], y[order], groups=names[order])
    np.testing.assert_allclose(
        again.predict_proba(asked), either.predict_proba(asked), rtol=1e-6, atol=1e-9
    )


def test_labels_may_be_anything_in_order(either: RescuePosterior) -> None:
    x, asked, y, groups = EITHER.attempts(600, seed=1)
    words = np.where(y > 0, "rescued", "failed")
    model = RescuePosterior(OPERATORS).fit(x, words, groups=groups)
    assert model.classes_.tolist() == ["failed", "rescued"]
    np.testing.assert_array_equal(model.predict_proba(asked), either.predict_proba(asked))
    likelier = model.predict_proba(asked)[:, 1] > 0.5
    np.testing.assert_array_equal(model.predict(asked) == "rescued", likelier)


@pytest.mark.parametrize("world", [EITHER, BY_CELL], ids=["types", "cells"])
def test_probabilities_are_calibrated_on_problems_never_seen(world: World) -> None:
    model = fitted(world)
    _, asked, rescued, _ = world.attempts(1500, seed=2)
    predicted = model.predict_proba(asked)[:, 1]
    bins = np.minimum((predicted * 10).astype(int), 9)
    error = sum(
        (bins == b).mean() * abs(predicted[bins == b].mean() - rescued[bins == b].mean())
        for b in np.unique(bins)
    )
    assert error < 0.05
    assert ((predicted - rescued) ** 2).mean() < 0.9 * rescued.var()


def test_features_may_be_missing_in_whole_or_in_part() -> None:
    x, asked, y, groups = MEASURED.attempts(300, seed=3)
    rng = np.random.default_rng(0)
    x[rng.random(len(x)) < 0.3, 1:4] = NAN
    x[::7, 2] = NAN
    x[::5, 4] = NAN
    asked[::3, 1:5] = NAN
    predicted = RescuePosterior(OPERATORS).fit(x, y, groups=groups).predict_proba(asked)
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)


@pytest.mark.parametrize("passed", [0.0, 1.0])
@pytest.mark.parametrize("number", [1, 300])
def test_data_of_one_kind_is_enough(number: int, passed: float) -> None:
    x, asked, y, _ = MEASURED.attempts(100, seed=4)
    model = RescuePosterior(OPERATORS).fit(x[:number], np.full_like(y, passed)[:number])
    assert model.classes_.tolist() == [passed]
    assert model.predict_proba(asked).tolist() == [[1.0]] * len(asked)
    assert set(model.predict(asked)) == {passed}
    # The policy it holds can be routed by.
    decision = PosteriorRouter(model.policy_).decide(evidence(model="0", costs=OPERATORS))
    assert 0 < decision.expected_rescue < 1


@pytest.mark.parametrize("passed", [0, 1])
def test_two_attempts_are_enough(passed: int) -> None:
    x = np.array([row(0), row(1)])
    model = RescuePosterior(OPERATORS).fit(x, [passed, 1 - passed])
    predicted = model.predict_proba(x)[:, 1]
    assert (predicted[0] > predicted[1]) == bool(passed)
    assert ((predicted > 0) & (predicted < 1)).all()


def test_what_it_learned_survives_as_json(either: RescuePosterior, tmp_path: Path) -> None:
    _, asked, *_ = EITHER.attempts(100, seed=5)
    either.policy_.save(tmp_path / "policy.json")
    assert isinstance(json.loads((tmp_path / "policy.json").read_text()), dict)
    again = copy.copy(either)
    again.policy_ = load_policy(tmp_path / "policy.json")
    assert again.policy_ == either.policy_
    np.testing.assert_array_equal(again.predict_proba(asked), either.predict_proba(asked))
    np.testing.assert_array_equal(again.predict(asked), either.predict(asked))


def changed(column: int, value: float) -> Rows:
    x = np.array([row(0), row(1), row(2)])
    x[1, column] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((3, 8)), "8 columns; with 3 operators it must have 9: cell, three features"),
        (changed(8, 3), "whole numbers from 0 to 2, the index of an operator"),
        (changed(8, -1), "whole numbers from 0 to 2"),
        (changed(8, 0.5), "whole numbers from 0 to 2"),
        (changed(8, NAN), "whole numbers from 0 to 2"),
        (changed(5, NAN), "only features and failed samples may be NaN"),
        (changed(0, NAN), "only features and failed samples may be NaN"),
        (changed(0, 0.5), "first column of X must hold whole numbers"),
        (changed(6, -1), "must be at least 0"),
        (changed(4, -1), "must be at least 0"),
        (changed(1, math.inf), "infinity"),
    ],
)
def test_wrong_rows_are_refused_in_words(either: RescuePosterior, x: Rows, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RescuePosterior(OPERATORS).fit(x, [0, 1, 0])
    if x.shape[1] == 9:
        with pytest.raises(ValueError, match=words):
            either.predict_proba(x)


def test_groups_of_another_length_are_refused_in_words() -> None:
    x = np.array([row(0), row(1), row(2)])
    for groups in ([0, 1], [[0], [1], [2]], 5):
        with pytest.raises(ValueError, match=r"groups has shape .*must be \(3,\)"):
            RescuePosterior(OPERATORS).fit(x, [0, 1, 0], groups=groups)


def test_nothing_is_predicted_before_it_was_fitted() -> None:
    with pytest.raises(NotFittedError):
        RescuePosterior(OPERATORS).predict_proba(np.array([row(0)]))


# --- what it believes ---


probabilities = st.floats(0.001, 0.999)
places = st.floats(-4, 4)


@st.composite
def posteriors(draw: st.DrawFn, informed: float | None = None, operators: int = 0) -> Posterior:
    """Any posterior of cells m|t and m|u."""
    types, of = draw(st.integers(1, 5)), operators or draw(st.integers(1, 4))

    def numbers(strategy: st.SearchStrategy[float], length: int = types) -> list[float]:
        return draw(st.lists(strategy, min_size=length, max_size=length))

    return Posterior(
        operators=[f"o{i}" for i in range(of)],
        rescue=[numbers(probabilities, of) for _ in range(types)],
        weights=numbers(st.floats(0.01, 1)),
        cells={"m|t": dict(enumerate(numbers(st.floats(0, 1))))},
        hardness=numbers(places),
        bandwidth=draw(st.floats(0.1, 3)),
        covariates=Covariates(
            intercept=draw(places),
            cells={"m|t": draw(st.floats(-1, 1))},
            coefficients=dict(zip(FEATURES, numbers(st.floats(-1, 1), 3), strict=True)),
            spread=draw(st.floats(0, 2)),
        ),
        informed=draw(st.floats(0, 1)) if informed is None else informed,
        measure=False,
        failures={"m|t": 1000},
        explore=0.0,
    )


def a_policy(posterior: Posterior | None, **changes: Any) -> Policy:
    """Features are standard normal; unmeasured operators rescue one in four."""
    fields: dict[str, Any] = {
        "name": "small",
        "created": "2026-01-01",
        "source": "tests",
        "population": {name: Moments(mean=0.0, sd=1.0, count=100) for name in FEATURES},
        "rescue": {f"o{i}": Rescue(alpha=1.0 + i, beta=3.0, problems=50) for i in range(4)},
        "stop_below": 0.0,
        "posterior": posterior,
    }
    return Policy(**{**fields, **changes})


def first(believer: Believer, cell: str = "m|t", features: Sequence[float] = UNMEASURED) -> Belief:
    return believer.first([cell], np.zeros(1, np.int64), np.array([features]), np.array([4.0]))


@QUICK
@given(posterior=posteriors(), data=st.data())
def test_the_order_of_failures_does_not_matter(posterior: Posterior, data: st.DataObject) -> None:
    believer = Believer(a_policy(posterior))
    failed = data.draw(st.lists(st.integers(0, len(posterior.operators) - 1), max_size=8))
    one = other = counted = first(believer)
    for operator in failed:
        one = believer.after(one, operator)
    for operator in data.draw(st.permutations(failed)):
        other = believer.after(other, operator)
    for operator, times in Counter(failed).items():
        counted = believer.after(counted, operator, times)
    for belief in (other, counted):
        np.testing.assert_allclose(believer.rescue(belief), believer.rescue(one), rtol=1e-9)


@QUICK
@given(posterior=posteriors(informed=1.0), data=st.data())
def test_every_failure_of_an_operator_lowers_its_own_chance(
    posterior: Posterior, data: st.DataObject
) -> None:
    believer = Believer(a_policy(posterior))
    belief = first(believer, features=data.draw(st.sampled_from([UNMEASURED, (1.0, 0.0, -2.0)])))
    for operator in data.draw(
        st.lists(st.integers(0, len(posterior.operators) - 1), min_size=1, max_size=8)
    ):
        before = believer.rescue(belief)[0, operator]
        belief = believer.after(belief, operator)
        assert believer.rescue(belief)[0, operator] <= before * (1 + 1e-9)


def test_so_it_does_where_cells_have_a_say_of_their_own() -> None:
    """A blend of two beliefs promises it no more, but on recorded failures it holds."""
    outcomes = bench_of_tape(shipped_tape(), "shipped").outcomes
    population, cells = cell_moments(outcomes)
    policy = a_policy(None, population=population, cells=cells)
    posterior = fit_posterior(outcomes, policy)
    assert 0 < posterior.informed < 1
    believer = Believer(policy.model_copy(update={"posterior": posterior}))
    rng = np.random.default_rng(0)
    for _ in range(5):
        belief = believer.first(
            outcomes.cells, outcomes.cell, outcomes.features, outcomes.failed_samples
        )
        for operator in rng.integers(len(outcomes.operators), size=8):
            before = believer.rescue(belief)[:, operator]
            belief = believer.after(belief, int(operator))
            assert (believer.rescue(belief)[:, operator] <= before + 1e-9).all()


@QUICK
@given(posterior=posteriors())
def test_an_unknown_cell_is_like_all_together(posterior: Posterior) -> None:
    emptied = posterior.model_copy(update={"cells": {"m|t": {}, "m|u": {0: 0.0}}})
    unknown = first(Believer(a_policy(posterior)), "m|unknown")
    weights = np.array(posterior.weights) / sum(posterior.weights)
    np.testing.assert_allclose(np.exp(unknown.plain[0]), weights, rtol=1e-6)
    for cell in ("m|t", "m|u"):  # a cell that names no type is as good as unknown
        plain = first(Believer(a_policy(emptied)), cell).plain
        np.testing.assert_array_equal(plain, unknown.plain)


@QUICK
@given(posterior=posteriors())
def test_missing_features_widen_what_is_thought_possible(posterior: Posterior) -> None:
    believer = Believer(a_policy(posterior))
    # These lie where missing ones are taken to lie: at the mean.
    known, missing = first(believer, features=(0.0, 0.0, 0.0)), first(believer)
    np.testing.assert_array_equal(known.plain, missing.plain)
    width, spread = posterior.bandwidth, posterior.covariates.spread
    np.testing.assert_allclose(
        missing.informed - missing.plain,
        (known.informed - known.plain) * width**2 / (width**2 + spread**2),
        rtol=1e-9,
        atol=1e-9,
    )
    partly = first(believer, features=(0.0, NAN, 0.0))
    np.testing.assert_array_equal(partly.informed, missing.informed)


# --- how a router goes by it ---


def evidence(
    z: tuple[float, float, float] | None = None,
    costs: Sequence[str] | dict[str, int] = ("o0", "o1", "o2"),
    **changes: Any,
) -> Evidence:
    fields: dict[str, Any] = {
        "model": "m",
        "task": "t",
        "features": None if z is None else ProblemFeatures(*z),
        "failed_samples": 4,
        "tried": [],
        "costs": costs if isinstance(costs, dict) else dict.fromkeys(costs, 100),
        "attempts_left": 6,
    }
    return Evidence(**{**fields, **changes})


def of(*rescue: Sequence[float], **changes: Any) -> Posterior:
    """A posterior of equally likely types, trusted fully in cell m|t."""
    fields: dict[str, Any] = {
        "operators": [f"o{i}" for i in range(len(rescue[0]))],
        "rescue": [list(one) for one in rescue],
        "weights": [1.0] * len(rescue),
        "hardness": [0.0] * len(rescue),
        "bandwidth": 0.5,
        "covariates": Covariates(intercept=0.0, coefficients={}),
        "informed": 1.0,
        "measure": False,
        "failures": {"m|t": 1000},
        "explore": 0.0,
    }
    return Posterior(**{**fields, **changes})


@st.composite
def asked(draw: st.DrawFn) -> Evidence:
    """Anything a router may be asked about up to four operators."""
    names = draw(st.lists(st.sampled_from(["o0", "o1", "o2", "o3"]), min_size=1, unique=True))
    z = draw(st.none() | st.tuples(places, places, places))
    return evidence(
        z,
        {name: draw(st.integers(0, 300)) for name in names},
        task=draw(st.sampled_from(["t", "u"])),
        tried=draw(st.lists(st.sampled_from(names), max_size=4)),
        attempts_left=draw(st.integers(1, 15)),
        tokens_left=draw(st.just(math.inf) | st.integers(0, 2000).map(float)),
        once={name: draw(st.integers(0, 200)) for name in names if draw(st.booleans())},
        draw=draw(st.none() | st.floats(0, 1, exclude_max=True)),
    )


@FEW
@given(posterior=posteriors(operators=3), given_=asked(), explore=st.sampled_from([0.05, 0.5, 1.0]))
def test_choices_come_with_the_probability_they_are_made_with(
    posterior: Posterior, given_: Evidence, explore: float
) -> None:
    router = PosteriorRouter(a_policy(posterior), explore=explore)
    grid = 200
    chosen: Counter[str | None] = Counter()
    stated: dict[str | None, float] = {}
    for i in range(grid):
        decision = router.decide(replace(given_, draw=(i + 0.5) / grid))
        chosen[decision.operator] += 1
        stated[decision.operator] = decision.probability
    everything = {*given_.costs, None}
    for operator in everything:
        probability = router.probability(given_, operator)
        assert chosen[operator] / grid == pytest.approx(probability, abs=2 / grid)
        assert stated.get(operator, probability) == pytest.approx(probability)
    assert sum(router.probability(given_, one) for one in everything) == pytest.approx(1)


def test_a_policys_own_exploring_counts_unless_another_is_asked_for() -> None:
    policy = a_policy(of([0.5, 0.1], explore=0.2))
    two = evidence(costs=("o0", "o1"))
    assert PosteriorRouter(policy).probability(two, "o1") == pytest.approx(0.1)
    assert PosteriorRouter(policy, explore=0.0).probability(two, "o1") == 0.0
    explored = PosteriorRouter(policy).decide(replace(two, draw=0.15))
    assert explored.operator == "o1"
    assert "at random" in explored.reason


@QUICK
@given(posterior=posteriors(operators=3), given_=asked())
def test_without_exploring_the_same_is_decided_every_time(
    posterior: Posterior, given_: Evidence
) -> None:
    router = PosteriorRouter(a_policy(posterior), explore=0.0)
    decided = router.decide(given_)
    assert all(router.decide(replace(given_, draw=d)) == decided for d in (None, 0.0, 0.5, 0.999))
    assert decided.probability == 1.0
    again = PosteriorRouter(a_policy(posterior), explore=0.0)
    assert again.decide(given_) == decided


@QUICK
@given(posterior=posteriors(operators=3), given_=asked())
def test_it_chooses_among_what_can_be_paid_for(posterior: Posterior, given_: Evidence) -> None:
    decision = PosteriorRouter(a_policy(posterior)).decide(given_)
    fits = {
        name
        for name, cost in given_.costs.items()
        if cost + given_.once.get(name, 0) <= given_.tokens_left
    }
    assert {candidate.operator for candidate in decision.candidates} == fits
    assert (decision.operator in fits) if fits else (decision.operator is None)
    for candidate in decision.candidates:
        assert 0 <= candidate.expected_rescue <= 1
        assert candidate.expected_cost == given_.costs[candidate.operator]
    assert decision.reason


@QUICK
@given(posterior=posteriors(operators=3), given_=asked())
def test_it_stops_where_the_chance_of_a_rescue_is_too_small(
    posterior: Posterior, given_: Evidence
) -> None:
    def router(stop_below: float) -> PosteriorRouter:
        return PosteriorRouter(a_policy(posterior, stop_below=stop_below), explore=0.5)

    new = [name for name in given_.costs if name not in posterior.operators]
    # What nothing is stored of gets its try before a stop: see the next test.
    given_ = replace(given_, tried=[*given_.tried, *new])
    chance = router(0.0).chance(given_)
    if router(0.0).decide(given_).operator is None:
        assert chance == 0.0
        return  # nothing could be paid for
    assert 0 < chance <= 1
    assert router(max(0.0, chance - 1e-9)).decide(given_).operator is not None
    if chance + 1e-9 <= 1.0:
        stopping = router(chance + 1e-9)
        stopped = stopping.decide(given_)
        assert (stopped.operator, stopped.regime) == (None, "out_of_reach")
        assert stopped.expected_rescue == pytest.approx(chance)
        assert stopped.probability == stopping.probability(given_, None) == 1.0
        assert {stopping.probability(given_, name) for name in given_.costs} == {0.0}


@QUICK
@given(posterior=posteriors(operators=3), given_=asked(), stop_below=st.floats(0, 1))
def test_what_nothing_is_stored_of_gets_a_try_before_the_end(
    posterior: Posterior, given_: Evidence, stop_below: float
) -> None:
    router = PosteriorRouter(a_policy(posterior, stop_below=stop_below), explore=0.5)
    decision = router.decide(given_)
    new = {name for name in affordable(given_) if name not in posterior.operators}
    untried = new - set(given_.tried)
    if untried and given_.attempts_left:
        assert decision.operator is not None
        if given_.attempts_left <= len(untried):
            assert decision.operator in untried
    if decision.reason.startswith("nothing is stored of"):
        assert decision.operator in untried
        assert decision.probability == 1.0
        assert router.probability(given_, decision.operator) == 1.0


def test_a_stronger_model_is_asked_before_the_shipped_policy_gives_up(scripted: Any) -> None:
    weak, strong = (scripted(last=text, capabilities=[Capability.SAMPLE]) for text in ("no", "42"))
    for price in (1, 20, 1000):
        graph = create_recovery_graph(
            weak,
            "numeric",
            samples=1,
            seed=0,
            interventions=["retry", Escalate(strong, price=price)],
        )
        result = graph.invoke({"problem": {"prompt": "6*7?", "answer": 42}})
        assert (result["solved"], result["best"]["operator"]) == (True, "escalate")
        assert "nothing is stored of escalate yet" in result["route"][-1]["reason"] or price == 1


def test_the_chance_is_that_of_the_best_plan() -> None:
    # Two types: each is rescued by one operator only.
    policy = a_policy(of([0.9, 0.001], [0.001, 0.9]), stop_below=1.0)
    costs = {"o0": 100, "o1": 100}
    expected = {
        1: 0.4505,
        2: 1 - (0.1 * 0.999),  # one of each is better than the same again
        4: 1 - (0.1 * 0.999) ** 2,
    }
    for attempts, chance in expected.items():
        for tokens in (math.inf, 10_000.0):
            asked_ = evidence(costs=costs, attempts_left=attempts, tokens_left=tokens)
            made = PosteriorRouter(policy).decide(asked_)
            assert made.expected_rescue == pytest.approx(chance, abs=1e-3)
    # Fewer tokens never make a rescue likelier.
    chances = [
        PosteriorRouter(policy).decide(evidence(costs=costs, tokens_left=float(t))).expected_rescue
        for t in range(100, 2000, 50)
    ]
    assert chances == sorted(chances)
    assert chances[-1] > chances[0] + 0.3


def test_what_has_failed_gives_way_to_what_is_likelier_now() -> None:
    router = PosteriorRouter(a_policy(of([0.9, 0.01], [0.01, 0.8])))
    two = evidence(costs=("o0", "o1"))
    assert router.decide(two).operator == "o0"
    after = router.decide(replace(two, tried=["o0"]))
    assert after.operator == "o1"
    assert "o0 failed" in after.reason
    path = [candidate.operator for candidate in router.path(two)]
    assert path[:2] == ["o0", "o1"]
    assert len(path) == two.attempts_left


def test_what_must_be_paid_once_makes_repairs_worth_less() -> None:
    router = PosteriorRouter(a_policy(of([0.30, 0.35])))
    for limits in ({}, {"tokens_left": 450.0}):
        plain_ = evidence(costs=("o0", "o1"), **limits)
        dear = replace(plain_, once={"o1": 150})
        assert router.decide(plain_).operator == "o1"
        assert router.decide(dear).operator == "o0"
        scores = [
            {c.operator: c.score for c in router.decide(one).candidates} for one in (plain_, dear)
        ]
        assert scores[1]["o1"] < scores[0]["o1"]
        assert scores[1]["o0"] <= scores[0]["o0"]


def test_what_is_paid_once_is_paid_once_for_several_repairs() -> None:
    router = PosteriorRouter(a_policy(of([0.5, 0.4], [0.4, 0.6]), stop_below=1.0))
    both = evidence(costs={"o0": 100, "o1": 90}, tokens_left=450.0, attempts_left=9)
    once = replace(both, once={"o0": 70, "o1": 70})
    left = replace(both, tokens_left=380.0)  # as if it had been paid already, and never again
    assert router.decide(once).expected_rescue == pytest.approx(router.decide(left).expected_rescue)


def test_operators_too_dear_for_what_is_left_are_not_chosen() -> None:
    router = PosteriorRouter(a_policy(of([0.01, 0.9])))
    costs = {"o0": 50, "o1": 100}
    assert router.decide(evidence(costs=costs, tokens_left=100.0)).operator == "o1"
    assert router.decide(evidence(costs=costs, tokens_left=99.0)).operator == "o0"
    assert router.decide(evidence(costs=costs, tokens_left=99.0, once={"o0": 60})).operator is None
    nothing = router.decide(evidence(costs=costs, tokens_left=49.0))
    assert (nothing.operator, nothing.candidates) == (None, ())
    assert router.decide(evidence(costs=costs, attempts_left=0)).operator is None


def test_an_operator_that_is_free_is_no_reason_to_fail() -> None:
    router = PosteriorRouter(a_policy(of([0.3, 0.9])))
    assert router.decide(evidence(costs={"o0": 0, "o1": 100})).operator == "o0"


def test_an_operator_that_was_never_seen_can_still_be_chosen() -> None:
    rescue = {
        "o0": Rescue(alpha=1, beta=9, problems=50),
        "new": Rescue(alpha=9, beta=1, problems=50),
    }
    router = PosteriorRouter(a_policy(of([0.01]), rescue=rescue))
    assert router.decide(evidence(costs=["o0", "new"])).operator == "new"
    alone = router.decide(evidence(costs=["new"]))
    assert alone.operator == "new"
    assert alone.expected_rescue == pytest.approx(0.9)
    limited = router.decide(evidence(costs=["new"], tokens_left=250.0, tried=["new", "o0"]))
    assert limited.operator == "new"
    exploring = PosteriorRouter(a_policy(of([0.9])), explore=0.1)
    assert exploring.probability(evidence(costs=["o0", "new"]), "new") > 0


@QUICK
@given(posterior=posteriors(operators=3), given_=asked())
def test_with_nothing_stored_it_goes_by_the_rule(posterior: Posterior, given_: Evidence) -> None:
    unproven = posterior.model_copy(update={"failures": {}})
    policy = a_policy(unproven, stop_below=1.0)
    rule = RuleRouter(policy)
    router = PosteriorRouter(policy)
    new = [name for name in given_.costs if name not in posterior.operators]
    given_ = replace(given_, once={}, tried=[*given_.tried, *new])
    decision, by_rule = router.decide(given_), rule.decide(given_)
    assert router.trust(given_.model, given_.task) == 0.0
    assert router.wants_features(given_)
    ranked = [candidate.operator for candidate in by_rule.candidates]
    assert [candidate.operator for candidate in decision.candidates] == ranked
    if ranked:
        assert decision.expected_rescue == pytest.approx(any_rescue(rule.path(given_)))
        path = router.path(given_)
        assert next(path).operator == ranked[0]


@QUICK
@given(own=st.integers(0, 300), akin=st.integers(0, 300), others=st.integers(0, 300))
def test_trust_grows_with_what_is_stored(own: int, akin: int, others: int) -> None:
    def trust(**more: int) -> float:
        counts = {"m|t": own, "m|u": akin, "other|t": others}
        stored = {cell: counts[cell] + more.get(cell[0], 0) for cell in counts}
        return PosteriorRouter(a_policy(of([0.5], failures=stored))).trust("m", "t")

    assert 0 <= trust() <= 1
    assert trust(m=10) > trust()
    assert trust(o=100) > trust()
    assert trust(o=100) - trust() <= trust(m=100) - trust()
    mine = PosteriorRouter(a_policy(of([0.5], failures={cell_name("m|t", "|"): 50})))
    assert mine.trust("m|t", "|") > 0.9
    assert mine.trust("m", "t||") < 0.1


def test_with_much_stored_it_goes_by_what_was_learned() -> None:
    # By the rule's rates o2 would be best.
    few, many = (
        PosteriorRouter(a_policy(of([0.6, 0.1, 0.01], failures={"m|t": n}))) for n in (1, 1000)
    )
    assert few.decide(evidence()).operator == "o2"
    assert many.decide(evidence()).operator == "o0"
    assert not many.wants_features(evidence())
    assert "1,000 stored failures of this cell" in many.decide(evidence()).reason
    assert "of other cells" in many.decide(evidence(task="new")).reason


def test_a_decision_takes_no_time_worth_mentioning() -> None:
    rng = np.random.default_rng(0)
    posterior = of(
        *rng.uniform(0.01, 0.9, (256, 5)).tolist(), hardness=rng.normal(size=256).tolist()
    )
    router = PosteriorRouter(a_policy(posterior))
    names = [f"o{i}" for i in range(5)]
    times = []
    for step in range(60):
        given_ = evidence(
            (0.5, -1.0, 0.2), names, tried=names[: step % 4], tokens_left=1000.0, attempts_left=8
        )
        started = time.perf_counter()
        router.decide(given_)
        times.append(time.perf_counter() - started)
    assert median(times[10:]) < 0.005  # a fifth of that where nothing else runs
