"""How well the posterior knows when to stop: its predicted chance of a rescue against the outcome.

The posterior's plan is walked to the end of a horizon without stopping. What would have happened
is told by the rates, or by the recorded attempts, so that every label is a probability and every
step counts by the probability of getting there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recov_graph.evaluate.bench import HALVES, Bench
from recov_graph.evaluate.compare import Plans, Split
from recov_graph.evaluate.plans import Ints, Planner, walk
from recov_graph.evaluate.scoring import Bootstrap, times_used
from recov_graph.routing.outcomes import Floats

HORIZON = 8
MOST_LOST = 0.01  # share of rescues that stopping may lose
BINS = 10
RESAMPLES = 400  # fewer than elsewhere: the curve is drawn anew for each
OUT_OF_REACH = "out_of_reach"


@dataclass(frozen=True)
class Walk:
    """The posterior's plan for N problems and T attempts, without a limit on tokens.

    Attributes:
        operators: int [N, T].
        score: float [N, T], the predicted chance of any rescue in the attempts left.
        cost: float [N, T], attempts or tokens, measuring included.
    """

    operators: Ints
    score: Floats
    cost: Floats

    @property
    def per_attempt(self) -> Walk:
        """The same, scored by the chance of a rescue for each attempt that is left."""
        return replace(self, score=self.score / (HORIZON - np.arange(HORIZON)))

    @property
    def least(self) -> Floats:
        """Float [N, T], the least score so far: a threshold above it has stopped by then."""
        return np.minimum.accumulate(self.score, axis=1)


@dataclass(frozen=True)
class Odds:
    """What recorded outcomes say of a walk.

    Attributes:
        reach: float [N, T], the probability that all attempts before fail.
        won: float [N, T], the probability of getting there and being rescued by that attempt.
    """

    reach: Floats
    won: Floats

    @property
    def label(self) -> Floats:
        """Float [N, T], the probability of a rescue in the attempts left, having got there."""
        left = np.cumsum(self.won[:, ::-1], axis=1)[:, ::-1]
        label: Floats = np.clip(left / np.maximum(self.reach, 1e-12), 0.0, 1.0)
        return label


def stopping(bench: Bench, folds: Sequence[Split], plans: Plans, bootstrap: Bootstrap) -> Any:
    """AUROC and calibration of the stop score, and what stopping by it saves; plain data.

    Each fold's threshold is chosen on the other folds: the largest that loses at most 1% of the
    rescues there. `per_attempt` tells what stopping saves where the chance is instead divided by
    the attempts left: the fewer they are, the less there is to save.

    Args:
        bench: the problems.
        folds: how they are split.
        plans: whose posteriors are asked.
        bootstrap: resamples of the problems.
    """
    taken = walked(bench, folds, plans.planners)
    odds = outcome(bench, taken.operators)
    counts = _counts(bench, bootstrap)
    quality = {"auroc": _auroc(taken, odds, counts), "ece": _ece(taken, odds, counts)}
    chance = _saving(bench, folds, taken, odds, counts)
    per_attempt = _saving(bench, folds, taken.per_attempt, odds, counts)
    return {
        "horizon": HORIZON,
        "most_lost": MOST_LOST,
        **_told({**quality, **chance.figures}),
        "thresholds": chance.thresholds,
        "per_attempt": {**_told(per_attempt.figures), "thresholds": per_attempt.thresholds},
    }


class _Saving(NamedTuple):
    """The threshold of each fold, and what stopping by them does, by name float [R]."""

    thresholds: list[float]
    figures: dict[str, Floats]


def _saving(
    bench: Bench, folds: Sequence[Split], taken: Walk, odds: Odds, counts: Floats
) -> _Saving:
    thresholds = [threshold(taken, odds, fold.train) for fold in folds]
    skipped = np.zeros(taken.score.shape, bool)
    for fold, limit in zip(folds, thresholds, strict=True):
        skipped[fold.test] = taken.least[fold.test] < limit
    shares = {
        "saved": (odds.reach * taken.cost * skipped, odds.reach * taken.cost),
        "saved_out_of_reach": _out_of_reach(bench, taken, skipped),
        "lost": (odds.won * skipped, odds.won),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = {
            name: (counts @ part.sum(axis=1)) / (counts @ whole.sum(axis=1))
            for name, (part, whole) in shares.items()
        }
    return _Saving(thresholds, figures)


def _told(figures: Mapping[str, Floats]) -> dict[str, Any]:
    """The value of each figure, and under `intervals` how far it is known."""
    return {
        **{name: float(values[0]) for name, values in figures.items()},
        "intervals": {name: _interval(values[1:]) for name, values in figures.items()},
    }


def walked(bench: Bench, folds: Sequence[Split], planners: Sequence[Planner]) -> Walk:
    """Every problem's walk, by the posterior that was learned without it."""
    shape = (len(bench), HORIZON)
    operators, score, cost = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    for fold, planner in zip(folds, planners, strict=True):
        router = planner.router(features=True)
        for i, row in enumerate(fold.test):
            for t, step in enumerate(walk(router, planner.test, i, HORIZON)):
                operators[row, t] = step.operator
                score[row, t] = router.chance(step.evidence)
                cost[row, t] = bench.scoring[row] if step.measured else 0.0
    rows = np.arange(len(bench))[:, None]
    each = np.ones(bench.rates.shape) if bench.tokens is None else bench.tokens.mean(axis=2)
    return Walk(operators, score, cost + each[rows, operators])


