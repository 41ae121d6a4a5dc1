"""Profiles of failures as CSV: failed problems with the measured rescue rate of every operator.

One row a problem: `model`, `task` and `problem_id` (or `cell`, "model|task", for the first two),
`n_failed_rollouts`, the three features, and a column for each operator with its rescue rate.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recov_graph.errors import InvalidInputError, TapeError
from recov_graph.features import FEATURES, ProblemFeatures
from recov_graph.words import short

IDENTIFIERS = ("cell", "model", "task", "problem_id")
FAILED = "n_failed_rollouts"
RETRY = "retry"
MOST_FAILED = 2**63 - 1  # what an integer column of the trace store holds
RATE_ATTEMPTS = 20.0  # what a rate stands for where nobody says how many attempts were made
# Spread is a share; the others are bounded as a policy bounds their moments.
FEATURE_RANGES = {
    "spread": (0.0, 1.0),
    "concentration": (-1e9, 1e9),
    "logit_dispersion": (-1e9, 1e9),
}

# Python's own reader also takes 1_000, nan and the digits of other scripts.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"\+?0*(\d{1,19})(\.0*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Profile:
    """One failed problem with what was measured of it.

    Attributes:
        id: the problem's id, unique within model and task.
        model: the model's name; with the task it makes up the cell.
        task: the problem's task.
        failed_samples: plain rollouts that failed, or None where the file does not say.
        features: means over those, or None where they were not measured.
        rates: measured rescue rate, 0 to 1, of "retry" and of each other operator.
    """

    id: str
    model: str
    task: str
    failed_samples: int | None
    features: ProblemFeatures | None
    rates: Mapping[str, float]


def read_profiles(path: str | Path) -> list[Profile]:
    """All problems of a profile CSV, in the file's order; blank lines are skipped.

    Raises:
        TapeError: naming file, line number and what is wrong with the line.
    """
    return parse_profiles(read_content(path), str(path))


def read_content(path: str | Path) -> bytes:
    """A file's bytes.

    Raises:
        TapeError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise unreadable(path, error) from None


def unreadable(path: str | Path, error: Exception) -> TapeError:
    """The error to raise for a file that the system will not hand over."""
    return TapeError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")


def parse_profiles(content: bytes, name: str) -> list[Profile]:
    """The problems of a profile CSV that was read already.

    Args:
        content: the file's bytes: UTF-8, with or without a byte order mark.
        name: what to call the file in errors.

    Raises:
        TapeError: as `read_profiles`.
    """
    profiles: list[Profile] = []
    header: list[str] | None = None
    seen: dict[tuple[str, str, str], int] = {}
    for number, row in _rows(content, name):
        try:
            if header is None:
                header = _checked_header(row)
                continue
            profile = _profile(header, row)
            key = (profile.model, profile.task, profile.id)
            if key in seen:
                raise InvalidInputError(
                    f"problem_id {short(profile.id)} of model {short(profile.model)} and task "
                    f"{short(profile.task)} was already used on line {seen[key]}; "
                    "give every problem one line"
                )
        except InvalidInputError as error:
            raise TapeError(f"{name}:{number}: {error}") from None
        seen[key] = number
        profiles.append(profile)
    if header is None:
        raise TapeError(
            f"{name}: empty; expected a CSV header with model, task, problem_id, {RETRY} and "
            "other operators, then one row a failed problem"
        )
    if not profiles:
        raise TapeError(f"{name}: only a header; add one row for each failed problem")
    return profiles


