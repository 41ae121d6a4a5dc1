"""The embedded engine against torch: the same weights, inputs, tokens and number of threads.

Each number of threads is a process of its own, since neither library changes it well on the way.
Where torch is missing, which comes with the extra `train`, nothing is compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from importlib.util import find_spec
from json import dumps, loads
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Row, in_turn, of_times
from recov_graph.models.embedded import PAIR, TOP_K, EmbeddedPair
from recov_graph.models.transformer import Transformer

THREADS = (1, 2)
RUNS = 15
BATCH, PROMPT, STEPS = 8, 14, 60
AGREE = 1e-4
QUESTION, TEMPERATURE, SEED = "(37+48)*2-9*3?", 0.6, 1
Floats = NDArray[np.float32]


def generated(model: Transformer, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The likeliest continuations of ids [B, L], with the cache: tokens [STEPS, B]."""
    cache = model.cache(len(ids), ids.shape[1] + STEPS)
    logits, tokens = model(ids, cache)[:, -1], []
    for _ in range(STEPS):
        tokens.append(logits.argmax(axis=-1))
        logits = model(tokens[-1][:, None], cache)[:, -1]
    return np.array(tokens)


def generated_by_torch(model: Any, ids: NDArray[np.int64]) -> NDArray[Any]:
    """As `generated`."""
    import torch

    with torch.inference_mode():
        start = ids.shape[1]
        cache, tokens = model.cache(len(ids), start + STEPS), []
        logits = model(torch.from_numpy(ids), cache, 0)[:, -1]
        for step in range(STEPS):
            tokens.append(logits.argmax(dim=-1))
            logits = model(tokens[-1][:, None], cache, start + step)[:, -1]
        return np.asarray(torch.stack(tokens))


def read(model: Transformer, ids: NDArray[np.int64]) -> Floats:
    """Logits of whole sequences in one pass."""
    return model(ids, model.cache(*ids.shape))


def read_by_torch(model: Any, ids: NDArray[np.int64]) -> NDArray[Any]:
    """As `read`."""
    import torch

    with torch.inference_mode():
        return np.asarray(model(torch.from_numpy(ids), model.cache(*ids.shape), 0))


def sampled_by_torch(model: Any, pair: EmbeddedPair, room: int) -> list[list[int]]:
    """What `EmbeddedPair.sample` does: the same draws, and the likeliest tokens of each position.

    Rows that have ended are carried along, as is usual.
    """
    import torch

    context = torch.tensor([[pair._bos, *pair.encode(QUESTION).tolist()]])
    uniform = torch.from_numpy(np.random.default_rng(SEED).random((room, BATCH)))
    start, tokens, listed = context.shape[1], [], []
    going_on = torch.ones(BATCH, dtype=torch.bool)
    with torch.inference_mode():
        cache = model.cache(BATCH, start + room)
        logits = model(context.expand(BATCH, -1), cache, 0)[:, -1]
        for step in range(room):
            edges = torch.softmax(logits.double() / TEMPERATURE, dim=-1).cumsum(dim=-1)
            drawn = torch.searchsorted(edges, uniform[step, :, None] * edges[:, -1:], right=True)
            tokens.append(drawn[:, 0])
            listed.append(torch.log_softmax(logits, dim=-1))
            going_on &= tokens[-1] != pair.end_token
            if not going_on.any():
                break
            logits = model(drawn, cache, start + step)[:, -1]
        torch.stack(listed).topk(TOP_K)
    return [_until(row, pair.end_token) for row in torch.stack(tokens, dim=1).tolist()]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def compared(threads: int) -> list[Row]:
    """All comparisons in this process, once both are seen to compute the same."""
    import torch

    from benchmarks.torch_llama import TorchLlama

    torch.set_num_threads(threads)
    ours, other = Transformer(PAIR / "specialist"), TorchLlama(PAIR / "specialist")
    pair = EmbeddedPair()
    rng = np.random.default_rng(0)
    prompts = rng.integers(3, len(ours.embedding), (BATCH, PROMPT))
    whole = rng.integers(3, len(ours.embedding), (BATCH, PROMPT + STEPS))
    apart = np.abs(read(ours, whole) - read_by_torch(other, whole)).max()
    assert apart < AGREE, f"logits differ by {apart}"
    assert np.array_equal(generated(ours, prompts), generated_by_torch(other, prompts))
    drawn = [r.token_ids.tolist() for r in _sampled(pair)]
    assert drawn == sampled_by_torch(other, pair, STEPS)
    rows = []
    for name, target, mine, others in (
        (
            f"sampling {BATCH} rollouts, all that `sample` does",
            1.0,
            lambda: _sampled(pair),
            lambda: sampled_by_torch(other, pair, STEPS),
        ),
        (
            f"{STEPS} steps at batch {BATCH}",
            1.0,
            lambda: generated(ours, prompts),
            lambda: generated_by_torch(other, prompts),
        ),
        (
            f"scoring {BATCH} x {PROMPT + STEPS} tokens in one pass",
            1.0,
            lambda: read(ours, whole),
            lambda: read_by_torch(other, whole),
        ),
        (
            f"{STEPS} steps at batch 1",
            None,
            lambda: generated(ours, prompts[:1]),
            lambda: generated_by_torch(other, prompts[:1]),
        ),
    ):
        taken, by_torch = in_turn(RUNS, mine, others)
        title = f"engine, {name}, {threads} thread{'s' if threads > 1 else ''}"
        rows.append(of_times(title, taken, by_torch, "torch", target=target))
    return rows


def _sampled(pair: EmbeddedPair) -> list[Any]:
    made = pair.sample(QUESTION, n=BATCH, temperature=TEMPERATURE, max_tokens=STEPS, seed=SEED)
    return made.rollouts


def main() -> list[Row]:
    """Print the ratio of torch's time to ours for each number of threads."""
    if find_spec("torch") is None:
        print("torch is not installed, so nothing is compared; pip install 'recov-graph[train]'")
        return []
    rows = []
    for threads in THREADS:
        limits = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.engine", str(threads)],
            env={**os.environ, **limits},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows += [Row(**row) for row in loads(done.stdout)]
    for row in rows:
        print(row.line())
    return rows


if __name__ == "__main__":
    if sys.argv[1:]:
        print(dumps([asdict(row) for row in compared(int(sys.argv[1]))]))
    else:
        main()
