"""A model behind a server: it does what the embedded pair does, whatever the server speaks."""

import asyncio
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_openai import ChatOpenAI

from recov_graph.errors import InvalidInputError, ModelAccessError, ModelError, NotScorableError
from recov_graph.models import Capability
from recov_graph.models.embedded import bundled_problems
from recov_graph.models.openai import Access, AccessCache, OpenAIModel
from recov_graph.scoring import scored_rollouts
from recov_graph.trace import measure
from tests.openai_faults import Fault
from tests.openai_server import OpenAIServer

KEY = "test-key-123"
SCORING = ("vllm", "echo", "chat_vllm")
ALL = (*SCORING, "chat", "reasoning", "openai_logprobs")
PROBLEMS = bundled_problems()[:12]
PROMPT = PROBLEMS[0].prompt
BASIC = {Capability.SAMPLE, Capability.TEMPERATURE}
PROMPTED = {*BASIC, Capability.INSTRUCT}
TRACED = {*BASIC, Capability.CONTINUE, Capability.SCORE}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RECOV_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def chat(server, model="specialist", **options):
    settings = {"api_key": KEY, "max_retries": 0, "timeout": 10, **options}
    return ChatOpenAI(model=model, base_url=server.base_url, **settings)


def behind(specialist, ancestor=None, **options):
    base = None if ancestor is None else chat(ancestor, "ancestor")
    return OpenAIModel(chat(specialist), ancestor=base, **options)


@contextmanager
def two(dialect="vllm", **options):
    with (
        OpenAIServer(dialect=dialect, **options) as specialist,
        OpenAIServer(role="ancestor", model="ancestor", dialect=dialect, **options) as ancestor,
    ):
        yield specialist, ancestor
        assert not specialist.errors + ancestor.errors


@pytest.fixture(scope="module")
def servers():
    with two("vllm") as vllm, two("echo") as echo, two("chat_vllm") as chat_vllm:
        yield {"vllm": vllm, "echo": echo, "chat_vllm": chat_vllm}


@pytest.fixture(params=SCORING)
def dialect(request):
    return request.param


@pytest.fixture
def model(servers, dialect):
    return behind(*servers[dialect])


def test_greedy_sampling_is_the_pairs(model, pair, dialect):
    for problem in PROBLEMS[:4]:
        (own,) = pair.sample(problem.prompt, temperature=0.0).rollouts
        first, second = model.sample(problem.prompt, n=2, temperature=0.0).rollouts
        assert first.text == second.text == own.text
        assert first.finish_reason == "stop"
        assert model.decode(first.token_ids) == first.text
        ended = dialect == "vllm"  # elsewhere the end token is not part of a rollout
        assert len(first) == len(own) - (not ended)
        if dialect != "echo":
            assert first.token_ids.tolist() == own.token_ids.tolist()[: len(first)]


def test_features_are_those_of_the_numpy_engine(model, pair, dialect):
    for problem in PROBLEMS[:4]:
        (theirs,) = model.sample(problem.prompt, temperature=0.0).rollouts
        tokens = pair.encode(theirs.text)
        if dialect == "vllm":
            tokens = np.append(tokens, np.int32(pair.end_token))
            assert model.end_token == pair.end_token
        scored = []
        for engine, rollout in ((model, theirs), (pair, replace(theirs, token_ids=tokens))):
            lists = {
                role: engine.score(problem.prompt, [rollout.token_ids], role=role).topk[0]
                for role in ("specialist", "ancestor")
            }
            scored.append(measure(replace(rollout, **lists), 0.6))
        found, expected = scored
        np.testing.assert_allclose(found.features, expected.features, atol=1e-3)
        for mine, own in zip(found.signals, expected.signals, strict=True):
            np.testing.assert_allclose(mine, own, atol=1e-3)


def test_whoever_has_scored_a_rollout_knows_the_text_of_its_tokens(model):
    (rollout,) = model.sample(PROMPT, temperature=0.0).rollouts
    scored = scored_rollouts(model, PROMPT, {"it": rollout})["it"]
    assert len(scored.pieces) == len(rollout)
    assert "".join(scored.pieces) == rollout.text
    assert model.spell([2**31 - 1]) is None


