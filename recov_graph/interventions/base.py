"""What an intervention is, what it is given and what it gives back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from recov_graph.errors import InvalidInputError
from recov_graph.models.base import Capability, Model
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout
from recov_graph.trace import Trace


class Lengths(NamedTuple):
    """What an attempt's cost is foreseen by.

    Attributes:
        prompt: tokens of the prompt.
        completion: tokens of a typical completion.
        truncated: failed samples that were cut at the longest completion allowed.
        stride: tokens that a steered rollout goes on by before both models read it anew; 0 where
            they read every token once.
    """

    prompt: int
    completion: int
    truncated: int = 0
    stride: int = 0


def checked_number(name: str, value: Any, *, above: float, most: float) -> float:
    """A setting as a float.

    Raises:
        InvalidInputError: no number, or one out of range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and above < value <= most):
        raise InvalidInputError(
            f"{name} is {value!r}; it must be a number above {above:g} and at most {most:g}"
        )
    return float(value)


def steered_cost(lengths: Lengths) -> int:
    """Tokens of a rollout that is steered throughout: both models read all of it."""
    if not lengths.stride:
        return 2 * (lengths.prompt + lengths.completion)
    passes = -(-max(1, lengths.completion) // lengths.stride)
    return 2 * passes * (lengths.prompt + lengths.completion // 2 + lengths.stride)


@dataclass(frozen=True, slots=True)
class Failure:
    """A problem all of whose attempts failed, and how the next attempt is to be made.

    Attributes:
        problem: what was asked.
        temperature: the decoding temperature T of plain rollouts.
        max_tokens: the longest completion allowed.
        seed: makes the attempt repeatable.
        traces: the failed plain rollouts with what was measured on them; empty where the model
            cannot score.
        focus: which of the traces to repair; it moves on from attempt to attempt.
    """

    problem: Problem
    temperature: float
    max_tokens: int
    seed: int
    traces: Sequence[Trace] = ()
    focus: int = 0

    @property
    def trace(self) -> Trace:
        """The trace to repair.

        Raises:
            InvalidInputError: nothing was measured on this failure.
        """
        if not self.traces:
            raise InvalidInputError(
                "this failure has no measured trace; name Capability.SCORE among the needs of "
                "an intervention that repairs one"
            )
        return self.traces[self.focus % len(self.traces)]


@dataclass(frozen=True, slots=True)
class Attempt:
    """The rollout that an intervention made, with numbers worth keeping about how."""

    rollout: Rollout
    details: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Intervention(Protocol):
    """One bounded way to make another attempt at a failed problem.

    One that can help some failures only has a method ``possible(lengths) -> bool`` as well; where
    it answers False, the intervention is not offered. Without the method it always is.

    Attributes:
        name: how policies, stores and people call it.
        needs: what the model must be able to do; `Capability.SCORE` also promises measured traces.
    """

    name: str
    needs: frozenset[Capability]

    def expected_cost(self, lengths: Lengths) -> int:
        """Tokens that one attempt is expected to read and write."""
        ...

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """Make one attempt. The model given is metered: every call is charged to the budget."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A model whose calls are charged to a budget, and that can have others' charged as well."""

    def beside(self, model: Model, purpose: str = ...) -> Model:
        """Another model on the same budget; `purpose` is what the ledger calls its calls."""
        ...


def applies(intervention: Intervention, lengths: Lengths) -> bool:
    """Whether an intervention can help such a failure; see `Intervention`."""
    possible = getattr(intervention, "possible", None)
    return possible is None or bool(possible(lengths))


def fits_all(intervention: Intervention, capabilities: Collection[Capability]) -> bool:
    """Whether a model can carry out an intervention on every failure, whatever it is like."""
    return intervention.needs <= frozenset(capabilities) and not hasattr(intervention, "possible")
