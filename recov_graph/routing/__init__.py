"""Routing: from what was measured on a failure to the next operator, or to stopping."""

from __future__ import annotations

from pathlib import Path

from recov_graph.errors import InvalidInputError
from recov_graph.routing.decision import Candidate, Decision, Evidence, Router
from recov_graph.routing.fitted import PosteriorRouter
from recov_graph.routing.policy import Policy, default_policy, load_policy
from recov_graph.routing.rule import RuleRouter

__all__ = [
    "Candidate",
    "Decision",
    "Evidence",
    "Policy",
    "PosteriorRouter",
    "Router",
    "RuleRouter",
    "as_router",
    "default_policy",
    "load_policy",
]


def as_router(value: Router | Policy | str | Path | None) -> Router:
    """A router from a router, a policy, a policy file, or None for the policy that ships.

    Raises:
        InvalidInputError: none of these.
        PolicyError: the policy file cannot be used.
    """
    if value is None:
        value = default_policy()
    if isinstance(value, str | Path):
        value = load_policy(value)
    if isinstance(value, Policy):
        return RuleRouter(value) if value.posterior is None else PosteriorRouter(value)
    if isinstance(value, Router) and not isinstance(value, type):
        return value
    raise InvalidInputError(
        f"router is {value!r}; it must be a Router, a Policy or the path of a policy file"
    )
