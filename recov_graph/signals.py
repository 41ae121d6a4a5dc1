"""Token signals: how the specialist departs from its ancestor at every token of a rollout.

Source: Islah et al., arXiv 2606.05145. All logarithms are natural. Let l_S and l_A be the top-K
log-probabilities of specialist and ancestor at temperature 1, and p^T the distribution obtained by
dividing them by the decoding temperature T and renormalising over the top-K. A token that is not
listed counts as l = -1000. With x_t the token taken and A_t the ancestor's k_cov likeliest tokens:

    delta_path = log p_S^T(x_t) - log p_A^T(x_t)                      path deformation [nats]
    g_cov      = log((p_A^T(A_t) + 1e-8) / (p_S^T(A_t) + 1e-8))       coverage deformation [nats]
    logit_var  = variance of l_S under p_S^T                          logit dispersion [nats^2]
    entropy    = entropy of p_S^T                                     [nats]
    kl         = KL(p_S^T || p_A^T), at least 0                       [nats]
    j          = max(0, delta_path) + max(0, g_cov)                   demotion pressure [nats]
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.rollout import PAD_ID, TopK

FEATURE_VERSION = 1  # raised whenever a definition in signals.py or features.py changes

UNLISTED = -1000.0  # log-probability of a token outside a top-K list
COVERAGE_FLOOR = 1e-8
COLDEST, HOTTEST = 1e-3, 1e6  # temperatures outside lose all precision
NEGLIGIBLE = -700.0  # log-probabilities below cannot move a coverage
LEAST_LOGPROB = -1e6  # a listed token is never taken to be less likely than this
CHUNK = 4096  # tokens handled at a time: few calls of numpy, arrays that stay in the cache

Floats = NDArray[np.float64]
Ids = NDArray[np.integer[Any]]
Logprobs = NDArray[np.floating[Any]]
Places = NDArray[np.unsignedinteger[Any]]


class TokenSignals(NamedTuple):
    """Six float64 [L] arrays, one value a token; see the module's docstring."""

    delta_path: Floats
    g_cov: Floats
    logit_var: Floats
    entropy: Floats
    kl: Floats
    j: Floats


def token_signals(
    taken: ArrayLike,
    specialist: TopK,
    ancestor: TopK,
    temperature: float = 0.6,
    k_cov: int = 20,
) -> TokenSignals:
    """Measure every token of one rollout.

    Args:
        taken: int [L], the tokens of the rollout, L at least 1.
        specialist: top-K of the model that wrote it, [L, K]; padded with id -1 and logprob -inf.
        ancestor: top-K of its base model over the same prefixes, [L, K']; K' may differ from K.
        temperature: the decoding temperature T, above 0.
        k_cov: how many of the ancestor's likeliest tokens make up the coverage set, at least 1.

    Raises:
        InvalidInputError: wrong shapes, NaN, lengths that differ, a position without any token.
    """
    temperature = checked_temperature(temperature)
    if not (isinstance(k_cov, int | np.integer) and k_cov >= 1):
        raise InvalidInputError(f"k_cov is {k_cov!r}; it must be an integer of at least 1")
    tokens = _taken(taken)
    s_ids, s_logprobs = _topk("specialist", specialist, len(tokens))
    a_ids, a_logprobs = _topk("ancestor", ancestor, len(tokens))
    out = np.empty((6, len(tokens)))
    for start in range(0, len(tokens), CHUNK):
        rows = slice(start, start + CHUNK)
        covering = _likeliest_first(a_ids[rows], a_logprobs[rows], k_cov)
        # From here on arrays are [K, L], so that every operation runs along the long axis.
        out[:, rows] = _signals(
            tokens[rows],
            np.ascontiguousarray(s_ids[rows].T),
            s_logprobs[rows].T,
            np.ascontiguousarray(covering[0].T),
            covering[1].T,
            1.0 / temperature,
            k_cov,
        )
    return TokenSignals(*out)


def checked_temperature(value: Any) -> float:
    """The decoding temperature as a float.

    Raises:
        InvalidInputError: no number, or one outside the range in which signals are precise.
    """
    number = isinstance(value, int | float | np.integer | np.floating)
    if not (number and COLDEST <= value <= HOTTEST):
        raise InvalidInputError(
            f"temperature is {value!r}; it must be a number from {COLDEST:g} to {HOTTEST:g}"
        )
    return float(value)


