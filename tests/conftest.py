"""What tests share: no network, no database but their own, the real pair, and a scripted model."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import settings

from recov_graph.batch import Batch, compare_with_retry, keep_retries, run_batch
from recov_graph.cli import main
from recov_graph.graph import create_recovery_graph
from recov_graph.models import Capability, Generation, Scores
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.rollout import FinishReason, Rollout, TopK, Usage
from recov_graph.store import TraceStore
from recov_graph.surveying import survey
from recov_graph.verifiers import as_verifier
from tests import searching  # noqa: F401 (registers the profile)

settings.load_profile("ours")

LOOPBACK = ("127.", "::1", "localhost")


def _loopback_only(real: Callable[..., Any], address_at: int) -> Callable[..., Any]:
    def guarded(*args: Any, **options: Any) -> Any:
        address = args[address_at]
        host = address[0] if isinstance(address, tuple) else address
        local = getattr(args[0], "family", None) == getattr(socket, "AF_UNIX", object())
        if not (local or not host or str(host).startswith(LOOPBACK)):
            raise PermissionError(f"tests may not reach the network: {address!r}")
        return real(*args, **options)

    return guarded


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Only the machine itself can be connected to, and no other name can be looked up."""
    with pytest.MonkeyPatch.context() as patch:
        for method, address_at in (("connect", 1), ("connect_ex", 1), ("sendto", -1)):
            real = getattr(socket.socket, method)
            patch.setattr(socket.socket, method, _loopback_only(real, address_at))
        patch.setattr(socket, "getaddrinfo", _loopback_only(socket.getaddrinfo, 0))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_stray_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever names no database gets a temporary one, subprocesses included."""
    folder = tmp_path_factory.mktemp("default")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOV_GRAPH_DB", str(folder / "traces.db"))
        patch.setenv("XDG_DATA_HOME", str(folder))
        yield


@pytest.fixture(scope="session")
def pair() -> EmbeddedPair:
    """The models that ship."""
    return EmbeddedPair()


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Cli:
    """Runs the command line in this process, which is quicker than another."""
    standard_input = tmp_path_factory.mktemp("cli") / "stdin"

    def run(*arguments: Any, stdin: str | bytes = "") -> Done:
        standard_input.write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        monkeypatch.setattr(sys, "argv", ["recov-graph", *map(str, arguments)])
        capsys.readouterr()
        with standard_input.open(encoding="utf-8") as file:
            monkeypatch.setattr(sys, "stdin", file)
            with pytest.raises(SystemExit) as end:
                main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    """An empty trace store in a file of its own."""
    with TraceStore(tmp_path / "traces.db") as opened:
        yield opened


class Demo(NamedTuple):
    """A batch on the embedded pair, with all that the command line measures beside it."""

    path: Path
    batch: Batch


@pytest.fixture(scope="session")
def demo(pair: EmbeddedPair, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A store that is only to be read; whoever writes makes a copy."""
    path = tmp_path_factory.mktemp("demo") / "traces.db"
    how: dict[str, Any] = {"temperature": 0.6, "max_new_tokens": 160, "seed": 0}
    with TraceStore(path) as store:
        graph = create_recovery_graph(pair, "numeric", store=store, kind="demo", seed=0)
        batch = run_batch(graph, bundled_problems()[::15])
        compare_with_retry(batch, pair, as_verifier("numeric"), **how)
        keep_retries(batch, store)
        survey(batch, pair, store, temperature=how["temperature"])
    return Demo(path, batch)


@pytest.fixture(scope="session")
def scripted() -> type[ScriptedModel]:
    """`ScriptedModel`, to be called with what it shall say: ``scripted(["42"], last="41")``."""
    return ScriptedModel


class Call(NamedTuple):
    """A call that a scripted model was asked for: the method and its arguments by name."""

    method: str
    arguments: dict[str, Any]


