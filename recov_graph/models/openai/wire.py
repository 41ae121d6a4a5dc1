"""What the ways of reaching a model have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from recov_graph.errors import ModelError
from recov_graph.models.base import Generation, Ids, Role, Scores
from recov_graph.models.openai.access import Access
from recov_graph.models.openai.endpoint import Endpoint, Request, Work
from recov_graph.models.openai.replies import finish_of, spent
from recov_graph.recent import Recent
from recov_graph.rollout import Rollout, Usage
from recov_graph.words import storable

REMEMBERED = 4096
UNKNOWN_END = -1
CHARACTERS_PER_TOKEN = 4  # of English
TEMPLATE = 8  # tokens that a chat template adds, about


def estimated_length(text: str) -> int:
    """About how many tokens a prompt has that no server has counted yet, rather too many."""
    plain = sum(character.isascii() for character in text)
    return plain // CHARACTERS_PER_TOKEN + len(text) - plain + TEMPLATE


MAX_TOKENS = 1024  # prose, where the user sets no limit and the server would set a low one


class Wire(ABC):
    """One way of reaching a specialist and its ancestor; see `recov_graph.models.Model`.

    Args:
        specialist: whom is sampled.
        ancestor: whom scores are compared with, where there is one.
        access: what the specialist's server offers.
        k: log-probabilities asked for at each position, beside the token's own.

    Attributes:
        ends: the tokens that were seen to end a text.
        end_token: the last of them; -1, which is no token, before one was seen.
        several: whether the server gives several choices at once where asked.
        alone: whether it refuses to be asked for several.
        longest: the longest completion where the user sets no limit.
        spelling: token to text, as far as replies have told.
    """

    longest = MAX_TOKENS

    def __init__(
        self, specialist: Endpoint, ancestor: Endpoint | None, access: Access, k: int
    ) -> None:
        self.specialist, self.ancestor, self.access, self.k = specialist, ancestor, access, k
        self.ends: set[int] = set()
        self.end_token = UNKNOWN_END
        self.several, self.alone = True, False
        self.spelling: dict[int, str] = {}
        self._lengths: Recent[str, int] = Recent(REMEMBERED)

    @abstractmethod
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

    @abstractmethod
    def score(self, prompt: str, completions: Sequence[Ids], role: Role) -> Work[Scores]:
        """As `Model.score`."""

    @abstractmethod
    def decode(self, tokens: Ids) -> str:
        """As `Model.decode`."""

    def spell(self, tokens: Sequence[int] | Ids) -> list[str] | None:
        """The text of each token; None where replies have not told all of them."""
        texts = [
            "" if token in self.ends else self.spelling.get(token) for token in map(int, tokens)
        ]
        return None if None in texts else [storable(text or "") for text in texts]

    def prompt_length(self, prompt: str) -> int:
        """Tokens as the server counted them last, else about as many."""
        known = self._lengths.get(prompt)
        return known if known is not None else estimated_length(prompt)

    def counted(self, prompt: str, told: int | None) -> int:
        """The tokens of a prompt, remembered where the server has just told them."""
        return self._lengths.put(prompt, self.prompt_length(prompt) if told is None else told)

    def endpoint(self, role: Role) -> Endpoint:
        """The endpoint of one of the two."""
        endpoint = self.specialist if role == "specialist" else self.ancestor
        assert endpoint is not None
        return endpoint

    def without_end(self, choice: Mapping[str, Any], tokens: Ids) -> Ids:
        """The tokens of a choice without the one that ended it, which is remembered as such."""
        ended = finish_of(choice) == "stop" and len(tokens)
        # vLLM names the token where it is not the tokenizer's own end of text.
        if not ended or choice.get("stop_reason") not in (None, tokens[-1]):
            return tokens
        self.end_token = int(tokens[-1])
        self.ends.add(self.end_token)
        return tokens[:-1]


class Batch:
    """Rollouts gathered from one reply after the other until there are enough."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.rollouts: list[Rollout] = []
        self.usage = Usage()

    @property
    def missing(self) -> int:
        """How many are still to be had."""
        return self.wanted - len(self.rollouts)

    def add(self, rollouts: Sequence[Rollout], read: int, written: int | None) -> None:
        """Take in a reply's rollouts and what was read and, if the server says so, written."""
        told = sum(len(rollout) for rollout in rollouts) if written is None else written
        self.usage += Usage(read, told)
        self.rollouts += rollouts[: self.missing]

    def failed(self, error: ModelError) -> None:
        """Go on with what is finished, or raise the error with what was spent so far."""
        if isinstance(error.usage, Usage):
            self.usage += error.usage
        if not self.rollouts:
            error.usage = self.usage
            raise error

    def done(self) -> Generation:
        """What was gathered."""
        return Generation(self.rollouts, self.usage)


def gathered(
    wire: Wire, wanted: int, ask: Asking, read: Reading, length: Callable[[int | None], int]
) -> Work[Generation]:
    """Ask for the rollouts that are missing until all are there.

    A server may ignore `n` and give one at a time, which the wire then knows. Where a later request
    fails, what is finished is not lost; a reply that is malformed is paid for all the same.

    Args:
        wire: on whose behalf.
        wanted: rollouts in all.
        ask: makes the request.
        read: makes rollouts of a reply.
        length: the prompt's tokens, given those that the server says it has read.
    """
    batch = Batch(wanted)
    while batch.missing:
        try:
            request = ask(1 if wire.alone else batch.missing, len(batch.rollouts))
            reply = yield request
            told = spent(reply)
            read_tokens = length(told.prompt)
            try:
                rollouts = read(reply)
            except ModelError as error:
                error.usage = Usage(read_tokens, told.completion or 0)
                raise
            if request.body.get("n", 1) > 1:
                wire.several = len(rollouts) > 1
        except ModelError as error:
            if error.status in (400, 422) and request.body.get("n", 1) > 1:
                wire.alone, wire.several = True, False  # if that was not it, one alone will tell
                continue
            batch.failed(error)
            break
        batch.add(rollouts, read_tokens, told.completion)
    return batch.done()


class Asking(Protocol):
    """The request for so many rollouts, when so many are there."""

    def __call__(self, missing: int, there: int) -> Request: ...


class Reading(Protocol):
    """The rollouts of a reply, at least one."""

    def __call__(self, reply: object) -> list[Rollout]: ...
