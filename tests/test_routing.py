"""Policies, the rule that routes by them, and where routers come from."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recov_graph.errors import InvalidInputError, PolicyError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.rollout_features import ROLLOUT_FEATURES
from recov_graph.routing import (
    Candidate,
    Decision,
    Evidence,
    Policy,
    PosteriorRouter,
    Router,
    RuleRouter,
    as_router,
    default_policy,
    load_policy,
)
from recov_graph.routing.decision import Regime
from recov_graph.routing.policy import (
    FEATURE_VERSION,
    Counts,
    Covariates,
    Moments,
    Posterior,
    Rescue,
    RolloutPart,
    Window,
    cell_name,
)
from tests.searching import examples

QUICK = settings(deadline=None, max_examples=examples(150))
FEWER = settings(deadline=None, max_examples=examples(75))

OPERATORS = ("retry", "sparse_steer", "sparse_steer_random", "local_temp", "dense_steer")
RULE = {"spread": "dense_steer", "concentration": "sparse_steer", "logit_dispersion": "local_temp"}
FINITE = st.floats(-1e6, 1e6)


def moments(mean: float = 0.0, sd: float = 1.0, count: int = 100) -> dict[str, Moments]:
    return {name: Moments(mean=mean, sd=sd, count=count) for name in FEATURES}


def rescue(alpha: float, beta: float, *operators: str) -> dict[str, Rescue]:
    return {name: Rescue(alpha=alpha, beta=beta, problems=50) for name in operators}


def policy(**changes: Any) -> Policy:
    """Features are standard normal over 100 failures; every operator rescues one in four."""
    fields: dict[str, Any] = {
        "name": "small",
        "created": "2026-01-01",
        "source": "tests",
        "population": moments(),
        "rescue": rescue(1.0, 3.0, *OPERATORS),
        "stop_below": 0.01,
    }
    return Policy(**{**fields, **changes})


def posterior(**changes: Any) -> Posterior:
    """Two types of failure, of which one is rescued by dense_steer only."""
    fields: dict[str, Any] = {
        "operators": ["retry", "dense_steer"],
        "rescue": [[0.5, 0.5], [0.01, 0.25]],
        "weights": [0.25, 0.75],
        "cells": {"m|t": {0: 0.5, 1: 0.5}},
        "hardness": [0.0, -2.0],
        "bandwidth": 0.5,
        "covariates": Covariates(intercept=-1.0, coefficients={"spread": 0.5}),
        "informed": 1.0,
        "measure": True,
        "failures": {"m|t": 400},
    }
    return Posterior(**{**fields, **changes})


def evidence(z: tuple[float, float, float] | None = (0.0, 0.0, 0.0), **changes: Any) -> Evidence:
    """A failure whose features stand out of `policy()`'s population by `z`."""
    fields: dict[str, Any] = {
        "model": "m",
        "task": "t",
        "features": None if z is None else ProblemFeatures(*z),
        "failed_samples": 4,
        "tried": (),
        "costs": dict.fromkeys(OPERATORS, 100),
        "attempts_left": 4,
    }
    return Evidence(**{**fields, **changes})


def decide(asked: Evidence, **changes: Any) -> Decision:
    return RuleRouter(policy(**changes)).decide(asked)


def chance(asked: Evidence, **changes: Any) -> float:
    """The chance of a rescue in the attempts left, by which the rule would stop."""
    decision = decide(asked, **{**changes, "stop_below": 1.0})
    return decision.expected_rescue if decision.operator is None else 1.0


def ranking(decision: Decision) -> list[str]:
    return [candidate.operator for candidate in decision.candidates]


def rates(decision: Decision) -> dict[str, float]:
    return {candidate.operator: candidate.expected_rescue for candidate in decision.candidates}


def walk(asked: Evidence, attempts: int, **changes: Any) -> list[str | None]:
    """The operators chosen one after the other while all of them fail."""
    tried: list[str] = []
    for _ in range(attempts):
        operator = decide(replace(asked, tried=tuple(tried)), **changes).operator
        if operator is None:
            return [*tried, None]
        tried.append(operator)
    return list(tried)


# --- the rule's choice ---


@pytest.mark.parametrize(
    ("z", "operator"),
    [
        ((2.0, 1.0, 0.5), "dense_steer"),
        ((1.0, 2.0, 0.5), "sparse_steer"),
        ((1.0, 0.5, 2.0), "local_temp"),
        ((-3.0, 0.1, -3.0), "sparse_steer"),
        ((1e-6, -1.0, -1.0), "dense_steer"),
    ],
)
def test_the_feature_that_stands_out_most_names_the_operator(
    z: tuple[float, float, float], operator: str
) -> None:
    decision = decide(evidence(z))
    assert decision.operator == operator
    assert decision.regime == "steerable_hard"
    assert decision.probability == 1.0


def test_features_are_compared_in_standard_deviations() -> None:
    population = {
        "spread": Moments(mean=0.5, sd=0.01, count=9),
        "concentration": Moments(mean=1.0, sd=10.0, count=9),
        "logit_dispersion": Moments(mean=-2.0, sd=1.0, count=9),
    }
    decision = decide(evidence((0.55, 21.0, 1.0)), population=population)
    assert decision.operator == "dense_steer"
    scores = {candidate.operator: candidate.score for candidate in decision.candidates}
    assert scores["dense_steer"] == pytest.approx(5.0)
    assert scores["sparse_steer"] == pytest.approx(2.0)
    assert scores["local_temp"] == pytest.approx(3.0)
    assert scores["retry"] is None


def test_the_policys_own_rule_counts() -> None:
    rule = {"spread": "local_temp", "concentration": "retry"}
    assert decide(evidence((2.0, 1.0, 9.0)), rule=rule).operator == "local_temp"
    assert decide(evidence((1.0, 2.0, 9.0)), rule=rule).operator == "retry"


@pytest.mark.parametrize("z", [(0.0, 0.0, 0.0), (-1.0, -0.1, -2.0)])
def test_where_nothing_stands_out_the_best_rescue_for_its_cost_is_taken(
    z: tuple[float, float, float],
) -> None:
    measured = {**rescue(1.0, 3.0, *OPERATORS), **rescue(123.0, 877.0, "sparse_steer_random")}
    costs = {**dict.fromkeys(OPERATORS, 400), "sparse_steer_random": 98}
    decision = decide(evidence(z, costs=costs), rescue=measured)
    assert decision.operator == "sparse_steer_random"
    assert decision.regime == "sampling"
    assert decision.reason == (
        "no feature stands out: sparse_steer_random has the best expected rescue for its cost, "
        "12.3% for 98 tokens"
    )


def test_without_features_the_best_rescue_for_its_cost_is_taken() -> None:
    measured = {**rescue(1.0, 3.0, *OPERATORS), **rescue(1.0, 1.0, "local_temp")}
    decision = decide(evidence(None), rescue=measured)
    assert decision.operator == "local_temp"
    assert decision.regime == "sampling"
    assert decision.reason == (
        "no features were measured: local_temp has the best expected rescue for its cost, "
        "50.0% for 100 tokens"
    )
    assert all(candidate.score is None for candidate in decision.candidates)


