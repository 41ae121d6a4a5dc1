"""Interventions by name: the five that ship, and those that users register."""

from __future__ import annotations

from collections.abc import Iterable

from recov_graph.errors import InvalidInputError
from recov_graph.interventions.base import Intervention
from recov_graph.interventions.dense_steer import DenseSteer
from recov_graph.interventions.local_temp import LocalTemp
from recov_graph.interventions.retry import Retry
from recov_graph.interventions.sparse_steer import SparseSteer
from recov_graph.interventions.sparse_steer_random import SparseSteerRandom

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


def resolve(chosen: Iterable[str | Intervention] | None) -> dict[str, Intervention]:
    """The chosen interventions by name, given as names or objects; None means all known.

    Raises:
        InvalidInputError: a name that nobody registered, or nothing chosen.
    """
    if chosen is None:
        return registered()
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
    return InvalidInputError(
        f"no intervention is named {name!r}; known are {', '.join(_REGISTERED)}"
    )


for _intervention in (Retry(), SparseSteer(), SparseSteerRandom(), LocalTemp(), DenseSteer()):
    register(_intervention)
