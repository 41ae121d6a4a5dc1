"""What a model allows, as `recov-graph doctor` tells it, and that it can be had indeed."""

import json
import sqlite3

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from recov_graph import Budget, TraceStore, build_recovery_graph, create_recovery_graph
from recov_graph.budget import BudgetExhausted, MeteredModel
from recov_graph.doctor import examine
from recov_graph.errors import InvalidInputError, ModelReplyError
from recov_graph.interventions import Retry, SparseSteer
from recov_graph.interventions.base import Failure
from recov_graph.models import Capability
from recov_graph.models.embedded import bundled_problems
from recov_graph.models.openai import OpenAIModel
from recov_graph.routing import Decision
from recov_graph.scoring import scored_rollouts
from recov_graph.trace import measure
from tests.openai_faults import Fault
from tests.openai_server import OpenAIServer
from tests.test_openai_model import behind, chat, two

LIMIT = 1500
PROBLEMS = bundled_problems()[:12]
PROMPT = PROBLEMS[0].prompt
TOKEN_LEVEL = {"sparse_steer", "sparse_steer_random", "local_temp"}
EVERYWHERE = {"retry", "extend"}
ALLOWED = {
    "vllm": {*EVERYWHERE, *TOKEN_LEVEL, "dense_steer", "temp_lift", "replan"},
    "echo": {*EVERYWHERE, *TOKEN_LEVEL, "temp_lift"},
    "chat_vllm": {*EVERYWHERE, *TOKEN_LEVEL, "temp_lift", "replan"},
    "chat": {*EVERYWHERE, "temp_lift", "replan"},
    "reasoning": {*EVERYWHERE, "replan"},
    "openai_logprobs": {*EVERYWHERE, "temp_lift", "replan"},
}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RECOV_GRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def cli(monkeypatch, cli):
    """Runs the command line in this process, as it was installed."""
    monkeypatch.setenv("COLUMNS", "200")
    return cli


def arguments(specialist, ancestor=None):
    found = ["doctor", "--model", "openai:specialist", "--base-url", specialist.base_url]
    if ancestor is not None:
        found += ["--ancestor", "openai:ancestor", "--ancestor-base-url", ancestor.base_url]
    return found


@pytest.mark.parametrize("dialect", ALLOWED)
def test_what_each_server_allows_and_how_to_get_the_rest(dialect, cli):
    with two(dialect) as (specialist, ancestor):
        code, out, err = cli(*arguments(specialist, ancestor), "--json", "-")
        assert (code, err) == (0, "")
        found = json.loads(out)
        asked = len(specialist.requests) + len(ancestor.requests)
        assert found["calls"] == asked <= 10
        allowed = {row["name"]: row for row in found["interventions"]}
        assert {name for name, row in allowed.items() if row["possible"]} == ALLOWED[dialect]
        for row in allowed.values():
            assert bool(row["fix"]) == (not row["possible"])
            assert "\n" not in row["fix"]
        tokens, rollouts = found["features"]
        assert tokens["possible"] == (dialect in ("vllm", "echo", "chat_vllm"))
        assert tokens["possible"] != rollouts["possible"]
        if not tokens["possible"]:
            assert "vLLM" in tokens["fix"] + allowed["sparse_steer"]["fix"]
        facts = {row["name"]: (row["specialist"], row["ancestor"]) for row in found["facts"]}
        said = "yes" if dialect != "reasoning" else "no"
        assert facts["temperature"] == (said, said)
        assert facts["token ids"][0] == ("yes" if "vllm" in dialect else "no")
        if dialect == "reasoning":
            assert "temperature" in allowed["temp_lift"]["fix"]
        if dialect == "echo":
            assert "--chat-template" in allowed["replan"]["fix"]
            assert "token ids" in allowed["dense_steer"]["fix"]
        # What was found out is there for `run`, and a doctor who is asked again asks again.
        assert behind(specialist, ancestor).capabilities
        assert len(specialist.requests) + len(ancestor.requests) == asked
        code, table, err = cli(*arguments(specialist, ancestor))
        assert (code, err) == (0, "")
        assert len(specialist.requests) + len(ancestor.requests) == 2 * asked
        for name, row in allowed.items():
            (line,) = [line for line in table.splitlines() if f" {name} " in line]
            assert ("yes" if row["possible"] else "no") in line.split()
            assert row["fix"][:30] in line


def test_a_model_without_an_ancestor_is_told_to_name_one(cli, tmp_path):
    with OpenAIServer() as server:
        target = tmp_path / "out.json"
        code, out, err = cli(*arguments(server), "--json", target)
        assert (code, err) == (0, "")
        assert "--ancestor" in out
        found = json.loads(target.read_text())
        assert {row["ancestor"] for row in found["facts"]} == {None}
        rows = {row["name"]: row for row in found["interventions"]}
        assert "--ancestor" in rows["dense_steer"]["fix"]
        assert "--ancestor" in rows["local_temp"]["fix"]


