"""Rollout features: four numbers, per problem, that need nothing but its first samples.

They are for black-box models, of which no log-probabilities can be had. They and the features of
`recov_graph.features` are two sets, each with its own version and its own population: a failure has
numbers of one set only, and the two are never compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from recov_graph.errors import InvalidInputError
from recov_graph.features import ProblemFeatures
from recov_graph.rollout import FinishReason

ROLLOUT_FEATURE_VERSION = 1


class FailedSample(NamedTuple):
    """What is looked at of a first sample that failed.

    Attributes:
        answer: what the verifier extracted, else the text; blank for a sample without either.
        finish_reason: how it ended.
        tokens: tokens written, at least 0.
    """

    answer: str
    finish_reason: FinishReason
    tokens: int


class RolloutFeatures(NamedTuple):
    """How the first samples of one problem failed.

    Attributes:
        failed_share: share of the first samples that failed, above 0 to 1.
        agreement: share of the failed samples that give their most common answer, 0 to 1.
        truncated: share of the failed samples that were cut at their longest, 0 to 1.
        length: mean length of the failed samples [log10 tokens], at least 0.
    """

    failed_share: float
    agreement: float
    truncated: float
    length: float


ROLLOUT_FEATURES = RolloutFeatures._fields
ROLLOUT_SHARES = ROLLOUT_FEATURES[:3]  # the rest may be of any size
Features = ProblemFeatures | RolloutFeatures
_SETS: tuple[type[ProblemFeatures] | type[RolloutFeatures], ...] = (
    ProblemFeatures,
    RolloutFeatures,
)


def rollout_features(failed: Sequence[FailedSample], samples: int) -> RolloutFeatures:
    """The features of one problem.

    Samples without an answer agree with none, not even with one another; a mean of less than one
    token counts as one.

    Args:
        failed: the first samples that failed.
        samples: how many first samples there were, those that could not be judged included.

    Raises:
        InvalidInputError: no sample failed, more failed than there were, or one has fewer than 0
            tokens.
    """
    if not 1 <= len(failed) <= samples:
        raise InvalidInputError(
            f"{len(failed)} of {samples} samples failed; at least 1 must have failed, and no more "
            "than there were"
        )
    least = min(sample.tokens for sample in failed)
    if least < 0:
        raise InvalidInputError(f"tokens is {least}; a sample has at least 0")
    n = len(failed)
    answers = Counter(answer for sample in failed if (answer := sample.answer.strip()))
    mean = sum(sample.tokens for sample in failed) / n
    return RolloutFeatures(
        failed_share=n / samples,
        agreement=max(answers.values(), default=0) / n,
        truncated=sum(sample.finish_reason == "length" for sample in failed) / n,
        length=math.log10(max(1.0, mean)),
    )


def features_from(values: Mapping[str, float]) -> Features:
    """Features from plain data, of the set whose names are its keys.

    Raises:
        InvalidInputError: the keys are those of neither set.
    """
    for kind in _SETS:
        if values.keys() == set(kind._fields):
            return kind(**values)
    raise InvalidInputError(
        f"features are {', '.join(sorted(map(str, values))) or 'none'}; they must be all of "
        + ", or all of ".join(", ".join(kind._fields) for kind in _SETS)
    )
