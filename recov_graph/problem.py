"""A problem: a prompt with a checkable outcome, and the JSONL file it comes from."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from recov_graph.errors import InvalidInputError, ProblemFileError
from recov_graph.words import cut, short


class Problem(BaseModel):
    """One task for the model.

    Args:
        prompt: what the model is asked, as text.
        answer: what the verifier compares with: the expected value, a regular expression, a JSON
            schema or test code, depending on the verifier. May be absent for verifiers that need
            no reference.
        id: the user's own name for the problem; by default derived from the prompt.
        task: the kind of problem. Model and task together form the cell whose stored failures
            a new failure is compared with.
        metadata: anything else; handed to verifiers, never to the model.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"description": "One task for the model, with a checkable outcome."},
    )

    prompt: str = Field(
        min_length=1, title="Prompt", description="What the model is asked.", examples=["37+48*2?"]
    )
    answer: Any = Field(
        None,
        title="Answer",
        description="What the verifier compares with, where it needs that.",
        examples=[133],
    )
    id: str = Field("", title="Name", description="By default made from the prompt.")
    task: str = Field(
        "default", title="Task", description="The kind of problem, which failures belong to."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        title="Metadata",
        description="Handed to the verifier, never to the model.",
    )

    @field_validator("id", "task")
    @classmethod
    def _can_be_stored(cls, value: str) -> str:
        value.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
        return value

    def model_post_init(self, context: Any, /) -> None:
        if not self.id:
            digest = hashlib.sha256(self.prompt.encode()).hexdigest()[:16]
            object.__setattr__(self, "id", digest)


def describe(error: ValidationError) -> str:
    """The first complaint of a pydantic error in one line: where, what, and the value given."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "value"
    if first["type"] == "missing":
        return f"field {short(place)} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown field {short(place)}"
    return f"field {short(place)}: {cut(first['msg'], 300)}, got {short(first['input'])}"


def as_problem(value: Any) -> Problem:
    """A Problem from a Problem, a mapping of its fields, or a prompt.

    Raises:
        InvalidInputError: naming the field that is missing or wrong.
    """
    if isinstance(value, Problem):
        return value
    if isinstance(value, str):
        value = {"prompt": value}
    try:
        return Problem.model_validate(value)
    except ValidationError as error:
        raise InvalidInputError(
            f"not a problem: {describe(error)}; "
            "a problem is {'prompt': text, 'answer': ..., 'id': text, 'task': text}"
        ) from None


class ProblemFile:
    """The problems of a JSONL file, one JSON object a line; blank lines are skipped.

    All of it is checked at once, and read again with every iteration, line by line: memory does
    not grow with the number of problems. What can be read only once, as a pipe, is kept.

    Raises:
        ProblemFileError: naming file, line number and what is wrong with the line.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._kept: list[Problem] | None = [] if _is_pipe(self.path) else None
        self._count = 0
        with closing(_Seen(self.path)) as seen:
            for problem in self._problems(seen):
                self._count += 1
                if self._kept is not None:
                    self._kept.append(problem)
        if not self._count:
            raise ProblemFileError(f"{path}: no problems; expected one JSON object a line")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Problem]:
        return self._problems(None) if self._kept is None else iter(self._kept)

    def _problems(self, seen: _Seen | None) -> Iterator[Problem]:
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, start=1):
                    problem = self._problem(number, raw)
                    if problem is not None:
                        if seen is not None:
                            seen.note(problem.id, number)
                        yield problem
        except (OSError, ValueError) as error:
            if isinstance(error, ProblemFileError):
                raise
            why = getattr(error, "strerror", None) or error
            raise ProblemFileError(f"{self.path}: cannot be read: {why}") from None

    def _problem(self, number: int, raw: bytes) -> Problem | None:
        raw = raw.removesuffix(b"\n")
        if number == 1:
            raw = raw.removeprefix(BOM_UTF8)
        if not raw.strip():
            return None
        try:
            return as_problem(_json_object(_utf8(raw)))
        except InvalidInputError as error:
            raise ProblemFileError(f"{self.path}:{number}: {error}") from None


def _is_pipe(path: Path) -> bool:
    try:
        return path.exists() and not path.is_file()
    except (OSError, ValueError):  # a name that is none, of which reading will tell
        return False


class _Seen:
    """The ids of a file with the line each is on, in a temporary file where there are many."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids = sqlite3.connect("")
        self._ids.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")

    def note(self, problem_id: str, line: int) -> None:
        try:
            self._ids.execute("INSERT INTO seen VALUES (?, ?)", (problem_id, line))
        except sqlite3.IntegrityError:
            sql = "SELECT line FROM seen WHERE id = ?"
            ((before,),) = self._ids.execute(sql, (problem_id,)).fetchall()
            raise ProblemFileError(
                f"{self._path}:{line}: id {short(problem_id)} was already used on line {before}; "
                "give every line an id of its own (without one it comes from the prompt)"
            ) from None

    def close(self) -> None:
        self._ids.close()


def read_problems(path: str | Path) -> list[Problem]:
    """All problems of a JSONL file, as `ProblemFile` reads them."""
    return list(ProblemFile(path))


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"not UTF-8 text (byte {error.start} of the line); save the file as UTF-8"
        ) from None


def strict_json(text: str) -> Any:
    """The value of a JSON text; unlike Python's reader it refuses NaN and infinite numbers.

    Raises:
        ValueError: the text is not JSON, or a number in it is too large.
    """
    return json.loads(text, parse_constant=_refuse, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999 is JSON, and what is made of it is not
        raise ValueError(f"{cut(text)} is beyond the largest number")
    return number


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = strict_json(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not JSON ({error}): {short(line)}") from None
    if not isinstance(value, dict):
        raise InvalidInputError(
            f'expected a JSON object, got {short(value)}; write {{"prompt": ..., "answer": ...}}'
        )
    return value
