"""Recording a tape: every operator tried many times on every problem whose first samples fail.

It costs far more than routing does, and buys what routing never sees: the outcomes of the operators
that were not chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple
from uuid import uuid4

from recov_graph.attempts import SAMPLE, new_attempt, shares
from recov_graph.budget import Budget, MeteredModel
from recov_graph.errors import InvalidInputError
from recov_graph.features import ProblemFeatures, problem_features
from recov_graph.interventions import Failure, Intervention, resolve
from recov_graph.models import Capability, Model, as_model
from recov_graph.problem import Problem
from recov_graph.recorder import Recorder
from recov_graph.rollout import Rollout, Usage
from recov_graph.routing import default_policy
from recov_graph.routing.rule import RuleRouter
from recov_graph.scoring import scored_rollouts
from recov_graph.seeds import call_seed
from recov_graph.signals import FEATURE_VERSION
from recov_graph.state import AttemptData
from recov_graph.store import TraceStore
from recov_graph.store.traces import now
from recov_graph.trace import Trace, measure
from recov_graph.verifiers import Verdict, Verifier, as_verifier, judge

ATTEMPTS = 32
LEAST_ATTEMPTS = 2  # a tape is read in halves


@dataclass(frozen=True, slots=True)
class Settings:
    """How a tape is recorded; the same for all its problems."""

    samples: int
    attempts: int
    temperature: float
    max_new_tokens: int
    seed: int


class Made(NamedTuple):
    """One recorded attempt."""

    operator: str
    position: int
    seed: int
    passed: bool | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded of one problem; nothing but the samples where one of them passed."""

    problem: Problem
    rollouts: list[Rollout]
    verdicts: list[Verdict]
    sampling: Usage
    scoring: Usage
    prompt_tokens: int
    features: ProblemFeatures | None
    traces: dict[int, Trace]
    made: list[Made]

    @property
    def failed(self) -> list[int]:
        """Positions of the samples that failed."""
        return [i for i, verdict in enumerate(self.verdicts) if verdict.value == "failed"]

    @property
    def solved(self) -> bool:
        """Whether a sample passed."""
        return any(verdict.passed for verdict in self.verdicts)


def record(
    model: Model | str,
    verifier: Verifier | Any,
    problems: Sequence[Problem],
    store: TraceStore,
    *,
    settings: Settings,
    interventions: Iterable[str] | None = None,
    processes: int = 1,
    on_result: Callable[[Recorded], None] = lambda recorded: None,
) -> int:
    """Record a tape into a store; returns the number of failed problems that are on it.

    Args:
        model: as for the graph; with more than one process, a name.
        verifier: as for the graph; with more than one process, a name.
        problems: those whose first samples all fail end up on the tape.
        store: where it is written, problem by problem.
        settings: samples, attempts and decoding.
        interventions: names of operators; by default all that the model can carry out.
        processes: how many work side by side.
        on_result: called after each problem.

    Raises:
        InvalidInputError: a setting out of range, or objects where names are needed.
    """
    if settings.attempts < LEAST_ATTEMPTS:
        raise InvalidInputError(
            f"attempts is {settings.attempts}; it must be at least {LEAST_ATTEMPTS}: regimes are "
            "labelled on one half of them and policies scored on the other"
        )
    if processes > 1 and not (isinstance(model, str) and isinstance(verifier, str)):
        raise InvalidInputError(
            f"processes is {processes} and model is {model!r}, verifier {verifier!r}: other "
            "processes can only be given names; name both, or record with processes=1"
        )
    chosen = _possible(as_model(model), interventions)
    work = partial(_recorded, model, verifier, settings=settings, names=tuple(chosen))
    writer = Recorder(
        store,
        kind="record",
        model=as_model(model).name,
        verifier=as_verifier(verifier).name,
        router=RuleRouter(default_policy()),
        seed=settings.seed,
    )
    on_tape = 0
    for recorded in _mapped(work, problems, processes):
        _write(writer, store, recorded, settings)
        on_tape += bool(recorded.made)
        on_result(recorded)
    return on_tape


def _mapped(
    work: Callable[[Problem], Recorded], problems: Sequence[Problem], processes: int
) -> Iterator[Recorded]:
    if processes == 1:
        yield from map(work, problems)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(work, problems, chunksize=4)


def _possible(model: Model, names: Iterable[str] | None) -> dict[str, Intervention]:
    chosen = resolve(names)
    can = {name: one for name, one in chosen.items() if one.needs <= model.capabilities}
    if not can:
        raise InvalidInputError(
            f"model {model.name!r} can carry out none of {', '.join(chosen)}; add 'retry'"
        )
    return can


@lru_cache(maxsize=1)
def _named_model(name: str) -> Model:
    return as_model(name)


