"""Every example runs as a stranger would run it."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.openai_server import OpenAIServer

pytestmark = pytest.mark.slow  # about half a minute

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))

# What each is to print, in this order.
TELLS = {
    "agent": [
        "the tool runs: Luigi, 4 people, T-4821\n",
        "sample     failed  Your table is booked, enjoy your evening!\n",
        "passed  Luigi expects the four of you tonight. Your code is T-4821.\n",
        "in the conversation: human ai tool ai\n",
        "bookings made: 1\n",
        "solved: Luigi expects the four of you tonight. Your code is T-4821.\n",
    ],
    "batch_refit": [
        "24 problems, ",
        " rescued\n",
        "embedded|mixed: ",
        "dense_steer: 21% -> ",
        "gate not passed: too little to go by: ",
    ],
    "extraction": [
        "failed  $.lines[1].euros: '35,-' is not of type 'number'\n",
        "failed  the lines add up to 245\n",
        "passed  fits the schema\n",
        "solved; best so far: {'lines': [{'what': 'desk', 'euros': 210}, ",
        "'total': 245}\n",
    ],
    "own_intervention": [
        "sample failed ",
        "swap passed 68*80=5440;A:5440 {'asked': '68*80'}\n",
        "solved: 5440\n",
    ],
    "python_code": [
        "sample     failed  AssertionError: 3\n",
        "passed  the tests passed\n",
        "solved; best so far:\ndef median(numbers):\n",
    ],
    "quickstart": ["sample ", " failed ", "dense_steer ", " passed ", "solved: 1768 for "],
    "sql": [
        "failed  rows [('Bern', 10), ('Oslo', 95), ('Rome', 90)]\n",
        "failed  SQLite says: no such column: payed\n",
        "passed  rows [('Rome', 90), ('Oslo', 70), ('Bern', 10)]\n",
        "solved; best so far:\nSELECT city",
    ],
    "studio": [
        "graphs: recover recover_chat\n",
        "done: generate\n",
        "  sample: failed\n",
        "done: verify\n",
        "has the best expected rescue for its cost",
        "done: intervene\n",
        ": passed\n",
        "solved: 1768\n",
    ],
}


@pytest.fixture
def ran(tmp_path):
    """Runs an example: what it printed. No network, no key, and it leaves nothing behind."""

    def run(name, **variables):
        here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
        here.mkdir()
        elsewhere.mkdir()
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RECOV_GRAPH_", "OPENAI_", "LANG"))
        }
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
        environment = {
            **kept,
            **nowhere,
            **{name.upper(): value for name, value in nowhere.items()},
            **{"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            "OPENBLAS_NUM_THREADS": "1",
            "TMPDIR": str(elsewhere),
            "RECOV_GRAPH_CACHE": str(tmp_path / "cache"),
            "RECOV_GRAPH_POLICIES": str(tmp_path / "policies"),
            **variables,
        }
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{name}.py")],
            capture_output=True,
            text=True,
            cwd=here,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert list(here.iterdir()) == []
        assert list(elsewhere.iterdir()) == []
        return done.stdout

    return run


def assert_in_order(printed, expected):
    place = 0
    for part in expected:
        found = printed.find(part, place)
        assert found >= 0, f"{part!r} is not, or not so late, in:\n{printed}"
        place = found + len(part)


def test_every_example_is_listed():
    assert list(TELLS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_example_tells_its_story(name, ran):
    if name == "studio" and find_spec("langgraph_api") is None:
        assert "recov-graph[studio]" in ran(name)
        return
    assert_in_order(ran(name), TELLS[name])


def test_no_example_hides_a_module_of_the_standard_library():
    # Their folder comes first on the path of those that are run.
    assert not {path.stem for path in FOLDER.glob("*.py")} & sys.stdlib_module_names


def test_an_own_intervention_is_short():
    assert len((FOLDER / "own_intervention.py").read_text("utf-8").splitlines()) < 30


# With a chat model behind a server --------------------------------------------------------------


class Scripted(ThreadingHTTPServer):
    """A chat API that gives these messages in order, and the last one for ever."""

    def __init__(self, *messages):
        super().__init__(("127.0.0.1", 0), _Chat)
        self.messages = [{"role": "assistant", "content": None, **message} for message in messages]
        self.asked = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Chat(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.send_error(404)
        self.server.asked.append(asked)
        messages = self.server.messages
        message = messages.pop(0) if len(messages) > 1 else messages[0]
        ended = "tool_calls" if message.get("tool_calls") else "stop"
        usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
        choice = {"index": 0, "message": message, "finish_reason": ended}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"]}
        body = json.dumps({**reply, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return self.wfile.write(body)

    def log_message(self, *_):
        pass


def behind(server):
    """The environment that has an example ask a server."""
    return {
        "RECOV_GRAPH_CHAT": "mine",
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "none",
    }


def booking(**arguments):
    function = {"name": "book_table", "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"id": "1", "type": "function", "function": function}]}


def test_an_agent_on_a_server_books_once_whatever_it_says(ran):
    booked = booking(restaurant="Luigi", people=4)
    with Scripted(booked, {"content": "All done!"}) as server:
        printed = ran("agent", **behind(server))
    expected = ["the tool runs: Luigi", "sample     failed  All done!\n", "bookings made: 1\n"]
    assert_in_order(printed, expected)
    assert printed.count("the tool runs") == 1
    assert printed.endswith(("budget_exhausted: All done!\n", "out_of_reach: All done!\n"))
    assert all(asked["tools"] for asked in server.asked)


def test_sql_of_a_server_can_be_right(ran):
    right = "SELECT city, SUM(euros) FROM orders WHERE paid GROUP BY 1 ORDER BY 2 DESC"
    harm = [{"content": "DROP TABLE orders"}] * 3  # two replies go to finding the API out
    with Scripted(*harm, {"content": right}) as server:
        printed = ran("sql", **behind(server))
    expected = ["failed  SQLite says: not authorized\n", f"solved; best so far:\n{right}\n"]
    assert_in_order(printed, expected)
    assert {asked["max_completion_tokens"] for asked in server.asked[2:]} == {4000}


def test_an_invoice_of_a_server_can_be_right(ran):
    wrong = {"lines": [{"what": "desk", "euros": 210}], "total": 245}
    right = {"lines": [{"what": "all", "euros": 245}], "total": 245}
    replies = [{"content": json.dumps(reply)} for reply in (wrong, right)]
    with Scripted(*replies) as server:
        printed = ran("extraction", **behind(server))
    assert_in_order(printed, ["failed  the lines add up to 210\n", f"solved; best so far: {right}"])


@pytest.mark.parametrize("name", ["sql", "extraction"])
def test_an_example_ends_well_with_a_model_that_knows_nothing(name, ran):
    with OpenAIServer(model="mine") as server:
        printed = ran(name, **behind(server))
    assert "best so far" in printed
    assert "solved" not in printed
    assert len(server.requests) > 1
    assert not server.errors
