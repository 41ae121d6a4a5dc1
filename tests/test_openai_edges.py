"""What odd servers answer, and what must not change because of it."""

from __future__ import annotations

import json
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import interrupt

from recov_graph import Budget, create_recovery_graph
from recov_graph.budget import MeteredModel
from recov_graph.errors import ModelAccessError, ModelError, ModelReplyError, NotScorableError
from recov_graph.interventions import DenseSteer, Failure, LocalTemp
from recov_graph.models import OpenAIModel
from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from recov_graph.models.openai import Access
from recov_graph.models.openai.replies import decoded, named_ids, prompt_lists, top_k
from recov_graph.routing import Candidate, Decision, Evidence
from recov_graph.store import TraceStore
from recov_graph.store.learning import stored_decisions, stored_outcomes
from tests import openai_server
from tests.openai_faults import Fault
from tests.openai_server import OpenAIServer
from tests.shortlisted import Shortlisted

PROBLEMS = bundled_problems()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RECOV_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def servers() -> Iterator[tuple[OpenAIServer, OpenAIServer]]:
    with (
        OpenAIServer(model="specialist") as specialist,
        OpenAIServer(role="ancestor", model="ancestor") as ancestor,
    ):
        yield specialist, ancestor


def pair_of(servers: tuple[OpenAIServer, OpenAIServer], **how: Any) -> OpenAIModel:
    specialist, ancestor = servers
    return OpenAIModel(
        "openai:specialist",
        base_url=specialist.base_url,
        ancestor="openai:ancestor",
        ancestor_base_url=ancestor.base_url,
        **how,
    )


Answer = Callable[[str, Any], tuple[int, Any]]


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server that answers as told; its address and what it was asked."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            status, reply = answer(self.path, body)
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/v1", asked
    finally:
        http.shutdown()
        http.server_close()


def said(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error"}}


def chat_reply(n: int = 1) -> dict[str, Any]:
    message = {"role": "assistant", "content": "hi"}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": i, "finish_reason": "stop", "message": message} for i in range(n)],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2 * n, "total_tokens": 5 + 2 * n},
    }


@pytest.mark.parametrize(
    "message", ["Not Found", "route not found", "The resource does not exist", "no Route matched"]
)
def test_a_server_without_completions_is_reached_by_chat(message):
    def answer(path: str, body: Any) -> tuple[int, Any]:
        return (200, chat_reply()) if "chat" in path else (404, said(message))

    with answering(answer) as (address, asked):
        model = OpenAIModel("openai:found", base_url=address)
        assert model.access.way == "chat"
        assert len(asked) <= 5


def test_a_model_that_is_not_there_is_said_so_at_once():
    answer = (404, said("The model `nope` does not exist."))
    with answering(lambda *_: answer) as (address, asked):
        with pytest.raises(ModelAccessError, match="check the model's name"):
            _ = OpenAIModel("openai:nope", base_url=address).access
        assert len(asked) == 1


def test_a_server_that_refuses_several_choices_is_asked_one_by_one():
    def answer(path: str, body: Any) -> tuple[int, Any]:
        if "chat" not in path:
            return 404, said("no such route")
        if body.get("n", 1) > 1:
            return 400, said("'n' : number must be at most 1")
        return 200, chat_reply()

    with answering(answer) as (address, asked):
        model = OpenAIModel("openai:m", base_url=address)
        assert len(model.sample("hello", n=4).rollouts) == 4
        before = len(asked)
        assert len(model.sample("hello", n=4).rollouts) == 4
        assert len(asked) == before + 4  # it is not asked for several again
    assert all(body.get("n", 1) in (1, 4) for _, body in asked)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_key_that_the_server_repeats_is_in_no_traceback(status):
    key = "sk-a-very-secret-key"
    with answering(lambda *_: (status, said(f"bad key {key}"))) as (address, _):
        chat = ChatOpenAI(model="m", base_url=address, api_key=key, max_retries=0)
        with pytest.raises(ModelError) as raised:
            OpenAIModel(chat, access=Access()).sample("hello")
    assert key not in "".join(traceback.format_exception(raised.value))


def test_a_server_that_allows_any_number_of_log_probabilities(servers):
    _, ancestor = servers
    with OpenAIServer(model="specialist", max_logprobs=2000) as generous:
        model = pair_of((generous, ancestor))
        assert model.access.way == "tokens"
        assert len(generous.requests) <= 5


def test_without_an_ancestor_chat_is_preferred_to_texts():
    with OpenAIServer(dialect="echo") as server:
        alone = OpenAIModel("openai:specialist", base_url=server.base_url)
        assert alone.access.way == "chat"
        assert len(server.requests) <= 5
        compared = pair_of((server, server))
        assert compared.access.way == "text"


