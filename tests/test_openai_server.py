"""The test server: it answers as the pair does, speaks its dialects, and fails as it is told."""

import http.client
import json
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pytest

from recov_graph.models.embedded import EmbeddedPair, bundled_problems
from tests.openai_faults import ENDLESS, SPOILERS, STATUSES, Fault
from tests.openai_server import DialectName, OpenAIServer, get_args, served

SUM = "64%9?"
TEXT, CHAT = "/completions", "/chat/completions"


def ask(base_url, path, timeout=10, headers=(), **body):
    request = urllib.request.Request(base_url + path, json.dumps(body).encode(), dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            raw, status = reply.read(), reply.status
    except urllib.error.HTTPError as error:
        raw, status = error.read(), error.code
    return status, json.loads(raw)


def chat(base_url, **body):
    return ask(base_url, CHAT, messages=[{"role": "user", "content": SUM}], **body)


@pytest.fixture(scope="module")
def vllm():
    with OpenAIServer() as server:
        yield server
        assert not server.errors


def test_text_and_prompt_logprobs_are_the_pairs_own(vllm):
    pair = EmbeddedPair()
    for problem in bundled_problems()[:5]:
        (own,) = pair.sample(problem.prompt, temperature=0).rollouts
        how = {"temperature": 0, "max_tokens": 160, "return_token_ids": True, "logprobs": 20}
        _, reply = ask(vllm.base_url, TEXT, prompt=problem.prompt, **how)
        choice = reply["choices"][0]
        assert (choice["text"], choice["token_ids"]) == (own.text, own.token_ids.tolist())
        ids = choice["prompt_token_ids"] + choice["token_ids"]
        how = {"max_tokens": 1, "prompt_logprobs": 20}
        _, reply = ask(vllm.base_url, TEXT, prompt=[ids, ids[:9]], **how)
        rows = reply["choices"][0]["prompt_logprobs"]
        assert rows[0] is None
        assert [next(iter(row)) for row in rows[1:]] == [str(i) for i in ids[1:]]
        for row, token in zip(own.specialist.logprobs[:, 0], rows[-len(own) :], strict=True):
            assert max(entry["logprob"] for entry in token.values()) == pytest.approx(row, abs=1e-3)
        taken = [
            token[str(i)]["logprob"]
            for i, token in zip(own.token_ids, rows[-len(own) :], strict=True)
        ]
        np.testing.assert_allclose(taken, choice["logprobs"]["token_logprobs"], atol=1e-4)


def test_a_choice_has_a_stream_of_its_own(vllm):
    def texts(**how):
        _, reply = ask(vllm.base_url, TEXT, prompt=SUM, temperature=2, max_tokens=40, **how)
        return [choice["text"] for choice in reply["choices"]]

    assert texts(n=3, seed=4) == texts(n=3, seed=4)
    assert texts(n=3, seed=4)[2] == texts(seed=6)[0] != texts(seed=5)[0]
    assert len(set(texts(n=4, seed=4, top_k=1))) == 1


def test_chat_tokenize_and_streams(vllm):
    messages = [{"role": "user", "content": SUM}, {"role": "assistant", "content": "9*7"}]
    going_on = {"continue_final_message": True, "add_generation_prompt": False}
    how = going_on | {"messages": messages, "temperature": 0, "logprobs": True, "top_logprobs": 2}
    _, reply = ask(vllm.base_url, CHAT, max_tokens=4, return_token_ids=True, **how)
    assert reply["choices"][0]["message"]["content"] == "=63;"
    _, read = ask(vllm.base_url[:-3], "/tokenize", messages=messages, **going_on)
    assert read["tokens"] == reply["prompt_token_ids"]
    content = reply["choices"][0]["logprobs"]["content"]
    assert [len(item["top_logprobs"]) for item in content] == [2] * 4
    body = json.dumps(how | {"stream": True, "max_tokens": 4}).encode()
    with urllib.request.urlopen(vllm.base_url + CHAT, body) as stream:
        events = [line[6:] for line in stream.read().decode().split("\n\n") if line]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"]["content"] for event in events]
    assert "".join(deltas) == "=63;"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "other"}, 404),
        ({"prompt_logprobs": 26}, 400),
        ({"logprobs": 26}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": 257}, 400),
        ({"prompt": "1" * 256}, 400),
        ({"prompt": [1, 24]}, 400),
        ({"temperature": "hot"}, 400),
    ],
)
def test_refusals(vllm, body, status):
    found, reply = ask(vllm.base_url, TEXT, **({"prompt": SUM} | body))
    assert (found, reply["error"]["code"]) == (status, status)


