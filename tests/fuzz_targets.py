"""What reads what comes from outside, each given any bytes at all.

A target hands bytes to the reader that a user's file or a server's reply goes to, and raises
`AssertionError` where a promise is broken; whatever else it raises would have reached the user as a
traceback. It tells whether the bytes were accepted. `tests.fuzz` finds bytes by coverage,
`tests.test_fuzz` by Hypothesis.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sqlite3
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import psycopg
from langchain_openai import ChatOpenAI
from psycopg.conninfo import conninfo_to_dict

from recov_graph import cli, policies, tape
from recov_graph.budget import Budget, BudgetExhausted, MeteredModel
from recov_graph.context import RecoveryContext
from recov_graph.errors import ModelError, RecovGraphError, StoreError
from recov_graph.features import FEATURES, ProblemFeatures, trace_features
from recov_graph.importing import import_file
from recov_graph.merging import merge
from recov_graph.models.base import Capability, Generation, Overhead, Role, Scores
from recov_graph.models.openai import OpenAIModel
from recov_graph.models.openai.cache import AccessCache
from recov_graph.problem import Problem, ProblemFile, strict_json
from recov_graph.rollout import Rollout, TopK, Usage
from recov_graph.rollout_features import RolloutFeatures
from recov_graph.routing import Evidence, Policy, as_router, load_policy
from recov_graph.routing.policy import Posterior
from recov_graph.scheduler import Pool
from recov_graph.signals import token_signals
from recov_graph.store import TraceStore
from recov_graph.store.blobs import pack, unpack
from recov_graph.store.checkup import check_up
from recov_graph.store.location import check_server, short_name, shown
from tests.stored_runs import StoredRun

MOST_SAID = 1500  # characters of a message, the name of a file in it not counted
NOTHING: Mapping[str, Any] = {}


@cache
def folder() -> Path:
    """Where the files are that readers are given; gone when the process ends."""
    made = tempfile.TemporaryDirectory(prefix="fuzz-")
    _kept.append(made)
    return Path(made.name)


_kept: list[Any] = []


def written(name: str, data: bytes) -> Path:
    """A file with that in it."""
    path = folder() / name
    path.write_bytes(data)
    return path


# What users get to see ----------------------------------------------------------------------------


def told_well(error: RecovGraphError) -> None:
    """An error has to say something, in one line, and nothing that a terminal would obey."""
    message = str(error)
    assert message.strip(), f"{type(error).__name__} says nothing"
    assert len(message.replace(str(folder()), "")) < MOST_SAID, f"too long: {message[:200]}..."
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
        cli._complain(message)
    line = said.getvalue()
    assert line.startswith("Error: "), line
    assert line[:-1].isprintable(), ascii(line)
    line.encode()


@contextlib.contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[list[RecovGraphError]]:
    """Errors of ours may be raised, and of those only the `kinds` where any are named."""
    caught: list[RecovGraphError] = []
    try:
        yield caught
    except RecovGraphError as error:
        caught.append(error)
    for error in caught:
        told_well(error)
        assert not kinds or isinstance(error, kinds), f"{type(error).__name__}: {error}"


def finite(*values: Any) -> bool:
    """Whether all of these are numbers that a computer reckons with."""
    return all(isinstance(value, int | float) and abs(value) < 1e300 for value in values)


def all_finite(value: Any) -> bool:
    """Whether no number anywhere in a document is beyond all range."""
    left = [value]  # and not by recursion: documents may be deep
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            left += one.values() if isinstance(one, dict) else one
        elif isinstance(one, float) and not math.isfinite(one):
            return False
    return True


def document(data: bytes) -> dict[str, Any]:
    """The JSON object that bytes hold; an empty one where they hold none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def entries(value: Any) -> list[dict[str, Any]]:
    """The objects of a list."""
    found = value if isinstance(value, list) else []
    return [entry for entry in found if isinstance(entry, dict)]


def whole(value: Any, most: int, least: int = 0) -> int:
    """A whole number within limits, from anything."""
    number = int(value) if isinstance(value, int) else len(str(value)[:9])
    return max(least, min(most, number))


def lines(*documents: Any) -> bytes:
    """JSON Lines."""
    return "\n".join(map(json.dumps, documents)).encode()


# Problems -----------------------------------------------------------------------------------------

PROBLEMS = (
    lines({"prompt": "1+2?", "answer": 3}, {"prompt": "3*4?", "answer": "12", "id": "b"}),
    lines({"prompt": "x", "answer": [1, {"a": 2.5}], "task": "t", "metadata": {"k": None}}),
    b"\xef\xbb\xbf" + lines({"prompt": "\u00e9\U0001f600", "answer": r"\d+"}) + b"\r\n\n",
)


def problems(data: bytes) -> bool:
    """A file of problems: read twice alike, written and read again the same."""
    path = written("problems.jsonl", data)
    with refusing() as refused:
        file = ProblemFile(path)
        found = list(file)
        assert len(found) == len(file) > 0
        assert len({problem.id for problem in found}) == len(found)
        for problem in found:
            kept = problem.model_dump()
            assert Problem.model_validate(kept) == problem
            assert problem.prompt
            assert all_finite(kept)
            json.dumps(kept, allow_nan=False)
        again = "\n".join(json.dumps(problem.model_dump()) for problem in found)
        assert list(ProblemFile(written("again.jsonl", again.encode()))) == found
    return not refused


