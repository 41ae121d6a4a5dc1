"""temp_lift: a fresh sample at a higher temperature."""

from __future__ import annotations

from recov_graph.interventions.base import Attempt, Failure, Lengths
from recov_graph.models.base import Capability, Model
from recov_graph.signals import checked_temperature

TEMPERATURE = 1.0
LIFT = 1.5
HOTTEST = 2.0  # what OpenAI's interface takes at most


class TempLift:
    """Sample all of another rollout at a higher temperature.

    Where the decoding temperature is already as high, 1.5 times the decoding temperature is used
    instead, but no more than 2.0, and never less than the decoding temperature.

    Args:
        temperature: of the sample, 0.001 to 1e6.
    """

    name = "temp_lift"
    needs = frozenset({Capability.SAMPLE, Capability.TEMPERATURE})

    def __init__(self, temperature: float = TEMPERATURE) -> None:
        self.temperature = checked_temperature(temperature)

    def expected_cost(self, lengths: Lengths) -> int:
        """The prompt read and a completion written."""
        return lengths.prompt + lengths.completion

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One rollout; its details hold the temperature used."""
        temperature = self._above(failure.temperature)
        generation = model.sample(
            failure.problem.prompt,
            temperature=temperature,
            max_tokens=failure.max_tokens,
            seed=failure.seed,
        )
        return Attempt(generation.rollouts[0], {"temperature": temperature})

    def _above(self, decoding: float) -> float:
        if decoding < self.temperature:
            return self.temperature
        return max(decoding, min(LIFT * decoding, HOTTEST))