def test_any_token_that_ended_a_text_ends_a_steered_one(servers, monkeypatch):
    """VLLM tells of an end other than the tokenizer's own as `stop_reason`."""
    reply = openai_server.Api._reply

    def with_reason(self: Any, *given: Any) -> Any:
        told = reply(self, *given)
        for choice in told["choices"]:
            if choice.get("finish_reason") == "stop":
                choice["stop_reason"] = self.engine.end
        return told

    monkeypatch.setattr(openai_server.Api, "_reply", with_reason)
    model = pair_of(servers)
    for seed, problem in enumerate(PROBLEMS[:10]):
        rollout = DenseSteer().apply(Failure(problem, 0.6, 80, seed), model).rollout
        assert EmbeddedPair().end_token not in rollout.token_ids[:-1]
        assert "<" not in rollout.text


@pytest.mark.slow
def test_blocks_mix_what_is_listed_and_nothing_else(servers):
    """With short lists the drafted token is often not among the ancestor's."""
    model, reference = pair_of(servers, top_k=5), Shortlisted(5)
    for problem in PROBLEMS[:40]:
        failure = Failure(problem, 0.0, 60, 0)
        texts = [DenseSteer().apply(failure, one).rollout.text for one in (model, reference)]
        assert texts[0] == texts[1]


def test_drafts_are_drawn_from_nothing_but_the_listed_tokens(servers):
    specialist, ancestor = servers
    chat = ChatOpenAI(
        model="specialist",
        base_url=specialist.base_url,
        api_key="none",
        extra_body={"top_p": 0.1, "min_p": 0.5, "chat_template_kwargs": {"enable_thinking": False}},
    )
    model = OpenAIModel(chat, ancestor="openai:ancestor", ancestor_base_url=ancestor.base_url)
    DenseSteer().apply(Failure(PROBLEMS[0], 0.6, 20, 0), model)
    draft = [one.body for one in specialist.calls("/completions")][-1]
    assert (draft["top_k"], draft["top_p"], draft["min_p"]) == (model.top_k, 1.0, 0.0)
    rendered = [one.body for one in specialist.requests if one.path.endswith("/tokenize")]
    assert rendered
    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in rendered)


@pytest.mark.parametrize("operator", ["sparse_steer", "local_temp"])
def test_a_continued_message_need_not_be_spelled_out(operator):
    """Tokens that were never scored have no known text in this way of reaching a model."""
    access = Access(way="messages", logprobs=20, scored=20)
    with (
        OpenAIServer(dialect="chat_vllm", model="specialist") as specialist,
        OpenAIServer(role="ancestor", dialect="chat_vllm", model="ancestor") as ancestor,
    ):
        for problem in PROBLEMS[:12]:
            model = pair_of((specialist, ancestor), top_k=2, access=access, ancestor_access=access)
            graph = create_recovery_graph(
                model,
                "numeric",
                interventions=[operator],
                samples=2,
                budget=Budget(max_attempts=4),
                seed=0,
                max_new_tokens=60,
            )
            assert graph.invoke({"problem": problem.model_dump()})["error"] is None


def test_a_window_that_ends_the_text_is_not_written_on():
    class Ending:
        """A text model whose next word is the end."""

        end_token = -1

        def sample(self, prompt: str, **how: Any) -> Any:
            made = EmbeddedPair().sample(PROBLEMS[0].prompt, max_tokens=1)
            rollout = made.rollouts[0]
            ended = type(rollout)("", np.zeros(0, np.int32), "stop")
            return type(made)([ended], made.usage)

        def decode(self, tokens: Any) -> str:
            return "".join(chr(int(token)) for token in tokens)

    from recov_graph.features import TraceFeatures
    from recov_graph.rollout import Rollout
    from recov_graph.trace import Trace

    rollout = Rollout("abc", np.array([97, 98, 99], np.int32), "length")
    trace = Trace(rollout, None, TraceFeatures(2, 0.5, 0.0, 0.0))  # type: ignore[arg-type]
    made = LocalTemp().apply(Failure(PROBLEMS[0], 0.6, 60, 0, [trace]), Ending())  # type: ignore[arg-type]
    assert (made.rollout.text, made.rollout.finish_reason) == ("ab", "stop")


def test_a_long_foreign_prompt_keeps_to_the_budget():
    with OpenAIServer(dialect="chat") as server:
        model = OpenAIModel("openai:specialist", base_url=server.base_url)
        assert model.prompt_length("分" * 300) >= 300
        assert model.prompt_length("a" * 300) < 100


