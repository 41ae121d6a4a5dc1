"""Reaching a model by chat messages alone: nothing but texts, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_core.messages import HumanMessage

from recov_graph.errors import (
    InvalidInputError,
    ModelReplyError,
    NotScorableError,
)
from recov_graph.models.base import UNLIMITED, Generation, Ids, Role, Scores
from recov_graph.models.openai.access import Access
from recov_graph.models.openai.endpoint import Endpoint, Request, Work
from recov_graph.models.openai.replies import choices, evenly, finish_of, spent, text_of
from recov_graph.models.openai.wire import CHARACTERS_PER_TOKEN, Wire, gathered
from recov_graph.rollout import Rollout, Usage


class ChatWire(Wire):
    """A model through ChatOpenAI: reasoning models, tool calls and plain chat.

    Args:
        endpoint: the model.
        access: what its server offers.
    """

    longest = UNLIMITED  # as the server likes; reasoning has no length that one could know

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        super().__init__(endpoint, None, access, 0)
        self.several = False  # as far as is known

    def sample(
        self,
        prompt: str,
        *,
        n: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        prefix: Ids,
    ) -> Work[Generation]:
        """As `Model.sample`; a prefix cannot be continued."""
        if len(prefix):
            raise InvalidInputError(
                f"model {self.specialist.model!r} was given a prefix of {len(prefix)} tokens; "
                "by chat messages alone none can be continued"
            )

        def ask(missing: int, there: int) -> Request:
            parameters: dict[str, Any] = {}
            if max_tokens < UNLIMITED:
                parameters["max_tokens"] = max_tokens
            if missing > 1 and temperature:  # all greedy ones are alike, and vLLM gives but one
                parameters["n"] = missing
            if self.access.temperature:
                parameters["temperature"] = temperature
            if "seed" not in self.access.refused:
                parameters["seed"] = seed + there
            return self.specialist.chat_request([HumanMessage(prompt)], **parameters)

        def read(reply: object) -> list[Rollout]:
            return _rollouts(choices(reply), spent(reply).completion)

        def length(told: int | None) -> int:
            return self.counted(prompt, told)

        try:
            return (yield from gathered(self, n, ask, read, length))
        except ModelReplyError as error:
            # langchain-openai gives up on such a reply before it can be read what it cost.
            if error.usage is None or not error.usage.tokens:
                error.usage = Usage(self.prompt_length(prompt))
            raise

    def score(self, prompt: str, completions: Sequence[Ids], role: Role) -> Work[Scores]:
        """Not possible."""
        raise NotScorableError(f"model {self.specialist.model!r} cannot score a text")
        yield  # makes this a generator, like the others

    def decode(self, tokens: Ids) -> str:
        """As `Model.decode`; only rollouts without tokens come from here."""
        if len(tokens):
            raise InvalidInputError(
                f"model {self.specialist.model!r} tells no token ids, so none can be decoded"
            )
        return ""


def _rollouts(found: Sequence[Any], written: int | None) -> list[Rollout]:
    """Choices as rollouts that know their length only, as the server counts it."""
    texts = [text_of(choice) for choice in found]
    if written is None:
        written = sum(len(text) // CHARACTERS_PER_TOKEN + 1 for text in texts)
    # One sum for all choices: reasoning that is not shown is in there too.
    lengths = evenly(written, [len(text) + 1 for text in texts])
    nothing = np.zeros(0, np.int32)
    return [
        Rollout(text, nothing, finish_of(choice), written=length)
        for choice, text, length in zip(found, texts, lengths, strict=True)
    ]
