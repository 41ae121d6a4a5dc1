"""Bringing outcomes from elsewhere into the trace store: profile CSVs and rollouts as JSONL.

A line of a rollout file is one attempt, in any order; "sample" are the first plain samples:

    {"problem": "p1", "operator": "sample", "passed": false, "tokens": 210, "features":
     {"spread": 0.2, "concentration": 1.5, "logit_dispersion": -1.0}, "model": "m", "task": "t"}
"""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from recov_graph.errors import InvalidInputError, TapeError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.problem import describe, strict_json
from recov_graph.profiles import (
    FEATURE_RANGES,
    RATE_ATTEMPTS,
    Profile,
    parse_profiles,
    read_content,
    unreadable,
)
from recov_graph.rollout import SAMPLE
from recov_graph.routing.policy import ROUTER_VERSION
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from recov_graph.store.traces import now
from recov_graph.version import __version__
from recov_graph.words import short

Kind = Literal["profiles", "rollouts"]
ENDINGS: dict[str, Kind] = {
    ".csv": "profiles",
    ".jsonl": "rollouts",
    ".json": "rollouts",
    ".ndjson": "rollouts",
}
UNKNOWN_MODEL = "unknown"
DEFAULT_TASK = "default"
MOST_ATTEMPTS = 1e9
EXAMPLE = '{"problem": "p1", "operator": "retry", "passed": true, "tokens": 210}'


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import put into the store.

    Attributes:
        runs: the id of the run that was made of each model of the file.
        problems: how many problems the file has.
        attempts: how many attempts of operators, first samples not among them.
        new: False where the store held all of this already, and nothing was written.
    """

    runs: Mapping[str, str]
    problems: int
    attempts: float
    new: bool

    @property
    def run_id(self) -> str:
        """The id of the run, or of the first model's where the file has several."""
        return next(iter(self.runs.values()))


class _Tally(NamedTuple):
    """How often an operator was tried on a problem, how often it passed, and its mean tokens."""

    passed: float
    attempts: float
    tokens: float | None


@dataclass(slots=True)
class _Measured:
    """One problem with all that its file says of it."""

    model: str
    task: str
    key: str
    failed_samples: int | None
    features: ProblemFeatures | None
    tallies: Mapping[str, _Tally]


def import_file(
    path: str | Path,
    store: TraceStore,
    *,
    model: str | None = None,
    task: str | None = None,
    attempts: float = RATE_ATTEMPTS,
    kind: Kind | None = None,
) -> Imported:
    """Store the outcomes of a file: all of it, or nothing where any line is wrong.

    The same bytes with the same options become the same rows, so a repeat changes nothing. A file
    that has grown since is another import, whose outcomes count beside those of the first.

    Args:
        path: a profile CSV (see `recov_graph.profiles`), or rollouts, one JSON object a line.
        store: where it goes; each model of the file becomes a run of its own.
        model: the model of rollouts whose line names none; "unknown" by default.
        task: the task of rollouts whose line names none; "default" by default.
        attempts: how many attempts each rate of a profile CSV stands for, as the file does not
            say; over 0, at most 1e9. Rollouts are counted.
        kind: what the file is; by default its ending tells.

    Raises:
        TapeError: naming file, line number and what is wrong with the line.
        InvalidInputError: an option out of range, or an ending that does not tell the kind.
        StoreError: the store cannot be written.
    """
    path = Path(path)
    kind = _kind(path, kind)
    digest = hashlib.sha256()
    options: list[Any]
    if kind == "profiles":
        _check_profile_options(attempts, {"model": model, "task": task})
        options = [float(attempts)]
        content = read_content(path)  # once: what is parsed is what the id is made from
        digest.update(content)
        problems = [_from_profile(p, float(attempts)) for p in parse_profiles(content, str(path))]
    else:
        names = {"model": _name("model", model, UNKNOWN_MODEL)}
        names["task"] = _name("task", task, DEFAULT_TASK)
        options = [names["model"], names["task"]]
        problems = _read_rollouts(path, digest, **names)
    runs = {one.model: "" for one in problems}
    for name in runs:
        made_from = json.dumps([digest.hexdigest(), kind, *options, name])
        runs[name] = hashlib.sha256(made_from.encode()).hexdigest()[:16]
    new = not all(_is_there(store, run_id) for run_id in runs.values())
    if new:
        _write(store, runs, problems)
    total = sum(tally.attempts for one in problems for tally in one.tallies.values())
    return Imported(runs, len(problems), total, new)


