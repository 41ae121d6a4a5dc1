"""Reaching a model by texts: where token ids are not to be had, tokens go by how they are written.

A completion is scored by having the server echo it, so every token must come back as it was
sampled; where one does not, the completion cannot be scored. The end-of-text token has no text and
is not part of these rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from recov_graph.errors import InvalidInputError, ModelError, ModelReplyError, NotScorableError
from recov_graph.models.base import Generation, Ids, Role, Scores
from recov_graph.models.openai.access import Access
from recov_graph.models.openai.endpoint import Endpoint, Request, Work
from recov_graph.models.openai.replies import (
    Listed,
    choices,
    finish_of,
    sampled_lists,
    spent,
    text_of,
    top_k,
)
from recov_graph.models.openai.wire import CHARACTERS_PER_TOKEN, Wire, gathered
from recov_graph.rollout import Rollout, Usage
from recov_graph.words import short


class Spelling:
    """Ids for tokens of which only the text is known: the same text has the same id anywhere.

    Args:
        texts: where the text of each id is kept.
    """

    def __init__(self, texts: dict[int, str]) -> None:
        self._ids: dict[str, int] = {}
        self._texts = texts

    def id_of(self, text: str) -> int:
        """The id of a token."""
        known = self._ids.get(text)
        if known is None:
            digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
            known = int.from_bytes(digest) >> 1
            while self._texts.setdefault(known, text) != text:
                known = (known + 1) % 2**31
            self._ids[text] = known
        return known

    def text_of(self, token: int) -> str:
        """The text of an id.

        Raises:
            InvalidInputError: it was never seen, as in another process.
        """
        try:
            return self._texts[token]
        except KeyError:
            raise InvalidInputError(
                f"token {token} is not known here: this server tells tokens as texts only, and "
                "this process has not seen that one"
            ) from None


class TextWire(Wire):
    """Specialist and ancestor by texts; see `Wire`."""

    def __init__(
        self, specialist: Endpoint, ancestor: Endpoint | None, access: Access, k: int
    ) -> None:
        super().__init__(specialist, ancestor, access, k)
        self._spelling = Spelling(self.spelling)

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
        text = prompt + self.decode(prefix)

        def ask(missing: int, there: int) -> Request:
            return self.specialist.request(
                "/completions",
                prompt=text,
                n=missing if temperature else 1,  # all greedy ones are alike
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seed + there,
                logprobs=1,
            )

        def read(reply: object) -> list[Rollout]:
            return [self._rollout(choice) for choice in choices(reply)]

        return (yield from gathered(self, n, ask, read, lambda told: self.counted(text, told)))

    def _rollout(self, choice: Mapping[str, Any]) -> Rollout:
        text, finish = text_of(choice), finish_of(choice)
        try:
            tokens, _ = sampled_lists(choice)
        except ModelReplyError:
            tokens = []
        kept, there = [], 0
        for token in tokens:
            if not text.startswith(token, there) or there == len(text):
                break
            kept.append(self._spelling.id_of(token))
            there += len(token)
        if there < len(text):  # tokens that are no text by themselves: nothing to go by
            written = len(tokens) or len(text) // CHARACTERS_PER_TOKEN + 1
            return Rollout(text, np.zeros(0, np.int32), finish, written=written)
        return Rollout(text, np.array(kept, np.int32), finish)

    def score(self, prompt: str, completions: Sequence[Ids], role: Role) -> Work[Scores]:
        """As `Model.score`: the server echoes each completion, all in one request."""
        reply = yield self.endpoint(role).request(
            "/completions",
            prompt=[prompt + self.decode(tokens) for tokens in completions],
            max_tokens=1,  # not every server takes 0
            temperature=0.0,
            echo=True,
            logprobs=self.k,
        )
        told = spent(reply)
        read = sum(self.prompt_length(prompt) + len(tokens) for tokens in completions)
        read = read if told.prompt is None else told.prompt
        usage = Usage(scored_tokens=read + (told.completion or 0))
        try:
            found = choices(reply)
            if len(found) != len(completions):
                raise ModelReplyError(
                    f"the reply has {len(found)} choices for {len(completions)} prompts"
                )
            topk = [
                top_k(self._echoed(choice, tokens, role))
                for choice, tokens in zip(found, completions, strict=True)
            ]
            return Scores(topk, usage)
        except ModelError as error:
            error.usage = usage
            raise

    def _echoed(self, choice: Mapping[str, Any], completion: Ids, role: Role) -> list[Listed]:
        """The lists of log-probabilities at a completion's tokens."""
        expected = [self._spelling.text_of(int(token)) for token in completion]
        tokens, lists = sampled_lists(choice)
        for written in (1, 0):  # after what is echoed
            end = len(tokens) - written
            start = end - len(expected)
            if start > 0 and tokens[start:end] == expected:
                break
        else:
            raise NotScorableError(
                f"the {role} cuts the completion into other tokens than the specialist wrote: "
                f"{short(tokens[-len(expected) - 1 :])} against {short(expected)}; "
                "token signals need the same tokenizer"
            )
        told = (choice.get("logprobs") or {}).get("token_logprobs") or []
        found: list[Listed] = []
        for place in range(start, end):
            try:
                texts = {str(text): float(p) for text, p in lists[place].items()}
                texts.setdefault(tokens[place], float(told[place]))
            except (AttributeError, TypeError, ValueError, LookupError, OverflowError):
                raise NotScorableError(
                    f"log-probabilities are missing at token {place} of the echoed text"
                ) from None
            found.append({self._spelling.id_of(text): p for text, p in texts.items()})
        return found

    def decode(self, tokens: Ids) -> str:
        """As `Model.decode`."""
        return "".join(self._spelling.text_of(int(token)) for token in tokens)
