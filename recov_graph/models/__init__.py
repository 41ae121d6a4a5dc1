"""Models: what the loop needs of one, and the pair that ships with the package."""

from __future__ import annotations

from typing import Any

from recov_graph.errors import InvalidInputError
from recov_graph.models.base import Capability, Generation, Model, Scores, Session

__all__ = ["Capability", "Generation", "Model", "Scores", "Session", "as_model"]


def as_model(value: Any) -> Model:
    """A model from a model or the name of one that ships.

    Raises:
        InvalidInputError: neither.
    """
    if value == "embedded":
        from recov_graph.models.embedded import EmbeddedPair

        return EmbeddedPair()
    if isinstance(value, Model) and not isinstance(value, type):
        return value
    raise InvalidInputError(
        f"model is {value!r}; it must be 'embedded' or an object with name, capabilities, "
        "sample and the other members of recov_graph.models.Model"
    )