def _kind(path: Path, kind: str | None) -> Kind:
    if kind is None:
        kind = ENDINGS.get(path.suffix.lower())
        if kind is None:
            raise InvalidInputError(
                f"{path}: its ending does not say what it is; rename it to .csv (profiles) or "
                ".jsonl (rollouts), or name the kind, profiles or rollouts"
            )
    if kind not in get_args(Kind):
        raise InvalidInputError(f"kind is {short(kind)}; it must be profiles or rollouts")
    return kind  # type: ignore[return-value]


def _check_profile_options(attempts: Any, names: Mapping[str, str | None]) -> None:
    number = isinstance(attempts, int | float) and not isinstance(attempts, bool)
    if not (number and 0 < attempts <= MOST_ATTEMPTS):  # not a number is in no range
        raise InvalidInputError(
            f"attempts is {short(attempts)}; it must be over 0 and at most {MOST_ATTEMPTS:g}"
        )
    for option, value in names.items():
        if value is not None:
            raise InvalidInputError(
                f"{option} is {short(value)}, but a profile CSV names the {option} in every row; "
                f"leave {option} out, or change the column"
            )


def _name(option: str, value: str | None, default: str) -> str:
    if value is None:
        return default
    try:
        return _text(value)
    except ValueError as error:
        raise InvalidInputError(f"{option} is {short(value)}; {error}") from None


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("it must not be empty")
    value.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
    return value


def _from_profile(profile: Profile, attempts: float) -> _Measured:
    return _Measured(
        model=profile.model,
        task=profile.task,
        key=profile.id,
        failed_samples=profile.failed_samples,
        features=profile.features,
        tallies={
            operator: _Tally(rate * attempts, attempts, None)
            for operator, rate in profile.rates.items()
        },
    )


# Rollouts


