"""What the live suite shares: the servers, the pair behind them, and a table of what was found."""

from __future__ import annotations

import json
import os
import platform
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.models.openai import OpenAIModel
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout
from recov_graph.verifiers import as_verifier, judge
from tests.live.servers import NotServedError, Servers, behind, servers

TABLE = "RECOV_GRAPH_LIVE_TABLE"
DRAWS = 24  # of each problem, to find failures
FIGURES = pytest.StashKey["Figures"]()


class Figures:
    """What was measured, in the order it was."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self.heading = ""
        self.started = time.monotonic()

    def add(self, what: str, measured: object, target: str = "") -> None:
        """Note a figure and what it should be."""
        self.rows.append((what, str(measured), target))

    def lines(self) -> list[str]:
        """The table as text."""
        whole = f"{time.monotonic() - self.started:.0f} s"
        rows = [("what", "measured", "target"), *self.rows, ("the whole suite", whole, "")]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return [self.heading, table[0], "  ".join("-" * width for width in widths), *table[1:]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = Figures()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if not figures.rows:
        return
    terminalreporter.section("measured on real servers")
    text = "\n".join(figures.lines())
    terminalreporter.write_line(text)
    path = os.environ.get(TABLE)
    if path:
        Path(path).write_text(text + "\n", "utf-8")


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    return pytestconfig.stash[FIGURES]


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, figures: Figures) -> Iterator[Servers]:
    """Both servers, for the whole session."""
    folder = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        # What other runs found out about other servers at the same address is not for us.
        patch.setenv("RECOV_GRAPH_CACHE", str(folder / "cache"))
        patch.setenv("OPENAI_API_KEY", "none")
        try:
            with servers(folder) as up:
                with urllib.request.urlopen(f"{up.specialist}/version", timeout=30) as reply:
                    version = json.load(reply)["version"]
                cores = len(os.sched_getaffinity(0))
                figures.heading = (
                    f"vLLM {version} on the CPU, {platform.machine()}, {cores} cores for both "
                    "servers and the client"
                )
                took = f"{up.seconds:.0f} s" if up.seconds else "were up"
                figures.add("both servers up", took, "300 s")
                yield up
        except NotServedError as reason:
            pytest.skip(str(reason))


@pytest.fixture(scope="session")
def model(live: Servers) -> OpenAIModel:
    """The pair through vLLM, found out about by asking."""
    return behind(live)


class Failed(NamedTuple):
    """Some failed samples of one problem."""

    problem: Problem
    rollouts: list[Rollout]


@pytest.fixture(scope="session")
def failed(pair: EmbeddedPair) -> list[Failed]:
    """Failed samples, drawn by numpy: as many different ones as the graph scores in one request."""
    verifier = as_verifier("numeric")
    found = []
    for problem in bundled_problems():
        drawn = pair.sample(
            problem.prompt, n=DRAWS, temperature=TEMPERATURE, max_tokens=MAX_NEW_TOKENS, seed=11
        ).rollouts
        different = {rollout.token_ids.tobytes(): rollout for rollout in drawn}.values()
        wrong = [one for one in different if not judge(verifier, problem, one.text).passed]
        for start in range(0, len(wrong) - SAMPLES + 1, SAMPLES):
            found.append(Failed(problem, wrong[start : start + SAMPLES]))
    return found
