"""A Llama-style transformer in numpy, with a key/value cache: reads Hugging Face's layout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Floats  # [D]
    qkv: Floats  # [D, 3D]
    out: Floats  # [D, D]
    mlp_norm: Floats  # [D]
    gate_up: Floats  # [D, 2M]
    down: Floats  # [M, D]


@dataclass(slots=True)
class Cache:
    """Keys and values of the positions read so far, [layers, B, heads, capacity, head]."""

    keys: Floats
    values: Floats
    length: int = 0

    def rows(self, index: NDArray[np.intp]) -> Cache:
        """A copy that holds the given rows, in that order; rows may repeat."""
        return Cache(self.keys[:, index], self.values[:, index], self.length)


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
        self.eps: float = config["rms_norm_eps"]
        self.embedding = weights["embed_tokens.weight"]
        self.unembedding = np.ascontiguousarray(self.embedding.T)
        self.norm = weights["norm.weight"]
        self.layers = [_layer(weights, i) for i in range(config["num_hidden_layers"])]
        self.cos, self.sin = _rotary(self.context, self.head_dim, config["rope_theta"])

    def cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache for a batch of `rows` sequences of up to `capacity` tokens."""
        shape = (len(self.layers), rows, self.heads, capacity, self.head_dim)
        return Cache(np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    def __call__(self, ids: NDArray[np.integer[Any]], cache: Cache) -> Floats:
        """Read ids [B, L] after what the cache holds; logits [B, L, V] at temperature 1."""
        batch, length = ids.shape
        start, end = cache.length, cache.length + length
        shape = (batch, length, 3, self.heads, self.head_dim)
        cos, sin = self.cos[start:end], self.sin[start:end]
        mask = None
        if length > 1:
            mask = np.triu(np.full((length, end), -np.inf, np.float32), k=1 + start)
        scale = np.float32(self.head_dim**-0.5)

        x = self.embedding[ids]
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            projected = (self._normed(x, layer.attention_norm) @ layer.qkv).reshape(shape)
            q, k, v = projected.transpose(2, 0, 3, 1, 4)
            keys[:, :, start:end] = _rotated(k, cos, sin)
            values[:, :, start:end] = v
            scores = (_rotated(q, cos, sin) * scale) @ keys[:, :, :end].swapaxes(2, 3)
            if mask is not None:
                scores += mask
            mixed = _softmax(scores) @ values[:, :, :end]
            x = x + mixed.transpose(0, 2, 1, 3).reshape(batch, length, -1) @ layer.out
            wide = self._normed(x, layer.mlp_norm) @ layer.gate_up
            gate, up = wide[..., : wide.shape[-1] // 2], wide[..., wide.shape[-1] // 2 :]
            x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down
        cache.length = end
        return np.asarray(self._normed(x, self.norm) @ self.unembedding)

    def _normed(self, x: Floats, weight: Floats) -> Floats:
        mean_square = np.einsum("...d,...d->...", x, x)[..., None] / np.float32(x.shape[-1])
        return np.asarray(x * (weight / np.sqrt(mean_square + np.float32(self.eps))))


def _layer(weights: dict[str, Floats], index: int) -> _Layer:
    def transposed(*names: str) -> Floats:
        stacked = np.concatenate([weights[f"layers.{index}.{name}.weight"] for name in names])
        return np.ascontiguousarray(stacked.T)

    return _Layer(
        attention_norm=weights[f"layers.{index}.input_layernorm.weight"],
        qkv=transposed("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=transposed("self_attn.o_proj"),
        mlp_norm=weights[f"layers.{index}.post_attention_layernorm.weight"],
        gate_up=transposed("mlp.gate_proj", "mlp.up_proj"),
        down=transposed("mlp.down_proj"),
    )


def _rotary(length: int, head_dim: int, theta: float) -> tuple[Floats, Floats]:
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    angles = np.outer(np.arange(length), np.concatenate([frequencies, frequencies]))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotated(x: Floats, cos: Floats, sin: Floats) -> Floats:
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return np.asarray(x * cos + turned * sin)


def _softmax(scores: Floats) -> Floats:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