def test_going_on_from_a_prefix_is_the_pairs(model, pair, dialect):
    (own,) = pair.sample(PROMPT, temperature=0.0).rollouts
    (theirs,) = model.sample(PROMPT, temperature=0.0).rollouts
    for cut in (1, 8, len(theirs) - 1):
        head, prefix = pair.encode(own.text[:cut]), theirs.token_ids[:cut]
        (rest,) = model.sample(PROMPT, temperature=0.0, prefix=prefix).rollouts
        expected = pair.sample(PROMPT, temperature=0.0, prefix=head).rollouts[0]
        assert rest.text == expected.text == own.text[cut:]


def test_several_are_scored_in_one_call_and_charged_as_the_server_says(model):
    rollouts = model.sample(PROMPT, n=3, temperature=1.0, seed=3).rollouts
    tokens = [rollout.token_ids for rollout in rollouts]
    together = model.score(PROMPT, tokens, role="ancestor")
    alone = [model.score(PROMPT, [one], role="ancestor") for one in tokens]
    for one, other in zip(together.topk, alone, strict=True):
        np.testing.assert_allclose(one.logprobs, other.topk[0].logprobs, atol=1e-4)
    assert together.usage.tokens == sum(one.usage.tokens for one in alone)
    assert together.usage.tokens >= sum(len(one) for one in tokens)


def test_the_same_seed_gives_the_same_and_another_another(model):
    def texts(seed):
        found = model.sample(PROMPT, n=3, temperature=2.0, seed=seed, max_tokens=20).rollouts
        return [rollout.text for rollout in found]

    assert texts(1) == texts(1) != texts(5)
    usage = model.sample(PROMPT, n=2, temperature=2.0, seed=1, max_tokens=5).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (1 + len(PROMPT), 10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vllm", frozenset(Capability)),
        ("echo", TRACED),
        ("chat_vllm", {*TRACED, Capability.INSTRUCT}),
        ("chat", PROMPTED),
        ("reasoning", PROMPTED - {Capability.TEMPERATURE}),
        ("openai_logprobs", PROMPTED),
    ],
)
def test_what_is_found_out_in_five_calls_and_remembered(name, expected, tmp_path):
    with two(name) as (specialist, ancestor):
        first = behind(specialist, ancestor)
        assert first.capabilities == expected
        assert (first.why_not_scored() is None) == (Capability.SCORE in expected)
        asked = len(specialist.requests), len(ancestor.requests)
        assert all(0 < calls <= 5 for calls in asked)
        assert first.calls == sum(asked)
        assert behind(specialist, ancestor).capabilities == expected
        (first_file, *others) = (tmp_path / "cache").iterdir()
        assert len(others) == 1
        assert behind(
            specialist, ancestor, access=first.access, ancestor_access=first.access
        ).capabilities
        assert (len(specialist.requests), len(ancestor.requests)) == asked
        old = behind(specialist, ancestor, cache=AccessCache(seconds=0.0))
        assert old.capabilities == expected
        assert len(specialist.requests) == 2 * asked[0]
        for damage in (b"{", b"\xff\xfe", b"[1]", b'{"base_url": 1}', first_file.read_bytes()[:-9]):
            for file in (first_file, *others):
                file.write_bytes(damage)
            before = len(specialist.requests)
            assert behind(specialist, ancestor).capabilities == expected
            assert len(specialist.requests) == before + asked[0]


def test_a_cached_file_of_tomorrow_or_another_model_is_not_believed(tmp_path):
    with OpenAIServer(dialect="echo") as server:
        assert behind(server).calls == len(server.requests) == 0
        assert behind(server).capabilities
        (file,) = (tmp_path / "cache").iterdir()
        known = json.loads(file.read_text())
        asked = each = len(server.requests)
        changes = ({"time": time.time() + 1e6}, {"model": "other"}, {"access": {"scored": "x"}})
        for change in changes:
            file.write_text(json.dumps(known | change))
            assert behind(server).capabilities
            asked += each
            assert len(server.requests) == asked


def test_a_refused_key_is_named_and_nothing_is_remembered(tmp_path):
    for refusal in ({"key": "another"}, {"faults": [Fault("403", times=None)]}):
        with OpenAIServer(**refusal) as server:
            with pytest.raises(ModelAccessError, match="OPENAI_API_KEY") as caught:
                assert behind(server).capabilities
            assert caught.value.status in (401, 403)
            assert len(server.requests) == 1
    assert not list(tmp_path.glob("cache/*"))


