"""Signals and features against a plain per-token Python loop, and tokens per second on one core."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from recov_graph import TopK, token_signals, trace_features

K, TEMPERATURE, K_COV = 20, 0.6, 20
TOKENS, LOOP_TOKENS, RUNS = 100_000, 2_000, 15


def inputs(length: int, seed: int = 0) -> tuple[np.ndarray, TopK, TopK]:
    """Random top-20 lists of two models that share three quarters of their tokens."""
    rng = np.random.default_rng(seed)
    # Ids as large as those of today's vocabularies, distinct within a position.
    ids = np.argsort(rng.random((length, 40)), axis=1).astype(np.int32)
    ids = ids * 3700 + rng.integers(3700, size=(length, 1), dtype=np.int32)

    def topk(start: int) -> TopK:
        logprobs = np.log(rng.dirichlet(np.full(K, 0.3), length) + 1e-12)
        return TopK(ids[:, start : start + K], logprobs.astype(np.float32))

    return ids[:, 6], topk(0), topk(5)


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


def seconds(call: Callable[[], object]) -> float:
    """The time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Print tokens per second and the ratio to the loop, medians of runs taken in turn."""
    few, many = inputs(LOOP_TOKENS), inputs(TOKENS)
    ours = np.array(token_signals(*few, TEMPERATURE, K_COV))
    assert np.allclose(ours.T, loop(*few), atol=1e-6)
    slow, fast = [], []
    for _ in range(RUNS + 1):
        slow.append(seconds(lambda: loop(*few)) / LOOP_TOKENS)
        fast.append(
            seconds(lambda: trace_features(token_signals(*many, TEMPERATURE, K_COV))) / TOKENS
        )
    ratios = [s / f for s, f in zip(slow[1:], fast[1:], strict=True)]  # the first warms up
    print(
        f"signals and features, K={K}: {1 / statistics.median(fast[1:]):,.0f} tokens/s on one core"
    )
    print(f"plain Python loop:           {1 / statistics.median(slow[1:]):,.0f} tokens/s")
    print(
        f"ratio:                       {statistics.median(ratios):.0f} times "
        f"({min(ratios):.0f} to {max(ratios):.0f} over {RUNS} runs)"
    )


if __name__ == "__main__":
    main()
