"""Failed rollouts with the top-K of both models, at the least cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recov_graph.errors import NotScorableError
from recov_graph.models.base import Model, Role, pieces_of
from recov_graph.rollout import Rollout

Distinct = dict[tuple[int, ...], Rollout]  # by their tokens


def distinct_rollouts(rollouts: Mapping[str, Rollout]) -> Distinct:
    """One rollout for each text."""
    return {tuple(rollout.token_ids.tolist()): rollout for rollout in rollouts.values()}


def scored_rollouts(
    model: Model, prompt: str, rollouts: Mapping[str, Rollout]
) -> dict[str, Rollout]:
    """The rollouts with the top-K of both models, those left out that cannot be scored.

    What sampling recorded is not paid again, nor is a rollout that equals another.

    Raises:
        NotScorableError: none can be scored.
    """
    scored = distinct_rollouts(rollouts)
    if any(rollout.specialist is None for rollout in scored.values()):
        scored = _scored(model, prompt, scored, "specialist")
    scored = _scored(model, prompt, scored, "ancestor")
    # Whoever has scored a rollout has been told what its tokens are.
    scored = {
        key: replace(rollout, pieces=pieces_of(model, rollout.token_ids))
        for key, rollout in scored.items()
    }
    keys = {name: tuple(rollout.token_ids.tolist()) for name, rollout in rollouts.items()}
    return {name: scored[key] for name, key in keys.items() if key in scored}


def _scored(model: Model, prompt: str, rollouts: Distinct, role: Role) -> Distinct:
    """All in one call or, where that fails on some of them, one by one without those."""
    try:
        return _scored_at_once(model, prompt, rollouts, role)
    except NotScorableError:
        if len(rollouts) == 1:
            raise
    scored: Distinct = {}
    refusals: list[NotScorableError] = []
    for key, rollout in rollouts.items():
        try:
            scored |= _scored_at_once(model, prompt, {key: rollout}, role)
        except NotScorableError as error:
            refusals.append(error)
    if not scored:
        # What each of them cost is entered already.
        raise NotScorableError(str(refusals[0]))
    return scored


def _scored_at_once(model: Model, prompt: str, rollouts: Distinct, role: Role) -> Distinct:
    tokens = [rollout.token_ids for rollout in rollouts.values()]
    topk = model.score(prompt, tokens, role=role).topk
    return {
        key: replace(rollout, specialist=lists)
        if role == "specialist"
        else replace(rollout, ancestor=lists)
        for (key, rollout), lists in zip(rollouts.items(), topk, strict=True)
    }