@pytest.mark.parametrize(
    ("costs", "order"),
    [
        # rescue is 1/2, 1/4 and 1/10
        ((100, 100, 100), ["dense_steer", "retry", "local_temp"]),
        ((100, 201, 100), ["retry", "dense_steer", "local_temp"]),
        ((100, 199, 100), ["dense_steer", "retry", "local_temp"]),
        ((100, 600, 30), ["local_temp", "retry", "dense_steer"]),
        ((1, 2, 1), ["retry", "dense_steer", "local_temp"]),  # a tie stays as it was given
        ((4, 6, 0), ["local_temp", "dense_steer", "retry"]),
        ((4, 4, 0), ["dense_steer", "local_temp", "retry"]),  # no cost is less than a token
    ],
)
def test_operators_are_ranked_by_rescue_per_token(
    costs: tuple[int, int, int], order: list[str]
) -> None:
    measured = {
        **rescue(1.0, 3.0, "retry"),
        **rescue(1.0, 1.0, "dense_steer"),
        **rescue(1.0, 9.0, "local_temp"),
    }
    named = dict(zip(("retry", "dense_steer", "local_temp"), costs, strict=True))
    decision = decide(evidence((-1.0, -1.0, -1.0), costs=named), rescue=measured)
    assert ranking(decision) == order
    assert decision.operator == order[0]


def test_a_feature_that_stands_out_comes_before_rescue_and_cost() -> None:
    measured = {**rescue(9.0, 1.0, "retry", "dense_steer"), **rescue(1.0, 99.0, "local_temp")}
    costs = {"retry": 1, "dense_steer": 1, "local_temp": 1000}
    decision = decide(evidence((-1.0, 0.0, 0.1), costs=costs), rescue=measured)
    assert ranking(decision) == ["local_temp", "retry", "dense_steer"]


def test_a_feature_that_never_varied_is_no_reason() -> None:
    still = {**moments(), "spread": Moments(mean=0.0, sd=0.0, count=100)}
    assert decide(evidence((9.0, 0.5, 0.1)), population=still).operator == "sparse_steer"


def test_operators_that_are_impossible_here_are_skipped() -> None:
    costs = {"sparse_steer": 10, "retry": 10}
    decision = decide(evidence((3.0, 1.0, 2.0), costs=costs))
    assert decision.operator == "sparse_steer"
    assert {candidate.operator for candidate in decision.candidates} == set(costs)


def test_operators_that_cost_too_much_are_skipped() -> None:
    costs = {"dense_steer": 300, "local_temp": 200, "sparse_steer": 201, "retry": 50}
    decision = decide(evidence((3.0, 2.0, 1.0), costs=costs, tokens_left=200))
    assert decision.operator == "local_temp"
    assert [candidate.operator for candidate in decision.candidates] == ["local_temp", "retry"]
    assert [candidate.expected_cost for candidate in decision.candidates] == [200, 50]


@pytest.mark.parametrize("changes", [{"tokens_left": 99}, {"costs": {}}])
def test_where_no_operator_fits_the_rule_stops(changes: dict[str, Any]) -> None:
    decision = decide(evidence((3.0, 2.0, 1.0), **changes))
    assert decision.operator is None
    assert decision.candidates == ()
    assert decision.expected_rescue == 0.0
    assert decision.reason == "no operator fits the tokens left"


def test_an_operator_the_policy_does_not_know_comes_last() -> None:
    costs = dict.fromkeys((*OPERATORS, "mine"), 1)
    measured = {
        **rescue(1.0, 1.0, "dense_steer"),
        **rescue(1.0, 4.0, "retry"),
        **rescue(1.0, 2.0, "sparse_steer"),
        **rescue(1.0, 6.0, "sparse_steer_random"),
        **rescue(1.0, 5.0, "local_temp"),
    }
    decision = decide(evidence((-1.0, -1.0, 3.0), costs=costs), rescue=measured)
    assert ranking(decision) == [
        "local_temp",
        "dense_steer",
        "sparse_steer",
        "retry",
        "sparse_steer_random",
        "mine",
    ]
    assert rates(decision)["mine"] == rates(decision)["sparse_steer_random"]


def test_a_router_decides_the_same_every_time() -> None:
    router = RuleRouter(policy())
    assert router.decide(evidence((1.0, 2.0, 3.0))) == router.decide(evidence((1.0, 2.0, 3.0)))


# --- several attempts ---


def test_a_failed_operator_gives_way_to_the_next_in_the_ranking() -> None:
    measured = {**rescue(1.0, 3.0, *OPERATORS), **rescue(1.1, 3.0, "sparse_steer_random")}
    assert walk(evidence((1.0, 3.0, 2.0)), 5, rescue=measured) == [
        "sparse_steer",
        "local_temp",
        "dense_steer",
        "sparse_steer_random",
        "retry",
    ]


def test_features_that_do_not_stand_out_come_by_rescue_for_their_cost() -> None:
    measured = {
        **rescue(1.0, 9.0, *OPERATORS),
        **rescue(1.0, 1.0, "retry"),
        **rescue(1.0, 1.4, "local_temp"),
    }
    # retry is expected to rescue 1/2, then 1/3; local_temp 1/2.4.
    assert walk(evidence((-1.0, 3.0, -2.0)), 4, rescue=measured) == [
        "sparse_steer",
        "retry",
        "local_temp",
        "retry",
    ]


def test_once_all_have_failed_they_follow_by_rescue_for_their_cost() -> None:
    costs = {name: 100 - place for place, name in enumerate(OPERATORS)}
    chosen = walk(evidence((1.0, 3.0, 2.0), costs=costs), 15, stop_below=0.0)
    assert chosen[:3] == ["sparse_steer", "local_temp", "dense_steer"]
    assert chosen[3:5] == ["sparse_steer_random", "retry"]
    assert chosen[5:10] == chosen[10:] == list(reversed(OPERATORS))


@pytest.mark.parametrize("carry_over", [0.0, 0.5, 1.0])
def test_an_operator_is_repeated_while_it_is_the_best_for_its_cost(carry_over: float) -> None:
    measured = {**rescue(40.0, 60.0, "retry"), **rescue(1.0, 99.0, "local_temp")}
    costs = {"retry": 10, "local_temp": 10}
    chosen = walk(evidence(None, costs=costs), 6, rescue=measured, carry_over=carry_over)
    assert chosen == ["retry"] * 6


def test_an_operators_own_failures_make_it_give_way() -> None:
    measured = {**rescue(1.0, 2.0, "retry"), **rescue(1.0, 3.5, "local_temp")}
    costs = {"retry": 100, "local_temp": 100}
    # retry is expected to rescue 1/3, 1/4, 1/5, 1/6 in turn; local_temp 1/4.5, 1/5.5.
    assert walk(evidence(None, costs=costs), 5, rescue=measured) == [
        "retry",
        "retry",
        "local_temp",
        "retry",
        "local_temp",
    ]


