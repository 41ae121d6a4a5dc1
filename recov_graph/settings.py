"""The settings a graph was built with, and what a context makes of them for one invocation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recov_graph.budget import Budget
from recov_graph.context import SEED_LIMIT, RecoveryContext
from recov_graph.errors import InvalidInputError
from recov_graph.interventions import Intervention, resolve
from recov_graph.models.base import Capability
from recov_graph.policies import ACTIVE, PolicyShelf
from recov_graph.routing import Policy, Router, as_router
from recov_graph.signals import checked_temperature
from recov_graph.store import TraceStore

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
        if context.interventions:  # a form sends an empty list where nothing was filled in
            self._known("interventions", context.interventions)
            interventions = {name: interventions[name] for name in context.interventions}
        approve = self.approve
        if context.approve:
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


def as_settings(
    router: Router | Policy | str | Path | None,
    interventions: Iterable[str | Intervention] | None,
    budget: Budget | None,
    temperature: float,
    seed: int | None,
    approve: Iterable[str],
    *,
    can: Collection[Capability],
) -> Settings:
    """Settings as a user gives them, for a model of some capabilities.

    Raises:
        InvalidInputError: one of the wrong type or range, naming what is legal.
        PolicyError: the policy cannot be used.
    """
    if not (budget is None or isinstance(budget, Budget)):
        raise InvalidInputError(f"budget is {budget!r}; it must be a Budget or None")
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if seed is not None and not (whole and abs(seed) < SEED_LIMIT):
        raise InvalidInputError(
            f"seed is {seed!r}; it must be a whole number of at most 63 bits, or None"
        )
    if isinstance(approve, str) or not isinstance(approve, Iterable):
        raise InvalidInputError(
            f"approve is {approve!r}; it must be a list of names of interventions"
        )
    if router is None:
        router = PolicyShelf().active()  # None again where none was ever activated
    return Settings(
        as_router(router),
        resolve(interventions, can),
        budget or Budget(),
        checked_temperature(temperature),
        seed,
        frozenset(map(str, approve)),
    )


def as_store(store: Any) -> TraceStore | None:
    """A store from a store, a path, or None for none.

    Raises:
        InvalidInputError: neither of these.
        StoreError: it cannot be opened.
    """
    if store is None or isinstance(store, TraceStore):
        return store
    if isinstance(store, str | Path):
        return TraceStore(store)
    raise InvalidInputError(f"store is {store!r}; it must be a TraceStore, a path or None")