# Top-K lists --------------------------------------------------------------------------------------

TRACES = (
    lines(
        {
            "id": "a",
            "temperature": 0.6,
            "steps": [
                {"token": 5, "specialist": [[5, -0.1], [9, -2.4]], "ancestor": [[9, -0.3]]},
                {"token": 9, "specialist": [[9, -0.1]], "ancestor": [[9, -0.3], [5, -1.4]]},
            ],
        }
    ),
    lines(
        {
            "id": 7,
            "temperature": 1.0,
            "k_cov": 1,
            "window": 0,
            "steps": [{"token": 1, "specialist": [[1, 0.0]], "ancestor": [[2, 0], [1, -3]]}] * 3,
        },
        {"steps": [{"token": 0, "specialist": [[0, -700.0]], "ancestor": [[1, -1e-3]]}]},
    ),
)


def features(data: bytes) -> bool:
    """A file of traces, through the command: what is printed is JSON without odd numbers."""
    path = written("traces.jsonl", data)
    said = io.StringIO()
    with refusing() as refused, np.errstate(all="ignore"), contextlib.redirect_stdout(said):
        cli.cli(["features", "--signals", str(path)], standalone_mode=False)
    for line in said.getvalue().splitlines():
        row = strict_json(line)
        assert all_finite(row)
        assert 0 <= row["junction"] < row["tokens"]
        assert 0 <= row["spread"] <= 1
        for name in ("logit_var", "entropy", "kl", "j"):
            assert len(row["signals"][name]) == row["tokens"]
            assert min(row["signals"][name]) >= 0, name
    return not refused and bool(said.getvalue())


KINDS = ("i4", "i8", "u4", "u8", "u1", "f2", "f4", "f8", "?", "O", "U")
ARRAYS = (
    lines({"taken": [1, 2], "specialist": [[[1, -0.1], [2, -3]]] * 2, "ancestor": [[[2, -1]]] * 2}),
    lines(
        {
            "taken": [3],
            "temperature": 0.5,
            "k_cov": 2,
            "kinds": ["i4", "i4", "f4", "u8", "f2"],
            "specialist": [[[3, -0.5], [-1, -1e9], [4, -2.0]]],
            "ancestor": [[[4, -0.1], [3, -2.0], [7, -9]]],
        }
    ),
)


def arrays(data: bytes) -> bool:
    """Arrays of any kind and shape as a caller of the library may give them."""
    given = document(data)
    warnings.simplefilter("ignore", RuntimeWarning)  # of the arrays made here
    kinds = given.get("kinds")
    kinds = [str(kind) for kind in kinds] if isinstance(kinds, list) else []
    kinds = [kind if kind in KINDS else "" for kind in [*kinds[:5], *[""] * (5 - len(kinds[:5]))]]
    try:
        taken = _array(given.get("taken"), kinds[0])
        specialist = _lists(given.get("specialist"), *kinds[1:3])
        ancestor = _lists(given.get("ancestor"), *kinds[3:5])
    except (ValueError, TypeError, OverflowError):
        return False  # numpy makes no array of that
    with refusing() as refused, np.errstate(all="ignore"):
        signals = token_signals(
            taken, specialist, ancestor, given.get("temperature", 0.6), given.get("k_cov", 20)
        )
        for name, values in signals._asdict().items():
            assert np.isfinite(values).all(), name
            assert name in ("delta_path", "g_cov") or (values >= 0).all(), name
        found = trace_features(signals, given.get("window", 8))
        assert finite(*found)
        assert 0 <= found.spread <= 1
    return not refused


def _array(values: Any, kind: str) -> Any:
    if kind == "O" or not kind:
        return values if kind else np.array(values)
    return np.array(values, np.dtype(kind))


def _lists(value: Any, ids: str, logprobs: str) -> Any:
    """Pairs at each position as two arrays; anything else as it is."""
    try:
        pairs = [list(zip(*row, strict=True)) for row in value]
        return TopK(_array([p[0] for p in pairs], ids), _array([p[1] for p in pairs], logprobs))
    except (TypeError, ValueError, IndexError):
        return value


# Policies -----------------------------------------------------------------------------------------

OPERATORS = ("retry", "local_temp", "dense_steer")


def _moments(mean: float = 0.5) -> dict[str, Any]:
    return {name: {"mean": mean, "sd": 0.2, "count": 9} for name in ProblemFeatures._fields}


def _policy(**parts: Any) -> Policy:
    data = {
        "name": "small",
        "created": "2026-01-01",
        "source": "made up",
        "population": _moments(),
        "cells": {"m|t": _moments(0.4)},
        "rescue": {name: {"alpha": 1, "beta": 3, "problems": 9} for name in OPERATORS},
        "stop_below": 0.05,
        **parts,
    }
    return Policy.model_validate(data)


def _posterior() -> Posterior:
    return Posterior.model_validate(
        {
            "operators": list(OPERATORS),
            "rescue": [[0.1, 0.2, 0.3], [0.6, 0.4, 0.2]],
            "weights": [0.5, 0.5],
            "cells": {"m|t": {0: 0.2, 1: 0.8}},
            "hardness": [-1.0, 1.0],
            "bandwidth": 0.7,
            "covariates": {
                "intercept": 0.1,
                "cells": {"m|t": 0.3},
                "coefficients": {"spread": 0.5, "failed_samples": -0.4, "agreement": 0.2},
                "sampled": {"m|t": 4},
                "spread": 0.3,
            },
            "informed": 0.5,
            "measure": True,
            "failures": {"m|t": 30, "m|u": 5, "n|t": 7},
        }
    )


