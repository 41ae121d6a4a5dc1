"""How many examples a property is tried on: a quarter of them, but all where asked for."""

from __future__ import annotations

import os

from hypothesis import settings

ALL = "RECOV_GRAPH_ALL_EXAMPLES"


def examples(number: int) -> int:
    """`number` of them in `make long`, which sets ``RECOV_GRAPH_ALL_EXAMPLES``; else a quarter."""
    return number if os.environ.get(ALL) else min(number, max(10, number // 4))


settings.register_profile("ours", max_examples=examples(100), deadline=None)
