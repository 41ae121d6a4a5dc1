"""Off-policy estimates: how a policy would have done, from the logged decisions of another.

Episode i takes decisions t = 0, 1, ... until it ends. With b the probability with which the logging
policy chose the action logged there, e that with which the target policy would have, V and Q a
model's estimates under the target policy, w_t the sum of rho_it over all N episodes, and r the
reward or the cost of the decision:

    rho_it = prod_{s <= t} e_is / b_is                           importance weight, rho_{i,-1} = 1
    SNIPS  = sum_t sum_i rho_it r_it / w_t                       self-normalised, biased but stable
    DR_i   = sum_t [rho_it (r_it - Q_it) + rho_{i,t-1} V_it]     doubly robust, mean over i unbiased
    WDR    = sum_t sum_i [rho_it / w_t (r_it - Q_it) + rho_{i,t-1} / w_{t-1} V_it]     w_{-1} = N

An episode that ended earlier counts in w_t with its last weight: it rests in a state without reward
where both policies agree. All rests on the logging policy choosing with b > 0 whatever the target
might: what it never does, going on after its last attempt included, no log can tell.

Sources: Precup, Sutton and Singh (2000) for per-decision importance sampling; Jiang and Li, arXiv
1511.03722, for DR; Thomas and Brunskill, arXiv 1604.00923, for absorbed episodes and WDR.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recov_graph.errors import InvalidInputError
from recov_graph.words import short

CHUNK = 2**20  # counts of a bootstrap held at a time: what it needs must not grow with resamples

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

LEGAL = {  # least, most, and both in words
    "reward": (0.0, 1.0, "0 to 1"),
    "cost": (0.0, math.inf, "finite and at least 0"),
    "logging": (5e-324, 1.0, "above 0 and at most 1: an action that was logged had a chance"),
    "target": (0.0, 1.0, "0 to 1"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """Logged decisions of all problems, one after another: n decisions of N problems.

    A problem that never came to a decision is not part of the log; one that was stopped at once has
    one decision, without reward or cost. The model must not have been fitted to these problems.

    Attributes:
        problem: int [n], the problem of each decision: never falling, a problem's decisions in
            the order they were taken. The numbers need not be consecutive.
        reward: float [n], 1 where the attempt decided on rescued the problem, else 0.
        cost: float [n], tokens of that attempt; 0 for stopping.
        logging: float [n], probability with which the logging policy chose this action, above 0.
        target: float [n], probability with which the target policy would have; 0 where never.
        action_value: float [n], the model's Q: reward from here on, given the action logged.
        value: float [n], its V, before the action: the mean of Q over all actions, each with the
            target's probability. A V from elsewhere makes DR biased.
        cost_value: float [n], V of the cost [tokens].
        action_cost: float [n], Q of the cost [tokens].

    Raises:
        InvalidInputError: no decision, shapes that differ, or a value that is out of range.
    """

    problem: NDArray[np.integer[Any]]
    reward: Floats
    cost: Floats
    logging: Floats
    target: Floats
    value: Floats
    action_value: Floats
    cost_value: Floats
    action_cost: Floats

    def __post_init__(self) -> None:
        problem = np.asarray(self.problem)
        if problem.ndim != 1 or problem.dtype.kind not in "iu" or not len(problem):
            raise InvalidInputError(
                f"problem is {problem.dtype} of shape {problem.shape}; it must be integers [n], "
                "n at least 1: the index of each decision's problem"
            )
        if (falls := problem[1:] < problem[:-1]).any():
            at = int(falls.argmax())
            raise InvalidInputError(
                f"problem falls from {problem[at]} to {problem[at + 1]} at decision {at + 1}; sort "
                "the decisions by problem"
            )
        object.__setattr__(self, "problem", problem)
        for field in fields(self)[1:]:
            object.__setattr__(self, field.name, _column(self, field.name))


class Value(NamedTuple):
    """Probability that a problem is rescued, and the tokens it costs; on average."""

    rescue_rate: float
    mean_cost: float


class Contributions(NamedTuple):
    """What each problem adds to DR, which is their mean; float64 [N], in the order of the log."""

    rescue: Floats
    cost: Floats


class Interval(NamedTuple):
    """A figure and the ends of its bootstrap interval; NaN where they cannot be told."""

    point: float
    low: float
    high: float


class Figures(NamedTuple):
    """Share of problems rescued, tokens a problem, and the one per 1,000 of the other."""

    rescue_rate: Interval
    mean_cost: Interval
    rescues_per_1000: Interval


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a policy would have been worth, by both estimators.

    Attributes:
        ess: effective sample size [problems]; below some tens believe no interval.
        problems: N.
        share_reached: share of problems all of whose logged actions the target might have taken.
    """

    snips: Figures
    dr: Figures
    ess: float
    problems: int
    share_reached: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rescues per 1,000 tokens, target less baseline, and each of the two alone."""

    snips: Interval
    dr: Interval
    target: Estimate
    baseline: Estimate


def importance(logged: Logged) -> Floats:
    """The cumulative weight rho of every decision, float64 [n]; InvalidInputError on overflow."""
    return _weights(logged, _layout(logged))


def final_weights(logged: Logged) -> Floats:
    """The importance weight of every problem's last decision, float64 [N].

    Their mean is 1 but for chance; far below, the target does what the logging policy never does.
    """
    return importance(logged)[_ends(logged)]


def effective_sample_size(logged: Logged) -> float:
    """How many problems of weight 1 tell as much: N on-policy, 0 where no problem is reached."""
    final = final_weights(logged)
    final /= final.max() or 1.0  # the square of a large weight would overflow
    return float(final.sum() ** 2 / (np.square(final).sum() or 1.0))


def self_normalised(logged: Logged) -> Value:
    """SNIPS of the rescue rate and the cost; NaN where the target reaches no problem."""
    layout = _layout(logged)
    ((rescue, cost),), _ = _snips(_steps(logged, layout), np.ones((1, len(layout.first))))
    return Value(float(rescue), float(cost))


def doubly_robust(logged: Logged) -> Contributions:
    """DR of every problem; where the target reaches none it is the model's word alone."""
    layout = _layout(logged)
    rescue, cost = _corrected(logged, layout, _weights(logged, layout), 1.0)
    return Contributions(np.add.reduceat(rescue, layout.first), np.add.reduceat(cost, layout.first))