def test_an_operator_that_stood_out_is_repeated_where_it_is_the_best_for_its_cost() -> None:
    measured = {**rescue(1.0, 9.0, *OPERATORS), **rescue(30.0, 10.0, "dense_steer")}
    asked = evidence((2.0, 1.0, -1.0))
    assert walk(asked, 4, rescue=measured) == [
        "dense_steer",
        "sparse_steer",
        "dense_steer",
        "dense_steer",
    ]
    decision = decide(replace(asked, tried=("dense_steer", "sparse_steer")), rescue=measured)
    assert decision.expected_rescue == pytest.approx(30 / 41)
    assert decision.reason == (
        "dense_steer, sparse_steer failed; no other feature stands out: dense_steer has the best "
        "expected rescue for its cost, 73.2% for 100 tokens"
    )


def test_a_failed_plain_retry_counts_as_tried() -> None:
    measured = {**rescue(1.0, 9.0, *OPERATORS), **rescue(1.0, 2.0, "retry")}
    measured |= rescue(1.0, 2.5, "local_temp")
    assert decide(evidence(None), rescue=measured).operator == "retry"
    assert decide(evidence(None, tried=("retry",)), rescue=measured).operator == "local_temp"
    assert decide(evidence(None, failed_samples=5), rescue=measured).operator == "local_temp"


@given(
    z=st.tuples(FINITE, FINITE, FINITE) | st.none(),
    names=st.sets(st.sampled_from(OPERATORS), min_size=1),
    rounds=st.integers(1, 3),
)
@QUICK
def test_nothing_is_repeated_before_all_were_tried(
    z: tuple[float, float, float] | None, names: set[str], rounds: int
) -> None:
    chosen = walk(evidence(z, costs=dict.fromkeys(names, 1)), rounds * len(names), stop_below=0.0)
    for start in range(0, len(chosen), len(names)):
        assert set(chosen[start : start + len(names)]) == names


@pytest.mark.parametrize("carry_over", [0.0, 1.0])
def test_each_failed_attempt_lowers_what_the_next_is_expected_to_do(carry_over: float) -> None:
    expected = [
        decide(
            evidence(None, tried=("retry",) * failed, costs={"retry": 100}), carry_over=carry_over
        ).expected_rescue
        for failed in range(4)
    ]
    assert expected == pytest.approx([1 / 4, 1 / 5, 1 / 6, 1 / 7])


def test_without_carry_over_a_failure_counts_against_its_operator_only() -> None:
    found = rates(decide(evidence(tried=("retry", "dense_steer", "retry"))))
    assert found == pytest.approx(
        {**dict.fromkeys(OPERATORS, 1 / 4), "retry": 1 / 6, "dense_steer": 1 / 5}
    )


def test_with_full_carry_over_a_failure_counts_against_all_alike() -> None:
    tried = ("retry", "dense_steer", "retry", "someone elses")
    found = rates(decide(evidence(tried=tried, failed_samples=7), carry_over=1.0))
    assert found == pytest.approx(dict.fromkeys(OPERATORS, 1 / (4 + 4 + 3)))


def test_carry_over_changes_who_comes_next() -> None:
    # retry was measured to vary much over problems, so it loses more by the same failures.
    measured = {**rescue(0.5, 0.5, "retry"), **rescue(3.0, 7.0, "dense_steer")}
    asked = evidence(None, costs={"retry": 10, "dense_steer": 10}, tried=("elsewhere",) * 2)
    assert decide(asked, rescue=measured).operator == "retry"
    # 0.5 / (1 + 2 c) against 3 / (10 + 2 c): they meet at c = 0.4.
    assert decide(asked, rescue=measured, carry_over=0.39).operator == "retry"
    assert decide(asked, rescue=measured, carry_over=0.41).operator == "dense_steer"


@given(
    alpha=st.floats(0.01, 100),
    beta=st.floats(0.01, 100),
    tried=st.lists(st.sampled_from([*OPERATORS, "unknown"]), max_size=8),
    failed_samples=st.integers(0, 12),
    carry_over=st.floats(0, 1),
)
@QUICK
def test_expected_rescue_is_a_beta_mean_after_own_failures_and_a_part_of_the_others(
    alpha: float, beta: float, tried: list[str], failed_samples: int, carry_over: float
) -> None:
    found = rates(
        decide(
            evidence(tried=tried, failed_samples=failed_samples),
            rescue=rescue(alpha, beta, *OPERATORS),
            carry_over=carry_over,
        )
    )
    beyond = max(0, failed_samples - 4)
    for name in OPERATORS:
        own = tried.count(name) + (beyond if name == "retry" else 0)
        others = len(tried) + beyond - own
        weighed = alpha / (alpha + beta + own + carry_over * others)
        assert found[name] == pytest.approx(weighed)


def test_samples_beyond_the_policys_own_count_as_failures_of_retry() -> None:
    only: dict[str, Any] = {"costs": {"retry": 100}}
    assert decide(evidence(failed_samples=6, **only)).expected_rescue == pytest.approx(1 / 6)
    assert decide(evidence(failed_samples=4, **only)).expected_rescue == pytest.approx(1 / 4)
    assert decide(evidence(failed_samples=1, **only)).expected_rescue == pytest.approx(1 / 4)
    more = decide(evidence(failed_samples=6, **only), failed_samples=6)
    assert more.expected_rescue == 1 / 4
    others = rates(decide(evidence(failed_samples=6)))
    assert others == pytest.approx({**dict.fromkeys(OPERATORS, 1 / 4), "retry": 1 / 6})
    halved = rates(decide(evidence(failed_samples=6), carry_over=0.5))
    assert halved == pytest.approx({**dict.fromkeys(OPERATORS, 1 / 5), "retry": 1 / 6})


def test_an_operator_never_measured_counts_as_the_worst_that_was() -> None:
    measured = {**rescue(1.0, 1.0, "retry"), **rescue(1.0, 9.0, "local_temp")}
    decision = decide(evidence((2.0, -1.0, -1.0)), rescue=measured)
    assert decision.operator == "dense_steer"
    assert decision.expected_rescue == pytest.approx(1 / 10)


def test_a_policy_that_measured_no_operator_still_decides() -> None:
    assert decide(evidence((2.0, 1.0, 0.0)), rescue={}).operator == "dense_steer"


# --- stopping ---


