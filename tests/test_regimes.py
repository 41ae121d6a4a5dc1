"""The retrospective regime of a problem, from its measured rescue rates."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recov_graph.errors import InvalidInputError
from recov_graph.regimes import regime_label
from recov_graph.routing.decision import Regime
from tests.searching import examples

OPERATORS = ("sparse_steer", "sparse_steer_random", "local_temp", "dense_steer")


def label(retry: float, *interventions: float) -> str:
    return regime_label({"retry": retry, **dict(zip(OPERATORS, interventions, strict=False))})


@pytest.mark.parametrize(
    ("retry", "interventions", "expected"),
    [
        (0.0, (0.3, 0.0), "steerable_hard"),
        (0.0, (0.05,), "steerable_hard"),
        (0.5, (0.55,), "steerable_hard"),
        (0.15, (0.2,), "steerable_hard"),  # 0.2 - 0.15 is just under 0.05 in floats
        (0.3, (0.35,), "steerable_hard"),
        (0.0, (0.049,), "sampling"),
        (0.2, (0.2, 0.24), "sampling"),
        (0.51, (1.0,), "sampling"),
        (0.5, (0.54,), "sampling"),
        (0.4, (0.0, 0.0), "sampling"),
        (1.0, (1.0,), "sampling"),
        (0.01, (0.0,), "sampling"),
        (0.0, (0.01,), "sampling"),
        (0.0, (0.0, 0.0, 0.0, 0.0), "out_of_reach"),
    ],
)
def test_labels_at_and_around_the_boundaries(
    retry: float, interventions: tuple[float, ...], expected: str
) -> None:
    assert label(retry, *interventions) == expected


@given(
    samples=st.integers(1, 60),
    retry=st.floats(0, 1),
    others=st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=examples(200))
def test_rates_of_counts_get_the_label_of_exact_arithmetic(
    samples: int, retry: float, others: list[float]
) -> None:
    counts = [round(share * samples) for share in (retry, *others)]
    by_retry, best = Fraction(counts[0], samples), Fraction(max(counts[1:]), samples)
    if best - by_retry >= Fraction(1, 20) and by_retry <= Fraction(1, 2):
        expected = "steerable_hard"
    else:
        expected = "out_of_reach" if best == by_retry == 0 else "sampling"
    found = label(*(count / samples for count in counts))
    assert found == expected
    assert found in get_args(Regime)


def test_the_best_intervention_counts_whatever_its_name_and_place() -> None:
    assert regime_label({"mine": 0.9, "retry": 0.1, "other": 0.0}) == "steerable_hard"


@pytest.mark.parametrize(
    ("rates", "fragments"),
    [
        ({}, ["[]", "'retry'", "at least one intervention"]),
        ({"retry": 0.5}, ["['retry']", "at least one intervention"]),
        ({"dense_steer": 0.5, "local_temp": 0.1}, ["['dense_steer', 'local_temp']", "'retry'"]),
        ({"retry": 1.5, "dense_steer": 0.5}, ["rescue rate of retry is 1.5", "0 to 1"]),
        ({"retry": 0.5, "dense_steer": -0.1}, ["rescue rate of dense_steer is -0.1", "0 to 1"]),
        ({"retry": math.nan, "dense_steer": 0.1}, ["rescue rate of retry is nan", "0 to 1"]),
        ({"retry": 0.1, "dense_steer": math.inf}, ["rescue rate of dense_steer is inf", "0 to 1"]),
    ],
)
def test_rates_that_do_not_fit_are_refused_in_words(
    rates: dict[str, float], fragments: list[str]
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        regime_label(rates)
    message = str(refused.value)
    assert [fragment for fragment in fragments if fragment not in message] == [], message
