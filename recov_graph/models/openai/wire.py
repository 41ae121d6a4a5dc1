"""What the ways of reaching a model have in common."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from recov_graph.errors import ModelError, ModelReplyError
from recov_graph.models.base import Generation, Ids, Role, Scores
from recov_graph.models.openai.endpoint import Request, Work
from recov_graph.rollout import Rollout, Usage

REMEMBERED = 4096
Value = TypeVar("Value")


class Wire(Protocol):
    """One way of reaching a specialist and its ancestor; see `recov_graph.models.Model`."""

    end_token: int
    several: bool  # whether the server gives several choices at once where asked
    alone: bool  # whether it refuses to be asked for several

    def sample(
        self,
        prompt: str,
        *,
        n: int,
        temperature: float,
        max_tokens: int,
        seed: int,
        prefix: Ids,
    ) -> Work[Generation]: ...

    def score(self, prompt: str, completions: Sequence[Ids], role: Role) -> Work[Scores]: ...

    def decode(self, tokens: Ids) -> str: ...

    def prompt_length(self, prompt: str) -> int: ...


class Recent(Generic[Value]):
    """The values of the prompts that were used last."""

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._capacity = capacity

    def get(self, key: str) -> Value | None:
        """The value, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Value) -> Value:
        """Remember it, and forget the oldest."""
        self._values[key] = value
        while len(self._values) > self._capacity:
            try:
                self._values.popitem(last=False)
            except KeyError:  # another thread was faster
                break
        return value


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

    def add(self, rollouts: Sequence[Rollout], read: int | None, written: int | None) -> None:
        """Take in a reply's rollouts and the tokens that the server says it read and wrote."""
        told = sum(len(rollout) for rollout in rollouts) if written is None else written
        self.usage += Usage(read or 0, told)
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


def gathered(wire: Wire, wanted: int, ask: Asking, read: Reading) -> Work[Generation]:
    """Ask for the rollouts that are missing until all are there.

    A server may ignore `n` and give one at a time, which the wire then knows. Where a later request
    fails, what is finished is not lost.
    """
    batch = Batch(wanted)
    while batch.missing:
        try:
            request = ask(1 if wire.alone else batch.missing, len(batch.rollouts))
            reply = yield request
            rollouts, prompt_tokens, written = read(reply)
            if not rollouts:
                raise ModelReplyError("the reply has no choices")
            if request.body.get("n", 1) > 1:
                wire.several = len(rollouts) > 1
        except ModelError as error:
            if error.status in (400, 422) and request.body.get("n", 1) > 1:
                wire.alone, wire.several = True, False  # if that was not it, one alone will tell
                continue
            batch.failed(error)
            break
        batch.add(rollouts, prompt_tokens, written)
    return batch.done()


class Asking(Protocol):
    """The request for so many rollouts, when so many are there."""

    def __call__(self, missing: int, there: int) -> Request: ...


class Reading(Protocol):
    """The rollouts of a reply, and the tokens it says were read and written."""

    def __call__(self, reply: object) -> tuple[list[Rollout], int | None, int | None]: ...