@pytest.mark.parametrize(
    ("carry_over", "two_attempts"),
    # 0.0199, and 1 - 99/100 * 100/101 = 0.0198; three have 0.0297 and 3/102 = 0.0294.
    [(0.0, 1 - 0.99**2), (1.0, 2 / 101)],
)
def test_the_rule_stops_where_a_rescue_has_become_too_unlikely(
    carry_over: float, two_attempts: float
) -> None:
    settings_ = {
        "rescue": rescue(1.0, 99.0, *OPERATORS),
        "stop_below": 0.02,
        "carry_over": carry_over,
    }
    stopped = decide(evidence((2.0, 1.0, 0.0), attempts_left=2), **settings_)
    assert stopped.operator is None
    assert stopped.regime == "out_of_reach"
    assert stopped.probability == 1.0
    assert stopped.expected_rescue == pytest.approx(two_attempts)
    assert len(stopped.candidates) == len(OPERATORS)
    went_on = decide(evidence((2.0, 1.0, 0.0), attempts_left=3), **settings_)
    assert went_on.operator == "dense_steer"
    assert went_on.expected_rescue == pytest.approx(1 / 100)


def test_a_chance_that_equals_the_threshold_is_enough() -> None:
    one_in_four = {"costs": {"retry": 1}, "attempts_left": 1}
    assert decide(evidence(**one_in_four), stop_below=0.25).operator == "retry"
    assert decide(evidence(**one_in_four), stop_below=0.2501).operator is None


@pytest.mark.parametrize(
    ("carry_over", "all_fail"),
    [
        (0.0, (4 / 8) * (1 / 2) * (5 / 9)),  # dense_steer, retry, dense_steer again
        (1.0, (4 / 8) * (5 / 9) * (6 / 10)),  # dense_steer throughout: retry has fallen to 1/3
    ],
)
def test_the_chance_counts_the_operators_that_will_be_tried_in_turn(
    carry_over: float, all_fail: float
) -> None:
    stopped = decide(
        evidence((1.0, 0.0, 0.0), costs={"retry": 1, "dense_steer": 1}, attempts_left=3),
        rescue={**rescue(1.0, 1.0, "retry"), **rescue(4.0, 4.0, "dense_steer")},
        carry_over=carry_over,
        stop_below=1.0,
    )
    assert stopped.operator is None
    assert stopped.expected_rescue == pytest.approx(1 - all_fail)


@pytest.mark.parametrize(
    ("carry_over", "attempts"),
    [
        # After n failures the chance of four more attempts is 4 / (7 + n): under 0.21 from n = 13.
        (1.0, 13),
        # After 13 rounds of all five and three more, two have 1/17 left and then 1/18:
        # 1 - (16/17)^2 (17/18)^2 = 0.2099; one failure earlier it is 0.2126.
        (0.0, 68),
    ],
)
def test_failed_attempts_make_the_rule_stop_in_the_end(carry_over: float, attempts: int) -> None:
    chosen = walk(evidence((2.0, 1.0, 0.5)), 100, stop_below=0.21, carry_over=carry_over)
    assert chosen[-1] is None
    assert len(chosen) - 1 == attempts


@pytest.mark.parametrize(
    ("tokens_left", "attempts"),
    [(99, 0), (100, 1), (199.5, 1), (200, 2), (399, 3), (400, 4), (10_000, 4), (math.inf, 4)],
)
def test_the_tokens_left_limit_the_chance(tokens_left: float, attempts: int) -> None:
    asked = evidence(None, costs={"retry": 100}, tokens_left=tokens_left)
    # (3/4)(4/5)... leaves 3 / (3 + attempts).
    assert chance(asked) == pytest.approx(1 - 3 / (3 + attempts))


def test_the_chance_goes_on_with_what_still_fits_the_tokens_left() -> None:
    costs = {"dense_steer": 300, "retry": 100}
    measured = {**rescue(1.0, 1.0, "dense_steer"), **rescue(1.0, 3.0, "retry")}
    asked = evidence((1.0, 0.0, 0.0), costs=costs, attempts_left=9)
    dense, retry = 1 / 2, (3 / 4)
    for tokens, all_fail in [
        (300, dense),
        (399, dense),
        (400, dense * retry),
        (500, dense * retry * (4 / 5)),
        (299, retry * (4 / 5)),
    ]:
        assert chance(replace(asked, tokens_left=tokens), rescue=measured) == pytest.approx(
            1 - all_fail
        )


def test_the_chance_looks_64_attempts_ahead() -> None:
    only = evidence(None, costs={"retry": 1})
    for attempts, counted in [(63, 63), (64, 64), (65, 64), (10**9, 64)]:
        expected = 1 - 3 / (3 + counted)
        assert chance(replace(only, attempts_left=attempts)) == pytest.approx(expected)


def test_why_it_stopped_is_said_in_words() -> None:
    stopped = decide(
        evidence((2.0, 1.0, 0.0), tried=("dense_steer", "retry"), attempts_left=1),
        rescue=rescue(1.0, 97.0, *OPERATORS),
        stop_below=0.02,
    )
    assert stopped.reason == (
        "4 samples and 2 interventions failed; the chance of a rescue in 1 more attempt is 1.0%, "
        "under 2.0%: stop"
    )


# --- reasons ---


def test_the_reason_names_the_feature_and_the_cell() -> None:
    cells = {"m|t": moments(0.0, 1.0, 212)}
    decision = decide(evidence((1.8, 0.0, 0.0)), cells=cells, shrinkage=0.0)
    assert decision.reason == "spread is 1.8 sd above 212 stored failures of this cell: dense_steer"


def test_the_reason_says_where_the_cell_is_unknown() -> None:
    decision = decide(evidence((0.0, 0.0, 2.25)))
    assert decision.reason == (
        "logit_dispersion is 2.2 sd above 100 stored failures of other cells: local_temp"
    )


def test_the_reason_names_what_failed_before_once_each() -> None:
    tried = ("retry", "dense_steer", "retry")
    decision = decide(evidence((2.0, 1.0, 0.0), tried=tried))
    assert decision.reason == (
        "retry, dense_steer failed; "
        "concentration is 1.0 sd above 100 stored failures of other cells: sparse_steer"
    )


def test_the_reason_says_when_the_other_features_do_not_stand_out() -> None:
    decision = decide(evidence((2.0, -1.0, -1.0), tried=("dense_steer",)))
    assert decision.reason == (
        "dense_steer failed; no other feature stands out: retry has the best expected rescue for "
        "its cost, 25.0% for 100 tokens"
    )


# --- properties ---

