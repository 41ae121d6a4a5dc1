"""Verifiers, through their public names only."""

from __future__ import annotations

import fcntl
import functools
import json
import re
import socket
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recov_graph.errors import InvalidInputError
from recov_graph.problem import Problem
from recov_graph.verifiers import (
    VERIFIERS,
    Verdict,
    Verifier,
    as_verifier,
    exact,
    function,
    json_schema,
    judge,
    numeric,
    python_test,
    regex,
)

ADD_TESTS = "assert add(1, 2) == 3"
ADD = "def add(a, b):\n    return a + b\n"
SLOW_PATTERN = r"^(?:a|aa)+$"


def problem(answer: Any = None) -> Problem:
    return Problem(prompt="?", answer=answer)


def outcome(verifier: Verifier, answer: Any, text: str) -> str:
    return verifier(problem(answer), text).value


# Verdict and judge


def test_verdict_scores_follow_from_the_value() -> None:
    assert [Verdict(v).score for v in ("passed", "failed", "unscored")] == [1.0, 0.0, None]
    assert Verdict("failed", score=0.4).score == 0.4


def test_verdict_properties() -> None:
    values = [Verdict("passed"), Verdict("failed"), Verdict("unscored")]
    assert [v.passed for v in values] == [True, False, False]
    assert [v.failed for v in values] == [False, True, False]


def test_verdict_as_dict_is_json() -> None:
    verdict = Verdict("failed", answer="3", explanation="expected 4")
    assert json.loads(json.dumps(verdict.as_dict())) == {
        "value": "failed",
        "score": 0.0,
        "answer": "3",
        "explanation": "expected 4",
    }


@pytest.mark.parametrize(
    ("value", "score"),
    [("right", None), ("unscored", 0.0), ("passed", 1.5), ("passed", float("nan"))],
)
def test_verdict_refuses_what_does_not_fit(value: Any, score: float | None) -> None:
    with pytest.raises(InvalidInputError, match=r"legal|unscored"):
        Verdict(value, score=score)


class Broken:
    name = "broken"

    def __init__(self, act: Any) -> None:
        self.act = act

    def __call__(self, problem: Problem, text: str) -> Verdict:
        if isinstance(self.act, BaseException):
            raise self.act
        return self.act  # type: ignore[no-any-return]


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("act", "explanation"),
    [
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops"),
        (UnprintableError(), "UnprintableError"),
        (RecursionError(), "RecursionError"),
        (True, "returned a bool"),
        (None, "returned a NoneType"),
    ],
)
def test_judge_never_blames_the_output_for_a_broken_verifier(act: Any, explanation: str) -> None:
    verdict = judge(Broken(act), problem(), "text")
    assert verdict.value == "unscored"
    assert explanation in verdict.explanation


def test_judge_returns_the_verdict_of_a_sound_verifier() -> None:
    assert judge(exact(), problem("4"), "4") == exact()(problem("4"), "4")


def test_judge_lets_an_interrupt_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        judge(Broken(KeyboardInterrupt()), problem(), "text")


# exact and extraction


@pytest.mark.parametrize(
    ("answer", "text", "value"),
    [
        ("Paris", " Paris\n", "passed"),
        ("Paris", "paris", "failed"),
        (4, "4", "passed"),
        ("Paris", "A: London\nA: Paris", "passed"),
        ("Paris", "It is far.\n**Answer:** Paris", "passed"),
        ("Paris", "**Final answer: Paris**\nI hope this helps.", "passed"),
        ("Paris", "Answer:\n\nParis", "passed"),
        ("Paris", "thinking\n#### Paris", "passed"),
        ("Paris", "Answer: London\n#### Paris", "passed"),
        ("\\frac{1}{2}", "so $\\boxed{\\frac{1}{2}}$.", "passed"),
        ("5", "Answer: $\\boxed{5}$", "passed"),
        ("6", "\\boxed{5}, no.\nAnswer: 6", "passed"),
        ("5", "Answer: 5\n\\boxed{6", "passed"),
        ("Train A: slow", "Train A: slow", "passed"),
        ("Paris", "Answer:", "failed"),
        ("Paris", "", "failed"),
        (None, "Paris", "unscored"),
    ],
)
def test_exact(answer: Any, text: str, value: str) -> None:
    assert outcome(exact(), answer, text) == value