EVIDENCE = (
    {"task": "t", "features": [0.7, 1.2, -1.5], "failed_samples": 4, "costs": [10, 200, 300]},
    {"task": "x", "rollout": [1, 0.5, 0, 90], "tried": [0, 1], "attempts_left": 3, "draw": 0.01},
    {"task": "t", "tokens_left": 900, "attempts_left": 2, "once": [0, 50], "strange": 60},
)


@cache
def _policy_seeds() -> tuple[bytes, ...]:
    rollout = {name: {"mean": 0.5, "sd": 0.1, "count": 4} for name in RolloutFeatures._fields}
    made = (
        _policy(),
        _policy(posterior=_posterior(), carry_over=0.3),
        _policy(rollout={"population": rollout}, posterior=_posterior(), cells={}),
    )
    return tuple(
        lines(policy.model_dump(mode="json", exclude_none=True), told)
        for policy, told in zip(made, EVIDENCE, strict=True)
    )


def policy_files(data: bytes) -> bool:
    """A policy file, signed where it can be: saved and loaded the same, and routing by it."""
    head, _, told = data.partition(b"\n")
    path = written("policy.json", _signed(head))
    with refusing() as refused:
        policy = load_policy(path)
        copy = folder() / "copy.json"
        policy.save(copy)
        assert load_policy(copy).content_hash == policy.content_hash
        evidence = _evidence(document(told))
        with np.errstate(all="ignore"):
            decided = as_router(policy).decide(evidence)
        assert decided.operator is None or decided.operator in evidence.costs
        assert 0 < decided.probability <= 1, decided
        assert 0 <= decided.expected_rescue <= 1, decided
        for one in decided.candidates:
            assert 0 <= one.expected_rescue <= 1, decided
            assert one.score is None or math.isfinite(one.score), decided
        json.dumps(decided.as_dict(), allow_nan=False)
        assert decided.reason.isprintable() or not all(map(str.isprintable, policy.rule.values()))
    return not refused


def _signed(raw: bytes) -> bytes:
    """The file with the hash that it should have, or else no change would ever be let in."""
    data = document(raw)
    if not data:
        return raw
    data.pop("content_hash", None)
    try:
        return json.dumps(
            {**data, "content_hash": Policy.model_validate(data).content_hash}
        ).encode()
    except ValueError:
        return raw


def _evidence(told: Mapping[str, Any]) -> Evidence:
    """What a run may know of a failure, from anything."""

    def numbers(name: str, most: int) -> list[int]:
        value = told.get(name)
        return [whole(one, most) for one in (value if isinstance(value, list) else [])[:8]]

    def floats(name: str, kind: Any) -> Any:
        value = told.get(name)
        given = value if isinstance(value, list) else []
        known = [max(-1e9, min(1e9, float(one))) for one in given if finite(one)]
        return kind(*known) if len(known) == len(kind._fields) else None

    costs = numbers("costs", 10**6) or [10, 20, 30]
    once = numbers("once", 10**6)
    strange = {"mine": whole(told["strange"], 10**6)} if "strange" in told else {}
    draw, left = told.get("draw"), told.get("tokens_left")
    return Evidence(
        model="m",
        task=str(told.get("task", "t")),
        features=floats("features", ProblemFeatures) or floats("rollout", RolloutFeatures),
        failed_samples=whole(told.get("failed_samples", 4), 10**6),
        tried=[OPERATORS[place % 3] for place in numbers("tried", 9)],
        costs=dict(zip(OPERATORS, costs, strict=False)) | strange,
        attempts_left=whole(told.get("attempts_left", 5), 10**6),
        tokens_left=math.inf if left is None else whole(left, 10**9),
        draw=draw if isinstance(draw, float) and 0 <= draw <= 1 else 0.5,
        once=dict(zip(OPERATORS, once, strict=False)),
    )


def _line_of_history(policy: str, action: str = "activate") -> dict[str, str]:
    return {"time": "2026-01-01T00:00:00+00:00", "policy": policy, "action": action, "why": "w"}


def _shelf_seeds() -> tuple[bytes, ...]:
    known = _policy().content_hash
    return (
        lines(_line_of_history(known), _line_of_history("shipped")) + b"\n",
        lines(_line_of_history(known), _line_of_history("shipped", "rollback")) + b"\nhalf a line",
        lines(_line_of_history("0123456789abcdef")) + b' (cut off)\n{"time": 1}\n',
    )


def shelf(data: bytes) -> bool:
    """The history of a shelf of policies: what is active, and that it can be gone back from."""
    place = folder() / "shelf"
    known = _policy()
    file = place / f"{known.content_hash}.json"
    if not file.exists():
        place.mkdir()
        known.save(file)
    (place / policies.HISTORY).write_bytes(data)
    kept = policies.PolicyShelf(place)
    accepted = True
    for entry in kept.list():
        assert entry.policy is not None or entry.error
        assert (entry.error or "").isprintable()
    with refusing() as refused:
        kept.active()
    accepted = not refused
    with refusing() as refused:
        before = kept.history()
        kept.activate(known, why="fuzz")
        assert kept.active() == known
        after = kept.history()
        assert after[: len(before)] == before
        assert len(after) == len(before) + 1
        kept.rollback()
    return accepted and not refused


