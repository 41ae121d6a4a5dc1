"""One budget over all problems of a cell: who is tried next, and what comes of it.

The budget is so many units times the number of problems; solved problems leave. All policies go in
rounds, an attempt at every unsolved problem and then the next. `worth` alone spends each next
attempt where the posterior expects the most rescues for what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recov_graph.evaluate.bench import Bench
from recov_graph.evaluate.compare import REFERENCES, Plans, Split
from recov_graph.evaluate.plans import NAMES, Ints, plain
from recov_graph.evaluate.scoring import REPLICATES, Interval, Runs, carried_out, first_pass
from recov_graph.routing.outcomes import Floats

WORTH = "worth"
SHARED_NAMES = (*NAMES, WORTH)
LENGTH_OF_RATES, LENGTH_OF_ATTEMPTS = 24, 48  # attempts planned for a problem
RUNS = 100  # simulations behind an estimate, and as many behind its interval


@dataclass(frozen=True)
class SharedScore:
    """A policy's share of problems rescued, the mean of the cells.

    Attributes:
        rescue: float [B], the mean of all simulations.
        resampled: float [RUNS, B], simulations on problems drawn with replacement; those of
            another policy are of the same problems.
    """

    rescue: Floats
    resampled: Floats

    def interval(self, budget: int) -> Interval:
        """The share rescued at one of the budgets, by its index."""
        return _interval(self.rescue[budget], self.resampled[:, budget])

    def difference(self, other: SharedScore, budget: int) -> Interval:
        """How much more is rescued than by another policy."""
        gain = self.resampled[:, budget] - other.resampled[:, budget]
        return _interval(self.rescue[budget] - other.rescue[budget], gain)


def shared_scores(
    bench: Bench,
    folds: Sequence[Split],
    budgets: Sequence[float],
    seed: int,
    progress: Callable[[str], None],
) -> Mapping[str, SharedScore]:
    """Every policy under one budget for each cell.

    Args:
        bench: the problems.
        folds: how they are split.
        budgets: float [B], in units for each problem.
        seed: makes it repeatable.
        progress: is told which policy comes next.
    """
    length = LENGTH_OF_RATES if bench.passed is None else LENGTH_OF_ATTEMPTS
    plans = Plans(bench, folds, length, seed, best_in_rounds)
    made = {}
    for name in SHARED_NAMES:
        progress(name)
        if name.startswith("best_fixed"):  # the best for the budget is another for every budget
            each = [_shared_score(plans, name, [budget], seed, budget) for budget in budgets]
            made[name] = SharedScore(
                np.concatenate([score.rescue for score in each]),
                np.concatenate([score.resampled for score in each], axis=1),
            )
        else:
            made[name] = _shared_score(plans, name, budgets, seed, None)
    return made


def _shared_score(
    plans: Plans, name: str, budgets: Sequence[float], seed: int, planned: float | None
) -> SharedScore:
    bench = plans.bench
    plan = plans.of("posterior" if name == WORTH else name, planned)
    runs = carried_out(bench, plan, np.random.default_rng([seed, 4]), replicates=RUNS)
    runs = Runs(runs.passed[:RUNS], runs.cost[:RUNS])
    worth = plan.worth if name == WORTH else None
    cells, resampled = [], []
    for cell in np.unique(bench.cell):
        rows = np.flatnonzero(bench.cell == cell)
        rng = np.random.default_rng([seed, 5, int(cell)])  # the same problems for every policy
        every = np.tile(rows, (RUNS, 1))
        drawn = rng.choice(rows, size=every.shape)
        limits = np.array(budgets) * len(rows) * bench.unit
        cells.append(_rescued(runs, every, worth, limits, rng).mean(axis=0))
        resampled.append(_rescued(runs, drawn, worth, limits, rng))
    return SharedScore(np.mean(cells, axis=0), np.mean(resampled, axis=0))


def _rescued(
    runs: Runs, rows: Ints, worth: Floats | None, limits: Floats, rng: np.random.Generator
) -> Floats:
    """Float [S, B], the share of problems rescued within each limit.

    Args:
        runs: of all problems, S or more.
        rows: int [S, n], the problems of each simulation.
        worth: float [N, L], where attempts are made in its order; None for rounds.
        limits: float [B], what may be spent in all.
        rng: for the order in which problems take turns.
    """
    rows = rng.permuted(rows, axis=1)
    # A problem that was drawn twice is tried twice, each time with outcomes of its own.
    run = rng.permuted(np.tile(np.arange(len(rows))[:, None], rows.shape[1]), axis=0)
    passed, cost = runs.passed[run, rows], runs.cost[run, rows]
    count, length = passed.shape[1:]
    first = first_pass(passed)
    cost = np.where(np.arange(length) <= first[:, :, None], cost, 0.0)
    order = _rounds(count, length) if worth is None else _by_worth(worth[rows])
    spent = np.zeros((len(rows), count * length))
    flat = cost.reshape(len(rows), -1)
    order = np.broadcast_to(order, flat.shape)
    np.put_along_axis(spent, order, np.cumsum(np.take_along_axis(flat, order, 1), axis=1), axis=1)
    at = np.minimum(first, length - 1)[:, :, None]
    until = np.take_along_axis(spent.reshape(cost.shape), at, axis=2)[:, :, 0]
    within = (first < length)[:, :, None] & (until[:, :, None] <= limits + 1e-9)
    shares: Floats = within.mean(axis=1)
    return shares


def _rounds(count: int, length: int) -> Ints:
    """Int [1, n * L], indices of attempts in the order they are made: all first ones, and so on."""
    return np.arange(count * length).reshape(count, length).T.reshape(1, -1)


def _by_worth(worth: Floats) -> Ints:
    """Int [S, n * L], the same, the attempt that is worth the most always coming next.

    What a problem is worth may rise after a failure, and its next attempt then comes at once: it
    takes its turn by the least worth so far. Among equals the earlier attempt goes first.
    """
    least = np.minimum.accumulate(worth, axis=2)
    step = np.broadcast_to(np.arange(worth.shape[2]), worth.shape).reshape(len(worth), -1)
    order: Ints = np.lexsort((step, -least.reshape(len(worth), -1)), axis=1)
    return order


def best_in_rounds(bench: Bench, *, budget: float, length: int) -> Ints:
    """Int [C], the operator that, repeated in rounds, rescues the most of each cell's problems."""
    cells = len(bench.outcomes.cells)
    rescue = np.zeros((cells, len(bench.operators)))
    for index in range(len(bench.operators)):
        plan = plain(bench, np.full((len(bench), length), index))
        rng = np.random.default_rng(0)
        runs = carried_out(bench, plan, rng, replicates=REPLICATES)
        for cell in np.unique(bench.cell):
            rows = np.flatnonzero(bench.cell == cell)
            limit = np.array([budget * len(rows) * bench.unit])
            every = np.tile(rows, (len(runs.passed), 1))
            rescue[cell, index] = _rescued(runs, every, None, limit, rng).mean()
    chosen: Ints = rescue.argmax(axis=1)
    return chosen


def shared_differences(
    scores: Mapping[str, SharedScore], budget: int
) -> Mapping[str, Mapping[str, Interval]]:
    """By policy and reference, how much more is rescued at one of the budgets, by its index."""
    return {
        name: {
            other: score.difference(scores[other], budget) for other in REFERENCES if other != name
        }
        for name, score in scores.items()
    }


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
