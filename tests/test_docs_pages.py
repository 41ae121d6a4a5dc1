"""What the pages of docs/ show is true: every block is run, every link leads somewhere."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage

from recov_graph import Problem, create_recovery_graph
from recov_graph.cli import cli
from recov_graph.context import RecoveryContext
from recov_graph.interventions import registered
from recov_graph.models.embedded import EmbeddedPair
from tests.scripted_chat import ScriptedChat
from tests.test_studio import needs_server, served  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow  # about half a minute

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OTHER = {"api", "evaluation", "live", "models"}  # made, or measured, or in indented blocks
PAGES = sorted(page.name for page in DOCS.glob("*.md") if page.stem not in OTHER)
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ADDRESS = "http://127.0.0.1:2024"


def calls(tool, **arguments):
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": "1"}])


# The only two things that run otherwise than they stand: a hosted model is a scripted one that says
# these, in the order the models appear on the page; the development server has another port.
REPLIES = {
    "drop-in.md": [
        ["16.", "12.", "18."],
        [
            calls("price_of", item="lamp"),
            "Twelve euros fifty.",
            "12.50 EUR",
            calls("price_of", item="lamp"),
            "It is 21.50 EUR.",
            "It is 12.50 EUR.",
            calls("Bill", net=100, vat=19, total=120),
            calls("Bill", net=100, vat=19, total=119),
        ],
        ["The capital is Oslo.", '{"city": "Oslo"}'],
        ["The capital is Oslo.", '{"city": "Oslo"}'],
    ],
    "interventions.md": [
        ["5400", "5480", "5450", "544"],
        ["5440"],
        ["5400", "5480", "5450"],
        ["5440"],
        ["5400", "5480", "5450", "544"],
        ["5440"],
    ],
}


def blocks(page):
    """(kind, text, line) of every fenced block of a page."""
    text = (DOCS / page).read_text("utf-8")
    for found in BLOCK.finditer(text):
        yield found[1], found[2], text.count("\n", 0, found.start()) + 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with traces and policies of its own and no server's variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECOV_GRAPH_DB", str(tmp_path / "traces.db"))
    monkeypatch.delenv("RECOV_GRAPH_POLICIES", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=needs_server) if page == "studio.md" else page for page in PAGES],
)
def test_every_block_does_what_it_shows(page, folder, request, monkeypatch):
    address = request.getfixturevalue("served")[0] if page == "studio.md" else ADDRESS
    replies = iter(REPLIES.get(page, []))
    names = {"scripted": lambda: ScriptedChat(replies=next(replies), temperature=1.0)}
    before = registered()
    for kind, text, line in blocks(page):
        where = f"docs/{page}:{line}"
        if kind == "python":
            text = re.sub(r'init_chat_model\("[^"]+"\)', "scripted()", text)
            check_python(text.replace(ADDRESS, address), names, where, line)
        else:
            CHECKS[kind](text, where)
    assert next(replies, None) is None
    assert registered() == before


def check_python(text, names, where, line):
    expected = re.findall(r"^# -> (.*)$", text, re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (line - 1) + text, where, "exec", dont_inherit=True), names)
    assert printed.getvalue().splitlines() == expected, where


def check_console(text, where):
    """Commands after "$ ", each with lines of its output; "..." stands for anything, or lines."""
    commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert commands[0] == "", where
    for one in commands[1:]:
        command, *shown = one.splitlines()
        words = shlex.split(command)
        output = COMMANDS[words[0]](words[1:], where)
        wanted = re.escape("\n".join(line.rstrip() for line in shown)).replace(r"\.\.\.", ".*")
        found = "\n".join(line.strip() for line in output.splitlines())
        assert re.search(f"^{wanted}$" if shown else "", found, re.DOTALL | re.MULTILINE), found


def run_recov_graph(words, where):
    if "--engine" in words:  # Ray speaks to its processes by the machine's own address
        command = [sys.executable, "-m", "recov_graph.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{where}: {done.stderr}"
        return done.stdout
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, f"{where}: {done.output}"
    return done.output


def check_ray(words, where):
    command, *options = words
    ray = Path(sys.executable).with_name("ray")
    known = subprocess.run([ray, command, "--help"], capture_output=True, text=True).stdout
    assert {word.partition("=")[0] for word in options} <= set(known.split()), where
    return ""


def check_make(words, where):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(words) <= set(targets), where
    return ""


def check_pip(words, where):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    install, wanted = words
    extras = [f"{project['name']}[{extra}]" for extra in project["optional-dependencies"]]
    assert install == "install", where
    assert wanted in (project["name"], *extras), where
    return ""


def check_export(words, where):
    """A variable that we or LangGraph's command line read."""
    (name,) = (word.partition("=")[0] for word in words)
    home = (
        find_spec("langgraph_cli").origin
        if name.startswith("LANGGRAPH")
        else str(ROOT / "recov_graph/cli")
    )
    sources = Path(home).parent.rglob("*.py")
    assert any(f'"{name}"' in source.read_text("utf-8") for source in sources), f"{where}: {name}"
    return ""


def check_langgraph(words, where):
    from langgraph_cli.cli import cli as langgraph

    command, *options = words
    known = {name for option in langgraph.commands[command].params for name in option.opts}
    assert {word for word in options if word.startswith("--")} <= known, where
    return ""