EVIDENCE = st.builds(
    Evidence,
    model=st.sampled_from(["m", "other", "", "a|b"]),
    task=st.sampled_from(["t", "default", ""]),
    features=st.none() | st.builds(ProblemFeatures, st.floats(), st.floats(), st.floats()),
    failed_samples=st.integers(0, 60),
    tried=st.lists(st.sampled_from([*OPERATORS, "unknown"]), max_size=12),
    costs=st.dictionaries(st.sampled_from([*OPERATORS, "mine"]), st.integers(0, 1000)),
    attempts_left=st.integers(0, 30),
    tokens_left=st.just(math.inf) | st.floats(-100, 1100),
)
POLICIES = st.builds(
    policy,
    population=st.fixed_dictionaries(
        dict.fromkeys(
            FEATURES,
            st.builds(Moments, mean=FINITE, sd=st.floats(0, 1e6), count=st.integers(0, 500)),
        )
    ),
    cells=st.just({}) | st.builds(lambda m, c: {"m|t": moments(m, 1.0, c)}, FINITE, st.integers(0)),
    rule=st.dictionaries(st.sampled_from(FEATURES), st.sampled_from(OPERATORS)),
    rescue=st.dictionaries(
        st.sampled_from(OPERATORS),
        st.builds(
            Rescue, alpha=st.floats(1e-3, 1e3), beta=st.floats(1e-3, 1e3), problems=st.integers(0)
        ),
    ),
    carry_over=st.floats(0, 1),
    shrinkage=st.floats(0, 1e3),
    failed_samples=st.integers(0, 50),
    stop_below=st.floats(0, 1),
)


@given(asked=EVIDENCE, by=POLICIES)
@settings(deadline=None, max_examples=examples(300))
def test_any_evidence_gets_a_decision_that_can_be_carried_out(asked: Evidence, by: Policy) -> None:
    decision = RuleRouter(by).decide(asked)
    affordable = {name for name, cost in asked.costs.items() if cost <= asked.tokens_left}
    assert decision.operator is None or decision.operator in affordable
    assert decision.probability == 1.0
    assert 0 <= decision.expected_rescue <= 1
    assert decision.regime in get_args(Regime)
    assert decision.reason
    assert "\n" not in decision.reason
    assert sorted(c.operator for c in decision.candidates) == sorted(affordable)
    for candidate in decision.candidates:
        assert 0 <= candidate.expected_rescue <= 1
        assert candidate.expected_cost == asked.costs[candidate.operator]
    if decision.operator is not None:
        assert decision.operator == decision.candidates[0].operator
        assert decision.expected_rescue == decision.candidates[0].expected_rescue


@given(
    z=st.tuples(FINITE, FINITE, FINITE),
    costs=st.dictionaries(st.sampled_from(OPERATORS), st.integers(1, 1000), min_size=1),
    alphas=st.tuples(*[st.floats(0.01, 10)] * len(OPERATORS)),
)
@QUICK
def test_the_first_choice_is_the_largest_z_above_zero_or_else_the_best_rescue_for_its_cost(
    z: tuple[float, float, float], costs: dict[str, int], alphas: tuple[float, ...]
) -> None:
    assume(len(set(z)) == 3)
    by_operator = {
        RULE[name]: value for name, value in zip(FEATURES, z, strict=True) if RULE[name] in costs
    }
    best = max(by_operator, key=lambda name: by_operator[name], default=None)
    measured: dict[str, Rescue] = {}
    for name, alpha in zip(OPERATORS, alphas, strict=True):
        measured |= rescue(alpha, 3.0, name)
    decision = decide(evidence(z, costs=costs), rescue=measured, stop_below=0.0)
    if best is not None and by_operator[best] > 0:
        assert decision.operator == best
    else:
        worth = {name: measured[name].after(0) / cost for name, cost in costs.items()}
        assert decision.operator is not None
        assert worth[decision.operator] == max(worth.values())


KNOWN = EVIDENCE.filter(lambda asked: not any(map(math.isnan, asked.features or ())))


@given(asked=KNOWN, by=POLICIES)
@QUICK
def test_candidates_are_what_stands_out_by_z_then_all_by_rescue_for_their_cost(
    asked: Evidence, by: Policy
) -> None:
    candidates = RuleRouter(by).decide(asked).candidates
    failed = {*asked.tried, *(["retry"] if asked.failed_samples > by.failed_samples else [])}
    first = [c for c in candidates if (c.score or 0.0) > 0 and c.operator not in failed]
    assert candidates[: len(first)] == tuple(first)
    scores = [c.score or 0.0 for c in first]
    assert scores == sorted(scores, reverse=True)
    worth = [c.expected_rescue / max(1, c.expected_cost) for c in candidates[len(first) :]]
    assert worth == sorted(worth, reverse=True)


@given(
    z=st.tuples(FINITE, FINITE, FINITE) | st.none(),
    costs=st.dictionaries(st.sampled_from(OPERATORS), st.integers(1, 5), min_size=1),
    alphas=st.tuples(*[st.floats(0.5, 5)] * len(OPERATORS)),
)
@FEWER
def test_candidates_come_in_the_order_in_which_they_are_first_tried(
    z: tuple[float, float, float] | None, costs: dict[str, int], alphas: tuple[float, ...]
) -> None:
    measured: dict[str, Rescue] = {}
    for name, alpha in zip(OPERATORS, alphas, strict=True):
        measured |= rescue(alpha, 3.0, name)
    changes: dict[str, Any] = {"rescue": measured, "stop_below": 0.0}
    asked = evidence(z, costs=costs)
    chosen = list(dict.fromkeys(walk(asked, 15, **changes)))
    assert chosen == ranking(decide(asked, **changes))[: len(chosen)]


@given(asked=KNOWN, by=POLICIES, operator=st.sampled_from(OPERATORS))
@FEWER
def test_an_own_failure_never_improves_an_operators_rank_or_anyones_rescue(
    asked: Evidence, by: Policy, operator: str
) -> None:
    assume(operator in asked.costs and asked.costs[operator] <= asked.tokens_left)
    again = replace(asked, tried=[*asked.tried, operator])
    before, after = RuleRouter(by).decide(asked), RuleRouter(by).decide(again)
    assert all(after_ <= rates(before)[name] for name, after_ in rates(after).items())
    alone = RuleRouter(by.model_copy(update={"carry_over": 0.0}))
    ranks = [ranking(alone.decide(which)).index(operator) for which in (asked, again)]
    assert ranks[0] <= ranks[1]


@given(asked=EVIDENCE, by=POLICIES)
@FEWER
def test_the_chance_never_falls_with_more_attempts_left(asked: Evidence, by: Policy) -> None:
    changes = {name: getattr(by, name) for name in Policy.model_fields}
    chances = [chance(replace(asked, attempts_left=left), **changes) for left in range(6)]
    assert chances == sorted(chances)
    assert chances[0] == 0.0
    first = RuleRouter(by).decide(asked).candidates[:1]
    assert chances[1] == pytest.approx(sum(c.expected_rescue for c in first))


def test_a_decision_is_plain_data() -> None:
    decision = decide(evidence((2.0, 1.0, -1.0)))
    data = json.loads(json.dumps(decision.as_dict()))
    candidates = tuple(Candidate(**candidate) for candidate in data.pop("candidates"))
    assert Decision(**data, candidates=candidates) == decision


# --- moments of a cell ---


def test_an_unknown_cell_has_the_populations_moments() -> None:
    known = policy(cells={"m|t": moments(5.0, 2.0, 30)})
    assert known.moments("m", "other") == (known.population, 0)
    assert known.moments("other", "t") == (known.population, 0)


