"""What a model call gives back: a rollout, its top-K log-probabilities and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

PAD_ID = -1
SAMPLE = "sample"  # the operator of the first rollouts

FinishReason = Literal["stop", "length"]


class TopK(NamedTuple):
    """The K most likely next tokens at each of L positions, at temperature 1.

    Attributes:
        ids: int [L, K] token ids, distinct within a row; unused places hold -1.
        logprobs: float [L, K] natural-log probabilities; unused places hold -inf.
    """

    ids: NDArray[np.integer[Any]]
    logprobs: NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Usage:
    """What was spent. Every token that any model read or wrote is counted once per pass.

    Attributes:
        prompt_tokens: tokens the specialist read (prompt and trusted prefix).
        completion_tokens: tokens the specialist wrote.
        scored_tokens: tokens read in scoring and ancestor passes.
        seconds: wall-clock time of the calls.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    scored_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens + self.scored_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.scored_tokens + other.scored_tokens,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.scored_tokens - other.scored_tokens,
            self.seconds - other.seconds,
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "scored_tokens": self.scored_tokens,
            "seconds": self.seconds,
            "tokens": self.tokens,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})


@dataclass(frozen=True, slots=True)
class Rollout:
    """One attempt at a problem, as the model wrote it.

    Attributes:
        text: the completion, without the prompt.
        token_ids: int32 [L], the completion's tokens, end-of-text included where it was sampled.
        finish_reason: "stop" where the model ended by itself, "length" where it was cut.
        specialist: top-K of the specialist at each of the L positions, where it was recorded.
        ancestor: top-K of the ancestor at the same positions, where it was scored.
        written: tokens written, where the ids of not all of them are known.
        pieces: the text of each of the L tokens, where known. Joined they need not be `text`: a
            character may span tokens, and special tokens have none.
    """

    text: str
    token_ids: NDArray[np.int32]
    finish_reason: FinishReason
    specialist: TopK | None = None
    ancestor: TopK | None = None
    written: int | None = None
    pieces: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.token_ids) if self.written is None else self.written
