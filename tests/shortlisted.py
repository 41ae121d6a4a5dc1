"""The embedded pair as a server shows it: of each distribution the k likeliest tokens only."""

from __future__ import annotations

from typing import Any

import numpy as np

from recov_graph.models.embedded import EmbeddedPair
from recov_graph.rollout import TopK


class Shortlisted(EmbeddedPair):
    """What token-by-token mixing over HTTP would mix; sampling and scoring are as they were."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self._k = k

    def open(self, prompt: str, **how: Any) -> Any:
        """A session that shows less."""
        session = super().open(prompt, **how)
        whole = session.distributions

        def likeliest() -> tuple[TopK, ...]:
            return tuple(self._cut(topk) for topk in whole())

        session.distributions = likeliest  # type: ignore[method-assign,assignment]
        return session

    def _cut(self, topk: TopK) -> TopK:
        order = np.argsort(-topk.logprobs[0], kind="stable")[: self._k]
        return TopK(topk.ids[:, order], topk.logprobs[:, order])
