"""Recording a tape: every operator tried many times on every problem whose first samples fail.

It costs far more than routing does, and buys what routing never sees: the outcomes of the operators
that were not chosen.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, NamedTuple, cast
from uuid import uuid4

from recov_graph.attempts import SAMPLE, features_of_samples, new_attempt, shares
from recov_graph.budget import Budget, MeteredModel
from recov_graph.errors import InvalidInputError, ModelError
from recov_graph.features import ProblemFeatures, problem_features
from recov_graph.interventions import Failure, Intervention, fits_all, resolve
from recov_graph.models import Capability, Model, as_model
from recov_graph.problem import Problem
from recov_graph.recorder import SPENT, Recorder
from recov_graph.rollout import Rollout, Usage
from recov_graph.routing import default_policy
from recov_graph.routing.rule import RuleRouter
from recov_graph.scoring import scored_rollouts
from recov_graph.seeds import call_seed
from recov_graph.signals import FEATURE_VERSION, checked_temperature
from recov_graph.state import AttemptData
from recov_graph.store import TraceStore
from recov_graph.store.learning import tape_operators
from recov_graph.store.traces import now
from recov_graph.tape import LEAST_ATTEMPTS
from recov_graph.trace import Trace, measure
from recov_graph.verifiers import Verdict, Verifier, as_verifier, judge

ATTEMPTS = 32
_named_model = lru_cache(maxsize=1)(as_model)  # other processes need it for every problem


@dataclass(frozen=True, slots=True)
class Settings:
    """How a tape is recorded; the same for all its problems.

    Attributes:
        samples: first samples of each problem, at least 1.
        attempts: of each operator on each failed problem, at least 2.
        temperature: decoding temperature of plain rollouts.
        max_new_tokens: the longest completion, at least 1.
        seed: a whole number of at most 63 bits.

    Raises:
        InvalidInputError: one of them is out of range.
    """

    samples: int
    attempts: int
    temperature: float
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        halves = ": regimes are labelled on one half of them and policies scored on the other"
        _check_whole("samples", self.samples, 1)
        _check_whole("attempts", self.attempts, LEAST_ATTEMPTS, halves)
        _check_whole("max_new_tokens", self.max_new_tokens, 1)
        _check_whole("seed", self.seed, -(2**63))
        checked_temperature(self.temperature)


class Made(NamedTuple):
    """One recorded attempt that could be judged."""

    operator: str
    position: int
    seed: int
    passed: bool
    tokens: int


@dataclass(slots=True)
class Recorded:
    """What was recorded of one problem; nothing but the samples where one of them passed.

    Attributes:
        problem: what was asked.
        black_box: whether the model cannot score, so that nothing can be measured.
        rollouts: the first samples.
        verdicts: theirs.
        sampling: what they cost.
        scoring: what measuring the failed ones cost.
        trying: what all attempts of operators cost, those that could not be judged included.
        prompt_tokens: tokens of the prompt.
        features: measured on the failed samples, or None.
        traces: the measured samples by position.
        made: the attempts that go on the tape.
        error: the error of the model that ended the problem early, in words.
    """

    problem: Problem
    black_box: bool = False
    rollouts: list[Rollout] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    sampling: Usage = field(default_factory=Usage)
    scoring: Usage = field(default_factory=Usage)
    trying: Usage = field(default_factory=Usage)
    prompt_tokens: int = 0
    features: ProblemFeatures | None = None
    traces: dict[int, Trace] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    error: str | None = None

    @property
    def failed(self) -> list[int]:
        """Positions of the samples that failed."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.failed]

    @property
    def solved(self) -> bool:
        """Whether a sample passed."""
        return any(verdict.passed for verdict in self.verdicts)

    @property
    def unsolved(self) -> bool:
        """Whether the problem failed: no sample passed, and at least one could be judged."""
        return bool(self.failed) and not self.solved

    @property
    def spent(self) -> Usage:
        """All that the problem cost."""
        return self.sampling + self.scoring + self.trying

    @property
    def ended(self) -> str:
        """How it ended, as a stop reason."""
        if self.error is not None:
            return "model_error"
        if self.solved:
            return "solved"
        return "recorded" if self.made else "not_recorded"