class Lazy:
    """Repairs without having anything measured before, or asks."""

    name = content_hash = "lazy"

    def wants_features(self, evidence: Evidence) -> bool:
        return False

    def decide(self, evidence: Evidence) -> Decision:
        seen = tuple(Candidate(n, None, 0.5, c) for n, c in evidence.costs.items())
        return Decision(seen[0].operator, "sampling", 1.0, 0.5, seen, "as told")


class Asking:
    """An intervention that asks a person, and fails to score before."""

    name = "ask"
    needs = frozenset({"sample"})

    def expected_cost(self, lengths: Any) -> int:
        return 10

    def apply(self, failure: Any, model: Any) -> Any:
        interrupt("may I?")
        from recov_graph.interventions import Retry

        return Retry().apply(failure, model)


def test_scoring_in_vain_is_paid_once_and_what_gave_way_is_not_blamed(servers, tmp_path):
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command

    specialist, ancestor = servers
    model = pair_of(servers)
    _ = model.capabilities
    ancestor.faults.add(Fault("wrong_ids", times=None, path="/completions"))
    with TraceStore(tmp_path / "t.db") as store:
        graph = create_recovery_graph(
            model,
            lambda text: False,
            interventions=["sparse_steer", Asking()],
            router=Lazy(),
            store=store,
            samples=2,
            budget=Budget(max_attempts=4),
            seed=0,
            checkpointer=InMemorySaver(),
        )
        thread = {"configurable": {"thread_id": "1"}}
        output = graph.invoke({"problem": PROBLEMS[0].model_dump()}, thread)
        while "__interrupt__" in output:
            output = graph.invoke(Command(resume=True), thread)
        (row,) = store.query(
            "SELECT SUM(prompt_tokens + completion_tokens + scored_tokens) AS n FROM calls"
        )
        assert row["n"] == output["usage"]["tokens"]
        made = {operator for _, operator, *_ in stored_outcomes(store)}
        blamed = {
            decision[2] for decision in stored_decisions(store) if decision[-1] == decision[2]
        }
        assert made == {"ask"}
        assert "sparse_steer" not in blamed
    scored = [one.body for one in (*specialist.requests, *ancestor.requests)]
    paid = [body for body in scored if body and body.get("prompt_logprobs") and "seed" not in body]
    read = sum(len(p) for body in paid if isinstance(body["prompt"], list) for p in body["prompt"])
    assert output["usage"]["scored_tokens"] >= read


def test_the_meter_knows_every_end(servers):
    model = pair_of(servers)
    model.sample(PROBLEMS[0].prompt, temperature=0.0)
    metered = MeteredModel(model, Budget(), "p", {})
    assert set(metered.end_tokens) == {EmbeddedPair().end_token}


# Replies that were found by fuzzing


def test_whole_numbers_too_large_for_a_log_probability_are_refused():
    huge = 10**400
    with pytest.raises(NotScorableError, match="a prompt_logprobs entry is"):
        prompt_lists({"prompt_logprobs": [None, {"5": {"logprob": huge}}]}, [5], 2)
    with pytest.raises(ModelReplyError, match="a list of log-probabilities is"):
        named_ids({"token_id:5": huge})


@pytest.mark.parametrize("name", ["²", "٣", "9" * 5000, "-1", "", "x"])
def test_texts_of_what_is_no_token_are_passed_over(name):
    told = {name: {"decoded_token": "a"}, "7": {"decoded_token": "b"}}
    assert decoded({"prompt_logprobs": [None, told]}) == {7: "b"}


@pytest.mark.parametrize("told", [{"1": -1}, "ab", [None, 10**400], 7, None])
def test_log_probabilities_of_echoed_tokens_that_are_no_list_are_refused(told):
    logprobs = {
        "tokens": ["x", "y"],
        "top_logprobs": [None, {"z": -1}],
        "token_logprobs": [None, -1],
    }
    replies = [
        {"choices": [{"text": "y", "logprobs": {"tokens": ["y"], "top_logprobs": [{"y": -1}]}}]},
        {"choices": [{"text": "", "logprobs": {**logprobs, "token_logprobs": told}}]},
    ]
    with answering(lambda path, body: (200, replies.pop(0))) as (address, _):
        chat = ChatOpenAI(model="m", base_url=address, api_key="key", max_retries=0)
        model = OpenAIModel(chat, access=Access(way="text", scored=20))
        (rollout,) = model.sample("x").rollouts
        with pytest.raises(NotScorableError, match="are missing at token 1"):
            model.score("x", [rollout.token_ids], role="specialist")


def test_a_log_probability_that_float32_cannot_hold_is_refused_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotScorableError, match="must be finite and at most 0"):
            top_k([{5: -1e300}])
