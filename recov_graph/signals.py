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
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.rollout import PAD_ID, TopK
from recov_graph.words import short

FEATURE_VERSION = 1  # raised whenever a definition in signals.py or features.py changes

UNLISTED = -1000.0  # log-probability of a token outside a top-K list
COVERAGE_FLOOR = 1e-8
COLDEST, HOTTEST = 1e-3, 1e6  # temperatures outside lose all precision
NEGLIGIBLE = -60.0  # log-probabilities below cannot move a coverage, which has a floor of 1e-8
LEAST_LOGPROB = -1e6  # a listed token is never taken to be less likely than this
MOST_LOGPROB = 1e4  # logits do for log-probabilities; what lies above is neither
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


class ListSums(NamedTuple):
    """What the signals need of the lists, float64 [L] each.

    Log-weights are l / T, measured from each position's likeliest token; weights, their
    exponentials. Neither is normalised: a constant added to a position changes nothing.

    Attributes:
        s_top, a_top: log-probability of the specialist's and of the ancestor's likeliest token.
        s_at, a_at: log-weights of the token taken, -inf where it is not listed.
        a_total: the ancestor's weights.
        a_covering: those of the coverage set.
        s_total: the specialist's weights.
        mean: times their own log-weights.
        square: times the squares of these.
        s_covering: the weights of tokens in the coverage set.
        cross: weights times the ancestor's log-weights of the same tokens, where it lists them.
        apart: weights of the tokens that it does not list.
    """

    s_top: Floats
    a_top: Floats
    s_at: Floats
    a_at: Floats
    a_total: Floats
    a_covering: Floats
    s_total: Floats
    mean: Floats
    square: Floats
    s_covering: Floats
    cross: Floats
    apart: Floats


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
        raise InvalidInputError(f"k_cov is {short(k_cov)}; it must be an integer of at least 1")
    tokens = _taken(taken)
    s_lists = _topk("specialist", specialist, len(tokens))
    a_lists = _topk("ancestor", ancestor, len(tokens))
    beta = 1.0 / temperature
    list_sums = fastest()
    out = np.empty((6, len(tokens)))
    for start in range(0, len(tokens), CHUNK):
        rows = slice(start, start + CHUNK)
        # Checked here and not as a whole: what has just been read is still in the cache.
        lists = (*_usable("specialist", s_lists, rows), *_usable("ancestor", a_lists, rows))
        sums = list_sums(tokens[rows], *lists, beta, k_cov)
        likely = (UNLISTED - sums.s_top.min()) * beta > NEGLIGIBLE
        missing = _missing(lists[0], *lists[2:], k_cov) if likely else None
        out[:, rows] = _signals(sums, beta, missing)
    return TokenSignals(*out)


def checked_temperature(value: Any) -> float:
    """The decoding temperature as a float.

    Raises:
        InvalidInputError: no number, or one outside the range in which signals are precise.
    """
    number = isinstance(value, int | float | np.integer | np.floating)
    if not (number and COLDEST <= value <= HOTTEST):
        raise InvalidInputError(
            f"temperature is {short(value)}; it must be a number from {COLDEST:g} to {HOTTEST:g}"
        )
    return float(value)


def _signals(sums: ListSums, beta: float, missing: Floats | None) -> tuple[Floats, ...]:
    """The six signals of one chunk, from the sums over its lists and what `_missing` counted."""
    s_log, a_log = np.log(sums.s_total), np.log(sums.a_total)
    # Log-weights of a token that is not listed, which is never likelier than certain.
    s_rest = np.minimum(s_log, (UNLISTED - sums.s_top) * beta)
    a_rest = np.minimum(a_log, (UNLISTED - sums.a_top) * beta)
    s_at = np.where(sums.s_at > -math.inf, sums.s_at, s_rest)
    a_at = np.where(sums.a_at > -math.inf, sums.a_at, a_rest)
    delta_path = (s_at - s_log) - (a_at - a_log)
    covered = sums.a_covering / sums.a_total
    reached = sums.s_covering / sums.s_total
    if missing is not None:
        reached += missing * np.exp(s_rest - s_log)
    g_cov = np.log((covered + COVERAGE_FLOOR) / (reached + COVERAGE_FLOOR))

    mean = sums.mean / sums.s_total
    square = sums.square / sums.s_total
    logit_var = np.maximum(0.0, square - mean * mean) / (beta * beta)
    entropy = np.maximum(0.0, s_log - mean) + 0.0  # no negative zero
    cross = (sums.cross + sums.apart * a_rest) / sums.s_total - a_log
    kl = np.maximum(0.0, mean - s_log - cross)
    j = np.maximum(0.0, delta_path) + np.maximum(0.0, g_cov)
    return delta_path, g_cov, logit_var, entropy, kl, j