def record(
    model: Model | str,
    verifier: Verifier | Any,
    problems: Sequence[Problem],
    store: TraceStore,
    *,
    settings: Settings,
    interventions: Iterable[str | Intervention] | None = None,
    processes: int = 1,
    on_result: Callable[[Recorded], None] = lambda recorded: None,
) -> int:
    """Record a tape into a store; returns the number of failed problems that are on it.

    Of a failed problem where less than half of an operator's attempts could be judged, none are on
    it. A model that fails ends the problem it fails on, and not the rest.

    Args:
        model: as for the graph; with more than one process, a name.
        verifier: as for the graph; with more than one process, a name.
        problems: those whose first samples all fail end up on the tape.
        store: where it is written, problem by problem.
        settings: samples, attempts and decoding.
        interventions: names or objects; by default as for the graph. Those that the model cannot
            carry out are left out, as are those that can help some failures only.
        processes: how many work side by side; any number gives the same tape.
        on_result: called after each problem, in order.

    Raises:
        InvalidInputError: a setting out of range, objects where names are needed, or a store whose
            tape has other operators.
        ModelError: a process died.
    """
    _check_whole("processes", processes, 1)
    if processes > 1 and not (isinstance(model, str) and isinstance(verifier, str)):
        raise InvalidInputError(
            f"processes is {processes} and model is {model!r}, verifier {verifier!r}: other "
            "processes can only be given names; name both, or record with processes=1"
        )
    chosen = _possible(as_model(model), interventions)
    _check_tape(store, chosen)
    work = partial(_recorded, model, verifier, settings=settings, operators=tuple(chosen.values()))
    names: dict[str, Any] = {"model": as_model(model).name, "verifier": as_verifier(verifier).name}
    router = RuleRouter(default_policy())
    writer = Recorder(store, kind="record", **names, router=router, seed=settings.seed)
    on_tape = 0
    # Closed whatever happens, lest other processes work on for nobody.
    with closing(_mapped(work, problems, processes)) as results:
        for recorded in results:
            _write(writer, store, recorded, settings)
            on_tape += bool(recorded.made)
            on_result(recorded)
    return on_tape


def _check_whole(name: str, value: Any, least: int, why: str = "") -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and least <= value < 2**63):
        raise InvalidInputError(
            f"{name} is {value!r}; it must be at least {least} and whole, in 63 bits{why}"
        )


def _check_tape(store: TraceStore, chosen: Mapping[str, Intervention]) -> None:
    """Refuse attempts that would make the store's tape one that cannot be read."""
    others = tape_operators(store)
    if others and others != set(chosen):
        raise InvalidInputError(
            f"the tape in {store.path} has attempts of {', '.join(sorted(others))}, and these "
            f"would be of {', '.join(sorted(chosen))}; all problems of a tape need the same "
            "operators. Choose those, or record into another store"
        )


def _mapped(
    work: Callable[[Problem], Recorded], problems: Sequence[Problem], processes: int
) -> Generator[Recorded, None, None]:
    if processes == 1:
        yield from map(work, problems)
        return
    # Ctrl-C reaches every process of a terminal; it ends these without a word.
    at_once = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pool = ProcessPoolExecutor(processes, initializer=at_once)
    try:
        yield from pool.map(work, problems)
    except BrokenProcessPool:
        why = "a process ended all of a sudden, perhaps for want of memory; record with fewer"
        raise ModelError(f"{why}. What was recorded so far is stored") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _possible(model: Model, names: Iterable[str | Intervention] | None) -> dict[str, Intervention]:
    chosen = resolve(names, model.capabilities)
    can = {name: one for name, one in chosen.items() if fits_all(one, model.capabilities)}
    if not can:
        raise InvalidInputError(
            f"model {model.name!r} can carry out none of {', '.join(chosen)}; add 'retry'"
        )
    return can


def _recorded(
    model: Model | str,
    verifier: Verifier | Any,
    problem: Problem,
    *,
    settings: Settings,
    operators: Sequence[Intervention],
) -> Recorded:
    """Sample a problem and, where all samples fail, measure it and try every operator."""
    model = _named_model(model) if isinstance(model, str) else as_model(model)
    judged = partial(judge, as_verifier(verifier), problem)
    recorded = Recorded(problem, black_box=Capability.SCORE not in model.capabilities)
    try:
        _sample(recorded, model, judged, settings)
        if recorded.unsolved:
            _measure(recorded, model, settings.temperature)
            recorded.made = _tried(recorded, model, judged, settings, operators)
    except Exception as error:
        recorded.error = f"{type(error).__name__}: {error}"
    return recorded


def _sample(
    recorded: Recorded, model: Model, judged: Callable[[str], Verdict], settings: Settings
) -> None:
    problem = recorded.problem
    meter = MeteredModel(model, Budget(), problem.id, {})
    rollouts = meter.sample(
        problem.prompt,
        n=settings.samples,
        temperature=settings.temperature,
        max_tokens=settings.max_new_tokens,
        seed=call_seed(settings.seed, problem.id, 0),
    ).rollouts
    if not rollouts:
        raise ModelError(f"model {model.name!r} returned no rollouts")
    recorded.sampling = meter.spent
    recorded.prompt_tokens = model.prompt_length(problem.prompt)
    recorded.verdicts = [judged(rollout.text) for rollout in rollouts]
    recorded.rollouts = rollouts


