"""A tape: what every operator did, attempt by attempt, on problems whose first samples failed.

Policies can be compared on a tape without calling a model again. It is recorded into a trace store
by `recov-graph record`; as text it is JSON Lines, a header and then one line for each problem.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recov_graph.errors import StoreError, TapeError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.interventions import registered
from recov_graph.interventions.base import Lengths
from recov_graph.problem import describe, strict_json
from recov_graph.profiles import FEATURE_RANGES
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from recov_graph.store.learning import tape_attempts, tape_problems
from recov_graph.store.location import is_server, shown
from recov_graph.store.traces import Row
from recov_graph.words import cut, listed, short

FORMAT = 1
LEAST_ATTEMPTS = 2  # a tape is read in halves
SHIPPED = Path(__file__).parent / "models" / "pair" / "tape.jsonl"
DATABASE = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts of one operator at one problem, in the order they were recorded.

    Attributes:
        passed: bool [n].
        tokens: int [n], each attempt charged in full: prefill, both models, every call.
    """

    passed: NDArray[np.bool_]
    tokens: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TapeProblem:
    """One failed problem of a tape.

    Attributes:
        id: the problem's id.
        model: the model's name; with the task it makes up the cell.
        task: the problem's task.
        features: what was measured on the failed samples, or None.
        failed_samples: plain rollouts that failed before anything was recorded.
        lengths: tokens of the prompt and of a typical failed sample.
        scoring_tokens: tokens spent on measuring the features.
        attempts: by operator, those that are registered first and in that order.
    """

    id: str
    model: str
    task: str
    features: ProblemFeatures | None
    failed_samples: int
    lengths: Lengths
    scoring_tokens: int
    attempts: Mapping[str, Attempts]

    def costs(self) -> dict[str, int]:
        """Tokens that one attempt of each operator is expected to cost.

        As the graph foresees them; of an operator that is not registered here, the mean.
        """
        known = registered()
        return {
            name: known[name].expected_cost(self.lengths)
            if name in known
            else round(float(made.tokens.mean()))
            for name, made in self.attempts.items()
        }


def read_tape(path: str | Path) -> list[TapeProblem]:
    """The problems of a tape: a trace store that `recov-graph record` wrote to, or a text tape.

    Of a problem that a store holds several times, what was recorded last counts.

    Raises:
        TapeError: naming the file, the line where there is one, and what is wrong.
    """
    problems = _from_store(path) if is_server(path) else _from_file(Path(path))
    if not problems:
        raise TapeError(
            f"tape {shown(path)}: holds no recorded problem; `recov-graph record` records "
            "attempts of every operator"
        )
    return problems


def _from_file(path: Path) -> list[TapeProblem]:
    try:
        with path.open("rb") as file:
            start = file.read(len(DATABASE))
            content = b"" if start == DATABASE else start + file.read()
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        why = getattr(error, "strerror", None) or error
        raise TapeError(f"tape {path}: cannot be read: {why}") from None
    return _from_store(path) if start == DATABASE else _from_text(content, str(path))


@lru_cache(maxsize=1)
def shipped_tape() -> tuple[TapeProblem, ...]:
    """The tape of the embedded pair that ships."""
    return tuple(read_tape(SHIPPED))


def write_tape(problems: Sequence[TapeProblem], path: str | Path, source: str) -> None:
    """Write problems as a text tape; `source` says where they come from.

    Features are rounded to six decimals.

    Raises:
        TapeError: the file cannot be written.
    """
    header = {"recov_graph_tape": FORMAT, "feature_version": FEATURE_VERSION, "source": source}
    lines = [header, *(_as_data(problem) for problem in problems)]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TapeError(f"tape {path}: cannot be written: {why}") from None


def _as_data(problem: TapeProblem) -> dict[str, Any]:
    features = problem.features
    return {
        "id": problem.id,
        "model": problem.model,
        "task": problem.task,
        "features": None if features is None else [round(value, 6) for value in features],
        "failed_samples": problem.failed_samples,
        "prompt_tokens": problem.lengths.prompt,
        "completion_tokens": problem.lengths.completion,
        "scoring_tokens": problem.scoring_tokens,
        "attempts": {
            name: {
                "passed": "".join("01"[int(passed)] for passed in made.passed),
                "tokens": made.tokens.tolist(),
            }
            for name, made in problem.attempts.items()
        },
    }


