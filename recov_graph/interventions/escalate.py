"""escalate: ask a second, stronger model."""

from __future__ import annotations

import math
from typing import Any

from recov_graph.interventions.base import Attempt, Failure, Lengths, Metered, checked_number
from recov_graph.models import as_model
from recov_graph.models.base import Capability, Decoding, Model, decoding_of
from recov_graph.signals import checked_temperature

DEAREST = 1e6


class Escalate:
    """Sample once from another model, on the same budget.

    Budgets and ledgers count the other model's tokens as they are, one for one: the price only
    makes the attempt dearer in a router's eyes.

    Args:
        model: whom to ask: anything that the graph takes for a model.
        price: how many tokens of the first model one of its tokens is worth, above 0 and at most
            1e6; multiplies what an attempt is expected to cost.
        temperature: of the sample, 0.001 to 1e6; None for what the other model was set to, or
            where it does not tell for that of the first. So too its longest completion.

    Raises:
        InvalidInputError: an argument of the wrong type or range.
    """

    name = "escalate"
    needs: frozenset[Capability] = frozenset()  # nothing of the first model

    def __init__(
        self, model: Model | str | Any, *, price: float = 1.0, temperature: float | None = None
    ) -> None:
        self.model = as_model(model)
        self.price = checked_number("price", price, above=0.0, most=DEAREST)
        self.temperature = None if temperature is None else checked_temperature(temperature)

    def expected_cost(self, lengths: Lengths) -> int:
        """The prompt read and a completion written, in tokens of the first model."""
        return math.ceil(self.price * (lengths.prompt + lengths.completion))

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One plain rollout of the other model; its details name it and the temperature."""
        asked = model.beside(self.model, self.name) if isinstance(model, Metered) else self.model
        usual = decoding_of(self.model) or Decoding(failure.temperature, failure.max_tokens)
        temperature = usual.temperature if self.temperature is None else self.temperature
        generation = asked.sample(
            failure.problem.prompt,
            temperature=temperature,
            max_tokens=usual.max_tokens,
            seed=failure.seed,
        )
        details = {"model": self.model.name, "temperature": temperature}
        return Attempt(generation.rollouts[0], details)
