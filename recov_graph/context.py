"""What may differ from one invocation of a graph to the next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, create_model

from recov_graph.budget import MOST
from recov_graph.errors import InvalidInputError
from recov_graph.problem import describe
from recov_graph.signals import COLDEST, HOTTEST
from recov_graph.words import short

Count = Annotated[StrictInt, Field(gt=0, lt=MOST)]
SEED_LIMIT = 2**63  # a seed has at most 63 bits
STEPS = 5  # of LangGraph: one more attempt, and the end
TOO_FEW_STEPS = (
    "the limit on LangGraph's steps leaves no further attempt: some ways of calling a graph, such "
    "as batch, set it to 25; pass config={'recursion_limit': 100}"
)
SEPARATOR = "|"  # of LangGraph, between the namespaces of a graph and of a graph in it


class RecoveryContext(BaseModel):
    """Settings of one invocation: ``graph.invoke(..., context={"max_attempts": 5})``.

    What is left out, or None, is as the graph was built. It is not kept: who goes on after a pause
    gives it again. Only what had to be approved at first has to be until the problem ends.

    Raises:
        InvalidInputError: an unknown name, or a value of the wrong type or range.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"description": "Settings of one run; those left out are the graph's."},
    )

    max_attempts: Count | None = Field(
        None, title="Attempts", description="Rollouts in all, the first samples included."
    )
    max_tokens: Count | None = Field(
        None, title="Tokens", description="Tokens in all, read or written, by any model."
    )
    max_seconds: Annotated[float, Field(gt=0, lt=MOST, strict=True)] | None = Field(
        None, title="Seconds", description="Time spent in model calls."
    )
    temperature: Annotated[float, Field(ge=COLDEST, le=HOTTEST, strict=True)] | None = Field(
        None, title="Temperature", description="Decoding temperature of plain rollouts."
    )
    policy: Literal["active", "shipped"] | str | None = Field(
        None,
        title="Policy",
        description="What routes: 'active', 'shipped', or a policy's name, hash or file.",
    )
    interventions: list[str] | None = Field(
        None, title="Allowed interventions", description="Those that may be chosen."
    )
    approve: list[str] | None = Field(
        None,
        title="Ask before",
        description="Interventions that a person approves, at an interrupt, before they are paid.",
    )
    seed: Annotated[StrictInt, Field(gt=-SEED_LIMIT, lt=SEED_LIMIT)] | None = Field(
        None, title="Seed", description="Makes the run repeatable."
    )

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise InvalidInputError(
                f"not a context: {describe(error)}; a context has {', '.join(FIELDS)}"
            ) from None


FIELDS = tuple(RecoveryContext.model_fields)


def context_schema(interventions: Iterable[str]) -> type[RecoveryContext]:
    """The context of a graph that has these interventions to choose from, named in its schema."""
    literal: Any = Literal
    one: Any = literal[tuple(interventions)]
    names: Any = list[one] | None
    fields = RecoveryContext.model_fields
    return create_model(
        "RecoveryContext",
        __base__=RecoveryContext,
        __doc__=RecoveryContext.__doc__,
        interventions=(names, fields["interventions"]),
        approve=(names, fields["approve"]),
    )


def given_context(runtime: Runtime[Any]) -> RecoveryContext | None:
    """The invocation's context; None where there is none, or only that of a graph around.

    Raises:
        InvalidInputError: the graph was invoked with something else.
    """
    given = runtime.context
    if given is None or isinstance(given, RecoveryContext):
        return given
    # The context of a graph around arrives in the graph inside, and means something else there.
    execution = runtime.execution_info
    if execution is not None and SEPARATOR in execution.checkpoint_ns:
        return None
    raise InvalidInputError(
        f"context is {short(given)}; it must be a dictionary with some of {', '.join(FIELDS)}, "
        "or None"
    )
