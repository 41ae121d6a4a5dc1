"""Trace files: top-K lists in, signals and features out."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recov_graph.errors import ProblemFileError
from recov_graph.features import TraceFeatures, trace_features
from recov_graph.rollout import TopK
from recov_graph.signals import TokenSignals, token_signals
from recov_graph.topk_file import as_line, read_traces
from tests.searching import examples

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "features.json"
QUICK = settings(deadline=None, max_examples=examples(150))

LINE: dict[str, Any] = {
    "id": "a",
    "temperature": 0.6,
    "k_cov": 2,
    "window": 8,
    "steps": [
        {
            "token": 5,
            "specialist": [[5, -0.1], [9, -2.4], [7, -4.0]],
            "ancestor": [[9, -0.3], [5, -1.4]],
        },
        {"token": 9, "specialist": [[9, -0.2]], "ancestor": [[5, -0.9], [9, -1.0], [3, -2.0]]},
    ],
}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, -(10**400), 10**400])
    | st.floats()
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
PLACES: list[tuple[str | int, ...]] = [
    (),
    ("id",),
    ("temperature",),
    ("k_cov",),
    ("window",),
    ("steps",),
    ("steps", 1),
    ("steps", 1, "token"),
    ("steps", 0, "specialist"),
    ("steps", 0, "ancestor"),
    ("steps", 0, "specialist", 1),
    ("steps", 0, "specialist", 1, 0),
    ("steps", 0, "specialist", 1, 1),
    ("steps", 0, "ancestor", 0, 0),
    ("steps", 0, "ancestor", 0, 1),
]


def changed(place: tuple[str | int, ...], value: Any) -> Any:
    if not place:
        return value
    line = copy.deepcopy(LINE)
    inner: Any = line
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return line


def measured(line: Any) -> tuple[Any, TokenSignals, TraceFeatures]:
    text = line if isinstance(line, str) else json.dumps(line)
    [found] = read_traces([text], "t.jsonl")
    return found


def refusal(line: Any) -> str:
    with pytest.raises(ProblemFileError) as refused:
        measured(line)
    message = str(refused.value)
    assert message.startswith("t.jsonl:1: ")
    assert "\n" not in message
    return message


# --- reading ---


def golden_rollouts() -> list[dict[str, Any]]:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return [*golden["cases"], *golden["problem"]["rollouts"]]


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN} is not here")
def test_golden_lines_give_the_golden_signals_and_features() -> None:
    cases = golden_rollouts()
    assert len(cases) > 5
    lines = [json.dumps(case) for case in cases]
    for case, (_, signals, features) in zip(cases, read_traces(lines, "golden"), strict=True):
        assert features._asdict() == pytest.approx(
            case["expected"]["features"], rel=1e-6, abs=1e-6
        ), case["name"]
        for name, values in case["expected"]["signals"].items():
            np.testing.assert_allclose(getattr(signals, name), values, 1e-6, 1e-6)


def test_a_line_gives_what_its_arrays_give() -> None:
    line, signals, features = measured(LINE)
    specialist = TopK(
        np.array([[5, 9, 7], [9, -1, -1]]),
        np.array([[-0.1, -2.4, -4.0], [-0.2, -np.inf, -np.inf]]),
    )
    ancestor = TopK(
        np.array([[9, 5, -1], [5, 9, 3]]),
        np.array([[-0.3, -1.4, -np.inf], [-0.9, -1.0, -2.0]]),
    )
    expected = token_signals([5, 9], specialist, ancestor, 0.6, 2)
    np.testing.assert_array_equal(signals, expected)
    assert features == trace_features(expected, 8)
    assert (line.id, line.temperature, len(line.steps)) == ("a", 0.6, 2)


def test_temperature_k_cov_and_window_of_the_line_count() -> None:
    _, plain, at_8 = measured(LINE)
    assert not np.allclose(measured({**LINE, "temperature": 1.5})[1].kl, plain.kl)
    assert not np.allclose(measured({**LINE, "k_cov": 1})[1].g_cov, plain.g_cov)
    assert measured({**LINE, "window": 0})[2].logit_dispersion != at_8.logit_dispersion


def test_the_defaults_are_those_of_the_functions() -> None:
    short = {"steps": LINE["steps"]}
    full = {**short, "id": None, "temperature": 0.6, "k_cov": 20, "window": 8}
    np.testing.assert_array_equal(measured(short)[1], measured(full)[1])
    assert measured(short)[2] == measured(full)[2]
    assert measured(short)[0].id is None


def test_unknown_fields_are_ignored() -> None:
    step = {**LINE["steps"][0], "text": "a"}
    assert measured({**LINE, "steps": [step], "model": "m"})[2].spread == 1.0


def test_blank_lines_are_skipped_and_counted() -> None:
    line = json.dumps(LINE)
    assert len(list(read_traces(["\n", line + "\n", "  \r\n", line], "t.jsonl"))) == 2
    with pytest.raises(ProblemFileError, match=r"^t\.jsonl:3: "):
        list(read_traces(["\n", line, "{"], "t.jsonl"))


def test_no_lines_give_no_traces() -> None:
    assert list(read_traces([], "t.jsonl")) == []


def test_lines_are_read_one_at_a_time() -> None:
    traces = read_traces(iter([json.dumps(LINE), "nonsense"]), "t.jsonl")
    assert next(traces)[0].id == "a"
    with pytest.raises(ProblemFileError, match=r"^t\.jsonl:2: "):
        next(traces)


# --- refusals ---


@pytest.mark.parametrize(
    ("place", "value", "fragments"),
    [
        ((), 5, ["JSON object", "got 5"]),
        ((), [LINE], ["JSON object"]),
        ((), {}, ["'steps' is missing"]),
        (("temperature",), 0, ["temperature is 0", "from 0.001 to 1e+06"]),
        (("temperature",), None, ["'temperature'", "got None"]),
        (("temperature",), math.nan, ["temperature is nan", "from 0.001 to 1e+06"]),
        (("temperature",), 10**400, ["'temperature'", "number"]),
        (("k_cov",), 0, ["k_cov is 0", "at least 1"]),
        (("k_cov",), 1.5, ["'k_cov'", "integer"]),
        (("window",), -1, ["window is -1", "at least 0"]),
        (("id",), 1.5, ["id", "got 1.5"]),
        (("steps",), [], ["'steps'", "at least 1"]),
        (("steps",), "abc", ["'steps'", "list"]),
        (("steps", 1), {}, ["steps.1.token", "missing"]),
        (("steps", 1, "token"), -1, ["taken holds -1", "0 or above"]),
        (("steps", 1, "token"), 5.5, ["steps.1.token", "integer"]),
        (("steps", 1, "token"), 1e30, ["steps.1.token", "integer"]),
        (("steps", 1, "token"), 10**30, ["taken", "integers"]),
        (("steps", 1, "token"), None, ["steps.1.token", "got None"]),
        (("steps", 0, "specialist"), [], ["steps.0.specialist", "at least 1"]),
        (("steps", 0, "specialist"), {"5": -1}, ["steps.0.specialist", "list"]),
        (("steps", 0, "specialist", 1), [9], ["steps.0.specialist.1", "missing"]),
        (("steps", 0, "specialist", 1), [9, -1, 2], ["steps.0.specialist.1", "2 items"]),
        (("steps", 0, "specialist", 1, 0), 10**30, ["too large"]),
        (("steps", 0, "specialist", 1, 0), 5, ["specialist", "twice at position 0"]),
        (("steps", 0, "specialist", 1, 0), -2, ["specialist holds id -2"]),
        (("steps", 0, "ancestor", 0, 1), math.nan, ["ancestor.logprobs[0, 0] is nan", "finite"]),
        (("steps", 0, "ancestor", 0, 1), math.inf, ["ancestor.logprobs[0, 0] is inf", "finite"]),
        (("steps", 0, "ancestor"), [[9, -math.inf]], ["ancestor", "no token at position 0"]),
    ],
)
def test_a_bad_line_is_named_by_file_number_and_fault(
    place: tuple[str | int, ...], value: Any, fragments: list[str]
) -> None:
    message = refusal(changed(place, value))
    assert [fragment for fragment in fragments if fragment not in message] == [], message


def test_what_the_measurement_refuses_is_said_in_its_own_words() -> None:
    assert refusal(changed(("temperature",), -1)) == (
        "t.jsonl:1: temperature is -1.0; it must be a number from 0.001 to 1e+06"
    )


@pytest.mark.parametrize("text", ["{", "hello", "\x00", '{"steps": [}', "[" * 100_000, "{} {}"])
def test_a_line_that_is_not_json_is_refused(text: str) -> None:
    assert "not a trace" in refusal(text)


def reads_or_is_refused(text: str) -> None:
    found, message = [], ""
    with np.errstate(all="ignore"):
        try:
            found = list(read_traces([text], "t.jsonl"))
        except ProblemFileError as error:
            message = str(error)
    assert found or message.startswith("t.jsonl:1: ") or not text.strip()
    assert all(0 <= features.spread <= 1 for _, _, features in found)


@given(text=st.text())
@example('{"steps": NaN}')
@QUICK
def test_any_text_is_read_or_refused(text: str) -> None:
    reads_or_is_refused(text)


@given(value=JSON)
@QUICK
def test_any_json_is_read_or_refused(value: Any) -> None:
    reads_or_is_refused(json.dumps(value))


@given(place=st.sampled_from(PLACES), value=JSON)
@example(("steps", 1, "token"), 1e30)
@example(("steps", 1, "token"), 2**64)
@example(("steps", 0, "specialist", 1, 0), 2**63)
@example(("steps", 0, "specialist", 1, 1), -(10**400))
@example(("window",), 10**30)
@example(("k_cov",), 10**30)
@example(("temperature",), 1e-320)
@example(("id",), "\ud800")
@settings(deadline=None, max_examples=examples(400))
def test_any_value_anywhere_in_a_line_is_read_or_refused(
    place: tuple[str | int, ...], value: Any
) -> None:
    reads_or_is_refused(json.dumps(changed(place, value)))


@pytest.mark.parametrize("depth", [*range(200, 1000, 40), *range(940, 1000, 3)])
def test_any_depth_of_nesting_is_refused(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for text in (nested, f'{{"steps": {nested}}}', f'{{"steps": [{{"token": {nested}}}]}}'):
        assert refusal(text)


# --- writing ---


def test_a_line_of_output_holds_id_length_and_features() -> None:
    found = measured(LINE)
    assert json.loads(as_line(*found, with_signals=False)) == {
        "id": "a",
        "tokens": 2,
        **found[2]._asdict(),
    }


def test_signals_are_added_where_asked_for() -> None:
    found = measured(LINE)
    text = as_line(*found, with_signals=True)
    assert "\n" not in text
    signals = json.loads(text)["signals"]
    assert signals == {name: values.tolist() for name, values in found[1]._asdict().items()}


# Faults that were found by attacking the package


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b"\n\xff\n")
    with path.open(encoding="utf-8") as lines, pytest.raises(ProblemFileError, match="UTF-8"):
        list(read_traces(lines, "t.jsonl"))


def test_a_byte_order_mark_is_skipped() -> None:
    assert measured("\ufeff" + json.dumps(LINE))[0].id == "a"