def test_exact_options() -> None:
    assert outcome(exact(casefold=True), "Paris", "PARIS") == "passed"
    assert outcome(exact(strip=False), "Paris", "Paris ") == "failed"


def test_exact_tells_what_it_judged() -> None:
    verdict = exact()(problem("Paris"), "Answer: London")
    assert verdict.answer == "London"
    assert "Paris" in verdict.explanation


def test_extract_by_pattern_takes_the_last_match() -> None:
    verifier = exact(extract=r"<a>(.*?)</a>")
    assert verifier(problem("2"), "<a>1</a> <a>2</a>").answer == "2"
    assert outcome(verifier, "2", "2") == "failed"


def test_extract_by_function() -> None:
    verifier = exact(extract=lambda text: text[::-1] if text else None)
    assert outcome(verifier, "abc", "cba") == "passed"
    assert outcome(verifier, "abc", "") == "failed"


def test_extract_that_breaks_is_unscored() -> None:
    verdict = exact(extract=lambda text: str(1 / 0))(problem("1"), "1")
    assert verdict.value == "unscored"
    assert "ZeroDivisionError" in verdict.explanation
    wrong: Any = len
    assert outcome(exact(extract=wrong), "1", "1") == "unscored"


def test_extract_by_a_catastrophic_pattern_is_unscored() -> None:
    verifier = exact(extract=r"^((?:a|aa)+)$")
    assert outcome(verifier, "1", "a" * 60 + "!") == "unscored"


@pytest.mark.parametrize("extract", ["(", "no group", "(two) (groups)", 7])
def test_extract_is_checked_at_once(extract: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"extract=.*(group|expression)"):
        numeric(extract=extract)


# numeric


@pytest.mark.parametrize(
    ("answer", "text", "value"),
    [
        (1234, "It costs $1,234.", "passed"),
        (1234567, "1,234,567", "passed"),
        (3, "1,2,3", "passed"),
        (-350, "-3.5e2", "passed"),
        (-4, "it is −4 degrees", "passed"),
        (3, "5-3", "passed"),
        (0.5, ".5", "passed"),
        (42, "so...42", "passed"),
        (50, "50 m2", "passed"),
        (2, "v1.2", "failed"),
        (3.0, "3", "passed"),
        ("1,000", "1000", "passed"),
        (0.75, "3/4", "passed"),
        (4, "3/4", "failed"),
        ("1/3", "\\boxed{\\frac{1}{3}}", "passed"),
        (1 / 3, "1/3", "passed"),
        (Fraction(1, 4), "0.25", "passed"),
        (np.float32(0.5), "0.5", "passed"),
        (7, "Answer: 7\nI checked 12 cases.", "passed"),
        (12, "Answer: seven\nI checked 12 cases.", "failed"),
        (10**30, str(10**30), "passed"),
        (10**30, str(10**30 + 1), "failed"),
        (1, "no digits", "failed"),
        (1, "nan", "failed"),
        (1, "inf", "failed"),
        (1, "1/0", "failed"),
        (1, "1e99999999999999999999", "failed"),
        (1, "1e999999999", "failed"),
        (1e308, "1e309", "failed"),
        (None, "1", "unscored"),
        (True, "1", "unscored"),
        ("five", "5", "unscored"),
        ("about 5", "5", "unscored"),
        ("1/0", "5", "unscored"),
        ([5], "5", "unscored"),
        (float("nan"), "nan", "unscored"),
        (float("inf"), "inf", "unscored"),
        ("inf", "inf", "unscored"),
    ],
)
def test_numeric(answer: Any, text: str, value: str) -> None:
    assert outcome(numeric(), answer, text) == value


def test_numeric_with_an_answer_too_long_for_str() -> None:
    assert outcome(numeric(), 10**5000, "1" + "0" * 5000) == "passed"
    assert outcome(numeric(), 10**5000, "1") == "failed"


def test_numeric_tolerances() -> None:
    assert outcome(numeric(), 3.14, "3.15") == "failed"
    assert outcome(numeric(tolerance=0.01), 3.14, "3.15") == "passed"
    assert outcome(numeric(tolerance=0.01), 3.14, "3.1501") == "failed"
    assert outcome(numeric(relative=0.1), 1000, "1100") == "passed"
    assert outcome(numeric(relative=0.1), -1000, "-1101") == "failed"