class ScriptedModel:
    """A model that says what it was told to, one character a token, and records what it is asked.

    Args:
        texts: what it writes, one item a rollout in the order they are asked for; an exception
            is raised instead. Asking for more than there are fails as a model would.
        last: said over and over once `texts` are used up.
        capabilities: what it claims to be able to do; it can do everything.
        name: the model's name.
        seconds: how long every call takes.
        obedient: whether it stops at `max_tokens`.
    """

    end_token = 0

    def __init__(
        self,
        texts: Iterable[str | Exception] = (),
        *,
        last: str | None = None,
        capabilities: Iterable[Capability] = tuple(Capability),
        name: str = "scripted",
        seconds: float = 0.0,
        obedient: bool = True,
    ) -> None:
        self.name = name
        self.capabilities = frozenset(capabilities)
        self.calls: list[Call] = []
        self._texts = iter(texts if last is None else chain(texts, repeat(last)))
        self._seconds = seconds
        self._obedient = obedient

    def sample(
        self,
        prompt: str,
        *,
        n: int = 1,
        temperature: float,
        max_tokens: int,
        seed: int,
        prefix: Sequence[int] | np.ndarray[Any, Any] = (),
    ) -> Generation:
        """The next n texts, each with the specialist's top-K where the model can score."""
        self._called(
            "sample",
            prompt=prompt,
            n=n,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            prefix=[int(token) for token in prefix],
        )
        rollouts = []
        for _ in range(n):
            tokens = self._next_tokens()
            if self._obedient:
                tokens = tokens[:max_tokens]
            ended: FinishReason = "stop" if tokens[-1:] == [self.end_token] else "length"
            ids = np.array(tokens, np.int32)
            scores = _topk(ids, 0.0) if Capability.SCORE in self.capabilities else None
            rollouts.append(Rollout(self.decode(tokens), ids, ended, scores))
        written = sum(len(rollout) for rollout in rollouts)
        return Generation(rollouts, Usage(len(prompt) + len(prefix), written))

    def score(self, prompt: str, completions: Sequence[Any], *, role: str) -> Scores:
        """Top-3 lists; the ancestor disagrees at every third position."""
        self._called("score", prompt=prompt, completions=len(completions), role=role)
        lists = [_topk(ids, 0.0 if role == "specialist" else 3.0) for ids in completions]
        read = sum(len(prompt) + len(ids) for ids in completions)
        return Scores(lists, Usage(scored_tokens=read))

    def open(self, prompt: str, *, prefix: Sequence[int] | Any = (), **_: Any) -> ScriptedSession:
        """A rollout in which both models all but insist on the next text."""
        self._called("open", prompt=prompt, prefix=[int(token) for token in prefix])
        return ScriptedSession(self._next_tokens(), len(prompt) + len(prefix))

    def decode(self, tokens: Sequence[int] | Any) -> str:
        """The characters of the tokens."""
        return "".join(chr(int(token)) for token in tokens if token != self.end_token)

    def prompt_length(self, prompt: str) -> int:
        """One token a character."""
        return len(prompt)

    def _called(self, method: str, **arguments: Any) -> None:
        self.calls.append(Call(method, arguments))
        if self._seconds:
            time.sleep(self._seconds)

    def _next_tokens(self) -> list[int]:
        text = next(self._texts, None)
        if text is None:
            raise AssertionError("the script has no text left")
        if isinstance(text, Exception):
            raise text
        return [*map(ord, text), self.end_token]


class ScriptedSession:
    """One steered rollout of a `ScriptedModel`."""

    def __init__(self, tokens: Sequence[int], prompt: int) -> None:
        self.finished: FinishReason | None = None
        self.draft = None
        self.next_cost = 2
        self._tokens, self._prompt, self._written = tokens, prompt, 0

    @property
    def usage(self) -> Usage:
        """Both models read everything."""
        return Usage(self._prompt, self._written, self._prompt + self._written)

    def distributions(self) -> tuple[TopK, TopK]:
        """All but certain of the next token of the script."""
        token = self._tokens[self._written]
        certain = TopK(np.array([[token, token + 1]]), np.array([[-1e-9, -40.0]]))
        return certain, certain

    def append(self, token: int) -> None:
        """Take a token; the script goes on as if it had been the expected one."""
        self._written += 1
        if token == ScriptedModel.end_token or self._written == len(self._tokens):
            self.finished = "stop"


def _topk(taken: np.ndarray[Any, Any], disagreement: float) -> TopK:
    """The taken token and the next two, [L, 3]; every third position is `disagreement` lower."""
    ids = np.asarray(taken, np.int32)[:, None] + np.arange(3, dtype=np.int32)
    logprobs = np.tile(np.array([-0.1, -3.0, -4.0], np.float32), (len(ids), 1))
    logprobs[::3, 0] -= disagreement
    return TopK(ids, logprobs)
