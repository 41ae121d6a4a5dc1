"""The seed of every attempt, so that a run can be repeated whatever the order of its problems."""

from __future__ import annotations

import hashlib
import secrets

SEEDS = 2**31  # a seed is below


def call_seed(seed: int | None, problem_id: str, position: int) -> int:
    """The seed of one attempt: from the run's seed, or random where the run has none."""
    if seed is None:
        return secrets.randbelow(SEEDS)
    digest = hashlib.blake2b(f"{seed}/{problem_id}/{position}".encode(), digest_size=4)
    return int.from_bytes(digest.digest()) % SEEDS
