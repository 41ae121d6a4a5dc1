"""A trace: one failed rollout together with what was measured on it."""

from __future__ import annotations

from typing import NamedTuple

from recov_graph.errors import InvalidInputError
from recov_graph.features import TraceFeatures, trace_features
from recov_graph.rollout import Rollout
from recov_graph.signals import TokenSignals, token_signals


class Trace(NamedTuple):
    """A failed rollout that holds the top-K of both models, its signals and its features."""

    rollout: Rollout
    signals: TokenSignals
    features: TraceFeatures


def measure(rollout: Rollout, temperature: float) -> Trace:
    """Signals and features of a rollout sampled at a temperature.

    Raises:
        InvalidInputError: the rollout lacks the top-K of specialist or ancestor, or is empty.
    """
    if rollout.specialist is None or rollout.ancestor is None:
        missing = "specialist" if rollout.specialist is None else "ancestor"
        raise InvalidInputError(
            f"the rollout has no top-K of the {missing}; score it with model.score first"
        )
    signals = token_signals(rollout.token_ids, rollout.specialist, rollout.ancestor, temperature)
    return Trace(rollout, signals, trace_features(signals))
