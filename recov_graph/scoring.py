"""Failed rollouts with the top-K of both models, at the least cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recov_graph.models.base import Model
from recov_graph.rollout import Rollout


def distinct_rollouts(rollouts: Mapping[str, Rollout]) -> dict[tuple[int, ...], Rollout]:
    """One rollout for each text, by its tokens."""
    return {tuple(rollout.token_ids.tolist()): rollout for rollout in rollouts.values()}


def scored_rollouts(
    model: Model, prompt: str, rollouts: Mapping[str, Rollout]
) -> dict[str, Rollout]:
    """The rollouts with the top-K of both models.

    What sampling recorded is not paid again, nor is a rollout that equals another.
    """
    distinct = distinct_rollouts(rollouts)
    given = list(distinct.values())
    tokens = [rollout.token_ids for rollout in given]
    if any(rollout.specialist is None for rollout in given):
        specialist = model.score(prompt, tokens, role="specialist").topk
        given = [replace(r, specialist=t) for r, t in zip(given, specialist, strict=True)]
    ancestor = model.score(prompt, tokens, role="ancestor").topk
    given = [replace(r, ancestor=t) for r, t in zip(given, ancestor, strict=True)]
    scored = dict(zip(distinct, given, strict=True))
    return {name: scored[tuple(r.token_ids.tolist())] for name, r in rollouts.items()}
