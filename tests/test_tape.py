"""Tapes as text: what is read back, one clear line for damage, and the one that ships."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recov_graph.errors import TapeError
from recov_graph.evaluate.bench import bench_of_tape
from recov_graph.features import ProblemFeatures
from recov_graph.interventions import default_interventions, registered
from recov_graph.interventions.base import Lengths
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.regimes import regime_label
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from recov_graph.tape import (
    FORMAT,
    SHIPPED,
    Attempts,
    TapeProblem,
    read_tape,
    shipped_tape,
    write_tape,
)
from tests.searching import examples

QUICK = settings(
    deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow]
)
HEADER = {"recov_graph_tape": FORMAT, "feature_version": FEATURE_VERSION, "source": "tests"}
LINE: dict[str, Any] = {
    "id": "p1",
    "model": "m",
    "task": "t",
    "features": [0.25, 1.5, -1.0],
    "failed_samples": 4,
    "prompt_tokens": 8,
    "completion_tokens": 20,
    "scoring_tokens": 100,
    "attempts": {
        "retry": {"passed": "010", "tokens": [28, 30, 28]},
        "critique": {"passed": "111", "tokens": [90, 0, 110]},
    },
}


def attempts(passed: str, tokens: list[int]) -> Attempts:
    return Attempts(np.array([one == "1" for one in passed]), np.array(tokens, np.int64))


def a_problem(**changes: Any) -> TapeProblem:
    fields: dict[str, Any] = {
        "id": "p1",
        "model": "m",
        "task": "t",
        "features": ProblemFeatures(0.25, 1.5, -1.0),
        "failed_samples": 4,
        "lengths": Lengths(8, 20),
        "scoring_tokens": 100,
        "attempts": {
            "retry": attempts("010", [28, 30, 28]),
            "critique": attempts("111", [90, 0, 110]),
        },
    }
    return TapeProblem(**{**fields, **changes})


def plain(problem: TapeProblem) -> dict[str, Any]:
    """All that a problem says, in values that can be compared."""
    return {
        "attempts": {
            name: (made.passed.tolist(), made.tokens.tolist())
            for name, made in problem.attempts.items()
        },
        **{
            name: getattr(problem, name)
            for name in ("id", "model", "task", "features", "failed_samples", "lengths")
        },
        "scoring_tokens": problem.scoring_tokens,
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each test, and each Hypothesis example, writes anew."""
    return tmp_path_factory.mktemp("tape") / "tape.jsonl"


def text(*rows: Any) -> bytes:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def read(path: Path, content: bytes) -> list[TapeProblem]:
    path.write_bytes(content)
    return read_tape(path)


def refusal(path: Path, content: bytes) -> str:
    with pytest.raises(TapeError) as refused:
        read(path, content)
    message = str(refused.value)
    assert message.startswith(f"tape {path}:")
    assert "\n" not in message
    return message.removeprefix(f"tape {path}:")


# --- reading and writing ---


def test_a_line_is_a_problem(path: Path) -> None:
    (problem,) = read(path, text(HEADER, LINE))
    assert plain(problem) == plain(a_problem())
    made = problem.attempts["retry"]
    assert (made.passed.dtype, made.tokens.dtype) == (np.bool_, np.int64)


def test_what_was_written_is_read_back(path: Path) -> None:
    given_ = [
        a_problem(),
        a_problem(id="ü|p2\n", task="", features=None, attempts=a_problem().attempts),
        a_problem(features=ProblemFeatures(1 / 3, -1 / 7, 1e-9), failed_samples=0),
    ]
    write_tape(given_, path, "tests")
    expected = [
        *given_[:2],
        replace(given_[2], features=ProblemFeatures(0.333333, -0.142857, 0.0)),
    ]
    assert list(map(plain, read_tape(path))) == list(map(plain, expected))
    header = json.loads(path.read_bytes().split(b"\n")[0])
    assert header == HEADER


def test_registered_operators_come_first_and_in_their_order(path: Path) -> None:
    made = LINE["attempts"]["retry"]
    names = ["zeta", *reversed(registered()), "alpha"]
    lines = [{**LINE, "attempts": dict.fromkeys(order, made)} for order in (names, names[::-1])]
    for problem in read(path, text(HEADER, *lines)):
        assert list(problem.attempts) == [*registered(), "alpha", "zeta"]


