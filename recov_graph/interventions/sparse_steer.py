"""sparse_steer: change one token, where the ancestor disagrees most, and go on as before.

Source: Islah et al., arXiv 2606.05145.
"""

from __future__ import annotations

from typing import get_args

from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Attempt, Failure, Lengths, steered_cost
from recov_graph.interventions.mixing import (
    ALPHA,
    Draw,
    checked_alpha,
    likeliest,
    mix,
    mode_at,
    row,
)
from recov_graph.interventions.online import Anchor, Fires, needs_of, on_pressure, steer_online
from recov_graph.interventions.replay import Continuation, go_on, with_token
from recov_graph.models.base import Model
from recov_graph.rollout import TopK
from recov_graph.signals import TokenSignals


class SparseSteer:
    """Take the likeliest token of the mixed distribution at the junction of a failed trace.

    Args:
        anchor: "replay" keeps the failed trace's prefix up to its junction; "online" starts a
            fresh rollout and steers where its demotion pressure first passes the 0.99 quantile
            of that of the failed traces, after 20 tokens.
        alpha: weight of the specialist in the mixture, 0 < alpha < 1.
        continuation: "temperature" samples what follows; "greedy" attributes a rescue to the steer.
    """

    name = "sparse_steer"

    def __init__(
        self,
        *,
        anchor: Anchor = "replay",
        alpha: float = ALPHA,
        continuation: Continuation = "temperature",
    ) -> None:
        self.needs = needs_of(anchor)
        if continuation not in get_args(Continuation):
            raise InvalidInputError(
                f"continuation is {continuation!r}; it must be 'temperature' or 'greedy'"
            )
        self.anchor = anchor
        self.alpha = checked_alpha(alpha)
        self.continuation: Continuation = continuation

    def expected_cost(self, lengths: Lengths) -> int:
        """Prompt and prefix read, the rest written; twice that where both models walk along."""
        if self.anchor == "online":
            return steered_cost(lengths)
        return lengths.prompt + lengths.completion

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One rollout with one token changed."""
        if self.anchor == "online":
            return steer_online(
                model,
                failure,
                fires=self.fires(failure),
                act=self._act,
                continuation=self.continuation,
            )
        position = self.position(failure)
        rollout, signals, _ = failure.trace
        # A measured trace holds the top-K of both models, so the mixture costs no further call.
        assert rollout.specialist is not None
        assert rollout.ancestor is not None
        token = self._mixed(
            row(rollout.specialist, position), row(rollout.ancestor, position), signals, position
        )
        prefix = with_token(rollout.token_ids[:position], token)
        changed = token != int(rollout.token_ids[position])
        return Attempt(
            go_on(model, failure, prefix, self.continuation),
            {"anchor": "replay", "position": position, "changed": changed},
        )

    def position(self, failure: Failure) -> int:
        """Where a failed trace is changed: at its junction."""
        return failure.trace.features.junction

    def fires(self, failure: Failure) -> Fires:
        """When a fresh rollout is changed: where demotion pressure is unusually high."""
        return on_pressure(failure)

    def _act(self, specialist: TopK, ancestor: TopK, signals: TokenSignals, _: Draw) -> int:
        return self._mixed(specialist, ancestor, signals, 0)

    def _mixed(self, specialist: TopK, ancestor: TopK, signals: TokenSignals, position: int) -> int:
        mode = mode_at(signals, position)
        return likeliest(mix(specialist, ancestor, alpha=self.alpha, mode=mode))
