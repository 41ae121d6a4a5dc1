"""A mixture of failure types: each rescues with its own probability by each operator.

The types are found by expectation-maximisation from whatever attempts were made on each problem,
so that a production trace, which only holds outcomes of what was tried, counts as far as it goes.
With many attempts on each problem the types come close to the stored problems themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recov_graph.routing.outcomes import Floats, Outcomes

MOST_TYPES = 512
MOST_PATTERNS = 3_500  # distinct problems that the types are looked for in
ITERATIONS = 40
CLOSE = 1e-6  # of the mean log-likelihood, between two iterations
STRENGTH = 1.0  # attempts' worth of weight that an operator's mean has in each type
SPREAD_WEIGHT = 1.0  # failures' worth of weight that every type starts with
EDGE = 1e-3  # no type rescues never or always
CHUNK = 20_000


@dataclass(frozen=True)
class Mixture:
    """K types.

    Attributes:
        rescue: float [K, O], the probability that an attempt of each operator passes.
        weights: float [K], the share of each type.
        cells: float [C, K], the same in each cell, shrunken towards `weights`.
        hardness: float [K], where each type lies on the scale of hardness.
    """

    rescue: Floats
    weights: Floats
    cells: Floats
    hardness: Floats


def fit_mixture(
    outcomes: Outcomes,
    hardness: Floats,
    *,
    bandwidth: float,
    shrinkage: float,
    most_types: int = MOST_TYPES,
) -> Mixture:
    """Find the types.

    Args:
        outcomes: N failed problems.
        hardness: float [N], what covariates say about each; on the scale of log-odds.
        bandwidth: how far problems of one type spread on that scale.
        shrinkage: failures' worth of weight that all cells together have in one cell.
        most_types: at most so many types.
    """
    patterns = _patterns(outcomes, hardness)
    passed, failed, cell, place, weight = patterns
    tries = (weight[:, None] * (passed + failed)).sum(axis=0)
    mean = ((weight[:, None] * passed).sum(axis=0) + 0.5) / (tries + 1.0)
    rescue, position = _starts(passed, failed, place, weight, mean, most_types)
    shares = np.full(len(rescue), 1.0 / len(rescue))
    cells = np.tile(shares, (len(outcomes.cells), 1))
    before = -np.inf
    for _ in range(ITERATIONS):
        belonging, likelihood = _belonging(
            passed, failed, cell, place, rescue, cells, position, bandwidth
        )
        mass = belonging * weight[:, None]
        rescue = _updated(mass, passed, failed, mean)
        shares, cells = _shares(mass, cell, len(outcomes.cells), shrinkage)
        position = (mass.T @ place + position * 1e-9) / (mass.sum(axis=0) + 1e-9)
        reached = float(likelihood @ weight / weight.sum())
        if abs(reached - before) < CLOSE:
            break
        before = reached
    return Mixture(rescue, shares, cells, position)


def _patterns(
    outcomes: Outcomes, hardness: Floats
) -> tuple[Floats, Floats, NDArray[np.int64], Floats, Floats]:
    """(passed, failed, cell, hardness, weight) of distinct problems, at most MOST_PATTERNS.

    Production traces repeat: problems with the same outcomes in the same cell and about as hard are
    one, with a weight. Where still too many are left, a sample of them stands for all.
    """
    place = np.round(hardness, 1) if len(outcomes) > MOST_PATTERNS else hardness
    rows = np.column_stack([outcomes.passed, outcomes.attempts, outcomes.cell, place])
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    weight = counts.astype(float)
    if len(distinct) > MOST_PATTERNS:
        rng = np.random.default_rng(0)
        kept = np.sort(
            rng.choice(len(distinct), MOST_PATTERNS, replace=False, p=weight / len(rows))
        )
        # Drawn by weight, so what is drawn counts alike.
        distinct, weight = distinct[kept], np.full(MOST_PATTERNS, len(rows) / MOST_PATTERNS)
    o = len(outcomes.operators)
    passed, attempts = distinct[:, :o], distinct[:, o : 2 * o]
    cell, place = distinct[:, 2 * o].astype(np.int64), distinct[:, 2 * o + 1]
    return passed, np.maximum(attempts - passed, 0.0), cell, place, weight


def _starts(
    passed: Floats, failed: Floats, place: Floats, weight: Floats, mean: Floats, most: int
) -> tuple[Floats, Floats]:
    """Where the search begins: problems spread evenly over the range of what was rescued."""
    rates = (passed + STRENGTH * mean) / (passed + failed + STRENGTH)
    order = np.lexsort((*rates.T, place, rates.mean(axis=1)))
    upto = np.cumsum(weight[order])
    count = min(most, len(order))
    wanted = (np.arange(count) + 0.5) / count * upto[-1]
    chosen = np.unique(np.searchsorted(upto, wanted).clip(0, len(order) - 1))
    return _inside(rates[order[chosen]]), place[order[chosen]].astype(float)


def _belonging(
    passed: Floats,
    failed: Floats,
    cell: NDArray[np.int64],
    place: Floats,
    rescue: Floats,
    cells: Floats,
    position: Floats,
    bandwidth: float,
) -> tuple[Floats, Floats]:
    """Float [N, K] to which type each problem belongs, and its log-likelihood [N]."""
    log = passed @ np.log(rescue).T
    log += failed @ np.log1p(-rescue).T
    log += np.log(cells)[cell]
    log -= 0.5 * ((place[:, None] - position) / bandwidth) ** 2
    top = log.max(axis=1, keepdims=True)
    np.exp(log - top, out=log)
    total = log.sum(axis=1, keepdims=True)
    log /= total
    return log, (np.log(total) + top)[:, 0]


def _updated(mass: Floats, passed: Floats, failed: Floats, mean: Floats) -> Floats:
    won, lost = mass.T @ passed, mass.T @ failed
    return _inside((won + STRENGTH * mean) / (won + lost + STRENGTH))


def _shares(
    mass: Floats, cell: NDArray[np.int64], cells: int, shrinkage: float
) -> tuple[Floats, Floats]:
    total = mass.sum(axis=0) + SPREAD_WEIGHT / mass.shape[1]
    shares = total / total.sum()
    by_cell = np.zeros((cells, mass.shape[1]))
    np.add.at(by_cell, cell, mass)
    by_cell += shrinkage * shares + 1e-12
    return shares, by_cell / by_cell.sum(axis=1, keepdims=True)


def _inside(rates: Floats) -> Floats:
    clipped: Floats = np.clip(rates, EDGE, 1.0 - EDGE)
    return clipped
