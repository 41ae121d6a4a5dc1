"""Signals and features against a per-token Python loop and against reading their inputs, one core.

Reading alone is the largest element of each of the five input arrays, by `np.max`: the quickest
plain pass there is over memory in numpy. Long inputs are larger than the last-level cache, so that
neither reading nor measuring finds them there; of short ones both find all there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np

from benchmarks.rows import Row, clock, of_times
from recov_graph import TopK, signals, token_signals, trace_features

K, TEMPERATURE, K_COV = 20, 0.6, 20
RUNS = 15
# Tokens of a rollout, and how often it is measured in one run so that the clock can tell.
SHAPES = {"40": (40, 50), "2,000": (2_000, 5), "400,000": (400_000, 1)}
LOOP_TOKENS = 2_000  # the loop takes as long for each token of more
CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")


def inputs(length: int, seed: int = 0) -> tuple[np.ndarray, TopK, TopK]:
    """Random top-20 lists of two models that share three quarters of their tokens."""
    rng = np.random.default_rng(seed)
    # Ids as large as those of today's vocabularies, distinct within a position.
    ids = np.argsort(rng.random((length, 40)), axis=1).astype(np.int32)
    ids = ids * 3700 + rng.integers(3700, size=(length, 1), dtype=np.int32)

    def topk(start: int) -> TopK:
        logprobs = np.log(rng.dirichlet(np.full(K, 0.3), length) + 1e-12)
        listed = np.ascontiguousarray(ids[:, start : start + K])
        return TopK(listed, logprobs.astype(np.float32))

    return ids[:, 6].copy(), topk(0), topk(5)


def loop(taken: np.ndarray, specialist: TopK, ancestor: TopK) -> list[list[float]]:
    """The formulas of signals.py, one token at a time, as one would first write them."""

    def log_sum_exp(values: list[float]) -> float:
        top = max(values)
        return top + math.log(sum(math.exp(value - top) for value in values))

    rows = []
    for t, token in enumerate(taken.tolist()):
        l_s = dict(zip(specialist.ids[t].tolist(), specialist.logprobs[t].tolist(), strict=True))
        l_a = dict(zip(ancestor.ids[t].tolist(), ancestor.logprobs[t].tolist(), strict=True))
        z_s = log_sum_exp([v / TEMPERATURE for v in l_s.values()])
        z_a = log_sum_exp([v / TEMPERATURE for v in l_a.values()])
        log_s = {y: v / TEMPERATURE - z_s for y, v in l_s.items()}
        log_a = {y: v / TEMPERATURE - z_a for y, v in l_a.items()}
        rest_s, rest_a = -1000 / TEMPERATURE - z_s, -1000 / TEMPERATURE - z_a
        delta = log_s.get(token, rest_s) - log_a.get(token, rest_a)
        cover = sorted(l_a, key=lambda y: -l_a[y])[:K_COV]
        p_a = sum(math.exp(log_a[y]) for y in cover)
        p_s = sum(math.exp(log_s.get(y, rest_s)) for y in cover)
        g_cov = math.log((p_a + 1e-8) / (p_s + 1e-8))
        mean = sum(math.exp(log_s[y]) * l_s[y] for y in l_s)
        variance = sum(math.exp(log_s[y]) * (l_s[y] - mean) ** 2 for y in l_s)
        entropy = -sum(math.exp(v) * v for v in log_s.values())
        kl = max(0.0, sum(math.exp(v) * (v - log_a.get(y, rest_a)) for y, v in log_s.items()))
        rows.append([delta, g_cov, variance, entropy, kl, max(0, delta) + max(0, g_cov)])
    return rows


def measured(taken: np.ndarray, specialist: TopK, ancestor: TopK) -> None:
    """Signals and features of one rollout."""
    trace_features(token_signals(taken, specialist, ancestor, TEMPERATURE, K_COV))


def by_numpy(taken: np.ndarray, specialist: TopK, ancestor: TopK) -> None:
    """The same without compiled code, whether that is installed or not."""
    with patch.object(signals, "fastest", lambda: signals.numpy_list_sums):
        measured(taken, specialist, ancestor)


def read(taken: np.ndarray, specialist: TopK, ancestor: TopK) -> None:
    """One pass over the same memory."""
    for array in (taken, *specialist, *ancestor):
        array.max()


def seconds(call: Callable[..., object], given: tuple[np.ndarray, TopK, TopK], times: int) -> float:
    """The time of a call for one token."""
    started = clock()
    for _ in range(times):
        call(*given)
    return (clock() - started) / times / len(given[0])


def main() -> list[Row]:
    """Print tokens per second, medians of runs taken in turn; give back the ratios."""
    few = inputs(LOOP_TOKENS)
    expected = loop(*few)
    assert np.allclose(np.transpose(token_signals(*few, TEMPERATURE, K_COV)), expected, atol=1e-6)
    fast = signals.fastest() is not signals.numpy_list_sums
    cache = CACHE.read_text(encoding="ascii").strip() if CACHE.is_file() else "unknown"
    print(f"K={K}, {RUNS} runs in turn, one core; last-level cache {cache}; tokens a second")
    if not fast:
        print("compiled: not installed; pip install 'recov-graph[fast]'")
    ways = {"numpy": by_numpy, **({"compiled": measured} if fast else {})}
    rows = []
    for name, (length, times) in SHAPES.items():
        many = inputs(length)
        size = sum(array.nbytes for array in (many[0], *many[1], *many[2])) / 2**20
        took: dict[str, list[float]] = {way: [] for way in (*ways, "loop", "reading")}
        for _ in range(RUNS + 1):
            took["loop"].append(seconds(loop, few if length > LOOP_TOKENS else many, 1))
            for way, call in {**ways, "reading": read}.items():
                took[way].append(seconds(call, many, times))
        took = {way: each[1:] for way, each in took.items()}  # the first warms up
        figures = ", ".join(f"{way} {1 / median(each):,.0f}" for way, each in took.items())
        print(f"{name} tokens, {size:,.3g} MiB: {figures}", flush=True)
        for way in ways:
            fastest = way == [*ways][-1] and length >= LOOP_TOKENS
            rows += [
                of_times(
                    f"features, {way}, {name} tokens",
                    took[way],
                    took[other],
                    against,
                    target=target if fastest else None,
                    unit="ns a token",
                    scale=1e9,
                )
                for other, against, target in (
                    ("loop", "a Python loop", 100.0),
                    ("reading", "reading the inputs", 1 / 3),
                )
            ]
    return rows


if __name__ == "__main__":
    for row in main():
        print(row.line())