def test_the_embedded_pair_needs_no_server(cli, pair):
    code, out, err = cli("doctor", "--json", "-")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == examine(pair).as_data()
    assert "calls" not in found
    assert {row["name"] for row in found["interventions"] if not row["possible"]} == {"replan"}
    assert cli("doctor")[0] == 0


def test_an_intervention_of_ones_own_is_judged_too(pair):
    class Own(Retry):
        name = "own"
        needs = frozenset({Capability.INSTRUCT})

    found = {row.name: row for row in examine(pair, [Own()]).interventions}
    assert not found["own"].possible
    assert found["own"].fix


def one_line(err):
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    return err


def test_a_server_that_is_not_there_is_one_line(cli, monkeypatch, tmp_path):
    with OpenAIServer() as server:
        gone = arguments(server)
    for how in ((), ("--json", "-")):
        code, out, err = cli(*gone, *how)
        assert (code, out) == (2, "")
        assert server.base_url in one_line(err)
        assert "--base-url" in err
    with OpenAIServer(key="another") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "test-key-123")
        code, out, err = cli(*arguments(server))
        assert (code, out) == (2, "")
        assert "OPENAI_API_KEY" in one_line(err)
        assert "test-key-123" not in err
        code, _, err = cli("doctor", "--model", "openai:gone", "--base-url", server.base_url)
        assert code == 2
        one_line(err)
    assert not list(tmp_path.glob("cache/*"))
    code, _, err = cli("doctor", "--model", "gpt")
    assert code == 2
    assert "openai:NAME" in one_line(err)
    code, _, err = cli("doctor", "--base-url", "http://127.0.0.1:1/v1")
    assert code == 2
    assert "embedded" in one_line(err)


@pytest.fixture(scope="module")
def servers():
    with two() as found:
        yield {"vllm": found}


def read(path, table):
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]


class Always:
    """A router that has made up its mind."""

    name = "always"
    content_hash = "0" * 16

    def __init__(self, choice):
        self.choice = choice

    def decide(self, evidence):
        chosen = self.choice if self.choice in evidence.costs else next(iter(evidence.costs))
        return Decision(chosen, "sampling", 1.0, 0.5, (), "always")


def never(_problem, _text):
    return False


def black_box(model, store, **options):
    graph = create_recovery_graph(
        model, never, seed=0, store=store, budget=Budget(max_attempts=6), **options
    )
    result = graph.invoke({"problem": PROBLEMS[0].model_dump()})
    assert result["error"] is None
    return result


def test_a_reasoning_model_is_never_told_a_temperature(store):
    with OpenAIServer(dialect="reasoning") as server:
        model = behind(server)
        assert model.capabilities
        asked = len(server.requests)
        result = black_box(model, store)
        assert len(server.requests) > asked
        assert all("temperature" not in one.body for one in server.requests[asked:])
        offered = {c["operator"] for step in result["route"] for c in step["candidates"]}
        assert "temp_lift" not in offered
        assert "retry" in offered
        with pytest.raises(InvalidInputError, match="temp_lift"):
            create_recovery_graph(model, never, interventions=["temp_lift"])
    (told,) = read(store.path, "rollout_features")
    assert told["failed_share"] == 1.0
    assert not read(store.path, "features")


def test_half_a_character_ends_nothing(store):
    with OpenAIServer(dialect="chat") as server:
        model, real = behind(server), server._http.handle

        def halved(request):
            sent, problem = real(request)
            return sent._replace(
                body=sent.body.replace(b'"content":"', rb'"content":"\ud83d')
            ), problem

        server._http.handle = halved
        assert black_box(model, store)["attempts"]
    assert all("\ufffd" in row["text"] for row in read(store.path, "rollouts"))


