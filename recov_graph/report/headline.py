"""The numbers at the top: what failed, what was rescued, what it cost."""

from __future__ import annotations

import numpy as np

from recov_graph.report.content import Estimate, Figure
from recov_graph.report.reading import Flags, Problems
from recov_graph.report.statistics import Floats, resampled, share

LEAST_RESCUES = 5  # of a model by retry alone, below which nobody knows what one costs


def headline(problems: Problems) -> tuple[Figure, ...]:
    """Five figures, in order; of problems that were routed."""
    routed, lost = problems.routed, problems.lost
    return (
        _share("failed", "failed at first", lost, routed, problems, "No first sample passed."),
        _share(
            "rescued",
            "rescued",
            lost & problems.rescued,
            lost,
            problems,
            "An intervention passed, a plain retry included.",
        ),
        _share(
            "stopped",
            "stopped",
            lost & (problems.outcome == "stopped"),
            lost,
            problems,
            "The chance of a rescue was too small to spend more.",
        ),
        _tokens(problems),
        saved(problems),
    )


def _share(
    name: str, label: str, hits: Flags, among: Flags, problems: Problems, note: str
) -> Figure:
    estimate = share(hits[among], problems.cluster[among])
    return Figure(name, label, int(hits.sum()), estimate, int(among.sum()), "share", note)


def _tokens(problems: Problems) -> Figure:
    lost = problems.lost
    spent = problems.spent[lost]
    estimate = resampled(lambda sums: sums[:, 0], spent[:, None], problems.cluster[lost])
    all_tokens = float(problems.tokens[problems.routed].sum())
    note = f"After the first samples; {all_tokens:,.0f} with them."
    total = float(spent.sum())
    return Figure("tokens", "tokens spent on failures", total, estimate, None, "tokens", note)


def saved(problems: Problems) -> Figure:
    """What as many rescues would have cost by retry alone, less what was spent."""
    lost = problems.lost
    checked = lost & problems.retried
    estimate, note = Estimate(None), "Nothing has failed."
    if checked.any():
        estimate, note = _measured(problems, checked), _compared(problems, checked)
        if estimate.value is None:
            note = f"Not known: too few rescues to tell what one costs. {note}"
    elif lost.any():
        note = "Not known: retry alone was not measured; `recov-graph run --baseline` does."
    label = "tokens saved against retry alone"
    return Figure("saved", label, estimate.value, estimate, None, "tokens", note)


def _compared(problems: Problems, checked: Flags) -> str:
    ours, theirs = problems.rescued[checked].sum(), problems.retry_rescued[checked].sum()
    spent, took = problems.spent[checked].sum(), problems.retry_tokens[checked].sum()
    of = f"{checked.sum():,}"
    if checked.sum() < problems.lost.sum():
        of += f" of {problems.lost.sum():,}"
    return (
        f"On {of} failures retry alone rescued {theirs:,} with {took:,.0f} tokens, the loop "
        f"{ours:,} with {spent:,.0f}."
    )


def _measured(problems: Problems, checked: Flags) -> Estimate:
    """By retry alone's price of a rescue, model by model: theirs may differ by far.

    Nothing where the price of a model rests on too few rescues.
    """
    models = sorted(set(problems.model[checked]))
    parts = []
    for model in models:
        own = (problems.model == model)[checked]
        mine = np.stack(
            [
                own * problems.rescued[checked],
                own * problems.spent[checked],
                own * problems.retry_rescued[checked],
                own * problems.retry_tokens[checked],
            ],
            axis=1,
        )
        if mine[:, 2].sum() < LEAST_RESCUES:
            return Estimate(None)
        parts.append(mine)

    def gain(sums: Floats) -> Floats:
        ours, spent, theirs, tokens = np.moveaxis(sums.reshape(len(sums), -1, 4), 2, 0)
        made: Floats = (np.where(ours > 0, ours * tokens / theirs, 0.0) - spent).sum(axis=1)
        return made

    return resampled(gain, np.concatenate(parts, axis=1), problems.cluster[checked])
