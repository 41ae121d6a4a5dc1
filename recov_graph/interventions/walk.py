"""Steering a rollout token by token, for models that show both distributions at every step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recov_graph.interventions.base import Failure
from recov_graph.interventions.mixing import Draw
from recov_graph.models.base import Model
from recov_graph.rollout import Rollout, TopK

# (position, specialist [1, K], ancestor [1, K], how to draw) -> token
Choose = Callable[[int, TopK, TopK, Draw], int]


def walk(model: Model, failure: Failure, choose: Choose) -> Rollout:
    """A fresh rollout whose every token is picked by `choose`."""
    rng = np.random.default_rng(failure.seed)
    session = model.open(
        failure.problem.prompt,
        temperature=failure.temperature,
        max_tokens=failure.max_tokens,
        seed=failure.seed,
    )
    tokens: list[int] = []
    while session.finished is None and len(tokens) < failure.max_tokens:
        specialist, ancestor = session.distributions()
        tokens.append(choose(len(tokens), specialist, ancestor, Draw(rng, session.draft)))
        session.append(tokens[-1])
    return Rollout(
        text=model.decode(tokens),
        token_ids=np.array(tokens, np.int32),
        finish_reason=session.finished or "length",
    )