def test_tool_calls_are_the_text_and_chat_models_are_models(store):
    tool = {"name": "calculate", "description": "a sum", "parameters": {"type": "object"}}
    with OpenAIServer(tool_calls=True) as server:
        bound = chat(server).bind_tools([{"type": "function", "function": tool}])
        model = OpenAIModel(bound)
        assert model.access.way == "chat"
        for rollout in model.sample(PROMPT, n=2, temperature=0.0).rollouts:
            (call,) = json.loads(rollout.text)
            assert (call["name"], list(call["args"])) == ("calculate", ["sum"])
        assert all(one.body["tools"] for one in server.calls("/chat/completions"))
        assert black_box(bound, store)["attempts"]
    assert len(read(store.path, "rollout_features")) == 1
    with OpenAIServer(dialect="chat") as server:
        graph = create_recovery_graph(chat(server), "numeric", seed=0)
        assert graph.invoke({"problem": {"prompt": "6*7?", "answer": 42}})["solved"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "operator", ["retry", "sparse_steer", "sparse_steer_random", "local_temp", "dense_steer"]
)
def test_every_intervention_is_carried_out_and_stored(servers, operator, tmp_path):
    with TraceStore(tmp_path / "traces.db") as store:
        graph = create_recovery_graph(
            behind(*servers["vllm"]),
            "numeric",
            router=Always(operator),
            interventions=[operator],
            budget=Budget(max_attempts=4, max_tokens=LIMIT),
            store=store,
            samples=2,
            max_new_tokens=60,
            seed=0,
        )
        attempts, spent, measured = [], 0, 0
        for problem in PROBLEMS:
            events = graph.stream({"problem": problem.model_dump()}, stream_mode="custom")
            for event in events:
                if event["type"] == "attempt":
                    attempts.append(event)
                elif event["type"] == "features" and event["features"]:
                    measured += 1
                elif event["type"] == "finished":
                    assert event["stop_reason"] in ("solved", "budget_exhausted")
                    assert event["usage"]["tokens"] <= LIMIT
                    spent += event["usage"]["tokens"]
        stored = read(store.path, "rollouts")
        assert len(stored) == len(attempts)
        assert sum(row["operator"] == operator for row in stored) >= 4
        names = ("prompt_tokens", "completion_tokens", "scored_tokens")
        assert sum(row[name] for row in read(store.path, "calls") for name in names) == spent
        samples = {row["id"] for row in stored if row["operator"] == "sample"}
        features = {row["id"] for row in read(store.path, "features")}
        assert features <= samples
        assert measured == 0 or len(features) >= measured
        assert len(read(store.path, "token_arrays")) == len(features)
        if operator != "retry":
            assert measured or operator == "dense_steer"


def test_a_server_that_gives_one_choice_at_a_time_keeps_to_the_budget(tmp_path):
    with OpenAIServer(dialect="chat") as server:
        model = behind(server)
        model.sample(PROMPT, max_tokens=1)  # so that the prompt's length is known
        length = model.prompt_length(PROMPT)
        with pytest.raises(BudgetExhausted):  # four times the prompt is too much
            MeteredModel(model, Budget(max_tokens=4 * length), "p", {}).sample(
                PROMPT, n=4, temperature=0.6, max_tokens=40, seed=0
            )
        most = 4 * length + 12
        metered = MeteredModel(model, Budget(max_tokens=most), "p", {})
        made = metered.sample(PROMPT, n=4, temperature=0.6, max_tokens=40, seed=0)
    assert len(made.rollouts) == 4
    assert 4 * length < metered.spent.tokens <= most


def test_scoring_keeps_to_the_budget(servers):
    model = behind(*servers["vllm"])
    tokens = [one.token_ids for one in model.sample(PROMPT, n=4, temperature=1.0).rollouts]
    needed = sum(model.prompt_length(PROMPT) + len(one) for one in tokens)
    with pytest.raises(BudgetExhausted):  # each scoring writes a token as well
        MeteredModel(model, Budget(max_tokens=needed), "p", {}).score(
            PROMPT, tokens, role="ancestor"
        )
    metered = MeteredModel(model, Budget(max_tokens=needed + 4), "p", {})
    metered.score(PROMPT, tokens, role="ancestor")
    assert metered.spent.tokens == needed + 4


@pytest.mark.parametrize("node", ["featurize", "classify"])
def test_a_problem_taken_up_in_another_process_ends_clean(node, tmp_path):
    held, saver = {"configurable": {"thread_id": "1"}}, InMemorySaver()
    with two() as (specialist, ancestor):

        def graph(**how):
            built = build_recovery_graph(
                behind(specialist, ancestor), never, store=tmp_path / "t.db", seed=0
            )
            return built.compile(checkpointer=saver, **how)

        graph(interrupt_before=[node]).invoke({"problem": PROBLEMS[0].model_dump()}, held)
        again = graph()
        specialist.faults.add(Fault("503", path="/tokenize", times=None))
        assert again.invoke(None, held)["stop_reason"] == "model_error"


def test_a_rest_whose_tokens_are_not_told_keeps_its_text():
    with two("echo") as (specialist, ancestor):
        model = behind(specialist, ancestor)
        (rollout,) = model.sample(PROMPT, temperature=0.0).rollouts
        trace = measure(scored_rollouts(model, PROMPT, {"r": rollout})["r"], 0.6)
        failure = Failure(PROBLEMS[0], 0.6, 60, 0, [trace])
        fine = SparseSteer().apply(failure, model).rollout.text
        specialist.faults.add(Fault("huge_text", size=3))
        assert SparseSteer().apply(failure, model).rollout.text == fine + "999"


@pytest.mark.parametrize("kind", ["no_choices_key", "not_json"])
def test_a_chat_reply_that_is_none_is_paid_for(kind):
    with OpenAIServer(dialect="chat") as server:
        metered = MeteredModel(behind(server), Budget(), "p", {})
        assert metered.capabilities
        server.faults.add(kind)
        with pytest.raises(ModelReplyError):
            metered.sample(PROMPT, temperature=0.6, max_tokens=40, seed=0)
    assert metered.spent.tokens > 0
