"""One process that runs problems and stores them in its shard. It knows nothing of Ray."""

from __future__ import annotations

import os
import queue
import socket
import sqlite3
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recov_graph.errors import RecovGraphError
from recov_graph.problem import Problem
from recov_graph.recorder import RunStart
from recov_graph.routing import Policy
from recov_graph.runner import Output, Runner
from recov_graph.runs import ProblemIds, RunSpec
from recov_graph.store import TraceStore
from recov_graph.store.holding import held_in_time
from recov_graph.store.location import is_server
from recov_graph.store.sqlite import BUSY_SECONDS
from recov_graph.surveying import survey_one
from recov_graph.version import __version__
from recov_graph.workspace import KEPT_PROBLEMS

REPORT_SECONDS = 0.2  # how long what has ended is gathered before it is told
SHARDS = "worker-*.db"
PATIENCE = 60.0  # seconds for who had a shard before to be gone
Row = dict[str, Any]
Message = tuple[int, Row, dict[str, list[Row]]]  # place among all, problem, its rows elsewhere


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told once; all plain data.

    Attributes:
        spec: the fields of the `RunSpec`, with the policy as the data of its file.
        run: the run's row of the store.
        store: where to write: a file, or the address of a database that all write to.
        salt: of the store that is merged into.
        concurrency: problems under way at a time.
        survey: whether failures that the router did without the features of are measured.
        cwd: where a verifier of the user's own is looked for.
        version: of the package that asks.
    """

    spec: Row
    run: Row
    store: str
    salt: str
    concurrency: int
    survey: bool
    cwd: str
    version: str = __version__


def lock_of(shard: Path) -> Path:
    """What is held by who writes to a shard, or takes it away."""
    return shard.with_name(f"{shard.name}.lock")


def as_data(spec: RunSpec) -> Row:
    """The fields of a `RunSpec`, as plain data."""
    data = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    policy = spec.policy and spec.policy.model_dump(mode="json", exclude_none=True)
    return {**data, "policy": policy}


def as_spec(data: Row) -> RunSpec:
    """The `RunSpec` of such data."""
    policy = data["policy"] and Policy.model_validate(data["policy"])
    return RunSpec(**{**data, "policy": policy})


def told(output: Output) -> Output:
    """Of the graph's output what sums are made of: no texts."""
    return {
        "solved": output["solved"],
        "stop_reason": output["stop_reason"],
        "error": output["error"],
        "route": [{"regime": one["regime"]} for one in output["route"][:1]],
        "attempts": [
            {
                "id": one["id"],
                "operator": one["operator"],
                "spent": one["spent"],
                "verdict": one["verdict"] and {"value": one["verdict"]["value"]},
            }
            for one in output["attempts"]
        ],
        "usage": {"tokens": output["usage"]["tokens"]},
    }