def weighted_doubly_robust(logged: Logged) -> Value:
    """WDR of the rescue rate and the cost; NaN where the target reaches no problem."""
    layout, rho = _layout(logged), importance(logged)
    problems = len(layout.first)
    _, totals = _snips(_steps(logged, layout), np.ones((1, problems)))
    with np.errstate(invalid="ignore"):
        for step, total in enumerate(totals[0]):
            rho[layout.at(step)] /= total
    rescue, cost = _corrected(logged, layout, rho, 1.0 / problems)
    return Value(float(rescue.sum()), float(cost.sum()))


def estimate(
    logged: Logged, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """What the target policy would have been worth, with percentile bootstrap intervals.

    Whole problems are resampled. Estimates are NaN where the target reaches no problem at all; low
    and high also for a single problem, and where so few are reached that more than
    (1 - confidence) / 2 of the resamples hold none of them. A bootstrap never sees what did not
    happen: of problems none of which was rescued, SNIPS says 0 to 0.

    Args:
        logged: the decisions.
        resamples: of the bootstrap, at least 1; 200 will do for many thousands of problems.
        confidence: that an interval holds the truth, between 0 and 1.
        seed: of the resampling, at least 0.

    Raises:
        InvalidInputError: an argument out of range, or a weight too large for a float.
    """
    _check_settings(resamples, confidence, seed)
    return _estimate(logged, _replicates(logged, resamples, seed), confidence)


def compare(
    target: Logged,
    baseline: Logged,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """How much more the target policy rescues per 1,000 tokens than the baseline.

    Both must be of the same decisions, else InvalidInputError; rewards and costs differ where one
    of them stops earlier. For the logging policy itself, target equals `logging`. Both see the same
    resamples: the intervals of the differences are paired. The rest is as in `estimate`.
    """
    _check_settings(resamples, confidence, seed)
    for name in ("problem", "logging"):
        if not np.array_equal(getattr(target, name), getattr(baseline, name)):
            raise InvalidInputError(
                f"{name} of target and baseline differ; both must be of the same logged decisions"
            )
    ours, theirs = (_replicates(logged, resamples, seed) for logged in (target, baseline))
    one, other = _estimate(target, ours, confidence), _estimate(baseline, theirs, confidence)
    snips, dr = (_interval(gain, one.problems, confidence) for gain in ours[:, 2] - theirs[:, 2])
    return Comparison(snips, dr, one, other)


class _Layout(NamedTuple):
    """Where a log's decisions lie. By rank means by number of decisions, most first."""

    first: Places  # [N], each problem's first decision
    ranked: Places  # [N], problems by rank: those that come to step t are the first reached[t]
    reached: list[int]

    def at(self, step: int) -> Places:
        """The decisions at a step, by rank."""
        return self.first[self.ranked[: self.reached[step]]] + step


def _layout(logged: Logged) -> _Layout:
    last = np.flatnonzero(_ends(logged))
    lengths = np.diff(last, prepend=-1)
    ended = np.cumsum(np.bincount(lengths))[:-1]  # after 0, 1, ... decisions
    ranked = np.argsort(-lengths, kind="stable")
    return _Layout(last - lengths + 1, ranked, (len(last) - ended).tolist())


def _ends(logged: Logged) -> NDArray[np.bool_]:  # [n], the last decision of each problem
    return np.append(logged.problem[1:] != logged.problem[:-1], True)


def _weights(logged: Logged, layout: _Layout) -> Floats:
    # Products and not sums of logarithms: on-policy they are exactly 1.
    with np.errstate(over="ignore", invalid="ignore"):
        rho = logged.target / logged.logging
        for step in range(1, len(layout.reached)):
            at = layout.at(step)
            rho[at] *= rho[at - 1]
    if (endless := ~np.isfinite(rho)).any():
        first = int(endless.argmax())
        raise InvalidInputError(
            f"the weight of problem {logged.problem[first]} is too large for a float: logging is "
            f"{logged.logging[first]} at decision {first}; it must not be all but 0"
        )
    return rho


def _corrected(logged: Logged, layout: _Layout, rho: Floats, start: float) -> tuple[Floats, Floats]:
    """What each decision adds to DR of reward and cost, [n] each; `start` is the weight before."""
    before = np.roll(rho, 1)
    before[layout.first] = start
    return (
        rho * (logged.reward - logged.action_value) + before * logged.value,
        rho * (logged.cost - logged.action_cost) + before * logged.cost_value,
    )


def _steps(logged: Logged, layout: _Layout) -> list[Floats]:
    """Of each step, [reached, 3] by rank: rho, rho times reward, rho times cost."""
    rho = _weights(logged, layout)
    terms = np.stack([rho, rho * logged.reward, rho * logged.cost], axis=1)
    return [terms[layout.at(step)] for step in range(len(layout.reached))]


def _snips(steps: list[Floats], counts: Floats) -> tuple[Floats, Floats]:
    """SNIPS of reward and cost, [B, 2], and the sums of weights w_t, [B, T].

    Of resamples that hold each problem counts [B, N] times, problems by rank.
    """
    estimates = np.zeros((len(counts), 2))
    totals = np.empty((len(counts), len(steps)))
    absorbed = np.zeros(len(counts))
    for position, terms in enumerate(steps):
        here = counts[:, : len(terms)] @ terms
        totals[:, position] = here[:, 0] + absorbed
        with np.errstate(invalid="ignore"):
            estimates += here[:, 1:] / totals[:, position, None]
        stay = len(steps[position + 1]) if position + 1 < len(steps) else 0
        absorbed += counts[:, stay : len(terms)] @ terms[stay:, 0]
    return estimates, totals


def _replicates(logged: Logged, resamples: int, seed: int) -> Floats:
    """Estimates on the log itself and then on every resample, [2, 3, 1 + resamples].

    By estimator and figure. Problems go by rank: two policies on one log get the same resamples.
    """
    layout = _layout(logged)
    steps = _steps(logged, layout)
    parts = np.stack(doubly_robust(logged), axis=1)[layout.ranked] / len(layout.first)
    out = np.empty((2, 3, 1 + resamples))
    done = 0
    for counts in _counts(len(layout.first), resamples, seed):
        rows = slice(done, done := done + len(counts))
        snips, totals = _snips(steps, counts)
        out[0, :2, rows] = snips.T
        # Without a problem that the target reaches, DR would be the model's word alone.
        out[1, :2, rows] = np.where(totals[:, -1:] > 0, counts @ parts, np.nan).T
    with np.errstate(divide="ignore", invalid="ignore"):
        out[:, 2] = np.where(out[:, 1] > 0, 1000.0 * out[:, 0] / out[:, 1], np.nan)
    return out


def _counts(problems: int, resamples: int, seed: int) -> Iterator[Floats]:
    """All problems once, [1, N]; then how often each resample holds each, in chunks of rows."""
    yield np.ones((1, problems))
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // problems)
    for start in range(0, resamples, rows):
        made = min(rows, resamples - start)
        # The same law as rng.multinomial, many times faster.
        drawn = rng.integers(problems, size=(made, problems))
        drawn += np.arange(made)[:, None] * problems
        counts = np.bincount(drawn.ravel(), minlength=made * problems)
        yield counts.reshape(made, problems).astype(np.float64)


def _estimate(logged: Logged, replicates: Floats, confidence: float) -> Estimate:
    final = final_weights(logged)
    made = [[_interval(row, len(final), confidence) for row in rows] for rows in replicates]
    ess, reached = effective_sample_size(logged), float((final > 0).mean())
    return Estimate(Figures(*made[0]), Figures(*made[1]), ess, len(final), reached)


def _interval(replicates: Floats, problems: int, confidence: float) -> Interval:
    """Of replicates [1 + resamples], the point first."""
    point, tail = float(replicates[0]), (1 - confidence) / 2
    untold = np.isnan(replicates[1:])
    # Left out in silence, resamples that tell nothing would make one lucky problem look certain.
    if math.isnan(point) or problems < 2 or untold.mean() > tail:
        return Interval(point, math.nan, math.nan)
    low, high = np.quantile(replicates[1:][~untold], [tail, 1 - tail])
    return Interval(point, float(low), float(high))


def _column(logged: Logged, name: str) -> Floats:
    given = getattr(logged, name)
    try:
        column = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{name} is {short(given)}; it must be numbers [n]") from None
    if column.shape != (shape := logged.problem.shape):
        raise InvalidInputError(f"{name} has shape {column.shape}; it must be {shape}, as problem")
    low, high, legal = LEGAL.get(name, (-math.inf, math.inf, "finite"))
    if not (fine := np.isfinite(column) & (column >= low) & (column <= high)).all():
        at = int(fine.argmin())
        where = f"at decision {at}, of problem {logged.problem[at]}"
        raise InvalidInputError(f"{name} is {column[at]} {where}; it must be {legal}")
    return column


def _check_settings(resamples: int, confidence: float, seed: int) -> None:
    for name, value, least in (("resamples", resamples, 1), ("seed", seed, 0)):
        if not (isinstance(value, int | np.integer) and value >= least):
            raise InvalidInputError(f"{name} is {value!r}; it must be an integer from {least} up")
    if not 0 < confidence < 1:
        raise InvalidInputError(f"confidence is {confidence!r}; it must be between 0 and 1")
