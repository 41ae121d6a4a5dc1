"""Policies side by side, each trained on other problems than it is scored on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.evaluate.bench import HALVES, Bench
from recov_graph.evaluate.plans import Ints, Plan, Planner, concatenated, plain
from recov_graph.evaluate.scoring import Bootstrap, Interval, Score, score
from recov_graph.routing.outcomes import Floats

FOLDS = 5
STEERABLE = "steerable_hard"
GROUPS = ("all", STEERABLE)
# Policies whose choices depend on the budget.
PLANS_AHEAD = ("best_fixed", "posterior", "oracle")
FIXED_AHEAD = ("best_fixed", "oracle")
TIE = 1e-6  # weight of what only decides where all else is equal
REFERENCES = ("retry", "best_fixed_per_cell", "best_fixed", "rule_ranked", "round_robin")


class Fixed(Protocol):
    """Tells the operator that, repeated, rescues the most in each cell."""

    def __call__(self, bench: Bench, *, budget: float, length: int) -> Ints: ...


@dataclass(frozen=True)
class Split:
    """Which problems are planned for, and which are learned from."""

    test: Ints
    train: Ints


def splits(bench: Bench, rng: np.random.Generator, *, leave_cell_out: bool = False) -> list[Split]:
    """Five folds inside each cell, or each cell left out in turn.

    Raises:
        InvalidInputError: nothing would be left to learn from.
    """
    cells = len(np.unique(bench.cell))
    if leave_cell_out and cells < 2:
        raise InvalidInputError(
            f"{bench.source}: of 1 cell, {bench.outcomes.cells[0]}; leaving a cell out takes at "
            "least 2. Compare on folds inside the cell instead"
        )
    if len(bench) < 2:
        raise InvalidInputError(
            f"{bench.source}: 1 problem; learning on some and scoring on others takes at least 2"
        )
    n = len(bench)
    if leave_cell_out:
        group = bench.cell
    else:
        group = np.zeros(n, np.int64)
        dealt = 0  # a cell goes on where the last one ended: small cells do not crowd one fold
        for cell in np.unique(bench.cell):
            rows = np.flatnonzero(bench.cell == cell)
            group[rng.permutation(rows)] = (dealt + np.arange(len(rows))) % FOLDS
            dealt += len(rows)
    return [Split(np.flatnonzero(group == g), np.flatnonzero(group != g)) for g in np.unique(group)]


def taken(bench: Bench, rows: Ints) -> Bench:
    """Some of the problems."""
    return Bench(
        source=bench.source,
        outcomes=bench.outcomes.take(rows),
        models=bench.models,
        tasks=bench.tasks,
        rates=bench.rates[rows],
        passed=None if bench.passed is None else bench.passed[rows],
        tokens=None if bench.tokens is None else bench.tokens[rows],
        costs=bench.costs[rows],
        scoring=bench.scoring[rows],
        repairs=bench.repairs,
        unit=bench.unit,
    )


class Plans:
    """Plans of all policies for all problems, made on demand and kept.

    Args:
        bench: the problems.
        folds: how they are split.
        length: attempts that are planned.
        seed: makes random policies repeatable.
        fixed: tells the best fixed operator of each cell; by default, for one problem at a time.
    """

    def __init__(
        self,
        bench: Bench,
        folds: Sequence[Split],
        length: int,
        seed: int,
        fixed: Fixed | None = None,
    ) -> None:
        self.bench, self.folds, self.length = bench, folds, length
        self._fixed = fixed or best_fixed
        self.planners = [
            Planner(
                taken(bench, fold.train),
                taken(bench, fold.test),
                length,
                np.random.default_rng([seed, 1, i]),
            )
            for i, fold in enumerate(folds)
        ]
        self._made: dict[tuple[str, float | None], Plan] = {}

    def of(self, name: str, budget: float | None = None) -> Plan:
        """A policy's plan for a budget of that many units; None for one without a limit.

        "fixed:OPERATOR" is that operator, again and again.
        """
        # Where an attempt is the unit, a budget is so many attempts and no limit of tokens.
        by_token = self.bench.tokens is not None
        ahead = PLANS_AHEAD if by_token else FIXED_AHEAD
        key = (name, budget if name.startswith(ahead) else None)
        if key not in self._made:
            fixed = partial(self._fixed, budget=budget or 1.0, length=self.length)
            tokens = math.inf if budget is None or not by_token else budget * self.bench.unit
            plans = [planner.plan(name, fixed, tokens) for planner in self.planners]
            rows = [fold.test for fold in self.folds]
            self._made[key] = concatenated(plans, rows, len(self.bench))
        return self._made[key]


def best_fixed(bench: Bench, *, budget: float, length: int) -> Ints:
    """Int [C], the operator that, repeated, rescues the most within the budget in each cell."""
    cells = len(bench.outcomes.cells)
    rescue = np.zeros((cells, len(bench.operators)))
    count = np.maximum(1, np.bincount(bench.cell, minlength=cells))
    for index in range(len(bench.operators)):
        plan = plain(bench, np.full((len(bench), length), index))
        made = score(bench, plan, [budget], np.random.default_rng(0)).rescue[:, 0]
        # Where a budget lets several rescue alike, the one that does so at the first attempts.
        made = made + TIE * bench.rates[:, index] / bench.costs[:, index]
        rescue[:, index] = np.bincount(bench.cell, made, minlength=cells) / count
    chosen: Ints = rescue.argmax(axis=1)
    return chosen


@dataclass(frozen=True)
class Scored:
    """A policy's scores on all problems, and on each half of the attempts, by budget."""

    whole: Score
    halves: tuple[Score, ...]


