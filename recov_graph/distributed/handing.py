"""Which problems are left to be handed out, and with what of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from recov_graph.merging import problem_rows
from recov_graph.problem import Problem
from recov_graph.recorder import RunStart
from recov_graph.routing import default_policy
from recov_graph.routing.policy import ROUTER_VERSION
from recov_graph.runs import ProblemIds, RunSpec, grouped, stored_outputs
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from recov_graph.store.traces import Row, now
from recov_graph.version import __version__


@dataclass(slots=True)
class Item:
    """A problem that is handed out.

    Attributes:
        order: its place among all.
        problem: itself.
        rows: what the store has of it, where it is half done there.
        deaths: of workers that had it.
        alone: of these, those that had nothing else, after `deaths` were too many.
    """

    order: int
    problem: Problem
    rows: dict[str, list[Row]] = field(default_factory=dict)
    deaths: int = 0
    alone: int = 0


def left(
    store: TraceStore, ids: ProblemIds, problems: Iterable[Problem], *, again: bool, carry: bool
) -> Iterator[Item]:
    """The problems that have not ended, by the store, as they come.

    Args:
        store: tells what has ended.
        ids: under which problems are stored.
        problems: all of them.
        again: whether those that ended in an error are tried anew. In the store they are half done
            from then on, so that any other end counts for more when shards are merged.
        carry: whether what is half done is handed out with its rows.
    """
    for some in grouped(enumerate(problems)):
        names = {problem.id: ids.register(problem, order) for order, problem in some}
        asked = {names[problem.id]: problem for _, problem in some}
        ended = stored_outputs(store, asked, errors=not again)
        for order, problem in some:
            ids.forget(problem)
            if (name := names[problem.id]) not in ended:
                yield Item(order, problem, _half_done(store, name, carry=carry))


def _half_done(store: TraceStore, name: str, *, carry: bool) -> dict[str, list[Row]]:
    if not store.rows("SELECT 1 FROM problems WHERE id = ?", [name]):
        return {}
    store.reopen(name)
    return problem_rows(store, [name]) if carry else {}


def run_row(spec: RunSpec, start: RunStart, store: TraceStore) -> dict[str, Any]:
    """The run as its recorder enters it with the first problem, to be there before that."""
    policy = spec.policy or default_policy()
    return {
        "id": start.id,
        "kind": spec.kind,
        "model": spec.as_model().name,
        "verifier": spec.as_verifier().name,
        "policy": policy.name,
        "policy_hash": policy.content_hash,
        "package_version": __version__,
        "feature_version": FEATURE_VERSION,
        "router_version": ROUTER_VERSION,
        "store_text": store.store_text,
        "seed": spec.seed,
        "settings": start.settings,
        "planned": start.planned,
        "started_at": start.started_at or now(),
    }
