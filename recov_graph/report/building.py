"""Computing a report from a trace store."""

from __future__ import annotations

import numpy as np

from recov_graph.errors import StoreError
from recov_graph.policies import PolicyShelf
from recov_graph.report.calibration import calibration
from recov_graph.report.content import Report, RunRow
from recov_graph.report.curves import observed_panel
from recov_graph.report.drifting import drifts
from recov_graph.report.failure_map import failure_maps, first_decisions
from recov_graph.report.grouping import group_rows
from recov_graph.report.headline import headline
from recov_graph.report.looking import cases
from recov_graph.report.reading import Problems, read_decisions, read_problems
from recov_graph.report.recorded import recorded_panel
from recov_graph.report.reference import Reference
from recov_graph.report.rescue import rescue_rows
from recov_graph.report.retrying import forecast
from recov_graph.routing import as_router
from recov_graph.routing.policy import Policy, default_policy
from recov_graph.store import TraceStore
from recov_graph.store.location import short_name
from recov_graph.store.traces import now
from recov_graph.version import __version__
from recov_graph.words import count, cut, listed

MOST_RUNS = 50
RUNS = (
    "SELECT runs.id, kind, model, verifier, policy, policy_hash, runs.started_at, "
    "COUNT(problems.id) FROM runs LEFT JOIN problems ON run_id = runs.id "
    "WHERE ?1 IS NULL OR runs.id = ?1 GROUP BY runs.id ORDER BY runs.started_at DESC"
)
FEW = 30  # failures below which intervals are wide whatever is shown


def build_report(
    store: TraceStore,
    *,
    policy: Policy | None = None,
    run: str | None = None,
    case: str | None = None,
    texts: bool = True,
) -> Report:
    """Everything that a report says, from what is stored.

    Args:
        store: the traces.
        policy: what features are compared with and recorded attempts are replayed by; by default
            the active policy.
        run: only this run; by default all of them.
        case: a user's id of a problem that must be among the cases.
        texts: whether prompts, answers, outputs and reasons are in it, as far as they are stored.

    Raises:
        StoreError: no such run or problem.
        PolicyError: the active policy cannot be read.
    """
    if policy is None:
        policy = PolicyShelf().active() or default_policy()
    with store.snapshot():  # a run may go on writing meanwhile
        return _built(store, policy, run, case, texts=texts)


def _built(
    store: TraceStore, policy: Policy, run: str | None, case: str | None, *, texts: bool
) -> Report:
    runs = [RunRow(*row) for row in store.rows(RUNS, [run])]
    if run is not None and not runs:
        raise StoreError(f"{store.path} has no run {run!r}; `recov-graph show --runs` lists them")
    reference = Reference(policy, f"policy {policy.name} {policy.content_hash}")
    problems = read_problems(store, run)
    decisions = read_decisions(store, run)
    panels = (
        observed_panel(problems, forecast(problems), reference),
        recorded_panel(store, as_router(policy), reference, run),
    )
    return Report(
        database=short_name(store.path),
        made_at=now(),
        version=__version__,
        runs=tuple(runs[:MOST_RUNS]),
        run_count=len(runs),
        problems=int(problems.routed.sum()),
        solved_first=int((problems.routed & problems.solved & ~problems.failed).sum()),
        failed=int(problems.lost.sum()),
        notes=tuple(_notes(problems, reference)),
        headline=headline(problems),
        groups=group_rows(problems, first_decisions(problems, decisions)[1]),
        maps=failure_maps(problems, decisions, reference),
        rescue=rescue_rows(decisions),
        panels=tuple(panel for panel in panels if panel),
        calibration=calibration(problems, decisions),
        drift=drifts(problems, reference),
        cases=cases(problems, decisions, store, case, texts=texts),
    )


def _notes(problems: Problems, reference: Reference) -> list[str]:
    """What a reader has to know before believing the figures."""
    lost = problems.lost
    notes = []
    strange = [model for model in sorted(set(problems.model[lost])) if not reference.has(model)]
    if strange:
        models = listed([cut(model, 60) for model in strange], 3)
        notes.append(
            f"{reference.name} was fitted on no failure of {models}: its chances, and "
            "so its stops, are those of other models. `recov-graph refit` learns yours."
        )
    if 0 < lost.sum() < FEW:
        notes.append(
            f"Only {count(int(lost.sum()), 'problem')} failed: the intervals are wide, and most "
            "differences are chance."
        )
    measured = np.isfinite(problems.rows.numbers("spread"))
    measured |= np.isfinite(problems.rows.numbers("agreement"))
    unmeasured = int((lost & ~measured).sum())
    if unmeasured:
        notes.append(
            f"The features of {unmeasured} of {count(int(lost.sum()), 'failure')} are not known: "
            "the router chose without them. The map and the drift show the others, which are no "
            "random sample."
        )
    repeated = int(problems.routed.sum()) - len(np.unique(problems.cluster[problems.routed]))
    if repeated:
        notes.append(f"{count(repeated, 'problem')} were run before: intervals count them as one.")
    unfinished = int((lost & (problems.outcome == "unfinished")).sum())
    if unfinished:
        notes.append(f"{count(unfinished, 'failed problem')} had not ended when this was made.")
    elsewhere = int((~problems.routed).sum())
    if elsewhere:
        notes.append(
            f"{count(elsewhere, 'problem')} were recorded or imported, not routed: they are on the "
            "map and in recorded attempts only."
        )
    return notes