def _signals(
    taken: Ids,
    s_ids: Ids,
    s_logprobs: Logprobs,
    a_ids: Ids,
    a_logprobs: Logprobs,
    beta: float,
    k_cov: int,
) -> tuple[Floats, ...]:
    """The six signals of one chunk, at inverse temperature beta; the ancestor's coverage first.

    Sums are taken over unnormalised weights and divided at the end, and logarithms are measured
    from each position's likeliest token: a constant added to a position changes nothing.
    """
    s = _Tempered(s_ids, s_logprobs, beta)
    a = _Tempered(a_ids, a_logprobs, beta)
    place = _places(s_ids, a_ids)
    found = s_ids == taken
    delta_path = s.log_p(found) - _ancestor_log_p(taken, found, place, a)
    covered = a.weights[:k_cov].sum(axis=0) / a.total
    inside = (place > 0) & (place <= k_cov) if len(a_ids) > k_cov else place > 0
    reached = _dot(s.weights, inside) / s.total
    if s.unlisted.max() > NEGLIGIBLE:
        # Tokens of the coverage set that the specialist does not list count as unlisted ones.
        missing = (a_ids[:k_cov] != PAD_ID).sum(axis=0) - inside.sum(axis=0)
        reached += missing * np.exp(s.unlisted)
    g_cov = np.log((covered + COVERAGE_FLOOR) / (reached + COVERAGE_FLOOR))

    weighted = s.weights * s.scaled
    mean = weighted.sum(axis=0) / s.total
    square = _dot(weighted, s.scaled) / s.total
    logit_var = np.maximum(0.0, square - mean * mean) / (beta * beta)
    entropy = np.maximum(0.0, s.normaliser - mean) + 0.0  # no negative zero

    cross = _dot(s.weights, _looked_up(a.table, place)) / s.total - a.normaliser
    kl = np.maximum(0.0, mean - s.normaliser - cross)
    j = np.maximum(0.0, delta_path) + np.maximum(0.0, g_cov)
    return delta_path, g_cov, logit_var, entropy, kl, j


class _Tempered:
    """Top-K lists [K, L] of one model at inverse temperature beta.

    Attributes:
        scaled: tempered log-weights, 0 for each position's likeliest token and for unused places.
        weights: their exponentials, 0 for unused places.
        total: sum of the weights [L].
        normaliser: its logarithm [L]; log p = scaled - normaliser.
        unlisted: log p [L] of any token that is not listed, never above 0.
        table: [K + 1, L], the log-weight of an unlisted token above `scaled`.
    """

    def __init__(self, ids: Ids, logprobs: Logprobs, beta: float) -> None:
        self.ids = ids
        self.table = np.empty((ids.shape[0] + 1, ids.shape[1]))
        self.scaled = self.table[1:]
        self.scaled[:] = logprobs
        top = self.scaled.max(axis=0)
        self.scaled -= top
        self.scaled *= beta
        self.weights = np.exp(self.scaled)
        self.total = self.weights.sum(axis=0)
        self.normaliser = np.log(self.total)
        self.unlisted = np.minimum(0.0, (UNLISTED - top) * beta - self.normaliser)
        self.table[0] = self.unlisted + self.normaliser
        unused = ids == PAD_ID
        if unused.any():  # -inf there, which times its weight of 0 would give NaN
            self.scaled[unused] = 0.0

    def log_p(self, found: NDArray[np.bool_]) -> Floats:
        """Log p [L] of the tokens found in the lists at [K, L]."""
        listed = _dot(self.scaled, found) - self.normaliser
        return np.asarray(np.where(found.any(axis=0), listed, self.unlisted))


def _ancestor_log_p(
    taken: Ids, found: NDArray[np.bool_], place: Places, ancestor: _Tempered
) -> Floats:
    """Log p [L] of the tokens taken; where the specialist lists them, their place is known."""
    if not found.any(axis=0).all():
        return ancestor.log_p(ancestor.ids == taken)
    at = np.multiply(place, found, dtype=place.dtype).max(axis=0)
    return np.asarray(_looked_up(ancestor.table, at) - ancestor.normaliser)


def _looked_up(table: Floats, place: Places) -> Floats:
    """The entries of [K + 1, L] in the rows that `place`, [..., L], names for each column."""
    flat = place.astype(np.intp)
    flat *= table.shape[1]
    flat += np.arange(table.shape[1])
    return np.asarray(table.take(flat, mode="clip"))


def _dot(a: Floats, b: NDArray[Any]) -> Floats:
    """Sum over K of the products of two [K, L] arrays, without the array of products."""
    return np.asarray(np.einsum("kl,kl->l", a, b))


