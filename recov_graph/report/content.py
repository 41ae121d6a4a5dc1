"""What a report says, as plain data: computed once, shown as a page or as pictures.

Shares are 0 to 1. Every interval holds 95% and counts a problem that was seen several times as one
cluster; its ends are None where nothing can be said. Texts in here may be a model's: they are
untrusted, and None where the store does not hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recov_graph.strips import Repair, Strip

# How a failed problem ended, in the order that figures show it. "recorded": it was never routed;
# its attempts were recorded, or imported.
OUTCOMES = ("rescued", "stopped", "out of budget", "error", "unfinished", "recorded")
NOT_ROUTED = "not routed"  # the route of a failure for which there was no decision
STOP = "stop"  # the route of a failure that was given up at once
EVERY_REGIME = "all"  # the regime of rescue rows over all of them
FAR = 5.0  # z-scores further out are drawn at the border
OFF = 0.5  # standard deviations that a mean of features may lie off its reference


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; None where nothing can be said."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Figure:
    """A headline number.

    Attributes:
        name: "failed", "rescued", "stopped", "tokens" or "saved".
        label: what it is, for people.
        total: the count or the tokens themselves; None where they are not known.
        estimate: of the share of `of`, or of the tokens (unit says which).
        of: what the share is of, as a count; None for tokens.
        unit: "share" or "tokens".
        note: how it was come by, in one sentence.
    """

    name: str
    label: str
    total: float | None
    estimate: Estimate
    of: int | None
    unit: Literal["share", "tokens"]
    note: str


@dataclass(frozen=True)
class RunRow:
    """A run that the report is of."""

    id: str
    kind: str
    model: str
    verifier: str
    policy: str
    policy_hash: str
    started_at: str
    problems: int


Grouping = Literal["task", "model", "regime"]


@dataclass(frozen=True)
class GroupRow:
    """Problems of one task, model or regime: what failed, what came of it, what it cost.

    Attributes:
        by: what the problems have in common.
        name: which.
        problems: how many there are.
        failed: all of their first samples failed.
        rescued: of the failed.
        stopped: of the failed.
        tokens: spent on the failed after their first samples.
        retry_rescued: of the failed, by retry alone; None where it was not measured on all.
        retry_tokens: what that took; None as before.
    """

    by: Grouping
    name: str
    problems: int
    failed: int
    rescued: int
    stopped: int
    tokens: int
    retry_rescued: int | None
    retry_tokens: int | None


@dataclass(frozen=True)
class FailureMap:
    """P failed problems by F features, as columns of equal length P.

    Attributes:
        features: F names; "spread", "concentration", "logit_dispersion", or those of black boxes.
        reference: what the z-scores are taken against, in words.
        z: F columns of z-scores.
        raw: F columns of the features themselves.
        route: first operator that was decided on, `STOP` or `NOT_ROUTED`.
        outcome: one of `OUTCOMES`.
        regime: the regime predicted first; "" where none was.
        key: the user's own id of the problem.
        task: its task.
        model: its model.
        problem: its id in the store.
        late: how many were measured only after the first decision, which knew nothing of it.
        unmeasured: failed problems that are not in here since their features are not known.
        left_out: failed problems with features that are not in here, to keep the page small.
    """

    features: tuple[str, ...]
    reference: str
    z: tuple[tuple[float, ...], ...]
    raw: tuple[tuple[float, ...], ...]
    route: tuple[str, ...]
    outcome: tuple[str, ...]
    regime: tuple[str, ...]
    key: tuple[str, ...]
    task: tuple[str, ...]
    model: tuple[str, ...]
    problem: tuple[str, ...]
    unmeasured: int
    left_out: int = 0
    late: int = 0


@dataclass(frozen=True)
class RescueRow:
    """What an operator did on failures of a regime, the one predicted when it was chosen.

    Attributes:
        regime: `EVERY_REGIME` in the rows that sum up, where there are several.
        rate: rescued by attempts.
        per_rescue: tokens spent for each rescue; None where there was none.
    """

    regime: str
    operator: str
    attempts: int
    rescued: int
    rate: Estimate
    tokens: int
    per_rescue: float | None


@dataclass(frozen=True)
class Curve:
    """Share of failed problems rescued against tokens spent on each, B budgets.

    Attributes:
        name: a policy or baseline.
        source: "observed" in these runs; "measured" beside them; "estimated" from first samples;
            "recorded": replayed on recorded attempts.
        active: whether it is the active policy.
        tokens: B mean tokens spent on a failed problem after its first samples, rising.
        rescued: B shares with interval.
    """

    name: str
    source: Literal["observed", "measured", "estimated", "recorded"]
    active: bool
    tokens: tuple[float, ...]
    rescued: tuple[Estimate, ...]


@dataclass(frozen=True)
class Panel:
    """Curves that may be compared: the same problems, the same way of counting.

    Attributes:
        title: what the problems are.
        problems: how many failed ones.
        curves: with the most telling first; none where there is nothing to compare.
        note: what the curves are and are not, in a sentence or two.
    """

    title: str
    problems: int
    curves: tuple[Curve, ...]
    note: str


@dataclass(frozen=True)
class Bin:
    """Predictions that are alike, with what came of them.

    Attributes:
        predicted: their mean.
        observed: the share that came true.
        count: how many.
    """

    predicted: float
    observed: Estimate
    count: int


@dataclass(frozen=True)
class Calibration:
    """Whether predicted chances came true.

    Attributes:
        attempts: predicted rescue of the operator chosen, against its attempts' outcomes.
        error: mean distance of prediction and outcome over the bins, weighed by count; None
            where there are none.
        stops: predicted chance of any rescue at a stop, against what retry alone rescued of the
            stopped problems; empty where that was not measured.
        stopped: problems stopped.
        stop_chance: mean predicted chance of a rescue that they were stopped at.
        stop_checked: stopped problems that retry alone was measured on.
        stop_missed: share of these that it rescued: at least so many stops were wrong.
        note: in words.
    """

    attempts: tuple[Bin, ...]
    error: float | None
    stops: tuple[Bin, ...]
    stopped: int
    stop_chance: float | None
    stop_checked: int
    stop_missed: Estimate
    note: str


@dataclass(frozen=True)
class Drift:
    """Features of failures over time, as z-scores against a policy's reference; T spans of time.

    Attributes:
        policy: name and hash of the policy, in words.
        features: F names.
        starts: T times in UTC, ISO 8601, of the first failure of each span.
        counts: T failures.
        means: F rows of T mean z-scores.
        flagged: names of features whose mean of the last span lies off the reference, by more
            than half a standard deviation and more than chance.
        note: in words.
    """

    policy: str
    features: tuple[str, ...]
    starts: tuple[str, ...]
    counts: tuple[int, ...]
    means: tuple[tuple[Estimate, ...], ...]
    flagged: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class AttemptRow:
    """One attempt of a case; `step` is of the decision that led to it, None for a first sample."""

    position: int
    step: int | None
    operator: str
    verdict: str
    explanation: str | None
    answer: str | None
    tokens: int
    text: str | None


@dataclass(frozen=True)
class DecisionRow:
    """One decision of a case; `operator` is None for a stop."""

    step: int
    regime: str
    operator: str | None
    expected: float
    reason: str | None


@dataclass(frozen=True)
class Case:
    """A problem to look at closely.

    Attributes:
        problem: its id in the store.
        why: some of "asked for", "expensive" and "unsolved": why it was picked.
        outcome: one of `OUTCOMES`, or "solved at first".
        tokens: spent on it in all.
        strips: its measured failed rollouts.
        repairs: its interventions beside what they started from.
    """

    problem: str
    key: str
    model: str
    task: str
    why: tuple[str, ...]
    outcome: str
    regime: str
    tokens: int
    prompt: str | None
    expected: str | None
    attempts: tuple[AttemptRow, ...]
    decisions: tuple[DecisionRow, ...]
    strips: tuple[Strip, ...]
    repairs: tuple[Repair, ...]


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        database: the file's name, without its folder.
        made_at: when, in UTC as ISO 8601.
        version: of the package.
        runs: the newest first, at most 50; `run_count` says how many there are.
        problems: how many were run.
        solved_first: solved by a first sample.
        failed: all first samples failed.
        notes: what a reader has to know before believing the rest, a sentence each.
        headline: the numbers at the top.
        groups: by task and by model where there are several, and by the regime predicted first.
        maps: one for models that can be measured, one for black boxes, as far as there are any.
        rescue: by regime and operator.
        panels: rescue against budget.
        cases: the most expensive and the worst problems.
    """

    database: str
    made_at: str
    version: str
    runs: tuple[RunRow, ...]
    run_count: int
    problems: int
    solved_first: int
    failed: int
    notes: tuple[str, ...]
    headline: tuple[Figure, ...]
    groups: tuple[GroupRow, ...]
    maps: tuple[FailureMap, ...]
    rescue: tuple[RescueRow, ...]
    panels: tuple[Panel, ...]
    calibration: Calibration
    drift: tuple[Drift, ...]
    cases: tuple[Case, ...]