def test_numeric_keeps_the_number_as_written() -> None:
    assert numeric()(problem(1), "maybe 1,234").answer == "1,234"


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf"), "0.1"])
def test_numeric_refuses_a_senseless_tolerance(tolerance: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"tolerance=.*at least 0"):
        numeric(tolerance=tolerance)


WRITTEN = ["{!r}", "{:.17g}", "{:.17E}", "{:,}", "{:+}"]
AROUND = ["{}", "1 and 2 make {}.", "A: {}", "**Answer: {}**", "#### {}", "$\\boxed{{{}}}$"]


@given(
    number=st.floats(allow_nan=False, allow_infinity=False),
    written=st.sampled_from(WRITTEN),
    around=st.sampled_from(AROUND),
)
def test_numeric_passes_any_number_against_itself(number: float, written: str, around: str) -> None:
    text = around.format(written.format(number))
    assert outcome(numeric(), number, text) == "passed"
    assert outcome(numeric(), repr(number), around.format(repr(number))) == "passed"


@given(number=st.integers(), other=st.integers())
def test_numeric_passes_integers_only_if_equal(number: int, other: int) -> None:
    assert (outcome(numeric(), number, f"{other:,}") == "passed") == (number == other)


@given(number=st.decimals(-1000, 1000, places=3), step=st.floats(0, 1).map(lambda x: round(x, 6)))
def test_numeric_tolerance_is_the_distance(number: Decimal, step: float) -> None:
    text = f"{number + Decimal(repr(step)):f}"
    expected = "passed" if Decimal(repr(step)) <= Decimal("0.5") else "failed"
    assert outcome(numeric(tolerance=0.5), f"{number:f}", text) == expected


@given(text=st.text() | st.text(alphabet="0123456789eE.,-+/ \\boxedfrac{}#A:\n"))
@example(text="1" * 100_000)
@example(text="1," * 50_000)
@example(text="\\boxed{" * 20_000)
@example(text="[" * 5_000 + "A:" * 5_000)
def test_numeric_never_raises(text: str) -> None:
    assert outcome(numeric(tolerance=0.5), 1, text) in ("passed", "failed")


# regex


@pytest.mark.parametrize(
    ("answer", "text", "value"),
    [
        (r"\bcat\b", "a cat sat", "passed"),
        (r"\bcat\b", "concatenate", "failed"),
        ("(", "(", "unscored"),
        (None, "cat", "unscored"),
        (7, "7", "unscored"),
    ],
)
def test_regex(answer: Any, text: str, value: str) -> None:
    assert outcome(regex(), answer, text) == value


def test_regex_options() -> None:
    assert regex(pattern="c.t")(problem(), "a cat").answer == "cat"
    assert outcome(regex(pattern="(?i)c.t|dog", full=True), None, "CAT") == "passed"
    assert outcome(regex(pattern="c.t|dog", full=True), None, "a dog") == "failed"


@pytest.mark.parametrize("full", [False, True])
def test_regex_that_backtracks_for_ever_is_stopped(full: bool) -> None:
    start = time.monotonic()
    verdict = regex(full=full, seconds=0.2)(problem(SLOW_PATTERN), "a" * 100 + "!")
    assert time.monotonic() - start < 5
    assert verdict.value == "unscored"
    assert "0.2 s" in verdict.explanation


def test_regex_lets_other_threads_run_meanwhile() -> None:
    slow = regex(pattern=SLOW_PATTERN, seconds=1)
    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(slow, problem(), "a" * 100 + "!")
        ticks = 0
        while not verdict.done():
            time.sleep(0.01)
            ticks += 1
    assert verdict.result().value == "unscored"
    assert ticks > 5


def test_regex_checks_its_options() -> None:
    with pytest.raises(InvalidInputError, match=r"pattern='\(' is not a regular expression"):
        regex(pattern="(")
    with pytest.raises(InvalidInputError, match="seconds=0"):
        regex(seconds=0)