# Outcomes from elsewhere --------------------------------------------------------------------------

CSVS = (
    b"model,task,problem_id,n_failed_rollouts,spread,concentration,logit_dispersion,retry,mine\n"
    b"m,t,p1,4,0.5,1.2,-1.5,0.25,0.5\nm,t,p2,,,,,0,1\n",
    b'cell,problem_id,retry,"my, own"\r\n"m|t",p1,1e-1,.5\r\n"a|b|t","p\n2",+1.0,0.\r\n',
)
ROLLOUTS = (
    lines(
        {
            "problem": "p1",
            "operator": "sample",
            "passed": False,
            "tokens": 210,
            "features": {"spread": 0.2, "concentration": 1.5, "logit_dispersion": -1.0},
            "model": "m",
            "task": "t",
        },
        {"problem": "p1", "operator": "retry", "passed": True, "tokens": 9},
        {"problem": 5, "operator": "mine", "passed": False, "tokens": 0},
    ),
)
MOST_IMPORTS = 60  # of a store, before the next
_store: list[TraceStore] = []


def _some_store() -> TraceStore:
    """A store in memory, made anew once there is much in it."""
    if _store and len(_store[0].rows("SELECT 1 FROM runs")) > MOST_IMPORTS:
        _store.pop().close()
    if not _store:
        _store.append(TraceStore(":memory:"))
    return _store[0]


def _imports(path: Path) -> bool:
    """All of a file is stored, or nothing of it; the same again is nothing new."""
    store = _some_store()
    ((before, tallies, profiled),) = store.rows(
        "SELECT (SELECT count(*) FROM problems), (SELECT coalesce(max(rowid), 0) FROM tallies), "
        "(SELECT coalesce(max(rowid), 0) FROM profiles)"
    )
    added = 0
    with refusing() as refused:
        done = import_file(path, store)
        added = done.problems if done.new else 0
        assert done.problems > 0
        assert finite(done.attempts)
        assert done.attempts >= 0
        assert not import_file(path, store).new
    assert store.rows("SELECT count(*) FROM problems") == [(before + added,)]
    sql = "SELECT passed, attempts, tokens FROM tallies WHERE rowid > ?"
    for passed, attempts, tokens in store.rows(sql, [tallies]):
        assert 0 <= passed <= attempts < math.inf
        assert tokens is None or (math.isfinite(tokens) and tokens >= 0)
    sql = f"SELECT failed_samples, {', '.join(FEATURES)} FROM profiles WHERE rowid > ?"
    for failed, spread, *others in store.rows(sql, [profiled]):
        assert failed is None or failed >= 0
        assert spread is None or 0 <= spread <= 1
        assert all(value is None or math.isfinite(value) for value in others)
    return not refused


def csv_files(data: bytes) -> bool:
    """A profile CSV."""
    return _imports(written("profiles.csv", data))


def rollout_files(data: bytes) -> bool:
    """Rollouts as JSON Lines."""
    return _imports(written("rollouts.jsonl", data))


TAPES = (
    lines(
        {"recov_graph_tape": 1, "feature_version": 1, "source": "made up"},
        {
            "id": "p1",
            "model": "m",
            "task": "t",
            "features": [0.5, 1.0, -1.0],
            "failed_samples": 4,
            "prompt_tokens": 5,
            "completion_tokens": 20,
            "scoring_tokens": 9,
            "attempts": {
                "retry": {"passed": "01", "tokens": [10, 20]},
                "mine": {"passed": "11", "tokens": [0, 7]},
            },
        },
    ),
)


def tapes(data: bytes) -> bool:
    """A text tape: written and read again the same."""
    if data.startswith(tape.DATABASE):
        return False  # a trace store, which `stores` looks at
    path, copy = written("tape.jsonl", data), folder() / "copy.jsonl"
    with refusing() as refused:
        found = tape.read_tape(path)
        tape.write_tape(found, copy, "again")
        for one, other in zip(found, tape.read_tape(copy), strict=True):
            assert (one.id, one.model, one.task) == (other.id, other.model, other.task)
            assert list(one.attempts) == list(other.attempts)
            assert all(cost >= 0 for cost in one.costs().values())
            for made in one.attempts.values():
                assert len(made.passed) == len(made.tokens) > 0
                assert made.tokens.min() >= 0
    return not refused


# Replies of servers -------------------------------------------------------------------------------

PROMPT = "1+2?"
TOKENIZED = {"count": 3, "max_model_len": 64, "tokens": [1, 2, 3]}


