"""What fails at a server fails with one clear line, loses nothing that was done, and ends clean."""

import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recov_graph import Budget, TraceStore, create_recovery_graph
from recov_graph.budget import MeteredModel
from recov_graph.errors import (
    ModelAccessError,
    ModelError,
    ModelReplyError,
    ModelUnavailableError,
    NotScorableError,
)
from recov_graph.models.embedded import bundled_problems
from recov_graph.models.openai import OpenAIModel
from recov_graph.scoring import scored_rollouts
from recov_graph.trace import measure
from tests.openai_faults import ENDLESS, SPOILERS, STATUSES, Fault, Problem
from tests.openai_server import OpenAIServer
from tests.test_doctor import Always, never, read
from tests.test_openai_model import chat, two

KEY = "test-key-123"
PROBLEM = bundled_problems()[0]
PROMPT = PROBLEM.prompt
HOW = ("missing", "nan", "positive", "short", "long")
REFUSED, DOWN = ("401", "403", "404"), ("429", "500", "503", "timeout", "disconnect", "cut_stream")
NO_REPLY = ("not_json", "empty_choices", "no_choices_key")
ALL = (*REFUSED, *DOWN, "not_json", *SPOILERS)
TRIED = [pytest.param(k, marks=pytest.mark.slow) if k == "timeout" else k for k in ALL]
UNSCORABLE = ("wrong_ids", *(f"{how}_logprobs" for how in HOW))
EXPECTED = {
    **dict.fromkeys(REFUSED, ModelAccessError),
    **dict.fromkeys(DOWN, ModelUnavailableError),
    **dict.fromkeys(NO_REPLY, ModelReplyError),
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RECOV_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


FOUND_OUT = {}  # what servers offer, asked once each


def behind(specialist, ancestor=None, kind="", **how):
    """A model of which is found out already what its servers offer."""
    how = {"timeout": 1 if kind == "timeout" else 30, **how}  # 1: shorter than the fault
    base = None if ancestor is None else chat(ancestor, "ancestor", **how)
    first, second = FOUND_OUT.get(specialist), FOUND_OUT.get(ancestor)
    model = OpenAIModel(
        chat(specialist, **how), ancestor=base, access=first, ancestor_access=second
    )
    FOUND_OUT[specialist], FOUND_OUT[ancestor] = model.access, model.ancestor_access
    return model


@pytest.fixture(scope="module")
def servers():
    with (
        two("vllm") as vllm,
        two("echo") as echo,
        two("chat_vllm") as messages,
        OpenAIServer(dialect="chat") as plain,
    ):
        yield {"vllm": vllm, "echo": echo, "chat_vllm": messages, "chat": (plain, None)}


def fault(kind, **how):
    return Fault(kind, **{"seconds": 1.3, "size": 10_000, **how})


def check(error, server, kind):
    """An error of the right kind, in one line that says whose it is and gives no key away."""
    message = str(error)
    assert isinstance(error, EXPECTED.get(kind, ModelError)), message
    assert server.base_url in message
    assert f"model '{server._api.model}'" in message
    assert "\n" not in message
    assert len(message) < 700
    assert KEY not in message


@pytest.mark.parametrize("kind", TRIED)
@pytest.mark.parametrize("dialect", ["vllm", "echo", "chat_vllm", "chat"])
def test_one_reply_that_fails(servers, dialect, kind):
    specialist, ancestor = servers[dialect]
    model = behind(specialist, ancestor, kind)
    (fine,) = model.sample(PROMPT, temperature=0.0).rollouts
    model.prompt_length(PROMPT)
    specialist.faults.add(fault(kind))
    paid, before = 1, len(specialist.requests)
    try:
        drawn = model.sample(PROMPT, temperature=0.6)
    except ModelError as error:
        check(error, specialist, kind)
        assert kind in EXPECTED
        if kind in NO_REPLY and not (dialect == "chat" and kind != "empty_choices"):
            paid = error.usage.tokens  # a whole reply is paid for, whatever it holds
    else:
        assert kind not in EXPECTED
        (rollout,) = drawn.rollouts
        assert drawn.usage.tokens >= len(rollout)
        assert 0 < drawn.usage.completion_tokens <= (ENDLESS if kind == "endless" else 200)
        assert (rollout.finish_reason == "length") or kind != "endless"
    assert len(specialist.requests) == before + 1
    assert paid > 0
    if dialect == "chat":
        return
    specialist.faults.add(fault(kind))
    try:
        scores = model.score(PROMPT, [fine.token_ids], role="specialist")
    except ModelError as error:
        check(error, specialist, "" if isinstance(error, NotScorableError) else kind)
        assert kind in (*EXPECTED, *UNSCORABLE, "endless", "null_content", "huge_text")
        if not isinstance(error, (ModelAccessError, ModelUnavailableError)):
            paid = error.usage.scored_tokens
    else:
        assert len(scores.topk[0].ids) == len(fine.token_ids)
        assert np.isfinite(scores.topk[0].logprobs[:, 0]).all()
        assert scores.usage.scored_tokens >= len(fine.token_ids)
    assert paid > 0
    assert len(specialist.requests) == before + 2
    assert not specialist.faults.waiting


@pytest.mark.parametrize("kind", TRIED)
@pytest.mark.parametrize("which", [0, 1])
def test_a_steered_rollout_that_fails(servers, kind, which):
    model = behind(*servers["vllm"], kind)
    metered = MeteredModel(model, Budget(), "p", {})
    failing = servers["vllm"][which]
    session = metered.open(PROMPT, max_tokens=40)
    failing.faults.add(fault(kind, path="/completions"))
    try:
        for _ in range(12):
            session.distributions()
            draft = session.draft
            assert draft.proposal.sum() == pytest.approx(1.0)
            session.append(draft.token)
    except ModelError as error:
        named = failing if failing.base_url in str(error) else servers["vllm"][1]
        check(error, named, "" if isinstance(error, (NotScorableError, ModelReplyError)) else kind)
        assert kind not in ("null_content", "negative_usage", "no_usage", "huge_text")
        if which or kind in NO_REPLY or kind in UNSCORABLE:
            assert metered.spent.tokens >= 1 + len(PROMPT)  # the reply before, or this one
    else:
        assert metered.spent.tokens > 2 * len(PROMPT)
    finally:
        failing.faults.clear()


@pytest.mark.parametrize("dialect", ["vllm", "chat"])
def test_requests_are_repeated_in_one_place_only(servers, dialect):
    specialist, ancestor = servers[dialect]
    model = behind(specialist, ancestor, max_retries=1)
    for kind in ("500", "429"):
        model.prompt_length(PROMPT)
        before = len(specialist.requests)
        specialist.faults.add(fault(kind, times=2))
        with pytest.raises(ModelUnavailableError, match="2 tries"):
            model.sample(PROMPT)
        assert len(specialist.requests) == before + 2 + (dialect == "vllm" and before == 0)
    specialist.faults.add(fault("429", retry_after=1))
    started = time.monotonic()
    assert model.sample(PROMPT).rollouts
    assert time.monotonic() - started >= 1
    for kind in REFUSED:  # and these are not repeated at all
        before = len(specialist.requests)
        specialist.faults.add(kind)
        with pytest.raises(ModelAccessError):
            model.sample(PROMPT)
        assert len(specialist.requests) == before + 1


def test_of_several_completions_one_cannot_be_scored(servers):
    specialist, ancestor = servers["vllm"]
    model = behind(specialist, ancestor)
    drawn = model.sample(PROMPT, n=3, temperature=2.0, seed=1, max_tokens=30).rollouts
    rollouts = {f"r{i}": rollout for i, rollout in enumerate(drawn)}
    metered = MeteredModel(model, Budget(), "p", {})
    real, seen = ancestor._http.handle, []

    def second_and_first(request):  # all at once, and then the second of one by one
        seen.append(request)
        if len(seen) in (1, 3):
            ancestor.faults.add("wrong_ids")
        return real(request)

    ancestor._http.handle = second_and_first
    try:
        scored = scored_rollouts(metered, PROMPT, rollouts)
    finally:
        ancestor._http.handle = real
    assert set(scored) == {"r0", "r2"}
    assert all(measure(one, 2.0).features for one in scored.values())
    assert [call["scored_tokens"] > 0 for call in metered.calls.values()] == [True] * 5


def spent_in(path):
    names = ("prompt_tokens", "completion_tokens", "scored_tokens")
    return sum(row[name] for row in read(path, "calls") for name in names)


def through_the_graph(model, path, operator, when, break_it, **options):
    """The end of a problem whose servers break once something has happened, and all events."""
    options = {"budget": Budget(max_attempts=6), "max_new_tokens": 40, **options}
    with TraceStore(path) as store:
        graph = create_recovery_graph(
            model,
            never,
            router=Always(operator),
            interventions=sorted({operator, "retry"}),
            store=store,
            seed=0,
            **options,
        )
        if when == "start":
            break_it()
        events, output, broken = [], None, when == "start"
        given = {"problem": PROBLEM.model_dump()}
        for mode, event in graph.stream(given, stream_mode=["custom", "values"]):
            if mode == "values":
                output = event
                continue
            events.append(event)
            if event["type"] == when and not broken:
                broken = not break_it()
    return output, events


def consistent(output, path):
    """What the graph says is what the store holds."""
    (outcome,) = read(path, "outcomes")
    assert outcome["stop_reason"] == output["stop_reason"]
    stored = read(path, "rollouts")
    assert [row["id"] for row in stored] == [attempt["id"] for attempt in output["attempts"]]
    assert spent_in(path) == output["usage"]["tokens"]
    return stored


PLACES = [
    ("start", "retry", 0),
    ("attempt", "local_temp", 1),  # while the samples are measured
    ("decision", "local_temp", 0),
    ("decision", "dense_steer", 0),
    ("decision", "dense_steer", 1),
]


@pytest.mark.parametrize(
    ("kind", "when", "operator", "which"),
    [
        pytest.param(kind, *place, marks=[] if kind in ("500", "not_json") else pytest.mark.slow)
        for kind in ALL
        for place in PLACES
        if kind != "timeout" or place is PLACES[-1]
    ],
)
def test_the_graph_ends_clean(servers, kind, when, operator, which, tmp_path):
    specialist, ancestor = servers["vllm"]
    model, path = behind(specialist, ancestor, kind), tmp_path / "t.db"
    failing = (specialist, ancestor)[which]
    try:
        output, events = through_the_graph(
            model,
            path,
            operator,
            when,
            lambda: failing.faults.add(fault(kind, times=None, path="/completions")),
            samples=2,
            budget=Budget(max_attempts=3),
        )
    finally:
        failing.faults.clear()
    assert output["stop_reason"] in ("model_error", "budget_exhausted")
    if kind in EXPECTED:
        assert output["stop_reason"] == "model_error"
        assert EXPECTED[kind].__name__ in output["error"]
        assert failing.base_url in output["error"]
        assert KEY not in output["error"]
    stored = consistent(output, path)
    assert [row["text"] for row in stored] == [one["text"] for one in output["attempts"]]
    assert len(stored) >= (0 if when == "start" else 2)
    assert (output["error"] is None) == (output["stop_reason"] == "budget_exhausted")
    if kind in NO_REPLY:
        assert spent_in(path) > 0
    if which == 1 and when == "attempt" and kind in UNSCORABLE:
        (told,) = [event for event in events if event["type"] == "features"]
        assert told["features"] is None
        assert "\n" not in told["why"]
        assert ancestor.base_url in told["why"]
        assert [row["operator"] for row in stored][2:] == ["retry"]
        assert output["usage"]["scored_tokens"] > 0


def test_what_is_finished_before_a_later_request_fails_is_used(tmp_path):
    with OpenAIServer(dialect="chat") as server:
        model, path = behind(server), tmp_path / "t.db"
        before, real = len(server.requests), server._http.handle

        def third_fails(request):
            if len(server.requests) - before == 2:
                server.faults.add("500")
            return real(request)

        server._http.handle = third_fails
        limit = Budget(max_attempts=4)
        output, _ = through_the_graph(model, path, "retry", "never", None, samples=4, budget=limit)
        assert len(server.requests) == before + 5
    stored = consistent(output, path)
    assert [row["operator"] for row in stored] == ["sample", "sample", "retry", "retry"]
    assert output["usage"]["prompt_tokens"] == 4 * (1 + len(PROMPT))


def test_what_was_spent_on_scoring_in_vain_is_in_the_store(servers, tmp_path):
    specialist, ancestor = servers["vllm"]
    wrong = fault("wrong_ids", times=None, path="/completions")
    model, path = behind(specialist, ancestor), tmp_path / "t.db"
    try:
        output, _ = through_the_graph(
            model, path, "local_temp", "attempt", lambda: ancestor.faults.add(wrong), samples=2
        )
    finally:
        ancestor.faults.clear()
    consistent(output, path)


def test_the_key_is_in_no_store_even_where_the_server_repeats_it(monkeypatch, tmp_path):
    said = Problem(f"Incorrect API key provided: {KEY}.", code="invalid_api_key")
    for status in ("401", "500", "404"):
        monkeypatch.setitem(STATUSES, status, said)
        with OpenAIServer(dialect="chat") as server:
            path, fails = tmp_path / f"{status}.db", Fault(status, times=None)
            output, _ = through_the_graph(
                behind(server), path, "retry", "decision", partial(server.faults.add, fails)
            )
        assert output["stop_reason"] == "model_error"
        assert KEY not in repr(output)
        assert len(consistent(output, path)) == 4
    held = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"A:" in held
    assert KEY.encode() not in held


@pytest.mark.parametrize("dialect", ["echo", "chat_vllm"])
def test_through_the_graph_with_an_ancestor_that_cuts_otherwise(dialect, tmp_path):
    with two(dialect) as (specialist, ancestor):
        model, engine = behind(specialist, ancestor), ancestor._api.engine
        engine.encode = lambda text, bos=True: [engine.vocabulary["<s>"]] * bos + [5] * len(text)
        path = tmp_path / "t.db"
        output, events = through_the_graph(model, path, "local_temp", "never", None)
    (told,) = [event for event in events if event["type"] == "features"]
    assert (told["features"], output["error"]) == (None, None)
    assert "same tokenizer" in told["why"]
    stored = consistent(output, path)
    assert [row["operator"] for row in stored] == ["sample"] * 4 + ["retry"] * 2
    assert output["usage"]["scored_tokens"] > 0


MOST = 600
KINDS = st.sampled_from([kind for kind in ALL if kind != "timeout"])
SEQUENCE = st.lists(st.tuples(st.booleans(), KINDS, st.integers(1, 4)), max_size=6)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(faults=SEQUENCE, operator=st.sampled_from(["local_temp", "dense_steer", "retry"]))
def test_no_sequence_of_faults_breaks_the_graph_or_the_budget(servers, faults, operator):
    specialist, ancestor = servers["vllm"]
    for server in (specialist, ancestor):
        server.faults.clear()
    model = behind(specialist, ancestor)
    for first, kind, times in faults:
        (ancestor, specialist)[first].faults.add(fault(kind, times=times, path="/completions"))
    try:
        output, _ = through_the_graph(
            model, ":memory:", operator, "never", None, budget=Budget(max_tokens=MOST), samples=3
        )
    finally:
        for server in (specialist, ancestor):
            server.faults.clear()
    over = 3 * ENDLESS if any(kind == "endless" for _, kind, _ in faults) else 0
    slack = 3  # every text that is scored makes a server write a token that no budget foresees
    assert output["usage"]["tokens"] <= MOST + over + slack
    assert (output["error"] is not None) >= (output["stop_reason"] == "model_error")