def outcome(bench: Bench, operators: Ints, half: int | None = None) -> Odds:
    """What the rates say of a sequence of attempts; or the recorded attempts, in any order.

    Args:
        bench: N problems.
        operators: int [N, T].
        half: 0 for the even, 1 for the odd attempts only; None for all.
    """
    rows = np.arange(len(bench))[:, None]
    if bench.passed is None:
        fails = 1.0 - bench.rates[rows, operators]
    else:
        passed = bench.passed if half is None else bench.passed[:, :, half::2]
        kept = passed.shape[2]
        # Of the attempts not drawn yet, those that failed: none is drawn twice until all were.
        used = times_used(operators[None], len(bench.operators))[0] % kept
        failed = kept - passed.sum(axis=2)[rows, operators]
        fails = np.maximum(failed - used, 0.0) / (kept - used)
    after = np.cumprod(fails, axis=1)
    reach = np.concatenate([np.ones((len(bench), 1)), after[:, :-1]], axis=1)
    return Odds(reach, reach - after)


def threshold(taken: Walk, odds: Odds, rows: Ints) -> float:
    """The largest threshold that loses at most 1% of the rescues of some problems."""
    least, won = taken.least[rows].ravel(), odds.won[rows].ravel()
    order = np.argsort(least, kind="stable")
    too_many = np.cumsum(won[order]) > MOST_LOST * won.sum()
    # The first step that may not be skipped is not: only scores below the threshold stop.
    return float(least[order][too_many.argmax()]) if too_many.any() else 1.0


def _out_of_reach(bench: Bench, taken: Walk, skipped: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(saved, spent), float [N, T], of problems that are out of reach.

    With attempts at hand, those labelled on one half count with what the other half says.
    """
    saved, spent = np.zeros(taken.cost.shape), np.zeros(taken.cost.shape)
    halves: tuple[int | None, ...] = (None,) if bench.passed is None else HALVES[::-1]
    for labels, half in zip(bench.labels, halves, strict=False):
        reach = outcome(bench, taken.operators, half).reach * (labels == OUT_OF_REACH)[:, None]
        saved += reach * taken.cost * skipped
        spent += reach * taken.cost
    return saved, spent


def _counts(bench: Bench, bootstrap: Bootstrap) -> Floats:
    """Float [1 + RESAMPLES, N], how often each problem counts: once, then as it was drawn."""
    counts = np.ones((1 + RESAMPLES, len(bench)))
    for rows, drawn in bootstrap.groups:
        counts[1:, rows] = drawn[:RESAMPLES]
    return counts


def _auroc(taken: Walk, odds: Odds, counts: Floats) -> Floats:
    """Float [R], how often a step that leads to a rescue scores above one that does not."""
    score = taken.score.ravel()
    order = np.argsort(score, kind="stable")
    _, tie = np.unique(score[order], return_index=True)
    problem = order // taken.score.shape[1]
    good = (odds.reach * odds.label).ravel()[order]
    bad = (odds.reach * (1.0 - odds.label)).ravel()[order]
    found = np.zeros(len(counts))
    for i, count in enumerate(counts[:, problem]):
        positive, negative = np.add.reduceat(good * count, tie), np.add.reduceat(bad * count, tie)
        below = np.cumsum(negative) - negative / 2.0
        pairs = positive.sum() * negative.sum()
        found[i] = positive @ below / pairs if pairs > 0 else np.nan
    return found


def _ece(taken: Walk, odds: Odds, counts: Floats) -> Floats:
    """Float [R], how far predicted chances are off, on average over bins of equal weight."""
    order = np.argsort(taken.score.ravel(), kind="stable")
    problem = order // taken.score.shape[1]
    score, label = taken.score.ravel()[order], odds.label.ravel()[order]
    reach = odds.reach.ravel()[order]
    found = np.zeros(len(counts))
    for i, count in enumerate(counts[:, problem]):
        weight = reach * count
        upto = np.cumsum(weight)
        bin_ = np.minimum((upto - weight / 2.0) * BINS / upto[-1], BINS - 1).astype(np.int64)
        off = np.bincount(bin_, weight * (score - label), minlength=BINS)
        found[i] = np.abs(off).sum() / upto[-1]
    return found


def _interval(values: Floats) -> list[float]:
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return [float(low), float(high)]