def _used(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _scored(*tokens: int) -> list[Any]:
    listed = [{str(t): {"logprob": -0.1, "rank": 1, "decoded_token": f"{t}"}} for t in tokens]
    for entry in listed:
        entry["9"] = {"logprob": -2.5, "rank": 2, "decoded_token": "9"}
    return [None, *listed[1:]]


_CHOICE = {"index": 0, "text": "45", "token_ids": [4, 5, 0], "finish_reason": "stop"}
_DRAFT = {
    "tokens": ["token_id:4", "token_id:5"],
    "token_logprobs": [-0.1, -0.2],
    "top_logprobs": [{"token_id:4": -0.1, "token_id:9": -2.4}, {"token_id:5": -0.2}],
}
_ECHO = {
    "tokens": ["1+", "2?", "4", "5", "x"],
    "token_logprobs": [None, -1, -0.1, -0.2, -3],
    "top_logprobs": [None, {"2?": -1}, {"4": -0.1, "9": -3}, {"5": -0.2}, {"x": -3}],
}
_MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "45"}, "finish_reason": "stop"}
_CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": _used(3, 3)}
_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
_READ = {"choices": [{"prompt_logprobs": _scored(1, 2, 3, 4, 5, 0)}], "usage": _used(6, 1)}
REPLIES = (
    lines(
        {"access": {"way": "tokens", "scored": 20, "logprobs": 20}, "n": 1, "cap": 500},
        TOKENIZED,
        {"choices": [{**_CHOICE, "stop_reason": None}], "usage": _used(3, 3)},
        _READ,
        _READ,
        {"choices": [{**_CHOICE, "token_ids": [4, 5], "logprobs": _DRAFT}], "usage": _used(3, 2)},
        {"choices": [{"prompt_logprobs": _scored(1, 2, 3, 4, 5)}], "usage": _used(5, 1)},
        {"prompt": "45"},
    ),
    lines(
        {"access": {"way": "text", "chat": False, "scored": 20, "logprobs": 20}, "n": 2},
        {
            "choices": [
                {
                    "index": i,
                    "text": "45",
                    "finish_reason": "length",
                    "logprobs": {"tokens": ["4", "5"], "top_logprobs": [{"4": -0.1}, {"5": -0.2}]},
                }
                for i in (1, 0)
            ],
            "usage": _used(2, 4),
        },
        {"choices": [{"text": "", "logprobs": _ECHO}], "usage": _used(4, 1)},
        {"choices": [{"text": "", "logprobs": _ECHO}]},
    ),
    lines(
        {"access": {"way": "messages", "scored": 20, "vocabulary": {"4": "4", "5": "5"}}},
        {**_CHAT, "choices": [{**_MESSAGE, "token_ids": [4, 5, 0]}]},
        {
            **_CHAT,
            "choices": [_MESSAGE],
            "prompt_token_ids": [1, 4, 5],
            "prompt_logprobs": _scored(1, 4, 5),
        },
        {
            **_CHAT,
            "choices": [_MESSAGE],
            "prompt_token_ids": [1, 4, 5],
            "prompt_logprobs": _scored(1, 4, 5),
        },
    ),
    lines(
        {"access": {"way": "chat"}, "n": 2, "cap": 90},
        {**_CHAT, "choices": [_MESSAGE, {**_MESSAGE, "index": 1, "logprobs": None}]},
    ),
    lines(
        {"access": {"way": "chat"}},
        {
            **_CHAT,
            "choices": [
                {
                    **_MESSAGE,
                    "message": {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                }
            ],
        },
    ),
    # Without what a server offers: it is found out.
    lines(
        {"n": 1},
        {"choices": [{**_CHOICE, "prompt_logprobs": _scored(1, 2, 3)}]},
        TOKENIZED,
        {"choices": [{**_CHOICE, "prompt_logprobs": _scored(1, 2, 3)}]},
        {"choices": [{**_CHOICE, "prompt_logprobs": _scored(1, 2, 3)}]},
        {"choices": [_CHOICE], "usage": _used(3, 3)},
    ),
    lines({}, {"choices": [{"text": "1+2?", "logprobs": _ECHO}]}, *[{"choices": [_CHOICE]}] * 4),
    lines({"status": 400}, {"error": {"message": "logprobs of 999, max allowed: 5"}}),
    lines({"status": 429, "access": {"way": "chat"}}, {"error": {"message": "quota", "code": 1}}),
)


class _Server:
    """Answers one request after the other with what it was given; then it is gone."""

    def __init__(self) -> None:
        self.status, self.bodies = 200, iter([b""])

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = next(self.bodies, None)
        if body is None:
            raise httpx.ConnectError("gone")
        status, self.status = self.status, 200  # only the first is refused
        return httpx.Response(status, content=body, headers={"content-type": "application/json"})


@cache
def _server() -> tuple[_Server, ChatOpenAI]:
    server = _Server()
    client = httpx.Client(transport=httpx.MockTransport(server))
    address = "http://127.0.0.1:1/v1"
    key: Any = "test-key-123"
    return server, ChatOpenAI(
        model="m", base_url=address, api_key=key, max_retries=0, http_client=client
    )


def replies(data: bytes) -> bool:
    """Bodies of replies, one a line, after a line that says what the server offers, and the cap.

    A model is sampled, scored and steered through the client that would have got them by HTTP.
    """
    head, *bodies = data.split(b"\n")
    how = document(head)
    server, chat = _server()
    status = how.get("status")
    server.status = status if isinstance(status, int) and 200 <= status < 600 else 200
    server.bodies = iter(bodies[:12])
    model = OpenAIModel(chat, ancestor=chat, top_k=2, block=2, cache=_remembered(how))
    cap = whole(how.get("cap", 10**6), 10**9, 1)
    metered = MeteredModel(model, Budget(max_tokens=cap), "p", {})
    accepted = False
    drawn: list[Rollout] = []
    with refusing():
        drawn = metered.sample(
            PROMPT, n=whole(how.get("n", 1), 4, 1), temperature=0.6, max_tokens=9, seed=0
        ).rollouts
        accepted = True
    _within(metered, cap)
    for rollout in drawn:
        rollout.text.encode()
        assert rollout.finish_reason in ("stop", "length")
        assert len(rollout) >= 0
        assert (rollout.token_ids >= 0).all()
    able: frozenset[Capability] = frozenset()
    with refusing():
        able = model.capabilities
    ids = [rollout.token_ids for rollout in drawn if len(rollout.token_ids)][:1]
    roles: tuple[Role, ...] = ("specialist", "ancestor")
    for role in roles if ids and Capability.SCORE in able else ():
        with refusing():
            scores = metered.score(PROMPT, ids, role=role)
            _lists_are_sound(scores.topk[0], len(ids[0]))
        _within(metered, cap)
    if drawn and Capability.STEP in able:
        with refusing():
            _steered(metered)
        _within(metered, cap)
    for rollout in drawn:
        with refusing():
            metered.decode(rollout.token_ids).encode()
            for piece in metered.spell(rollout.token_ids) or ():
                piece.encode()
    return accepted


def _remembered(how: Mapping[str, Any]) -> AccessCache:
    """What servers offer, by a file that may be damaged; nothing where that is not told."""
    if "access" not in how:
        return AccessCache(folder() / "none", seconds=-1.0)
    known, base, path = _memory()
    path.write_text(json.dumps({**base, "access": how["access"]}), "utf-8")
    return known


@cache
def _memory() -> tuple[AccessCache, dict[str, Any], Path]:
    """A memory of servers, what a file of it begins with, and the file."""
    known = AccessCache(folder() / "cache", seconds=1e12)
    endpoint = OpenAIModel(_server()[1], cache=known).specialist
    path = known.path(endpoint)
    path.parent.mkdir()
    base = {"base_url": endpoint.address, "model": "m", "bound": [], "time": 1.0}
    return known, base, path


def _lists_are_sound(topk: TopK, length: int) -> None:
    used = topk.ids >= 0
    assert len(topk.ids) == length
    assert used.any(axis=1).all()
    assert np.isfinite(topk.logprobs[used]).all()
    assert (topk.logprobs[used] <= 0).all()


def _steered(metered: MeteredModel) -> None:
    session = metered.open(PROMPT, max_tokens=5, temperature=0.6)
    while session.finished is None:
        for topk in session.distributions():
            _lists_are_sound(topk, 1)
        draft = session.draft
        assert draft is not None
        assert np.isfinite(draft.proposal).all()
        assert abs(draft.proposal.sum() - 1) < 1e-6
        session.append(draft.token)


def _within(metered: MeteredModel, cap: int) -> None:
    """No call was made once the cap was reached, and none has taken anything back."""
    calls = list(metered.calls.values())
    spent = 0
    for call in calls:
        assert spent < cap, "a call was made after the cap was reached"
        for name in ("prompt_tokens", "completion_tokens", "scored_tokens"):
            assert type(call[name]) is int, call
            assert call[name] >= 0, call
        assert call["seconds"] >= 0
        spent += call["tokens"]
    assert metered.spent.tokens == spent


# Budgets ------------------------------------------------------------------------------------------

BUDGETS = (
    lines(
        {
            "limits": {"max_attempts": 5, "max_tokens": 60, "max_seconds": 9.5},
            "calls": [
                {"do": "sample", "prompt": 4, "n": 2, "most": 9, "write": 20},
                {"do": "score", "prompt": 4, "lengths": [3, 4]},
                {"do": "open", "prompt": 2, "steps": 3, "costs": [2, 5, 1]},
                {"do": "fail", "prompt": 1, "claims": [1, 2, 3]},
                {"do": "sample", "prompt": 1, "n": 1, "most": 1, "write": 0},
            ],
        }
    ),
    lines(
        {"limits": {"max_attempts": 1}, "pool": {"tokens": 5, "attempts": 2, "least_worth": 0.1}}
    ),
    lines(
        {
            "limits": {"max_tokens": 30},
            "before": [{"prompt_tokens": 5, "completion_tokens": 2}],
            "each": True,
            "context": {"max_tokens": 20, "max_seconds": 1.5, "seed": 3},
            "calls": [
                {"do": "sample", "prompt": 3, "n": 3, "most": 4, "write": 4},
                {"do": "sample", "prompt": 3, "n": 2, "most": 4, "claims": [1, -5, 10]},
            ],
        }
    ),
)


class _Told:
    """A model that costs what it is told to: within what is asked, or as it `claims`."""

    name, end_token = "told", 0
    capabilities = frozenset(Capability)

    def __init__(self, each: bool) -> None:
        self.overhead = Overhead(prompt_per_sample=each)
        self.call: Mapping[str, Any] = NOTHING
        self.asked = 0

    def prompt_length(self, prompt: str) -> int:
        return len(prompt)

    def _claimed(self, usage: Usage) -> Usage:
        claims = self.call.get("claims")
        known = [one for one in (claims if isinstance(claims, list) else []) if type(one) is int]
        return Usage(*known[:3]) if known else usage

    def sample(self, prompt: str, *, n: int, max_tokens: int, prefix: Any = (), **_: Any) -> Any:
        self.asked += 1
        assert max_tokens >= 1, "a call for nothing"
        if self.call.get("do") == "fail":
            raise ModelError("told to fail")
        written = min(max_tokens, whole(self.call.get("write"), 10**4))
        read = (len(prompt) + len(prefix)) * (n if self.overhead.prompt_per_sample else 1)
        one = Rollout("x", np.zeros(0, np.int32), "stop", written=written)
        return Generation([one] * n, self._claimed(Usage(read, written * n)))

    def score(self, prompt: str, completions: Sequence[Any], *, role: str) -> Scores:
        self.asked += 1
        read = sum(len(prompt) + len(ids) for ids in completions)
        return Scores([], self._claimed(Usage(scored_tokens=read)))

    def open(self, prompt: str, *, prefix: Any = (), **_: Any) -> Any:
        self.asked += 1
        return _ToldSession(self.call.get("costs"), len(prompt) + len(prefix))


class _ToldSession:
    """Costs what was told at every step; twice its prompt to begin with."""

    finished = draft = None

    def __init__(self, costs: Any, read: int) -> None:
        self._costs = [whole(cost, 10**4) for cost in (costs if isinstance(costs, list) else [1])]
        self.usage = Usage(read, 0, read)
        self._step = 0

    @property
    def next_cost(self) -> int:
        return self._costs[self._step % len(self._costs)] if self._costs else 1

    def distributions(self) -> Any:
        self.usage += Usage(0, 0, self.next_cost)
        self._step += 1
        return None, None

    def append(self, token: int) -> None: ...


def budgets(data: bytes) -> bool:
    """Limits and calls of any size: what is spent stays within the cap.

    A model that claims to have cost more than it was allowed exceeds it by that one call.
    """
    given = document(data)
    limits = given.get("limits")
    for made, kind in ((Pool, "pool"), (RecoveryContext, "context")):
        if isinstance(given.get(kind), dict):
            with refusing():
                made(
                    **{
                        str(name): value
                        for name, value in given[kind].items()
                        if name in made.__annotations__
                    }
                )
    budget = None
    with refusing():
        known = limits if isinstance(limits, dict) else {}
        budget = Budget(**{name: known[name] for name in Budget.__slots__ if name in known})
    if budget is None:
        return False
    assert 0 < budget.max_attempts < 2**53
    before = {
        f"p/call{place}": {name: whole(value, 2**53) for name, value in one.items()}
        for place, one in enumerate(entries(given.get("before")))
    }
    model = _Told(given.get("each") is True)
    metered = MeteredModel(model, budget, "p", before)  # type: ignore[arg-type]
    cap = math.inf if budget.max_tokens is None else budget.max_tokens
    least, over = metered.spent.tokens, False
    for call in entries(given.get("calls"))[:30]:
        model.call, asked = call, model.asked
        left = cap - metered.spent.tokens
        with refusing(BudgetExhausted, ModelError):
            _called(metered, call)
        spent = metered.spent.tokens
        assert spent >= least, "something was given back"
        assert model.asked == asked or left > 0, "a call after the cap was reached"
        over = over or isinstance(call.get("claims"), list)
        assert over or spent <= max(cap, least), f"{spent} of {cap} tokens are spent"
        least = spent
        over = spent > cap
    return True


def _called(metered: MeteredModel, call: Mapping[str, Any]) -> None:
    prompt = "x" * whole(call.get("prompt"), 10**4)
    if call.get("do") == "score":
        lengths = call.get("lengths")
        ids = [
            np.zeros(whole(length, 10**4), np.int32)
            for length in (lengths if isinstance(lengths, list) else [])[:9]
        ]
        metered.score(prompt, ids, role="specialist")
    elif call.get("do") == "open":
        session = metered.open(prompt)
        for _ in range(whole(call.get("steps"), 50)):
            if session.finished is not None:
                break
            session.distributions()
            session.append(1)
    else:
        metered.sample(
            prompt,
            n=whole(call.get("n"), 30, 1),
            temperature=1.0,
            max_tokens=whole(call.get("most"), 10**6, 1),
            seed=0,
        )


# Stores -------------------------------------------------------------------------------------------


@cache
def _sound_store() -> bytes:
    """A small store that is whole, as bytes."""
    path = folder() / "sound.db"
    with TraceStore(path) as store:
        run = StoredRun(store)
        run.problem(tried=[("retry", "failed", 50), ("local_temp", "rescued", 70)])
        run.problem(samples="ffpf", features=(0.5, 1.0, -1.0))
        topk = pack(np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32))
        store.write(
            token_arrays=[
                {
                    "id": f"{run.name}-00000/0",
                    "length": 3,
                    "signals": pack(np.zeros((6, 3))),
                    "taken": pack(np.zeros(3, np.int32)),
                    "specialist": topk,
                    "ancestor": topk,
                }
            ]
        )
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = DELETE")
    return path.read_bytes()


