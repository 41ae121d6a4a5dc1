"""The settings a graph was built with, and what a context makes of them for one invocation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from recov_graph.budget import Budget
from recov_graph.context import RecoveryContext
from recov_graph.errors import InvalidInputError
from recov_graph.interventions import Intervention
from recov_graph.policies import ACTIVE, PolicyShelf
from recov_graph.routing import Router, as_router

LIMITS = ("max_attempts", "max_tokens", "max_seconds")


@dataclass(frozen=True)
class Settings:
    """What routes, what may be chosen, and how much it may cost.

    Attributes:
        router: decides what is tried next.
        interventions: what it chooses from, by name.
        budget: limits for each problem.
        temperature: decoding temperature of plain rollouts.
        seed: makes runs repeatable; None draws fresh randomness.
        approve: the interventions that a person approves before they are paid.
    """

    router: Router
    interventions: Mapping[str, Intervention]
    budget: Budget
    temperature: float
    seed: int | None = None
    approve: frozenset[str] = frozenset()
    _routers: dict[str, Router] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._known("approve", self.approve)

    def changed_by(self, context: RecoveryContext | None) -> Settings:
        """These settings with what a context sets otherwise.

        Raises:
            InvalidInputError: the context names an intervention that the graph does not have.
            PolicyError: it names a policy that cannot be used.
        """
        if context is None:
            return self
        limits = {name: getattr(context, name) for name in LIMITS}
        interventions = self.interventions
        if context.interventions is not None:
            self._known("interventions", context.interventions)
            if not context.interventions:
                raise InvalidInputError(
                    f"the context allows no intervention; name some of {', '.join(interventions)}"
                )
            interventions = {name: interventions[name] for name in context.interventions}
        approve = self.approve
        if context.approve is not None:
            self._known("approve", context.approve)
            approve = frozenset(context.approve)
        return replace(
            self,
            router=self.router if context.policy is None else self._routed_by(context.policy),
            interventions=interventions,
            budget=replace(self.budget, **{k: v for k, v in limits.items() if v is not None}),
            temperature=self.temperature if context.temperature is None else context.temperature,
            seed=self.seed if context.seed is None else context.seed,
            approve=approve & interventions.keys(),
        )

    def _known(self, what: str, names: Collection[str]) -> None:
        unknown = sorted(set(names) - set(self.interventions))
        if unknown:
            raise InvalidInputError(
                f"{what} names {', '.join(map(repr, unknown))}; this graph has "
                f"{', '.join(self.interventions)}"
            )

    def _routed_by(self, ref: str) -> Router:
        """The router of a policy; read once, so that it is the same for all of a problem."""
        if ref not in self._routers:
            shelf = PolicyShelf()
            policy = shelf.active() if ref == ACTIVE else shelf.find(ref)
            self._routers[ref] = as_router(policy)
        return self._routers[ref]
