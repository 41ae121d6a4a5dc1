"""Problems over a Ray cluster: each worker writes a store of its own, merged at the end.

What the workers stored is what counts. A worker that died is followed by another that goes on from
the same shard; what was on a machine that is gone is worked out again, and nothing else is.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from recov_graph.errors import InvalidInputError, MissingExtraError, ModelError, RecovGraphError
from recov_graph.merging import merge, problem_rows
from recov_graph.problem import Problem
from recov_graph.recorder import RunStart
from recov_graph.runner import Runner
from recov_graph.runs import ProblemIds, RunSpec, grouped, stored_outputs
from recov_graph.store import TraceStore
from recov_graph.workspace import KEPT_PROBLEMS

MOST_DEATHS = 5  # of workers over one chunk, one after the other
MOST_PASSES = 3  # over what was lost with a machine
PIECE = 8 << 20  # bytes of a shard fetched at a time
CHUNK = 8  # problems handed out for each one that a worker has under way
Numbered = tuple[int, Problem]


@dataclass(slots=True)
class Cluster:
    """Where and how wide to run.

    Args:
        shards: folder of the shards; each machine has or makes it. Best on a local disk.
        address: of a Ray cluster; None for one on this machine, that ends with the run.
        workers: how many; None for one for each processor.
        concurrency: problems that each worker has under way at a time.
        keep_shards: whether shards are left where they are once they are merged.
    """

    shards: Path
    address: str | None = None
    workers: int | None = None
    concurrency: int = 1
    keep_shards: bool = False


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker is told once; all plain data."""

    spec: RunSpec
    run_id: str
    settings: str
    planned: int
    started_at: str | None
    shard: str
    salt: str
    concurrency: int
    cwd: str


