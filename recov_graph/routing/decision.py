"""What a router is asked and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from recov_graph.features import ProblemFeatures

Regime = Literal["sampling", "steerable_hard", "out_of_reach"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about a failed problem when the next attempt is decided on.

    Attributes:
        model: the model's name; with the task it makes up the cell.
        task: the problem's task.
        features: the problem's features, or None where they could not be measured.
        failed_samples: plain rollouts that failed before any intervention.
        tried: operators that have failed here since, in order.
        costs: operators that may be chosen, with the tokens each is expected to cost.
        attempts_left: attempts the budget still allows.
        tokens_left: tokens the budget still allows; infinite without a limit.
    """

    model: str
    task: str
    features: ProblemFeatures | None
    failed_samples: int
    tried: Sequence[str]
    costs: Mapping[str, int]
    attempts_left: int
    tokens_left: float = math.inf


@dataclass(frozen=True, slots=True)
class Candidate:
    """An operator as the router saw it.

    Attributes:
        operator: its name.
        score: what the ranking went by; for the rule the z-score, None where it has none.
        expected_rescue: probability that the next attempt with it passes.
        expected_cost: tokens of that attempt.
    """

    operator: str
    score: float | None
    expected_rescue: float
    expected_cost: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The operator to try next, or None to stop, and why.

    Attributes:
        operator: the choice; None ends the problem.
        regime: what kind of failure this is predicted to be.
        probability: with which this operator was chosen; 1 for a deterministic router.
        expected_rescue: probability that the attempt passes; of any attempt left, when stopping.
        candidates: every operator considered, best first.
        reason: why, in words.
    """

    operator: str | None
    regime: Regime
    probability: float
    expected_rescue: float
    candidates: tuple[Candidate, ...]
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """The decision as plain data."""
        return {**asdict(self), "candidates": [asdict(c) for c in self.candidates]}


@runtime_checkable
class Router(Protocol):
    """Decides what to try next; stamped on every decision by the name and hash of its policy."""

    @property
    def name(self) -> str: ...

    @property
    def content_hash(self) -> str: ...

    def decide(self, evidence: Evidence) -> Decision:
        """Choose among `evidence.costs`, or stop."""
        ...
