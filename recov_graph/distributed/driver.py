"""Handing problems to workers, following those that die, and bringing all together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from recov_graph import errors
from recov_graph.distributed.cluster import Actor, Cluster, DeadWorkerError, joined
from recov_graph.distributed.collecting import fetch, take_in
from recov_graph.distributed.handing import Item, left, run_row
from recov_graph.distributed.worker import Job, as_data
from recov_graph.errors import InvalidInputError, ModelError
from recov_graph.problem import Problem
from recov_graph.recorder import RunStart
from recov_graph.runner import Output
from recov_graph.runs import ProblemIds, RunSpec
from recov_graph.store import TraceStore
from recov_graph.store.location import is_server

HELD = 64  # problems that a worker has at most beside those under way
CAREFUL = 2  # deaths over a problem, among others, after which it is run by itself
ALONE = 2  # deaths over a problem by itself after which it is left out
MOST_LEFT_OUT = 10  # problems; more of them end the run
MOST_DEATHS = 3  # of a worker that has nothing to do
MOST_PASSES = 3  # over what was lost with a machine
START_SECONDS = 300.0  # for a worker to find a free processor
ANSWER_SECONDS = 600.0


@dataclass(slots=True)
class _Slot:
    """The place of one worker: whoever holds it writes to the same shard.

    Attributes:
        number: of the place.
        shard: where its worker writes.
        actor: the worker.
        pending: what it has been asked last, until that is answered.
        asked_at: when a new worker was asked for; None once it has begun.
        node: where it is, or was.
        waiting: what it is to be given before anything else, as its predecessor had it.
        sent: what it has, by place among all.
        counts: whether its shard has what is nowhere else.
        deaths: of workers that had nothing to do, one after the other.
        gone: whether there is no room for its worker any more.
    """

    number: int
    shard: str
    actor: Actor | None = None
    pending: Any = None
    asked_at: float | None = None
    node: str | None = None
    waiting: deque[Item] = field(default_factory=deque)
    sent: dict[int, Item] = field(default_factory=dict)
    counts: bool = False
    deaths: int = 0
    gone: bool = False


class Distributed:
    """A run over a cluster; `stop` may be called from anywhere.

    Args:
        spec: what is run.
        start: the run.
        store: the store that all is merged into; also tells what had ended before.
        ids: of its problems.
        cluster: where.
        before: whether the run was begun before.
        survey: whether failures that the router did without the features of are measured.
        on_end: called with the output, without its texts, of each problem that has ended.
    """

    def __init__(
        self,
        spec: RunSpec,
        start: RunStart,
        store: TraceStore,
        ids: ProblemIds,
        cluster: Cluster,
        *,
        before: bool = False,
        survey: bool = False,
        on_end: Callable[[Output], object] = lambda output: None,
    ) -> None:
        self._spec, self._start, self._store, self._ids = spec, start, store, ids
        self._cluster, self._before, self._on_end = cluster, before, on_end
        self._folder = cluster.shards and cluster.shards.resolve() / start.id
        if self._folder is None and not is_server(store.address):
            raise InvalidInputError("shards are needed unless all write to one PostgreSQL database")
        self._stopping = threading.Event()
        self._lost = False
        self._left_out: list[Item] = []
        self._ray: Any = None
        self._home = ""
        salt = store.rows("SELECT value FROM settings WHERE id = 'salt'")[0][0]
        row = run_row(spec, start, store)
        shape = (cluster.concurrency, survey, str(Path.cwd()))
        self._job = Job(as_data(spec), row, str(store.address), salt, *shape)

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
        if self._folder:
            take_in(self._store, self._folder)  # of a run whose driver died
        self._store.write_paid(runs=[self._job.run])  # found again, whatever happens from here on
        with joined(self._cluster) as self._ray:
            self._home = self._ray.get_runtime_context().get_node_id()
            for number in range(MOST_PASSES):
                self._one_pass(problems, number)
                if self.stopped or not self._lost:
                    break
            else:
                raise ModelError(
                    f"shards were lost with their machines {MOST_PASSES} times; the same command "
                    "with --resume tries again"
                )
        if self._left_out and not self.stopped:
            raise self._killers("all others have ended")

    def _one_pass(self, problems: Iterable[Problem], number: int) -> None:
        """Hand out what has not ended, and merge."""
        self._lost = False
        source: Iterator[Item] = (Item(order, one) for order, one in enumerate(problems))
        if self._before or number:
            source = left(self._store, self._ids, problems, again=not number, carry=self._carry)
        self._source, self._remaining = source, self._start.planned
        # A cluster of which nothing was said is used whole.
        has = int(self._ray.cluster_resources().get("CPU", 1))
        self._width = min(self._cluster.workers or has, self._remaining)
        slots = [_Slot(k, self._shard(k)) for k in range(self._width)]
        try:
            for slot in slots:
                self._start_worker(slot)
            if self._before and self._folder and not number:
                self._fetch_left(slots)
            self._work(slots)
        except BaseException:
            self._wind_down(slots)
            raise
        finally:
            self._collect(slots)

    @property
    def _carry(self) -> bool:
        """Whether what is half done in the store can be gone on with by a worker's."""
        return self._folder is not None and self._spec.store_text == "full"

    def _shard(self, number: int) -> str:
        name = f"worker-{number}.db"
        return str(self._folder / name) if self._folder else str(self._store.address)

    # Workers ----------------------------------------------------------------------------------

    def _start_worker(self, slot: _Slot) -> None:
        slot.actor = Actor(self._ray, slot.node)
        slot.pending = slot.actor.ask("begin", asdict(self._job) | {"store": slot.shard})
        slot.asked_at = time.monotonic()

    def _work(self, slots: list[_Slot]) -> None:
        """Until nothing is left that can be handed out, or it has been told to stop."""
        while True:
            for slot in slots:
                if slot.pending is None and not slot.gone:
                    self._give(slot)
            busy = {slot.pending: slot for slot in slots if slot.pending is not None}
            if not any(slot.sent or slot.waiting for slot in slots) and (
                self.stopped or self._remaining <= 0
            ):
                return
            done, _ = self._ray.wait(list(busy), timeout=0.5)
            for reference in done:
                self._answered(busy[reference], reference)
            self._without_room(slots)

    def _give(self, slot: _Slot) -> None:
        """Ask a worker for what has ended, with more to do; or to stop."""
        if self.stopped:
            slot.waiting.clear()
        items = [] if self.stopped else self._next_items(slot)
        slot.sent |= {item.order: item for item in items}
        if slot.sent:
            assert slot.actor is not None
            messages = [(one.order, one.problem.model_dump(), one.rows) for one in items]
            slot.pending = slot.actor.ask("exchange", messages, self.stopped)

    def _next_items(self, slot: _Slot) -> list[Item]:
        if any(item.deaths >= CAREFUL for item in (*slot.waiting, *slot.sent.values())):
            return [slot.waiting.popleft()] if slot.waiting and not slot.sent else []
        if slot.waiting:
            items, slot.waiting = list(slot.waiting), deque()
            return items
        # Fewer towards the end, so that all end at about the same time.
        share = self._remaining // (2 * self._width)
        room = self._cluster.concurrency + min(HELD, share) - len(slot.sent)
        items = list(islice(self._source, max(0, room)))
        self._remaining = self._start.planned - items[-1].order - 1 if items else self._remaining
        self._remaining = 0 if len(items) < room else self._remaining
        return items

    def _answered(self, slot: _Slot, reference: Any) -> None:
        assert slot.actor is not None
        slot.pending = None
        try:
            said = slot.actor.told(reference)
        except DeadWorkerError as death:
            self._died(slot, death)
            return
        if (error := said.get("error")) is not None:
            kind = getattr(errors, error["type"], ModelError)
            raise kind(f"worker {slot.number}: {error['message']}")
        slot.deaths = 0
        if slot.asked_at is not None:  # it has begun
            slot.asked_at, slot.node = None, said["node"]
            if slot.counts and self._folder and slot.shard not in said["shards"]:
                self._lost, slot.counts = True, False
            return
        for order, output in said["ended"]:
            del slot.sent[order]
            slot.counts = True
            self._on_end(output)
        if self.stopped and not said["left"]:
            slot.counts = slot.counts or bool(slot.sent)
            slot.sent.clear()

    def _died(self, slot: _Slot, death: DeadWorkerError) -> None:
        """Have another in its place; what kills each that runs it is left out."""
        alone = len(slot.sent) == 1
        for item in slot.sent.values():
            item.alone += alone and item.deaths >= CAREFUL
            item.deaths += 1
        slot.deaths += not slot.sent
        if slot.deaths >= MOST_DEATHS:
            raise ModelError(f"{slot.deaths} workers died one after the other: {death}")
        again = [*slot.sent.values(), *slot.waiting]
        slot.waiting = deque(item for item in again if item.alone < ALONE)
        self._left_out += [item for item in again if item.alone >= ALONE]
        slot.counts = slot.counts or bool(slot.sent)
        slot.sent = {}
        if len(self._left_out) > MOST_LEFT_OUT:
            raise self._killers("so the run was ended; what has ended is stored")
        if not self.stopped:
            self._start_worker(slot)

    def _killers(self, end: str) -> ModelError:
        names = ", ".join(repr(item.problem.id) for item in self._left_out[:3])
        return ModelError(
            f"{len(self._left_out)} problems were left out, as workers died over each of them "
            f"{CAREFUL + ALONE} times, perhaps for want of memory: {names}; {end}"
        )

    def _without_room(self, slots: list[_Slot]) -> None:
        """Do without workers that find no free processor."""
        waited = time.monotonic() - START_SECONDS
        for slot in slots:
            if slot.asked_at is not None and slot.asked_at < waited:
                slot.gone, slot.pending, slot.asked_at = True, None, None
                self._lost = self._lost or slot.counts or bool(slot.waiting)
                slot.waiting.clear()
        if all(slot.gone for slot in slots):
            raise ModelError(
                f"no worker found a free processor within {START_SECONDS:.0f} s; see `ray status`"
            )

    def _wind_down(self, slots: list[_Slot]) -> None:
        """After an error: let the calls under way end, as they are paid."""
        self.stop()
        ends = time.monotonic() + ANSWER_SECONDS
        begun = [slot.actor for slot in slots if slot.actor and slot.asked_at is None]
        asked = {actor: actor.ask("exchange", [], True) for actor in begun}
        while asked and time.monotonic() < ends:
            for actor, reference in list(asked.items()):
                try:
                    busy = actor.told(reference, ANSWER_SECONDS)["left"]
                except DeadWorkerError:
                    busy = 0
                del asked[actor]
                if busy:
                    asked[actor] = actor.ask("exchange", [], True)

    # Shards -----------------------------------------------------------------------------------

    def _fetch_left(self, slots: list[_Slot]) -> None:
        """Take in what a driver that died has left on other machines, before anything is run."""
        assert self._folder is not None
        # Not beside the shards that workers on this machine have open by now.
        left, seen = self._folder / "left", {self._home}
        ends = time.monotonic() + START_SECONDS
        for slot in slots:
            assert slot.actor is not None
            try:
                said = slot.actor.told(slot.pending, max(1.0, ends - time.monotonic()))
            except DeadWorkerError:
                continue  # met again where it is waited for
            if "error" in said or said["node"] in seen:
                continue
            seen.add(said["node"])
            for path in said["shards"]:
                to = left / f"{Path(path).stem}-{said['node'][:8]}.db"
                fetch(slot.actor, path, to, ANSWER_SECONDS)
        if len(seen) > 1:
            take_in(self._store, left)

    def _collect(self, slots: list[_Slot]) -> None:
        """Fetch the shards of other machines, merge all, and end the workers."""
        begun = [slot for slot in slots if slot.node is not None]
        if self._folder:
            for slot in begun:
                self._bring(slot)
            whole = take_in(self._store, self._folder, keep=self._cluster.keep_shards)
            self._lost = self._lost or not whole
        for slot in begun:
            if self._folder and slot.node != self._home and slot.actor is not None:
                try:
                    slot.actor.told(slot.actor.ask("discard", slot.shard), ANSWER_SECONDS)
                except DeadWorkerError:
                    continue
        for slot in slots:
            if slot.actor is not None:
                slot.actor.end()

    def _bring(self, slot: _Slot) -> None:
        """See to it that a shard is here; where it cannot be had, what it had is lost."""
        assert slot.actor is not None
        here = slot.node == self._home
        try:
            if slot.asked_at is not None and not here:  # the one before died: this can fetch it
                said = slot.actor.told(slot.pending, ANSWER_SECONDS)
                if "error" in said or slot.shard not in said["shards"]:
                    raise DeadWorkerError("its shard is gone")
            slot.actor.told(slot.actor.ask("close"), ANSWER_SECONDS)
            if not here:
                fetch(slot.actor, slot.shard, Path(slot.shard), ANSWER_SECONDS)
        except DeadWorkerError:
            if not here:
                self._lost = self._lost or slot.counts
                return
        if slot.counts and not Path(slot.shard).exists():
            self._lost = True
