"""Interventions by name: those that ship, and those that users register."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Intervention
from recov_graph.interventions.dense_steer import DenseSteer
from recov_graph.interventions.escalate import Escalate
from recov_graph.interventions.extend import Extend
from recov_graph.interventions.local_temp import LocalTemp
from recov_graph.interventions.replan import Replan
from recov_graph.interventions.retry import Retry
from recov_graph.interventions.sparse_steer import SparseSteer
from recov_graph.interventions.sparse_steer_random import SparseSteerRandom
from recov_graph.interventions.temp_lift import TempLift
from recov_graph.models.base import Capability

_TOKEN_LEVEL = (SparseSteer(), SparseSteerRandom(), LocalTemp(), DenseSteer())
_PROMPT_LEVEL = (TempLift(), Replan(), Extend())
_REGISTERED: dict[str, Intervention] = {}


def register(intervention: Intervention, *, replace: bool = False) -> Intervention:
    """Make an intervention known by its name, for every graph built after.

    Raises:
        InvalidInputError: it lacks part of the protocol, or the name is taken and `replace` is off.
    """
    if not isinstance(intervention, Intervention):
        missing = [
            m for m in ("name", "needs", "expected_cost", "apply") if not hasattr(intervention, m)
        ]
        raise InvalidInputError(
            f"{intervention!r} is no intervention: it lacks {', '.join(missing)}; "
            "see recov_graph.interventions.Intervention"
        )
    _checked(intervention)
    if intervention.name in _REGISTERED and not replace:
        raise InvalidInputError(
            f"an intervention named {intervention.name!r} exists; pick another name "
            "or pass replace=True"
        )
    _REGISTERED[intervention.name] = intervention
    return intervention


def unregister(name: str) -> None:
    """Forget an intervention; graphs built before keep it.

    Raises:
        InvalidInputError: there is none of that name.
    """
    if name not in _REGISTERED:
        raise _unknown(name)
    del _REGISTERED[name]


def registered() -> dict[str, Intervention]:
    """Every known intervention by name."""
    return dict(_REGISTERED)


def default_interventions(model_capabilities: Collection[Capability]) -> dict[str, Intervention]:
    """What a model's failures are given where nothing was chosen, by name.

    Always retry and what users registered; with `Capability.SCORE` the interventions on tokens,
    without it those on the prompt and on how it is sampled.
    """
    scores = Capability.SCORE in model_capabilities
    left_out: tuple[Intervention, ...] = _PROMPT_LEVEL if scores else _TOKEN_LEVEL
    return {
        name: one
        for name, one in _REGISTERED.items()
        # By identity: what a user put in place of one that ships is the user's.
        if all(one is not other for other in left_out)
    }


def resolve(
    chosen: Iterable[str | Intervention] | None,
    capabilities: Collection[Capability] = frozenset(Capability),
) -> dict[str, Intervention]:
    """The chosen interventions by name, given as names or objects.

    None means the default for a model of these capabilities; see `default_interventions`.

    Raises:
        InvalidInputError: a name that nobody registered, or nothing chosen.
    """
    if chosen is None:
        return default_interventions(capabilities)
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        raise InvalidInputError(
            f"interventions is {chosen!r}; it must be a list of names or objects, such as "
            "['retry', 'replan']"
        )
    found: dict[str, Intervention] = {}
    for item in chosen:
        if isinstance(item, str):
            if item not in _REGISTERED:
                raise _unknown(item)
            item = _REGISTERED[item]
        elif isinstance(item, type) and hasattr(item, "apply"):
            raise InvalidInputError(
                f"{item.__name__} is a class; give an object of it: {item.__name__}(...)"
            )
        elif not isinstance(item, Intervention):
            raise InvalidInputError(
                f"{item!r} is no intervention; give a name ({', '.join(_REGISTERED)}) or an "
                "object with name, needs, expected_cost and apply"
            )
        found[item.name] = _checked(item)
    if not found:
        raise InvalidInputError(f"no intervention was chosen; choose from {', '.join(_REGISTERED)}")
    return found


def _checked(one: Intervention) -> Intervention:
    """The intervention, refused where its name or its needs cannot be any."""
    if not isinstance(one.name, str) or not one.name:
        raise InvalidInputError(f"an intervention's name is {one.name!r}; it must be text")
    needs = one.needs
    if isinstance(needs, str) or not set(needs) <= set(Capability):
        raise InvalidInputError(
            f"intervention {one.name!r} needs {needs!r}; needs must be a frozenset of "
            f"{', '.join(f'Capability.{each.name}' for each in Capability)}"
        )
    return one


def _unknown(name: str) -> InvalidInputError:
    near = difflib.get_close_matches(name, _REGISTERED, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if name == Escalate.name:
        hint = "; give Escalate(model), which says whom to ask"
    if name == "restart":
        hint = "; give recov_graph.agents.Restart(), which is for agents"
    return InvalidInputError(
        f"no intervention is named {name!r}; known are {', '.join(_REGISTERED)}{hint}"
    )


for _intervention in (Retry(), *_TOKEN_LEVEL, *_PROMPT_LEVEL):
    register(_intervention)
