"""Intervals that count problems, not rows: attempts at one problem, and one problem run twice,
are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from recov_graph.report.content import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Z = 1.959964  # of a 95% interval
RESAMPLES = 1000
FEW_CLUSTERS = 5  # of equal size: what fewer do says nothing of how far their rows agree
LEAST_RESAMPLED = 10  # clusters below which a bootstrap interval is too narrow to show
NOTHING = Estimate(None)


def clusters(*columns: Any) -> Ints:
    """Int [N]: rows that are alike in all columns have the same number."""
    numbers: dict[tuple[Any, ...], int] = {}
    rows = (numbers.setdefault(row, len(numbers)) for row in zip(*columns, strict=True))
    return np.fromiter(rows, np.int64)


def share(hits: Any, cluster: Ints) -> Estimate:
    """The share of hits with a Wilson interval, as wide as the clusters make it.

    Args:
        hits: bool [N].
        cluster: int [N].
    """
    values = np.asarray(hits, np.float64)
    n = len(values)
    if n == 0:
        return NOTHING
    p = float(values.mean())
    return wilson(p, n / _design_effect(values, p, cluster))


def wilson(p: float, n: float) -> Estimate:
    """A share p of n, which need not be whole, with its 95% Wilson interval."""
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    # The ends of an interval hold what it is of, whatever rounding does.
    return Estimate(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def _design_effect(values: Floats, p: float, cluster: Ints) -> float:
    """How many times wider than that of independent rows the variance of a mean is, at least 1."""
    n = len(values)
    sizes = np.bincount(cluster).astype(float)
    most = float((sizes**2).sum() / n)  # if all rows of a cluster agree
    equal = n / most  # as many clusters of one size are worth as much
    # Nothing tells how far rows agree where all of them do, or where clusters are few.
    if p in (0, 1) or equal < FEW_CLUSTERS:
        return most
    sums = np.bincount(cluster, values - p)
    found = max(1.0, float((sums**2).sum() / n**2) / (p * (1 - p) / n))
    return found + (max(most, found) - found) / equal


def mean(values: Any, cluster: Ints, *, level: float = 0.95) -> Estimate:
    """The mean with its interval by Student's t; without one where there is a single cluster.

    Args:
        values: float [N].
        cluster: int [N].
        level: of the interval.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return NOTHING
    centre = float(values.mean())
    sums = np.bincount(cluster, values - centre)
    groups = len(np.unique(cluster))
    if groups < 2:
        return Estimate(centre)
    quantile = float(t.ppf((1 + level) / 2, groups - 1))
    half = quantile * math.sqrt(float((sums**2).sum()) * groups / (groups - 1)) / n
    return Estimate(centre, centre - half, centre + half)


def resampled(
    statistic: Callable[[Floats], Floats], columns: Floats, cluster: Ints, *, seed: int = 0
) -> Estimate:
    """A statistic of sums with its bootstrap interval over clusters, where there are enough.

    An end where the statistic is infinite is None; there is no interval where it is undefined.

    Args:
        statistic: of sums, float [R, C] -> float [R].
        columns: float [N, C], summed over problems.
        cluster: int [N].
        seed: of the resamples; the same seed gives the same interval.
    """
    if not len(cluster):
        return NOTHING
    present, cluster = np.unique(cluster, return_inverse=True)
    groups = len(present)
    sums = np.stack([np.bincount(cluster, column, groups) for column in columns.T], axis=1)
    rng = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, sums.shape[1]))
    for i in range(RESAMPLES):
        drawn[i] = np.bincount(rng.integers(groups, size=groups), minlength=groups) @ sums
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(axis=0)[None])[0])
        spread = statistic(drawn)
    if groups < LEAST_RESAMPLED or np.isnan(spread).any():
        return Estimate(_finite(value))
    low, high = np.quantile(spread, [0.025, 0.975], method="nearest")
    return Estimate(_finite(value), _finite(float(low)), _finite(float(high)))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
