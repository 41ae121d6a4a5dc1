"""local_temp: raise the temperature for a few tokens at the junction, and go on as before.

Source: Islah et al., arXiv 2606.05145.
"""

from __future__ import annotations

import numpy as np

from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Attempt, Failure, Lengths, steered_cost
from recov_graph.interventions.mixing import Draw
from recov_graph.interventions.online import Anchor, needs_of, on_pressure, steer_online
from recov_graph.interventions.replay import go_on
from recov_graph.models.base import Model
from recov_graph.rollout import Rollout, TopK
from recov_graph.signals import TokenSignals


class LocalTemp:
    """Sample the junction of a failed trace, and a window from there, at a higher temperature.

    Args:
        anchor: "replay" keeps the failed trace's prefix up to its junction; "online" starts a
            fresh rollout and acts where its demotion pressure first passes the 0.99 quantile of
            that of the failed traces, after 20 tokens.
        temperature: the local temperature, above the decoding temperature to have an effect.
        window: tokens sampled at it, at least 1.
    """

    name = "local_temp"

    def __init__(
        self, *, anchor: Anchor = "replay", temperature: float = 1.5, window: int = 1
    ) -> None:
        self.needs = needs_of(anchor)
        if not temperature > 0:
            raise InvalidInputError(f"temperature is {temperature!r}; it must be above 0")
        if window < 1:
            raise InvalidInputError(f"window is {window!r}; it must be at least 1")
        self.anchor = anchor
        self.temperature = temperature
        self.window = window

    def expected_cost(self, lengths: Lengths) -> int:
        """The prompt read twice, as is the prefix, half a completion; or both models walking."""
        if self.anchor == "online":
            return steered_cost(lengths)
        return 2 * lengths.prompt + lengths.completion + lengths.completion // 2

    def apply(self, failure: Failure, model: Model) -> Attempt:
        """One rollout with a window of warmer tokens."""
        if self.anchor == "online":
            return steer_online(
                model, failure, fires=on_pressure(failure), act=self._act, window=self.window
            )
        position = failure.trace.features.junction
        prefix = failure.trace.rollout.token_ids[:position]
        window = model.sample(
            failure.problem.prompt,
            temperature=self.temperature,
            max_tokens=min(self.window, failure.max_tokens - position),
            # A stream of its own: the seed itself drives the continuation.
            seed=int(np.random.default_rng([failure.seed, 2]).integers(2**31)),
            prefix=prefix,
        ).rollouts[0]
        tokens = np.concatenate([prefix, window.token_ids])
        details = {"anchor": "replay", "position": position}
        if window.finish_reason == "stop":  # also where the end itself is no token of the rollout
            return Attempt(Rollout(model.decode(tokens), tokens, "stop"), details)
        return Attempt(go_on(model, failure, tokens), details)

    def _act(self, specialist: TopK, _: TopK, __: TokenSignals, draw: Draw) -> int:
        return draw(specialist, self.temperature)