class Worker:
    """One process that runs chunks of problems and stores them in its shard."""

    def __init__(self, job: _Job) -> None:
        if job.cwd not in sys.path:
            sys.path.insert(0, job.cwd)  # where a verifier of the user's own may be
        spec = job.spec
        Path(job.shard).parent.mkdir(parents=True, exist_ok=True)
        with TraceStore(job.shard) as store:  # ids are hashed as in the store it is merged into
            store.write(settings=[{"id": "salt", "value": job.salt}])
        self._store = TraceStore(job.shard, store_text=spec.store_text)
        self._ids = ProblemIds(job.run_id, self._store)
        start = RunStart(job.run_id, self._ids, job.settings, job.planned, job.started_at)
        kept = max(KEPT_PROBLEMS, 2 * job.concurrency)
        graph = spec.graph(spec.as_model(), spec.as_verifier(), self._store, start, kept)
        self._job, self._graph = job, graph
        self._runner: Runner | None = None
        self._stopping = False

    def where(self) -> tuple[str, int]:
        """The machine in the cluster, and the process."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def work(self, chunk: list[Numbered], begun: dict[str, Any]) -> list[str]:
        """Run a chunk; `begun` are the rows of those that another store had half done.

        What ended early is told of, in words.
        """
        if begun:
            self._take_over(begun)
        self._runner = Runner(
            self._graph,
            self._store,
            self._ids,
            concurrency=self._job.concurrency,
            resume=True,
        )
        if self._stopping:
            return []
        ran = self._runner.run(chunk)
        return [one.output["error"] for one in ran if one.output["error"]]

    def _take_over(self, begun: dict[str, Any]) -> None:
        """Store what another store had of problems that this one knows nothing of."""
        known = {name for (name,) in self._store.rows("SELECT id FROM problems")}
        if not known.issuperset(row["id"] for row in begun["problems"]):
            with TraceStore(self._job.shard) as raw:  # as it was stored, not hashed once more
                raw.write(runs=begun.pop("runs"))
                raw.replace_problems([row["id"] for row in begun["problems"]], **begun)

    def stop(self) -> None:
        """End after the calls under way."""
        self._stopping = True
        if self._runner is not None:
            self._runner.stop()

    def piece(self, at: int) -> bytes:
        """A piece of the shard; nothing after its end. To be asked for when no chunk is run."""
        if at == 0:
            self._store.close()  # its log is taken into the file
        with Path(self._job.shard).open("rb") as file:
            file.seek(at)
            return file.read(PIECE)


@dataclass(slots=True)
class Distributed:
    """A run over a cluster; `stop` may be called from anywhere.

    Args:
        spec: what is run.
        start: the run.
        store: the store that all is merged into; also tells what had ended before.
        ids: of its problems.
        cluster: where.
        on_chunk: called with the number of problems of each chunk that has been worked on.

    Attributes:
        errors: what was said of the first problems that ended early.
    """

    spec: RunSpec
    start: RunStart
    store: TraceStore
    ids: ProblemIds
    cluster: Cluster
    on_chunk: Callable[[int], object] = lambda number: None
    errors: list[str] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _ray: Any = None

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """End after the calls under way, and merge what there is."""
        self._stopping.set()

    def run(self, problems: Iterable[Problem]) -> None:
        """Run all problems that have not ended, and merge the shards into the store.

        Raises:
            MissingExtraError: Ray is not installed.
            InvalidInputError: there is no cluster at the address.
            ModelError: workers die over and over.
            RecovGraphError: what a worker raised.
        """
        self._merge_what_is_there()  # of a run whose driver died
        self._ray = _started(self.cluster)
        try:
            for _ in range(MOST_PASSES):
                if not self._one_pass(problems) or self.stopped:
                    return
            left = sum(1 for _ in self._left(problems))
            if left and not self.stopped:
                raise ModelError(
                    f"{left} problems were lost with their machines {MOST_PASSES} times; the same "
                    "command with --resume tries again"
                )
        finally:
            self._ray.shutdown()

    def _one_pass(self, problems: Iterable[Problem]) -> int:
        """Hand out what has not ended, and merge; how many were handed out."""
        workers = self.cluster.workers or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        slots = [_Slot(self._ray, self._job(number)) for number in range(workers)]
        handed = 0
        size = CHUNK * self.cluster.concurrency
        left = self._left(problems)
        busy: dict[Any, _Slot] = {}
        try:
            idle = list(slots)
            while True:
                while idle and not self.stopped and (chunk := list(islice(left, size))):
                    slot = idle.pop()
                    handed += len(chunk)
                    busy[slot.give(chunk, self._half_done(chunk))] = slot
                if not busy:
                    break
                done, _ = self._ray.wait(list(busy), timeout=0.5)
                if self.stopped:
                    for slot in busy.values():
                        slot.tell_to_stop()
                for reference in done:
                    slot = busy.pop(reference)
                    again = self._ended(slot, reference)
                    if again is not None:
                        busy[again] = slot
                    else:
                        idle.append(slot)
        finally:
            self._collect(slots)
        return handed

    def _ended(self, slot: _Slot, reference: Any) -> Any:
        """Take note of a chunk; where its worker died, what another is busy with instead."""
        try:
            said = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            if self.stopped:
                return None
            slot.deaths += 1
            if slot.deaths >= MOST_DEATHS:
                why = " ".join(str(error).split())[:200]
                raise ModelError(
                    f"{slot.deaths} workers died one after the other over the same problems, "
                    f"perhaps for want of memory: {why}. What has ended is stored"
                ) from None
            return slot.replaced()
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, RecovGraphError):
                raise cause from None
            raise ModelError(f"a worker failed: {cause!r}") from None
        self.errors += said[: max(0, 3 - len(self.errors))]
        self.on_chunk(len(slot.chunk))
        slot.deaths = 0
        return None

    def _left(self, problems: Iterable[Problem]) -> Iterator[Numbered]:
        """The problems that have not ended, by the store, with their places among all."""
        for some in grouped(enumerate(problems)):
            names = {self.ids.register(problem, order): problem for order, problem in some}
            ended = stored_outputs(self.store, names)
            kept = [(order, problem) for order, problem in some if self.ids(problem) not in ended]
            for _, problem in some:
                self.ids.forget(problem)
            yield from kept

    def _half_done(self, chunk: list[Numbered]) -> dict[str, Any]:
        """The rows of those problems of a chunk that the store has half done."""
        names = [self.ids.register(problem, order) for order, problem in chunk]
        for _, problem in chunk:
            self.ids.forget(problem)
        rows: dict[str, Any] = problem_rows(self.store, names)
        if not rows["problems"]:
            return {}
        return {**rows, "runs": self.store.query("SELECT * FROM runs WHERE id = ?", [self._run])}

    @property
    def _run(self) -> str:
        return self.start.id

    @property
    def _folder(self) -> Path:
        return self.cluster.shards.resolve() / self._run

    def _job(self, number: int) -> _Job:
        salt = self.store.rows("SELECT value FROM settings WHERE id = 'salt'")[0][0]
        return _Job(
            self.spec,
            self._run,
            self.start.settings,
            self.start.planned,
            self.start.started_at,
            str(self._folder / f"worker-{number}.db"),
            salt,
            self.cluster.concurrency,
            str(Path.cwd()),
        )

    def _collect(self, slots: list[_Slot]) -> None:
        """Fetch the shards of other machines, end the workers, and merge."""
        for slot in slots:
            slot.fetch()
        for slot in slots:
            slot.end()
        self._merge_what_is_there()

    def _merge_what_is_there(self) -> None:
        shards = sorted(self._folder.glob("worker-*.db"))
        if not shards:
            return
        merge(shards, self.store.address)
        if not self.cluster.keep_shards:
            shutil.rmtree(self._folder)
            if not any(self.cluster.shards.iterdir()):
                self.cluster.shards.rmdir()


class _Slot:
    """The place of one worker: whoever holds it writes to the same shard."""

    def __init__(self, ray: Any, job: _Job) -> None:
        self._ray, self._job = ray, job
        self._where: Any = None
        self._actor: Any = None
        self._begun: dict[str, Any] = {}
        self._told = False
        self.chunk: list[Numbered] = []
        self.deaths = 0

    def give(self, chunk: list[Numbered], begun: dict[str, Any]) -> Any:
        """Hand a chunk to the worker, made with its first."""
        self.chunk, self._begun = chunk, begun
        if self._actor is None:
            self._make()
        return self._actor.work.remote(chunk, begun)

    def replaced(self) -> Any:
        """Hand the chunk to a new worker, where there can be one on the same machine."""
        self._make()
        return self._actor.work.remote(self.chunk, self._begun)

    def _make(self) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "max_concurrency": 4}
        if (node := self._node()) is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            near = NodeAffinitySchedulingStrategy(node, soft=True)
            options["scheduling_strategy"] = near
        self._actor = self._ray.remote(Worker).options(**options).remote(self._job)
        self._where = self._actor.where.remote()

    def _node(self) -> str | None:
        """The machine that the worker is, or was, on; None where that cannot be told."""
        try:
            node: str | None = self._where and self._ray.get(self._where, timeout=60)[0]
        except self._ray.exceptions.RayError:
            return None
        return node

    def tell_to_stop(self) -> None:
        """End after the calls under way."""
        if not self._told:
            self._told = True
            self._actor.stop.remote()

    def fetch(self) -> None:
        """Bring the shard here, where it is on another machine and that is there."""
        if self._actor is None:
            return
        path = Path(self._job.shard)
        try:
            if self._node() in (None, self._ray.get_runtime_context().get_node_id()):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            at = 0
            with path.open("wb") as file:
                while piece := self._ray.get(self._actor.piece.remote(at), timeout=600):
                    file.write(piece)
                    at += len(piece)
        except self._ray.exceptions.RayError:
            return  # what it had is worked out again

    def end(self) -> None:
        """End the worker."""
        if self._actor is not None:
            self._ray.kill(self._actor)


def _started(cluster: Cluster) -> Any:
    """Ray, joined to a cluster or with one on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "--engine ray needs Ray; install it with `pip install 'recov-graph[ray]'`"
        ) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if cluster.address is None:
            count = cluster.workers or os.cpu_count() or 1
            ray.init(num_cpus=count, include_dashboard=False, **quiet)
        else:
            ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InvalidInputError(
            f"no Ray cluster at {cluster.address or 'this machine'}: {error}; start one with "
            "`ray start --head` and give its address, or leave --address out"
        ) from None
    return ray