DAMAGE = (
    lines({"at": [[100, "ff"]]}),
    lines({"at": [[16, "1000"], [0.5, "00000000"]]}),
    lines({"at": [[0.3, "0d00"], [0.31, "ffffffff"], [0.7, "41"]], "cut": 0.9}),
    lines({"cut": 0.5}),
    lines({"at": [[18, "0101"]], "zero": [[4096, 200]]}),
)


def stores(data: bytes) -> bool:
    """A store with bytes changed, cut or zeroed: examined, and what is whole taken elsewhere."""
    damaged = written("damaged.db", _damaged(document(data)))
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{damaged}{suffix}").unlink(missing_ok=True)
    for left in folder().glob("merged.db*"):
        left.unlink()
    with refusing(StoreError):
        for finding in check_up(damaged).findings:
            assert finding.says
    with refusing(StoreError) as refused:
        merged = merge([damaged], folder() / "merged.db")
        assert 0 <= merged.problems <= 2
        with contextlib.closing(sqlite3.connect(folder() / "merged.db")) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert file.execute("PRAGMA foreign_key_check").fetchall() == []
    with refusing(StoreError), TraceStore(damaged) as store:
        for row in store.query("SELECT id FROM rollouts"):
            store.read_trace(row["id"])
    return not refused