@pytest.mark.parametrize("dialect", get_args(DialectName))
def test_what_a_dialect_offers(dialect):
    with OpenAIServer(dialect=dialect) as server:
        url = server.base_url
        assert ask(url[:-3], "/tokenize", prompt=SUM)[0] == (200 if dialect == "vllm" else 404)
        scored = {"echo": True, "logprobs": 1, "max_tokens": 0, "prompt": SUM}
        status, reply = ask(url, TEXT, **scored, return_token_ids=True, prompt_logprobs=1)
        assert status == (200 if dialect in ("vllm", "echo") else 404)
        if dialect == "echo":
            assert set(reply["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
        status, reply = chat(url, logprobs=True, top_logprobs=3, max_completion_tokens=3)
        logprobs = dialect in ("vllm", "chat_vllm", "openai_logprobs")
        assert status == (200 if logprobs else 400)
        strict = dialect in ("chat", "reasoning", "openai_logprobs")
        assert chat(url, top_k=5)[0] == (400 if strict else 200)
        assert chat(url, max_tokens=9)[0] == (400 if dialect == "reasoning" else 200)
        status, reply = chat(url, temperature=0.6, n=2)
        assert status == (400 if dialect == "reasoning" else 200)
        if status == 400:
            assert reply["error"]["code"] == "unsupported_value"
        else:
            assert len(reply["choices"]) == (1 if dialect == "chat" else 2)
        if dialect == "reasoning":
            _, reply = chat(url, max_completion_tokens=10)
            assert reply["usage"]["completion_tokens"] <= 10
            assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 7
        assert not server.errors


def test_a_key_is_asked_for_and_requests_are_recorded():
    with OpenAIServer(key="open", tool_calls=True) as server:
        assert chat(server.base_url)[0] == 401
        status, reply = chat(server.base_url, headers={"Authorization": "Bearer open"})
        assert (status, reply["choices"][0]["message"]["content"]) == (200, None)
        assert reply["choices"][0]["finish_reason"] == "tool_calls"
        assert [call.headers.get("authorization") for call in server.calls(CHAT)] == [
            None,
            "Bearer open",
        ]


def test_every_fault_changes_the_reply_and_then_is_spent(vllm):
    scored = {"echo": True, "logprobs": 2, "max_tokens": 2, "temperature": 0}
    scored |= {"prompt": SUM, "prompt_logprobs": 2}
    talk = {"logprobs": True, "top_logprobs": 2, "prompt_logprobs": 2, "temperature": 0}
    skipped = ("id", "created")
    for call in (lambda: ask(vllm.base_url, TEXT, **scored), lambda: chat(vllm.base_url, **talk)):
        fine = call()[1]
        for kind in SPOILERS:
            vllm.faults.add(Fault(kind, size=100))
            spoiled, healed = call()[1], call()[1]
            for name in skipped:
                fine[name] = healed[name] = spoiled[name] = 0
            assert repr(spoiled) != repr(fine) == repr(healed), kind
            if kind == "endless":
                assert spoiled["usage"]["completion_tokens"] == ENDLESS
    for kind in STATUSES:
        vllm.faults.add(Fault(kind, path=CHAT))
        assert ask(vllm.base_url, TEXT, prompt=SUM)[0] == 200
        assert chat(vllm.base_url)[0] == int(kind)


def test_the_wire_can_break(vllm):
    vllm.faults.add(Fault("timeout", seconds=0.5), "not_json", "disconnect", "cut_stream")
    with pytest.raises(TimeoutError):
        ask(vllm.base_url, TEXT, prompt=SUM, timeout=0.1)
    with pytest.raises(json.JSONDecodeError):
        ask(vllm.base_url, TEXT, prompt=SUM)
    for _ in range(2):
        with pytest.raises(http.client.IncompleteRead):
            ask(vllm.base_url, TEXT, prompt=SUM)
    vllm.faults.add(Fault("429", retry_after=3))
    connection = http.client.HTTPConnection(urlsplit(vllm.base_url).netloc)
    for status in (429, 200):  # over one connection, kept alive
        connection.request("POST", "/v1/completions", json.dumps({"prompt": SUM}))
        reply = connection.getresponse()
        assert reply.status == status
        assert reply.headers["Retry-After"] == ("3" if status == 429 else None)
        reply.read()
    connection.close()


def test_a_server_in_its_own_process():
    with served("ancestor", model="ancestor", dialect="chat_vllm") as base_url:
        status, reply = chat(base_url, model="ancestor", temperature=0)
        assert (status, reply["model"]) == (200, "ancestor")
