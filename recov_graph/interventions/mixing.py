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
from recov_graph.models.base import Draft
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


class Draw:
    """How one position's token is drawn: from scratch, or from what the specialist wrote ahead.

    A draft is accepted with probability min(1, target / proposal); where it is not, the token is
    drawn from what the target has beyond the proposal. Either way the token is distributed exactly
    as the target (speculative sampling, Leviathan et al., arXiv 2211.17192).

    Args:
        rng: random numbers.
        draft: the specialist's own next token, where there is one; it serves one draw only, since
            a second from the same draft would not be independent of the first.
    """

    def __init__(self, rng: np.random.Generator, draft: Draft | None = None) -> None:
        self._rng, self._draft = rng, draft

    def __call__(self, topk: TopK, temperature: float) -> int:
        """A token of a distribution [1, K], sampled at a temperature."""
        ids, target = tempered(topk, temperature)
        draft, self._draft = self._draft, None
        if draft is not None:
            wanted, offered = _at(draft.token, ids, target), _at(draft.token, *draft[1:])
            if self._rng.random() * offered < wanted:
                return draft.token
            both, where = np.unique(np.concatenate([ids, draft.ids]), return_inverse=True)
            beyond = np.bincount(where[: len(ids)], target, len(both))
            beyond -= np.bincount(where[len(ids) :], draft.proposal, len(both))
            ids, target = both, beyond.clip(min=0.0)
        edges = target.cumsum()
        place = np.searchsorted(edges, self._rng.random() * edges[-1], side="right")
        return int(ids[min(place, len(edges) - 1)])


def tempered(topk: TopK, temperature: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids [K] and probabilities [K] of a distribution [1, K] at a temperature; 0 is greedy."""
    if temperature == 0:
        return np.array([likeliest(topk)]), np.ones(1)
    listed = (topk.ids[0] != PAD_ID) & np.isfinite(topk.logprobs[0])
    logprobs = topk.logprobs[0][listed].astype(np.float64)
    weights = np.exp((logprobs - logprobs.max()) / temperature)
    return topk.ids[0][listed].astype(np.int64), weights / weights.sum()


def _at(token: int, ids: NDArray[Any], probabilities: NDArray[np.float64]) -> float:
    """The probability of a token; 0 where it is not listed."""
    return float(probabilities[ids == token].sum())


def _spread(ids: NDArray[np.integer[Any]], topk: TopK) -> NDArray[np.float64]:
    """Log-probabilities of the given ids, sorted; those not listed count as -1000."""
    values = np.full(len(ids), UNLISTED)
    listed = (topk.ids[0] != PAD_ID) & np.isfinite(topk.logprobs[0])
    values[np.searchsorted(ids, topk.ids[0][listed])] = topk.logprobs[0][listed]
    return values