def test_as_many_failures_as_the_shrinkage_put_the_mean_halfway() -> None:
    found, count = policy(cells={"m|t": moments(6.0, 1.0, 20)}, shrinkage=20.0).moments("m", "t")
    assert count == 20
    for name in FEATURES:
        assert found[name].mean == pytest.approx(3.0)
        assert found[name].sd == pytest.approx(math.sqrt(1 + 9))


def test_without_shrinkage_a_cell_has_its_own_moments() -> None:
    found, count = policy(cells={"m|t": moments(6.0, 2.5, 7)}, shrinkage=0.0).moments("m", "t")
    assert count == 7
    assert found["spread"].mean == pytest.approx(6.0)
    assert found["spread"].sd == pytest.approx(2.5)


@pytest.mark.parametrize("shrinkage", [0.0, 20.0])
def test_a_cell_without_failures_has_the_populations_moments(shrinkage: float) -> None:
    known = policy(cells={"m|t": moments(6.0, 2.0, 0)}, shrinkage=shrinkage)
    found, count = known.moments("m", "t")
    assert count == 0
    assert (found["spread"].mean, found["spread"].sd) == (0.0, 1.0)


@given(
    mean=st.floats(-50, 50),
    sd=st.floats(0, 20),
    count=st.integers(0, 1000),
    everyone=st.tuples(st.floats(-50, 50), st.floats(0, 20)),
    shrinkage=st.floats(0.1, 200),
)
@QUICK
def test_moments_are_those_of_both_groups_poured_together(
    mean: float, sd: float, count: int, everyone: tuple[float, float], shrinkage: float
) -> None:
    pooled = policy(
        population=moments(*everyone), cells={"m|t": moments(mean, sd, count)}, shrinkage=shrinkage
    ).moments("m", "t")[0]["concentration"]
    total = count + shrinkage
    first = (count * mean + shrinkage * everyone[0]) / total
    second = (count * (mean**2 + sd**2) + shrinkage * (everyone[0] ** 2 + everyone[1] ** 2)) / total
    assert pooled.mean == pytest.approx(first, abs=1e-9)
    assert pooled.sd**2 == pytest.approx(second - first**2, abs=1e-8)


def test_the_rule_goes_by_the_cells_own_moments() -> None:
    cells = {"m|t": {**moments(0.0, 1.0, 10**6), "spread": Moments(mean=9.0, sd=1.0, count=10**6)}}
    known = RuleRouter(policy(cells=cells))
    asked = evidence((5.0, 1.0, 0.0))
    assert known.decide(asked).operator == "sparse_steer"
    elsewhere = evidence((5.0, 1.0, 0.0), task="another")
    assert known.decide(elsewhere).operator == "dense_steer"


# --- policy files ---