def _damaged(given: Mapping[str, Any]) -> bytes:
    content = bytearray(_sound_store())
    for place, what in _pairs(given.get("at")):
        with contextlib.suppress(ValueError):
            new = bytes.fromhex(str(what)[:200])
            content[_place(place, content) : _place(place, content) + len(new)] = new
    for place, many in _pairs(given.get("zero")):
        start = _place(place, content)
        content[start : start + whole(many, 5000)] = bytes(
            len(content[start : start + whole(many, 5000)])
        )
    if "cut" in given:
        del content[_place(given["cut"], content) :]
    return bytes(content)


def _pairs(value: Any) -> list[list[Any]]:
    found = value if isinstance(value, list) else []
    return [pair for pair in found[:30] if isinstance(pair, list) and len(pair) == 2]


def _place(value: Any, content: bytearray) -> int:
    """A share of the file, or a place in it."""
    if isinstance(value, float) and 0 <= value < 1:
        return int(value * len(content))
    return whole(value, len(content))


@cache
def _blob_seeds() -> tuple[bytes, ...]:
    made = (
        pack(np.zeros((2, 3), np.int32), np.ones((2, 3), np.float32)),
        pack(np.arange(5.0)),
        pack(np.zeros((0, 4), np.float32), np.arange(3, dtype=np.uint8)),
    )
    return tuple(zlib.decompress(blob) for blob in made)


