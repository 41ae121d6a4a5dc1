"""retry: a fresh sample at the decoding temperature."""

from __future__ import annotations

from recov_graph.interventions.base import Attempt, Failure, Lengths
from recov_graph.models.base import Capability, Model


class Retry:
    """Sample once more and hope; what every other intervention is measured against."""

    name = "retry"
    needs = frozenset({Capability.SAMPLE})

    def expected_cost(self, lengths: Lengths) -> int:
        """The prompt read and a completion written."""
        return lengths.prompt + lengths.completion

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One plain rollout."""
        generation = model.sample(
            failure.problem.prompt,
            temperature=failure.temperature,
            max_tokens=failure.max_tokens,
            seed=failure.seed,
        )
        return Attempt(generation.rollouts[0])
