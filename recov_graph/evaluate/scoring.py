"""How many problems a plan rescues within a budget, and what it spends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recov_graph.evaluate.bench import Bench
from recov_graph.evaluate.plans import Plan
from recov_graph.routing.outcomes import Floats

REPLICATES = 24  # orders in which the recorded attempts are drawn
RESAMPLES = 2000


@dataclass(frozen=True)
class Score:
    """Per problem and budget.

    Attributes:
        rescue: float [N, B], the probability of a rescue.
        cost: float [N, B], what is spent, in attempts or tokens.
    """

    rescue: Floats
    cost: Floats


@dataclass(frozen=True)
class Runs:
    """Plans carried out on recorded attempts.

    Attributes:
        passed: bool [S, N, L], whether each attempt passes.
        cost: float [S, N, L], what it costs, measuring included.
    """

    passed: NDArray[np.bool_]
    cost: Floats


def carried_out(
    bench: Bench,
    plan: Plan,
    rng: np.random.Generator,
    half: int | None = None,
    replicates: int = REPLICATES,
) -> Runs:
    """Replicates of a plan: the recorded attempts of each operator are drawn in random order.

    None is drawn twice before all are used up. Where only rates are known, attempts pass by them.

    Args:
        bench: N problems.
        plan: for the same problems.
        rng: for the order, or the outcomes.
        half: 0 for the even, 1 for the odd attempts only; None for all.
        replicates: how many at least; each of the plan's draws is carried out as often.
    """
    draws, n, _ = plan.operators.shape
    times = -(-replicates // draws)
    operators = np.tile(plan.operators, (times, 1, 1))
    measured = np.tile(plan.measured, (times, 1, 1)) * bench.scoring[:, None]
    rows = np.arange(n)[:, None]
    if bench.passed is None or bench.tokens is None:
        rates = np.take_along_axis(bench.rates[None], operators, axis=2)
        return Runs(rng.random(rates.shape) < rates, np.ones(rates.shape) + measured)
    passed, tokens = bench.passed, bench.tokens
    if half is not None:
        passed, tokens = passed[:, :, half::2], tokens[:, :, half::2]
    kept = passed.shape[2]
    used = times_used(operators, len(bench.operators))
    all_passed, all_cost = np.zeros(operators.shape, bool), np.zeros(operators.shape)
    for s in range(len(operators)):
        order = rng.permuted(np.broadcast_to(np.arange(kept), passed.shape).copy(), axis=2)
        at = order[rows, operators[s], used[s] % kept]
        all_passed[s] = passed[rows, operators[s], at]
        all_cost[s] = tokens[rows, operators[s], at]
    return Runs(all_passed, all_cost + measured)


def times_used(operators: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How often each attempt's operator was used before it in its sequence."""
    used = np.zeros(operators.shape, np.int64)
    for operator in range(count):
        own = operators == operator
        used += np.where(own, np.cumsum(own, axis=2) - 1, 0)
    return used


def score(
    bench: Bench,
    plan: Plan,
    budgets: Sequence[float],
    rng: np.random.Generator,
    half: int | None = None,
) -> Score:
    """Rescue within budgets of that many units; exact where only rates are known.

    An attempt counts if what was spent up to its end stays within the budget.
    """
    if bench.passed is None:
        return _exact(bench, plan, budgets)
    runs = carried_out(bench, plan, rng, half)
    return score_of(runs.passed, runs.cost, [budget * bench.unit for budget in budgets])


def score_of(passed: NDArray[np.bool_], cost: Floats, limits: Sequence[float]) -> Score:
    """The score of attempts that were carried out, bool and float [S, N, L], within limits."""
    spent = np.cumsum(cost, axis=2)
    first = first_pass(passed)
    at = np.minimum(first, spent.shape[2] - 1)[:, :, None]
    until = np.take_along_axis(spent, at, axis=2)[:, :, 0]
    solved = first < spent.shape[2]
    rescue = [(solved & (until <= limit)).mean(axis=0) for limit in limits]
    paid = [np.minimum(until, limit).mean(axis=0) for limit in limits]
    return Score(np.stack(rescue, axis=1), np.stack(paid, axis=1))


def _exact(bench: Bench, plan: Plan, budgets: Sequence[float]) -> Score:
    fails = 1.0 - np.take_along_axis(bench.rates[None], plan.operators, axis=2)
    left = np.concatenate([np.ones((*fails.shape[:2], 1)), np.cumprod(fails, axis=2)], axis=2)
    attempts = [min(int(budget), fails.shape[2]) for budget in budgets]
    rescue = np.stack([1.0 - left[:, :, b].mean(axis=0) for b in attempts], axis=1)
    cost = np.stack([left[:, :, :b].sum(axis=2).mean(axis=0) for b in attempts], axis=1)
    return Score(rescue, cost)


def first_pass(passed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the first attempt that passes; L where none does."""
    found: NDArray[np.int64] = np.where(
        passed.any(axis=2), passed.argmax(axis=2), passed.shape[2]
    ).astype(np.int64)
    return found


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% bootstrap interval."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Resamples of problems within cells, the same ones for every comparison.

    Args:
        cell: int [N].
        seed: makes it repeatable.

    Attributes:
        groups: for each cell its problems, int [n], and how often each resample holds them,
            float [RESAMPLES, n].
    """

    def __init__(self, cell: NDArray[np.int64], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.groups = []
        for name in np.unique(cell):
            rows = np.flatnonzero(cell == name)
            counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
            self.groups.append((rows, counts.astype(float)))

    def mean(self, values: Floats, weights: Floats) -> Interval:
        """Of the weighted mean of each cell, averaged over the cells that have any weight.

        Args:
            values: float [N].
            weights: float [N], at least 0.
        """
        points, resampled = [], []
        for rows, counts in self.groups:
            v, w = values[rows], weights[rows]
            if w.sum() <= 0:
                continue
            points.append(float(v @ w / w.sum()))
            total = counts @ w
            with np.errstate(invalid="ignore"):
                resampled.append(np.where(total > 0, counts @ (v * w) / total, np.nan))
        if not points:
            return Interval(float("nan"), float("nan"), float("nan"))
        # A resample may hold no problem that counts in one cell, or in all.
        drawn = np.array(resampled)
        drawn = drawn[:, np.isfinite(drawn).any(axis=0)]
        low, high = np.quantile(np.nanmean(drawn, axis=0), [0.025, 0.975])
        return Interval(float(np.mean(points)), float(low), float(high))