def check_json(text, where):
    value = json.loads(text)
    if "graphs" in value:
        assert value.keys() <= json.loads((ROOT / "langgraph.json").read_text("utf-8")).keys()
        for graph in value["graphs"].values():
            module, _, name = graph["path"].partition(":")
            assert re.search(rf"\b{name}\b.* = ", Path(find_spec(module).origin).read_text("utf-8"))
    elif "prompt" in value:
        Problem(**value)
    else:
        RecoveryContext(**value)


def check_sql(text, where):
    """Run on the traces that the page's code stored."""
    with contextlib.closing(sqlite3.connect("private.db", isolation_level=None)) as database:
        assert database.execute("SELECT count(*) FROM problems").fetchone()[0], where
        database.executescript(text)
        assert database.execute("PRAGMA foreign_key_check").fetchall() == [], where
        assert database.execute("PRAGMA foreign_keys").fetchone() == (1,), where


CHECKS = {"console": check_console, "json": check_json, "sql": check_sql}
COMMANDS = {
    "recov-graph": run_recov_graph,
    "make": check_make,
    "pip": check_pip,
    "export": check_export,
    "langgraph": check_langgraph,
    "ray": check_ray,
}


@pytest.mark.parametrize("page", PAGES)
def test_no_block_goes_unchecked(page):
    text = (DOCS / page).read_text("utf-8")
    assert {kind for kind, *_ in blocks(page)} <= {"python", *CHECKS}
    assert text.count("```") == 2 * len(list(blocks(page)))
    lists = re.sub(r"^(- .*\n(  .*\n)*)", "", BLOCK.sub("", text), flags=re.MULTILINE)
    assert not re.search(r"^(    |\t)", lists, re.MULTILINE), "an indented block is not run"


def test_replies_are_for_models_that_are_there():
    for page in PAGES:
        code = "".join(text for kind, text, _ in blocks(page) if kind == "python")
        assert len(re.findall(r"init_chat_model\(", code)) == len(REPLIES.get(page, []))


def test_deleting_leaves_nothing_of_a_problem(folder):
    """The SQL of the privacy page knows all tables that hold something of a problem."""
    (deleting,) = (text for kind, text, _ in blocks("privacy.md") if kind == "sql")
    hard = {"prompt": "606+48*96?", "answer": 5214, "id": "mixed-4-002", "task": "mixed"}
    for model, tried in (
        (EmbeddedPair(), "sparse_steer"),
        (ScriptedChat(replies=["1"] * 9), "retry"),
    ):
        graph = create_recovery_graph(
            model, "numeric", interventions=[tried], store="traces.db", samples=2, seed=0
        )
        graph.invoke({"problem": hard}, context={"max_attempts": 4})
    with contextlib.closing(sqlite3.connect("traces.db", isolation_level=None)) as database:
        # A batch with a baseline writes these.
        database.execute("INSERT INTO retries SELECT id, 0, 1, 1 FROM problems")
        # And a run that can be gone on with writes these, until a problem has ended.
        database.execute("INSERT INTO underway (id, spent) SELECT id, 1 FROM rollouts")
        tables = [
            row[0]
            for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        rows = {
            table: database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
            for table in tables
        }
        ours = set(tables) - {"settings", "_sqlite_migrations", "profiles", "tallies", "tape"}
        assert all(rows[table] for table in ours), "there is something of all that a graph writes"
        database.executescript(deleting.replace("key = 'sum-1'", "key IS NOT NULL"))
        for table in tables:
            if table not in ("settings", "_sqlite_migrations"):
                assert not database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0], table
                assert f"FROM {table} " in deleting, table


def anchors(page):
    """What a page's headings are linked to by, as GitHub makes it."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    heads = (head.lower().replace("`", "") for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text("utf-8"))):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_index_has_every_page():
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text("utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_what_is_said_to_be_in_the_repository_is():
    for page in PAGES:
        text = BLOCK.sub("", (DOCS / page).read_text("utf-8"))
        for path in re.findall(r"`((?:examples|tests|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), path


def test_the_table_of_interventions_has_all_that_ship():
    named = re.findall(r"^\| `(\w+)", (DOCS / "interventions.md").read_text("utf-8"), re.MULTILINE)
    assert set(named) == {*registered(), "Escalate", "Restart"}


# The API reference ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_api():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        import make_api

        yield make_api
        sys.modules.pop("make_api")


def test_the_api_reference_is_that_of_the_docstrings(make_api):
    assert make_api.PAGE.read_text("utf-8") == make_api.api_page(), "run `make docs`"


def test_the_api_reference_says_something_of_every_name(make_api):
    text = make_api.PAGE.read_text("utf-8")
    for part in re.split(r"^#{3,4} ", text, flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        assert re.search(r"```\n\n\S", rest), f"{name} has no docstring"
        assert "None: None" not in rest, name


def test_examples_of_the_api_reference_are_true(make_api):
    text = make_api.PAGE.read_text("utf-8")
    import recov_graph

    names = {name: getattr(recov_graph, name) for name in recov_graph.__all__}
    examples = doctest.DocTestParser().get_doctest(
        text.replace("```", ""), names, "api.md", None, 0
    )
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0
