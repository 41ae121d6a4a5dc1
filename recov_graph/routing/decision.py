"""What a router is asked and what it answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from recov_graph.rollout_features import Features
from recov_graph.words import count

Regime = Literal["sampling", "steerable_hard", "out_of_reach"]
MARGIN = 0.05  # how far an intervention must beat retry to make a failure steerable-hard
EASY = 0.5  # a retry that rescues more often than this makes the failure bad luck


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known about a failed problem when the next attempt is decided on.

    Attributes:
        model: the model's name; with the task it makes up the cell.
        task: the problem's task.
        features: the problem's features, or None where they could not be measured; of a black-box
            model, those of its samples.
        failed_samples: plain rollouts that failed before any intervention.
        tried: operators that have failed here since, in order.
        costs: operators that may be chosen, with the tokens an attempt of each is expected to cost.
        once: tokens that must be spent before the first attempt of an operator, where any: those
            that repair a measured trace need one to be measured.
        attempts_left: attempts the budget still allows.
        tokens_left: tokens the budget still allows; infinite without a limit.
        draw: a number from 0 to 1 for routers that choose at random; None for a fresh one.
    """

    model: str
    task: str
    features: Features | None
    failed_samples: int
    tried: Sequence[str]
    costs: Mapping[str, int]
    attempts_left: int
    tokens_left: float = math.inf
    draw: float | None = None
    once: Mapping[str, int] = field(default_factory=dict)


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


def affordable(evidence: Evidence) -> dict[str, int]:
    """The operators that fit the tokens left, with their costs."""
    return {
        name: cost
        for name, cost in evidence.costs.items()
        if cost + evidence.once.get(name, 0) <= evidence.tokens_left
    }


def any_rescue(path: Iterable[Candidate]) -> float:
    """The chance that one of the attempts passes."""
    return 1.0 - math.prod(1.0 - candidate.expected_rescue for candidate in path)


def odds(decided: Decision, explore: float) -> dict[str, float]:
    """The probability of each operator where a share of choices is made at random.

    `decided` is what is chosen otherwise; where that is a stop, nothing else is ever chosen.
    """
    if decided.operator is None:
        return {}
    if decided.probability == 1.0:  # nothing else might have been chosen, whatever the share
        return {decided.operator: 1.0}
    by_chance = {c.operator: explore / len(decided.candidates) for c in decided.candidates}
    by_chance[decided.operator] = by_chance.get(decided.operator, 0.0) + 1.0 - explore
    return by_chance


def stop(
    evidence: Evidence, chance: float, threshold: float, candidates: tuple[Candidate, ...]
) -> Decision:
    """The decision to stop because the chance of any rescue is under a threshold."""
    reason = (
        f"{count(evidence.failed_samples, 'sample')} and "
        f"{count(len(evidence.tried), 'intervention')} failed; the chance of a rescue in "
        f"{count(evidence.attempts_left, 'more attempt')} is {chance:.1%}, "
        f"under {threshold:.1%}: stop"
    )
    return Decision(None, "out_of_reach", 1.0, chance, candidates, reason)


def wants_features(router: Router, evidence: Evidence) -> bool:
    """Whether a router wants features measured before its first choice; they cost tokens.

    A router says so by a method `wants_features(evidence)`; without one it does.
    """
    asked = getattr(router, "wants_features", None)
    return True if asked is None else bool(asked(evidence))


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