# json_schema

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"age": 3}', "passed"),
        ('Here:\n```json\n{"age": 3}\n```\nDone.', "passed"),
        ('```\n{"age": 3}\n```', "passed"),
        ('1.\n   ```JSON\n   {"age": 3}\n   ```', "passed"),
        ('```json\n{"age": 3}', "passed"),
        ('```json\n{"age": 3}\n```\nprints\n```\n{}\n```', "passed"),
        ('```json\n{"age": 3}\n```\nor\n```json\n{}\n```', "failed"),
        ('{"age": "three"}', "failed"),
        ("{}", "failed"),
        ('{"age": 3', "failed"),
        ("", "failed"),
        ("[" * 100_000, "failed"),
    ],
)
def test_json_schema(text: str, value: str) -> None:
    assert outcome(json_schema(), PERSON, text) == value
    assert outcome(json_schema(schema=PERSON), None, text) == value


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]"])
def test_json_schema_refuses_what_only_python_takes_for_json(text: str) -> None:
    assert outcome(json_schema(schema={}), None, text) == "failed"


def test_json_schema_explains_where_the_fault_is() -> None:
    verdict = json_schema(schema=PERSON)(problem(), '{"age": "three"}')
    assert verdict.explanation == "$.age: 'three' is not of type 'integer'"
    assert verdict.answer == '{"age": "three"}'


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"pattern": "("}, "{}", ["a"], True])
def test_json_schema_that_is_invalid(schema: Any) -> None:
    with pytest.raises(InvalidInputError, match="schema"):
        json_schema(schema=schema)
    assert outcome(json_schema(), schema, "{}") == "unscored"
    assert outcome(json_schema(), None, "{}") == "unscored"


def test_json_schema_resolves_its_own_references() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}
    assert outcome(json_schema(schema=schema), None, "[1]") == "passed"
    assert outcome(json_schema(schema=schema), None, '["a"]') == "failed"


def test_json_schema_never_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **_: fetched.append(args))
    monkeypatch.setattr(socket, "create_connection", lambda *args, **_: fetched.append(args))
    schema = {"$ref": "http://127.0.0.1:9/schema.json"}
    verdict = json_schema(schema=schema)(problem(), "{}")
    assert verdict.value == "unscored"
    assert "http://127.0.0.1:9/schema.json" in verdict.explanation
    assert fetched == []


def test_json_schema_that_refers_to_itself_for_ever_is_unscored() -> None:
    assert outcome(json_schema(), {"$ref": "#"}, "{}") == "unscored"