def test_tokenizers_that_are_known_to_differ_rule_scoring_out(servers):
    known = behind(servers["vllm"][0]).access
    others = Access(**{**vars(known), "vocabulary": {**known.vocabulary, 9: "other"}})
    model = behind(*servers["vllm"], ancestor_access=others)
    assert {Capability.SCORE, Capability.STEP}.isdisjoint(model.capabilities)
    why = model.why_not_scored()
    assert "token 9 is " in why
    assert "'other'" in why
    assert "\n" not in why
    with pytest.raises(InvalidInputError, match="tokenizers differ"):
        model.open(PROMPT)
    mixed = behind(servers["vllm"][0], servers["echo"][1])
    assert "the ancestor is reached by text" in mixed.why_not_scored()
    assert "--ancestor" in behind(servers["vllm"][0]).why_not_scored()
    assert "--max-logprobs 60" in behind(*servers["vllm"], top_k=60).why_not_scored()


@pytest.mark.parametrize("name", ["echo", "chat_vllm"])
def test_an_ancestor_that_cuts_otherwise_cannot_score(servers, name):
    def cut_otherwise(engine, text, *, bos=True):
        return [engine.vocabulary["<s>"]] * bos + [5] * len(text)

    with two(name) as (specialist, ancestor):
        model = behind(specialist, ancestor)
        (rollout,) = model.sample(PROMPT, temperature=0.0).rollouts
        engine = ancestor._api.engine
        engine.encode = cut_otherwise.__get__(engine)
        with pytest.raises(NotScorableError, match="same tokenizer") as caught:
            model.score(PROMPT, [rollout.token_ids], role="ancestor")
        assert caught.value.usage.tokens >= len(rollout)
        assert ancestor.base_url in str(caught.value)


def of_many(model, seed):
    (rollout,) = model.sample(PROMPT, temperature=1.0, seed=seed, max_tokens=30).rollouts
    return rollout.text, model.decode(rollout.token_ids)


@pytest.mark.parametrize("name", ["vllm", "echo", "chat"])
@pytest.mark.slow
def test_many_threads_are_the_first_to_use_it(name):
    with two(name) as (specialist, ancestor):
        model = behind(specialist, ancestor)
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(lambda seed: of_many(model, seed), range(16)))
        assert 0 < model.calls <= 5
        if name != "chat":
            assert all(text == decoded for text, decoded in found)
            assert found == [of_many(model, seed) for seed in range(16)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.slow
def test_one_event_loop_after_another(name):
    with two(name) as (specialist, ancestor):
        model = behind(specialist, ancestor)

        async def sixteen():
            how = {"temperature": 1.0, "max_tokens": 30}
            drawn = await asyncio.gather(*(model.asample(PROMPT, seed=i, **how) for i in range(16)))
            texts = [generation.rollouts[0].text for generation in drawn]
            if Capability.SCORE not in model.capabilities:
                return texts, None
            tokens = [drawn[0].rollouts[0].token_ids]
            scores = await asyncio.gather(
                *(model.ascore(PROMPT, tokens, role="ancestor") for _ in range(4))
            )
            return texts, [one.topk[0].logprobs.tolist() for one in scores]

        first, second = asyncio.run(sixteen()), asyncio.run(sixteen())
        assert model.calls <= 10
        assert len(second[0]) == 16
        if name != "reasoning":  # it takes no seed
            assert first == second
            one = model.sample(PROMPT, temperature=1.0, max_tokens=30, seed=7).rollouts[0]
            assert one.text == first[0][7]


def test_no_more_requests_at_a_time_than_allowed():
    with OpenAIServer(dialect="chat") as server:
        model = behind(server, max_concurrency=3)
        assert model.capabilities
        server.faults.add(Fault("timeout", seconds=0.05, times=None))
        with ThreadPoolExecutor(12) as threads:
            list(threads.map(lambda seed: model.sample(PROMPT, seed=seed), range(12)))
        assert server.most_at_once == 3

        async def twelve():
            await asyncio.gather(*(model.asample(PROMPT, seed=i) for i in range(12)))

        asyncio.run(twelve())
        assert server.most_at_once == 3
        wide = behind(server, max_concurrency=8)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda seed: wide.sample(PROMPT, seed=seed), range(8)))
        assert server.most_at_once > 3


