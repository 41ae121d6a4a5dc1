"""Steering token by token without per-step access: the specialist writes a block ahead.

A block is drafted by the specialist and read by the ancestor, two calls in all; the distributions
of both are then known at each of its positions, for as long as the caller takes the drafted tokens.
Where it takes another one, the rest of the block is discarded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recov_graph.errors import ModelReplyError
from recov_graph.models.base import Draft, Ids
from recov_graph.models.openai.endpoint import naming
from recov_graph.models.openai.replies import (
    Listed,
    choices,
    named_ids,
    prompt_lists,
    sampled_lists,
    spent,
    top_k,
)
from recov_graph.models.openai.tokens import TokenWire
from recov_graph.rollout import FinishReason, TopK, Usage

# Under it servers clamp the temperature; the likeliest token is as good as sure there anyway.
GREEDY = 0.02
# What a server may do by default for a model, or a user have set in `extra_body`, and a draft must
# not: it is drawn from nothing but the listed tokens at the temperature.
UNTOUCHED = {
    "top_p": 1.0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}


class BlockSession:
    """A steered rollout; see `recov_graph.models.base.Session`.

    Args:
        wire: reaches both models.
        head: the prompt's tokens and the prefix.
        temperature: at which blocks are drafted.
        max_tokens: of the whole rollout.
        seed: of the drafts.
        block: tokens drafted at a time.
    """

    def __init__(
        self,
        wire: TokenWire,
        head: Sequence[int],
        *,
        temperature: float,
        max_tokens: int,
        seed: int,
        block: int,
    ) -> None:
        self.finished: FinishReason | None = None
        self.usage = Usage()
        self._wire, self._tokens = wire, list(head)
        self._room = wire.room(len(head), max_tokens)
        self._temperature = 0.0 if temperature < GREEDY else temperature
        self._rng = np.random.default_rng([seed, 1])  # the caller draws from the seed itself
        self._block = block
        self._drafted: list[int] = []
        self._lists: tuple[list[Listed], list[Listed]] = ([], [])
        self._at = 0

    @property
    def next_cost(self) -> int:
        """Nothing within a block; both models read everything for a new one."""
        if self._at < len(self._drafted):
            return 0
        length = min(self._block, self._room)
        return 2 * (len(self._tokens) + length) + 1

    @property
    def draft(self) -> Draft | None:
        """The specialist's own token at this position, and how it was drawn."""
        if self._at >= len(self._drafted):
            return None
        token, listed = self._drafted[self._at], self._lists[0][self._at]
        ids = np.fromiter(listed, np.int32, len(listed))
        logprobs = np.fromiter(listed.values(), np.float64, len(listed))
        if self._temperature == 0.0:
            return Draft(token, ids, (ids == token).astype(np.float64))
        weights = np.exp((logprobs - logprobs.max()) / self._temperature)
        return Draft(token, ids, weights / weights.sum())

    def distributions(self) -> tuple[TopK, TopK]:
        """Specialist and ancestor at the next position, [1, K] each."""
        if self._at >= len(self._drafted):
            self._write_ahead()
        specialist, ancestor = (top_k([lists[self._at]]) for lists in self._lists)
        return specialist, ancestor

    def append(self, token: int) -> None:
        """Take a token; the block goes on where it is the drafted one."""
        if self._at < len(self._drafted) and token == self._drafted[self._at]:
            self._at += 1
        else:
            self._at = len(self._drafted)
        self._tokens.append(token)
        self._room -= 1
        if token in self._wire.ends:
            self.finished = "stop"
        elif self._room < 1:
            self.finished = "length"

    def _write_ahead(self) -> None:
        """Draft a block and have the ancestor read it."""
        written, specialist = self._specialist()
        tokens = [int(token) for token in written]
        request = self._wire.scoring("ancestor", [[*self._tokens, *tokens]])
        reply = request.endpoint.send(request)
        told = spent(reply)
        read = len(self._tokens) + len(tokens) if told.prompt is None else told.prompt
        self.usage += Usage(scored_tokens=read + (told.completion or 0))
        with naming(request.endpoint):
            ancestor = prompt_lists(choices(reply)[0], tokens, len(self._tokens) + len(tokens))
            top_k(ancestor)
        # The drafted token is listed whatever its rank; a target that depends on the draft would
        # not be that of token-by-token mixing.
        ancestor = [
            {t: p for t, p in listed.items() if len(listed) <= self._wire.k or t != token}
            for listed, token in zip(ancestor, tokens, strict=True)
        ]
        self._drafted, self._lists, self._at = tokens, (specialist, ancestor), 0

    def _specialist(self) -> tuple[Ids, list[Listed]]:
        request = self._wire.specialist.request(
            "/completions",
            prompt=self._tokens,
            max_tokens=min(self._block, self._room),
            temperature=self._temperature,
            # Sampled from just the tokens that are listed, so that the proposal is known.
            top_k=self._wire.k,
            **UNTOUCHED,
            seed=int(self._rng.integers(2**31)),
            logprobs=self._wire.k,
            return_token_ids=True,
            return_tokens_as_token_ids=True,
        )
        reply = request.endpoint.send(request)
        told = spent(reply)
        read = len(self._tokens) if told.prompt is None else told.prompt
        self.usage += Usage(read, told.completion or 0)  # whatever the reply turns out to be
        with naming(self._wire.specialist):
            choice = choices(reply)[0]
            rollout = self._wire.rollout(choice)
            if told.completion is None:
                self.usage += Usage(0, len(rollout))
            _, listed = sampled_lists(choice)
            if len(listed) != len(rollout) or not len(rollout):
                raise ModelReplyError(
                    f"the server wrote {len(rollout)} tokens and gave log-probabilities of "
                    f"{len(listed)}"
                )
            lists = [named_ids(entry) for entry in listed]
            top_k(lists)  # raises where one is impossible
            return rollout.token_ids, lists
