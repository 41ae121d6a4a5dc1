"""Mixing specialist and ancestor into one next-token distribution.

Source: Islah et al., arXiv 2606.05145. With weight alpha on the specialist, "path" mixes
log-probabilities, alpha*l_S + (1-alpha)*l_A, and "cov" mixes probabilities,
log(alpha*p_S + (1-alpha)*p_A); both are renormalised over the tokens that either model lists.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.rollout import PAD_ID, TopK
from recov_graph.signals import UNLISTED, TokenSignals

ALPHA = 0.7
Mode = Literal["path", "cov"]


def mix(specialist: TopK, ancestor: TopK, *, alpha: float = ALPHA, mode: Mode = "path") -> TopK:
    """The mixed distribution [1, K] of two positions [1, K1] and [1, K2], at temperature 1."""
    ids = np.union1d(specialist.ids, ancestor.ids)
    ids = ids[ids != PAD_ID]
    l_s, l_a = (_spread(ids, topk) for topk in (specialist, ancestor))
    if mode == "path":
        mixed = alpha * l_s + (1 - alpha) * l_a
    else:
        mixed = np.logaddexp(np.log(alpha) + l_s, np.log1p(-alpha) + l_a)
    mixed -= np.logaddexp.reduce(mixed)
    return TopK(ids[None], mixed[None])


def checked_alpha(alpha: float) -> float:
    """The weight, refused where it leaves no mixture."""
    if not 0 < alpha < 1:
        raise InvalidInputError(f"alpha is {alpha!r}; it must be between 0 and 1")
    return alpha


def mode_at(signals: TokenSignals, position: int) -> Mode:
    """The deformation that dominates at a position: "path" on ties."""
    path, coverage = signals.delta_path[position], signals.g_cov[position]
    return "path" if max(0.0, path) >= max(0.0, coverage) else "cov"


def row(topk: TopK, position: int) -> TopK:
    """One position of a rollout's top-K, as [1, K]."""
    return TopK(topk.ids[position][None], topk.logprobs[position][None])


def likeliest(topk: TopK) -> int:
    """The most likely token of one position; the smaller id on ties."""
    ids, logprobs = topk.ids[0], topk.logprobs[0]
    return int(ids[np.lexsort((ids, -logprobs))[0]])


def draw_token(topk: TopK, temperature: float, rng: np.random.Generator) -> int:
    """A token of one position, sampled at a temperature."""
    logprobs = topk.logprobs[0].astype(np.float64)
    weights = np.exp((logprobs - logprobs.max()) / temperature)
    edges = weights.cumsum()
    place = np.searchsorted(edges, rng.random() * edges[-1], side="right")
    return int(topk.ids[0][min(place, len(edges) - 1)])


def _spread(ids: NDArray[np.integer[Any]], topk: TopK) -> NDArray[np.float64]:
    """Log-probabilities of the given ids, sorted; those not listed count as -1000."""
    values = np.full(len(ids), UNLISTED)
    listed = (topk.ids[0] != PAD_ID) & np.isfinite(topk.logprobs[0])
    values[np.searchsorted(ids, topk.ids[0][listed])] = topk.logprobs[0][listed]
    return values