class Worker:
    """Runs problems side by side; its calls come one at a time.

    What goes wrong is told as data, under "error": an exception would be pickled.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._news = threading.Condition()
        self._ended: list[tuple[int, Output]] = []
        self._left = 0  # problems that were given and have not ended
        self._error: Row | None = None
        self._store: TraceStore | None = None
        self._holding = ExitStack()  # of the shard, until it is closed

    def begin(self, job: Row) -> Row:
        """Open the shard; what is there of it, and of others beside it, from before."""
        try:
            return self._begin(Job(**job))
        except Exception as error:
            return {"error": _in_words(error)}

    def _begin(self, job: Job) -> Row:
        if job.version != __version__:
            raise RecovGraphError(
                f"recov-graph {__version__} is installed there and {job.version} here; install "
                "the same version on each machine"
            )
        if job.cwd not in sys.path:
            sys.path.insert(0, job.cwd)
        spec, path = as_spec(job.spec), Path(job.store)
        there: list[str] = []
        if not is_server(job.store):
            there = [str(one) for one in sorted(path.parent.glob(SHARDS))]
            with TraceStore(job.store) as raw:  # ids are hashed as in the store merged into
                raw.write(settings=[{"id": "salt", "value": job.salt}], runs=[job.run])
            # A worker whose driver died may live for some moments more.
            if not self._holding.enter_context(held_in_time(lock_of(path), PATIENCE)):
                raise RecovGraphError(f"another worker still writes to {path}; see `ray status`")
        self._job = job
        self._store = store = TraceStore(job.store, store_text=spec.store_text)
        ids = ProblemIds(job.run["id"], store)
        run = job.run
        start = RunStart(run["id"], ids, run["settings"], run["planned"], run["started_at"])
        model, verifier = spec.as_model(), spec.as_verifier()
        kept = max(KEPT_PROBLEMS, 2 * job.concurrency)

        def ended(problem: Problem, output: Output) -> None:
            if job.survey:
                survey_one(problem, output, model, store, temperature=spec.temperature)

        graph = spec.graph(model, verifier, store, start, kept)
        # Each thread runs one problem after the other, so that none waits for a handful to end.
        self._ids = ids
        self._runner = Runner(graph, store, ids, resume=True, on_end=ended)
        for _ in range(job.concurrency):
            threading.Thread(target=self._work, daemon=True).start()
        return {"host": socket.gethostname(), "pid": os.getpid(), "shards": there}

    def exchange(self, messages: Sequence[Message], stop: bool = False) -> Row:
        """Take problems, and tell which have ended since the last time; soon, if not at once."""
        if stop:
            self._runner.stop()
        with self._news:
            self._left += len(messages)
            for message in messages:
                self._queue.put(message)
            self._news.wait_for(self._is_due, timeout=REPORT_SECONDS)
            ended, self._ended = self._ended, []
            return {"ended": ended, "left": self._left, "error": self._error}

    def _is_due(self) -> bool:
        hungry = bool(self._ended) and self._queue.empty()
        return hungry or not self._left or self._error is not None

    def _work(self) -> None:
        while True:
            order, data, rows = self._queue.get()
            outputs: list[tuple[int, Output]] = []
            try:
                if not self._runner.stopped:
                    problem = Problem.model_validate(data)
                    if rows:
                        self._take_over(problem, order, rows)
                    ran = self._runner.run([(order, problem)])
                    outputs = [(one.order, told(one.output)) for one in ran]
            except BaseException as error:  # told to the driver, which ends the run
                self._runner.stop()
                self._error = self._error or _in_words(error)
            with self._news:
                self._ended += outputs
                self._left -= 1
                self._news.notify_all()

    def _take_over(self, problem: Problem, order: int, rows: dict[str, list[Row]]) -> None:
        """Store what another store had of a problem that this one knows nothing of."""
        assert self._store is not None
        name = self._ids.register(problem, order)
        if not self._store.rows("SELECT 1 FROM problems WHERE id = ?", [name]):
            with TraceStore(self._job.store) as raw:  # as it was stored, not hashed once more
                raw.replace_problems([name], **rows)

    def close(self) -> None:
        """Close the shard."""
        if self._store is not None:
            self._store.close()
        self._holding.close()

    def size(self, path: str) -> int:
        """Bytes of a shard that nobody writes to, once its log has been taken into the file."""
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(path).stat().st_size

    def piece(self, path: str, at: int, length: int) -> bytes:
        """A piece of it."""
        with Path(path).open("rb") as file:
            file.seek(at)
            return file.read(length)

    def discard(self, path: str) -> None:
        """Remove a shard, and its folder where it was the last."""
        for end in ("", "-wal", "-shm"):
            Path(f"{path}{end}").unlink(missing_ok=True)
        folder = Path(path).parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _in_words(error: BaseException) -> Row:
    if isinstance(error, RecovGraphError | OSError):
        return {"type": type(error).__name__, "message": str(error)}
    traceback.print_exc()  # for the log of the worker
    return {"type": "", "message": f"{type(error).__name__}: {error}"}
