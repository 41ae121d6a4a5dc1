"""What a fitted posterior believes about one failure or many, before and after attempts failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recov_graph.features import FEATURES
from recov_graph.rollout_features import ROLLOUT_FEATURES
from recov_graph.routing.outcomes import Floats, share_log_odds, z_scores
from recov_graph.routing.policy import Names, Policy, Posterior

AHEAD = 12  # attempts of one operator that are looked ahead
SAMPLED = "failed_samples"


@dataclass(frozen=True, slots=True)
class Belief:
    """Log-weights of the K types for N failures; a new one after every failed attempt.

    Attributes:
        plain: float [N, K], from the cell and from what has failed.
        informed: float [N, K], from the covariates too.
    """

    plain: Floats
    informed: Floats


class Believer:
    """A posterior as arrays, ready to be asked.

    Args:
        policy: one with a posterior.
    """

    def __init__(self, policy: Policy) -> None:
        posterior = policy.posterior
        assert posterior is not None
        self.policy, self.posterior = policy, posterior
        self.operators = tuple(posterior.operators)
        self._rescue = np.array(posterior.rescue)
        self._after_failure = np.log1p(-self._rescue)
        # float [O, J + 1, K], the probability that 0 to J attempts of an operator all fail.
        times = np.arange(AHEAD + 1)[:, None]
        self._all_fail = np.exp(times * self._after_failure.T[:, None, :])
        self._hardness = np.array(posterior.hardness)
        self._everywhere = _log_shares(posterior.weights)
        self._cells = {
            cell: _log_shares([shares.get(i, 0.0) for i in range(len(posterior.weights))])
            for cell, shares in posterior.cells.items()
            if any(shares.values())  # a cell that names no type is an unknown one
        }

    def first(
        self,
        cells: Sequence[str],
        cell: Any,
        features: Floats,
        failed: Floats,
        rollout: Floats | None = None,
    ) -> Belief:
        """Before any intervention.

        Args:
            cells: names of cells.
            cell: int [N], indices into `cells`.
            features: float [N, 3]; NaN where not measured.
            failed: float [N], samples that failed; NaN where not known.
            rollout: float [N, 4], rollout features; NaN where there are none, by default nowhere.
        """
        said = self._said(cells, cell, features, FEATURES)
        unknown = ~np.isfinite(features).all(axis=1)
        # Of the two sets, a failure has one at most.
        if rollout is not None and np.isfinite(rollout).any():
            said = said + self._said(cells, cell, rollout, ROLLOUT_FEATURES)
            unknown &= ~np.isfinite(rollout).all(axis=1)
        place = hardness(self.posterior, cells, cell, said, failed)
        plain = np.stack([self._cells.get(name, self._everywhere) for name in cells])[cell]
        # Features that were not measured could have said anything they say of other failures.
        width = np.hypot(
            self.posterior.bandwidth, np.where(unknown, self.posterior.covariates.spread, 0.0)
        )
        near = located(place, self._hardness, width[:, None])
        return Belief(plain, plain + near)

    def _said(self, cells: Sequence[str], cell: Any, features: Floats, names: Names) -> Floats:
        """Float [N], the log-odds that the features of a set speak for; 0 where not measured."""
        coefficients = self.posterior.covariates.coefficients
        weights = np.array([coefficients.get(name, 0.0) for name in names])
        said: Floats = z_scores(self.policy, cells, cell, features, names) @ weights
        return said

    def after(self, belief: Belief, operator: int, times: Any = 1.0) -> Belief:
        """After an operator has failed that many times: a number, or float [N, 1]."""
        change = times * self._after_failure[:, operator]
        return Belief(belief.plain + change, belief.informed + change)

    def all_fail(self, belief: Belief) -> Floats:
        """Float [O, J + 1, O, J + 1], the chance that two operators fail so many times each.

        For the first failure of the belief.
        """
        share = self.posterior.informed
        weights = share * shares(belief.informed[:1]) + (1 - share) * shares(belief.plain[:1])
        # Pair by pair: one large product would be shared out among threads, which on a machine that
        # is busy wait for one another a hundred times longer than the product takes.
        one, other = (self._all_fail * weights)[:, None], self._all_fail.transpose(0, 2, 1)[None]
        both: Floats = (one @ other).transpose(0, 2, 1, 3)
        return both

    def rescue(self, belief: Belief) -> Floats:
        """Float [N, O], the probability that the next attempt of each operator passes."""
        informed: Floats = shares(belief.informed) @ self._rescue
        share = self.posterior.informed
        if share >= 1.0:
            return informed
        # How hard a failure is goes by all that is known; which operator fits it better goes in
        # part by the cell alone, for which there are more failures to learn from.
        plain = shares(belief.plain) @ self._rescue
        level = informed.mean(axis=1, keepdims=True)
        blended = share * informed + (1 - share) * plain * level / plain.mean(axis=1, keepdims=True)
        clipped: Floats = np.clip(blended, 1e-6, 1 - 1e-6)
        return clipped


def hardness(
    posterior: Posterior, cells: Sequence[str], cell: Any, said: Floats, failed: Floats
) -> Floats:
    """Float [N], the log-odds of a rescue that the covariates speak for.

    `said` [N] are those that the features do.
    """
    covariates = posterior.covariates
    own = np.array([covariates.cells.get(name, 0.0) for name in cells])[cell]
    most = np.array([covariates.sampled.get(name, np.nan) for name in cells])[cell]
    log_odds = sampled_log_odds(failed, most)
    place: Floats = (
        covariates.intercept + own + said + covariates.coefficients.get(SAMPLED, 0.0) * log_odds
    )
    return place


def sampled_log_odds(failed: Floats, most: Floats) -> Floats:
    """Log-odds of the share of failed samples; where unknown, as if all had failed."""
    failed = np.where(np.isfinite(failed), failed, np.where(np.isfinite(most), most, 1.0))
    values: Floats = share_log_odds(failed, np.where(np.isfinite(most), most, failed))
    return values


def located(place: Floats, hardness: Floats, bandwidth: Any) -> Floats:
    """Float [N, K], log-density of N places on the scale of hardness under K types."""
    off = (place[:, None] - hardness) / bandwidth
    density: Floats = -0.5 * off * off
    return density


def _log_shares(shares: Sequence[float]) -> Floats:
    values = np.asarray(shares, float)
    logs: Floats = np.log(values / values.sum() + 1e-12)
    return logs


def shares(log: Floats) -> Floats:
    """Log-weights [N, K] as shares that add up to 1 in each row."""
    weights = np.exp(log - log.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    normalised: Floats = weights
    return normalised
