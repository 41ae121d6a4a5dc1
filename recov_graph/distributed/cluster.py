"""What is needed of Ray: a cluster to join or to start, and workers on it. Imported when used."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recov_graph.distributed.worker import Worker
from recov_graph.errors import InvalidInputError, MissingExtraError

REACH_SECONDS = 5.0
OBJECT_STORE = 100 << 20  # bytes; little passes through it
ADDRESS = re.compile(r"(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


@dataclass(slots=True)
class Cluster:
    """Where and how wide to run.

    Args:
        shards: folder of the shards; each machine has or makes it. Best on a local disk. None
            where the store is on a server: then all workers write to that.
        address: of a Ray cluster; None for one on this machine, that ends with the run.
        workers: how many; None for one for each processor.
        concurrency: problems that each worker has under way at a time.
        keep_shards: whether shards are kept once they are merged.
    """

    shards: Path | None
    address: str | None = None
    workers: int | None = None
    concurrency: int = 1
    keep_shards: bool = False


class DeadWorkerError(Exception):
    """A worker is no more; the message says what Ray knows of it."""


class Actor:
    """A worker somewhere on the cluster."""

    def __init__(self, ray: Any, node: str | None = None) -> None:
        options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        if node is not None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            near = NodeAffinitySchedulingStrategy(node, soft=True)
            options["scheduling_strategy"] = near
        else:
            options["scheduling_strategy"] = "SPREAD"
        self._ray = ray
        self._actor = ray.remote(_RayWorker).options(**options).remote()

    def ask(self, method: str, *arguments: Any) -> Any:
        """A reference to what the worker will say."""
        return getattr(self._actor, method).remote(*arguments)

    def told(self, reference: Any, timeout: float | None = None) -> Any:
        """What it said.

        Raises:
            DeadWorkerError: it did not, as it is no more.
        """
        try:
            return self._ray.get(reference, timeout=timeout)
        except self._ray.exceptions.RayError as error:
            raise DeadWorkerError(" ".join(str(error).split())) from None

    def end(self) -> None:
        """End the worker."""
        self._ray.kill(self._actor)


class _RayWorker(Worker):
    def begin(self, job: dict[str, Any]) -> dict[str, Any]:
        """As `Worker.begin`, with the machine as Ray calls it."""
        import ray

        return {**super().begin(job), "node": ray.get_runtime_context().get_node_id()}


@contextmanager
def joined(cluster: Cluster) -> Iterator[Any]:
    """Ray, joined to a cluster or with one on this machine, which ends with it.

    Raises:
        MissingExtraError: Ray is not installed.
        InvalidInputError: there is no such cluster, or it has too few processors.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray as engine
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs Ray ({error}); install it with `pip install 'recov-graph[ray]'`"
        ) from None
    ray: Any = engine
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address is not None:
        _check_reachable(cluster.address)
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        if cluster.address is None:
            count = cluster.workers or os.cpu_count() or 1
            ray.init(
                "local",
                num_cpus=count,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                **quiet,
            )
        else:
            ray.init(cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "on this machine" if cluster.address is None else f"at {cluster.address}"
        raise InvalidInputError(
            f"no Ray cluster {where}: {error}; start one with `ray start --head` and give its "
            "address, or leave --address out"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for one, handler in before.items():  # Ray puts handlers of its own in their place
                signal.signal(one, handler)
    try:
        has = int(ray.cluster_resources().get("CPU", 0))
        if (cluster.workers or 1) > has:
            raise InvalidInputError(
                f"--workers is {cluster.workers}, and the cluster has {has} processors; each "
                "worker takes one"
            )
        # Ray prints what befalls workers to standard output, where figures may have to go.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield ray
            ray.shutdown()
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address at once where Ray would try for minutes."""
    if address == "auto":
        return
    parts = ADDRESS.fullmatch(address)
    if parts is None or int(parts["port"]) > 65535:
        raise InvalidInputError(
            f"--address is {address!r}; it must be HOST:PORT as `ray start --head` prints it, or "
            "'auto' on a machine of the cluster"
        )
    host = parts["host"].strip("[]")
    try:
        socket.create_connection((host, int(parts["port"])), REACH_SECONDS).close()
    except OSError as error:
        raise InvalidInputError(
            f"no Ray cluster at {address}: {error.strerror or error}; start one with `ray start "
            "--head` and give its address, or leave --address out"
        ) from None
