"""Finding the answer within an output."""

from __future__ import annotations

import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import regex as engine
from langgraph.errors import GraphBubbleUp
from regex import Match, Pattern

from recov_graph.errors import InvalidInputError
from recov_graph.verifiers.verdict import UnscorableError, describe
from recov_graph.words import short

Extract = Callable[[str], str | None]

# A lone "A" counts only at the start of a line: outputs are full of "Train A:" and "option A:".
LABEL = re.compile(r"(?:^[^\w\n]*A|\b(?i:answer))\**:\**|^[^\S\n]*####", re.MULTILINE)
BOXED = "\\boxed{"
BRACE = re.compile(r"[{}]")
SECONDS = 1.0  # for a user's pattern to find the answer in one output


def labelled_answer(text: str) -> str | None:
    r"""The answer the output itself marks as such, or None.

    That is the last of: the rest of the line after "A:" (at the start of a line), "Answer:" or
    "####" (or the next line with text on it, where that is empty), and what `\boxed{...}` holds.
    """
    label = last_match(LABEL, text)
    start = text.rfind(BOXED)
    if start > (label.start() if label else -1):
        inside = _balanced(text, start + len(BOXED))
        if inside is not None:
            return inside.strip()
    if label is None:
        return None
    line = text[label.end() :].lstrip().split("\n", 1)[0].strip()
    return line.removeprefix("**").removesuffix("**").strip()


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match of a pattern of our own, known to be quick; None where there is none."""
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0] if found else None


def _balanced(text: str, start: int) -> str | None:
    """From `start` to the brace that closes the one before it; None where none does."""
    depth = 1
    for match in BRACE.finditer(text, start):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[start : match.start()]
    return None


def as_extract(extract: Extract | str | None) -> Extract:
    """The function that finds the answer: the user's, or the last match of the user's pattern.

    None stands for the answer the output marks as such, else all of the output.

    Raises:
        InvalidInputError: for a pattern that does not compile or has not exactly one group.
    """
    if extract is None:
        return _labelled_or_all
    if isinstance(extract, str):
        return _last_group(extract)
    if not callable(extract):
        raise InvalidInputError(
            f"extract={extract!r}; legal are a function of the text and a regular expression "
            "with one group"
        )
    return _guarded(extract)


def _labelled_or_all(text: str) -> str:
    labelled = labelled_answer(text)
    return text if labelled is None else labelled


def _guarded(extract: Extract) -> Extract:
    def guarded(text: str) -> str | None:
        try:
            found = extract(text)
        except GraphBubbleUp:
            raise  # an interrupt: a person is asked for the verdict
        except Exception as error:
            raise UnscorableError(f"extract raised {describe(error)}") from error
        if found is not None and not isinstance(found, str):
            kind = type(found).__name__
            raise UnscorableError(f"extract returned a {kind}, not text or None")
        return found

    return guarded


def _last_group(source: str) -> Extract:
    pattern = checked_pattern(source, "extract")
    if pattern.groups != 1:
        raise InvalidInputError(
            f"extract={source!r} has {pattern.groups} groups; it needs exactly one, the answer"
        )

    def last_group(text: str) -> str | None:
        found = None
        with too_slow_is_unscorable(pattern, SECONDS):
            for match in pattern.finditer(text, timeout=SECONDS):
                found = match.group(1)
        return found

    return last_group


def checked_pattern(source: str, option: str) -> Pattern[str]:
    """A regular expression given as an option, compiled.

    Raises:
        InvalidInputError: where it does not compile.
    """
    try:
        return engine.compile(source)
    except (engine.error, TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{option}={short(source)} is not a regular expression: {error}"
        ) from None


def search(pattern: Pattern[str], text: str, *, seconds: float, full: bool) -> Match[str] | None:
    """The first match of the pattern in the text, or with `full` its match of the whole text.

    Raises:
        UnscorableError: where that takes more than `seconds`.
    """
    # The standard `re` cannot be stopped and holds the interpreter lock while it backtracks; the
    # regex package takes a time limit and lets other threads go on.
    find = pattern.fullmatch if full else pattern.search
    with too_slow_is_unscorable(pattern, seconds):
        return find(text, timeout=seconds)


@contextmanager
def too_slow_is_unscorable(pattern: Pattern[str], seconds: float) -> Iterator[None]:
    """Turns the time-out of a pattern into an UnscorableError that says so."""
    try:
        yield
    except TimeoutError:
        raise UnscorableError(
            f"the pattern {short(pattern.pattern)} took more than {seconds:g} s"
        ) from None


def fenced_block(text: str, languages: tuple[str, ...]) -> str | None:
    """The last fenced block marked as one of `languages`, else the last unmarked one, or None."""
    blocks = list(_blocks(text))
    for wanted in (languages, ("",)):
        for language, block in reversed(blocks):
            if language in wanted:
                return block
    return None


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and dedented body of each fenced block; a last one left open ends with the text."""
    language, lines = None, list[str]()
    for line in text.split("\n"):
        mark = line.strip()
        if language is None:
            if mark.startswith("```"):
                language, lines = mark.strip("`").strip().lower(), []
        elif mark == "```":
            yield language, textwrap.dedent("\n".join(lines))
            language = None
        else:
            lines.append(line)
    if language is not None:
        yield language, textwrap.dedent("\n".join(lines))
