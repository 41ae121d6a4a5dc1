"""A Llama-style transformer in numpy, with a key/value cache: reads Hugging Face's layout.

At this size a step costs as much in calls of numpy as in arithmetic, so calls are saved: constant
factors are in the weights, and what can be done in place is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# Tokens read in one pass: what is in between stays in a core's own cache.
PASS = 160
# The exponentials of scores up to this can be summed as they are: float32 ends at exp(88).
STEEPEST = 78.0


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights with the factors of norm, attention and signs in them; see `_layer`."""

    qkv: Floats  # [D, 3D]
    out: Floats  # [D, D]
    gate_up: Floats  # [D, 2M]
    down: Floats  # [M, D]
    steep: bool  # scores may be too large to be raised as they are


@dataclass(slots=True)
class Cache:
    """Keys and values of the positions read so far, [B, layers, 2, heads, capacity, head]."""

    stored: Floats
    length: int = 0

    def repeated(self, times: int, capacity: int) -> Cache:
        """A copy with room for `capacity` tokens, each row of it this cache's only row."""
        _, *shape, _, head = self.stored.shape
        copy = Cache(np.empty((times, *shape, capacity, head), np.float32), self.length)
        copy.stored[..., : self.length, :] = self.stored[..., : self.length, :]
        return copy

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, given in rising order."""
        for new, old in enumerate(rows):
            if new != old:
                self.stored[new, ..., : self.length, :] = self.stored[old, ..., : self.length, :]
        self.stored = self.stored[: len(rows)]


class Transformer:
    """RMSNorm, rotary positions, SwiGLU, tied embeddings; float32 arithmetic.

    Args:
        folder: holds config.json and model.safetensors, as LlamaForCausalLM saves them.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
        weights = {
            name.removeprefix("model."): tensor.astype(np.float32)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self.heads: int = config["num_attention_heads"]
        self.head_dim: int = config["head_dim"]
        self.context: int = config["max_position_embeddings"]
        self.embedding = weights["embed_tokens.weight"]
        self.size = self.embedding.shape[1]
        self._eps = np.float32(config["rms_norm_eps"] * self.size)
        self._unembedding = _normed_first(weights["norm.weight"], self.embedding.T)
        self._layers = [self._layer(weights, i) for i in range(config["num_hidden_layers"])]
        self._turns = self._rotary(config["rope_theta"])
        self._ones = np.ones(self.context, np.float32)
        self._mask = np.triu(np.full((self.context, self.context), -np.inf, np.float32), k=1)

    def cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache for a batch of `rows` sequences of up to `capacity` tokens."""
        shape = (rows, len(self._layers), 2, self.heads, capacity, self.head_dim)
        return Cache(np.empty(shape, np.float32))

    def __call__(self, ids: NDArray[np.integer[Any]], cache: Cache) -> Floats:
        """Read ids [B, L] after what the cache holds; logits [B, L, V] at temperature 1."""
        batch, length = ids.shape
        rows = max(1, PASS // length)
        read = [
            self._read(ids[i : i + rows], cache.stored[i : i + rows], cache.length)
            for i in range(0, batch, rows)
        ]
        cache.length += length
        return read[0] if len(read) == 1 else np.concatenate(read)

    def _read(self, ids: NDArray[np.integer[Any]], stored: Floats, start: int) -> Floats:
        batch, length = ids.shape
        end = start + length
        turns, ones = self._turns[start:end], self._ones[:end]
        mask = self._mask[start:end, :end] if length > 1 else None
        mixed = np.empty((batch, length, self.heads, self.head_dim), np.float32)
        flat, by_head = mixed.reshape(-1, self.size), mixed.swapaxes(1, 2)

        x = self.embedding[ids.reshape(-1)]
        for i, layer in enumerate(self._layers):
            qkv = self._normed(x) @ layer.qkv
            pairs = qkv.view(np.complex64).reshape(batch, length, -1)[..., : self.size]
            pairs *= turns  # of queries and keys
            parts = qkv.reshape(batch, length, 3, self.heads, self.head_dim)
            stored[:, i, :, :, start:end] = parts[:, :, 1:].transpose(0, 2, 3, 1, 4)
            keys, values = stored[:, i, 0, :, :end], stored[:, i, 1, :, :end]
            weights = parts[:, :, 0].swapaxes(1, 2) @ keys.swapaxes(2, 3)
            if mask is not None:
                weights += mask
            if layer.steep:
                weights -= weights.max(axis=-1, keepdims=True)
            np.exp(weights, out=weights)
            np.matmul(weights, values, out=by_head)
            # Divided by their sum only here: the head has fewer numbers than there are positions.
            by_head /= (weights.reshape(-1, end) @ ones).reshape(batch, self.heads, length, 1)
            x += flat @ layer.out
            x += _swiglu(self._normed(x) @ layer.gate_up) @ layer.down
        return np.asarray((self._normed(x) @ self._unembedding).reshape(batch, length, -1))

    def _normed(self, x: Floats) -> Floats:
        """[N, D] divided by the length of each row; the rest of the norm is in the weights."""
        lengths = np.einsum("nd,nd->n", x, x)
        lengths += self._eps
        return np.asarray(x / np.sqrt(lengths, out=lengths)[:, None])

    def _layer(self, weights: dict[str, Floats], index: int) -> _Layer:
        def transposed(name: str) -> Floats:
            return weights[f"layers.{index}.{name}.weight"].T

        # Attention does not mind in what order queries and keys have their columns. The two that
        # are turned together lie side by side, as the parts of a complex number.
        order = np.arange(self.size).reshape(self.heads, 2, -1).swapaxes(1, 2).reshape(-1)
        q = transposed("self_attn.q_proj")[:, order] * np.float32(self.head_dim**-0.5)
        k, v = transposed("self_attn.k_proj")[:, order], transposed("self_attn.v_proj")
        qkv = _normed_first(transposed("input_layernorm"), np.concatenate([q, k, v], axis=1))
        # Both with the other sign, of which `_swiglu` makes use.
        gate, up = -transposed("mlp.gate_proj"), -transposed("mlp.up_proj")
        return _Layer(
            qkv=qkv,
            out=np.ascontiguousarray(transposed("self_attn.o_proj")),
            gate_up=_normed_first(
                transposed("post_attention_layernorm"), np.concatenate([gate, up], axis=1)
            ),
            down=np.ascontiguousarray(transposed("mlp.down_proj")),
            steep=self._steepest(qkv) > STEEPEST,
        )

    def _steepest(self, qkv: Floats) -> float:
        """What no attention score exceeds: rows of length 1 get no longer than the norms say."""
        by_head = qkv.reshape(self.size, 3, self.heads, self.head_dim)[:, :2].transpose(1, 2, 0, 3)
        query, key = np.linalg.norm(by_head, ord=2, axis=(2, 3))
        return float((query * key).max())

    def _rotary(self, theta: float) -> NDArray[np.complex64]:
        """Complex [context, D]: by what the pairs of all queries and keys are multiplied."""
        frequencies = theta ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        angles = np.outer(np.arange(self.context), np.tile(frequencies, 2 * self.heads))
        return np.asarray(np.exp(1j * angles), np.complex64)


def _normed_first(norm: Floats, matrix: Floats) -> Floats:
    """A matrix [D, N] that is applied to rows of length 1 instead of to normed ones."""
    scale = norm * np.float32(len(norm) ** 0.5)
    return np.ascontiguousarray(scale[:, None] * matrix)


def _swiglu(wide: Floats) -> Floats:
    """silu(gate) * up from -gate and -up, side by side."""
    half = wide.shape[-1] // 2
    gate, up = wide[:, :half], wide[:, half:]
    bottom = np.exp(gate)
    bottom += 1
    gate *= up
    gate /= bottom
    return gate
