"""extend: more tokens for a problem whose samples were cut."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from recov_graph.interventions.base import Attempt, Failure, Lengths, checked_number
from recov_graph.interventions.replay import go_on
from recov_graph.models.base import Capability, Model
from recov_graph.trace import Trace

FACTOR = 2.0
MOST = 100.0


class Extend:
    """Allow a longer completion; possible only where a failed sample was cut.

    A measured sample that was cut is continued where the model can do that. Otherwise a fresh one
    is drawn.

    Args:
        factor: how many times as long a completion may be, above 1 and at most 100.
    """

    name = "extend"
    needs = frozenset({Capability.SAMPLE})

    def __init__(self, factor: float = FACTOR) -> None:
        self.factor = checked_number("factor", factor, above=1.0, most=MOST)

    def possible(self, lengths: Lengths) -> bool:
        """Whether a failed sample was cut."""
        return lengths.truncated > 0

    def expected_cost(self, lengths: Lengths) -> int:
        """The prompt and a longer completion, of which the old part is read or written anew."""
        return lengths.prompt + math.ceil(self.factor * lengths.completion)

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One longer rollout; its details tell the longest allowed and whether it was continued."""
        longer = replace(failure, max_tokens=math.ceil(self.factor * failure.max_tokens))
        details: dict[str, Any] = {"max_tokens": longer.max_tokens}
        cut = _cut(failure) if Capability.CONTINUE in model.capabilities else []
        if cut:
            prefix = cut[failure.focus % len(cut)].rollout.token_ids
            return Attempt(go_on(model, longer, prefix), {**details, "how": "continued"})
        generation = model.sample(
            failure.problem.prompt,
            temperature=failure.temperature,
            max_tokens=longer.max_tokens,
            seed=failure.seed,
        )
        return Attempt(generation.rollouts[0], {**details, "how": "fresh"})


def _cut(failure: Failure) -> list[Trace]:
    """The traces that were cut where they had to be, not where the model could read no more."""
    return [
        trace
        for trace in failure.traces
        if trace.rollout.finish_reason == "length" and len(trace.rollout) >= failure.max_tokens
    ]
