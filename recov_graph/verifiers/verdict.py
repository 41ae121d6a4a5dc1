"""What a verifier returns, what a verifier is, and how to call one that may be broken."""

from __future__ import annotations

import dataclasses
import math
import numbers
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from langgraph.errors import GraphBubbleUp

from recov_graph.errors import InvalidInputError
from recov_graph.problem import Problem
from recov_graph.words import cut

Outcome = Literal["passed", "failed", "unscored"]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one output.

    Args:
        value: "passed", "failed", or "unscored" where the output could not be judged.
        score: in [0, 1]; by default 1.0 for passed and 0.0 for failed, always None for unscored.
        answer: the part of the output that was judged, None where there was none.
        explanation: why, in words for a person.

    Raises:
        InvalidInputError: for another value, or a score that does not go with it.
    """

    value: Outcome
    score: float | None = None
    answer: str | None = None
    explanation: str = ""

    def __post_init__(self) -> None:
        if self.value not in get_args(Outcome):
            raise InvalidInputError(f"verdict {self.value!r}; legal are {get_args(Outcome)}")
        if self.value == "unscored" and self.score is not None:
            raise InvalidInputError(f"an unscored verdict has no score, got {self.score!r}")
        if self.value != "unscored" and self.score is None:
            object.__setattr__(self, "score", 1.0 if self.passed else 0.0)
        if self.score is not None and not 0 <= self.score <= 1:
            raise InvalidInputError(f"score {self.score!r}; legal is a number from 0 to 1")
        if self.score is not None:
            object.__setattr__(self, "score", float(self.score))  # numpy's numbers too
        for name in ("answer", "explanation"):
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                object.__setattr__(self, name, str(text))

    @property
    def passed(self) -> bool:
        """Whether the output was judged right."""
        return self.value == "passed"

    @property
    def failed(self) -> bool:
        """Whether the output was judged wrong; False for unscored."""
        return self.value == "failed"

    def as_dict(self) -> dict[str, Any]:
        """The four fields, fit for `json.dumps`."""
        return dataclasses.asdict(self)


@runtime_checkable
class Verifier(Protocol):
    """Anything with a name that turns a problem and an output into a verdict."""

    @property
    def name(self) -> str:
        """What traces call this verifier."""
        ...

    def __call__(self, problem: Problem, text: str) -> Verdict:
        """The verdict on `text`, one output for `problem`."""
        ...


class UnscorableError(Exception):
    """Raised within a check that cannot judge; its message becomes the explanation."""


@dataclass(frozen=True)
class Check:
    """A named function of problem and output: the form of every verifier of this package."""

    name: str
    check: Callable[[Problem, str], Verdict]

    def __call__(self, problem: Problem, text: str) -> Verdict:
        """The verdict on `text`; unscored where the check raises UnscorableError."""
        try:
            return self.check(problem, text)
        except UnscorableError as reason:
            return Verdict("unscored", explanation=str(reason))


def judge(verifier: Verifier, problem: Problem, text: str) -> Verdict:
    """The verifier's verdict on `text`, or an unscored one where the verifier is broken.

    Any Exception it raises, and any return that is not a Verdict, is "unscored": a broken verifier
    says nothing about the output. So is SystemExit; KeyboardInterrupt passes through.
    """
    try:
        verdict = verifier(problem, text)
    except GraphBubbleUp:
        raise  # an interrupt: a person is asked for the verdict
    except (Exception, SystemExit) as error:
        return Verdict("unscored", explanation=f"the verifier raised {describe(error)}")
    if not isinstance(verdict, Verdict):
        kind = type(verdict).__name__
        return Verdict("unscored", explanation=f"the verifier returned a {kind}, not a Verdict")
    return verdict


def describe(error: BaseException) -> str:
    """Type and message of an exception; never raises, even where its `__str__` does."""
    return cut("".join(traceback.format_exception_only(error)).strip(), 500)


def positive(option: str, value: float) -> float:
    """The value of an option that must be a finite number above 0.

    Raises:
        InvalidInputError: where it is not.
    """
    if isinstance(value, numbers.Real) and 0 < value < math.inf:
        return value
    raise InvalidInputError(f"{option}={value!r}; legal is a number greater than 0")
