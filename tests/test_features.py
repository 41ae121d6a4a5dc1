"""Trace and problem features, on hand-made signals and on measured rollouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recov_graph.errors import InvalidInputError
from recov_graph.features import (
    FEATURES,
    ProblemFeatures,
    TraceFeatures,
    problem_features,
    trace_features,
)
from recov_graph.rollout import Rollout, TopK
from recov_graph.signals import TokenSignals, token_signals
from recov_graph.trace import measure
from tests.searching import examples

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "features.json"
QUICK = settings(deadline=None, max_examples=examples(100))

PRESSURES = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 50.0)), min_size=1, max_size=40)
VARIANCES = st.floats(0.0, 100.0)
TRACES = st.builds(
    TraceFeatures,
    junction=st.integers(0, 500),
    spread=st.floats(0.0, 1.0),
    concentration=st.floats(0.0, 5.0),
    logit_dispersion=st.floats(-8.0, 5.0),
)


def signals(j: Any, logit_var: Any = None) -> TokenSignals:
    pressure = np.array(j, np.float64)
    nothing = np.zeros_like(pressure)
    variance = np.ones_like(pressure) if logit_var is None else np.array(logit_var, np.float64)
    return TokenSignals(nothing, nothing, variance, nothing, nothing, pressure)


def rollout(seed: int, length: int = 60, k: int = 25) -> Rollout:
    rng = np.random.default_rng(seed)

    def one() -> TopK:
        ids = rng.permuted(np.tile(np.arange(2 * k), (length, 1)), axis=1)[:, :k]
        return TopK(ids, np.log(rng.dirichlet(np.ones(k), length)))

    tokens = rng.integers(0, 2 * k, length).astype(np.int32)
    return Rollout("text", tokens, "stop", one(), one())


# --- one rollout ---


def test_the_junction_is_the_largest_pressure() -> None:
    assert trace_features(signals([0.0, 0.5, 3.0, 0.2])).junction == 2


def test_the_junction_is_the_first_of_equals() -> None:
    assert trace_features(signals([0.0, 2.0, 1.0, 2.0, 2.0])).junction == 1


def test_without_pressure_the_junction_is_the_first_token() -> None:
    assert trace_features(signals([0.0, 0.0, 0.0])).junction == 0


def test_spread_is_the_share_of_tokens_under_pressure() -> None:
    assert trace_features(signals([0.0, 1.0, 0.0, 2.0, 0.1])).spread == pytest.approx(3 / 5)


@pytest.mark.parametrize(("pressure", "spread"), [(1e-9, 0.5), (1.01e-9, 1.0), (0.0, 0.5)])
def test_pressure_up_to_1e_9_counts_as_none(pressure: float, spread: float) -> None:
    assert trace_features(signals([pressure, 1.0])).spread == spread


def test_concentration_is_log10_of_the_peak_over_the_mean() -> None:
    found = trace_features(signals([0.0] * 99 + [5.0]))
    assert found.concentration == pytest.approx(2.0)


def test_even_pressure_has_no_concentration() -> None:
    assert trace_features(signals([0.3] * 8)).concentration == pytest.approx(0.0, abs=1e-12)


def test_no_pressure_at_all_gives_zero_spread_and_concentration() -> None:
    found = trace_features(signals([0.0] * 7, [2.0] * 7))
    assert (found.spread, found.concentration) == (0.0, 0.0)
    assert found.logit_dispersion == pytest.approx(math.log10(2.0))


def test_dispersion_averages_eight_tokens_on_each_side_of_the_junction() -> None:
    pressure, variance = np.zeros(60), np.zeros(60)
    pressure[30] = 1.0
    variance[22:39] = 10.0
    assert trace_features(signals(pressure, variance)).logit_dispersion == pytest.approx(1.0)
    variance[[21, 39]] = 1e6
    assert trace_features(signals(pressure, variance)).logit_dispersion == pytest.approx(1.0)
    variance[38] = 10.0 + 17 * 90.0
    assert trace_features(signals(pressure, variance)).logit_dispersion == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("junction", "near"), [(0, slice(0, 9)), (3, slice(0, 12)), (18, slice(10, 20))]
)
def test_the_window_is_cut_at_the_ends(junction: int, near: slice) -> None:
    pressure, variance = np.zeros(20), np.arange(1.0, 21.0)
    pressure[junction] = 1.0
    found = trace_features(signals(pressure, variance)).logit_dispersion
    assert found == pytest.approx(math.log10(variance[near].mean()))


def test_a_window_of_zero_looks_at_the_junction_only() -> None:
    found = trace_features(signals([0.0, 1.0, 0.0], [5.0, 100.0, 7.0]), window=0)
    assert found.logit_dispersion == pytest.approx(2.0)


@pytest.mark.parametrize("variance", [0.0, 1e-9, 1e-8])
def test_dispersion_is_at_least_minus_8(variance: float) -> None:
    found = trace_features(signals([1.0, 0.0], [variance, variance]))
    assert found.logit_dispersion == pytest.approx(-8.0)


def test_one_token_has_all_features() -> None:
    assert trace_features(signals([2.0], [1000.0])) == pytest.approx((0, 1.0, 0.0, 3.0))


@given(j=PRESSURES, window=st.integers(0, 50), data=st.data())
@QUICK
def test_features_follow_their_definitions(
    j: list[float], window: int, data: st.DataObject
) -> None:
    variance = data.draw(st.lists(VARIANCES, min_size=len(j), max_size=len(j)))
    found = trace_features(signals(j, variance), window)
    junction = j.index(max(j))
    near = variance[max(0, junction - window) : junction + window + 1]
    assert found.junction == junction
    assert found.spread == pytest.approx(sum(value > 1e-9 for value in j) / len(j))
    expected = math.log10(max(j) / (math.fsum(j) / len(j))) if any(j) else 0.0
    assert found.concentration == pytest.approx(expected, abs=1e-9)
    assert found.logit_dispersion == pytest.approx(
        math.log10(max(1e-8, math.fsum(near) / len(near))), abs=1e-9
    )


@given(j=PRESSURES)
@QUICK
def test_spread_is_a_share_and_concentration_at_most_log10_of_the_length(j: list[float]) -> None:
    found = trace_features(signals(j))
    assert 0 <= found.spread <= 1
    assert -1e-9 <= found.concentration <= math.log10(len(j)) + 1e-9


@given(j=PRESSURES, factor=st.floats(0.1, 10.0))
@QUICK
def test_concentration_ignores_the_scale_of_the_pressure(j: list[float], factor: float) -> None:
    scaled = trace_features(signals([value * factor for value in j]))
    assert scaled.concentration == pytest.approx(trace_features(signals(j)).concentration, abs=1e-9)


def test_features_are_plain_numbers_that_json_can_hold() -> None:
    found = trace_features(signals([0.0, 1.0], [1.0, 1.0]))
    assert [type(value) for value in found] == [int, float, float, float]
    assert json.loads(json.dumps(found._asdict())) == found._asdict()


@pytest.mark.parametrize(
    ("given_", "window", "fragments"),
    [
        (signals([]), 8, ["(0,)", "at least 1"]),
        (signals([1.0, 2.0], [1.0]), 8, ["j (2,)", "logit_var (1,)", "[L]"]),
        (signals([[1.0]], [[1.0]]), 8, ["(1, 1)", "[L]"]),
        (signals([1.0]), -1, ["window is -1", "at least 0"]),
        (signals([1.0]), 1.5, ["window is 1.5", "integer"]),
        (signals([1.0]), None, ["window is None", "integer"]),
        (signals([math.nan, 1.0]), 8, ["NaN", "finite"]),
        (signals([1.0, math.inf]), 8, ["infinite", "finite"]),
        (signals([1.0], [math.nan]), 8, ["NaN", "finite"]),
    ],
)
def test_signals_that_do_not_fit_are_refused_in_words(
    given_: TokenSignals, window: Any, fragments: list[str]
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        trace_features(given_, window)
    message = str(refused.value)
    assert [fragment for fragment in fragments if fragment not in message] == [], message


# --- one problem ---


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN} is not here")
def test_the_golden_problem_has_the_stored_features() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["problem"]
    traces = [TraceFeatures(**each["expected"]["features"]) for each in golden["rollouts"]]
    assert problem_features(traces)._asdict() == pytest.approx(golden["expected"], abs=1e-6)


@given(traces=st.lists(TRACES, min_size=1, max_size=8))
@QUICK
def test_problem_features_are_the_mean_over_its_traces(traces: list[TraceFeatures]) -> None:
    found = problem_features(traces)
    assert found._fields == FEATURES == ("spread", "concentration", "logit_dispersion")
    for name in FEATURES:
        mean = math.fsum(getattr(trace, name) for trace in traces) / len(traces)
        assert getattr(found, name) == pytest.approx(mean, abs=1e-12)


def test_one_trace_makes_a_problem() -> None:
    trace = TraceFeatures(3, 0.5, 1.5, -2.0)
    assert problem_features([trace]) == ProblemFeatures(0.5, 1.5, -2.0)


def test_a_problem_without_traces_is_refused_in_words() -> None:
    with pytest.raises(InvalidInputError, match=r"no trace.*at least one failed rollout"):
        problem_features([])


# --- a measured rollout ---


def test_measuring_a_rollout_gives_its_signals_and_features() -> None:
    failed = rollout(1)
    assert failed.specialist is not None
    assert failed.ancestor is not None
    trace = measure(failed, 0.8)
    expected = token_signals(failed.token_ids, failed.specialist, failed.ancestor, 0.8)
    np.testing.assert_array_equal(trace.signals, expected)
    assert trace.features == trace_features(expected)
    assert trace.rollout is failed


@pytest.mark.parametrize("missing", ["specialist", "ancestor"])
def test_measuring_needs_the_lists_of_both_models(missing: str) -> None:
    full = rollout(2)
    lists = {"specialist": full.specialist, "ancestor": full.ancestor, missing: None}
    with pytest.raises(InvalidInputError, match=rf"no top-K of the {missing}.*score"):
        measure(Rollout("text", full.token_ids, "stop", **lists), 0.6)


# Faults that were found by attacking the package


def test_a_specialist_that_equals_its_ancestor_has_no_concentration() -> None:
    failed = rollout(3)
    same = Rollout("text", failed.token_ids, "stop", failed.specialist, failed.specialist)
    found = measure(same, 0.6).features
    assert (found.junction, found.spread, found.concentration) == (0, 0.0, 0.0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_smallest_pressure_there_is_gives_finite_features() -> None:
    assert all(map(math.isfinite, trace_features(signals([5e-324, 0.0, 0.0]))))
