"""Off-policy estimates, against policies whose worth is known exactly."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.offpolicy import (
    Estimate,
    Figures,
    Interval,
    Logged,
    compare,
    doubly_robust,
    effective_sample_size,
    estimate,
    final_weights,
    importance,
    self_normalised,
    weighted_doubly_robust,
)
from tests.searching import examples

Array = NDArray[Any]

# A world: hidden kinds of problem, a sign that hints at the kind, three operators and stopping.
KINDS = np.array([0.3, 0.3, 0.4])
SIGN = np.array([0.8, 0.3, 0.1])  # how often each kind shows it
RESCUES = np.array([[0.5, 0.1, 0.3, 0.0], [0.05, 0.4, 0.2, 0.0], [0.0, 0.01, 0.02, 0.0]])
TOKENS = np.array([40.0, 90.0, 150.0, 0.0])
STEPS, STOP = 4, 3
# By sign, step and action.
LOGGING = np.array(
    [
        [
            [0.25, 0.4, 0.25, 0.1],
            [0.2, 0.4, 0.25, 0.15],
            [0.2, 0.3, 0.3, 0.2],
            [0.2, 0.3, 0.2, 0.3],
        ],
        [[0.4, 0.3, 0.25, 0.05], [0.4, 0.3, 0.2, 0.1], [0.3, 0.3, 0.2, 0.2], [0.3, 0.2, 0.2, 0.3]],
    ]
)
TARGET = np.array(
    [
        [[0.1, 0.7, 0.2, 0.0], [0.2, 0.5, 0.0, 0.3], [0.0, 0.3, 0.2, 0.5], [0.0, 0.0, 0.0, 1.0]],
        [[0.8, 0.0, 0.2, 0.0], [0.6, 0.2, 0.2, 0.0], [0.4, 0.3, 0.0, 0.3], [0.1, 0.2, 0.0, 0.7]],
    ]
)


class Worth(NamedTuple):
    """A policy by exact enumeration: V by kind, sign and step, Q also by action, then the means."""

    value: Array
    action_value: Array
    cost_value: Array
    action_cost: Array
    rate: float
    cost: float

    @property
    def per_1000(self) -> float:
        return 1000 * self.rate / self.cost


def worth(policy: Array, rescues: Array = RESCUES) -> Worth:
    value, cost_value = np.zeros((2, 3, 2, STEPS + 1))
    action_value, action_cost = np.zeros((2, 3, 2, STEPS, 4))
    goes_on = (1 - rescues) * (np.arange(4) != STOP)
    for step in reversed(range(STEPS)):
        for sign in (0, 1):
            after, cost_after = value[:, sign, step + 1], cost_value[:, sign, step + 1]
            action_value[:, sign, step] = rescues + goes_on * after[:, None]
            action_cost[:, sign, step] = TOKENS + goes_on * cost_after[:, None]
            value[:, sign, step] = action_value[:, sign, step] @ policy[sign, step]
            cost_value[:, sign, step] = action_cost[:, sign, step] @ policy[sign, step]
    shares = KINDS[:, None] * np.stack([1 - SIGN, SIGN], axis=1)
    rate, cost = (shares * value[:, :, 0]).sum(), (shares * cost_value[:, :, 0]).sum()
    return Worth(value, action_value, cost_value, action_cost, float(rate), float(cost))


class Log(NamedTuple):
    """What happened, with what only the world knows."""

    problem: Array
    kind: Array
    sign: Array
    step: Array
    action: Array
    reward: Array
    cost: Array

    def under(self, target: Array, model: Worth | None = None, logging: Array = LOGGING) -> Logged:
        """As logged decisions for a target policy; without a model, all V and Q are 0."""
        state = (self.kind, self.sign, self.step)
        nothing = np.zeros(len(self.problem))
        return Logged(
            self.problem,
            self.reward,
            self.cost,
            logging[self.sign, self.step, self.action],
            target[self.sign, self.step, self.action],
            nothing if model is None else model.value[state],
            nothing if model is None else model.action_value[*state, self.action],
            nothing if model is None else model.cost_value[state],
            nothing if model is None else model.action_cost[*state, self.action],
        )


def play(
    rng: np.random.Generator, problems: int, policy: Array = LOGGING, rescues: Array = RESCUES
) -> Log:
    kind = rng.choice(3, size=problems, p=KINDS)
    sign = (rng.random(problems) < SIGN[kind]).astype(int)
    left, rows = np.arange(problems), []
    for step in range(STEPS):
        chances = policy[sign[left], step].cumsum(axis=1)
        action = (rng.random((len(left), 1)) > chances[:, :-1]).sum(axis=1)
        reward = (rng.random(len(left)) < rescues[kind[left], action]).astype(float)
        cost = TOKENS[action] * rng.uniform(0.5, 1.5, len(left))
        rows.append((left, kind[left], sign[left], np.full(len(left), step), action, reward, cost))
        left = left[(reward == 0) & (action != STOP)]
    columns = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    order = np.lexsort((columns[3], columns[0]))
    return Log(*(column[order] for column in columns))


TRUTH, LOGGED_TRUTH = worth(TARGET), worth(LOGGING)


def wrong() -> Worth:
    """A model that is far off, but whose V is what its Q comes to under the target policy."""
    rng = np.random.default_rng(0)
    q = rng.uniform(-0.5, 1.5, TRUTH.action_value.shape)
    q_cost = rng.uniform(0, 300, q.shape)
    v, v_cost = ((table * TARGET).sum(axis=-1) for table in (q, q_cost))
    return Worth(v, q, v_cost, q_cost, math.nan, math.nan)


WRONG = wrong()


def points(made: Estimate) -> list[float]:
    return [figure.point for figures in (made.snips, made.dr) for figure in figures]


def test_enumeration_agrees_with_a_large_simulation() -> None:
    log = play(np.random.default_rng(0), 200_000, TARGET)
    assert log.reward.sum() / 200_000 == pytest.approx(TRUTH.rate, abs=0.005)
    assert log.cost.sum() / 200_000 == pytest.approx(TRUTH.cost, rel=0.01)


@pytest.fixture(scope="module")
def repeated() -> dict[str, Array]:
    """Point, low and high of each figure, [300, 3] by name, over as many logs of 300 problems."""
    rng = np.random.default_rng(1)
    rows: dict[str, list[Interval]] = {}
    for seed in range(300):
        log = play(rng, 300)
        options = {"resamples": 200, "seed": seed}
        gains = compare(log.under(TARGET, TRUTH), log.under(LOGGING, LOGGED_TRUTH), **options)
        wrong = estimate(log.under(TARGET, WRONG), **options)
        for name, figures in (
            ("snips", gains.target.snips),
            ("dr", gains.target.dr),
            ("wrong", wrong.dr),
        ):
            for field, figure in zip(Figures._fields, figures, strict=True):
                rows.setdefault(f"{name} {field}", []).append(figure)
        rows.setdefault("snips gain", []).append(gains.snips)
        rows.setdefault("dr gain", []).append(gains.dr)
    return {name: np.array(found) for name, found in rows.items()}


TRUTHS = {
    "rescue_rate": TRUTH.rate,
    "mean_cost": TRUTH.cost,
    "rescues_per_1000": TRUTH.per_1000,
    "gain": TRUTH.per_1000 - LOGGED_TRUTH.per_1000,
}
ESTIMATED = [
    f"{name} {figure}"
    for name in ("snips", "dr", "wrong")
    for figure in TRUTHS
    if (name, figure) != ("wrong", "gain")
]


@pytest.mark.parametrize("name", ESTIMATED)
@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say(
    repeated: dict[str, Array], name: str
) -> None:
    _, low, high = repeated[name].T
    truth = TRUTHS[name.split()[1]]
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.90 <= covered <= 0.99  # nominally 0.95, give or take 0.013


@pytest.mark.parametrize("name", ["rescue_rate", "mean_cost"])
@pytest.mark.parametrize("model", ["dr", "wrong"])
def test_dr_is_unbiased_whatever_the_model(
    repeated: dict[str, Array], model: str, name: str
) -> None:
    found = repeated[f"{model} {name}"][:, 0]
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - TRUTHS[name]) < 4 * error


def test_a_perfect_model_makes_dr_far_less_variable(repeated: dict[str, Array]) -> None:
    for figure in Figures._fields:
        dr, snips = (repeated[f"{name} {figure}"][:, 0].var() for name in ("dr", "snips"))
        assert dr < 0.8 * snips
    # Where the action settles all that follows, nothing is left but which problems came up.
    settled = np.round(RESCUES + 0.2)
    true = worth(TARGET, settled)
    rng = np.random.default_rng(10)
    found = []
    for _ in range(100):
        log = play(rng, 300, rescues=settled)
        logged = log.under(TARGET, true)
        value = true.value[log.kind, log.sign, 0][log.step == 0]
        assert doubly_robust(logged).rescue == pytest.approx(value, abs=1e-12)
        found.append((value.mean(), self_normalised(logged).rescue_rate))
    dr, snips = np.array(found).var(axis=0)
    assert dr < 0.5 * snips


def test_on_policy_weights_give_the_plain_averages() -> None:
    log = play(np.random.default_rng(2), 500)
    logged = log.under(LOGGING)
    assert importance(logged).tolist() == [1.0] * len(log.problem)
    assert effective_sample_size(logged) == 500
    rate, cost = log.reward.sum() / 500, log.cost.sum() / 500
    made = estimate(logged, resamples=10)
    expected = pytest.approx([rate, cost, 1000 * rate / cost] * 2, rel=1e-12)
    assert points(made) == expected
    assert (made.ess, made.problems, made.share_reached) == (500, 500, 1)
    assert weighted_doubly_robust(logged) == pytest.approx((rate, cost), rel=1e-12)


def test_policies_that_differ_have_a_smaller_effective_sample() -> None:
    log = play(np.random.default_rng(3), 2000)
    sizes = [
        effective_sample_size(log.under((1 - mixed) * LOGGING + mixed * TARGET))
        for mixed in (0.0, 0.3, 0.6, 1.0)
    ]
    assert sizes[0] == 2000
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1500
    final = final_weights(log.under(TARGET))
    assert final.mean() == pytest.approx(1, abs=0.1)
    assert estimate(log.under(TARGET), resamples=1).share_reached == (final > 0).mean() < 0.9


def test_a_target_that_never_agrees_has_no_estimate() -> None:
    log = play(np.random.default_rng(4), 50)
    logged = replace(log.under(TARGET, TRUTH), target=np.zeros(len(log.problem)))
    made = estimate(logged, resamples=20)
    assert (made.ess, made.problems, made.share_reached) == (0, 50, 0)
    for figures in (made.snips, made.dr):
        assert np.isnan(np.array(figures)).all()
    assert np.isnan(self_normalised(logged)).all()
    assert np.isnan(weighted_doubly_robust(logged)).all()
    compared = compare(logged, log.under(LOGGING), resamples=20)
    assert np.isnan([compared.snips, compared.dr]).all()
    assert not math.isnan(compared.baseline.snips.rescue_rate.low)


def single_steps(rewards: Array, target: Array, costs: Array | float = 10.0) -> Logged:
    nothing = np.zeros(len(rewards))
    return Logged(
        np.arange(len(rewards)),
        rewards,
        nothing + costs,
        nothing + 0.5,
        target,
        nothing,
        nothing,
        nothing,
        nothing,
    )


def test_a_handful_of_reached_problems_gives_no_interval() -> None:
    rewards = np.ones(100)
    for reached, told in ((1, False), (3, False), (8, True)):
        made = estimate(single_steps(rewards, 0.5 * (np.arange(100) < reached)), resamples=500)
        for figures in (made.snips, made.dr):
            assert figures.rescue_rate.point > 0
            assert math.isnan(figures.rescue_rate.low) is not told
    alone = estimate(single_steps(np.ones(1), np.ones(1)), resamples=50)
    assert alone.snips.rescue_rate.point == 1
    assert math.isnan(alone.snips.rescue_rate.high)


def test_without_cost_there_is_no_ratio() -> None:
    made = estimate(single_steps(np.ones(20), np.full(20, 0.5), 0.0), resamples=20)
    assert made.snips.rescue_rate == (1, 1, 1)
    assert np.isnan([made.snips.rescues_per_1000, made.dr.rescues_per_1000]).all()


def test_a_problem_that_ended_early_keeps_its_weight_in_later_steps() -> None:
    columns: dict[str, Any] = {
        "problem": [7, 9, 9],
        "reward": [1, 0, 1],
        "cost": [10, 20, 30],
        "logging": [0.5, 0.5, 0.25],
        "target": [0.5, 1.0, 0.5],
        "value": [0.5, 0.25, 0.75],
        "action_value": [0.5, 0.5, 0.5],
        "cost_value": [10, 30, 20],
        "action_cost": [12, 40, 25],
    }
    logged = Logged(**columns)
    assert importance(logged).tolist() == [1, 2, 4]
    assert final_weights(logged).tolist() == [1, 4]
    assert effective_sample_size(logged) == pytest.approx(25 / 17)
    # At step 0 the weights are 1 and 2; at step 1 the rescued problem still counts 1, beside 4.
    assert self_normalised(logged) == pytest.approx((1 / 3 + 4 / 5, 50 / 3 + 24))
    rescue, cost = doubly_robust(logged)
    assert rescue == pytest.approx([0.5 + 0.5, (-1 + 0.25) + (2 + 1.5)])
    assert cost == pytest.approx([-2 + 10, (-40 + 30) + (20 + 40)])
    assert weighted_doubly_robust(logged) == pytest.approx(
        (
            (0.5 / 3 + 0.25) + (-1 / 3 + 0.125) + (0.8 * 0.5 + 2 / 3 * 0.75),
            (-2 / 3 + 5) + (-40 / 3 + 15) + (0.8 * 5 + 2 / 3 * 20),
        )
    )


chances = st.floats(0.05, 1)


@st.composite
def logs(draw: st.DrawFn) -> Logged:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    n = sum(lengths)

    def column(values: st.SearchStrategy[float]) -> Array:
        return np.array(draw(st.lists(values, min_size=n, max_size=n)))

    hundredths = st.integers(-200, 200).map(lambda number: number / 100)
    models = [column(hundredths) for _ in range(4)]
    return Logged(
        np.repeat(np.arange(len(lengths)) * 3, lengths),
        column(st.sampled_from([0.0, 1.0])),
        column(st.integers(0, 500).map(float)),
        column(chances),
        column(st.one_of(st.just(0.0), chances)),
        *models,
    )


def by_definition(logged: Logged) -> dict[str, Array]:
    """SNIPS, WDR and the parts of DR, one problem and one step at a time."""
    groups = [np.flatnonzero(logged.problem == name) for name in np.unique(logged.problem)]
    longest = max(map(len, groups))
    rho = np.ones((len(groups), longest + 1))  # by step, from -1 on
    for i, group in enumerate(groups):
        for t in range(longest):
            ratio = logged.target[group[t]] / logged.logging[group[t]] if t < len(group) else 1.0
            rho[i, t + 1] = rho[i, t] * ratio
    with np.errstate(invalid="ignore"):
        share = rho / rho.sum(axis=0)
    snips, wdr, dr = np.zeros(2), np.zeros(2), np.zeros((2, len(groups)))
    for figure, (r, v, q) in enumerate(
        [
            (logged.reward, logged.value, logged.action_value),
            (logged.cost, logged.cost_value, logged.action_cost),
        ]
    ):
        for i, group in enumerate(groups):
            later = 0.0
            for t, at in reversed(list(enumerate(group))):
                ratio = logged.target[at] / logged.logging[at]
                later = v[at] + ratio * (r[at] + later - q[at])  # the recursion of Jiang and Li
                snips[figure] += share[i, t + 1] * r[at]
                wdr[figure] += share[i, t + 1] * (r[at] - q[at]) + share[i, t] * v[at]
            dr[figure, i] = later
        if not rho[:, -1].any():
            snips[figure] = wdr[figure] = math.nan
    return {"snips": snips, "wdr": wdr, "dr": dr, "final": rho[:, -1]}


@given(logged=logs())
@settings(deadline=None, max_examples=examples(150))
def test_everything_is_as_defined(logged: Logged) -> None:
    expected = by_definition(logged)
    assert final_weights(logged) == pytest.approx(expected["final"], rel=1e-12)
    assert self_normalised(logged) == pytest.approx(expected["snips"], rel=1e-9, nan_ok=True)
    assert np.stack(doubly_robust(logged)) == pytest.approx(expected["dr"], rel=1e-9, abs=1e-9)
    assert weighted_doubly_robust(logged) == pytest.approx(
        expected["wdr"], rel=1e-9, abs=1e-9, nan_ok=True
    )
    made = estimate(logged, resamples=1)
    assert 0 <= made.ess <= made.problems * (1 + 1e-12)
    assert (made.ess == 0) == (made.share_reached == 0)
    assert made.snips.mean_cost.point == pytest.approx(expected["snips"][1], nan_ok=True)


@given(logged=logs(), data=st.data())
@settings(deadline=None, max_examples=examples(100))
def test_the_order_of_the_problems_changes_nothing(logged: Logged, data: st.DataObject) -> None:
    groups = [np.flatnonzero(logged.problem == name) for name in np.unique(logged.problem)]
    order = data.draw(st.permutations(range(len(groups))))
    at = np.concatenate([groups[i] for i in order])
    lengths = [len(groups[i]) for i in order]
    moved = {
        name: getattr(logged, name)[at] for name in Logged.__dataclass_fields__ if name != "problem"
    }
    other = Logged(problem=np.repeat(np.arange(len(groups)), lengths), **moved)
    before, after = estimate(logged, resamples=1), estimate(other, resamples=1)
    # DR's terms may cancel to a cost near 0, where a ratio is noise.
    assert points(after)[:5] == pytest.approx(points(before)[:5], abs=1e-8, nan_ok=True)
    assert after.ess == pytest.approx(before.ess)
    assert after.share_reached == before.share_reached
    rescue = doubly_robust(logged).rescue[list(order)]
    assert doubly_robust(other).rescue == pytest.approx(rescue)


@given(logged=logs(), scale=st.sampled_from([0.25, 2.0, 64.0]))
@settings(deadline=None, max_examples=examples(100))
def test_scaling_costs_scales_the_ratio_inversely(logged: Logged, scale: float) -> None:
    costs = {name: getattr(logged, name) * scale for name in ("cost", "cost_value", "action_cost")}
    before = estimate(logged, resamples=20)
    after = estimate(replace(logged, **costs), resamples=20)
    for was, now in ((before.snips, after.snips), (before.dr, after.dr)):
        assert now.rescue_rate == pytest.approx(was.rescue_rate, nan_ok=True)
        assert np.array(now.mean_cost) == pytest.approx(
            np.array(was.mean_cost) * scale, nan_ok=True
        )
        ratio = np.array(was.rescues_per_1000) / scale
        assert np.array(now.rescues_per_1000) == pytest.approx(ratio, nan_ok=True)


def test_a_policy_compared_with_itself_gains_nothing() -> None:
    logged = play(np.random.default_rng(5), 200).under(TARGET, TRUTH)
    compared = compare(logged, logged, resamples=50)
    assert compared.snips == compared.dr == (0, 0, 0)
    assert compared.target == compared.baseline == estimate(logged, resamples=50)


def test_pairing_makes_the_interval_of_a_difference_narrower() -> None:
    log = play(np.random.default_rng(6), 1000)
    nudged = 0.9 * LOGGING + 0.1 * TARGET
    compared = compare(log.under(nudged), log.under(LOGGING), resamples=300)
    alone = compared.target.snips.rescues_per_1000
    assert compared.snips.high - compared.snips.low < 0.5 * (alone.high - alone.low)


def test_seeds_repeat_and_confidence_widens() -> None:
    logged = play(np.random.default_rng(7), 200).under(TARGET, TRUTH)
    narrow = estimate(logged, resamples=200, confidence=0.5)
    wide = estimate(logged, resamples=200, confidence=0.99)
    assert estimate(logged, resamples=200, confidence=0.5) == narrow
    assert estimate(logged, resamples=200, confidence=0.5, seed=1) != narrow
    for inner, outer in zip((*narrow.snips, *narrow.dr), (*wide.snips, *wide.dr), strict=True):
        assert outer.low < inner.low < inner.point < inner.high < outer.high


def test_resamples_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logged = play(np.random.default_rng(8), 100).under(TARGET, TRUTH)
    whole = estimate(logged, resamples=50)
    monkeypatch.setattr("recov_graph.offpolicy.CHUNK", 300)
    chunked = estimate(logged, resamples=50)
    for one, other in zip((*whole.snips, *whole.dr), (*chunked.snips, *chunked.dr), strict=True):
        assert one == pytest.approx(other)


def test_a_hundred_thousand_problems_take_little_time() -> None:
    rng = np.random.default_rng(9)
    problems, n = 100_000, 500_000
    logging, target = rng.uniform(0.2, 1, (2, n))
    logged = Logged(
        np.repeat(np.arange(problems), 5),
        rng.integers(0, 2, n).astype(float),
        rng.uniform(0, 100, n),
        logging,
        target,
        *rng.random((4, n)),
    )
    start = time.perf_counter()
    made = estimate(logged, resamples=200)
    assert time.perf_counter() - start < 3
    assert made.problems == problems


GOOD: dict[str, Any] = {
    "problem": [0, 0, 1],
    "reward": [0, 1, 0],
    "cost": [5, 5, 0],
    "logging": [0.5, 0.5, 1],
    "target": [0.5, 0, 1],
    "value": [0, 0, 0],
    "action_value": [0, 0, 0],
    "cost_value": [0, 0, 0],
    "action_cost": [0, 0, 0],
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"problem": [0, 1, 0]}, "problem falls from 1 to 0 at decision 2; sort"),
        ({"problem": [0.0, 0.0, 1.0]}, "problem is float64 of shape .3,.; it must be integers"),
        ({"problem": [[0, 0, 1]]}, "must be integers"),
        ({name: [] for name in GOOD}, "n at least 1"),
        ({"reward": [0, 1]}, r"reward has shape \(2,\); it must be \(3,\)"),
        ({"reward": [0, 2, 0]}, "reward is 2.0 at decision 1, of problem 0; it must be 0 to 1"),
        ({"cost": [0, 5, -1]}, "cost is -1.0 at decision 2, of problem 1; it must be finite and"),
        ({"cost": [0, math.inf, 1]}, "cost is inf"),
        ({"cost": ["a", "b", "c"]}, r"cost is \['a', 'b', 'c'\]; it must be numbers"),
        ({"logging": [0.5, 0, 1]}, "logging is 0.0 at decision 1, of problem 0; it must be above"),
        ({"logging": [0.5, 1.1, 1]}, "logging is 1.1"),
        ({"target": [0.5, -0.1, 1]}, "target is -0.1"),
        ({"target": [0.5, math.nan, 1]}, "target is nan"),
        ({"value": [math.nan, 0, 0]}, "value is nan at decision 0, of problem 0; it must be finit"),
        ({"action_cost": [0, 0, math.inf]}, "action_cost is inf"),
    ],
)
def test_a_log_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    Logged(**GOOD)
    with pytest.raises(InvalidInputError, match=message):
        Logged(**{**GOOD, **wrong})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resamples": 0}, "resamples is 0; it must be an integer from 1 up"),
        ({"resamples": 2.5}, "resamples is 2.5"),
        ({"seed": -1}, "seed is -1; it must be an integer from 0 up"),
        ({"confidence": 0}, "confidence is 0; it must be between 0 and 1"),
        ({"confidence": 95}, "confidence is 95"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    logged = Logged(**GOOD)
    with pytest.raises(InvalidInputError, match=message):
        estimate(logged, **options)
    with pytest.raises(InvalidInputError, match=message):
        compare(logged, logged, **options)


@pytest.mark.parametrize("name", ["problem", "logging"])
def test_policies_are_compared_on_the_same_decisions_only(name: str) -> None:
    other = {"problem": [0, 1, 1], "logging": [0.5] * 3}
    with pytest.raises(InvalidInputError, match=f"{name} of target and baseline differ"):
        compare(Logged(**GOOD), Logged(**{**GOOD, name: other[name]}))


def test_weights_without_end_are_refused() -> None:
    logged = Logged(**{**GOOD, "logging": [1e-200, 1e-200, 1], "target": [1, 1, 1]})
    with pytest.raises(InvalidInputError, match=r"weight of problem 0 is too large .* decision 1"):
        importance(logged)
