"""Traces as JSONL: one rollout a line, with the top-K of both models at every step.

{"id": "a", "temperature": 0.6, "steps": [
{"token": 5, "specialist": [[5, -0.1], [9, -2.4]], "ancestor": [[9, -0.3], [5, -1.4]]}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recov_graph.errors import InvalidInputError, ProblemFileError
from recov_graph.features import WINDOW, TraceFeatures, trace_features
from recov_graph.problem import describe
from recov_graph.rollout import PAD_ID, TopK
from recov_graph.signals import TokenSignals, token_signals
from recov_graph.words import short


class Step(BaseModel):
    """One token: its id and both models' [id, log-probability] lists."""

    model_config = ConfigDict(extra="ignore")

    token: int
    specialist: list[tuple[int, float]] = Field(min_length=1)
    ancestor: list[tuple[int, float]] = Field(min_length=1)


class TraceLine(BaseModel):
    """One rollout of a trace file; fields not named here are ignored."""

    model_config = ConfigDict(extra="ignore")

    id: str | int | None = None
    temperature: float = 0.6
    k_cov: int = 20
    window: int = WINDOW
    steps: list[Step] = Field(min_length=1)


def read_traces(
    lines: Iterable[str], name: str
) -> Iterator[tuple[TraceLine, TokenSignals, TraceFeatures]]:
    """Each line with its signals and features, one at a time; blank lines are skipped.

    Args:
        lines: the file's lines.
        name: what to call the file in errors.

    Raises:
        ProblemFileError: naming file and line number.
    """
    for number, raw in enumerate(_readable(lines, name), start=1):
        line = raw.removeprefix("\ufeff") if number == 1 else raw
        if not line.strip():
            continue
        try:
            trace = TraceLine.model_validate(_object(json.loads(line)))
            signals = token_signals(
                [step.token for step in trace.steps],
                _topk(trace.steps, "specialist"),
                _topk(trace.steps, "ancestor"),
                trace.temperature,
                trace.k_cov,
            )
            features = trace_features(signals, trace.window)
        except ValidationError as error:
            raise ProblemFileError(f"{name}:{number}: {describe(error)}") from None
        except InvalidInputError as error:
            raise ProblemFileError(f"{name}:{number}: {error}") from None
        except (ValueError, RecursionError, OverflowError) as error:
            raise ProblemFileError(f"{name}:{number}: not a trace: {error}") from None
        yield trace, signals, features


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(f"expected a JSON object with 'steps', got {short(value)}")
    return value


def _readable(lines: Iterable[str], name: str) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise ProblemFileError(
            f"{name}: not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from None


def _topk(steps: list[Step], side: Literal["specialist", "ancestor"]) -> TopK:
    lists: list[list[tuple[int, float]]] = [getattr(step, side) for step in steps]
    width = max(len(pairs) for pairs in lists)
    ids = np.full((len(steps), width), PAD_ID, np.int64)
    logprobs = np.full((len(steps), width), -np.inf)
    for row, pairs in enumerate(lists):
        if len({token for token, _ in pairs}) < len(pairs):
            raise InvalidInputError(
                f"{side} lists a token twice at position {row}; ids must be distinct"
            )
        ids[row, : len(pairs)], logprobs[row, : len(pairs)] = zip(*pairs, strict=True)
    return TopK(ids, logprobs)


def as_line(
    trace: TraceLine, signals: TokenSignals, features: TraceFeatures, *, with_signals: bool
) -> str:
    """Features, and signals where asked for, as one line of JSON."""
    row: dict[str, Any] = {"id": trace.id, "tokens": len(trace.steps), **features._asdict()}
    if with_signals:
        row["signals"] = {name: values.tolist() for name, values in signals._asdict().items()}
    return json.dumps(row)
