"""Reaching a model by token ids, as vLLM allows: prompts, prefixes and scores are exact.

Everything goes through /completions with prompts as ids; /tokenize applies the chat template and
/detokenize gives the text of a steered rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recov_graph.errors import InvalidInputError, ModelError, ModelReplyError
from recov_graph.models.base import Generation, Ids, Role, Scores
from recov_graph.models.openai.access import Access
from recov_graph.models.openai.endpoint import Endpoint, Request, Work, run
from recov_graph.models.openai.replies import (
    choices,
    decoded,
    finish_of,
    ids_of,
    prompt_lists,
    spent,
    text_of,
    top_k,
)
from recov_graph.models.openai.wire import REMEMBERED, Wire, estimated_length, gathered
from recov_graph.recent import Recent
from recov_graph.rollout import Rollout, Usage
from recov_graph.words import short


class TokenWire(Wire):
    """Specialist and ancestor by token ids; see `Wire`."""

    def __init__(
        self, specialist: Endpoint, ancestor: Endpoint | None, access: Access, k: int
    ) -> None:
        super().__init__(specialist, ancestor, access, k)
        self._context = access.context
        self._prompts: Recent[str, list[int]] = Recent(REMEMBERED)
        self._texts: Recent[str, str] = Recent(REMEMBERED)

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
        """As `Model.sample`."""
        head = (yield from self.tokenized(prompt)) + [int(token) for token in prefix]
        room = self.room(len(head), max_tokens)

        def ask(missing: int, there: int) -> Request:
            return self.specialist.request(
                "/completions",
                prompt=head,
                n=missing if temperature else 1,  # all greedy ones are alike
                temperature=temperature,
                max_tokens=room,
                seed=seed + there,
                return_token_ids=True,
            )

        def read(reply: object) -> list[Rollout]:
            return [self.rollout(choice) for choice in choices(reply)]

        def length(told: int | None) -> int:
            return len(head) if told is None else told

        return (yield from gathered(self, n, ask, read, length))

    def rollout(self, choice: Any) -> Rollout:
        """A choice of a completion as a rollout."""
        tokens, finish = ids_of(choice), finish_of(choice)
        if tokens is None:
            raise ModelReplyError(
                f"the server stopped telling token ids: {short(choice, 200)}; run "
                "`recov-graph doctor` to find out anew what it offers"
            )
        self.without_end(choice, tokens)  # it is part of these rollouts
        return Rollout(text_of(choice), tokens, finish)

    def score(self, prompt: str, completions: Sequence[Ids], role: Role) -> Work[Scores]:
        """As `Model.score`: one prefill for each completion, all in one request."""
        head = yield from self.tokenized(prompt)
        prompts = [[*head, *map(int, tokens)] for tokens in completions]
        reply = yield self.scoring(role, prompts)
        told = spent(reply)
        read = sum(map(len, prompts)) if told.prompt is None else told.prompt
        usage = Usage(scored_tokens=read + (told.completion or 0))
        try:
            found = choices(reply)
            if len(found) != len(prompts):
                raise ModelReplyError(
                    f"the reply has {len(found)} choices for {len(prompts)} prompts"
                )
            for choice in found:
                self.spelling.update(decoded(choice))
            lists = [
                prompt_lists(choice, tokens, len(prompts[i]))
                for i, (choice, tokens) in enumerate(zip(found, completions, strict=True))
            ]
            return Scores([top_k(one) for one in lists], usage)
        except ModelError as error:
            error.usage = usage
            raise

    def scoring(self, role: Role, prompts: Sequence[Sequence[int]]) -> Request:
        """The request that makes a model read prompts and tell what it would have written."""
        return self.endpoint(role).request(
            "/completions",
            prompt=prompts,
            max_tokens=1,  # none is not allowed
            temperature=0.0,
            prompt_logprobs=self.k,
        )

    def tokenized(self, prompt: str) -> Work[list[int]]:
        """The ids of a prompt, with the chat template where there is one."""
        known = self._prompts.get(prompt)
        if known is not None:
            return list(known)
        asked: dict[str, Any] = {"prompt": prompt}
        if self.access.chat:
            asked = {"messages": [{"role": "user", "content": prompt}]}
        reply = yield self.specialist.request(self.specialist.beside("/tokenize"), **asked)
        tokens = reply.get("tokens") if isinstance(reply, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise ModelReplyError(f"/tokenize gave {short(reply)}; expected a list of tokens")
        length = reply.get("max_model_len")
        self._context = length if isinstance(length, int) and length > 0 else self._context
        return list(self._prompts.put(prompt, tokens))

    def room(self, read: int, max_tokens: int) -> int:
        """How much may be written after so many tokens.

        Raises:
            InvalidInputError: nothing.
        """
        if self._context is None:
            return max_tokens
        room = min(max_tokens, self._context - read)
        if room < 1:
            raise InvalidInputError(
                f"prompt and prefix have {read} tokens; model {self.specialist.model!r} reads and "
                f"writes {self._context} in all"
            )
        return room

    def decode(self, tokens: Ids) -> str:
        """As `Model.decode`; the end-of-text token has no text."""
        kept = [int(token) for token in tokens if int(token) not in self.ends]
        if not kept:
            return ""
        key = np.array(kept, np.int32).tobytes().hex()
        known = self._texts.get(key)
        if known is not None:
            return known
        return self._texts.put(key, run(self._detokenized(kept)))

    def _detokenized(self, tokens: list[int]) -> Work[str]:
        reply = yield Request(
            self.specialist,
            self.specialist.beside("/detokenize"),
            {"model": self.specialist.model, "tokens": tokens},
        )
        text = reply.get("prompt") if isinstance(reply, dict) else None
        if not isinstance(text, str):
            raise ModelReplyError(f"/detokenize gave {short(reply)}; expected a text")
        return text

    def prompt_length(self, prompt: str) -> int:
        """As `Model.prompt_length`: exact, unless the server cannot tell now."""
        try:
            return len(run(self.tokenized(prompt)))
        except ModelError:  # the call that this is to foresee will say why
            return estimated_length(prompt)