CHANGES: dict[str, Any] = {
    "name": "other",
    "created": "2026-01-02",
    "source": "elsewhere",
    "feature_version": FEATURE_VERSION + 1,
    "router_version": 7,
    "population": moments(0.25),
    "cells": {"m|t": moments()},
    "shrinkage": 21.0,
    "rule": {"spread": "retry"},
    "rescue": rescue(1.0, 3.0, "retry"),
    "carry_over": 0.5,
    "failed_samples": 5,
    "stop_below": 0.02,
    "code_version": "9.9.9",
    "window": Window(first="2026-01-01", last="2026-01-02"),
    "counts": Counts(problems=4, attempts=32.0, rescues=8.0),
    "posterior": posterior(),
    "rollout": RolloutPart(
        population={name: Moments(mean=0.5, sd=0.25, count=9) for name in ROLLOUT_FEATURES}
    ),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test keeps its policy."""
    return tmp_path / "policy.json"


@pytest.fixture(scope="module")
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy file that every Hypothesis example writes anew."""
    return tmp_path_factory.mktemp("policies") / "policy.json"


def refusal(path: Path) -> str:
    with pytest.raises(PolicyError) as refused:
        load_policy(path)
    message = str(refused.value)
    assert message.startswith(f"policy {path}: ")
    assert "\n" not in message
    return message


def learned(**changes: Any) -> dict[str, Any]:
    """A posterior with some of its fields replaced, as a change of the file."""
    return {"posterior": {**posterior().model_dump(mode="json"), **changes}}


def saved(path: Path, **changes: Any) -> dict[str, Any]:
    policy(**changes).save(path)
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def test_a_saved_policy_is_loaded_as_it_was(path: Path) -> None:
    full = policy(cells={"m|t": moments(0.1, 0.3, 17)}, rule=RULE, source="Größe 🎲")
    full.save(path)
    assert load_policy(path) == full
    assert load_policy(str(path)).content_hash == full.content_hash


LEARNED = st.fixed_dictionaries(
    {},
    optional={
        "code_version": st.text(),
        "window": st.builds(Window, first=st.text(), last=st.text()),
        "counts": st.builds(
            Counts,
            problems=st.integers(0, 10**6),
            attempts=st.floats(0, 1e9),
            rescues=st.floats(0, 1e9),
        ),
        "posterior": st.builds(
            posterior,
            bandwidth=st.floats(1e-9, 1e9),
            informed=st.floats(0, 1),
            measure=st.booleans(),
            explore=st.floats(0, 1),
            failures=st.dictionaries(st.text(), st.integers(0, 10**6), max_size=3),
            cells=st.dictionaries(
                st.text(), st.dictionaries(st.integers(0, 1), st.floats(0, 1)), max_size=3
            ),
        ),
    },
)


@given(by=POLICIES, learned=LEARNED)
@settings(deadline=None, max_examples=examples(75))
def test_any_policy_survives_its_file(
    shared_path: Path, by: Policy, learned: dict[str, Any]
) -> None:
    by = by.model_copy(update=learned)
    by.save(shared_path)
    loaded = load_policy(shared_path)
    assert loaded == by
    assert loaded.content_hash == by.content_hash


def test_the_file_is_json_with_the_hash_in_it(path: Path) -> None:
    data = saved(path)
    assert data["content_hash"] == policy().content_hash
    assert data["stop_below"] == 0.01
    assert data["carry_over"] == 0.0
    assert len(data["content_hash"]) == 16


V1 = """{
  "schema_version": 1,
  "name": "by hand",
  "created": "2025-06-01",
  "source": "an earlier version",
  "feature_version": 1,
  "router_version": 1,
  "population": {
    "spread": {"mean": 0.75, "sd": 0.125, "count": 40},
    "concentration": {"mean": 1.5, "sd": 0.5, "count": 40},
    "logit_dispersion": {"mean": -1.5, "sd": 0.75, "count": 40}
  },
  "cells": {},
  "shrinkage": 20.0,
  "rule": {"spread": "dense_steer", "logit_dispersion": "local_temp"},
  "rescue": {
    "retry": {"alpha": 0.5, "beta": 4.5, "problems": 40},
    "dense_steer": {"alpha": 0.5, "beta": 3.5, "problems": 40}
  },
  "carry_over": 0.5,
  "failed_samples": 4,
  "stop_below": 0.05,
  "content_hash": "d85862329fdc42e9"
}
"""


def test_a_file_of_version_1_still_loads_and_keeps_its_hash(path: Path) -> None:
    content = json.loads(V1)
    del content["content_hash"]
    by_hand = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    assert by_hand == "d85862329fdc42e9"
    path.write_text(V1, encoding="utf-8")
    loaded = load_policy(path)
    assert loaded.content_hash == by_hand
    assert loaded.schema_version == 1
    assert [getattr(loaded, name) for name in NEW] == [None] * 4
    assert isinstance(as_router(loaded), RuleRouter)
    loaded.save(path)
    assert json.loads(path.read_text(encoding="utf-8")) == json.loads(V1)


def test_a_file_of_version_1_changed_by_hand_is_noticed(path: Path) -> None:
    path.write_text(V1.replace('"mean": 0.75', '"mean": 0.76'), encoding="utf-8")
    assert "changed after it was written" in refusal(path)


def test_policies_are_of_the_newest_version(path: Path) -> None:
    assert policy().schema_version == saved(path)["schema_version"] == 2
    assert not {*NEW} & saved(path).keys()


def test_every_field_but_the_schema_is_changed_below() -> None:
    assert set(CHANGES) == set(Policy.model_fields) - {"schema_version"}


@pytest.mark.parametrize("field", CHANGES)
def test_the_hash_changes_with_every_field(field: str) -> None:
    assert policy(**{field: CHANGES[field]}).content_hash != policy().content_hash


@pytest.mark.parametrize("field", sorted(set(CHANGES) - {"feature_version"}))
def test_a_field_changed_by_hand_is_noticed(path: Path, field: str) -> None:
    data = saved(path)
    other = path.with_name("other.json")
    data[field] = saved(other, **{field: CHANGES[field]})[field]
    path.write_text(json.dumps(data), encoding="utf-8")
    message = refusal(path)
    assert policy().content_hash in message
    assert "changed after it was written" in message


def test_a_part_of_what_was_learned_changed_by_hand_is_noticed(path: Path) -> None:
    data = saved(path, posterior=posterior())
    data["posterior"]["rescue"][1][0] += 1e-9
    path.write_text(json.dumps(data), encoding="utf-8")
    assert "changed after it was written" in refusal(path)


@pytest.mark.parametrize("claimed", [None, "", 5, "0" * 16])
def test_a_wrong_hash_is_refused(path: Path, claimed: Any) -> None:
    path.write_text(json.dumps({**saved(path), "content_hash": claimed}), encoding="utf-8")
    message = refusal(path)
    assert f"content_hash is {claimed!r}" in message
    assert policy().content_hash in message


@pytest.mark.parametrize(
    "missing",
    ["name", "created", "source", "population", "rescue", "stop_below", "content_hash"],
)
def test_a_missing_field_is_named(path: Path, missing: str) -> None:
    data = saved(path)
    del data[missing]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert missing in refusal(path)


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        ({"schema_version": 3}, ["schema_version 3 is newer than 2", "pip install -U"]),
        ({"schema_version": 0}, ["'schema_version'", "got 0"]),
        ({"schema_version": "1.5"}, ["'schema_version'", "got '1.5'"]),
        ({"extra": 1}, ["unknown field 'extra'"]),
        ({"name": ""}, ["'name'", "at least 1 character"]),
        ({"stop_below": 2}, ["'stop_below'", "less than or equal to 1", "got 2"]),
        ({"stop_below": -0.1}, ["'stop_below'", "greater than or equal to 0"]),
        ({"stop_below": math.nan}, ["'stop_below'", "finite", "nan"]),
        ({"shrinkage": math.inf}, ["'shrinkage'", "finite", "inf"]),
        ({"shrinkage": -1}, ["'shrinkage'", "greater than or equal to 0"]),
        ({"fallback": ["retry"]}, ["unknown field 'fallback'"]),
        ({"carry_over": 1.5}, ["'carry_over'", "less than or equal to 1", "got 1.5"]),
        ({"carry_over": -0.1}, ["'carry_over'", "greater than or equal to 0"]),
        ({"carry_over": math.nan}, ["'carry_over'", "finite", "nan"]),
        ({"population": {}}, ["population has []", "['concentration', "]),
        ({"cells": {"m|t": {}}}, ["m|t has []", "['concentration', "]),
        ({"rule": {"length": "retry"}}, ["rule names ['length']", "features are"]),
        (
            {"rescue": {"retry": {"alpha": math.nan, "beta": 1, "problems": 1}}},
            ["'rescue.retry.alpha'", "nan"],
        ),
        (
            {"rescue": {"retry": {"alpha": 0, "beta": 1, "problems": 1}}},
            ["'rescue.retry.alpha'", "greater than 0"],
        ),
        (
            {"population": {name: {"mean": 0, "sd": -1, "count": 1} for name in FEATURES}},
            ["sd'", "greater than or equal to 0"],
        ),
        ({"code_version": 1}, ["'code_version'", "got 1"]),
        ({"window": {"first": "2026-01-01"}}, ["'window.last' is missing"]),
        (
            {"counts": {"problems": -1, "attempts": 1, "rescues": 0}},
            ["'counts.problems'", "got -1"],
        ),
        ({"posterior": {}}, ["'posterior.operators' is missing"]),
        (learned(operators=[]), ["'posterior.operators'"]),
        (learned(rescue=[[0.5, 0.5], [0.1]]), ["every type of rescue must have 2 numbers"]),
        (learned(rescue=[[0.5, 0.5], [0.0, 0.1]]), ["strictly between 0 and 1"]),
        (learned(rescue=[[0.5, 0.5], [0.1, math.nan]]), ["posterior.rescue", "nan"]),
        (learned(weights=[1.0]), ["weights has 1 numbers for 2 types"]),
        (learned(weights=[-1.0, 2.0]), ["weights must be at least 0"]),
        (learned(weights=[0.0, 0.0]), ["not all 0"]),
        (learned(hardness=[1.0, 2.0, 3.0]), ["hardness has 3 numbers for 2 types"]),
        (learned(bandwidth=0), ["'posterior.bandwidth'", "greater than 0"]),
        (learned(informed=1.5), ["'posterior.informed'", "less than or equal to 1"]),
        (learned(explore=-0.1), ["'posterior.explore'", "greater than or equal to 0"]),
        (learned(cells={"m|t": {"2": 1.0}}), ["cell 'm|t' names a type that does not exist"]),
        (learned(extra=1), ["unknown field 'posterior.extra'"]),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_in_words(
    path: Path, change: dict[str, Any], fragments: list[str]
) -> None:
    path.write_text(json.dumps({**saved(path), **change}), encoding="utf-8")
    message = refusal(path)
    assert [fragment for fragment in fragments if fragment not in message] == [], message


def test_a_policy_of_another_feature_version_is_refused(path: Path) -> None:
    saved(path, feature_version=FEATURE_VERSION + 1)
    message = refusal(path)
    assert f"feature version {FEATURE_VERSION + 1}" in message
    assert "fit it again" in message


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "got list"),
        (b"null", "got NoneType"),
        (b"{}", "is missing"),
        (pickle.dumps({"name": "p"}), "not JSON"),
        (pickle.dumps({"name": "p"}, protocol=0), "not JSON"),
    ],
    ids=["empty", "cut", "not text", "deep", "list", "null", "object", "pickle", "pickle 0"],
)
def test_a_file_that_is_no_policy_is_refused(path: Path, content: bytes, fragment: str) -> None:
    path.write_bytes(content)
    assert fragment in refusal(path)


