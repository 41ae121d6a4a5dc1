"""sparse_steer_random: sparse steering at a random position; tells whether the junction matters.

Source: Islah et al., arXiv 2606.05145.
"""

from __future__ import annotations

import numpy as np

from recov_graph.interventions.base import Failure
from recov_graph.interventions.online import Fires
from recov_graph.interventions.sparse_steer import SparseSteer


class SparseSteerRandom(SparseSteer):
    """The control of `SparseSteer`: the same change at a uniformly random position."""

    name = "sparse_steer_random"

    def position(self, failure: Failure) -> int:
        """A position of the failed trace, uniformly random."""
        # A stream of its own: the seed itself drives the continuation.
        rng = np.random.default_rng([failure.seed, 1])
        return int(rng.integers(len(failure.trace.rollout)))

    def fires(self, failure: Failure) -> Fires:
        """At a position drawn beforehand, uniform over the length of the failed trace."""
        position = self.position(failure)
        return lambda step, _: step == position
