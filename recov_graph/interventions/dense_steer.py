"""dense_steer: sample every token from the mixture of specialist and ancestor.

Source: Islah et al., arXiv 2606.05145.
"""

from __future__ import annotations

from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Attempt, Failure, Lengths, steered_cost
from recov_graph.interventions.mixing import ALPHA, Draw, Mode, checked_alpha, mix
from recov_graph.interventions.walk import walk
from recov_graph.models.base import Capability, Model
from recov_graph.rollout import TopK


class DenseSteer:
    """A fresh rollout of the mixed model at the decoding temperature.

    Args:
        alpha: weight of the specialist in the mixture, 0 < alpha < 1.
        mode: "path" mixes log-probabilities, "cov" probabilities.
    """

    name = "dense_steer"
    needs = frozenset({Capability.STEP})

    def __init__(self, *, alpha: float = ALPHA, mode: Mode = "path") -> None:
        if mode not in ("path", "cov"):
            raise InvalidInputError(f"mode is {mode!r}; it must be 'path' or 'cov'")
        self.alpha = checked_alpha(alpha)
        self.mode: Mode = mode

    def expected_cost(self, lengths: Lengths) -> int:
        """Both models read the prompt and every token."""
        return steered_cost(lengths)

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One rollout of the mixture."""

        def choose(_: int, specialist: TopK, ancestor: TopK, draw: Draw) -> int:
            mixed = mix(specialist, ancestor, alpha=self.alpha, mode=self.mode)
            return draw(mixed, failure.temperature)

        return Attempt(walk(model, failure, choose), {"mode": self.mode, "alpha": self.alpha})
