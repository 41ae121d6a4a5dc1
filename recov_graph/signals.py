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
LEAST_LOGPROB = -1e6  # a listed token is never taken to be less likely than this
CHUNK = 2048  # tokens handled at a time, so that the [chunk, K, K] comparison stays in the cache

Floats = NDArray[np.float64]
Ids = NDArray[np.integer[Any]]
Logprobs = NDArray[np.floating[Any]]


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
            np.ascontiguousarray(s_logprobs[rows].T, np.float64),
            np.ascontiguousarray(covering[0].T),
            np.ascontiguousarray(covering[1].T, np.float64),
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
    s_logprobs: Floats,
    a_ids: Ids,
    a_logprobs: Floats,
    beta: float,
    k_cov: int,
) -> tuple[Floats, ...]:
    """The six signals of one chunk, at inverse temperature beta; the ancestor's coverage first."""
    s_listed = s_ids != PAD_ID
    log_s, p_s, s_rest = _softmax(s_logprobs, s_listed, beta)
    log_a, p_a, a_rest = _softmax(a_logprobs, a_ids != PAD_ID, beta)

    delta_path = _at(taken, s_ids, log_s, s_rest) - _at(taken, a_ids, log_a, a_rest)

    # s_to_a: where the ancestor lists the specialist's token, counted from 1; 0 where it does not.
    s_to_a = np.zeros(s_ids.shape, np.min_scalar_type(len(a_ids)))
    for place, ids in enumerate(a_ids, start=1):
        np.maximum(s_to_a, (s_ids == ids) * s_to_a.dtype.type(place), out=s_to_a)
    s_to_a[~s_listed] = 0
    log_a_on_s = np.take_along_axis(np.vstack([a_rest, log_a]), s_to_a.astype(np.intp), axis=0)

    covered = a_ids[:k_cov] != PAD_ID
    p_a_cov = p_a[:k_cov].sum(axis=0)
    inside = (s_to_a > 0) & (s_to_a <= k_cov)
    # Tokens of the coverage set that the specialist does not list have probability exp(s_rest).
    missing = covered.sum(axis=0) - inside.sum(axis=0)
    p_s_cov = (p_s * inside).sum(axis=0) + missing * np.exp(s_rest)
    g_cov = np.log((p_a_cov + COVERAGE_FLOOR) / (p_s_cov + COVERAGE_FLOOR))

    # Centred on the largest log-probability, so that a constant added to the row changes nothing.
    centred = np.where(s_listed, s_logprobs - s_logprobs.max(axis=0), 0.0)
    centred -= (p_s * centred).sum(axis=0)
    logit_var = (p_s * centred * centred).sum(axis=0)
    entropy = np.maximum(0.0, -(p_s * log_s).sum(axis=0))
    kl = np.maximum(0.0, (p_s * (log_s - log_a_on_s)).sum(axis=0))
    j = np.maximum(0.0, delta_path) + np.maximum(0.0, g_cov)
    return delta_path, g_cov, logit_var, entropy, kl, j


def _softmax(
    logprobs: Floats, listed: NDArray[np.bool_], beta: float
) -> tuple[Floats, Floats, Floats]:
    """Tempered (log p, p), both [K, L], and log p [L] of any unlisted token, never above 0.

    Unused places get p = 0 and log p = 0: they are weighed by p, where -inf would give NaN.
    """
    top = logprobs.max(axis=0)
    scaled = (logprobs - top) * beta
    weights = np.exp(scaled)
    total = weights.sum(axis=0)
    normaliser = np.log(total)
    log_p = np.where(listed, scaled - normaliser, 0.0)
    return log_p, weights / total, np.minimum(0.0, (UNLISTED - top) * beta - normaliser)


def _at(taken: Ids, ids: Ids, values: Floats, otherwise: Floats) -> Floats:
    """The value [L] that each column of [K, L] holds for the taken token, else `otherwise`."""
    found = ids == taken
    return np.where(found.any(axis=0), (values * found).sum(axis=0), otherwise)


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
    usable = (ids != PAD_ID) & (logprobs > -math.inf)
    if not (logprobs < math.inf).all():
        row, column = np.argwhere(~(logprobs < math.inf))[0]
        raise InvalidInputError(
            f"{name}.logprobs[{row}, {column}] is {logprobs[row, column]}; "
            "log-probabilities must be finite, or -inf for unused places"
        )
    if not usable.any(axis=1).all():
        row = int(np.argmin(usable.any(axis=1)))
        raise InvalidInputError(
            f"{name} lists no token at position {row}; each position needs at least one id "
            "with a finite log-probability"
        )
    repeated = np.sort(ids, axis=1)
    repeated = (repeated[:, 1:] == repeated[:, :-1]) & (repeated[:, 1:] != PAD_ID)
    if repeated.any():
        row = int(repeated.any(axis=1).argmax())
        raise InvalidInputError(
            f"{name} lists a token twice at position {row}; ids must be distinct within a position"
        )
    logprobs = np.maximum(logprobs, LEAST_LOGPROB)
    if usable.all():
        return ids, logprobs
    return np.where(usable, ids, PAD_ID), np.where(usable, logprobs, -math.inf)