@given(text=st.text() | st.text(alphabet='{}[]",:0123456789.eE-`json\n truefalsn'))
@example(text="```json\n" * 20_000)
@example(text="9" * 5_000)
def test_json_schema_never_raises(text: str) -> None:
    assert outcome(json_schema(), PERSON, text) in ("passed", "failed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=JSON, fenced=st.booleans())
def test_json_schema_finds_the_value_it_was_given(value: Any, fenced: bool) -> None:
    text = json.dumps(value)
    text = f"Sure!\n```json\n{text}\n```" if fenced else text
    assert outcome(json_schema(schema={"const": value}), None, text) == "passed"
    assert outcome(json_schema(schema={"not": {"const": value}}), None, text) == "failed"


# function


def with_problem(problem: Problem, text: str) -> bool:
    return bool(text == problem.answer)


class Checker:
    def __call__(self, text: str, *, strict: bool = False) -> bool:
        return text == "yes"


@pytest.mark.parametrize(
    "fn",
    [
        with_problem,
        lambda text: text == "yes",
        lambda text, strict=False: text == "yes" and not strict,
        Checker(),
        Checker().__call__,
        functools.partial(with_problem, Problem(prompt="?", answer="yes")),
        "yes".__eq__,
        lambda text: np.bool_(text == "yes"),
        lambda text: Verdict("passed" if text == "yes" else "failed"),
    ],
)
def test_function_takes_either_signature(fn: Any) -> None:
    assert outcome(function(fn), "yes", "yes") == "passed"
    assert outcome(function(fn), "yes", "no") == "failed"


def test_function_with_a_threshold() -> None:
    half = function(lambda text: 0.5, threshold=0.5)(problem(), "")
    assert (half.value, half.score) == ("passed", 0.5)
    below = function(lambda text: np.float32(0.5))(problem(), "")
    assert (below.value, below.score) == ("failed", 0.5)


@pytest.mark.parametrize("result", [None, "yes", 1.1, -1, float("nan"), [True]])
def test_function_that_returns_something_else_is_unscored(result: Any) -> None:
    verdict = function(lambda text: result)(problem(), "")
    assert verdict.value == "unscored"
    assert "legal are a bool" in verdict.explanation


def test_function_that_raises_is_unscored() -> None:
    def fails(text: str) -> bool:
        raise KeyError("missing")

    verdict = function(fails)(problem(), "")
    assert verdict.value == "unscored"
    assert "fails raised KeyError: 'missing'" in verdict.explanation


async def asynchronous(text: str) -> bool:
    return True


class AsynchronousChecker:
    async def __call__(self, text: str) -> bool:
        return True


@pytest.mark.parametrize(
    "fn", [asynchronous, functools.partial(asynchronous), AsynchronousChecker()]
)
def test_function_refuses_async(fn: Any) -> None:
    with pytest.raises(InvalidInputError, match="async"):
        function(fn)


@pytest.mark.filterwarnings("error")
def test_function_that_returns_a_coroutine_is_unscored() -> None:
    assert outcome(function(lambda text: asynchronous(text)), None, "") == "unscored"


@pytest.mark.parametrize(
    "fn",
    [
        lambda: True,
        lambda a, b, c: True,
        lambda *args: True,
        lambda text, *, strict: True,
        object.__new__,
        7,
    ],
)
def test_function_refuses_other_signatures(fn: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"legal are fn\(problem, text\) and fn\(text\)"):
        function(fn)


def test_function_names_the_signature_it_refuses() -> None:
    def judge_three(a: str, b: str, c: str) -> bool:
        return True

    with pytest.raises(InvalidInputError, match=r"judge_three\(a: 'str', b: 'str', c: 'str'\)"):
        function(judge_three)


@pytest.mark.parametrize("threshold", [0, 1.1, float("nan")])
def test_function_refuses_a_senseless_threshold(threshold: float) -> None:
    with pytest.raises(InvalidInputError, match="threshold="):
        function(with_problem, threshold=threshold)


# python_test


@pytest.mark.parametrize(
    "text",
    [
        ADD,
        f"Sure:\n```python\n{ADD}```\nIt prints\n```\n3\n```",
        f"```python\ndef add(a, b): return 0\n```\nNo:\n```python\n{ADD}```",
        f"{ADD}\nif __name__ == '__main__':\n    print(add(int(input()), 1))",
        f"import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n{ADD}",
    ],
)
def test_python_test_passes(text: str) -> None:
    verdict = python_test()(problem(ADD_TESTS), text)
    assert verdict.value == "passed", verdict.explanation
    assert "return a + b" in str(verdict.answer)


@pytest.mark.parametrize(
    ("code", "explanation"),
    [
        ("def add(a, b): return 0", "assert add(1, 2) == 3"),
        ("def add(a, b: return 0", "SyntaxError"),
        ("", "NameError"),
        ("\0", "null bytes"),
        ("x = '\ud800'", "UnicodeEncodeError"),
        (f"{ADD}input()", "EOFError"),
        ("def add(a, b): return add(a, b)", "RecursionError"),
        ("import os; os.abort()", "Aborted"),
    ],
)
def test_python_test_fails(code: str, explanation: str) -> None:
    verdict = python_test()(problem(ADD_TESTS), code)
    assert verdict.value == "failed"
    assert explanation in verdict.explanation


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "import os; os._exit(0)",
        "def add(a, b): raise SystemExit(0)",
        "import unittest; unittest.main()",
        "import os\ndef add(a, b): os._exit(0)",
        "import os\nos.write(1, b'passed\\n'); print('ready\\n passed', flush=True); os._exit(0)",
    ],
)
def test_python_test_is_not_fooled_by_an_early_exit(code: str) -> None:
    verdict = python_test()(problem(ADD_TESTS), code)
    assert verdict.value == "failed"
    assert re.search("before the tests had finished|stopped by SystemExit", verdict.explanation)


@pytest.mark.parametrize("code", ["import sys\nsolve = sys.exit", "solve = exit"])
def test_python_test_is_not_fooled_by_exit_as_the_solution(code: str) -> None:
    assert outcome(python_test(tests="assert solve() == 3"), None, code) == "failed"


UNITTESTS = """
import unittest
class TestAdd(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), 3)
unittest.main()
"""


