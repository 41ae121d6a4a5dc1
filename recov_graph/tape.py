"""A tape: what every operator did, attempt by attempt, on problems whose first samples failed.

Policies can be compared on a tape without calling a model again. It is recorded into a trace store
by `recov-graph record`; as text it is JSON Lines, a header and then one line for each problem.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import TapeError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.interventions import registered
from recov_graph.interventions.base import Lengths
from recov_graph.problem import strict_json
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from recov_graph.store.learning import tape_attempts, tape_problems

FORMAT = 1
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
        attempts: by operator.
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

    Raises:
        TapeError: naming the file, the line where there is one, and what is wrong.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(DATABASE))
    except OSError as error:
        raise TapeError(f"tape {path}: cannot be read: {error.strerror}") from None
    problems = _from_store(path) if start == DATABASE else _from_text(path)
    if not problems:
        raise TapeError(
            f"tape {path}: holds no recorded problem; `recov-graph record` records attempts "
            "of every operator"
        )
    operators = set(problems[0].attempts)
    for problem in problems:
        if set(problem.attempts) != operators:
            raise TapeError(
                f"tape {path}: problem {problem.id!r} has attempts of "
                f"{', '.join(sorted(problem.attempts))}; the first problem has "
                f"{', '.join(sorted(operators))}. Every problem needs the same operators"
            )
    return problems


@lru_cache(maxsize=1)
def shipped_tape() -> tuple[TapeProblem, ...]:
    """The tape of the embedded pair that ships."""
    return tuple(read_tape(SHIPPED))


def write_tape(problems: Sequence[TapeProblem], path: str | Path, source: str) -> None:
    """Write problems as a text tape; `source` says where they come from."""
    header = {"recov_graph_tape": FORMAT, "feature_version": FEATURE_VERSION, "source": source}
    lines = [header, *(_as_data(problem) for problem in problems)]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    Path(path).write_text(text, encoding="utf-8")


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


def _from_text(path: Path) -> list[TapeProblem]:
    problems = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            data = strict_json(line.decode("utf-8"))
            if number == 1:
                _check_header(data)
            else:
                problems.append(_problem(data))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            why = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise TapeError(f"tape {path}:{number}: {why}") from None
    return problems


def _check_header(data: Any) -> None:
    if not isinstance(data, dict) or "recov_graph_tape" not in data:
        raise ValueError(
            "not a tape: the first line must be its header; name a trace store that "
            "`recov-graph record` wrote to, or a tape it wrote with --out"
        )
    if data["recov_graph_tape"] != FORMAT or data["feature_version"] != FEATURE_VERSION:
        raise ValueError(
            f"format {data['recov_graph_tape']!r} with feature version {data['feature_version']!r} "
            f"is not what is read here, {FORMAT} with {FEATURE_VERSION}; record it anew"
        )


def _problem(data: Mapping[str, Any]) -> TapeProblem:
    features = data["features"]
    if features is not None and len(features) != len(FEATURES):
        raise ValueError(f"features has {len(features)} numbers; it must have {len(FEATURES)}")
    attempts = {
        str(name): Attempts(
            np.array([character == "1" for character in made["passed"]], bool),
            np.array(made["tokens"], np.int64),
        )
        for name, made in data["attempts"].items()
    }
    for name, made in attempts.items():
        if len(made.passed) != len(made.tokens) or not len(made.passed):
            raise ValueError(
                f"{name} has {len(made.passed)} outcomes and {len(made.tokens)} token counts; "
                "it must have as many, and at least one"
            )
    return TapeProblem(
        id=str(data["id"]),
        model=str(data["model"]),
        task=str(data["task"]),
        features=None if features is None else ProblemFeatures(*map(float, features)),
        failed_samples=int(data["failed_samples"]),
        lengths=Lengths(int(data["prompt_tokens"]), int(data["completion_tokens"])),
        scoring_tokens=int(data["scoring_tokens"]),
        attempts=attempts,
    )


def _from_store(path: Path) -> list[TapeProblem]:
    with TraceStore(path) as store:
        rows = tape_problems(store)
        attempts = tape_attempts(store)
    made: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for problem_id, operator, passed, tokens in attempts:
        made.setdefault(problem_id, {}).setdefault(operator, []).append((passed, tokens))
    return [
        TapeProblem(
            id=row["key"],
            model=row["model"],
            task=row["task"],
            features=None
            if row["spread"] is None
            else ProblemFeatures(*(row[name] for name in FEATURES)),
            failed_samples=row["failed_samples"],
            lengths=Lengths(row["prompt_tokens"], row["completion_tokens"]),
            scoring_tokens=row["scoring_tokens"],
            attempts={
                name: Attempts(
                    np.array([p for p, _ in pairs], bool), np.array([t for _, t in pairs], np.int64)
                )
                for name, pairs in made[row["id"]].items()
            },
        )
        for row in rows
        if row["id"] in made
    ]
