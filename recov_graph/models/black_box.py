"""Models of which nothing but texts is seen: what they have in common."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, NoReturn, Self

from langgraph.errors import GraphBubbleUp

from recov_graph.errors import InvalidInputError, NotScorableError
from recov_graph.models.base import (
    Capability,
    Generation,
    Ids,
    Model,
    Overhead,
    Role,
    Scores,
    Session,
)
from recov_graph.rollout import Usage

NO_TOKEN = -1


class Variation(NamedTuple):
    """How a text is to be sampled.

    Attributes:
        prompt: what is asked.
        temperature: decoding temperature.
        max_tokens: longest completion.
        model: whom to ask in the model's place, with all that surrounds it; None for the model.
    """

    prompt: str
    temperature: float
    max_tokens: int
    model: Model | None = None


class BlackBox(ABC):
    """A `Model` that shows nothing but texts.

    Args:
        name: part of the cell that failures are compared within.
        capabilities: what can be varied, `Capability.SAMPLE` included.
    """

    stand_in: Model | None = None
    end_token = NO_TOKEN
    overhead = Overhead(prompt_per_sample=True)

    def __init__(self, name: str, capabilities: frozenset[Capability]) -> None:
        self.name = name
        self.capabilities = capabilities

    @abstractmethod
    def call(self, variation: Variation) -> Generation:
        """One rollout and what it cost."""

    @abstractmethod
    def prompt_length(self, prompt: str) -> int:
        """As `Model.prompt_length`; an estimate."""

    def sample(
        self,
        prompt: str,
        *,
        n: int = 1,
        temperature: float,
        max_tokens: int,
        seed: int,
        prefix: Sequence[int] | Ids = (),
    ) -> Generation:
        """One call a rollout; the seed is not used. Where a later call fails, those before it.

        Raises:
            InvalidInputError: a prefix is given.
        """
        if len(prefix):
            raise InvalidInputError(
                f"model {self.name!r} was given a prefix of {len(prefix)} tokens; of a model that "
                "shows nothing but texts none can be continued"
            )
        variation = Variation(prompt, temperature, max_tokens, self.stand_in)
        made: list[Generation] = []
        for _ in range(n):
            try:
                made.append(self.call(variation))
            except GraphBubbleUp:
                raise
            except Exception:
                if not made:
                    raise
                break  # what was paid may hold the answer
        return Generation(
            [rollout for one in made for rollout in one.rollouts],
            sum((one.usage for one in made), Usage()),
        )

    def score(self, prompt: str, completions: Sequence[Ids], *, role: Role) -> Scores:
        """Not possible."""
        self._cannot("score a text")

    def open(
        self,
        prompt: str,
        *,
        prefix: Sequence[int] | Ids = (),
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> Session:
        """Not possible."""
        self._cannot("be steered")

    def decode(self, tokens: Sequence[int] | Ids) -> str:
        """As `Model.decode`; only rollouts without tokens come from here."""
        if len(tokens):
            self._cannot("decode tokens")
        return ""

    def _cannot(self, what: str) -> NoReturn:
        raise NotScorableError(f"model {self.name!r} shows nothing but texts, so it cannot {what}")


class InnerModel(BlackBox):
    """A model that is part of something larger, an agent or a chain, and sampled by way of that.

    Where another model is asked instead (`escalate`), it takes the part's place in there.
    """

    def replaced_by(self, model: Model) -> Self:
        """The same with another model in this one's place."""
        other = copy.copy(self)
        other.stand_in = model
        return other
