"""Trace features: the three numbers, per rollout and per problem, that routing goes by.

Source: Islah et al., arXiv 2606.05145.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recov_graph.errors import InvalidInputError
from recov_graph.signals import TokenSignals
from recov_graph.words import short

WINDOW = 8
POSITIVE = 1e-9  # demotion pressure at or under this counts as none
LEAST_DISPERSION = 1e-8


class TraceFeatures(NamedTuple):
    """How one rollout departs from the ancestor.

    Attributes:
        junction: position of the largest demotion pressure, the first one on ties.
        spread: share of tokens under demotion pressure, 0 to 1.
        concentration: log10 of the largest over the mean demotion pressure; 0 where there is none.
        logit_dispersion: log10 of the mean logit variance around the junction [log10 nats^2].
    """

    junction: int
    spread: float
    concentration: float
    logit_dispersion: float


class ProblemFeatures(NamedTuple):
    """The mean of each feature over the failed plain rollouts of one problem."""

    spread: float
    concentration: float
    logit_dispersion: float


FEATURES = ProblemFeatures._fields


def trace_features(signals: TokenSignals, window: int = WINDOW) -> TraceFeatures:
    """The features of one rollout.

    Args:
        signals: the rollout's token signals, float [L] each.
        window: tokens on each side of the junction that logit_dispersion averages over.

    Raises:
        InvalidInputError: an empty rollout, lengths that differ, or a negative window.
    """
    j, variance = np.asarray(signals.j), np.asarray(signals.logit_var)
    if j.ndim != 1 or len(j) == 0 or j.shape != variance.shape:
        raise InvalidInputError(
            f"signals have j {j.shape} and logit_var {variance.shape}; "
            "both must be [L] with L at least 1"
        )
    if not (isinstance(window, int | np.integer) and window >= 0):
        raise InvalidInputError(f"window is {short(window)}; it must be an integer of at least 0")
    if not (np.isfinite(j).all() and np.isfinite(variance).all()):
        raise InvalidInputError("signals hold NaN or infinite values; they must be finite")
    j = np.where(j > POSITIVE, j, 0.0)  # rounding noise has no junction
    junction = int(j.argmax())
    peak = float(j[junction])
    near = variance[max(0, junction - window) : junction + window + 1]
    return TraceFeatures(
        junction=junction,
        spread=float((j > 0).mean()),
        concentration=float(np.log10(peak / j.mean())) if peak > 0 else 0.0,
        logit_dispersion=float(np.log10(max(LEAST_DISPERSION, near.mean()))),
    )


def problem_features(traces: Sequence[TraceFeatures]) -> ProblemFeatures:
    """The features of one problem from those of its failed plain rollouts.

    Raises:
        InvalidInputError: no trace was given.
    """
    if len(traces) == 0:
        raise InvalidInputError(
            "problem_features got no trace; it needs the features of at least one failed rollout"
        )
    return ProblemFeatures(
        *(float(np.mean([getattr(trace, name) for trace in traces])) for name in FEATURES)
    )
