"""Runs that can be gone on with: how one is asked for, begun, found again and summed up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4, uuid5

from recov_graph.attempts import SAMPLE, shares
from recov_graph.budget import Budget
from recov_graph.errors import InvalidInputError, StoreError
from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE, Graph, build_recovery_graph
from recov_graph.interventions import Escalate, resolve
from recov_graph.models import Model, as_model
from recov_graph.policies import PolicyShelf
from recov_graph.problem import Problem
from recov_graph.recorder import RunStart, answer_text
from recov_graph.routing import Policy, default_policy, load_policy
from recov_graph.scheduler import Pool
from recov_graph.state import NAMESPACE
from recov_graph.store import TraceStore
from recov_graph.store.guard import loaded
from recov_graph.store.location import without_password
from recov_graph.store.progress import Ended, ended_problems, resumable_runs
from recov_graph.store.rules import AGAIN
from recov_graph.verifiers import Verifier, as_verifier
from recov_graph.words import short
from recov_graph.workspace import KEPT_PROBLEMS

LOOK_UP = 200  # problems that a store is asked about at a time


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that a run is asked for, as plain data that another machine can be sent.

    Names are those of the options of ``recov-graph run``; `problems` is the name of the file.
    """

    verifier: str
    kind: Literal["demo", "run"] = "run"
    problems: str = ""
    model: str = "embedded"
    base_url: str | None = None
    ancestor: str | None = None
    ancestor_base_url: str | None = None
    interventions: tuple[str, ...] | None = None
    escalate: str | None = None
    escalate_base_url: str | None = None
    escalate_price: float = 1.0
    samples: int = SAMPLES
    temperature: float = TEMPERATURE
    max_new_tokens: int = MAX_NEW_TOKENS
    max_attempts: int = 12
    max_tokens: int | None = None
    max_seconds: float | None = None
    total_tokens: int | None = None
    total_attempts: int | None = None
    least_worth: float = 0.0
    seed: int = 0
    store_text: Literal["full", "hash", "none"] = "full"
    policy: Policy | None = None

    def routed(self, policy: Path | None) -> RunSpec:
        """With the policy of a file, or else the active one, or the one that ships."""
        chosen = load_policy(policy) if policy else PolicyShelf().active() or default_policy()
        return replace(self, policy=chosen)

    @property
    def pooled(self) -> bool:
        """Whether there is one budget over all problems."""
        return self.total_tokens is not None or self.total_attempts is not None

    @property
    def settings(self) -> dict[str, Any]:
        """What a run is known again by, as plain data."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        policy: Policy = data.pop("policy") or default_policy()
        for name in ("base_url", "ancestor_base_url", "escalate_base_url"):
            data[name] = without_password(data[name])
        if self.store_text == "none":
            del data["problems"]  # not even a name
        return {**data, "policy": policy.content_hash}

    def as_model(self) -> Model:
        """The model that is asked."""
        servers = ("base_url", "ancestor", "ancestor_base_url")
        return as_model(self.model, **{name: getattr(self, name) for name in servers})

    def as_verifier(self) -> Verifier:
        """What judges."""
        return as_verifier(self.verifier)

    @property
    def pool(self) -> Pool:
        """What all problems together may spend."""
        return Pool(self.total_tokens, self.total_attempts, self.least_worth)

    def check(self, model: Model, verifier: Verifier) -> None:
        """Refuse what is wrong, before a store is opened or a run begun.

        Raises:
            InvalidInputError: a limit or a setting that cannot be.
        """
        self.graph(model, verifier)
        _ = self.pool

    def graph(
        self,
        model: Model,
        verifier: Verifier,
        store: TraceStore | None = None,
        start: RunStart | None = None,
        open_problems: int = KEPT_PROBLEMS,
    ) -> Graph:
        """The graph of the run, on a store."""
        return build_recovery_graph(
            model,
            verifier,
            router=self.policy,
            interventions=self._interventions(model),
            budget=Budget(self.max_attempts, self.max_tokens, self.max_seconds),
            store=store,
            samples=self.samples,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            kind=self.kind,
            open_problems=open_problems,
            run=start,
        )

    def _interventions(self, model: Model) -> list[Any] | None:
        chosen = None if self.interventions is None else list(self.interventions)
        if self.escalate is None:
            return chosen
        stronger = as_model(self.escalate, base_url=self.escalate_base_url)
        others = resolve(chosen, model.capabilities).values()
        return [*others, Escalate(stronger, price=self.escalate_price)]


class ProblemIds:
    """Under which id each problem of a run is stored: the same in whichever process and store.

    Made of the user's own id; with ``store_text="none"``, where nothing may tell what that is, of
    the problem's place among all, so that those problems must keep their order.
    """

    def __init__(self, run_id: str, store: TraceStore) -> None:
        self._run_id, self._store = run_id, store
        self._places: dict[str, int] = {}

    def register(self, problem: Problem, order: int) -> str:
        """The id of a problem that is taken up."""
        self._places[problem.id] = order
        return self(problem)

    def forget(self, problem: Problem) -> None:
        """A problem that was taken up has ended."""
        self._places.pop(problem.id, None)

    def __call__(self, problem: Problem) -> str:
        if self._store.store_text == "none":
            name = f"#{self._places[problem.id]}"
        else:
            name = self._store.key(problem.id)
        return uuid5(NAMESPACE, f"{self._run_id}/{name}").hex


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that is to be worked on.

    Attributes:
        start: as the graph takes it.
        ids: of its problems.
        before: whether it was begun before.
        differs: where one was asked for and there is none: how the latest that there is differs.
    """

    start: RunStart
    ids: ProblemIds
    before: bool
    differs: str = ""