@pytest.mark.parametrize(
    "tests",
    [
        UNITTESTS,
        f"def test_add():\n    {ADD_TESTS}\n",
        f"if __name__ == '__main__':\n    {ADD_TESTS}\n",
    ],
)
def test_python_test_runs_tests_of_every_style(tests: str) -> None:
    verifier = python_test(tests=tests)
    assert outcome(verifier, None, ADD) == "passed"
    assert outcome(verifier, None, "def add(a, b): return 0") == "failed"


@pytest.mark.parametrize("answer", ["def (", "\0", "", None, 7])
def test_python_test_with_broken_tests_is_unscored(answer: Any) -> None:
    assert outcome(python_test(), answer, ADD) == "unscored"


def test_python_test_that_cannot_start_is_unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(python_test(seconds=0.001), ADD_TESTS, ADD) == "unscored"
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    verdict = python_test()(problem(ADD_TESTS), ADD)
    assert verdict.value == "unscored"
    assert "/nowhere/python" in verdict.explanation


def test_python_test_checks_its_options() -> None:
    with pytest.raises(InvalidInputError, match="is not Python"):
        python_test(tests="def (")
    with pytest.raises(InvalidInputError, match="seconds=-1"):
        python_test(seconds=-1)
    with pytest.raises(InvalidInputError, match="memory_mb=nan"):
        python_test(memory_mb=float("nan"))


def test_python_test_stops_a_busy_loop() -> None:
    start = time.monotonic()
    verdict = python_test(seconds=2)(problem(ADD_TESTS), "while True: pass")
    assert time.monotonic() - start < 10
    assert verdict.value == "failed"
    assert "out of time (limit 2 s)" in verdict.explanation


FORK = """
import fcntl, os, time
held = open({path!r}, "w")
fcntl.flock(held, fcntl.LOCK_EX)
print("locked", file=held, flush=True)
if os.fork() == 0:
    time.sleep(60)
"""


@pytest.mark.parametrize(("more", "value"), [("", "passed"), ("time.sleep(60)", "failed")])
def test_python_test_kills_what_the_code_started(tmp_path: Path, more: str, value: str) -> None:
    lock = tmp_path / "lock"
    start = time.monotonic()
    assert outcome(python_test(seconds=2), "pass", FORK.format(path=str(lock)) + more) == value
    assert time.monotonic() - start < 10
    assert lock.read_text() == "locked\n"
    with lock.open() as file:
        wait_for_lock(file, seconds=5)


def wait_for_lock(file: Any, seconds: float) -> None:
    """Returns once the file is unlocked, that is, once every process that held it is gone."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert time.monotonic() < deadline, "a process survived"
            time.sleep(0.02)


def test_python_test_limits_memory() -> None:
    verdict = python_test(memory_mb=200)(problem(ADD_TESTS), "x = bytearray(300_000_000)")
    assert verdict.value == "failed"
    assert "out of memory (limit 200 MB)" in verdict.explanation
    assert outcome(python_test(), ADD_TESTS, f"x = bytearray(300_000_000)\n{ADD}") == "passed"


def test_python_test_limits_output() -> None:
    verdict = python_test()(problem(ADD_TESTS), "while True: print('x' * 100_000)")
    assert verdict.value == "failed"
    assert "more than 10 MB of output" in verdict.explanation
    assert len(verdict.explanation) < 2000


def test_python_test_closes_its_input_with_the_secret_in_it() -> None:
    tests = "import os\nos.lseek(0, 0, os.SEEK_SET)\nassert os.read(0, 10) == b''"
    assert outcome(python_test(tests=tests), None, "") == "passed"


def test_python_test_hides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    tests = "import os\nassert 'PATH' in os.environ\nassert 'OPENAI_API_KEY' not in os.environ"
    assert outcome(python_test(tests=tests), None, "") == "passed"


def test_python_test_runs_in_an_empty_folder_that_goes_away(tmp_path: Path) -> None:
    note = tmp_path / "folder"
    code = f"import os\nopen({str(note)!r}, 'w').write(os.getcwd())\nopen('left', 'w').close()"
    assert outcome(python_test(tests="assert os.listdir() == ['left']"), None, code) == "passed"
    folder = note.read_text()
    assert "recov-graph-" in folder
    assert not Path(folder).exists()


def test_python_test_sets_its_limits() -> None:
    tests = """
