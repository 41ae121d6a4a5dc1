"""Sums over top-K lists, compiled; `numpy_list_sums` of signals.py says the same in numpy.

That one stays the reference, and runs where numba (extra `fast`) is not installed. The two agree to
1e-9 wherever no list has an id twice, which tests hold them to.

Tokens are handled LANES at a time and their lists turned to [K, LANES], so that every inner loop
runs along the tokens: LLVM makes vector instructions of such loops and of no others here. For its
sake they touch few arrays each, read values before they choose from them, and take several places
of the lists at once; so lists are filled up to a multiple of four places, with unused ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import config, njit, types
from numpy.typing import NDArray

Array = NDArray[Any]

DISABLED = bool(getattr(config, "DISABLE_JIT", False))  # then the loops below would run in Python
LANES = 128  # the work arrays of so many tokens stay in the first-level cache
NOTHING = -np.inf
UNUSED = -1  # two unused places match, with a log-probability of -inf: as if they did not
LEAST_EXPONENT = -708.0  # exp of less is no normal number; of this it is 3e-308

# A product and a sum may become one instruction. No sum is reordered.
OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "nogil": True, "error_model": "numpy"}


@njit(**OPTIONS)
def _weight(x: float, top: float, beta: float) -> tuple[float, float]:
    """A tempered log-weight, measured from the likeliest token, and its exponential.

    The exponential is 2^n times the Taylor series of the rest, right to 4e-13 of its value.
    """
    scaled = max((np.float64(x) - np.float64(top)) * beta, LEAST_EXPONENT)
    shifted = scaled * 1.4426950408889634 + 6755399441055744.0  # its low bits hold n
    r = scaled - (shifted - 6755399441055744.0) * 0.6931471805599453
    p = 1 / 3628800.0
    p = p * r + 1 / 362880.0
    p = p * r + 1 / 40320.0
    p = p * r + 1 / 5040.0
    p = p * r + 1 / 720.0
    p = p * r + 1 / 120.0
    p = p * r + 1 / 24.0
    p = p * r + 1 / 6.0
    p = ((p * r + 0.5) * r + 1.0) * r + 1.0
    n = np.float64(shifted).view(np.int64) << 52
    return scaled, np.int64(np.float64(p).view(np.int64) + n).view(np.float64)


@njit(**OPTIONS)
def _turn(rows: Array, start: int, turned: Array) -> None:
    """Rows [L, K] from start on to [K, LANES]; the last row stands for those that are missing."""
    last = len(rows) - 1
    for b in range(0, LANES, 4):
        t = start + b
        t0, t1, t2, t3 = min(t, last), min(t + 1, last), min(t + 2, last), min(t + 3, last)
        for k in range(rows.shape[1]):
            turned[k, b] = rows[t0, k]
            turned[k, b + 1] = rows[t1, k]
            turned[k, b + 2] = rows[t2, k]
            turned[k, b + 3] = rows[t3, k]


@njit(**OPTIONS)
def _overview(ids: Array, logprobs: Array, taken: Array, top: Array, at: Array) -> None:
    """The largest log-probability of each list, and that of the token taken [LANES]."""
    for b in range(LANES):
        top[b] = at[b] = NOTHING
    for k in range(0, len(ids), 4):
        for b in range(LANES):
            i, v, t = taken[b], at[b], top[b]
            x0, x1, x2, x3 = (
                logprobs[k, b],
                logprobs[k + 1, b],
                logprobs[k + 2, b],
                logprobs[k + 3, b],
            )
            v = x0 if ids[k, b] == i else v
            v = x1 if ids[k + 1, b] == i else v
            v = x2 if ids[k + 2, b] == i else v
            at[b] = x3 if ids[k + 3, b] == i else v
            x0 = x0 if x0 > x1 else x1
            x2 = x2 if x2 > x3 else x3
            x0 = x0 if x0 > x2 else x2
            top[b] = x0 if x0 > t else t


@njit(**OPTIONS)
def _looked_up(s_ids: Array, a_ids: Array, a_logprobs: Array, found: Array) -> None:
    """What the ancestor gives the specialist's tokens [K, LANES]; -inf where it lists them not."""
    found[:] = NOTHING
    for k in range(0, len(s_ids), 2):
        for m in range(0, len(a_ids), 4):
            for b in range(LANES):
                i, j = s_ids[k, b], s_ids[k + 1, b]
                v, w = found[k, b], found[k + 1, b]
                i0, i1, i2, i3 = a_ids[m, b], a_ids[m + 1, b], a_ids[m + 2, b], a_ids[m + 3, b]
                x0, x1 = a_logprobs[m, b], a_logprobs[m + 1, b]
                x2, x3 = a_logprobs[m + 2, b], a_logprobs[m + 3, b]
                v = x0 if i0 == i else v
                w = x0 if i0 == j else w
                v = x1 if i1 == i else v
                w = x1 if i1 == j else w
                v = x2 if i2 == i else v
                w = x2 if i2 == j else w
                found[k, b] = x3 if i3 == i else v
                found[k + 1, b] = x3 if i3 == j else w


@njit(**OPTIONS)
def _likeliest(ids: Array, logprobs: Array, k_cov: int, likeliest: Array, before: Array) -> None:
    """The log-probabilities of the k_cov likeliest tokens, -inf for the rest; ties by small id."""
    for k in range(len(ids)):
        for b in range(LANES):
            before[b] = 0
        for m in range(0, len(ids), 2):
            for b in range(LANES):
                i, i0, i1 = ids[k, b], ids[m, b], ids[m + 1, b]
                x, x0, x1 = logprobs[k, b], logprobs[m, b], logprobs[m + 1, b]
                first = (x0 > x) | (x0 == x) & (i0 < i)
                second = (x1 > x) | (x1 == x) & (i1 < i)
                before[b] += np.int32(first) + np.int32(second)
        for b in range(LANES):
            x = logprobs[k, b]
            likeliest[k, b] = x if before[b] < k_cov else NOTHING