def _rows(content: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the number of the line it ends on."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise TapeError(f"{name}:{number}: not UTF-8 text; save the file as UTF-8") from None
    # Strict, or a quote that is never closed would silently swallow the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                yield reader.line_num, row
    except csv.Error as error:
        raise TapeError(
            f"{name}:{reader.line_num}: not CSV ({error}); separate fields by commas, and put "
            'those that hold a comma, a quote or a line break in "quotes", with quotes doubled'
        ) from None


def _checked_header(row: Sequence[str]) -> list[str]:
    header = [column.strip() for column in row]
    if "" in header:
        raise InvalidInputError(f"column {header.index('') + 1} has no name; name it or remove it")
    twice = [column for column, times in Counter(header).items() if times > 1]
    if twice:
        raise InvalidInputError(f"column {short(twice[0])} is there twice; keep one of them")
    wanted = ["problem_id"] if "cell" in header else ["model", "task", "problem_id"]
    missing = [column for column in wanted if column not in header]
    if missing:
        raise InvalidInputError(
            f"no column {' and no '.join(missing)} among {short(', '.join(header))}; a profile "
            "has model, task and problem_id, separated by commas"
        )
    measured = [feature for feature in FEATURES if feature in header]
    if measured and len(measured) < len(FEATURES):
        raise InvalidInputError(
            f"of the features there is only {' and '.join(measured)}; "
            f"give all of {', '.join(FEATURES)}, or none"
        )
    operators = _operators(header)
    if RETRY not in operators or len(operators) < 2:
        raise InvalidInputError(
            f"the operators are {short(operators)}; there must be a column {RETRY!r} and one "
            "more, each with rescue rates of 0 to 1"
        )
    return header


def _operators(header: Sequence[str]) -> list[str]:
    return [column for column in header if column not in (*IDENTIFIERS, FAILED, *FEATURES)]


def _profile(header: Sequence[str], fields: Sequence[str]) -> Profile:
    if len(fields) != len(header):
        raise InvalidInputError(
            f"{len(fields)} fields where the header has {len(header)}; "
            "a field that holds a comma must be in quotes"
        )
    row = dict(zip(header, fields, strict=True))
    if "model" not in row or "task" not in row:
        row = _from_cell(row["cell"]) | row
    for column in ("model", "task", "problem_id"):
        if not row[column].strip():
            raise InvalidInputError(f"{column} is empty; every row needs one")
    failed = row.get(FAILED, "").strip()
    return Profile(
        id=row["problem_id"],
        model=row["model"],
        task=row["task"],
        failed_samples=_count(failed) if failed else None,
        features=_features(row),
        rates={operator: _rate(operator, row[operator]) for operator in _operators(header)},
    )


def _from_cell(cell: str) -> dict[str, str]:
    model, bar, task = cell.rpartition("|")
    if not bar:
        raise InvalidInputError(
            f"cell is {short(cell)}; it must be model|task, or give columns model and task"
        )
    return {"model": model, "task": task}


def _features(row: Mapping[str, str]) -> ProblemFeatures | None:
    given = [name for name in FEATURES if row.get(name, "").strip()]
    if not given:
        return None
    if len(given) < len(FEATURES):
        raise InvalidInputError(
            f"of the features only {' and '.join(given)} has a value; "
            f"fill in all of {', '.join(FEATURES)}, or leave all empty where not measured"
        )
    return ProblemFeatures(*(_feature(name, row[name]) for name in FEATURES))


def _feature(name: str, text: str) -> float:
    low, high = FEATURE_RANGES[name]
    value = _number(text)
    if value is None or not low <= value <= high:
        raise InvalidInputError(
            f"{name} is {short(text)}; it must be a number of {low:g} to {high:g}, or all three "
            "features empty where not measured"
        )
    return value


def _rate(operator: str, text: str) -> float:
    value = _number(text)
    if value is None or not 0 <= value <= 1:
        known = ", ".join((*IDENTIFIERS, FAILED, *FEATURES))
        raise InvalidInputError(
            f"the rescue rate of {short(operator)} is {short(text)}; it must be a number of 0 to "
            f"1, as in every column but {known}"
        )
    return value


def _number(text: str) -> float | None:
    text = text.strip()  # which strips more than Python's own reader of numbers does
    return float(text) if _NUMBER.fullmatch(text) else None


def _count(text: str) -> int:
    match = _WHOLE.fullmatch(text)  # 20.0 too, as whoever keeps counts as floats writes them
    if match is None or int(match[1]) > MOST_FAILED:
        raise InvalidInputError(
            f"{FAILED} is {short(text)}; it must be a whole number of 0 to {MOST_FAILED}, "
            "or empty where not known"
        )
    return int(match[1])
