"""Working on a run from the command line: engine, progress, Ctrl-C, and the sums at the end."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from recov_graph.batch import Batch
    from recov_graph.distributed import Cluster
    from recov_graph.figures import Figures
    from recov_graph.models import Model
    from recov_graph.problem import Problem
    from recov_graph.runs import Begun, RunSpec
    from recov_graph.store import TraceStore
    from recov_graph.store.location import Address
    from recov_graph.verifiers import Verifier

INTERRUPTED = 130


@dataclass(slots=True)
class Asked:
    """What a command was asked for beside the run itself."""

    problems: Iterable[Problem]
    count: int
    db: Address | None
    json_out: str | None
    bare: bool
    baseline: bool
    concurrency: int = 1
    resume: bool = False
    cluster: Cluster | None = None


@dataclass(slots=True)
class Work:
    """A run that is being worked on, and what of it was left for another time."""

    spec: RunSpec
    asked: Asked
    store: TraceStore
    model: Model
    verifier: Verifier
    begun: Begun
    batch: Batch
    advance: Callable[[Figures], None]
    error: str = ""  # the first that ended a problem early just now
    stopped: bool = False

    def survey(self, problem: Problem, output: dict[str, Any]) -> None:
        """A problem has ended just now: measure what its router did without."""
        from recov_graph.surveying import survey_one

        if self.asked.baseline:
            temperature = self.spec.temperature
            survey_one(problem, output, self.model, self.store, temperature=temperature)

    def ended(self, order: int, problem: Problem, output: dict[str, Any]) -> None:
        """A problem has ended, now or before."""
        self.error = self.error or output["error"] or ""
        self.batch.add(problem, output, order)
        self.advance(self.batch.figures)


def work_on(spec: RunSpec, asked: Asked) -> None:
    """Run the problems, print the sums, and exit with 130 where it was stopped before the end."""
    from recov_graph.batch import Batch, summary
    from recov_graph.console import plain, print_next, print_summary, progress
    from recov_graph.runs import begin
    from recov_graph.store import TraceStore, default_path

    model, verifier = spec.as_model(), spec.as_verifier()
    spec.check(model, verifier)
    with TraceStore(asked.db or default_path(), store_text=spec.store_text) as store:
        begun = begin(store, spec, asked.count, resume=asked.resume)
        if asked.resume:
            click.echo(plain(_which(begun)), err=True)
        batch = Batch(keep="failures" if asked.baseline else "figures")
        with store.hold(begun.start.id):
            with progress(asked.count, bare=asked.bare) as advance:
                work = Work(spec, asked, store, model, verifier, begun, batch, advance)
                started = time.monotonic()
                engine = _local if asked.cluster is None else _ray
                (_pooled if spec.pooled else engine)(work)
                batch.seconds = time.monotonic() - started
            if asked.baseline and not work.stopped:
                _measure_beside(work)
        figures = {**summary(batch), "run": begun.start.id, "db": store.path}
    if asked.json_out == "-":
        click.echo(json.dumps(figures, indent=2))
    else:
        print_summary(figures, bare=asked.bare)
        if spec.store_text != "none":  # nothing is found by its id there
            print_next(batch.example, asked.db, bare=asked.bare)
        if asked.json_out is not None:
            Path(asked.json_out).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    errors = batch.figures.errors
    if errors:
        click.echo(f"{errors} of {asked.count} ended early: {plain(work.error)}", err=True)
    if work.stopped:
        ended = batch.figures.problems
        click.echo(
            f"stopped when {ended} of {asked.count} had ended; the same command with --resume "
            "goes on",
            err=True,
        )
        sys.exit(INTERRUPTED)
    if errors == asked.count:
        sys.exit(1)


def _which(begun: Begun) -> str:
    """What is gone on with, or why nothing is."""
    if begun.before:
        return f"going on with run {begun.start.id}"
    why = begun.differs or "no run of this store can be gone on with"
    return f"beginning a new run, {begun.start.id}: {why}"


def _local(work: Work) -> None:
    """Problems side by side in this process."""
    from recov_graph.distributed import default_shards, take_in
    from recov_graph.runner import Runner
    from recov_graph.workspace import KEPT_PROBLEMS

    if work.begun.before and (shards := default_shards(work.store.address)):
        take_in(work.store, shards / work.begun.start.id)  # of --engine ray, whose driver died
    kept = max(KEPT_PROBLEMS, 2 * work.asked.concurrency)
    runner = Runner(
        work.spec.graph(work.model, work.verifier, work.store, work.begun.start, kept),
        work.store,
        work.begun.ids,
        concurrency=work.asked.concurrency,
        resume=work.begun.before,
        on_end=work.survey,
    )
    with stopped_by_signals(runner.stop):
        for ran in runner.run(enumerate(work.asked.problems)):
            work.ended(*ran)
    work.stopped = runner.stopped


def _ray(work: Work) -> None:
    """Problems over a cluster; sums are made of what is stored at the end."""
    from recov_graph.distributed import Distributed
    from recov_graph.figures import Figures
    from recov_graph.runs import in_store

    assert work.asked.cluster is not None
    so_far = Figures()

    def on_end(output: dict[str, Any]) -> None:
        work.error = work.error or output["error"] or ""
        so_far.add(output)
        work.advance(so_far)

    begun, problems = work.begun, work.asked.problems
    run = Distributed(
        work.spec,
        begun.start,
        work.store,
        begun.ids,
        work.asked.cluster,
        before=begun.before,
        survey=work.asked.baseline,
        on_end=on_end,
    )
    with stopped_by_signals(run.stop):
        run.run(problems)
    for ran in in_store(work.store, begun.ids, problems):
        work.ended(*ran)
    work.stopped = run.stopped


def _pooled(work: Work) -> None:
    """Problems on one budget."""
    from recov_graph.resuming import half_done
    from recov_graph.runs import stored_outputs
    from recov_graph.scheduler import Found, Scheduler
    from recov_graph.workspace import KEPT_PROBLEMS

    spec, problems, ids = work.spec, list(work.asked.problems), work.begun.ids

    def found(order: int, problem: Problem) -> Found:
        name = ids.register(problem, order)
        if not work.begun.before:
            return Found()
        output = stored_outputs(work.store, {name: problem}).get(name)
        return Found(output, None if output else half_done(work.store, problem, name))

    scheduler = Scheduler(
        spec.graph(
            work.model,
            work.verifier,
            work.store,
            work.begun.start,
            max(KEPT_PROBLEMS, len(problems)),
        ),
        min(spec.samples, spec.max_attempts),
        spec.pool,
        max_tokens=spec.max_tokens,
        found=found,
    )
    places = {problem.id: order for order, problem in enumerate(problems)}
    with stopped_by_signals(scheduler.stop):
        for problem, output in scheduler.run(problems):
            if "features" in output:  # which those that had ended before have not
                work.survey(problem, output)
            work.ended(places[problem.id], problem, output)
    work.batch.not_reached = len(scheduler.not_reached)
    work.stopped = scheduler.stopped


def _measure_beside(work: Work) -> None:
    """What costs the run nothing: retry alone, and features that a process which died left out."""
    from recov_graph.batch import compare_with_retry, keep_retries
    from recov_graph.surveying import survey_stored

    spec = work.spec
    survey_stored(work.batch.failures, work.model, work.store, temperature=spec.temperature)
    compare_with_retry(
        work.batch,
        work.model,
        work.verifier,
        draw=8,
        temperature=spec.temperature,
        max_new_tokens=spec.max_new_tokens,
        seed=spec.seed,
    )
    keep_retries(work.batch, work.store)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C, or request to end, stops in good order; the second leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def asked_to_stop(number: int, frame: object) -> None:
        nonlocal asked
        if asked:  # all that was paid for and has come back is stored
            os._exit(INTERRUPTED)
        asked = True
        stop()
        os.write(2, b"\nstopping after the calls under way; once more to leave at once\n")

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, asked_to_stop) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