def test_a_pickle_is_never_executed(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (path.with_name("sprung"),))

    path.write_bytes(pickle.dumps(Trap()))
    assert "not JSON" in refusal(path)
    assert not path.with_name("sprung").exists()


def test_a_missing_file_is_refused(path: Path) -> None:
    assert refusal(path) == f"policy {path}: cannot be read: No such file or directory"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)


NEW = ("code_version", "window", "counts", "posterior")  # since version 2


@given(
    keys=st.sampled_from(
        [
            *((field,) for field in (*CHANGES, "schema_version", "content_hash", "extra")),
            ("population", "spread"),
            ("population", "spread", "sd"),
            ("rescue", "retry", "alpha"),
            ("cells", "m|t", "spread", "count"),
            ("posterior", "explore"),
            ("posterior", "cells"),
            ("posterior", "rescue"),
            ("posterior", "covariates", "coefficients"),
            ("counts", "problems"),
        ]
    ),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=4,
    ),
)
@settings(deadline=None, max_examples=examples(200))
def test_a_file_with_any_value_changed_is_the_same_policy_or_refused(
    shared_path: Path, keys: tuple[str, ...], value: Any
) -> None:
    original = policy(cells={"m|t": moments()}, **{name: CHANGES[name] for name in NEW})
    original.save(shared_path)
    data = json.loads(shared_path.read_text(encoding="utf-8"))
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    shared_path.write_text(json.dumps(data), encoding="utf-8")
    loaded, message = None, ""
    try:
        loaded = load_policy(shared_path)
    except PolicyError as error:
        message = str(error)
    assert loaded == original or message.startswith(f"policy {shared_path}: ")


# --- routers ---


def test_none_gives_the_policy_that_ships() -> None:
    router = as_router(None)
    assert isinstance(router, PosteriorRouter)
    assert router.name == default_policy().name == "embedded-posterior"
    assert router.content_hash == default_policy().content_hash
    assert router.explore == 0.05


def test_the_rule_goes_by_the_policy_that_ships_too() -> None:
    router = RuleRouter()
    assert router.content_hash == default_policy().content_hash
    assert router.decide(evidence((0.99, 1.0, 0.0))).probability == 1.0


def test_the_policy_that_ships_says_what_it_was_fitted_on() -> None:
    shipped = default_policy()
    assert shipped.schema_version == 2
    assert shipped.posterior is not None
    assert shipped.counts is not None
    assert sum(shipped.posterior.failures.values()) == shipped.counts.problems
    assert shipped.population["spread"].count == shipped.counts.problems
    assert set(shipped.posterior.operators) == set(OPERATORS)
    assert set(shipped.rescue) == {*OPERATORS, "extend"}  # which no model that scores is offered


def test_the_policy_that_ships_decides() -> None:
    assert as_router(None).decide(evidence((0.5, 1.0, 0.0))).reason


def test_a_policy_gives_a_router_stamped_with_it() -> None:
    router = as_router(policy())
    assert isinstance(router, Router)
    assert isinstance(router, RuleRouter)
    assert (router.name, router.content_hash) == ("small", policy().content_hash)


def test_a_policy_that_has_learned_gives_a_router_that_goes_by_it() -> None:
    learned_policy = policy(posterior=posterior())
    router = as_router(learned_policy)
    assert isinstance(router, Router)
    assert isinstance(router, PosteriorRouter)
    assert (router.name, router.content_hash) == ("small", learned_policy.content_hash)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gives_the_router_of_that_file(path: Path, kind: Any) -> None:
    policy().save(path)
    assert as_router(kind(path)).content_hash == policy().content_hash


def test_a_path_to_nothing_is_a_policy_error(path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        as_router(path)


class AlwaysRetry:
    """A router of someone's own."""

    name = "always-retry"
    content_hash = "1"

    def decide(self, evidence: Evidence) -> Decision:
        return Decision("retry", "sampling", 1.0, 0.5, (), "always")


@pytest.mark.parametrize("router", [AlwaysRetry(), RuleRouter(policy())])
def test_a_router_stays_itself(router: Router) -> None:
    assert as_router(router) is router


@pytest.mark.parametrize(
    "value", [3, b"policy.json", {}, AlwaysRetry, RuleRouter, object(), [policy()], print]
)
def test_anything_else_is_refused_in_words(value: Any) -> None:
    with pytest.raises(InvalidInputError) as refused:
        as_router(value)
    assert str(refused.value).startswith("router is ")
    assert "it must be a Router, a Policy or the path of a policy file" in str(refused.value)


# Faults that were found by attacking the package


def test_of_two_features_for_one_operator_the_stronger_counts() -> None:
    rule = {"spread": "dense_steer", "concentration": "sparse_steer"}
    both = {**rule, "logit_dispersion": "dense_steer"}
    decision = decide(evidence((3.0, 2.0, 1.0)), rule=both)
    assert decision.candidates[0].score == pytest.approx(3.0)
    assert decision.reason.startswith("spread is 3.0 sd above")


def test_a_cell_may_not_hide_a_population_that_is_wrong() -> None:
    with pytest.raises(ValueError, match="population has"):
        policy(population={}, cells={"population": moments()})


def test_without_attempts_left_the_rule_stops() -> None:
    assert decide(evidence((3.0, 2.0, 1.0), attempts_left=0), stop_below=0.0).operator is None


def test_cells_of_different_models_are_told_apart() -> None:
    known = policy(cells={cell_name("a|b", "c"): moments(5.0, 1.0, 50)})
    assert known.moments("a|b", "c")[1] == 50
    assert known.moments("a", "b|c")[1] == 0


def test_a_policy_of_absurd_moments_is_refused_or_decides() -> None:
    try:
        known = policy(cells={"m|t": moments(0.0, 1e200, 50)})
    except ValueError:
        return
    assert RuleRouter(known).decide(evidence((1.0, 0.0, 0.0))).reason


def test_the_reason_fits_where_the_feature_that_stands_out_cannot_be_acted_on() -> None:
    costs = {"dense_steer": 500, "retry": 10}
    decision = decide(evidence((3.0, -1.0, -1.0), costs=costs, tokens_left=100))
    assert decision.operator == "retry"
    assert "no other feature" not in decision.reason
