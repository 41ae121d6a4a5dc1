"""The verifier for everything else: a Python function of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from langgraph.errors import GraphBubbleUp

from recov_graph.errors import InvalidInputError
from recov_graph.problem import Problem
from recov_graph.verifiers.verdict import (
    Check,
    UnscorableError,
    Verdict,
    Verifier,
    describe,
)
from recov_graph.words import short

LEGAL = "legal are fn(problem, text) and fn(text), with defaults for anything else"


def function(
    fn: Callable[..., Any], *, threshold: float = 1.0, name: str | None = None
) -> Verifier:
    """A verifier made of `fn(problem, text)` or `fn(text)`, whichever takes that many arguments.

    It returns a bool, a score from 0 to 1, or a Verdict. Anything else, and any exception it
    raises, leaves the output unscored.

    Args:
        threshold: the lowest score that passes, above 0 and at most 1.
        name: what traces call it; by default the function's own name.

    Raises:
        InvalidInputError: for an async function, one that takes other arguments, or a threshold
            out of range.
    """
    if not 0 < threshold <= 1:
        raise InvalidInputError(f"threshold={threshold!r}; legal is above 0 and at most 1")
    own_name = getattr(fn, "__name__", type(fn).__name__)
    takes_problem = _takes_problem(fn, own_name)

    def check(problem: Problem, text: str) -> Verdict:
        try:
            result = fn(problem, text) if takes_problem else fn(text)
        except GraphBubbleUp:
            raise  # an interrupt: a person is asked for the verdict
        except (Exception, SystemExit) as error:
            raise UnscorableError(f"{own_name} raised {describe(error)}") from error
        return _verdict(result, threshold, own_name)

    return Check(name or own_name, check)


def _takes_problem(fn: Callable[..., Any], name: str) -> bool:
    if not callable(fn):
        raise InvalidInputError(f"{short(fn)} is not callable; {LEGAL}")
    if isinstance(fn, type):
        raise InvalidInputError(f"{name} is a class; hand over an object of it: {LEGAL}")
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        raise InvalidInputError(f"{name} is async; a verifier must be a plain function: {LEGAL}")
    try:
        signature = inspect.signature(fn)
    except (ValueError, TypeError):
        raise InvalidInputError(
            f"{name} does not tell its signature; wrap it in a function: {LEGAL}"
        ) from None
    required = [p for p in signature.parameters.values() if p.default is p.empty]
    positional = [p for p in required if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.KEYWORD_ONLY for p in required) or len(positional) not in (1, 2):
        raise InvalidInputError(f"{name}{signature} takes other arguments; {LEGAL}")
    return len(positional) == 2


def _verdict(result: Any, threshold: float, name: str) -> Verdict:
    if isinstance(result, Verdict):
        return result
    if getattr(result, "shape", None) == ():
        result = result.item()  # a numpy or torch scalar
    if isinstance(result, int | float) and 0 <= result <= 1:
        return Verdict(
            "passed" if result >= threshold else "failed",
            score=float(result),
            explanation=f"{name} returned {result!r}",
        )
    if inspect.iscoroutine(result):
        result.close()  # else Python warns that it was never awaited
    given = repr(result) if isinstance(result, int | float) else type(result).__name__
    raise UnscorableError(
        f"{name} returned {given}; legal are a bool, a score from 0 to 1 and a Verdict"
    )