def scored(plans: Plans, name: str, budgets: Sequence[float], seed: int) -> Scored:
    """Score a policy at each budget.

    With attempts at hand, also on the even and on the odd ones alone: where regimes are labelled
    on one half, only the other may score.
    """
    made: dict[int | None, list[Score]] = {}
    halves: tuple[int | None, ...] = HALVES if plans.bench.passed is not None else ()
    for budget in budgets:
        plan = plans.of(name, budget)
        for half in (None, *halves):
            rng = np.random.default_rng([seed, 2])
            made.setdefault(half, []).append(score(plans.bench, plan, [budget], rng, half))
    joined = {half: _joined(scores) for half, scores in made.items()}
    return Scored(joined[None], tuple(joined[half] for half in halves))


def _joined(scores: Sequence[Score]) -> Score:
    return Score(
        np.concatenate([s.rescue for s in scores], axis=1),
        np.concatenate([s.cost for s in scores], axis=1),
    )


@dataclass(frozen=True)
class Group:
    """Scores with the weight each has: all problems, or those of one regime.

    Attributes:
        weights: float [N].
        of: gives (rescue [N, B], cost [N, B]) of a scored policy.
    """

    weights: Floats
    of: Callable[[Scored], Score]


def groups(bench: Bench) -> Mapping[str, Group]:
    """All problems; and the steerable-hard ones, labelled on one half and scored on the other."""
    first, second = (labels == STEERABLE for labels in bench.labels)
    everyone = Group(np.ones(len(bench)), lambda made: made.whole)
    if bench.passed is None:
        return {"all": everyone, STEERABLE: Group(first.astype(float), lambda made: made.whole)}
    weights = (first.astype(float) + second) / 2.0

    def crossed(made: Scored) -> Score:
        odd_scores, even_scores = made.halves[1], made.halves[0]
        share = _share(first, second)
        return Score(
            share * odd_scores.rescue + (1 - share) * even_scores.rescue,
            share * odd_scores.cost + (1 - share) * even_scores.cost,
        )

    return {"all": everyone, STEERABLE: Group(weights, crossed)}


def _share(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Floats:
    """Float [N, 1], how much the odd half scores: those labelled by the even half."""
    both = first.astype(float) + second
    share: Floats = np.where(both > 0, first / np.maximum(both, 1), 0.0)[:, None]
    return share


def difference(
    bootstrap: Bootstrap, group: Group, one: Scored, other: Scored, budget: int
) -> Interval:
    """How much more often one policy rescues than another, problem by problem."""
    gain = group.of(one).rescue[:, budget] - group.of(other).rescue[:, budget]
    return bootstrap.mean(gain, group.weights)