def test_blank_lines_and_a_byte_order_mark_do_not_matter(path: Path) -> None:
    content = b"\xef\xbb\xbf\n" + text(HEADER, "", LINE, " ", {**LINE, "id": "p2"}).rstrip(b"\n")
    assert [problem.id for problem in read(path, content)] == ["p1", "p2"]


def test_what_attempts_cost_is_foreseen_as_the_graph_does() -> None:
    known = registered()["retry"].expected_cost(Lengths(8, 20))
    assert a_problem().costs() == {"retry": known, "critique": 67}


def test_attempts_of_unequal_number_are_cut_to_the_least(path: Path) -> None:
    short = {
        "retry": {"passed": "01", "tokens": [28, 30]},
        "critique": {"passed": "0000", "tokens": [1, 2, 3, 4]},
    }
    bench = bench_of_tape(read(path, text(HEADER, LINE, {**LINE, "attempts": short})), "tape")
    assert bench.passed is not None
    assert bench.passed.shape == (2, 2, 2)
    np.testing.assert_array_equal(bench.passed[1], [[False, True], [False, False]])


def test_too_few_attempts_to_compare_anything_are_an_error_that_says_so(path: Path) -> None:
    one = {name: {"passed": "1", "tokens": [5]} for name in LINE["attempts"]}
    with pytest.raises(TapeError, match=r"1 attempt.*at least 2"):
        bench_of_tape(read(path, text(HEADER, LINE, {**LINE, "attempts": one})), "tape")


# --- damage ---


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in LINE.items() if key != name}


def with_attempts(**made: Any) -> dict[str, Any]:
    return {**LINE, "attempts": made}


def with_retry(passed: Any, tokens: Any) -> dict[str, Any]:
    return with_attempts(retry={"passed": passed, "tokens": tokens})


WRONG_HEADERS = {
    "no header": (LINE, ["not a tape", "header", "recov-graph record"]),
    "a list": ([1, 2], ["not a tape"]),
    "not JSON": ("these are notes", ["Expecting value"]),
    "another format": ({**HEADER, "recov_graph_tape": 99}, ["format 99", "record it anew"]),
    "another feature version": ({**HEADER, "feature_version": 0}, ["feature version 0"]),
    "no feature version": ({"recov_graph_tape": FORMAT, "source": ""}, ["feature_version"]),
    "a word as format": ({**HEADER, "recov_graph_tape": "1"}, ["recov_graph_tape", "'1'"]),
    "true as format": ({**HEADER, "recov_graph_tape": True}, ["recov_graph_tape", "True"]),
}
WRONG_LINES = {
    **{f"no {name}": (without(name), [repr(name), "missing"]) for name in LINE},
    "an unknown field": ({**LINE, "colour": "red"}, ["'colour'"]),
    "a list": ([LINE], ["dictionary"]),
    "null": (None, ["None"]),
    "NaN": (json.dumps(LINE).replace("0.25", "NaN"), ["NaN"]),
    "infinity": (json.dumps(LINE).replace("1.5", "1e999"), ["1e999 is beyond the largest number"]),
    "a spread over 1": ({**LINE, "features": [1.5, 0, 0]}, ["spread is 1.5", "0 to 1"]),
    "two features": ({**LINE, "features": [0.5, 0.5]}, ["'features'", "3 items"]),
    "four features": ({**LINE, "features": [0.5] * 4}, ["'features'", "3 items"]),
    "features as text": ({**LINE, "features": "123"}, ["'features'", "'123'"]),
    "a feature as text": ({**LINE, "features": ["0.5", 0, 0]}, ["features.0", "'0.5'"]),
    "true as a feature": ({**LINE, "features": [True, 0, 0]}, ["features.0", "True"]),
    "a number as id": ({**LINE, "id": 7}, ["'id'", "7"]),
    "null as task": ({**LINE, "task": None}, ["'task'", "None"]),
    "half a character": (json.dumps({**LINE, "id": "\ud800"}), ["surrogates"]),
    "a fraction of a token": ({**LINE, "prompt_tokens": 4.5}, ["prompt_tokens", "4.5"]),
    "negative tokens": ({**LINE, "scoring_tokens": -1}, ["scoring_tokens", "-1"]),
    "endlessly many samples": (
        json.dumps(LINE).replace('"failed_samples": 4', '"failed_samples": 1e999'),
        ["1e999 is beyond the largest number"],
    ),
    "no operators": (with_attempts(), ["'attempts'"]),
    "no attempts": (with_retry("", []), ["attempts.retry.passed"]),
    "another letter": (with_retry("01x", [1, 2, 3]), ["attempts.retry.passed", "'01x'"]),
    "a line break": (with_retry("01\n", [1, 2]), ["attempts.retry.passed"]),
    "outcomes as a list": (with_retry([0, 1], [1, 2]), ["attempts.retry.passed"]),
    "fewer tokens than outcomes": (with_retry("011", [1, 2]), ["3 outcomes", "2 token counts"]),
    "tokens as text": (with_retry("01", "12"), ["attempts.retry.tokens"]),
    "fractions as tokens": (with_retry("01", [1.5, 2]), ["attempts.retry.tokens.0", "1.5"]),
    "tokens in lists": (with_retry("01", [[1], [2]]), ["attempts.retry.tokens.0"]),
    "more tokens than there can be": (with_retry("01", [2**70, 1]), ["attempts.retry.tokens.0"]),
    "fewer tokens than none": (with_retry("01", [-1, 1]), ["attempts.retry.tokens.0", "-1"]),
    "no tokens at all": (with_attempts(retry={"passed": "01"}), ["attempts.retry.tokens"]),
    "far too deep": ("[" * 100_000, ["recursion"]),
    "a number far too long": (json.dumps(LINE).replace("28", "9" * 5000), ["digits"]),
}


