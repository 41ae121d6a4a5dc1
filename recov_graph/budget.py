"""One budget for all that a problem may cost, and the meter every model call goes through."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from recov_graph.errors import InvalidInputError, ModelError, RecovGraphError
from recov_graph.models.base import (
    Capability,
    Draft,
    Generation,
    Ids,
    Model,
    Role,
    Scores,
    Session,
    overhead_of,
    pieces_of,
)
from recov_graph.rollout import FinishReason, TopK, Usage
from recov_graph.words import short

MOST = 2**53  # beyond it a number is no budget, and a column of the store overflows
Result = TypeVar("Result", Generation, Scores)


class BudgetExhausted(RecovGraphError):  # noqa: N818 - a signal inside the loop, not a fault
    """The budget allows no further call; the message says which limit was reached."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for one problem; None means no limit.

    Args:
        max_attempts: rollouts in all, the first samples included.
        max_tokens: tokens in all, read or written, scoring and ancestor passes included.
        max_seconds: time spent in model calls.
    """

    max_attempts: int = 12
    max_tokens: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_attempts", "max_tokens", "max_seconds"):
            value = getattr(self, name)
            if value is None and name != "max_attempts":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            whole = name == "max_seconds" or isinstance(value, int)
            if not (number and whole and 0 < value < MOST):
                kind = "number" if name == "max_seconds" else "whole number"
                most = f" and below {MOST:.0e}" if number and MOST <= value < math.inf else ""
                raise InvalidInputError(
                    f"{name} is {short(value)}; it must be a {kind} above 0{most}"
                )

    def tokens_left(self, spent: Usage) -> float:
        """Tokens that may still be spent; infinite without a limit."""
        return math.inf if self.max_tokens is None else self.max_tokens - spent.tokens

    def reached(self, spent: Usage) -> str | None:
        """The limit on tokens or time that was reached, in words, or None."""
        if self.max_tokens is not None and spent.tokens >= self.max_tokens:
            return f"{spent.tokens} of {self.max_tokens} tokens are spent"
        if self.max_seconds is not None and spent.seconds >= self.max_seconds:
            return f"{spent.seconds:.1f} of {self.max_seconds:g} seconds are spent"
        return None


class Ledger:
    """What a problem has cost call by call, and what its budget still allows.

    Tokens of every model count as they are, one for one.

    Args:
        budget: the limits.
        problem_id: makes the ids of the entries.
        calls: what was spent before, entries by id.
    """

    def __init__(
        self, budget: Budget, problem_id: str, calls: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.budget = budget
        self._problem_id = problem_id
        self._first = len(calls)
        self.spent = sum((Usage.from_dict(call) for call in calls.values()), Usage())
        self.calls: dict[str, dict[str, Any]] = {}

    def left(self, needed: int) -> float:
        """The tokens left, or BudgetExhausted where they do not cover what the next call needs."""
        reached = self.budget.reached(self.spent)
        if reached is not None:
            raise BudgetExhausted(reached)
        return self.covers(needed)

    def covers(self, needed: int) -> float:
        """As `left`, for a call under way: nothing but the tokens count."""
        left = self.budget.tokens_left(self.spent)
        if left < needed:
            raise BudgetExhausted(f"{left:.0f} tokens are left and the next call needs {needed}")
        return left

    def may_go_on(self, tokens: int) -> bool:
        """True while the budget covers that many tokens more."""
        return (
            self.budget.reached(self.spent) is None
            and self.budget.tokens_left(self.spent) >= tokens
        )

    def new_id(self) -> str:
        """An id for the next entry: the same when a node is run again from the same state."""
        return f"{self._problem_id}/call{self._first + len(self.calls)}"

    def enter(self, call_id: str, purpose: str, usage: Usage, started: float) -> None:
        """Enter a call, or the new state of one that goes on; nothing spent is ever given back."""
        before = Usage.from_dict(self.calls.get(call_id, {}))
        usage = Usage(
            max(before.prompt_tokens, usage.prompt_tokens),
            max(before.completion_tokens, usage.completion_tokens),
            max(before.scored_tokens, usage.scored_tokens),
            time.monotonic() - started,
        )
        self.calls[call_id] = {"id": call_id, "purpose": purpose, **usage.as_dict()}
        self.spent = self.spent - before + usage

    def restore(self, calls: Mapping[str, Mapping[str, Any]]) -> None:
        """Enter calls that were made before and never reached the ledger."""
        for name, call in calls.items():
            self.calls[name] = dict(call)
            self.spent += Usage.from_dict(call)


class Made(NamedTuple):
    """A call: what it asked, what it gave, and its entry in the ledger.

    One that gave nothing was itself interrupted: the model asks a person.
    """

    asked: tuple[str, Any]
    result: Generation | Scores | None = None
    entry: Mapping[str, Any] = MappingProxyType({})


class MeteredModel:
    """A model whose every call is checked against the budget before and entered after.

    It is what nodes and interventions are given, so that none can spend past the budget: each
    call is refused once a limit is reached, and cut to the tokens that are left.

    Args:
        model: the model that does the work.
        budget: the limits.
        problem_id: makes the ids of the ledger's entries.
        calls: what was spent before, entries by id.
        made: calls that a node had made when it was interrupted, with what they gave: when it is
            run again they are not made, nor paid, again.
    """

    def __init__(
        self,
        model: Model,
        budget: Budget,
        problem_id: str,
        calls: Mapping[str, Mapping[str, Any]],
        made: Mapping[str, Made] | None = None,
    ) -> None:
        self._model = model
        self._ledger = Ledger(budget, problem_id, calls)
        self._purpose: str | None = None
        self.made: dict[str, Made] = dict(made or {})

    def beside(self, model: Model, purpose: str = "escalate") -> MeteredModel:
        """Another model on the same ledger; `purpose` is what the ledger calls all its calls.

        Where this model is part of something larger, the other takes its place there: a model says
        so by a method `replaced_by(model)`.
        """
        other = copy.copy(self)
        replaced = getattr(self._model, "replaced_by", None)
        other._model = model if replaced is None else replaced(model)
        other._purpose = purpose
        return other

    @property
    def budget(self) -> Budget:
        """The limits."""
        return self._ledger.budget

    @property
    def spent(self) -> Usage:
        """All that the problem has cost so far."""
        return self._ledger.spent

    @property
    def calls(self) -> dict[str, dict[str, Any]]:
        """The entries made since, by id."""
        return self._ledger.calls

    def restore(self, calls: Mapping[str, Mapping[str, Any]]) -> None:
        """Enter calls that were made before and never reached the ledger."""
        self._ledger.restore(calls)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model can do."""
        return self._model.capabilities

    def sample(
        self,
        prompt: str,
        *,
        n: int = 1,
        temperature: float,
        max_tokens: int,
        seed: int,
        prefix: Sequence[int] | Ids = (),
    ) -> Generation:
        """As `Model.sample`; each rollout is cut to its share of the tokens left."""
        read = self._model.prompt_length(prompt) + len(prefix)
        if overhead_of(self._model).prompt_per_sample:
            read *= n
        share = self._ledger.left(read + n) - read
        if not math.isinf(share):
            max_tokens = min(max_tokens, int(share) // n)
        return self._timed(
            "sample",
            (self.name, prompt, n, temperature, max_tokens, [int(token) for token in prefix]),
            lambda: self._model.sample(
                prompt,
                n=n,
                temperature=temperature,
                max_tokens=max_tokens,
                seed=seed,
                prefix=prefix,
            ),
        )

    def score(self, prompt: str, completions: Sequence[Ids], *, role: Role) -> Scores:
        """As `Model.score`; refused where the tokens left do not cover it."""
        read = self._model.prompt_length(prompt) + overhead_of(self._model).per_scored
        self._ledger.left(sum(read + len(tokens) for tokens in completions))
        return self._timed(
            "score",
            (self.name, prompt, [[int(token) for token in tokens] for tokens in completions], role),
            lambda: self._model.score(prompt, completions, role=role),
        )

    def open(
        self,
        prompt: str,
        *,
        prefix: Sequence[int] | Ids = (),
        temperature: float = 1.0,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> Session:
        """As `Model.open`; the rollout ends where the budget does."""
        read = self._model.prompt_length(prompt) + len(prefix)
        self._ledger.left(2 * read + 2)
        started = time.monotonic()
        session = self._model.open(
            prompt, prefix=prefix, temperature=temperature, max_tokens=max_tokens, seed=seed
        )
        metered = _MeteredSession(self._ledger, session, self._purpose or "steer", started)
        self._ledger.covers(session.next_cost)
        return metered

    @property
    def end_token(self) -> int:
        """The model's end-of-text token."""
        return self._model.end_token

    @property
    def end_tokens(self) -> Collection[int]:
        """All tokens of the model that end a text, as far as it tells of several."""
        ends: Collection[int] = getattr(self._model, "end_tokens", ())
        return ends

    def decode(self, tokens: Sequence[int] | Ids) -> str:
        """As `Model.decode`."""
        return self._model.decode(tokens)

    def spell(self, tokens: Sequence[int] | Ids) -> tuple[str, ...] | None:
        """As `pieces_of` the model."""
        return pieces_of(self._model, tokens)

    def prompt_length(self, prompt: str) -> int:
        """As `Model.prompt_length`."""
        return self._model.prompt_length(prompt)

    def _timed(self, purpose: str, asked: Any, call: Callable[[], Result]) -> Result:
        """The result of a call, entered; of one that was made before the node was interrupted.

        Two calls are the same where they ask the same; seeds may be fresh ones.
        """
        call_id = self._ledger.new_id()
        before, this = self.made.get(call_id), Made((purpose, asked))
        if before is not None and before.asked != this.asked:
            before = None
        if before is not None and before.result is not None:
            self._ledger.restore({call_id: before.entry})
            return cast(Result, before.result)
        self.made[call_id] = this
        started = time.monotonic()
        try:
            result = call()
        except ModelError as error:
            del self.made[call_id]
            if error.usage is not None:  # what was spent before it failed is spent
                self._ledger.enter(call_id, self._purpose or purpose, error.usage, started)
            raise
        self._ledger.enter(call_id, self._purpose or purpose, result.usage, started)
        # Where a person is asked, the answer has to be taken again whenever the node is run again:
        # LangGraph hands answers out by their order.
        if before is None:
            self.made[call_id] = this._replace(result=result, entry=self.calls[call_id])
        return result


class _MeteredSession:
    """A session that enters what it spends as it goes and ends where the budget does."""

    def __init__(self, ledger: Ledger, session: Session, purpose: str, started: float) -> None:
        self._ledger, self._session = ledger, session
        self._purpose, self._started = purpose, started
        self._id = ledger.new_id()
        self._enter()

    @property
    def usage(self) -> Usage:
        return self._session.usage

    def distributions(self) -> tuple[TopK, TopK]:
        try:
            return self._session.distributions()
        finally:
            self._enter()  # a call that failed half-way may have cost something all the same

    @property
    def draft(self) -> Draft | None:
        return self._session.draft

    @property
    def next_cost(self) -> int:
        return self._session.next_cost

    @property
    def finished(self) -> FinishReason | None:
        if self._session.finished is None and not self._ledger.may_go_on(self.next_cost):
            return "length"
        return self._session.finished

    def append(self, token: int) -> None:
        self._session.append(token)
        self._enter()

    def _enter(self) -> None:
        self._ledger.enter(self._id, self._purpose, self._session.usage, self._started)
