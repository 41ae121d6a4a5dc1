"""replan: a fresh sample that is asked for another approach."""

from __future__ import annotations

from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Attempt, Failure, Lengths
from recov_graph.models.base import Capability, Model

INSTRUCTION = (
    "Do not take the approach that comes to mind first. Think of another one, plan its steps, "
    "then carry them out. Give the answer in the form asked for above."
)
CHARACTERS_PER_TOKEN = 4  # of an instruction; an estimate


class Replan:
    """Ask the same with an instruction after it. What failed is neither read nor shown.

    Args:
        instruction: what follows the prompt, after a blank line.
    """

    name = "replan"
    needs = frozenset({Capability.SAMPLE, Capability.INSTRUCT})

    def __init__(self, instruction: str = INSTRUCTION) -> None:
        if not isinstance(instruction, str) or not instruction.strip():
            raise InvalidInputError(
                f"instruction is {instruction!r}; it must be text that asks for another approach, "
                "or left out for the one that ships"
            )
        self.instruction = instruction

    def expected_cost(self, lengths: Lengths) -> int:
        """The prompt and the instruction read and a completion written."""
        instruction = -(-len(self.instruction) // CHARACTERS_PER_TOKEN)
        return lengths.prompt + instruction + lengths.completion

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One plain rollout of the longer prompt."""
        generation = model.sample(
            f"{failure.problem.prompt}\n\n{self.instruction}",
            temperature=failure.temperature,
            max_tokens=failure.max_tokens,
            seed=failure.seed,
        )
        return Attempt(generation.rollouts[0], {"instruction": self.instruction})
