"""What retry alone would have done, foreseen from the first samples where nobody measured it.

A problem's chance that a fresh sample passes is taken to vary over a model's problems by a Beta
distribution, fitted to how many of each problem's first samples passed. After k failed samples the
next one passes with probability a / (a + b + k), and a problem leaves once one has. Where the
counts do not look as such a distribution makes them, as where problems are either easy or
hopeless, nothing is foreseen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, expit
from scipy.stats import betabinom, chi2

from recov_graph.report.reading import Problems
from recov_graph.report.statistics import RESAMPLES, Floats, Ints

LEAST_PROBLEMS = 20  # of a model, below which a distribution over problems is a guess
ROUNDS = 64  # retries that are foreseen
LEAST_LIKELY = 0.01  # probability of counts as odd as those seen, below which the fit is refused
LEAST_EXPECTED = 5.0  # problems of a kind that a test of the fit takes at least
PRIOR_SD = 3.0  # of logit mean and log size: wide, so that it decides only where data say nothing
STEP = 1e-3


@dataclass(frozen=True)
class Forecast:
    """Retry alone on the failed problems, as likeliest, and for R - 1 draws of what it may be.

    Attributes:
        rescued: float [R, A + 1], share rescued after 0 to A retries; of the draws, by chance too.
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
        known = own & judged
        _, cluster = np.unique(problems.cluster[known], return_inverse=True)
        if cluster.max(initial=-1) + 1 < LEAST_PROBLEMS:
            return None
        # A problem that was run several times counts once.
        weights = 1 / np.bincount(cluster)[cluster]
        alpha, beta = _fitted(passed[known], drawn[known], weights, seed)
        if not _fits(alpha[0], beta[0], passed[known], drawn[known], weights):
            return None
        alike = np.bincount(drawn[own & lost])  # problems by how many of their samples failed
        alive = sum(
            (n * _left(alpha, beta, failed) for failed, n in enumerate(alike.tolist()) if n),
            np.zeros_like(left),
        )
        left += alive
        # Each that is left draws one more sample.
        spent[:, 1:] += problems.sample_price[own & lost].mean() * np.cumsum(alive, axis=1)[:, :-1]
    total = int(lost.sum())
    if not total:
        return None
    rescued = 1 - left / total
    # What comes of so many problems is chance too, were the distribution known.
    rng = np.random.default_rng(seed)
    rescued[1:] = rng.binomial(total, rescued[1:].clip(0, 1)) / total
    return Forecast(rescued, spent / total)


def _fitted(passed: Ints, drawn: Ints, weights: Floats, seed: int) -> tuple[Floats, Floats]:
    """Float [R] each: the likeliest parameters, then draws of them as far as they are uncertain.

    In logit of the mean and log of the size, where their posterior is nearly normal.
    """
    k, n, counts = _kinds(passed, drawn, weights)

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


def _kinds(passed: Ints, drawn: Ints, weights: Floats) -> tuple[Ints, Ints, Floats]:
    """Int [K], int [K], float [K]: samples passed and drawn, and how many problems are so."""
    pairs = np.stack([passed, drawn], axis=1)
    kinds, at = np.unique(pairs, axis=0, return_inverse=True)
    counts: Floats = np.bincount(at.ravel(), weights).astype(np.float64)
    return kinds[:, 0], kinds[:, 1], counts


def _fits(alpha: float, beta: float, passed: Ints, drawn: Ints, weights: Floats) -> bool:
    """Whether the counts of passed samples are as the distribution makes them, by chi-square."""
    n = np.bincount(drawn, weights).argmax()  # samples that most problems had
    seen = np.bincount(passed[drawn == n], weights[drawn == n], minlength=n + 1)
    expected = seen.sum() * betabinom(n, alpha, beta).pmf(np.arange(n + 1))
    rare = expected < LEAST_EXPECTED
    kinds = [(seen[i], expected[i]) for i in np.flatnonzero(~rare)]
    if expected[rare].sum() >= LEAST_EXPECTED:
        kinds.append((seen[rare].sum(), expected[rare].sum()))
    freedom = len(kinds) - 3  # two parameters, and the sum
    if freedom < 1:
        return True  # too few to tell
    odd = sum((one - other) ** 2 / other for one, other in kinds)
    return bool(chi2.sf(odd, freedom) >= LEAST_LIKELY)


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