def _places(s_ids: Ids, a_ids: Ids) -> Places:
    """Where the ancestor lists the specialist's tokens, [K, L], counted from 1; 0 for nowhere."""
    place = np.zeros(s_ids.shape, np.min_scalar_type(len(a_ids)))
    same = np.empty(s_ids.shape, np.bool_)
    # For up to 255 places the truth values become places where they lie.
    marked = same.view(place.dtype) if place.itemsize == 1 else np.empty_like(place)
    for number, ids in enumerate(a_ids, start=1):
        np.equal(s_ids, ids, out=same)
        np.multiply(marked if place.itemsize == 1 else same, place.dtype.type(number), out=marked)
        np.maximum(place, marked, out=place)
    unused = s_ids == PAD_ID
    if unused.any():
        place[unused] = 0
    return place


def _likeliest_first(ids: Ids, logprobs: Logprobs, k_cov: int) -> tuple[Ids, Logprobs]:
    """Order [L, K] rows so that the first k_cov places are the coverage set; ties by small id."""
    if ids.shape[1] <= k_cov:
        return ids, logprobs
    order = np.argpartition(-logprobs, k_cov - 1, axis=1)
    edge = np.take_along_axis(logprobs, order[:, k_cov - 1 : k_cov], axis=1)
    tied = (logprobs >= edge).sum(axis=1) > k_cov
    if tied.any():
        order[tied] = np.lexsort((ids[tied], -logprobs[tied]), axis=1)
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(logprobs, order, axis=1)


def _taken(taken: ArrayLike) -> Ids:
    try:
        tokens = np.asarray(taken)
    except ValueError:
        raise InvalidInputError("taken is ragged; it must be integers [L]") from None
    if tokens.ndim != 1 or len(tokens) == 0 or tokens.dtype.kind not in "iu":
        raise InvalidInputError(
            f"taken has shape {tokens.shape} and type {tokens.dtype}; "
            "it must be integers [L], one token id a position, L at least 1"
        )
    if tokens.min() < 0:
        raise InvalidInputError(f"taken holds {tokens.min()}; token ids are 0 or above")
    return tokens


def _topk(name: str, value: Any, length: int) -> tuple[Ids, Logprobs]:
    """Checked (ids, logprobs); unusable places get id -1 and log-probability -inf."""
    try:
        ids, logprobs = (np.asarray(part) for part in value)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"{name} is a {type(value).__name__}; it must be TopK(ids, logprobs) of shape [L, K]"
        ) from None
    if ids.ndim != 2 or ids.shape != logprobs.shape or ids.shape[1] == 0:
        raise InvalidInputError(
            f"{name} has ids {ids.shape} and logprobs {logprobs.shape}; "
            "both must have the same shape [L, K] with K at least 1"
        )
    if len(ids) != length:
        raise InvalidInputError(
            f"{name} has {len(ids)} positions but taken has {length}; the lengths must be the same"
        )
    if ids.dtype.kind not in "iu" or logprobs.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"{name} has ids of type {ids.dtype} and logprobs of type {logprobs.dtype}; "
            "they must be integers and floats"
        )
    if ids.min() < PAD_ID:
        raise InvalidInputError(f"{name} holds id {ids.min()}; ids are 0 or above, or -1 for none")
    if ids.dtype.kind == "u":
        ids = ids.astype(np.int64)
    if logprobs.dtype.kind != "f":
        logprobs = logprobs.astype(np.float64)
    if ids.min() > PAD_ID and logprobs.min() >= LEAST_LOGPROB and logprobs.max() < math.inf:
        return ids, logprobs  # every place is used; NaN would have failed the comparisons
    if not (logprobs < math.inf).all():
        row, column = np.argwhere(~(logprobs < math.inf))[0]
        raise InvalidInputError(
            f"{name}.logprobs[{row}, {column}] is {logprobs[row, column]}; "
            "log-probabilities must be finite, or -inf for unused places"
        )
    usable = (ids != PAD_ID) & (logprobs > -math.inf)
    logprobs = np.maximum(logprobs, logprobs.dtype.type(LEAST_LOGPROB))
    if not usable.any(axis=1).all():
        row = int(np.argmin(usable.any(axis=1)))
        raise InvalidInputError(
            f"{name} lists no token at position {row}; each position needs at least one id "
            "with a finite log-probability"
        )
    return np.where(usable, ids, PAD_ID), np.where(usable, logprobs, -math.inf)
