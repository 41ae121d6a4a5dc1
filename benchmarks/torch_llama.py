"""The transformer of the embedded pair in plain torch, as one writes it who wants it fast.

Projections that read the same input are one product, attention is torch's own fused kernel, keys
and values are written in place into a buffer of the final size. It is not compiled: that takes a
C++ compiler and seconds to minutes, for a model that answers in milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


class TorchLlama:
    """RMSNorm, rotary positions, SwiGLU, tied embeddings, from Hugging Face's layout.

    Args:
        folder: holds config.json and model.safetensors.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        config = json.loads((folder / "config.json").read_text("utf-8"))
        weights = {
            name.removeprefix("model."): tensor.float()
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self.heads, self.head_dim = config["num_attention_heads"], config["head_dim"]
        self.eps = config["rms_norm_eps"]
        self.embedding, self.norm = weights["embed_tokens.weight"], weights["norm.weight"]
        self.layers = [_layer(weights, i) for i in range(config["num_hidden_layers"])]
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        positions = torch.arange(config["max_position_embeddings"], dtype=torch.float64)
        angles = torch.outer(positions, config["rope_theta"] ** -exponents).repeat(1, 2)
        self.cos, self.sin = angles.cos().float(), angles.sin().float()

    def cache(self, rows: int, capacity: int) -> Any:
        """An empty cache for a batch of `rows` sequences of up to `capacity` tokens."""
        shape = (len(self.layers), 2, rows, self.heads, capacity, self.head_dim)
        return torch.empty(shape)

    def __call__(self, ids: Any, cache: Any, start: int) -> Any:
        """Read ids [B, L] after `start` tokens that the cache holds; logits [B, L, V]."""
        batch, length = ids.shape
        end = start + length
        cos, sin = self.cos[start:end], self.sin[start:end]
        x = F.embedding(ids, self.embedding)
        for layer, stored in zip(self.layers, cache, strict=True):
            normed = F.rms_norm(x, x.shape[-1:], layer["attention_norm"], self.eps)
            parts = F.linear(normed, layer["qkv"]).view(batch, length, 3, self.heads, self.head_dim)
            qk, v = parts[:, :, :2].permute(2, 0, 3, 1, 4), parts[:, :, 2].transpose(1, 2)
            q, k = _rotated(qk, cos, sin)
            stored[0, :, :, start:end], stored[1, :, :, start:end] = k, v
            # Only what starts at the first position is read in more than one piece of a sequence.
            mixed = F.scaled_dot_product_attention(
                q, stored[0, :, :, :end], stored[1, :, :, :end], is_causal=length > 1
            )
            x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, -1), layer["out"])
            normed = F.rms_norm(x, x.shape[-1:], layer["mlp_norm"], self.eps)
            gate, up = F.linear(normed, layer["gate_up"]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.linear(F.rms_norm(x, x.shape[-1:], self.norm, self.eps), self.embedding)


def _layer(weights: dict[str, Any], index: int) -> dict[str, Any]:
    def stacked(*names: str) -> Any:
        return torch.cat([weights[f"layers.{index}.{name}.weight"] for name in names])

    return {
        "attention_norm": stacked("input_layernorm"),
        "qkv": stacked("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "out": stacked("self_attn.o_proj"),
        "mlp_norm": stacked("post_attention_layernorm"),
        "gate_up": stacked("mlp.gate_proj", "mlp.up_proj"),
        "down": stacked("mlp.down_proj"),
    }


def _rotated(x: Any, cos: Any, sin: Any) -> Any:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin
