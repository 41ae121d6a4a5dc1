"""The proof on real servers: vLLM behind langchain-openai does what the numpy engine does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest

from recov_graph import Budget, create_recovery_graph
from recov_graph.doctor import examine
from recov_graph.features import FEATURES, trace_features
from recov_graph.graph import MAX_NEW_TOKENS, SAMPLES, TEMPERATURE
from recov_graph.interventions import Failure, default_interventions
from recov_graph.models import Capability
from recov_graph.models.embedded import bundled_problems
from recov_graph.models.openai import Access
from recov_graph.models.openai.endpoint import Endpoint, Request, run
from recov_graph.models.openai.tokens import TokenWire
from recov_graph.problem import Problem
from recov_graph.rollout import Rollout
from recov_graph.seeds import call_seed
from recov_graph.signals import token_signals
from recov_graph.verifiers import as_verifier, judge
from tests.live.alike import p_value, traces, worst
from tests.live.servers import CONCURRENCY, at_once, behind
from tests.shortlisted import Shortlisted

pytestmark = pytest.mark.live

FIVE = {"retry", "sparse_steer", "sparse_steer_random", "local_temp", "dense_steer"}
PROBLEMS = bundled_problems()[:200]
CLOSE = 1e-3
UNLIKELY = 1e-3
FEWER_CALLS = 3.0
MOST_OVERHEAD = 1.2
STEERED_DRAWS = 100
ROLLOUTS = 1000
CHUNK = 25  # problems timed at a time, ours and plain in turn
ROUNDS = 3
numeric = as_verifier("numeric")


def passes(problem: Problem, rollout: Rollout) -> bool:
    return judge(numeric, problem, rollout.text).passed


def ids(rollout: Rollout) -> list[int]:
    return [int(token) for token in rollout.token_ids]


@contextlib.contextmanager
def requests_counted() -> Iterator[Counter[str]]:
    """Every request that leaves the package, by the end of its path."""
    sent: list[str] = []
    real = Endpoint.send

    def send(self: Endpoint, request: Request) -> Any:
        sent.append(request.path.rpartition("/")[2])
        return real(self, request)

    counted: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Endpoint, "send", send)
        yield counted
    counted.update(sent)


def test_everything_is_possible_and_found_out_in_ten_calls(live, figures):
    model = behind(live)
    seen = examine(model)
    assert model.capabilities == set(Capability)
    assert set(default_interventions(model.capabilities)) == FIVE
    possible = {one.name for one in seen.interventions if one.possible}
    assert possible >= FIVE
    assert [one.name for one in seen.features if one.possible] == ["token features"]
    facts = {fact.name: (fact.specialist, fact.ancestor) for fact in seen.facts}
    assert facts["token ids"] == facts["chat template"] == facts["seeds"] == ("yes", "yes")
    assert facts["context"] == ("256 tokens", "256 tokens")
    figures.add("capabilities", f"{len(model.capabilities)} of {len(Capability)}", "all")
    figures.add("calls to find them out, both servers", model.calls, "at most 10")
    assert model.calls <= 10


def test_greedy_rollouts_are_the_numpy_engines(model, pair, figures):
    def same(problem: Problem) -> bool:
        how = {"temperature": 0.0, "max_tokens": MAX_NEW_TOKENS, "seed": 0}
        ours, own = (one.sample(problem.prompt, **how).rollouts[0] for one in (model, pair))
        assert model.decode(ours.token_ids) == ours.text
        assert model.prompt_length(problem.prompt) == pair.prompt_length(problem.prompt)
        return (ours.text, ids(ours), ours.finish_reason) == (own.text, ids(own), own.finish_reason)

    agree = sum(at_once(same, PROBLEMS))
    figures.add("greedy text and token ids as numpy's", f"{agree} of {len(PROBLEMS)}", "all")
    assert agree == len(PROBLEMS)


def test_samples_are_solved_as_often_as_the_numpy_engines(model, pair, figures):
    def drawn(problem: Problem) -> tuple[list[bool], list[bool]]:
        # A seed for each problem: with one for all, the draws of all would depend on each other.
        seed = call_seed(3, problem.id, 0)
        how = {"n": SAMPLES, "temperature": TEMPERATURE, "max_tokens": MAX_NEW_TOKENS, "seed": seed}
        ours, own = (
            [passes(problem, one) for one in by.sample(problem.prompt, **how).rollouts]
            for by in (model, pair)
        )
        return ours, own

    strata = at_once(drawn, PROBLEMS)
    ours, own = (float(np.mean([draws[i] for draws in strata])) for i in (0, 1))
    # Within the binomial interval that holds 99.9% of such shares, were the two the same.
    draws = len(PROBLEMS) * SAMPLES
    both = (ours + own) / 2
    margin = 3.29 * (2 * both * (1 - both) / draws) ** 0.5
    figures.add(f"solved at T={TEMPERATURE}, {draws} samples", f"{ours:.3f}")
    figures.add("  numpy engine, same problems", f"{own:.3f}", f"within {margin:.3f}")
    p = p_value(strata)
    figures.add("  permutation test within problems", f"p={p:.3f}", f"above {UNLIKELY}")
    assert abs(ours - own) <= margin
    assert p > UNLIKELY


def test_features_are_the_numpy_engines(model, pair, failed, figures):
    chosen = failed[:: len(failed) // 25][:25]
    through = at_once(lambda group: traces(model, *group), chosen)
    by_numpy = [traces(pair, *group) for group in chosen]
    note_features(figures, "features", through, by_numpy)


def note_features(figures, name, through, by_numpy):
    """Note how far features are apart, and fail where that is too far."""
    ours, own = ([t.features for group in all_of for t in group] for all_of in (through, by_numpy))
    apart = worst(ours, own)
    for feature in FEATURES:
        what = f"{name} of {len(ours)} rollouts: {feature}, worst difference"
        figures.add(what, f"{apart[feature]:.1e}", f"{CLOSE:.0e}")
    figures.add(f"{name}: other junctions", f"{apart['junctions']:.0f} of {len(ours)}", "0")
    assert max(apart[feature] for feature in FEATURES) <= CLOSE
    assert apart["junctions"] == 0


def test_all_five_interventions_make_attempts_that_are_judged(model, failed, figures):
    chosen = {group.problem.id: group for group in failed}
    groups = list(chosen.values())[:: max(1, len(chosen) // 12)][:12]
    measured = at_once(lambda group: traces(model, *group), groups)
    prefixes = judged = rescued = 0
    for (problem, rollouts), found in zip(groups, measured, strict=True):
        for name, intervention in default_interventions(model.capabilities).items():
            failure = Failure(problem, TEMPERATURE, MAX_NEW_TOKENS, 17, found, focus=1)
            rollout, details = (made := intervention.apply(failure, model)).rollout, made.details
            verdict = judge(numeric, problem, rollout.text)
            judged += verdict.value in ("passed", "failed")
            rescued += verdict.passed
            assert 0 < len(rollout) <= MAX_NEW_TOKENS
            assert rollout.text == model.decode(rollout.token_ids)
            assert rollout.finish_reason == "stop" or len(rollout) == MAX_NEW_TOKENS
            if name == "retry":
                assert details == {}
            elif name == "dense_steer":
                assert details == {"mode": "path", "alpha": 0.7}
            else:
                at = details["position"]
                assert details["anchor"] == "replay"
                assert ids(rollout)[:at] == ids(rollouts[1])[:at]
                if name != "sparse_steer_random":
                    assert at == found[1].features.junction
                if name != "local_temp":
                    same = ids(rollout)[at] == ids(rollouts[1])[at]
                    assert details["changed"] is not same
                prefixes += 1
    attempts = len(groups) * len(FIVE)
    figures.add(f"five interventions on {len(groups)} failures: judged", judged, str(attempts))
    figures.add("  replayed prefixes that are the failed trace's", prefixes, str(prefixes))
    figures.add("  rescued", rescued)
    assert judged == attempts


def steered(model: Any, problem: Problem, temperature: float, seed: int) -> Rollout:
    failure = Failure(problem, temperature, MAX_NEW_TOKENS, seed)
    dense = default_interventions(frozenset(Capability))["dense_steer"]
    return dense.apply(failure, model).rollout


def test_dense_steering_is_token_by_token_mixing_when_greedy(model, figures):
    with requests_counted() as sent:
        ours = at_once(lambda problem: steered(model, problem, 0.0, 0), PROBLEMS)
    listed = Shortlisted(model.top_k)
    own = [steered(listed, problem, 0.0, 0) for problem in PROBLEMS]
    agree = sum(
        (a.text, ids(a), a.finish_reason) == (b.text, ids(b), b.finish_reason)
        for a, b in zip(ours, own, strict=True)
    )
    figures.add(
        "dense_steer, greedy: as token by token on numpy", f"{agree} of {len(PROBLEMS)}", "all"
    )
    note_calls(figures, "greedy", ours, sent)
    assert agree == len(PROBLEMS)


def note_calls(figures, how, rollouts, sent):
    """Note how many calls steering took, and fail where they are too many."""
    tokens = sum(map(len, rollouts))
    fewer = 2 * tokens / sent["completions"]
    figures.add(
        f"dense_steer, {how}: calls a token",
        f"{sent['completions'] / tokens:.3f}",
        f"{2 / FEWER_CALLS:.3f} (token by token: 2)",
    )
    figures.add("  times fewer calls", f"{fewer:.1f}", f"at least {FEWER_CALLS:g}")
    figures.add("  times fewer, with /tokenize and /detokenize", f"{2 * tokens / sent.total():.1f}")
    assert fewer >= FEWER_CALLS


def test_dense_steering_samples_what_token_by_token_mixing_does(model, failed, figures):
    often: dict[str, Problem] = {}
    listed = Shortlisted(model.top_k)
    for group in failed:  # of various kinds, and neither always nor never solved
        problem = group.problem
        rate = np.mean([passes(problem, steered(listed, problem, 0.6, i)) for i in range(8)])
        if 0.2 < rate < 0.8:
            often.setdefault(problem.task, problem)
        if len(often) == 4:
            break
    problems = list(often.values())
    jobs = [(problem, 1000 + i) for problem in problems for i in range(STEERED_DRAWS)]
    with requests_counted() as sent:
        drawn = at_once(lambda job: steered(model, job[0], TEMPERATURE, job[1]), jobs)
    note_calls(figures, f"T={TEMPERATURE}", drawn, sent)
    own = [steered(listed, problem, TEMPERATURE, seed + 5000) for problem, seed in jobs]
    observed: dict[str, Callable[[Problem, Rollout], Any]] = {
        "solved": passes,
        "length": lambda _, rollout: len(rollout) // 4,
        "first token": lambda _, rollout: ids(rollout)[0],
        "first six tokens": lambda _, rollout: ids(rollout)[:6],
        "whole text": lambda _, rollout: rollout.text,
    }
    shares = [
        np.mean([passes(j[0], r) for j, r in zip(jobs, x, strict=True)]) for x in (drawn, own)
    ]
    figures.add(
        f"dense_steer, {len(jobs)} draws of {len(problems)} problems: solved", f"{shares[0]:.3f}"
    )
    figures.add("  token by token on numpy", f"{shares[1]:.3f}")
    found = {}
    for name, look in observed.items():
        strata = []
        for k in range(len(problems)):
            rows = slice(k * STEERED_DRAWS, (k + 1) * STEERED_DRAWS)
            strata.append(
                tuple([look(problems[k], one) for one in draws[rows]] for draws in (drawn, own))
            )
        found[name] = p_value(strata)
        figures.add(f"  same distribution of: {name}", f"p={found[name]:.3f}", f"above {UNLIKELY}")
    assert min(found.values()) > UNLIKELY


def test_the_chat_way_gives_the_same(model, live, pair, figures):
    access = Access(
        way="messages", scored=20, logprobs=20, vocabulary=dict(model.access.vocabulary)
    )
    chat = behind(live, access=access, ancestor_access=access)
    assert chat.capabilities == set(Capability) - {Capability.STEP}
    with requests_counted() as sent:
        groups = []
        for problem in PROBLEMS[:12]:
            drawn = chat.sample(problem.prompt, n=SAMPLES, temperature=TEMPERATURE, seed=23)
            different = {one.token_ids.tobytes(): one for one in drawn.rollouts}
            groups.append((problem, list(different.values())))
        through = at_once(lambda group: traces(chat, *group), groups)
        agree = 0
        for problem, rollouts in groups:
            prefix = rollouts[0].token_ids[: len(rollouts[0]) // 2]
            going_on = {"temperature": 0.0, "max_tokens": 100, "seed": 0, "prefix": prefix}
            (ours,) = chat.sample(problem.prompt, **going_on).rollouts
            (own,) = pair.sample(problem.prompt, **going_on).rollouts
            agree += (ours.text, ids(ours)) == (own.text, [i for i in ids(own) if i != 2])
    assert set(sent) == {"completions"}  # /chat/completions, that is
    figures.add("chat way: greedy continuations as numpy's", f"{agree} of {len(groups)}", "all")
    note_features(figures, "chat way", through, [traces(pair, *group) for group in groups])
    assert agree == len(groups)


async def test_the_whole_graph(live, tmp_path, figures):
    model, db = behind(live), tmp_path / "live.db"
    problems = bundled_problems()[200:240]
    asked = [{"problem": problem.model_dump()} for problem in problems]
    graph = create_recovery_graph(
        model, "numeric", store=db, budget=Budget(max_attempts=10), seed=5
    )
    started = time.monotonic()
    results = [await asyncio.to_thread(graph.invoke, one) for one in asked[:16]]
    results += await asyncio.gather(*(graph.ainvoke(one) for one in asked[16:28]))
    results += await graph.abatch(
        asked[28:], {"max_concurrency": CONCURRENCY, "recursion_limit": 100}
    )
    seconds = time.monotonic() - started
    assert [one["error"] for one in results] == [None] * len(problems)
    reasons = {"solved", "out_of_reach", "budget_exhausted"}
    assert {one["stop_reason"] for one in results} <= reasons
    for problem, one in zip(problems, results, strict=True):
        assert one["solved"] == judge(numeric, problem, one["best"]["text"]).passed
    at_first = sum(not one["route"] for one in results)
    rescued = sum(one["solved"] for one in results) - at_first
    tried = Counter(step["operator"] for one in results for step in one["route"])
    figures.add(f"graph on {len(problems)} problems: solved by first samples", at_first)
    figures.add("  rescued of the rest", f"{rescued} of {len(problems) - at_first}")
    figures.add("  seconds", f"{seconds:.0f}")
    assert set(tried) - {None} <= FIVE
    assert rescued > 0
    with contextlib.closing(sqlite3.connect(db)) as store:

        def rows(query: str) -> list[Any]:
            return store.execute(query).fetchall()

        assert rows("SELECT count(*), sum(solved) FROM outcomes") == [
            (len(problems), at_first + rescued)
        ]
        told = Counter(attempt["operator"] for one in results for attempt in one["attempts"])
        assert dict(rows("SELECT operator, count(*) FROM rollouts GROUP BY 1")) == told
        spent = sum(one["usage"]["tokens"] for one in results)
        sums = "sum(prompt_tokens + completion_tokens + scored_tokens)"
        assert rows(f"SELECT {sums} FROM calls") == rows(f"SELECT {sums} FROM outcomes")
        assert rows(f"SELECT {sums} FROM outcomes") == [(spent,)]
        ((count,),) = rows("SELECT count(*) FROM rollouts")
    figures.add("  rollouts stored in SQLite", count, str(sum(told.values())))


def test_the_command_line(live, tmp_path, figures):
    behind_it = ["--model", "openai:specialist", "--base-url", f"{live.specialist}/v1"]
    behind_it += ["--ancestor", "openai:ancestor", "--ancestor-base-url", f"{live.ancestor}/v1"]
    seen = json.loads(recov_graph("doctor", *behind_it, "--json", "-"))
    assert {one["name"] for one in seen["interventions"] if one["possible"]} >= FIVE
    assert "by token ids" in recov_graph("doctor", *behind_it)
    file, db = tmp_path / "problems.jsonl", tmp_path / "traces.db"
    some = bundled_problems()[240:250]
    file.write_text("".join(problem.model_dump_json() + "\n" for problem in some), "utf-8")
    how = ["--verifier", "numeric", "--max-attempts", "8", "--db", str(db), "--json", "-"]
    ran = json.loads(recov_graph("run", str(file), *behind_it, *how))
    assert ran["problems"] == len(some)
    assert db.is_file()
    figures.add("recov-graph doctor and run: problems run", ran["problems"], str(len(some)))
    figures.add("  solved at once, rescued", f"{ran['solved_first']}, {ran['rescued']}")
    assert ran["errors"] == ran["unjudged"] == 0


def recov_graph(*arguments: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "recov_graph.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_measuring_costs_little_beyond_the_two_prefills(model, failed, figures):
    """The very same request bodies, by us and by plain HTTP whose replies are read, not parsed."""
    groups = failed[: ROLLOUTS // SAMPLES]
    assert len(groups) == ROLLOUTS // SAMPLES, "too few failed samples"
    wire = model._reached()
    assert isinstance(wire, TokenWire)
    # Prompts are known by the time that failures are measured: they were sampled from.
    heads = {prompt: run(wire.tokenized(prompt)) for prompt in {g.problem.prompt for g in groups}}

    def ours(group: Any) -> None:
        taken = [one.token_ids for one in group.rollouts]
        both = [
            model.score(group.problem.prompt, taken, role=role).topk
            for role in ("specialist", "ancestor")
        ]
        for tokens, specialist, ancestor in zip(taken, *both, strict=True):
            trace_features(token_signals(tokens, specialist, ancestor, TEMPERATURE))

    with httpx2.Client(timeout=600.0) as client:

        def plain(group: Any) -> None:
            head = heads[group.problem.prompt]
            prompts = [[*head, *ids(one)] for one in group.rollouts]
            for role in ("specialist", "ancestor"):
                request = wire.scoring(role, prompts)
                reply = client.post(
                    request.endpoint.base_url + request.path, json=dict(request.body)
                )
                assert reply.status_code == 200
                assert len(reply.read()) > 10_000

        def timed(work: Callable[[Any], None], chunk: list[Any]) -> float:
            started = time.perf_counter()
            at_once(work, chunk)
            return time.perf_counter() - started

        for work in (ours, plain):
            timed(work, groups[:CONCURRENCY])
        # [chunks, rounds] seconds; ours and plain alternate, and who goes first takes turns.
        took: dict[Any, list[list[float]]] = {ours: [], plain: []}
        for start in range(0, len(groups), CHUNK):
            for work in took:
                took[work].append([])
            for i in range(ROUNDS):
                for work in (ours, plain) if i % 2 else (plain, ours):
                    took[work][-1].append(timed(work, groups[start : start + CHUNK]))
    by_us, by_plain = np.array(took[ours]), np.array(took[plain])
    ratios = by_us / by_plain
    # The machine's other work only ever adds: a chunk's quickest round holds the least of it.
    whole, prefills = by_us.min(axis=1).sum(), by_plain.min(axis=1).sum()
    figures.add(f"features of {ROLLOUTS} failed rollouts", f"{whole:.1f} s")
    figures.add(f"  the two prefills alone, {CONCURRENCY} requests at a time", f"{prefills:.1f} s")
    least = f"at most {MOST_OVERHEAD:g}"
    figures.add(f"  ratio, quickest of {ROUNDS} rounds", f"{whole / prefills:.2f}", least)
    figures.add(f"  ratio, median of {ratios.size} pairs", f"{np.median(ratios):.2f}")
    figures.add("  least and largest of them", f"{ratios.min():.2f}, {ratios.max():.2f}")
    assert whole / prefills <= MOST_OVERHEAD