@njit(**OPTIONS)
def _total(logprobs: Array, top: Array, beta: float, total: Array) -> None:
    """The sum of a list's weights [LANES]."""
    total[:] = 0.0
    for k in range(0, len(logprobs), 4):
        for b in range(LANES):
            t = top[b]
            w0, w1 = _weight(logprobs[k, b], t, beta)[1], _weight(logprobs[k + 1, b], t, beta)[1]
            w2, w3 = (
                _weight(logprobs[k + 2, b], t, beta)[1],
                _weight(logprobs[k + 3, b], t, beta)[1],
            )
            total[b] += (w0 + w1) + (w2 + w3)


@njit(**OPTIONS)
def _sums(
    logprobs: Array,
    found: Array,
    covering: Array,
    top: Array,
    a_top: Array,
    beta: float,
    sums: Array,
) -> None:
    """The last six of ListSums, which are sums over the specialist's weights [6, LANES]."""
    sums[:] = 0.0
    for k in range(0, len(logprobs), 2):
        for b in range(LANES):
            t, a = top[b], np.float64(a_top[b])
            u, v = np.float64(found[k, b]), np.float64(found[k + 1, b])
            u_covers, v_covers = covering[k, b] > NOTHING, covering[k + 1, b] > NOTHING
            x, p = _weight(logprobs[k, b], t, beta)
            y, q = _weight(logprobs[k + 1, b], t, beta)
            a_x, a_y = (u - a) * beta, (v - a) * beta
            sums[0, b] += p + q
            sums[1, b] += p * x + q * y
            sums[2, b] += p * x * x + q * y * y
            sums[3, b] += (p if u_covers else 0.0) + (q if v_covers else 0.0)
            sums[4, b] += p * (a_x if u > NOTHING else 0.0) + q * (a_y if v > NOTHING else 0.0)
            sums[5, b] += (0.0 if u > NOTHING else p) + (0.0 if v > NOTHING else q)


def _list_sums(
    taken: Array,
    s_ids: Array,
    s_logprobs: Array,
    a_ids: Array,
    a_logprobs: Array,
    beta: float,
    k_cov: int,
    out: Array,
) -> None:
    """Write the fields of ListSums to out, float64 [12, L]; all arrays contiguous and aligned."""
    places, a_places = (s_ids.shape[1] + 3) // 4 * 4, (a_ids.shape[1] + 3) // 4 * 4
    s_i = np.full((places, LANES), UNUSED, s_ids.dtype)
    a_i = np.full((a_places, LANES), UNUSED, a_ids.dtype)
    s_x = np.full((places, LANES), NOTHING, s_logprobs.dtype)
    a_x = np.full((a_places, LANES), NOTHING, a_logprobs.dtype)
    found, few, few_found = np.empty_like(s_x), np.empty_like(a_x), np.empty_like(s_x)
    token, before = np.empty(LANES, s_ids.dtype), np.empty(LANES, s_ids.dtype)
    totals, sums = np.empty((2, LANES)), np.empty((6, LANES))
    s_top, a_top = np.empty(LANES, s_x.dtype), np.empty(LANES, a_x.dtype)
    s_at, a_at = np.empty_like(s_top), np.empty_like(a_top)
    for start in range(0, len(taken), LANES):
        _turn(s_ids, start, s_i)
        _turn(s_logprobs, start, s_x)
        _turn(a_ids, start, a_i)
        _turn(a_logprobs, start, a_x)
        for b in range(LANES):
            token[b] = taken[min(start + b, len(taken) - 1)]
        _overview(s_i, s_x, token, s_top, s_at)
        _overview(a_i, a_x, token, a_top, a_at)
        _looked_up(s_i, a_i, a_x, found)
        _total(a_x, a_top, beta, totals[0])
        totals[1] = totals[0]
        if a_ids.shape[1] > k_cov:
            _likeliest(a_i, a_x, k_cov, few, before)
            _looked_up(s_i, a_i, few, few_found)
            _total(few, a_top, beta, totals[1])
        covering = few_found if a_ids.shape[1] > k_cov else found
        _sums(s_x, found, covering, s_top, a_top, beta, sums)
        for b in range(min(LANES, len(taken) - start)):
            out[0, start + b], out[1, start + b] = s_top[b], a_top[b]
            out[2, start + b] = (np.float64(s_at[b]) - np.float64(s_top[b])) * beta
            out[3, start + b] = (np.float64(a_at[b]) - np.float64(a_top[b])) * beta
            out[4, start + b], out[5, start + b] = totals[0, b], totals[1, b]
        for j in range(6):
            for b in range(min(LANES, len(taken) - start)):
                out[6 + j, start + b] = sums[j, b]


@cache
def compiled_list_sums(narrow: bool) -> Callable[..., None]:
    """The compiled function for lists of int32 and float32, or for those of int64 and float64.

    It is compiled once and kept on disk, beside this file or in the user's cache.
    """
    integer, real = (types.int32, types.float32) if narrow else (types.int64, types.float64)
    ids, logprobs = (types.Array(kind, 2, "C", readonly=True) for kind in (integer, real))
    taken, out = types.Array(integer, 1, "C", readonly=True), types.Array(types.float64, 2, "C")
    signature = types.void(taken, ids, logprobs, ids, logprobs, types.float64, types.int64, out)
    compiled: Callable[..., None]
    try:
        compiled = njit(signature, cache=True, **OPTIONS)(_list_sums)
    except RuntimeError:  # there is no folder to keep it in
        compiled = njit(signature, **OPTIONS)(_list_sums)
    return compiled
