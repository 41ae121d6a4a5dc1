"""The shape of the package: imports point one way, modules stay small, importing stays quick."""

from __future__ import annotations

import ast
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "recov_graph"
MOST_LINES = 400
# Each imports only from those before it; a package counts as one. The facade, __init__, stands
# outside: it imports from all of them, but only when a name is asked for.
LAYERS = (
    "version",
    "errors",
    "words",
    "seeds",
    "threads",
    "recent",
    "conversation",
    "problem",
    "rollout",
    "compiled",
    "signals",
    "features",
    "rollout_features",
    "trace",
    "models",
    "verifiers",
    "interventions",
    "routing",
    "budget",
    "regimes",
    "store",
    "doctor",
    "policies",
    "context",
    "settings",
    "profiles",
    "offpolicy",
    "state",
    "approval",
    "scoring",
    "attempts",
    "workspace",
    "recorder",
    "measuring",
    "evidence",
    "intervening",
    "nodes",
    "graph",
    "agents",
    "wrapping",
    "baseline",
    "figures",
    "batch",
    "surveying",
    "scheduler",
    "resuming",
    "runs",
    "runner",
    "merging",
    "distributed",
    "tape",
    "record",
    "importing",
    "evaluate",
    "stored",
    "gate",
    "refit",
    "exporting",
    "topk_file",
    "studio",
    "strips",
    "report",
    "console",
    "cli",
)
HEAVY = ("numpy", "pydantic", "langgraph", "langchain_core", "sklearn", "rich", "safetensors")
HEAVY += ("sqlite_utils", "jsonschema", "regex", "torch", "openai", "langchain_openai")

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of everything a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import on line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name: str) -> str | None:
    """The layer that a module of ours belongs to, None for the facade and for others' modules."""
    parts = name.split(".")
    ours = parts[0] == "recov_graph" and len(parts) > 1
    return parts[1] if ours and parts[1] in {m.split(".")[1] for m in inner()} else None


def inner() -> list[str]:
    """All modules but the facade."""
    return [name for name in MODULES if "." in name]


def test_every_module_has_a_layer() -> None:
    assert {name.split(".")[1] for name in inner()} == set(LAYERS)


@pytest.mark.parametrize("name", inner())
def test_modules_import_downward_only(name: str) -> None:
    own = LAYERS.index(name.split(".")[1])
    used = {layer(imported) for imported in imports(MODULES[name])} - {None}
    upward = {other for other in used if LAYERS.index(str(other)) > own}
    assert not upward, f"{name} imports from {sorted(map(str, upward))}"


def test_nobody_inside_goes_through_the_facade() -> None:
    through = {
        (name, imported)
        for name in inner()
        for imported in imports(MODULES[name])
        if imported.split(".")[0] == "recov_graph" and layer(imported) is None
    }
    assert through == set()


def test_modules_within_a_package_import_one_another_in_one_direction() -> None:
    uses = {
        name: (with_parents(imports(MODULES[name])) & MODULES.keys()) - {name} for name in inner()
    }
    left = set(uses)
    while free := {name for name in left if not (uses[name] & left - {name})}:
        left -= free
    assert left == set(), f"these import one another in a circle: {sorted(left)}"


def with_parents(names: Iterator[str]) -> set[str]:
    """The names and, as `from a.b import c` may name a module or what is in one, what is above."""
    return {found for name in names for found in (name, name.rpartition(".")[0])}


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_small(name: str) -> None:
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize("name", MODULES)
def test_private_parts_of_other_packages_stay_private(name: str) -> None:
    private = {
        imported
        for imported in imports(MODULES[name])
        if imported.split(".")[0] not in ("__future__", "recov_graph")
        and any(part.startswith("_") for part in imported.split("."))
    }
    assert private == set()


@pytest.mark.parametrize("name", inner())
def test_private_names_stay_within_their_module(name: str) -> None:
    private = {
        imported
        for imported in imports(MODULES[name])
        if imported.startswith("recov_graph.")
        and any(part.startswith("_") for part in imported.split(".")[1:])
        and not imported.endswith("__version__")
    }
    assert private == set()


@pytest.mark.parametrize("module", ["recov_graph", "recov_graph.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert module.split(".")[0] in loaded
    assert loaded & set(HEAVY) == set()


def test_every_public_name_can_be_had() -> None:
    import recov_graph

    assert len({*recov_graph.__all__} - {"__version__"}) <= 12
    assert [name for name in recov_graph.__all__ if not hasattr(recov_graph, name)] == []
    assert set(recov_graph.__all__) <= set(dir(recov_graph))


def test_names_that_do_not_exist_are_an_ordinary_error() -> None:
    import recov_graph

    with pytest.raises(AttributeError, match="no_such_name"):
        recov_graph.no_such_name  # noqa: B018


def test_tests_cannot_reach_the_network() -> None:
    with socket.socket() as client, pytest.raises(PermissionError, match="network"):
        client.connect(("192.0.2.1", 80))
    with pytest.raises(PermissionError, match="network"):
        socket.create_connection(("example.invalid", 80))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
