"""What a model allows: what its server offers, and which interventions and features follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from recov_graph.interventions import Intervention, registered
from recov_graph.models import Capability, Model
from recov_graph.words import count

if TYPE_CHECKING:
    from recov_graph.models.openai import Access, OpenAIModel

FIXES = {
    Capability.TEMPERATURE: "the model fixes its own temperature; use one that does not",
    Capability.INSTRUCT: "no chat template is applied; start the server with --chat-template",
    Capability.CONTINUE: "serve the model with vLLM, which takes token ids",
    Capability.STEP: "token ids are needed; give the address of vLLM itself, not of a gateway",
}
WAYS = {
    "tokens": "by token ids",
    "text": "by text",
    "messages": "by the assistant's message (continue_final_message)",
}
SCORING = {"tokens": "prompt_logprobs", "text": "echo", "messages": "prompt_logprobs of chat"}


class Fact(NamedTuple):
    """One thing that a server does or does not offer.

    Attributes:
        name: what it is.
        specialist: what the specialist's server offers, in words.
        ancestor: what the ancestor's does; None where there is no ancestor.
    """

    name: str
    specialist: str
    ancestor: str | None


class Allowed(NamedTuple):
    """Whether an intervention or a set of features can be had, and if not, what to do."""

    name: str
    possible: bool
    fix: str


class Examination(NamedTuple):
    """What was found out about a model.

    Attributes:
        model: its name.
        facts: what the servers offer; empty for a model that is behind none.
        features: token features and rollout features.
        interventions: all that are known.
    """

    model: str
    facts: list[Fact]
    features: list[Allowed]
    interventions: list[Allowed]

    def as_data(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "model": self.model,
            "facts": [fact._asdict() for fact in self.facts],
            "features": [allowed._asdict() for allowed in self.features],
            "interventions": [allowed._asdict() for allowed in self.interventions],
        }


def examine(model: Model, interventions: Iterable[Intervention] = ()) -> Examination:
    """Find out what a model allows.

    Args:
        model: any model; one behind a server is asked where nothing is known of it.
        interventions: judged besides all that are registered.

    Raises:
        ModelError: the model cannot be had.
    """
    able = model.capabilities
    facts: list[Fact] = []
    fixes = dict(FIXES)
    if hasattr(model, "why_not_scored"):
        behind: OpenAIModel = model  # type: ignore[assignment]
        ancestor = behind.ancestor_access
        facts = _facts(behind.access, ancestor)
        why = behind.why_not_scored()
        fixes[Capability.SCORE] = why or ""
        fixes[Capability.STEP] = why or FIXES[Capability.STEP]
    known = {**registered(), **{one.name: one for one in interventions}}
    scored = Capability.SCORE in able
    fix = fixes.get(Capability.SCORE, "the model does not score texts")
    features = [
        Allowed("token features", scored, "" if scored else fix),
        Allowed("rollout features", not scored, "" if not scored else "token features say more"),
    ]
    return Examination(
        model.name,
        facts,
        features,
        [_allowed(one, able, fixes) for one in known.values()],
    )


def _allowed(
    one: Intervention, able: frozenset[Capability], fixes: dict[Capability, str]
) -> Allowed:
    missing = sorted(one.needs - able)
    fix = fixes.get(missing[0], f"the model lacks {missing[0].value!r}") if missing else ""
    return Allowed(one.name, not missing, fix)


def _facts(specialist: Access, ancestor: Access | None) -> list[Fact]:
    named: tuple[tuple[str, Callable[[Access], str]], ...] = (
        ("sampling", lambda a: "chat" if a.way in ("chat", "messages") else "completions"),
        ("chat template", lambda a: _yes(a.chat)),
        ("temperature", lambda a: _yes(a.temperature)),
        ("log-probabilities", lambda a: _most(a.logprobs, "per sampled token")),
        ("continuing a prefix", lambda a: WAYS.get(a.way, "no")),
        (
            "scoring a text",
            lambda a: (
                f"{_most(a.scored, 'per token')}, {SCORING[a.way]}" if a.way in SCORING else "no"
            ),
        ),
        ("token ids", lambda a: _yes(a.way in ("tokens", "messages"))),
        ("seeds", lambda a: "not found out" if a.seeds is None else _yes(a.seeds)),
        ("context", lambda a: "unknown" if a.context is None else count(a.context, "token")),
    )
    return [
        Fact(name, tell(specialist), None if ancestor is None else tell(ancestor))
        for name, tell in named
    ]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _most(number: int, what: str) -> str:
    return f"{number} {what}" if number else "no"