def _recorded(
    model: Model | str,
    verifier: Verifier | Any,
    problem: Problem,
    *,
    settings: Settings,
    names: Sequence[str],
) -> Recorded:
    """Sample a problem and, where all samples fail, measure it and try every operator."""
    model = _named_model(model) if isinstance(model, str) else as_model(model)
    judged = partial(judge, as_verifier(verifier), problem)
    meter = MeteredModel(model, Budget(), problem.id, {})
    rollouts = meter.sample(
        problem.prompt,
        n=settings.samples,
        temperature=settings.temperature,
        max_tokens=settings.max_new_tokens,
        seed=call_seed(settings.seed, problem.id, 0),
    ).rollouts
    sampling = meter.spent
    verdicts = [judged(rollout.text) for rollout in rollouts]
    features, traces, made = None, {}, []
    values = {verdict.value for verdict in verdicts}
    if "failed" in values and "passed" not in values:
        if Capability.SCORE in model.capabilities:
            traces = _traces(meter, problem, rollouts, verdicts, settings.temperature)
        if traces:
            features = problem_features([trace.features for trace in traces.values()])
        made = list(_attempts(model, judged, problem, list(traces.values()), settings, names))
    return Recorded(
        problem=problem,
        rollouts=rollouts,
        verdicts=verdicts,
        sampling=sampling,
        scoring=meter.spent - sampling,
        prompt_tokens=model.prompt_length(problem.prompt),
        features=features,
        traces=traces,
        made=made,
    )


def _traces(
    meter: MeteredModel,
    problem: Problem,
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verdict],
    temperature: float,
) -> dict[int, Trace]:
    failed = {
        str(i): rollout
        for i, (rollout, verdict) in enumerate(zip(rollouts, verdicts, strict=True))
        if verdict.value == "failed" and len(rollout)
    }
    scored = scored_rollouts(meter, problem.prompt, failed) if failed else {}
    return {int(name): measure(rollout, temperature) for name, rollout in scored.items()}


def _attempts(
    model: Model,
    judged: Callable[[str], Verdict],
    problem: Problem,
    traces: Sequence[Trace],
    settings: Settings,
    names: Sequence[str],
) -> Iterator[Made]:
    for name, intervention in resolve(names).items():
        if Capability.SCORE in intervention.needs and not traces:
            continue
        for i in range(settings.attempts):
            seed = call_seed(settings.seed, f"{problem.id}/{name}", i + 1)
            failure = Failure(
                problem, settings.temperature, settings.max_new_tokens, seed, traces, focus=i
            )
            meter = MeteredModel(model, Budget(), problem.id, {})
            verdict = judged(intervention.apply(failure, meter).rollout.text)
            passed = None if verdict.value == "unscored" else verdict.passed
            yield Made(name, i, seed, passed, meter.spent.tokens)


def _write(writer: Recorder, store: TraceStore, recorded: Recorded, settings: Settings) -> None:
    problem_id = uuid4().hex
    writer.started(problem_id, recorded.problem)
    attempts = _sample_attempts(problem_id, recorded, settings)
    writer.attempted(problem_id, attempts, {})
    writer.judged(attempts, None)
    store.write_traces({f"{problem_id}/{i}": trace for i, trace in recorded.traces.items()})
    features: Mapping[str, Any] = recorded.features._asdict() if recorded.features else {}
    failed = recorded.failed
    store.write(
        profiles=[
            {
                "id": problem_id,
                "failed_samples": len(failed),
                **features,
                "feature_version": FEATURE_VERSION,
                "prompt_tokens": recorded.prompt_tokens,
                "completion_tokens": sum(len(recorded.rollouts[i]) for i in failed)
                // max(1, len(failed)),
                "scoring_tokens": recorded.scoring.tokens,
            }
        ],
        tape=[
            {"id": f"{problem_id}/{one.operator}/{one.position}", "problem_id": problem_id}
            | one._asdict()
            for one in recorded.made
            if one.passed is not None
        ],
        outcomes=[
            {
                "id": problem_id,
                "solved": int(recorded.solved),
                "stop_reason": "solved" if recorded.solved else "recorded",
                "attempts": len(recorded.rollouts) + len(recorded.made),
                **{
                    name: (recorded.sampling + recorded.scoring).as_dict()[name]
                    for name in ("prompt_tokens", "completion_tokens", "scored_tokens", "seconds")
                },
                "finished_at": now(),
            }
        ],
    )


def _sample_attempts(problem_id: str, recorded: Recorded, settings: Settings) -> list[AttemptData]:
    spent = shares(recorded.sampling.tokens, len(recorded.rollouts))
    attempts = []
    for position, rollout in enumerate(recorded.rollouts):
        attempt = new_attempt(
            problem_id,
            position,
            SAMPLE,
            rollout,
            temperature=settings.temperature,
            seed=call_seed(settings.seed, recorded.problem.id, 0),
            spent=spent[position],
        )
        attempt["verdict"] = recorded.verdicts[position].as_dict()  # type: ignore[typeddict-item]
        attempts.append(attempt)
    return attempts