@pytest.mark.parametrize(
    ("line", "words"), [pytest.param(*case, id=name) for name, case in WRONG_HEADERS.items()]
)
def test_a_wrong_header_is_named(path: Path, line: Any, words: list[str]) -> None:
    message = refusal(path, text(line, LINE))
    assert message.startswith("1: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("line", "words"), [pytest.param(*case, id=name) for name, case in WRONG_LINES.items()]
)
def test_a_wrong_line_is_named(path: Path, line: Any, words: list[str]) -> None:
    good = with_attempts(retry=LINE["attempts"]["retry"])
    message = refusal(path, text(HEADER, good, "", line))
    assert message.startswith("4: ")
    assert [word for word in words if word not in message] == []


def test_bytes_that_are_no_text_are_named(path: Path) -> None:
    assert refusal(path, text(HEADER, LINE) + b"\xff\xfe\n").startswith("3: ")
    assert refusal(path, bytes(range(256))).startswith("1: ")


def test_every_problem_needs_the_same_operators(path: Path) -> None:
    other = {**LINE, "id": "p2", "attempts": {"retry": LINE["attempts"]["retry"]}}
    message = refusal(path, text(HEADER, LINE, other))
    assert message.startswith("3: ")
    assert "'p2'" in message
    assert "retry, critique" in message


@pytest.mark.parametrize("content", [b"", b"\n \n", text(HEADER)])
def test_a_tape_without_problems_says_how_to_record_one(path: Path, content: bytes) -> None:
    assert "recov-graph record" in refusal(path, content)


def test_every_cut_of_a_line_is_found(path: Path) -> None:
    line = json.dumps(LINE)
    for end in range(1, len(line)):
        assert refusal(path, text(HEADER, LINE, line[:end])).startswith("3: ")
    header = json.dumps(HEADER)
    for end in range(1, len(header)):
        assert refusal(path, text(header[:end], LINE)).startswith("1: ")


def nowhere(folder: Path) -> Path:
    return folder / "none.jsonl"


def a_folder(folder: Path) -> Path:
    return folder


def impossible(folder: Path) -> Path:
    return folder / "a\0b"


def half_a_store(folder: Path) -> Path:
    with TraceStore(folder / "half.db") as store:
        store.query("SELECT 1")
    content = (folder / "half.db").read_bytes()
    (folder / "half.db").write_bytes(content[:100] + bytes(len(content) - 100))
    return folder / "half.db"


def another_database(folder: Path) -> Path:
    connection = sqlite3.connect(folder / "other.db")
    connection.execute("CREATE TABLE bookmarks (id INTEGER PRIMARY KEY)")
    connection.close()
    return folder / "other.db"