def test_the_key_is_sent_and_kept(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="recov_graph")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with OpenAIServer(key=KEY) as server:
        model = OpenAIModel("openai:specialist", base_url=server.base_url)
        assert model.sample(PROMPT).rollouts
        sent = {request.headers["authorization"] for request in server.requests}
        assert sent == {f"Bearer {KEY}"}
        assert KEY not in repr(model) + str(model) + repr(model.specialist) + repr(vars(model))
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.glob("cache/*"))
    assert not [r for r in caplog.records if r.name.startswith("recov") and KEY in r.getMessage()]
    monkeypatch.delenv("OPENAI_API_KEY")
    with OpenAIServer(dialect="chat") as server:
        assert OpenAIModel("openai:specialist", base_url=server.base_url).sample(PROMPT).rollouts
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert OpenAIModel("openai:specialist").sample(PROMPT).rollouts
        sent = {request.headers["authorization"] for request in server.requests}
        assert sent == {"Bearer not-needed"}


def test_a_retry_is_never_answered_from_a_cache_of_langchains():
    with OpenAIServer(dialect="reasoning") as server:
        model = behind(server)
        assert model.capabilities
        before = len(server.requests)
        set_llm_cache(InMemoryCache())
        try:
            for seed in range(3):
                model.sample(PROMPT, seed=seed)
        finally:
            set_llm_cache(None)
        assert len(server.requests) == before + 3


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("gpt", {}, ("'gpt'", "openai:NAME")),
        ("openai:", {}, ("'openai:'", "openai:NAME")),
        (3, {}, ("3", "openai:NAME", "ChatOpenAI")),
        ("openai:m", {"top_k": 0}, ("top_k is 0", "1000")),
        ("openai:m", {"top_k": 1001}, ("1001", "1000")),
        ("openai:m", {"block": 0}, ("block is 0", "above 0")),
        ("openai:m", {"max_concurrency": True}, ("max_concurrency is True", "above 0")),
        (ChatOpenAI, {"base_url": "http://127.0.0.1:1/v1"}, ("base_url", "leave", "openai:NAME")),
        ("openai:m", {"ancestor_base_url": "http://x/v1"}, ("ancestor_base_url", "ancestor=")),
        ("openai:m", {"access": "tokens"}, ("access is 'tokens'", "Access")),
        ("openai:m", {"base_url": None}, ("openai:m", "OPENAI_API_KEY", "--base-url")),
    ],
)
def test_wrong_input_is_named_with_the_fix(given, options, words):
    if given is ChatOpenAI:
        given = ChatOpenAI(model="m", api_key=KEY)
    settings = {"base_url": None if not isinstance(given, str) else "http://127.0.0.1:1/v1"}
    with pytest.raises(InvalidInputError) as caught:
        OpenAIModel(given, **{**settings, **options})
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert KEY not in message


def test_a_key_that_only_comes_asynchronously_is_refused():
    async def key():
        return KEY

    with pytest.raises(InvalidInputError, match="synchronous client"):
        OpenAIModel(ChatOpenAI(model="m", api_key=key))
    for way, scored in (("telepathy", 0), ("tokens", -1), ("tokens", "20")):
        with pytest.raises(InvalidInputError):
            Access(way=way, scored=scored)


def test_an_address_is_the_specialists_where_the_ancestor_has_its_own(servers):
    specialist, ancestor = servers["vllm"]
    base = chat(ancestor, "ancestor")
    model = OpenAIModel("openai:specialist", base_url=specialist.base_url, ancestor=base)
    assert Capability.STEP in model.capabilities
    assert os.environ.get("OPENAI_API_KEY") is None


@pytest.mark.parametrize("odd", [f"{KEY}\n", f"{KEY}\u2026"])
def test_a_key_that_no_header_can_hold_is_not_repeated(odd):
    with OpenAIServer(dialect="chat") as server:
        model = OpenAIModel(chat(server, api_key=odd))
        with pytest.raises(ModelError) as caught:
            model.sample(PROMPT)
        assert KEY not in str(caught.value)
        assert not server.requests
