"""Reaching a model by chat messages whose last can be continued and scored, as vLLM allows.

For gateways that pass on nothing but /chat/completions. Completions go back as the text of an
assistant's message, so the server must cut it into the tokens it was sampled in; where it does not,
the completion cannot be scored. The end-of-text token is not part of these rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recov_graph.errors import InvalidInputError, ModelError, ModelReplyError, NotScorableError
from recov_graph.models.base import Generation, Ids, Role, Scores
from recov_graph.models.openai.access import Access
from recov_graph.models.openai.endpoint import Endpoint, Request, Work
from recov_graph.models.openai.replies import (
    Listed,
    choices,
    decoded,
    finish_of,
    ids_of,
    prompt_lists,
    spent,
    text_of,
    top_k,
)
from recov_graph.models.openai.wire import REMEMBERED, Wire, gathered
from recov_graph.recent import Recent
from recov_graph.rollout import Rollout, Usage
from recov_graph.words import short

CONTINUED = {"continue_final_message": True, "add_generation_prompt": False}


class MessageWire(Wire):
    """Specialist and ancestor by chat messages; see `Wire`."""

    def __init__(
        self, specialist: Endpoint, ancestor: Endpoint | None, access: Access, k: int
    ) -> None:
        super().__init__(specialist, ancestor, access, k)
        self._texts: Recent[str, str] = Recent(REMEMBERED)
        self.spelling.update(access.vocabulary)

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
        """As `Model.sample`; a prefix goes along as the assistant's message."""
        begun = self.decode(prefix) if len(prefix) else ""
        messages, how = _messages(prompt, begun)

        def ask(missing: int, there: int) -> Request:
            return self.specialist.request(
                "/chat/completions",
                messages=messages,
                n=missing if temperature else 1,  # all greedy ones are alike
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seed + there,
                return_token_ids=True,
                **how,
            )

        def read(reply: object) -> list[Rollout]:
            rollouts = [self._rollout(choice) for choice in choices(reply)]
            for rollout in rollouts:  # the whole is asked for next, and may not be spelled out
                whole = np.concatenate([prefix, rollout.token_ids])
                self._texts.put(_key(whole), begun + rollout.text)
            return rollouts

        def length(told: int | None) -> int:
            if not len(prefix):
                return self.counted(prompt, told)
            return self.prompt_length(prompt) if told is None else told

        return (yield from gathered(self, n, ask, read, length))

    def _rollout(self, choice: Mapping[str, Any]) -> Rollout:
        tokens, finish, text = ids_of(choice), finish_of(choice), text_of(choice)
        if tokens is None:
            raise ModelReplyError(
                "the server stopped telling token ids; run `recov-graph doctor` to find out anew "
                "what it offers"
            )
        return Rollout(text, self.without_end(choice, tokens), finish)

    def score(self, prompt: str, completions: Sequence[Ids], role: Role) -> Work[Scores]:
        """As `Model.score`: one prefill for each completion."""
        endpoint = self.endpoint(role)
        topk, usage = [], Usage()
        for tokens in completions:
            messages, how = _messages(prompt, self.decode(tokens))
            try:
                reply = yield endpoint.request(
                    "/chat/completions",
                    messages=messages,
                    max_tokens=1,
                    temperature=0.0,
                    prompt_logprobs=self.k,
                    return_token_ids=True,
                    **how,
                )
                told = spent(reply)
                read = self.prompt_length(prompt) + len(tokens)
                read = read if told.prompt is None else told.prompt
                usage += Usage(scored_tokens=read + (told.completion or 0))
                topk.append(top_k(self._read(reply, tokens, role)))
            except ModelError as error:
                error.usage = usage
                raise
        return Scores(topk, usage)

    def _read(self, reply: Any, tokens: Ids, role: Role) -> list[Listed]:
        """The lists of log-probabilities at a completion's tokens."""
        if not isinstance(reply, Mapping):
            raise ModelReplyError(f"the reply is {short(reply, 200)}; it must be an object")
        ids = reply.get("prompt_token_ids")
        if not isinstance(ids, list):
            raise NotScorableError(f"the {role}'s server does not tell the tokens of a prompt")
        if ids[len(ids) - len(tokens) :] != [int(token) for token in tokens]:
            raise NotScorableError(
                f"the {role} cuts the completion into other tokens than the specialist wrote; "
                "token signals need the same tokenizer"
            )
        self.spelling.update(decoded(reply))
        return prompt_lists(reply, tokens, len(ids))

    def decode(self, tokens: Ids) -> str:
        """As `Model.decode`."""
        known = self._texts.get(_key(tokens))
        if known is not None:
            return known
        try:
            return "".join(
                self.spelling[int(token)] for token in tokens if int(token) not in self.ends
            )
        except KeyError as error:
            raise InvalidInputError(
                f"token {error.args[0]} is not known here: this server tells the text of a token "
                "only where it scores one, and in this process it has not scored that one"
            ) from None


def _messages(prompt: str, begun: str) -> tuple[list[dict[str, str]], dict[str, bool]]:
    """A prompt, with what the assistant has begun to say, and how that is to be gone on with."""
    messages = [{"role": "user", "content": prompt}]
    if not begun:
        return messages, {}
    return [*messages, {"role": "assistant", "content": begun}], CONTINUED


def _key(tokens: Ids) -> str:
    return np.asarray(tokens, np.int32).tobytes().hex()
