"""Verifiers that compare a short answer: exact, numeric, regex."""

from __future__ import annotations

import decimal
import math
import numbers
import re
from decimal import Decimal
from typing import Any

from regex import Pattern

from recov_graph.errors import InvalidInputError
from recov_graph.problem import Problem
from recov_graph.verifiers.extract import (
    Extract,
    as_extract,
    checked_pattern,
    last_match,
    search,
)
from recov_graph.verifiers.verdict import (
    Check,
    UnscorableError,
    Verdict,
    Verifier,
    positive,
)
from recov_graph.words import cut, short

# Digits glued to a letter ("m2", "H2O") are no numbers; a sign right after a digit, a letter or a
# bracket is an operator or a dash.
NUMBER = (
    r"(?<![A-Za-z_0-9])(?<![0-9]\.)(?:(?<![\w.)\]])[-+])?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]+)?"
)
QUOTIENT = re.compile(rf"({NUMBER})(?: ?/ ?({NUMBER}))?")
# Without traps, an exponent beyond all bounds or a division by zero gives NaN or infinity.
DECIMALS = decimal.Context(prec=50, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[])
LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")


def exact(
    *, strip: bool = True, casefold: bool = False, extract: Extract | str | None = None
) -> Verifier:
    r"""A verifier: the extracted answer equals `str(problem.answer)`.

    Args:
        strip: ignore white space around both.
        casefold: ignore the difference between capitals and small letters.
        extract: a function of the output, or a regular expression whose one group is the answer
            (its last match counts); by default what follows the last "A:", "Answer:" or "####" or
            is inside the last `\boxed{...}`, else the whole output.

    Raises:
        InvalidInputError: for an `extract` that is neither.
    """
    find = as_extract(extract)

    def plain(value: str) -> str:
        value = value.strip() if strip else value
        return value.casefold() if casefold else value

    def check(problem: Problem, text: str) -> Verdict:
        if problem.answer is None:
            raise UnscorableError("the problem has no answer to compare with")
        found, wanted = find(text), str(problem.answer)
        if found is None:
            return Verdict("failed", explanation="no answer found in the output")
        if plain(found) == plain(wanted):
            return Verdict("passed", answer=found, explanation="equals the answer")
        return Verdict("failed", answer=found, explanation=f"expected {short(wanted)}")

    return Check("exact", check)


def numeric(
    *, tolerance: float = 0.0, relative: float = 0.0, extract: Extract | str | None = None
) -> Verifier:
    r"""A verifier: the last number of the extracted answer equals `problem.answer`.

    Understands 1,234 and -3.5e2 and 3/4 and `\frac{3}{4}`, and compares in decimal, so long
    integers differ where their last digits do; where the reference is a float, the output's number
    is rounded to one first. NaN and infinity are no numbers: they never pass.

    Args:
        tolerance: greatest absolute difference that passes.
        relative: greatest difference that passes, as a share of the reference.
        extract: as for `exact`, except that by default an output without a marked answer is
            searched for its last number.

    Raises:
        InvalidInputError: for a negative or infinite tolerance, or a wrong `extract`.
    """
    absolute, share = _size("tolerance", tolerance), _size("relative", relative)
    find = as_extract(extract)

    def check(problem: Problem, text: str) -> Verdict:
        wanted = _reference(problem.answer)
        written, value = _last_number(find(text) or "")
        if value is None:
            return Verdict("failed", answer=written, explanation="no number found in the output")
        if isinstance(problem.answer, float):
            value = Decimal(repr(float(value)))
        if _close(value, wanted, absolute, share):
            return Verdict("passed", answer=written, explanation="equals the answer")
        return Verdict("failed", answer=written, explanation=f"expected {cut(str(wanted))}")

    return Check("numeric", check)


def _size(option: str, value: float) -> Decimal:
    if isinstance(value, numbers.Real) and 0 <= value < math.inf:
        return Decimal(repr(float(value)))
    raise InvalidInputError(f"{option}={value!r}; legal is a number of at least 0")


def _reference(answer: Any) -> Decimal:
    value = None
    if isinstance(answer, str):
        match = QUOTIENT.fullmatch(answer.strip())
        value = _quotient(match) if match else None
    elif isinstance(answer, numbers.Integral) and not isinstance(answer, bool):
        value = Decimal(int(answer))
    elif (
        isinstance(answer, numbers.Real) and math.isfinite(answer) and not isinstance(answer, bool)
    ):
        value = Decimal(repr(float(answer)))
    if value is None:
        raise UnscorableError(
            f"the problem's answer {short(answer)} is not a number to compare with"
        )
    return value


def _last_number(text: str) -> tuple[str | None, Decimal | None]:
    """The last number as it is written, and its value; None where there is none."""
    text = LATEX_FRACTION.sub(r"\1/\2", text.replace("−", "-"))
    match = last_match(QUOTIENT, text)
    return (match.group(), _quotient(match)) if match else (None, None)


def _quotient(match: re.Match[str]) -> Decimal | None:
    above, below = match.group(1).replace(",", ""), (match.group(2) or "1").replace(",", "")
    with decimal.localcontext(DECIMALS):
        value = Decimal(above) / Decimal(below) if match.group(2) else Decimal(above)
    return value if value.is_finite() else None


def _close(value: Decimal, wanted: Decimal, absolute: Decimal, share: Decimal) -> bool:
    with decimal.localcontext(DECIMALS):
        return abs(value - wanted) <= max(absolute, share * abs(wanted))


def regex(*, pattern: str | None = None, full: bool = False, seconds: float = 1.0) -> Verifier:
    """A verifier: a regular expression is found in the output.

    Args:
        pattern: the expression; by default the problem's answer.
        full: it must match the whole output, not just a part.
        seconds: time limit for one output; a pattern that needs longer leaves it unscored.

    Raises:
        InvalidInputError: for a pattern that does not compile, or no positive time limit.
    """
    seconds = positive("seconds", seconds)
    fixed = None if pattern is None else checked_pattern(pattern, "pattern")

    def check(problem: Problem, text: str) -> Verdict:
        wanted = fixed or _answer_pattern(problem.answer)
        match = search(wanted, text, seconds=seconds, full=full)
        if match:
            return Verdict("passed", answer=match.group(), explanation="the pattern matches")
        return Verdict("failed", explanation=f"no match of {short(wanted.pattern)}")

    return Check("regex", check)


def _answer_pattern(answer: Any) -> Pattern[str]:
    if not isinstance(answer, str):
        raise UnscorableError(f"the problem's answer {short(answer)} is not a pattern")
    try:
        return checked_pattern(answer, "answer")
    except InvalidInputError as error:
        raise UnscorableError(f"the problem's {error}") from None