class _Features(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    spread: float
    concentration: float
    logit_dispersion: float

    @field_validator(*FEATURES)
    @classmethod
    def _in_range(cls, value: float, info: Any) -> float:
        low, high = FEATURE_RANGES[info.field_name]
        if not low <= value <= high:
            raise ValueError(f"must be a number of {low:g} to {high:g}")
        return value


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    problem: str
    operator: str
    passed: bool
    tokens: int = Field(ge=0, le=2**63 - 1)
    features: _Features | None = None
    model: str | None = None
    task: str | None = None

    @field_validator("problem", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("problem", "operator", "model", "task")
    @classmethod
    def _can_be_stored(cls, value: str | None) -> str | None:
        return None if value is None else _text(value)


@dataclass(slots=True)
class _Gathered:
    """Running sums over the lines of one problem; of each operator passed, attempts, tokens."""

    samples: int = 0
    failed_samples: int = 0
    measured: int = 0
    features: list[float] = field(default_factory=lambda: [0.0] * len(FEATURES))
    operators: dict[str, list[int]] = field(default_factory=dict)

    def add(self, line: _Line) -> None:
        if line.features is not None:
            self.measured += 1
            for place, name in enumerate(FEATURES):
                self.features[place] += getattr(line.features, name)
        if line.operator == SAMPLE:
            self.samples += 1
            self.failed_samples += not line.passed
            return
        sums = self.operators.setdefault(line.operator, [0, 0, 0])
        for place, more in enumerate((int(line.passed), 1, line.tokens)):
            sums[place] += more

    def result(self, model: str, task: str, key: str) -> _Measured:
        means = (total / self.measured for total in self.features) if self.measured else None
        return _Measured(
            model=model,
            task=task,
            key=key,
            failed_samples=self.failed_samples if self.samples else None,
            features=None if means is None else ProblemFeatures(*means),
            tallies={
                operator: _Tally(passed, attempts, tokens / attempts)
                for operator, (passed, attempts, tokens) in self.operators.items()
            },
        )


def _read_rollouts(path: Path, digest: Any, *, model: str, task: str) -> list[_Measured]:
    gathered: dict[tuple[str, str, str], _Gathered] = {}
    for line in _lines(path, digest):
        key = (line.model or model, line.task or task, line.problem)
        if key not in gathered:
            gathered[key] = _Gathered()
        gathered[key].add(line)
    if not gathered:
        raise TapeError(f"{path}: no rollouts; expected one JSON object a line, as {EXAMPLE}")
    return [sums.result(*key) for key, sums in gathered.items()]


def _lines(path: Path, digest: Any) -> Iterator[_Line]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                digest.update(raw)
                content = raw.removeprefix(BOM_UTF8) if number == 1 else raw
                if content.strip():
                    yield _line(content, f"{path}:{number}")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def _line(content: bytes, place: str) -> _Line:
    """One line checked; `place` is where it stands, for errors."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TapeError(
            f"{place}: not UTF-8 text (byte {error.start} of the line); save the file as UTF-8"
        ) from None
    try:
        value = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise TapeError(
            f"{place}: not JSON ({error}): {short(text.strip())}; "
            f"write one object a line, as {EXAMPLE}"
        ) from None
    if not isinstance(value, dict):
        raise TapeError(f"{place}: expected a JSON object, got {short(value)}; write {EXAMPLE}")
    try:
        return _Line.model_validate(value)
    except ValidationError as error:
        raise TapeError(f"{place}: {describe(error)}; a line is {EXAMPLE}") from None


# The store


def _is_there(store: TraceStore, run_id: str) -> bool:
    """Whether that run was stored, and would be stored in the same way again.

    Rows would be replaced by equal ones, were it not for the time, and for keys, which a store
    without texts hashes anew each time it is opened.
    """
    run, here = store.run(run_id), (FEATURE_VERSION, store.store_text)
    return run is not None and (run["feature_version"], run["store_text"]) == here


def _write(store: TraceStore, runs: Mapping[str, str], problems: Sequence[_Measured]) -> None:
    time = now()
    # By position, not by name: a hash of a name lets a guess at it be confirmed.
    numbered = [(f"{runs[one.model]}/{place}", one) for place, one in enumerate(problems)]
    store.write(
        runs=[_run_row(store, run_id, model, time) for model, run_id in runs.items()],
        problems=[
            {
                "id": problem_id,
                "run_id": runs[one.model],
                "key": one.key,
                "task": one.task,
                "prompt": None,
                "answer": None,
                "started_at": time,
            }
            for problem_id, one in numbered
        ],
        profiles=[
            {
                "id": problem_id,
                "failed_samples": one.failed_samples,
                **(one.features._asdict() if one.features else dict.fromkeys(FEATURES)),
                "feature_version": FEATURE_VERSION,
            }
            for problem_id, one in numbered
        ],
        tallies=[
            {
                "id": f"{problem_id}/{operator}",
                "problem_id": problem_id,
                "operator": operator,
                **tally._asdict(),
            }
            for problem_id, one in numbered
            for operator, tally in one.tallies.items()
        ],
    )


def _run_row(store: TraceStore, run_id: str, model: str, time: str) -> dict[str, Any]:
    return {
        "id": run_id,
        "kind": "import",
        "model": model,
        "verifier": "imported",
        "policy": "imported",
        "policy_hash": "",
        "package_version": __version__,
        "feature_version": FEATURE_VERSION,
        "router_version": ROUTER_VERSION,
        "store_text": store.store_text,
        "seed": None,
        "started_at": time,
    }