def _missing(s_ids: Ids, a_ids: Ids, a_logprobs: Logprobs, k_cov: int) -> Floats:
    """How many tokens of the coverage set the specialist does not list [L]."""
    covering = _likeliest_first(a_ids, a_logprobs, k_cov)[0][:, :k_cov]
    listed = (covering[:, :, None] == s_ids[:, None, :]).any(axis=2)
    return np.asarray(((covering != PAD_ID) & ~listed).sum(axis=1, dtype=np.float64))


@cache
def fastest() -> Callable[..., ListSums]:
    """What sums over lists: compiled code where the extra `fast` is installed, else numpy.

    Importing numba takes longer than measuring half a million tokens, hence only when needed.
    """
    try:
        from recov_graph.compiled import DISABLED, compiled_list_sums
    except ImportError:
        return numpy_list_sums
    return numpy_list_sums if DISABLED else partial(_by, compiled_list_sums)


def _by(
    compiled: Callable[[bool], Callable[..., None]],
    taken: Ids,
    s_ids: Ids,
    s_logprobs: Logprobs,
    a_ids: Ids,
    a_logprobs: Logprobs,
    beta: float,
    k_cov: int,
) -> ListSums:
    """What `numpy_list_sums` gives, to 1e-9, from the compiled function for these types."""
    lists = (s_ids, s_logprobs, a_ids, a_logprobs)
    narrow = [array.dtype for array in lists] == [np.int32, np.float32] * 2
    kinds = [np.int32, np.float32] * 2 if narrow else [np.int64, np.float64] * 2
    if narrow and taken.dtype != np.int32:  # what is too large for int32 is not listed
        taken = np.where(taken > np.iinfo(np.int32).max, np.int64(PAD_ID), taken)
    plain = [
        np.require(array, kind, ("C", "A"))
        for array, kind in zip((taken, *lists), (kinds[0], *kinds), strict=True)
    ]
    out = np.empty((len(ListSums._fields), len(taken)))
    compiled(narrow)(*plain, beta, min(k_cov, a_ids.shape[1]), out)
    return ListSums(*out)


def numpy_list_sums(
    taken: Ids,
    s_ids: Ids,
    s_logprobs: Logprobs,
    a_ids: Ids,
    a_logprobs: Logprobs,
    beta: float,
    k_cov: int,
) -> ListSums:
    """The sums over lists [L, K] and [L, K'] of one chunk, at inverse temperature beta."""
    a_ids, a_logprobs = _likeliest_first(a_ids, a_logprobs, k_cov)
    # From here on arrays are [K, L], so that every operation runs along the long axis.
    s_ids, a_ids = np.ascontiguousarray(s_ids.T), np.ascontiguousarray(a_ids.T)
    s = _Tempered(s_ids, s_logprobs.T, beta)
    a = _Tempered(a_ids, a_logprobs.T, beta)
    place = _places(s_ids, a_ids)
    found = s_ids == taken
    listed = place > 0
    weighted = s.weights * s.scaled
    return ListSums(
        s_top=s.top,
        a_top=a.top,
        s_at=s.at(found),
        a_at=_ancestor_at(taken, found, place, a),
        a_total=a.total,
        a_covering=a.weights[:k_cov].sum(axis=0),
        s_total=s.total,
        mean=weighted.sum(axis=0),
        square=_dot(weighted, s.scaled),
        s_covering=_dot(s.weights, listed & (place <= k_cov) if len(a_ids) > k_cov else listed),
        cross=_dot(s.weights, _looked_up(a.table, place)),
        apart=_dot(s.weights, ~listed),
    )


