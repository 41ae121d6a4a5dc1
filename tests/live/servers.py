"""The two vLLM servers of the live suite: the shipped pair's own weights behind real HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from langchain_openai import ChatOpenAI

from recov_graph.models.embedded import PAIR
from recov_graph.models.openai import OpenAIModel

PYTHON = "RECOV_GRAPH_VLLM_PYTHON"
GIVEN = ("RECOV_GRAPH_LIVE_SPECIALIST", "RECOV_GRAPH_LIVE_ANCESTOR")
ROLES = ("specialist", "ancestor")
# What the pair was trained on: the prompt and nothing around it.
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
# The vocabulary has 24 tokens; asked for more than it has, vLLM's engine dies.
MOST_LOGPROBS = 20
UP_WITHIN = 300.0
DOWN_WITHIN = 20.0
CONCURRENCY = 8  # requests of the suite under way at a time
SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
# One thread each, left to the system: by itself vLLM binds both servers to the same core.
SETTINGS |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


class Servers(NamedTuple):
    """Where the two are, without /v1, and how long it took until both were up."""

    specialist: str
    ancestor: str
    seconds: float


class NotServedError(Exception):
    """There is no vLLM here to start; the reason."""


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """The servers that the environment names or, for as long as this lasts, two of our own.

    Raises:
        NotServedError: no server is named and no vLLM installed.
        RuntimeError: a server did not come up; with the end of its log.
    """
    given = [os.environ.get(name, "").rstrip("/") for name in GIVEN]
    if all(given):
        yield Servers(given[0], given[1], 0.0)
        return
    python = _python()
    template = folder / "template.jinja"
    template.write_text(TEMPLATE, "utf-8")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminated_is_interrupted())
        running = [stack.enter_context(_server(python, role, template, folder)) for role in ROLES]
        for process, address, log in running:
            _wait(process, address, log, started + UP_WITHIN)
        specialist, ancestor = (address for _, address, _ in running)
        yield Servers(specialist, ancestor, time.monotonic() - started)


def _python() -> str:
    named = Path(os.environ.get(PYTHON) or ".venv-live/bin/python").absolute()
    there = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    if not named.is_file() or subprocess.run([named, "-c", there], check=False).returncode:
        raise NotServedError(f"vLLM is not installed for {named}; `make live` installs and uses it")
    return str(named)


@contextlib.contextmanager
def _server(
    python: str, role: str, template: Path, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """A server in a process group of its own, which does not outlive this."""
    log = folder / f"{role}.log"
    port = _free_port()
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(PAIR / role)]
    command += ["--served-model-name", role, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "256", "--max-logprobs", str(MOST_LOGPROBS), "--enforce-eager"]
    command += ["--dtype", "float32", "--chat-template", str(template)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **SETTINGS},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path, until: float) -> None:
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        time.sleep(0.5)
    ended = process.poll()
    how = f"did not answer within {UP_WITHIN:g} s" if ended is None else f"ended with {ended}"
    last = "\n".join(log.read_text("utf-8", "replace").splitlines()[-60:])
    raise RuntimeError(f"a vLLM server {how}; its log ends with\n{last}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group: vLLM's engine and workers are processes of their own."""
    for how, seconds in ((signal.SIGTERM, DOWN_WITHIN), (signal.SIGKILL, 5.0)):
        until = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
            while time.monotonic() < until:
                process.poll()  # a child that ended counts until it is waited for
                os.killpg(process.pid, 0)
                time.sleep(0.1)


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """Where this process is told to end, it cleans up first, as on Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def behind(live: Servers, **options: Any) -> OpenAIModel:
    """The pair behind the two servers."""
    chats = [
        ChatOpenAI(model=role, base_url=f"{getattr(live, role)}/v1", use_responses_api=False)
        for role in ("specialist", "ancestor")
    ]
    return OpenAIModel(chats[0], ancestor=chats[1], **options)


def at_once(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """The results of all items, some under way at a time."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(work, items))
