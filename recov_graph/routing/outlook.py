"""The best plan within a budget: so many attempts of one operator, then so many of another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recov_graph.routing.outcomes import Floats

# How far the tokens of an attempt, and of all attempts of a problem, stray from what is expected,
# as a share. On the shipped tape the first is 0.2 to 0.4, by operator.
STRAY, STRAY_OF_ALL = 0.3, 0.1


def best_plans(
    fails: Floats, cost: Floats, once: Floats, *, tokens_left: float, attempts_left: int
) -> Floats:
    """Float [O], by the operator a plan begins with, the chance that the best one rescues.

    Args:
        fails: float [O, J + 1, O, J + 1], the chance that two operators fail so many times each.
        cost: float [O], tokens expected of an attempt.
        once: float [O], tokens to be paid before the first; paid for one, it is for all.
        tokens_left: what the budget allows; infinite without a limit.
        attempts_left: attempts it allows.
    """
    times = np.arange(fails.shape[1])
    allowed = times[:, None, None] + times <= attempts_left
    if math.isinf(tokens_left):
        chance: Floats = np.where(allowed, 1.0 - fails, 0.0)[:, 1:].max(axis=(1, 2, 3))
        return chance
    fit = _fits(cost, once, times, tokens_left) * allowed
    # An attempt only counts as far as all up to it are likely to fit the tokens left.
    alone = fails[:, :, 0, 0]
    first = _summed((alone[:, :-1] - alone[:, 1:]) * fit[:, 1:, 0, 0])
    second = _summed((fails[..., :-1] - fails[..., 1:]) * fit[..., 1:])
    best: Floats = (first[:, :, None, None] + second)[:, 1:].max(axis=(1, 2, 3))
    return best


def _fits(cost: Floats, once: Floats, times: Any, tokens_left: float) -> Floats:
    """Float [O, J + 1, O, J + 1], how likely so many attempts stay within the tokens left."""
    written = times * cost[:, None]
    variance = (STRAY * cost[:, None]) ** 2 * times
    begun = times > 0
    tokens = written + begun * once[:, None]
    shared = np.minimum(once[:, None], once)[:, None, :, None] * (begun[:, None, None] & begun)
    spent = tokens[:, :, None, None] + tokens - shared
    together = written[:, :, None, None] + written
    sd = np.sqrt(variance[:, :, None, None] + variance + (STRAY_OF_ALL * together) ** 2) + 1e-9
    # The logistic curve that is closest to the normal one.
    likely: Floats = 1.0 / (1.0 + np.exp(-np.clip(1.702 * (tokens_left - spent) / sd, -50, 50)))
    return likely


def _summed(gains: Floats) -> Floats:
    """Running sums along the last axis, from 0."""
    nothing = np.zeros((*gains.shape[:-1], 1))
    sums: Floats = np.concatenate([nothing, np.cumsum(gains, axis=-1)], axis=-1)
    return sums