class _Tempered:
    """Top-K lists [K, L] of one model at inverse temperature beta.

    Attributes:
        top: log-probability [L] of each position's likeliest token.
        scaled: tempered log-weights, 0 for each position's likeliest token and for unused places.
        weights: their exponentials, 0 for unused places.
        total: sum of the weights [L].
        table: [K + 1, L], a row of zeros above `scaled`.
    """

    def __init__(self, ids: Ids, logprobs: Logprobs, beta: float) -> None:
        self.ids = ids
        self.table = np.empty((ids.shape[0] + 1, ids.shape[1]))
        self.table[0] = 0.0
        self.scaled = self.table[1:]
        self.scaled[:] = logprobs
        self.top = self.scaled.max(axis=0)
        self.scaled -= self.top
        self.scaled *= beta
        self.weights = np.exp(self.scaled)
        self.total = self.weights.sum(axis=0)
        unused = ids == PAD_ID
        if unused.any():  # -inf there, which times its weight of 0 would give NaN
            self.scaled[unused] = 0.0

    def at(self, found: NDArray[np.bool_]) -> Floats:
        """Log-weights [L] of the tokens found in the lists at [K, L]."""
        return np.asarray(np.where(found.any(axis=0), _dot(self.scaled, found), -math.inf))


def _ancestor_at(
    taken: Ids, found: NDArray[np.bool_], place: Places, ancestor: _Tempered
) -> Floats:
    """Log-weights [L] of the tokens taken; where the specialist lists them, `place` tells."""
    if not found.any(axis=0).all():
        return ancestor.at(ancestor.ids == taken)
    at = np.multiply(place, found, dtype=place.dtype).max(axis=0)
    return np.asarray(np.where(at > 0, _looked_up(ancestor.table, at), -math.inf))


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
    """Lists (ids, logprobs) of the right shape and types."""
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
    return ids, logprobs


def _usable(name: str, lists: tuple[Ids, Logprobs], rows: slice) -> tuple[Ids, Logprobs]:
    """Some rows of lists, checked; unusable places get id -1 and log-probability -inf."""
    ids: Ids = lists[0][rows]
    logprobs: Logprobs = lists[1][rows]
    least = ids.min()
    if least < PAD_ID:
        raise InvalidInputError(f"{name} holds id {least}; ids are 0 or above, or -1 for none")
    if ids.dtype.kind == "u":
        ids = ids.astype(np.int64)
    if logprobs.dtype.kind != "f":
        logprobs = logprobs.astype(np.float64)
    if least > PAD_ID and logprobs.min() >= LEAST_LOGPROB and logprobs.max() <= MOST_LOGPROB:
        return ids, logprobs  # every place is used; NaN would have failed the comparisons
    if not (logprobs <= MOST_LOGPROB).all():
        row, column = np.argwhere(~(logprobs <= MOST_LOGPROB))[0]
        raise InvalidInputError(
            f"{name}.logprobs[{rows.start + row}, {column}] is {logprobs[row, column]}; "
            f"log-probabilities must be finite, at most {MOST_LOGPROB:g}, or -inf for unused places"
        )
    usable = (ids != PAD_ID) & (logprobs > -math.inf)
    logprobs = np.maximum(logprobs, logprobs.dtype.type(LEAST_LOGPROB))
    if not usable.any(axis=1).all():
        row = rows.start + int(np.argmin(usable.any(axis=1)))
        raise InvalidInputError(
            f"{name} lists no token at position {row}; each position needs at least one id "
            "with a finite log-probability"
        )
    return np.where(usable, ids, PAD_ID), np.where(usable, logprobs, -math.inf)