def _measure(recorded: Recorded, model: Model, temperature: float) -> None:
    """Traces and features of the failed samples, where the model can score."""
    failed = {str(i): recorded.rollouts[i] for i in recorded.failed if len(recorded.rollouts[i])}
    if recorded.black_box or not failed:
        return
    meter = MeteredModel(model, Budget(), recorded.problem.id, {})
    try:
        scored = scored_rollouts(meter, recorded.problem.prompt, failed)
    finally:
        recorded.scoring = meter.spent
    recorded.traces = {int(i): measure(rollout, temperature) for i, rollout in scored.items()}
    recorded.features = problem_features([trace.features for trace in recorded.traces.values()])


def _tried(
    recorded: Recorded,
    model: Model,
    judged: Callable[[str], Verdict],
    settings: Settings,
    operators: Sequence[Intervention],
) -> list[Made]:
    """Attempts of every operator; none where those of any are too few for a tape."""
    if not recorded.traces and any(Capability.SCORE in one.needs for one in operators):
        return []
    needed = max(LEAST_ATTEMPTS, -(-settings.attempts // 2))
    made: list[Made] = []
    for operator in operators:
        attempts = list(_attempts(recorded, model, judged, settings, operator))
        if len(attempts) < needed:
            return []
        made += attempts
    return made


def _attempts(
    recorded: Recorded,
    model: Model,
    judged: Callable[[str], Verdict],
    settings: Settings,
    operator: Intervention,
) -> Iterator[Made]:
    problem, traces = recorded.problem, list(recorded.traces.values())
    for i in range(settings.attempts):
        seed = call_seed(settings.seed, f"{problem.id}/{operator.name}", i + 1)
        how = (settings.temperature, settings.max_new_tokens, seed, traces)
        failure = Failure(problem, *how, focus=i)
        meter = MeteredModel(model, Budget(), problem.id, {})
        try:
            verdict = judged(operator.apply(failure, meter).rollout.text)
        finally:
            recorded.trying += meter.spent
        if verdict.value != "unscored":
            yield Made(operator.name, i, seed, verdict.passed, meter.spent.tokens)


def _write(writer: Recorder, store: TraceStore, recorded: Recorded, settings: Settings) -> None:
    problem_id = uuid4().hex
    writer.started(problem_id, recorded.problem)
    attempts = _sample_attempts(problem_id, recorded, settings)
    writer.attempted(problem_id, attempts, {})
    writer.judged(attempts, None)
    if recorded.black_box and recorded.unsolved:
        writer.told(problem_id, features_of_samples(attempts))
    store.write_traces({f"{problem_id}/{i}": trace for i, trace in recorded.traces.items()})
    spent = recorded.spent.as_dict()
    # At once, so that a problem is on the tape with all its attempts or not at all.
    store.write_paid(
        profiles=[_profile(problem_id, recorded)] if recorded.unsolved else [],
        tape=[
            {"id": f"{problem_id}/{one.operator}/{one.position}", "problem_id": problem_id}
            | {**one._asdict(), "passed": int(one.passed)}
            for one in recorded.made
        ],
        outcomes=[
            {
                "id": problem_id,
                "solved": int(recorded.solved),
                "stop_reason": recorded.ended,
                "attempts": len(recorded.rollouts) + len(recorded.made),
                **{name: spent[name] for name in SPENT},
                "finished_at": now(),
            }
        ],
    )


def _profile(problem_id: str, recorded: Recorded) -> dict[str, Any]:
    failed = recorded.failed
    return {
        "id": problem_id,
        "failed_samples": len(failed),
        **(recorded.features._asdict() if recorded.features else {}),
        "feature_version": FEATURE_VERSION,
        "prompt_tokens": recorded.prompt_tokens,
        "completion_tokens": sum(len(recorded.rollouts[i]) for i in failed) // len(failed),
        "scoring_tokens": recorded.scoring.tokens,
    }


def _sample_attempts(problem_id: str, recorded: Recorded, settings: Settings) -> list[AttemptData]:
    seed = call_seed(settings.seed, recorded.problem.id, 0)
    spent = shares(recorded.sampling.tokens, max(1, len(recorded.rollouts)))
    judged = zip(recorded.rollouts, recorded.verdicts, strict=True)
    attempts = []
    for place, (rollout, verdict) in enumerate(judged):
        how: Any = {"temperature": settings.temperature, "seed": seed, "spent": spent[place]}
        attempt = new_attempt(problem_id, place, SAMPLE, rollout, **how)
        attempts.append({**attempt, "verdict": verdict.as_dict()})
    return cast(list[AttemptData], attempts)
