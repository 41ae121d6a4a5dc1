"""What retry alone would have done, foreseen from the first samples where nobody measured it.

A problem's chance that a fresh sample passes is taken to vary over a model's problems by a Beta
distribution, fitted to how many of each problem's first samples passed. After k failed samples the
next one passes with probability a / (a + b + k), and a problem leaves once one has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, expit

from recov_graph.report.reading import Problems
from recov_graph.report.statistics import RESAMPLES, Floats, Ints

LEAST_PROBLEMS = 20  # of a model, below which a distribution over problems is a guess
ROUNDS = 64  # retries that are foreseen
PRIOR_SD = 3.0  # of logit mean and log size: wide, so that it decides only where data say nothing
STEP = 1e-3


@dataclass(frozen=True)
class Forecast:
    """Retry alone on the failed problems, as likeliest, and for R - 1 draws of what it may be.

    Attributes:
        rescued: float [R, A + 1], share rescued after 0 to A retries.
        tokens: float [R, A + 1], mean tokens spent on a problem by then.
    """

    rescued: Floats
    tokens: Floats


def forecast(problems: Problems, *, seed: int = 0) -> Forecast | None:
    """Foresee retry alone for the failed problems; None where too little is known."""
    passed = problems.samples_passed
    drawn = passed + problems.samples_failed
    judged = problems.routed & (drawn > 0)
    lost = problems.lost & (drawn > 0) & np.isfinite(problems.sample_price)
    left = np.zeros((RESAMPLES + 1, ROUNDS + 1))
    spent = np.zeros_like(left)
    for model in dict.fromkeys(problems.model[lost]):
        own = problems.model == model
        if (own & judged).sum() < LEAST_PROBLEMS:
            return None
        alpha, beta = _fitted(passed[own & judged], drawn[own & judged], seed)
        alike = np.bincount(drawn[own & lost])  # problems by how many of their samples failed
        alive = sum(
            (n * _left(alpha, beta, failed) for failed, n in enumerate(alike.tolist()) if n),
            np.zeros_like(left),
        )
        left += alive
        # Each that is left draws one more sample.
        spent[:, 1:] += problems.sample_price[own & lost].mean() * np.cumsum(alive, axis=1)[:, :-1]
    total = lost.sum()
    return Forecast(1 - left / total, spent / total) if total else None


def _fitted(passed: Ints, drawn: Ints, seed: int) -> tuple[Floats, Floats]:
    """Float [R] each: the likeliest parameters, then draws of them as far as they are uncertain.

    In logit of the mean and log of the size, where their posterior is nearly normal.
    """
    kinds, counts = np.unique(np.stack([passed, drawn], axis=1), axis=0, return_counts=True)
    k, n = kinds.T

    def surprise(at: Floats) -> float:
        mean, size = expit(at[0]), np.exp(at[1])
        alpha, beta = mean * size, (1 - mean) * size
        likely = counts @ (betaln(alpha + k, beta + n - k) - betaln(alpha, beta))
        return float(0.5 * (at @ at) / PRIOR_SD**2 - likely)

    best: Floats = minimize(surprise, np.zeros(2), method="Nelder-Mead").x
    drawn_at = np.random.default_rng(seed).multivariate_normal(
        best, np.linalg.inv(_curvature(surprise, best)), RESAMPLES
    )
    at = np.concatenate([best[None], drawn_at])
    mean, size = expit(at[:, 0]), np.exp(at[:, 1])
    return mean * size, (1 - mean) * size


def _curvature(of: Callable[[Floats], float], at: Floats) -> Floats:
    """The second derivatives [2, 2] by central differences."""
    a, b = STEP * np.eye(2)

    def mixed(u: Floats, v: Floats) -> float:
        corners = of(at + u + v) - of(at + u - v) - of(at - u + v) + of(at - u - v)
        return corners / (4 * STEP**2)

    cross = mixed(a, b)
    return np.array([[mixed(a / 2, a / 2) * 4, cross], [cross, mixed(b / 2, b / 2) * 4]])


def _left(alpha: Floats, beta: Floats, failed: int) -> Floats:
    """Float [R, A + 1]: the share not rescued by 0 to A retries after so many failed samples."""
    more = np.arange(ROUNDS)
    fails = (beta[:, None] + failed + more) / (alpha[:, None] + beta[:, None] + failed + more)
    return np.concatenate([np.ones((len(alpha), 1)), np.cumprod(fails, axis=1)], axis=1)
