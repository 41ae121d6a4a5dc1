"""Interventions by name: those that ship, and those that users register."""

from __future__ import annotations

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
    found: dict[str, Intervention] = {}
    for item in chosen:
        if isinstance(item, str):
            if item not in _REGISTERED:
                raise _unknown(item)
            item = _REGISTERED[item]
        elif not isinstance(item, Intervention):
            raise InvalidInputError(
                f"{item!r} is no intervention; give a name ({', '.join(_REGISTERED)}) or an "
                "object with name, needs, expected_cost and apply"
            )
        found[item.name] = item
    if not found:
        raise InvalidInputError(f"no intervention was chosen; choose from {', '.join(_REGISTERED)}")
    return found


def _unknown(name: str) -> InvalidInputError:
    hint = "; give Escalate(model), which says whom to ask" if name == Escalate.name else ""
    return InvalidInputError(
        f"no intervention is named {name!r}; known are {', '.join(_REGISTERED)}{hint}"
    )


for _intervention in (Retry(), *_TOKEN_LEVEL, *_PROMPT_LEVEL):
    register(_intervention)