def blobs(data: bytes) -> bool:
    """Token arrays as a store holds them: packed as they come, and what was packed made odd."""
    accepted = False
    for blob in (data, zlib.compress(data, 1)):
        with refusing(StoreError) as refused:
            found = unpack(blob)
            assert all(isinstance(array, np.ndarray) for array in found)
            again = unpack(pack(*found))
            assert all(
                one.dtype == other.dtype and one.tobytes() == other.tobytes()
                for one, other in zip(found, again, strict=True)
            )
        accepted = accepted or not refused
    return accepted


SECRET = "S3cr3t"
ADDRESSES = (
    lines({"user": "me", "before": "", "after": "", "place": "host:5432/db"}),
    lines({"user": "me", "before": "a@b/", "after": "?c", "place": "h/d?sslmode=require"}),
    lines({"query": "password", "place": "/db", "before": "x%20", "after": "y"}),
    lines({"user": "", "before": ":", "after": "#&=", "place": "", "scheme": "Postgres://"}),
)


def addresses(data: bytes) -> bool:
    """The address of a database: no password is shown, whatever else is in it."""
    given = {name: str(value)[:200] for name, value in document(data).items()}
    secret = f"{given.get('before', '')}{SECRET}{given.get('after', '')}"
    place = given.get("place", "")
    scheme = "Postgres://" if given.get("scheme") else "postgresql://"
    if SECRET in place or SECRET in given.get("user", ""):
        return False
    address = f"{scheme}{given.get('user', 'me')}:{secret}@{place}"
    if "query" in given:
        joint = "&" if "?" in place else "?"
        address = f"{scheme}{place}{joint}password={secret}"
        if "&" in secret and "=" in secret:
            return False  # of which nobody can tell that it is one value
    if SECRET not in _password(address, SECRET):
        return False  # the driver takes it for something else than a password
    for said in (shown(address), short_name(address)):
        assert SECRET not in said, f"{said} of {address}"
    assert shown(shown(address)) == shown(address), address
    with refusing(StoreError) as refused:
        check_server(address)
    for error in refused:
        assert SECRET not in str(error), address
    return not refused


def _password(address: str, unknown: str) -> str:
    """What the driver takes for the password; `unknown` where it makes nothing of the address."""
    try:
        return str(conninfo_to_dict(address).get("password") or "")
    except (psycopg.Error, UnicodeError):
        return unknown


class Target(NamedTuple):
    """A reader, valid inputs to begin with, and its share of the inputs."""

    check: Callable[[bytes], bool]
    seeds: Callable[[], Sequence[bytes]]
    share: float


# Shares by how fast each is, and how much there is to find.
TARGETS: dict[str, Target] = {
    "problems": Target(problems, lambda: PROBLEMS, 120),
    "features": Target(features, lambda: TRACES, 60),
    "arrays": Target(arrays, lambda: ARRAYS, 120),
    "policies": Target(policy_files, _policy_seeds, 60),
    "shelf": Target(shelf, _shelf_seeds, 30),
    "csv": Target(csv_files, lambda: CSVS, 90),
    "rollouts": Target(rollout_files, lambda: ROLLOUTS, 90),
    "tapes": Target(tapes, lambda: TAPES, 100),
    "replies": Target(replies, lambda: REPLIES, 40),
    "budgets": Target(budgets, lambda: BUDGETS, 130),
    "stores": Target(stores, lambda: DAMAGE, 2),
    "blobs": Target(blobs, _blob_seeds, 100),
    "addresses": Target(addresses, lambda: ADDRESSES, 58),
}