def begin(store: TraceStore, spec: RunSpec, planned: int, *, resume: bool = False) -> Begun:
    """A new run, or the latest that was begun by the same settings where that is to be gone on."""
    settings = json.dumps(spec.settings, sort_keys=True)
    found = resumable_runs(store) if resume else []
    same = [run for run in found if run["settings"] == settings]
    run_id = same[0]["id"] if same else uuid4().hex[:12]
    ids = ProblemIds(run_id, store)
    started = same[0]["started_at"] if same else None
    start = RunStart(run_id, ids, settings, planned, started)
    differs = _differences(found[0], spec.settings) if found and not same else ""
    return Begun(start, ids, bool(same), differs)


def _differences(run: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    try:
        had = loaded(run["settings"], dict, "settings")
    except StoreError:
        had = {}
    names = [name for name in wanted if had.get(name) != json.loads(json.dumps(wanted[name]))]
    told = ", ".join(f"{n} {short(had.get(n), 40)}, not {short(wanted[n], 40)}" for n in names)
    return f"run {run['id']} has {told}"


def stored_outputs(
    store: TraceStore, problems: Mapping[str, Problem], *, errors: bool = False
) -> dict[str, dict[str, Any]]:
    """What became of the problems that had ended before, by the ids they are stored under.

    As the graph's output, as far as sums are made of it: no texts, and of the decisions no more
    than the first regime. Those that ended in an error are left out, as they are tried anew,
    unless `errors` asks for them.

    Raises:
        InvalidInputError: another problem is stored under the same id.
    """
    found = ended_problems(store, list(problems))
    for name, ended in found.items():
        _check_same(store, problems[name], ended)
    return {
        name: _output(name, ended)
        for name, ended in found.items()
        if ended.stop_reason is not None and (errors or ended.stop_reason not in AGAIN)
    }


def in_store(
    store: TraceStore, ids: ProblemIds, problems: Iterable[Problem]
) -> Iterator[tuple[int, Problem, dict[str, Any]]]:
    """Those of the problems that have ended, with their places among all: see `stored_outputs`."""
    for some in grouped(enumerate(problems)):
        names = {problem.id: ids.register(problem, order) for order, problem in some}
        asked = {names[problem.id]: problem for _, problem in some}
        outputs = stored_outputs(store, asked, errors=True)
        for order, problem in some:
            ids.forget(problem)
            if names[problem.id] in outputs:
                yield order, problem, outputs[names[problem.id]]


def grouped(numbered: Iterable[tuple[int, Problem]]) -> Iterator[list[tuple[int, Problem]]]:
    """Problems in groups of which the store is asked at a time."""
    every = iter(numbered)
    while some := list(islice(every, LOOK_UP)):
        yield some


def _check_same(store: TraceStore, problem: Problem, ended: Ended) -> None:
    if ended.prompt is None:
        return
    answer = answer_text(problem)
    now = {"prompt": store.kept_text(problem.prompt), "answer": answer and store.kept_text(answer)}
    for name, before in (("prompt", ended.prompt), ("answer", ended.answer)):
        if now[name] != before:
            raise InvalidInputError(
                f"problem {problem.id!r} has another {name} than when the run was begun; leave out "
                "--resume to begin a new run, or give changed problems ids of their own"
            )


def _output(name: str, ended: Ended) -> dict[str, Any]:
    samples = sum(operator == SAMPLE for operator, _, _ in ended.attempts)
    first = iter(shares(ended.first_tokens, samples) if samples else ())
    return {
        "solved": ended.solved,
        "stop_reason": ended.stop_reason,
        "error": None,
        "route": [] if ended.first_regime is None else [{"regime": ended.first_regime}],
        "attempts": [
            {
                "id": f"{name}/{position}",
                "operator": operator,
                "spent": next(first) if operator == SAMPLE else spent or 0,
                "verdict": None if value is None else {"value": value},
            }
            for position, (operator, value, spent) in enumerate(ended.attempts)
        ],
        "usage": {"tokens": ended.tokens},
    }
