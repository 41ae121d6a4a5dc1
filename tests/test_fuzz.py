"""The targets of the fuzzer under Hypothesis, what the fuzzer has found, and the fuzzer itself."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recov_graph.errors import InvalidInputError, RecovGraphError, StoreError
from tests.fuzz import HEADER, Fuzzed, shared
from tests.fuzz_targets import TARGETS, lines, refusing, told_well
from tests.mutations import mutated
from tests.searching import examples

ROOT = Path(__file__).parents[1]
SLOW = {"stores": 6, "replies": 25, "shelf": 25}  # examples of targets that take long
EXAMPLES = 60

CSV = b"model,task,problem_id,retry,mine\nm,t,p1,%s,1\n"
TRACE = b'{"steps": [{"token": 5, "specialist": [[5, -0.1], [9, %s]], "ancestor": [[9, -0.3]]}]}'
NPY = b"\x93NUMPY\x01\x00\x36\x00{'descr': '<f8', 'fortran_order': False,), 'shape': (5,)}\n"
# Inputs that broke a promise when they were found.
FOUND = (
    ("problems", b'{"prompt": "1+2?", "answer": -1e999}'),
    ("problems", b'{"prompt": "x", "an%s": 1}' % (b"9" * 4000)),
    ("features", TRACE % b"1.7976931348623157e308"),
    ("arrays", b'{"taken": [3], "temperature": %s1%s}' % (b"[" * 300, b"]" * 300)),
    ("csv", CSV % b"\x1e.5"),
    (
        "blobs",
        b"\x93NUMPY\x01\x00\x36\x00{'descr': '<f8', 'fortran_order': False,), 'shape': (5,)}\n",
    ),
    ("budgets", b'{"limits": {"max_attempts": [%s]}}' % b",".join([b"12345"] * 500)),
    (
        "budgets",
        lines(
            {
                "limits": {"max_tokens": 30},
                "calls": [{"do": "sample", "prompt": 3, "n": 1, "most": 4, "claims": [1, -5, 0]}],
            }
        ),
    ),
    (
        "replies",
        lines({"access": {"way": "messages", "scored": 20, "vocabulary": {"4": "4"}}})
        + b'\n{"choices": [{"message": {"content": "4"}, "token_ids": [4, 0]}]}'
        + b'\n{"choices": [{}], "prompt_token_ids": [1, 4, 0], "prompt_logprobs": '
        + b'[null, {"4": {"logprob": %s}}, {"0": {"logprob": -1}}]}' % (b"9" * 400),
    ),
    ("tapes", b'{"recov_graph_tape": 1, "feature_version": %s, "source": "x"}' % (b"9" * 4000)),
    (
        "replies",
        lines({"access": {"way": "messages", "scored": 20, "vocabulary": {"4": "4"}}})
        + b'\n{"choices": [{"message": {"content": "4"}, "token_ids": [4, 0]}]}'
        + b'\n{"choices": [{}], "prompt_token_ids": [1, 4, 0], "prompt_logprobs": '
        + '[null, {"²": {"decoded_token": "x"}}]}'.encode(),
    ),
    ("addresses", lines({"user": "me", "before": "a@b/", "after": "?c", "place": "h/d?x=1"})),
    ("addresses", lines({"query": 1, "place": "a:?b@c&", "before": "x%2&"})),
    ("addresses", lines({"query": 1, "place": "/db", "before": "x%20&", "after": "y"})),
)


@pytest.mark.parametrize("name", TARGETS)
def test_valid_input_is_accepted(name: str) -> None:
    accepted = [TARGETS[name].check(seed) for seed in TARGETS[name].seeds()]
    assert any(accepted)


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_once_is_refused_or_accepted(name: str, data: bytes) -> None:
    TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_documents_are_refused_or_accepted(name: str) -> None:
    seeds = TARGETS[name].seeds()

    @settings(
        deadline=None,
        max_examples=examples(SLOW.get(name, EXAMPLES)),
        suppress_health_check=list(HealthCheck),
    )
    @given(
        valid=st.sampled_from(list(seeds)),
        numbers=st.lists(st.integers(0, 2**32), min_size=1, max_size=4),
    )
    def check(valid: bytes, numbers: list[int]) -> None:
        for number in numbers:
            valid = mutated(valid, number)
        TARGETS[name].check(valid[:8192])

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_refused_or_accepted(name: str) -> None:
    @settings(
        deadline=None,
        max_examples=examples(SLOW.get(name, EXAMPLES) // 2),
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
    def check(data: bytes) -> None:
        TARGETS[name].check(data)

    check()


# The fuzzer ---------------------------------------------------------------------------------------


def test_the_same_number_makes_the_same_change() -> None:
    valid, *_ = TARGETS["tapes"].seeds()
    changed = {mutated(valid, number) for number in range(300)}
    assert changed == {mutated(valid, number) for number in range(300)}
    assert len(changed) > 200


def test_errors_of_ours_are_let_pass_and_no_others() -> None:
    with refusing() as caught:
        raise InvalidInputError("x is 1; it must be 2")
    assert [str(error) for error in caught] == ["x is 1; it must be 2"]
    with pytest.raises(KeyError), refusing():
        raise KeyError("x")
    with pytest.raises(AssertionError, match="InvalidInputError"), refusing(StoreError):
        raise InvalidInputError("of another kind")


@pytest.mark.parametrize("message", ["", " \n", "x" * 5000])
def test_an_error_has_to_say_something_short(message: str) -> None:
    with pytest.raises(AssertionError):
        told_well(RecovGraphError(message))


def test_what_an_error_quotes_cannot_reach_a_terminal() -> None:
    told_well(RecovGraphError("id is \x1b[31m\n\x9b\u202e\ud800; it must be text"))


def test_inputs_are_shared_among_targets() -> None:
    runs = shared(1_000_000, list(TARGETS))
    assert sum(runs.values()) == pytest.approx(1_000_000, abs=len(TARGETS))
    assert shared(500, ["csv"]) == {"csv": 500}


def test_figures_stand_under_their_names() -> None:
    line = str(Fuzzed("problems", 1_000_000, 0.5, 1234, 56789, 321, 100.0))
    assert line.split() == [
        "problems",
        "1,000,000",
        "100",
        "10,000",
        "50%",
        "1,234",
        "56,789",
        "321",
    ]
    assert len(line) == len(HEADER)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine"
)
def test_coverage_leads_to_no_input_that_breaks_a_promise() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--runs", "2600"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    total = re.search(r"^([\d,]+) inputs in \d+ s; no target failed$", done.stdout, re.MULTILINE)
    assert total is not None
    assert int(total[1].replace(",", "")) >= 2_600 - len(TARGETS)
