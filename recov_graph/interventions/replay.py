"""Repairing a failed trace from a point on: keep the prefix, change something, go on sampling."""

from __future__ import annotations

from typing import Literal

import numpy as np

from recov_graph.interventions.base import Failure
from recov_graph.models.base import Ids, Model, ends_text
from recov_graph.rollout import Rollout

Continuation = Literal["temperature", "greedy"]


def go_on(
    model: Model, failure: Failure, prefix: Ids, continuation: Continuation = "temperature"
) -> Rollout:
    """A whole rollout: the prefix and what the specialist writes after it."""
    if len(prefix) and ends_text(model, int(prefix[-1])):
        return Rollout(model.decode(prefix), prefix, "stop")
    room = failure.max_tokens - len(prefix)
    if room <= 0:
        return Rollout(model.decode(prefix), prefix, "length")
    generation = model.sample(
        failure.problem.prompt,
        temperature=failure.temperature if continuation == "temperature" else 0.0,
        max_tokens=room,
        seed=failure.seed,
        prefix=prefix,
    )
    rest = generation.rollouts[0]
    if rest.written is not None:  # its tokens are not known, or not all of them
        text, written = model.decode(prefix) + rest.text, len(prefix) + len(rest)
        return Rollout(text, prefix, rest.finish_reason, written=written)
    tokens = np.concatenate([prefix, rest.token_ids])
    return Rollout(model.decode(tokens), tokens, rest.finish_reason)


def with_token(prefix: Ids, token: int) -> Ids:
    """The prefix with one token after it."""
    return np.append(prefix, np.int32(token))