def an_empty_store(folder: Path) -> Path:
    TraceStore(folder / "empty.db").close()
    return folder / "empty.db"


@pytest.mark.parametrize(
    ("place", "word"),
    [
        (nowhere, "No such file"),
        (a_folder, "directory"),
        (impossible, "null"),
        (half_a_store, "database"),
        (another_database, "another program"),
        (an_empty_store, "recov-graph record"),
    ],
)
def test_what_is_no_tape_at_all_is_named(
    tmp_path: Path, place: Callable[[Path], Path], word: str
) -> None:
    given_ = place(tmp_path)
    with pytest.raises(TapeError) as refused:
        read_tape(given_)
    assert str(given_) in str(refused.value)
    assert word in str(refused.value)


def test_a_tape_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match=r"none/tape\.jsonl: cannot be written: No such file"):
        write_tape([a_problem()], tmp_path / "none" / "tape.jsonl", "tests")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0", "01", "\ud800", [0.5, 1, 2], {"passed": "1", "tokens": [1]}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def replaced(data: st.DataObject, value: Any) -> Any:
    """The value with something in it put in the place of something else, or left out."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = data.draw(st.sampled_from(keys))
    inner = value[key]
    changed = value.copy()
    if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
        changed[key] = replaced(data, inner)
    elif isinstance(value, dict) and data.draw(st.booleans()):
        del changed[key]
    else:
        changed[key] = data.draw(JSON)
    return changed


def read_or_refuse(path: Path, content: bytes) -> None:
    try:
        tape = read(path, content)
    except TapeError:
        return
    for problem in tape:  # what is taken is what it says it is
        assert problem.features is None or np.isfinite(problem.features).all()
        for made in problem.attempts.values():
            assert made.passed.shape == made.tokens.shape == (len(made.passed),)
            assert (made.tokens >= 0).all()
        problem.costs()


@QUICK
@given(data=st.data())
def test_a_line_changed_anyhow_is_read_or_refused(path: Path, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, 2))
    rows: list[Any] = [HEADER, LINE, LINE]
    rows[place] = replaced(data, rows[place])
    read_or_refuse(path, text(*rows))


@QUICK
@given(data=st.data())
def test_bytes_changed_anyhow_are_read_or_refused(path: Path, data: st.DataObject) -> None:
    content = bytearray(text(HEADER, LINE))
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 20)))
    content[start:end] = data.draw(st.binary(max_size=6))
    read_or_refuse(path, bytes(content))


@QUICK
@given(content=st.binary(max_size=60))
def test_any_bytes_are_refused(path: Path, content: bytes) -> None:
    with pytest.raises(TapeError):
        read(path, content)


# --- the one that ships ---


def test_the_shipped_tape_holds_what_policies_are_compared_on() -> None:
    tape = shipped_tape()
    assert len(tape) >= 300
    assert SHIPPED.stat().st_size < 1_000_000
    for problem in tape:
        assert list(problem.attempts) == list(default_interventions(EmbeddedPair.capabilities))
        assert problem.model == "embedded"
        assert problem.failed_samples == 4
        assert problem.features is not None
        assert problem.scoring_tokens > 0
        for made in problem.attempts.values():
            assert len(made.passed) == len(made.tokens) >= 32
    assert len({problem.id for problem in tape}) == len(tape)


def test_the_shipped_tape_has_every_regime() -> None:
    def regime(problem: TapeProblem) -> str:
        return regime_label({n: float(m.passed.mean()) for n, m in problem.attempts.items()})

    counts = Counter(map(regime, shipped_tape()))
    assert set(counts) == {"sampling", "steerable_hard", "out_of_reach"}
    assert min(counts.values()) >= 20


def test_the_shipped_tape_holds_ids_and_no_prompt_of_its_problems() -> None:
    content = SHIPPED.read_text("utf-8")
    assert "?" not in content.split("\n", 1)[1]  # every prompt of the pair ends in one
    for line in content.splitlines()[1:]:
        assert set(json.loads(line)) == set(LINE)


def test_the_shipped_tape_holds_no_bundled_problem_by_its_prompt() -> None:
    content = SHIPPED.read_text("utf-8")
    assert [p.prompt for p in bundled_problems() if p.prompt in content] == []
