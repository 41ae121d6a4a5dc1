"""What the recovery loop needs of a model: a protocol, and names for what a model can do."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recov_graph.rollout import FinishReason, Rollout, TopK, Usage

UNLIMITED = 2**31  # a longest completion of so many tokens is none
Ids = NDArray[np.int32]
Role = Literal["specialist", "ancestor"]


class Capability(StrEnum):
    """One thing a model can do; interventions name those they need."""

    SAMPLE = "sample"  # draw rollouts from the specialist
    TEMPERATURE = "temperature"  # at a decoding temperature of our choice
    INSTRUCT = "instruct"  # heed an instruction in the prompt
    CONTINUE = "continue"  # go on from a trusted prefix
    SCORE = "score"  # top-K of specialist and ancestor along given tokens
    STEP = "step"  # the distributions of both at every step of a rollout


class Generation(NamedTuple):
    """Rollouts of one call and what the call cost."""

    rollouts: list[Rollout]
    usage: Usage


class Scores(NamedTuple):
    """Top-K of one model along given completions and what the scoring cost."""

    topk: list[TopK]
    usage: Usage


class Overhead(NamedTuple):
    """What calls to a model cost beyond the tokens that are read and written once.

    A model that has any tells so by an attribute `overhead`.

    Attributes:
        stride: tokens that a steered rollout goes on by before both models read all of it anew; 0
            where they never do.
        per_scored: tokens written for every completion that is scored.
        prompt_per_sample: whether each of several samples reads the prompt anew.
    """

    stride: int = 0
    per_scored: int = 0
    prompt_per_sample: bool = False


class Decoding(NamedTuple):
    """How a model samples where nothing else is asked for; it may tell so by `decoding`.

    Attributes:
        temperature: decoding temperature.
        max_tokens: longest completion.
    """

    temperature: float
    max_tokens: int


def decoding_of(model: Model) -> Decoding | None:
    """How a model samples by itself; None where it does not tell."""
    told = getattr(model, "decoding", None)
    return told if isinstance(told, Decoding) else None


def overhead_of(model: Model) -> Overhead:
    """A model's overhead; none where it tells of none."""
    told = getattr(model, "overhead", None)
    return told if isinstance(told, Overhead) else Overhead()


def pieces_of(model: Model, tokens: Sequence[int] | Ids) -> tuple[str, ...] | None:
    """The text of each token, where the model knows all of them without asking a server.

    A model that may know them has a method ``spell(tokens)`` that gives them, or None.
    """
    spell = getattr(model, "spell", None)
    pieces = None if spell is None else spell(tokens)
    return None if pieces is None else tuple(pieces)


def ends_text(model: Model, token: int) -> bool:
    """Whether a token ends a text; a model may have others than `end_token`, in `end_tokens`."""
    return token == model.end_token or token in getattr(model, "end_tokens", ())


class Draft(NamedTuple):
    """The next token as the specialist wrote it ahead, and how it was drawn.

    Attributes:
        token: drawn from the proposal, independent of all that is not in the rollout so far.
        ids: int [K], the tokens that might have been drawn.
        proposal: float [K], the probability of each; they add up to 1.
    """

    token: int
    ids: Ids
    proposal: NDArray[np.float64]


class Session(Protocol):
    """A single rollout in the making, with both models' next-token distributions in sight."""

    @property
    def usage(self) -> Usage:
        """What the session has cost so far."""
        ...

    def distributions(self) -> tuple[TopK, TopK]:
        """Specialist and ancestor at the next position, [1, K] each."""
        ...

    @property
    def draft(self) -> Draft | None:
        """The next token where the specialist wrote ahead; None where it did not."""
        ...

    @property
    def next_cost(self) -> int:
        """Tokens that seeing the next distributions will cost."""
        ...

    @property
    def finished(self) -> FinishReason | None:
        """How the rollout ended, or None while it goes on."""
        ...

    def append(self, token: int) -> None:
        """Take a token; not allowed once the rollout has finished."""
        ...


@runtime_checkable
class Model(Protocol):
    """A specialist with, where there is one, the ancestor it was trained from.

    Methods beyond `sample` are called only where `capabilities` names them. Tokens are the
    specialist's; a completion's end-of-text token counts as a token where it was sampled.

    Attributes:
        name: which model this is; with the problem's task it names the cell of stored failures.
        capabilities: what the model can do.
        end_token: the id of the end-of-text token.
    """

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[Capability]: ...

    @property
    def end_token(self) -> int: ...

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
        """Draw n completions from the specialist; with a prefix, only what follows it."""
        ...

    def score(self, prompt: str, completions: Sequence[Ids], *, role: Role) -> Scores:
        """Top-K of one of the two at every position of each completion, taken token included."""
        ...

    def open(
        self,
        prompt: str,
        *,
        prefix: Sequence[int] | Ids = (),
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> Session:
        """Start a rollout that the caller steers token by token.

        Temperature, length and seed are those of what the specialist may write ahead.
        """
        ...

    def decode(self, tokens: Sequence[int] | Ids) -> str:
        """The text of a completion's tokens, special tokens left out."""
        ...

    def prompt_length(self, prompt: str) -> int:
        """Tokens of the prompt as the model reads it; used to foresee costs."""
        ...