import resource
assert resource.getrlimit(resource.RLIMIT_CPU) == (4, 4)
assert resource.getrlimit(resource.RLIMIT_AS) == (300_000_000,) * 2
assert resource.getrlimit(resource.RLIMIT_FSIZE) == (10_000_000,) * 2
"""
    verdict = python_test(seconds=2.5, memory_mb=300)(problem(tests), "")
    assert verdict.value == "passed", verdict.explanation


def test_python_test_from_many_threads() -> None:
    verifier = python_test(tests="assert n % 2 == 0")
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda n: verifier(problem(), f"n = {n}"), range(8)))
    assert [v.passed for v in verdicts] == [True, False] * 4
    assert [v.answer for v in verdicts] == [f"n = {n}" for n in range(8)]


# as_verifier


@pytest.mark.parametrize(
    ("name", "answer", "right", "wrong"),
    [
        ("exact", "yes", "yes", "no"),
        ("numeric", 4, "4", "4.005"),
        ("numeric:0.01", 4, "4.005", "4.02"),
        ("regex", "c.t", "cat", "dog"),
        ("regex:(?:c|h)at", None, "hat", "dog"),
        ("json_schema", PERSON, '{"age": 3}', "{}"),
        ("python_test", ADD_TESTS, ADD, ""),
        ("python_test:7", ADD_TESTS, ADD, ""),
    ],
)
def test_as_verifier_by_name(name: str, answer: Any, right: str, wrong: str) -> None:
    verifier = as_verifier(name)
    assert verifier.name == name.partition(":")[0]
    assert outcome(verifier, answer, right) == "passed"
    assert outcome(verifier, answer, wrong) == "failed"


def test_as_verifier_reads_a_schema_file(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(PERSON))
    assert outcome(as_verifier(f"json_schema:{path}"), None, "{}") == "failed"


def test_as_verifier_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class C:\n    @staticmethod\n    def check(text): return text == 'yes'\nnumber = 7\n"
    (tmp_path / "my_checks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    verifier = as_verifier("python:my_checks:C.check")
    assert [outcome(verifier, None, text) for text in ("yes", "no")] == ["passed", "failed"]
    with pytest.raises(InvalidInputError, match="7 is not a verifier"):
        as_verifier("python:my_checks:number")
    with pytest.raises(InvalidInputError, match="has no attribute 'absent'"):
        as_verifier("python:my_checks:absent")


def test_as_verifier_keeps_a_verifier_and_wraps_a_function() -> None:
    verifier = numeric()
    assert as_verifier(verifier) is verifier
    broken = Broken(True)
    assert as_verifier(broken) is broken
    wrapped = as_verifier(with_problem)
    assert wrapped.name == "with_problem"
    assert outcome(wrapped, "yes", "yes") == "passed"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("numerc", "unknown verifier 'numerc'; legal are exact, .*did you mean 'numeric'"),
        ("", "unknown verifier ''; legal are exact"),
        ("function", "unknown verifier 'function'"),
        ("exact:1", "'exact:1': exact takes no argument"),
        ("numeric:abc", "'numeric:abc': .*'abc'"),
        ("numeric:-1", "tolerance=-1.0"),
        ("regex:(", "not a regular expression"),
        ("python_test:0", "seconds=0.0"),
        ("json_schema:/nowhere.json", "/nowhere.json"),
        ("json_schema:/dev/null", "'json_schema:/dev/null'"),
        ("python", "package.module:function"),
        ("python:json", "package.module:function"),
        ("python:no_such_module:f", "no_such_module"),
        (7, "7 is not a verifier; legal are"),
        (None, "None is not a verifier"),
        (numeric, r"call it: numeric\(\)"),
        (Broken, "Broken is a class"),
        (np.array([1, 2]), "is not a verifier"),
    ],
)
def test_as_verifier_refuses(value: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        as_verifier(value)


def test_every_name_makes_a_verifier_or_says_what_it_needs() -> None:
    for name in set(VERIFIERS) - {"python"}:
        assert isinstance(VERIFIERS[name](), Verifier)
        assert outcome(VERIFIERS[name](), None, "text") == "unscored"


def test_a_verifier_that_leaves_the_program_is_broken_like_any_other() -> None:
    def leaves(problem: Problem, text: str) -> bool:
        raise SystemExit(7)

    verdict = judge(as_verifier(leaves), Problem(prompt="1+1?", answer=2), "2")
    assert (verdict.value, "SystemExit: 7" in verdict.explanation) == ("unscored", True)
