"""Whether two engines do the same: features side by side, and draws compared by permutation."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from recov_graph.features import FEATURES, TraceFeatures
from recov_graph.graph import TEMPERATURE
from recov_graph.models import Model
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout
from recov_graph.scoring import scored_rollouts
from recov_graph.trace import Trace, measure

SHUFFLES = 4000
Draws = Sequence[Hashable]  # what was observed of each of several draws


def traces(model: Model, problem: Problem, rollouts: Sequence[Rollout]) -> list[Trace]:
    """Rollouts scored by a model, one request to each of the two, and measured."""
    bare = {str(i): replace(one, specialist=None, ancestor=None) for i, one in enumerate(rollouts)}
    scored = scored_rollouts(model, problem.prompt, bare)
    assert list(scored) == list(bare)
    return [measure(one, TEMPERATURE) for one in scored.values()]


def worst(one: Sequence[TraceFeatures], other: Sequence[TraceFeatures]) -> dict[str, float]:
    """The largest difference in each feature; in the junction, how many differ."""
    pairs = list(zip(one, other, strict=True))
    found = {
        name: max(abs(getattr(a, name) - getattr(b, name)) for a, b in pairs) for name in FEATURES
    }
    return {**found, "junctions": float(sum(a.junction != b.junction for a, b in pairs))}


def p_value(strata: Sequence[tuple[Draws, Draws]], seed: int = 0) -> float:
    """How likely draws of the same distributions differ by as much; by permutation, exact.

    The statistic is the two-sample chi-square summed over strata; labels are shuffled within each.
    """
    rng = np.random.default_rng(seed)
    exceeded = np.zeros(SHUFFLES + 1)
    for one, other in strata:
        _, codes = np.unique([repr(x) for x in (*one, *other)], return_inverse=True)
        mine = np.zeros(len(codes), bool)
        mine[: len(one)] = True
        labels = np.stack([mine, *(rng.permutation(mine) for _ in range(SHUFFLES))])
        whole = np.bincount(codes)
        expected = whole * len(one) / len(codes)
        for code, mean in enumerate(expected):
            exceeded += (labels[:, codes == code].sum(axis=1) - mean) ** 2 / whole[code]
    return float((exceeded >= exceeded[0] - 1e-9).mean())
