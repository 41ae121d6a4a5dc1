"""The graph over HTTP, sixteen problems at a time, against sending the same requests by hand."""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from benchmarks.rows import Row
from recov_graph import create_recovery_graph
from recov_graph.models import OpenAIModel
from recov_graph.models.embedded import bundled_problems
from recov_graph.models.openai import AccessCache
from recov_graph.models.openai.endpoint import Endpoint, Request
from recov_graph.problem import Problem
from tests.openai_server import served

PROBLEMS = 64
CONCURRENCY = 16
RUNS = 5


class Sent(NamedTuple):
    """One request as it went over the wire."""

    host: str
    path: str
    body: bytes


def through_graph(
    model: OpenAIModel, problems: Sequence[Problem], store: Path
) -> tuple[float, dict[str, list[Sent]]]:
    """Seconds that the problems take, and what was sent for each."""
    sent: dict[str, list[Sent]] = {}
    under_way = threading.local()
    graph = create_recovery_graph(model, "numeric", seed=0, store=store)
    send = Endpoint.send

    def noting(self: Endpoint, request: Request) -> Any:
        path = request.path if "://" in request.path else self.base_url + request.path
        where = urlsplit(path)
        sent.setdefault(under_way.problem, []).append(
            Sent(where.netloc, where.path, json.dumps(dict(request.body)).encode())
        )
        return send(self, request)

    def one(problem: Problem) -> None:
        under_way.problem = problem.id
        graph.invoke({"problem": problem.model_dump()})

    Endpoint.send = noting  # type: ignore[method-assign]
    try:
        return timed(one, problems), sent
    finally:
        Endpoint.send = send  # type: ignore[method-assign]


def by_hand(sent: dict[str, list[Sent]], problems: Sequence[Problem]) -> float:
    """Seconds that the same requests take with nothing around them; no reply is looked at."""
    own = threading.local()

    def one(problem: Problem) -> None:
        connections: dict[str, HTTPConnection] = own.__dict__.setdefault("connections", {})
        for host, path, body in sent.get(problem.id, []):
            if host not in connections:
                connections[host] = HTTPConnection(host)
            connections[host].request("POST", path, body, {"Content-Type": "application/json"})
            connections[host].getresponse().read()

    return timed(one, problems)


def timed(one: Callable[[Problem], None], problems: Sequence[Problem]) -> float:
    """Seconds that all problems take, so many at a time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(one, problems))
    return time.perf_counter() - started


def main() -> list[Row]:
    """Print the throughput of both and their ratio, the two taking turns."""
    problems = bundled_problems()[:PROBLEMS]
    with (
        tempfile.TemporaryDirectory() as folder,
        served("specialist", model="specialist") as specialist,
        served("ancestor", model="ancestor") as ancestor,
    ):
        made = partial(
            OpenAIModel,
            "openai:specialist",
            base_url=specialist,
            ancestor="openai:ancestor",
            ancestor_base_url=ancestor,
            cache=AccessCache(Path(folder)),
        )
        _, sent = through_graph(made(), problems, Path(folder) / "warm.db")
        by_hand(sent, problems)
        graph, hand = [], []
        for run in range(RUNS):
            seconds, sent = through_graph(made(), problems, Path(folder) / f"{run}.db")
            graph.append(seconds)
            hand.append(by_hand(sent, problems))
    ratios = [b / a for a, b in zip(graph, hand, strict=True)]
    ours, other = (
        f"{PROBLEMS / statistics.median(times):.1f} problems/s" for times in (graph, hand)
    )
    name = f"{PROBLEMS} problems over HTTP, {CONCURRENCY} at a time"
    requests = sum(map(len, sent.values()))
    print(f"{name}, {requests} requests: {ours} through the graph, {other} by hand")
    row = Row(name, ours, f"by hand: {other}", statistics.median(ratios), min(ratios), max(ratios))
    print(f"ratio: {row.ratio:.2f} ({row.low:.2f} to {row.high:.2f} over {RUNS} pairs of runs)")
    return [row]


if __name__ == "__main__":
    main()
