"""Anchoring a repair in a fresh rollout: watch the demotion pressure, act where it is high.

Source: Islah et al., arXiv 2606.05145; the published toolkit works this way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Attempt, Failure
from recov_graph.interventions.mixing import Draw, likeliest
from recov_graph.interventions.replay import Continuation
from recov_graph.interventions.walk import walk
from recov_graph.models.base import Capability, Model
from recov_graph.rollout import TopK
from recov_graph.signals import TokenSignals, token_signals

Anchor = Literal["replay", "online"]
QUANTILE = 0.99
WARM_UP = 20  # tokens before the first that may fire

Fires = Callable[[int, TokenSignals], bool]
# (specialist [1, K], ancestor [1, K], signals of the token drawn, how to draw another) -> token
Act = Callable[[TopK, TopK, TokenSignals, Draw], int]


def needs_of(anchor: Anchor) -> frozenset[Capability]:
    """What a repair needs of a model; an anchor that does not exist is refused."""
    if anchor not in get_args(Anchor):
        raise InvalidInputError(f"anchor is {anchor!r}; it must be 'replay' or 'online'")
    access = Capability.CONTINUE if anchor == "replay" else Capability.STEP
    return frozenset({access, Capability.SCORE})


def on_pressure(failure: Failure, warm_up: int = WARM_UP) -> Fires:
    """Fires where a token's J passes the 0.99 quantile of J over all failed traces."""
    traces = failure.traces or [failure.trace]  # the latter says what is missing
    pressures = np.concatenate([trace.signals.j for trace in traces])
    threshold = float(np.quantile(pressures, QUANTILE))
    return lambda step, signals: step >= warm_up and bool(signals.j[0] > threshold)


def steer_online(
    model: Model,
    failure: Failure,
    *,
    fires: Fires,
    act: Act,
    window: int = 1,
    continuation: Continuation = "temperature",
) -> Attempt:
    """A fresh rollout in which the first token that fires, and a window after it, are replaced."""
    fired_at: int | None = None

    def choose(step: int, specialist: TopK, ancestor: TopK, draw: Draw) -> int:
        nonlocal fired_at
        if fired_at is not None and step >= fired_at + window and continuation == "greedy":
            return likeliest(specialist)
        token = draw(specialist, failure.temperature)
        if fired_at is not None and step >= fired_at + window:
            return token
        signals = token_signals([token], specialist, ancestor, failure.temperature)
        if fired_at is None and fires(step, signals):
            fired_at = step
        return token if fired_at is None else act(specialist, ancestor, signals, draw)

    rollout = walk(model, failure, choose)
    return Attempt(rollout, {"anchor": "online", "position": fired_at})
