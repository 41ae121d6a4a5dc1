"""What the README shows is true: its code, its commands, its picture, its links."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from recov_graph import create_recovery_graph
from recov_graph.cli import cli
from recov_graph.interventions import registered, unregister
from recov_graph.models.embedded import PAIR
from recov_graph.version import __version__
from tests.openai_server import OpenAIServer
from tests.scripted_chat import ScriptedChat
from training.measure_pair import model_card

ROOT = Path(__file__).parent.parent
ADDRESSES = "http://localhost:8000/v1", "http://localhost:8001/v1"
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def servers():
    """The two servers of the README, under whatever addresses they have here."""
    with (
        OpenAIServer(role="specialist", model="my-model") as specialist,
        OpenAIServer(role="ancestor", model="my-base-model") as ancestor,
    ):
        yield specialist.base_url, ancestor.base_url


def test_readme_code_runs_and_prints_what_it_says(tmp_path, monkeypatch, servers):
    monkeypatch.chdir(tmp_path)
    names = {"scripted": lambda: ScriptedChat(replies=["It is 132.", "It is 133."] * 2)}
    monkeypatch.setenv("RECOV_GRAPH_CACHE", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 7
    before = set(registered())
    try:
        for block in blocks:
            expected = re.findall(r"^# -> (.*)$", block, re.MULTILINE)
            for address, served in zip(ADDRESSES, servers, strict=True):
                block = block.replace(address, served)
            block = re.sub(r'init_chat_model\("[^"]+"\)', "scripted()", block)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, "README.md", "exec"), names)
            assert printed.getvalue().splitlines() == expected
    finally:
        for name in set(registered()) - before:
            unregister(name)


def test_the_first_screen_shows_the_two_commands():
    first = README[: README.index("## ")]
    assert "make demo" in first
    assert "make test" in first
    assert "docs/graph.svg" in first


def test_every_command_of_the_readme_exists():
    shown = set(re.findall(r"^    recov-graph (\w+)", README, re.MULTILINE))
    printed = CliRunner().invoke(cli, ["--help"]).output
    assert shown == set(cli.commands)
    assert all(re.search(rf"^  {name} ", printed, re.MULTILINE) for name in shown)


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in re.findall(r"^    make (.*?)\s*(?:#.*)?$", README, re.MULTILINE):
        assert set(line.split()) <= targets


def test_links_inside_the_repository_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_picture_shows_the_graph_as_it_is():
    picture = (ROOT / "docs" / "graph.svg").read_text("utf-8")
    graph = create_recovery_graph("embedded", "numeric").get_graph()
    for node in set(graph.nodes) - {"__start__", "__end__"}:
        assert f">{node}<" in picture
    for edge in graph.edges:
        if edge.conditional and edge.data:
            assert f">{edge.data}<" in picture


def test_the_model_card_quotes_the_measurements():
    measured = json.loads((PAIR / "measurements.json").read_text("utf-8"))["bundled"]
    assert (PAIR / "README.md").read_text("utf-8") == model_card(measured)


def test_the_changelog_names_this_version():
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_constraints_pin_exactly_and_name_no_registry():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself(name):
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 4