Count = Annotated[int, Field(ge=0, le=2**40)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Header(_Part):
    recov_graph_tape: int
    feature_version: int
    source: str


class _Attempts(_Part):
    passed: str = Field(pattern="^[01]+$")
    tokens: list[Count]


class _Line(_Part):
    id: str
    model: str
    task: str
    features: list[float] | None = Field(min_length=len(FEATURES), max_length=len(FEATURES))
    failed_samples: Count
    prompt_tokens: Count
    completion_tokens: Count
    scoring_tokens: Count
    attempts: dict[str, _Attempts] = Field(min_length=1)


def _from_text(content: bytes, name: str) -> list[TapeProblem]:
    problems: list[TapeProblem] = []
    header = False
    for number, raw in enumerate(content.removeprefix(BOM_UTF8).split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            data = strict_json(raw.decode("utf-8"))
            if header:
                problems.append(_problem(data))
                _check_operators(problems[0], problems[-1])
            else:
                _check_header(data)
                header = True
        except ValidationError as error:
            raise TapeError(f"tape {name}:{number}: {describe(error)}") from None
        except (ValueError, RecursionError) as error:
            raise TapeError(f"tape {name}:{number}: {error}") from None
    return problems


def _check_header(data: Any) -> None:
    if not isinstance(data, dict) or "recov_graph_tape" not in data:
        raise ValueError(
            "not a tape: the first line must be its header; name a trace store that "
            "`recov-graph record` wrote to, or a tape it wrote with --out"
        )
    header = _Header.model_validate(data)
    if (header.recov_graph_tape, header.feature_version) != (FORMAT, FEATURE_VERSION):
        raise ValueError(
            f"format {short(header.recov_graph_tape)} with feature version "
            f"{short(header.feature_version)} is not what is read here, {FORMAT} with "
            f"{FEATURE_VERSION}; record it anew"
        )


def _check_operators(first: TapeProblem, problem: TapeProblem) -> None:
    if set(first.attempts) != set(problem.attempts):
        raise ValueError(
            f"problem {short(problem.id)} has attempts of {_names(problem)}; the first problem has "
            f"{_names(first)}. Every problem needs the same operators"
        )


def _names(problem: TapeProblem) -> str:
    return cut(listed([cut(name) for name in problem.attempts], 12), 400)


def _problem(data: Any) -> TapeProblem:
    line = _Line.model_validate(data)
    # A lone surrogate raises UnicodeEncodeError, which is a ValueError.
    "".join((line.id, line.model, line.task, *line.attempts)).encode()
    for name, value in zip(FEATURES, line.features or [], strict=False):
        low, high = FEATURE_RANGES[name]
        if not low <= value <= high:
            raise ValueError(f"{name} is {value!r}; it must be a number of {low:g} to {high:g}")
    for name, made in line.attempts.items():
        if len(made.passed) != len(made.tokens):
            raise ValueError(
                f"{short(name)} has {len(made.passed)} outcomes and {len(made.tokens)} token "
                "counts; it must have as many"
            )
    return TapeProblem(
        id=line.id,
        model=line.model,
        task=line.task,
        features=None if line.features is None else ProblemFeatures(*line.features),
        failed_samples=line.failed_samples,
        lengths=Lengths(line.prompt_tokens, line.completion_tokens),
        scoring_tokens=line.scoring_tokens,
        attempts=_ordered(
            {
                name: _attempts([one == "1" for one in made.passed], made.tokens)
                for name, made in line.attempts.items()
            }
        ),
    )


def _attempts(passed: Sequence[bool | int], tokens: Sequence[int]) -> Attempts:
    return Attempts(np.array(passed, bool), np.array(tokens, np.int64))


def _ordered(attempts: Mapping[str, Attempts]) -> dict[str, Attempts]:
    """In the order of the registry, then by name: the same wherever a tape comes from."""
    known = [name for name in registered() if name in attempts]
    return {name: attempts[name] for name in (*known, *sorted(attempts.keys() - set(known)))}


def _from_store(path: str | Path) -> list[TapeProblem]:
    try:
        with TraceStore(path) as store:
            return tape_of(store)
    except StoreError as error:
        raise TapeError(f"tape {shown(path)}: {error}") from None


def tape_of(store: TraceStore, ids: Container[str] | None = None) -> list[TapeProblem]:
    """The recorded problems of an open store; `ids` are the store's, None for all.

    Raises:
        TapeError: problems that were recorded with different operators.
    """
    rows, attempts = tape_problems(store), tape_attempts(store)
    made: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for problem_id, operator, passed, tokens in attempts:
        made.setdefault(problem_id, {}).setdefault(operator, []).append((passed, tokens))
    latest: dict[tuple[str, str, str], TapeProblem] = {}
    for row in rows:
        if row["id"] in made and (ids is None or row["id"] in ids):
            problem = _from_row(row, made[row["id"]])
            latest[problem.model, problem.task, problem.id] = problem
    problems = list(latest.values())
    for problem in problems:
        try:
            _check_operators(problems[0], problem)
        except ValueError as error:
            raise TapeError(f"tape {store.path}: {error}") from None
    return problems


def _from_row(row: Row, made: Mapping[str, Sequence[tuple[int, int]]]) -> TapeProblem:
    measured = row["spread"] is not None
    return TapeProblem(
        id=row["key"],
        model=row["model"],
        task=row["task"],
        features=ProblemFeatures(*(row[name] for name in FEATURES)) if measured else None,
        failed_samples=row["failed_samples"],
        lengths=Lengths(row["prompt_tokens"], row["completion_tokens"]),
        scoring_tokens=row["scoring_tokens"],
        attempts=_ordered(
            {name: _attempts(*zip(*pairs, strict=True)) for name, pairs in made.items()}
        ),
    )
