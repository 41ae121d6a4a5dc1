"""What others wrote stays data: never run, never drawn, never asked with; and kept texts are kept.

SECURITY.md tells which of these tests stands behind which of its claims.
"""

from __future__ import annotations

import ast
import base64
import csv
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import pyarrow.parquet as pq
import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool

from recov_graph.agents import RecoveryMiddleware, Restart
from recov_graph.budget import Budget
from recov_graph.errors import InvalidInputError, PolicyError, StoreError
from recov_graph.exporting import export
from recov_graph.graph import create_recovery_graph
from recov_graph.interventions import Escalate, registered
from recov_graph.interventions.replan import INSTRUCTION
from recov_graph.models import Capability
from recov_graph.models.embedded import EmbeddedPair
from recov_graph.models.openai import OpenAIModel
from recov_graph.problem import Problem
from recov_graph.record import Settings, record
from recov_graph.routing import default_policy, load_policy
from recov_graph.seeds import call_seed
from recov_graph.store import TraceStore, blobs
from recov_graph.store.blobs import pack
from recov_graph.verifiers import Verdict, python_test
from recov_graph.words import storable
from recov_graph.wrapping import with_recovery
from tests.hostile import (
    ESCAPES,
    FORMULAS,
    HALF,
    SCRIPTS,
    SQL,
    TEXTS,
    Page,
    Said,
    assert_harmless,
    command,
    saying,
)
from tests.openai_server import OpenAIServer
from tests.stored_runs import StoredRun

COMMAND = Path(sys.executable).with_name("recov-graph")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PACKAGE = Path(__file__).parents[1] / "recov_graph"
EXPLAINS = """
from pathlib import Path

SAID = {said!r}

def judge(problem, text):
    from recov_graph.verifiers import Verdict, python_test
    return Verdict("failed", answer=text, explanation=SAID[len(text) % len(SAID)] + text)
"""


def some_slow(names: Iterable[str], *quick: str) -> list[Any]:
    """Names as parameters, of which all but some are for the slow suite."""
    marks = {name: () if name in quick else pytest.mark.slow for name in names}
    return [pytest.param(name, marks=mark, id=name) for name, mark in marks.items()]


# A run whose every text is hostile ----------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """The store of a real `recov-graph run`, and what the command said."""
    folder = tmp_path_factory.mktemp("hostile")
    problems = [
        {"prompt": text, "answer": text, "id": f"{text}{i}", "task": TEXTS[i % 5]}
        for i, text in enumerate(TEXTS)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(one) + "\n" for one in problems))
    (folder / "explains.py").write_text(EXPLAINS.format(said=TEXTS))
    with saying(*TEXTS, HALF) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setenv("OPENAI_API_KEY", "sk-test")
        patch.setenv("RECOV_GRAPH_CACHE", str(folder / "cache"))
        said = command(
            *("run", "problems.jsonl", "--db", "t.db", "--verifier", "python:explains:judge"),
            *("--model", "openai:<script>hacked</script>\x1b[2J", "--base-url", server.url),
            *("--samples", "2", "--max-attempts", "4"),
        )
    return folder / "t.db", said


def surfaces(db: Path, folder: Path, key: str) -> dict[str, tuple[Any, ...]]:
    """Every command that shows something of a store, by what it shows."""
    return {
        "the run": ("show", "--db", db),
        "the run, plain": ("show", "--db", db, "--plain"),
        "all runs": ("show", "--runs", "--db", db),
        "all runs, plain": ("show", "--runs", "--db", db, "--plain"),
        "a problem": ("show", "--problem", key, "--db", db),
        "a problem, plain": ("show", "--problem", key, "--db", db, "--plain"),
        "watched": ("watch", "--once", "--db", db),
        "watched, plain": ("watch", "--once", "--db", db, "--plain"),
        "a report": ("report", "--db", db, "--out", folder / "report.html"),
        "examined": ("doctor", "--db", db),
        "examined, JSON": ("doctor", "--db", db, "--json", "-"),
        "merged": ("merge", db, "--db", folder / "merged.db"),
        "merged, plain": ("merge", db, "--db", folder / "merged.db", "--plain"),
        "merged, JSON": ("merge", db, "--db", folder / "merged.db", "--json", "-"),
        "fitted": ("refit", "--db", db, "--policies", folder / "policies"),
        "no such problem": ("show", "--problem", "\x1b[2J\x9b31m", "--db", db),
        "no such run": ("show", "\x1b]52;c;aGFja2Vk\x07", "--db", db),
        "no such file": ("show", "--db", folder / "\x1b[31;5;77m.db"),
        "problems exported": ("export", "problem", "--db", db),
        "attempts exported": ("export", "attempt", "--db", db, "--format", "csv"),
    }


def is_data(name: str) -> bool:
    """Into a pipe an export is for a program, and whole."""
    return name.endswith("exported")


def test_a_run_says_nothing_that_a_terminal_acts_on(hostile_run: tuple[Path, Said]) -> None:
    _, said = hostile_run
    assert_harmless(said)
    assert said.code == 0, said
    assert f"{len(TEXTS)} problems" in said.out


@pytest.mark.parametrize(
    "terminal",
    [pytest.param(False, marks=pytest.mark.slow, id="pipe"), pytest.param(True, id="terminal")],
)
def test_nothing_of_a_run_reaches_a_terminal_as_it_was_written(
    hostile_run: tuple[Path, Said], tmp_path: Path, terminal: bool
) -> None:
    db, _ = hostile_run
    key = f"{ESCAPES[0]}{len(SCRIPTS)}"
    for name, arguments in surfaces(db, tmp_path, key).items():
        if is_data(name) and not terminal:
            continue
        said = command(*arguments, terminal=terminal)
        assert_harmless(said, terminal=terminal)
        assert said.code == (2 if name.startswith("no such") else 0), (name, said)
    made = (tmp_path / "report.html").read_text()
    assert not set(made) & set("\x1b\x9b\x07\x00\u202e\u2066")


@pytest.mark.parametrize("kind", ["json", "text"])
def test_what_a_server_says_of_an_error_is_one_harmless_line(tmp_path: Path, kind: str) -> None:
    problems = tmp_path / "p.jsonl"
    problems.write_text('{"prompt": "1+1", "answer": 2}\n')
    words = "".join(ESCAPES) + SCRIPTS[0] + "sk-secret-key"
    options = ("--json", "-") if kind == "json" else ()
    with saying(message=words) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-secret-key")
        patch.setenv("RECOV_GRAPH_CACHE", str(tmp_path / "cache"))
        asked = ("--model", "openai:m", "--base-url", server.url)
        run = ("run", problems, "--verifier", "numeric", "--db", tmp_path / "t.db")
        assert command(*run, *asked).code == 0  # what it can do is found out while it answers
        server.error = 400
        for arguments in ((*run, *asked, *options), ("doctor", *asked, *options)):
            for terminal in (False, True):
                said = command(*arguments, terminal=terminal)
                assert_harmless(said, terminal=terminal)
                assert said.code in (1, 2)
                assert "sk-secret-key" not in said.out + said.err
    with closing(sqlite3.connect(tmp_path / "t.db")) as read:
        refused = "SELECT count(*) FROM outcomes WHERE stop_reason = 'model_error'"
        assert read.execute(refused).fetchone() == (2,)
    assert b"sk-secret-key" not in (tmp_path / "t.db").read_bytes()


def test_the_report_of_the_run_holds_no_element_of_it(
    hostile_run: tuple[Path, Said], tmp_path: Path
) -> None:
    db, _ = hostile_run
    assert command("report", "--db", db, "--out", tmp_path / "r.html").code == 0
    made = (tmp_path / "r.html").read_text()
    page = Page(made)
    assert {"img", "a", "iframe", "object", "embed", "base", "link"} & set(page.tags) <= {"a"}
    assert [link for link in page.links if not link.startswith(("#", "https://arxiv.org/"))] == []
    assert page.handlers == []
    assert "window.hacked=1" in made  # as a text
    for text in SCRIPTS[:4]:
        assert text not in made


def test_what_is_exported_comes_back_exactly(
    hostile_run: tuple[Path, Said], tmp_path: Path
) -> None:
    db, _ = hostile_run
    with closing(sqlite3.connect(db)) as file:
        file.row_factory = sqlite3.Row
        order = "ORDER BY problem_id, position"
        stored = [dict(row) for row in file.execute(f"SELECT * FROM attempt {order}")]
    said = {storable(text) for text in (*TEXTS, HALF)}
    assert {row["text"] for row in stored} == said
    for kind in ("jsonl", "parquet", "csv"):
        out = tmp_path / f"a.{kind}"
        assert command("export", "attempt", "--db", db, "--out", out).code == 0
    lines = (tmp_path / "a.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == stored
    assert pq.read_table(tmp_path / "a.parquet").to_pylist() == stored
    content = (tmp_path / "a.csv").read_bytes().decode()
    cells = list(csv.DictReader(io.StringIO(content, newline="")))
    for row, cell in zip(stored, cells, strict=True):
        for name in ("text", "answer", "explanation", "model", "task", "key"):
            value = row[name] or ""
            assert cell[name] in (value, f"'{value}")
            assert not cell[name].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert {cell["text"] for cell in cells} >= {f"'{text}" for text in FORMULAS}


def test_sql_in_a_text_is_a_text(hostile_run: tuple[Path, Said]) -> None:
    db, _ = hostile_run
    with TraceStore(db, read_only=True) as store:
        for place, text in enumerate(TEXTS):
            if text in SQL:
                assert store.run_problem(store.run()["id"], f"{text}{place}") is not None
        assert len(store.rows("SELECT 1 FROM problems")) == len(TEXTS)


# A store that somebody else made ------------------------------------------------------------------

KEYS = ("id", "run_id", "problem_id", "decision_id", "best_rollout", "_sqlite_migrations")
WORDS = ("kind", "value", "stop_reason", "outcome", "operator", "finish_reason", "store_text")
TIMES = ("started_at", "finished_at", "created_at")
JSON = ("answer", "details", "candidates", "once", "pieces", "settings")
NESTED = "[" * 20_000


def stored_by_somebody(path: Path) -> Path:
    """A sound store of a run with failures, rescues and measured samples."""
    with TraceStore(path) as store:
        run = StoredRun(store)
        for i in range(6):
            run.problem(
                tried=[("retry", "failed", 10), ("dense_steer", "rescued", 20)],
                key=f"p{i}",
                features=(0.1 * i, 1.0, -1.0),
            )
        signals = pack(np.zeros((6, 3), np.float32))
        store.write(
            token_arrays=[
                {"id": f"run1-{i:05d}/{n}", "length": 3, "signals": signals}
                for i in range(6)
                for n in range(4)
            ]
        )
    return path


def spoil(path: Path, columns: tuple[str, ...], value: Any) -> None:
    """Put a value into each of the columns, wherever a table has one."""
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("PRAGMA foreign_keys = OFF")
        tables = file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for _, name, kind, *_ in file.execute(f'PRAGMA table_info("{table}")').fetchall():
                texts = kind == "TEXT" and table not in ("settings", "_sqlite_migrations")
                numbers = kind in ("INTEGER", "REAL", "FLOAT") and table != "_sqlite_migrations"
                if (texts if isinstance(value, str) else numbers) and name in columns:
                    file.execute(f'UPDATE "{table}" SET "{name}" = ?', (value,))


FREE = ("model", "verifier", "policy", "policy_hash", "package_version", "task", "key", "prompt")
FREE += ("answer", "text", "explanation", "reason", "regime", "purpose", "details")
COUNTS = ("position", "tokens", "attempts", "prompt_tokens", "step", "planned", "junction", "seed")
COUNTS += ("probability", "expected_rescue", "spread", "seconds", "temperature", "solved")
SPOILT: dict[str, tuple[tuple[str, ...], Any]] = {
    "texts": (FREE, "".join(ESCAPES) + "".join(SCRIPTS) + "".join(SQL)),
    "words": (WORDS, ESCAPES[0] + ESCAPES[2] + SCRIPTS[1]),
    "times": (TIMES, "\x1b[2J\x9b31;5;77m9999"),
    "JSON that is none": (JSON, "{\x1b[2J"),
    "JSON without end": (JSON, NESTED),
    "answers that are no JSON": (("answer",), "{\x1b[2J"),
    "JSON of another kind": (JSON, '{"operator": ["\\u001b[2J"], "position": 1e999}'),
    "large numbers": (COUNTS, 2**62),
    "numbers below": (COUNTS, -(2**62)),
    "no end of numbers": (("probability", "expected_rescue", "spread", "seconds"), float("inf")),
}


@pytest.mark.parametrize("what", some_slow(SPOILT, "texts", "words", "times", "JSON without end"))
def test_a_store_with_anything_in_it_is_shown_or_refused_in_a_line(
    tmp_path: Path, what: str
) -> None:
    db = stored_by_somebody(tmp_path / "t.db")
    spoil(db, *SPOILT[what])
    before = db.read_bytes()
    for name, arguments in surfaces(db, tmp_path, "p1").items():
        said = command(*arguments, terminal=True)
        assert_harmless(said, terminal=True)
        assert said.code in (0, 2) or (arguments[0] == "doctor" and said.code == 1), (name, said)
        assert "Traceback" not in said.err
    assert db.read_bytes() == before


def test_ids_are_texts_of_others_as_well(tmp_path: Path) -> None:
    db = stored_by_somebody(tmp_path / "t.db")
    odd = "r\x1b[2J\x9b31;5;77m<script>"
    with closing(sqlite3.connect(db)) as file, file:
        file.execute("UPDATE runs SET id = ?", (odd,))
        file.execute("UPDATE problems SET run_id = ?", (odd,))
    for arguments in surfaces(db, tmp_path, "p1").values():
        for terminal in (False, True):
            if arguments[0] != "export" or terminal:
                assert_harmless(command(*arguments, terminal=terminal), terminal=terminal)
    assert odd not in (tmp_path / "report.html").read_text()


# Nothing is executed ------------------------------------------------------------------------------

# Names that run something, and what is allowed to use them, with the reason.
MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "yaml",
    "runpy",
    "ctypes",
    "code",
    "pty",
}
MODULES |= {"code", "subprocess", "importlib", "multiprocessing", "cloudpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
OF_OS = {"system", "popen", "startfile"}
ALLOWED = {
    ("__init__.py", "importlib"): "names of our own, from a fixed table",
    ("verifiers/names.py", "importlib"): "python:MODULE:FUNCTION, which the user types",
    ("verifiers/programs.py", "subprocess"): "the limited process of python_test",
    ("verifiers/programs.py", "compile"): "whether tests are Python; what it makes is not run",
    ("verifiers/run_tests.py", "compile"): "in the limited process",
    ("verifiers/run_tests.py", "exec"): "in the limited process",
}


def runs_something(tree: ast.AST) -> Iterator[str]:
    """The names in a module that run, load or import what is not written there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").split(".")[0]} & MODULES
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
        elif isinstance(node, ast.Attribute):
            of_os = isinstance(node.value, ast.Name) and node.value.id == "os"
            if of_os and (node.attr in OF_OS or node.attr.startswith(("exec", "spawn", "posix_s"))):
                yield f"os.{node.attr}"
        elif isinstance(node, ast.keyword):
            value = isinstance(node.value, ast.Constant) and node.value.value
            if node.arg == "shell" or (node.arg in ("allow_pickle", "weights_only") and value):
                yield str(node.arg)
        loads = isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load")
        if loads and "allow_pickle=False" not in ast.unparse(node):
            yield "np.load"


def test_nothing_is_run_but_what_is_known_to_be() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for name in runs_something(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set(ALLOWED)
    planted = "import pickle\neval(x)\nos.system(x)\nf(x, shell=True)\nnp.load(x)\nos.execv(x, y)"
    names = {"pickle", "eval", "os.system", "shell", "np.load", "os.execv"}
    assert set(runs_something(ast.parse(planted))) == names


EVIL = "python:evil:judge"


def test_no_store_or_policy_chooses_what_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(note)!r}, 'w')\njudge = bool\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    db = stored_by_somebody(tmp_path / "t.db")
    settings = {"verifier": EVIL, "model": EVIL, "interventions": [EVIL], "escalate": EVIL}
    spoil(db, ("verifier", "model", "operator", "policy", "purpose", "task"), EVIL)
    spoil(db, ("settings", "details", "once"), json.dumps(settings))
    for arguments in surfaces(db, tmp_path, "p1").values():
        command(*arguments)
    (tmp_path / "p.jsonl").write_text('{"prompt": "37+48*2?", "answer": 133}\n')
    resumed = ("run", "p.jsonl", "--verifier", "numeric", "--db", db, "--resume")
    assert command(*resumed).code == 0
    assert command("merge", db, "--db", "m.db").code == 0
    policy = default_policy()
    named = policy.model_copy(update={"name": EVIL, "rule": dict.fromkeys(policy.rule, EVIL)})
    named.save("evil.json")
    for arguments in (("policy", "show", "evil.json"), ("policy", "diff", "shipped", "evil.json")):
        assert command(*arguments).code == 0
    command("run", "p.jsonl", "--verifier", "numeric", "--db", "n.db", "--policy", "evil.json")
    assert not note.exists()
    assert "evil" not in sys.modules
    command("run", "p.jsonl", "--verifier", EVIL, "--db", "o.db")  # which the user typed
    assert note.exists()


# SQL ----------------------------------------------------------------------------------------------

STATEMENT = re.compile(
    r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|DROP|ALTER TABLE|PRAGMA|FROM|WHERE|ORDER BY|"
    r"JOIN|VALUES|BETWEEN|SET)\b"
)
MARKS = ("', '.join('?' * len(ids))", "marks")  # as many question marks as there are values
# What else becomes part of a statement, by module: where it comes from.
COUNTED = (
    "', '.join((f'(SELECT coalesce(max(rowid), 0) FROM {table}) AS {table}' for table in TABLES))"
)
PARTS: dict[str, tuple[str, ...]] = {
    # of a fixed mapping of views: `view` is refused where it is not among its keys
    "exporting.py": ("names", "view", "where", "ORDER[view]"),
    "merging.py": ("table", "own.format(marks)"),  # BELONGING, a constant
    "store/belonging.py": ("table", "whose"),  # constants beside it
    "store/checkup.py": ("sql",),  # RULES, a constant
    "store/following.py": ("table", "of", COUNTED),  # of constants, put together at import
    "store/guard.py": ("pragma",),  # three constants
    "store/postgres.py": ("'on' if self.read_only else 'off'",),
    # of the schema that migrations make in memory
    "store/postgres_schema.py": ("name", "table", "columns", "column", "index", "over", "rowid",
                                 "number", "translated(body)", "', '.join(columns.values())"),
    # TABLES and ORPHANS, constants; columns are those that our own schema has as well
    "store/salvage.py": ("names", "table", "of_problem"),
    # `upsert_sql`: each name is checked to be one
    "store/sqlite.py": ("table", "names", "values", "do", "changed"),
    "store/traces.py": ("table", "own.format(marks)"),  # STORED and BELONGING, constants
    "store/views.py": ("name",),  # VIEWS, a constant
}  # fmt: skip


def put_into_statements(tree: ast.AST) -> Iterator[str]:
    """What is put into texts that read like SQL, but for constants in capitals."""
    for node in ast.walk(tree):
        parts: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr):
            parts = [one.value for one in node.values if isinstance(one, ast.FormattedValue)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            sides = (node.left, node.right)
            parts = [one for one in sides if not isinstance(one, ast.Constant | ast.JoinedStr)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "format" and _reads_like_sql(node.func.value):
                parts = [*node.args, *(one.value for one in node.keywords)]
                yield from (ast.unparse(one) for one in parts if not _constant(one))
            continue
        if parts and _reads_like_sql(node):
            yield from (ast.unparse(one) for one in parts if not _constant(one))


def _reads_like_sql(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):  # a statement of which parts are still missing
        return node.id.isupper() or node.id in ("sql", "own")
    constants = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return STATEMENT.search("".join(map(str, constants))) is not None


def _constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):  # of constants alone, as `_of_run("calls", "problem_id")`
        values = [*node.args, *(one.value for one in node.keywords)]
        return bool(values) and all(isinstance(one, ast.Constant) for one in values)
    if isinstance(node, ast.Constant):
        return True
    return isinstance(node, ast.Name) and node.id.isupper()


def test_what_becomes_part_of_a_statement_is_known() -> None:
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = set(put_into_statements(tree)) - set(MARKS)
        if parts:
            found[path.relative_to(PACKAGE).as_posix()] = parts
    assert found == {name: set(parts) for name, parts in PARTS.items()}
    planted = 'f"SELECT {a} FROM t"\n"DELETE FROM t WHERE " + b\n"SELECT %s" % c\nSQL.format(d)'
    assert set(put_into_statements(ast.parse(planted))) == {"a", "b", "c", "d"}


ODD = (
    'runs" (id) VALUES (1); --',
    'id") SELECT 1, 2 --',
    "",
    "a b",
    "problems\x00",
    "ｉd",
    "1",
    "x;y",
)


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_is_none_is_no_part_of_a_statement(store: TraceStore, name: str) -> None:
    rows = {"id": "salt", "value": "x"}
    for tables in ({name: [rows]}, {"settings": [{**rows, name: "y"}]}):
        with pytest.raises(StoreError, match="is no name of a table or a column"):
            store.write(**tables)
        with pytest.raises(StoreError, match="is no name of a table or a column"):
            store.replace_problems(["p"], **tables)
    for view in (name, "runs", "sqlite_master"):
        with pytest.raises(InvalidInputError, match="must be one of problem, attempt, decision"):
            export(store, io.BytesIO(), view)
    assert store.rows("SELECT count(*) FROM settings") == [(1,)]


@pytest.mark.parametrize("name", ["schema-x", 'a"b', "a'; DROP SCHEMA recov_graph; --", "-c x=y"])
def test_odd_names_in_an_address_are_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
    monkeypatch.setattr("recov_graph.store.postgres.PATIENCE", 0.1)
    with pytest.raises(StoreError) as error:
        TraceStore(f"postgresql://user:hidden@127.0.0.1:1/{quote(name)}?connect_timeout=1")
    assert "hidden" not in str(error.value)
    assert "cannot be reached" in str(error.value) or "refused" in str(error.value)


# Shards and stores that were made to do something -------------------------------------------------

SAID_NO = "is no table as recov-graph makes it"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
REWRITTEN = (
    "PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = replace(sql, '{0}', '{1}') "
    "WHERE name = '{2}'; PRAGMA writable_schema = RESET"
)
# What was done to a sound store, and what is said of it where it is refused.
CHANGED: dict[str, tuple[str, str | None]] = {
    "a trigger that writes": (
        "CREATE TRIGGER t AFTER INSERT ON problems BEGIN DELETE FROM runs; END",
        None,
    ),
    "a trigger that stops": (
        "CREATE TRIGGER t BEFORE INSERT ON settings BEGIN SELECT RAISE(ABORT, 'no'); END",
        None,
    ),
    "a view and a table of somebody's": (
        "CREATE VIEW mine AS SELECT * FROM problems; CREATE TABLE other (x DEFAULT (random()))",
        None,
    ),
    "a view that is none of ours in the place of a table": (
        "PRAGMA foreign_keys = OFF; DROP TABLE retries; "
        f"CREATE VIEW retries AS {ENDLESS} i AS id, 1 AS rescued, 1 AS attempts, i AS tokens "
        "FROM n",
        SAID_NO,
    ),
    "another view in the place of ours": (
        f"DROP VIEW problem; CREATE VIEW problem AS {ENDLESS} i AS problem_id FROM n",
        "is not the view that recov-graph makes",
    ),
    "a virtual table in the place of a table": (
        "PRAGMA foreign_keys = OFF; DROP TABLE retries; "
        "CREATE VIRTUAL TABLE retries USING fts5(id, rescued, attempts, tokens)",
        SAID_NO,
    ),
    "a column that is computed": (
        "ALTER TABLE runs ADD COLUMN more TEXT GENERATED ALWAYS AS (hex(zeroblob(1000))) VIRTUAL",
        SAID_NO,
    ),
    "a table that takes any type": (REWRITTEN.format("STRICT", "", "retries"), SAID_NO),
    "an unknown column": ("ALTER TABLE problems ADD COLUMN more TEXT", "has no column named more"),
    "a column of another collation": (
        REWRITTEN.format('"key" TEXT', '"key" TEXT COLLATE evil', "problems"),
        None,  # which nothing of ours asks for
    ),
    "an extension": ("CREATE VIEW mine AS SELECT load_extension('/tmp/evil.so')", None),
    "an older schema": (
        "DELETE FROM _sqlite_migrations WHERE name > 'm005'; "
        "CREATE TRIGGER t AFTER UPDATE ON runs BEGIN DELETE FROM problems; END",
        None,
    ),
}


def changed_by_somebody(path: Path, sql: str) -> Path:
    stored_by_somebody(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.executescript(sql)
        file.execute("PRAGMA journal_mode = DELETE")
    return path


@pytest.mark.parametrize("how", ["merged", pytest.param("shown", marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", CHANGED)
def test_sql_that_a_shard_brings_along_does_nothing_outside_of_it(
    tmp_path: Path, what: str, how: str
) -> None:
    sql, refused = CHANGED[what]
    shard = changed_by_somebody(tmp_path / "s.db", sql)
    out = tmp_path / "out"
    out.mkdir()
    before = shard.read_bytes()
    merged = command("merge", shard, "--db", out / "main.db")
    assert_harmless(merged)
    if what == "an older schema":  # the steps that it says to lack are there, so one fails
        assert merged.code == 2
    elif refused is None:
        assert (merged.code, len(problems_of(out / "main.db"))) == (0, 6)
        kinds = "SELECT DISTINCT type FROM sqlite_master WHERE type = 'trigger'"
        with closing(sqlite3.connect(out / "main.db")) as file:
            assert file.execute(kinds).fetchall() == []
    else:
        assert merged.code == 2
        assert refused in merged.err
    for arguments in (("doctor", "--db", shard), ("merge", shard, "--db", out / "main.db")):
        assert_harmless(command(*arguments))
    assert shard.read_bytes() == before
    shown = (
        ("show", "--db", shard),
        ("export", "--db", shard),
        ("report", "--db", shard, "--out", out / "r.html"),
        ("refit", "--db", shard, "--policies", out / "policies"),
    )
    for arguments in shown if how == "shown" else ():
        said = command(*arguments)
        assert said.code in (0, 2), said
    allowed = {"s.db", "s.db-wal", "s.db-shm", "out"}
    assert {path.name for path in tmp_path.iterdir()} <= allowed
    allowed = {"main.db", "main.db-wal", "main.db-shm", "r.html", "policies"}
    assert {path.name for path in out.iterdir()} <= allowed


def problems_of(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as file:
        return file.execute("SELECT id FROM problems").fetchall()


def test_the_doctor_tells_of_triggers(tmp_path: Path) -> None:
    shard = changed_by_somebody(tmp_path / "s.db", CHANGED["a trigger that writes"][0])
    said = command("doctor", "--db", shard)
    assert said.code == 0
    assert "it has triggers of somebody's own: t" in said.out


def test_no_file_makes_our_connection_trust_it(tmp_path: Path) -> None:
    db = stored_by_somebody(tmp_path / "t.db")
    with TraceStore(db) as store, store.stream("PRAGMA trusted_schema") as rows:
        assert list(rows) == [(0,)]
        for pragma, value in {"trusted_schema": 0, "cell_size_check": 1, "mmap_size": 0}.items():
            assert store.rows(f"PRAGMA {pragma}") == [(value,)]
        with pytest.raises(StoreError, match="not authorized"):
            store.rows("SELECT load_extension('x.so')")
        with pytest.raises(StoreError, match="too big"):
            store.rows("SELECT length(zeroblob(600000000))")


def npy(descr: str, shape: str, data: bytes = b"") -> bytes:
    """An array's bytes as its header says them, whether or not they are there."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


BOMBS = {
    "nothing": zlib.compress(b""),
    "no compression": b"\x00" * 100,
    "cut short": pack(np.zeros((3, 3)))[:-9],
    "a shape beyond memory": zlib.compress(npy("'<f4'", "(6, 1000000000000)")),
    "a shape below nothing": zlib.compress(npy("'<f4'", "(-1, 4)", b"\0" * 16)),
    "a shape whose product is small again": zlib.compress(npy("'<f4'", "(2**40,)")),
    "objects": zlib.compress(npy("'|O'", "(1,)", b"cos\nsystem\n(S'touch ran'\ntR.")),
    "texts": zlib.compress(npy("'<U4'", "(1,)", b"\0" * 16)),
    "fields": zlib.compress(npy("[('a', '<f4')]", "(1,)", b"\0" * 4)),
    "code": zlib.compress(npy("__import__('os').system('touch ran')", "(1,)")),
    "another format": zlib.compress(b"\x93NUMPY\x02\x00" + b"\0" * 100),
    "too many": zlib.compress(npy("'<f4'", "(0,)") * 1000),
    "a bomb": zlib.compress(bytes(64 << 20)),
}


@pytest.mark.parametrize("what", BOMBS)
def test_bytes_unpack_to_numbers_of_sane_size_or_not_at_all(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blobs, "MOST_BYTES", 32 << 20)  # as with 512 MB, but quicker
    tracemalloc.start()
    try:
        for unpacked in (blobs.unpack, blobs.unpack_topk):
            with pytest.raises(StoreError, match="token array is damaged"):
                unpacked(BOMBS[what])
        assert tracemalloc.get_traced_memory()[1] < 3 * blobs.MOST_BYTES
    finally:
        tracemalloc.stop()
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_to_be_unpacked_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "MOST_BYTES", 1000)
    assert len(blobs.unpack(pack(np.zeros(100, np.float32)))) == 1
    with pytest.raises(StoreError, match="too large"):
        pack(np.zeros(1000))


@pytest.mark.parametrize("what", ["a bomb", "a shape beyond memory", "objects", "other shapes"])
def test_a_store_with_a_bomb_in_it_is_told_of_in_a_line(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blobs, "MOST_BYTES", 32 << 20)
    blob = BOMBS.get(what) or pack(np.zeros((6, 3), np.float32))
    db = stored_by_somebody(tmp_path / "t.db")
    with TraceStore(db) as store:
        row = {"length": 9, "signals": blob, "taken": blob, "specialist": blob, "ancestor": blob}
        store.write(token_arrays=[{"id": "run1-00001/0", **row}])
        with pytest.raises(StoreError, match="token array is damaged"):
            store.read_trace("run1-00001/0")
    for arguments in (
        ("show", "--problem", "p1", "--db", db),
        ("report", "--db", db, "--out", "r.html"),
        ("doctor", "--db", db),
        ("merge", db, "--db", "m.db"),
    ):
        said = command(*arguments)
        assert_harmless(said)
        assert "Traceback" not in said.err
        if arguments[0] == "doctor" and what != "other shapes":
            assert said.code == 1
            assert "1 token array looked into" in said.out or "are damaged" in said.out
    assert not (tmp_path / "ran").exists()


# Policies -----------------------------------------------------------------------------------------


def written(folder: Path, **changes: Any) -> Path:
    """A policy with changes, and the right hash over them: whoever can write it can hash it."""
    data = json.loads(json.dumps(default_policy().model_dump(mode="json", exclude_none=True)))
    for place, value in changes.items():
        part, (*path, last) = data, place.split("__")
        for name in path:
            part = part[name] if isinstance(part, dict) else part[int(name)]
        part[last] = value
    text = json.dumps(data, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / "policy.json"
    path.write_text(json.dumps({**data, "content_hash": digest}))
    return path


HUGE = 10**400
HOSTILE_POLICIES: dict[str, dict[str, Any]] = {
    "a huge count": {"population__spread__count": HUGE},
    "a huge number of samples": {"failed_samples": HUGE},
    "a huge number of failures": {"posterior__failures": {"m|t": HUGE}},
    "a huge sample": {"posterior__covariates__sampled": {"m|t": HUGE}},
    "a huge rate": {"rescue__retry__alpha": 1.7e308, "rescue__retry__beta": 1.7e308},
    "a huge weight": {"posterior__weights": [1.7e308] * len(default_policy().posterior.weights)},
    "a huge spread": {"posterior__covariates__spread": 1e308},
    "a width of almost nothing": {"posterior__bandwidth": 5e-324},
    "a width beyond all": {"posterior__bandwidth": 1e308},
    "huge pseudo-failures": {"shrinkage": 1.7e308},
    "another type": {"rule": ["spread"]},
    "a name of a path": {"name": "../../../../etc/passwd"},
    "a name of escapes": {"name": "".join(ESCAPES), "source": "".join(ESCAPES + SCRIPTS)},
    "a name of scripts": {"name": "".join(SCRIPTS), "created": "".join(ESCAPES)},
    "operators of paths": {"rule": {"spread": "../../x", "concentration": EVIL}},
    "a feature of escapes": {"population": {"\x1b[2J": {"mean": 0, "sd": 0, "count": 0}}},
    "a cell of escapes": {
        "cells": {"\x1b[2J|\x9b31m": default_policy().model_dump()["population"]}
    },
}


@pytest.mark.parametrize(
    "what", [what for what in HOSTILE_POLICIES if what.startswith(("a huge", "huge"))]
)
def test_a_number_that_overflows_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(PolicyError, match=r"at most|less than|1e12|exceed"):
        load_policy(written(tmp_path, **HOSTILE_POLICIES[what]))


@pytest.mark.parametrize("how", ["shown", pytest.param("run", marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", HOSTILE_POLICIES)
def test_a_policy_is_used_as_data_or_refused_in_a_line(tmp_path: Path, what: str, how: str) -> None:
    path = written(tmp_path, **HOSTILE_POLICIES[what])
    shelf = tmp_path / "deep" / "shelf"
    for arguments in (
        ("policy", "show", path),
        ("policy", "diff", "shipped", path),
        ("policy", "activate", path, "--policies", shelf),
        ("policy", "list", "--policies", shelf),
        ("policy", "show", "active", "--policies", shelf),
        ("policy", "verify", "--policies", shelf),
    ):
        said = command(*arguments, terminal=True)
        assert_harmless(said, terminal=True)
        assert "Traceback" not in said.err, said.err
    if how == "run":
        (tmp_path / "p.jsonl").write_text('{"prompt": "64%9?", "answer": 99}\n')
        ran = command(
            *("run", tmp_path / "p.jsonl", "--verifier", "numeric", "--policy", path),
            *("--db", tmp_path / "t.db", "--no-baseline", "--max-attempts", "6"),
        )
        assert_harmless(ran)
        assert ran.code in (0, 2)
        assert "Traceback" not in ran.err
    names = {one.relative_to(tmp_path).parts[0] for one in tmp_path.rglob("*")}
    assert names <= {"policy.json", "deep", "p.jsonl", "t.db", "t.db-wal", "t.db-shm"}
    saved = {one.name for one in shelf.iterdir()} if shelf.exists() else set()
    assert all(re.fullmatch(r"[0-9a-f]{16}\.json|history\.jsonl", name) for name in saved)


def test_what_is_no_file_of_a_policy_is_refused_at_once(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"password": "hunter2", "rescue": "hunter2"}')
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, target in {
        "aaaaaaaaaaaaaaaa": Path("/dev/zero"),
        "bbbbbbbbbbbbbbbb": tmp_path / "pipe",
        "cccccccccccccccc": secret,
        "dddddddddddddddd": shelf / "dddddddddddddddd.json",
        "eeeeeeeeeeeeeeee": tmp_path / "nowhere",
    }.items():
        (shelf / f"{name}.json").symlink_to(target)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(65 << 20)
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 1_000_000)
    said = command("policy", "list", "--policies", shelf)
    assert said.code == 0
    assert "hunter2" not in said.out
    assert said.out.count("it is no file") == 2
    for path, why in ((large, "more than 64 MB"), (deep, "not JSON"), ("/dev/zero", "no file")):
        refused = command("policy", "show", path)
        assert refused.code == 2
        assert why in refused.err
    (shelf / "history.jsonl").write_text(
        json.dumps({"time": "t", "policy": "../../secret", "action": "activate", "why": ""}) + "\n"
    )
    for arguments in (("policy", "show"), ("policy", "rollback")):
        refused = command(*arguments, "--policies", shelf)
        assert refused.code == 2
        assert "neither an activation nor a rollback" in refused.err
        assert "hunter2" not in refused.err


# Nothing that failed is asked with ----------------------------------------------------------------

MARK = "the failed text 7f3a"
PROMPT = "What is six times seven?"
# Which go on from the beginning of a failed completion, where the model can do that.
GOES_ON = {"sparse_steer", "sparse_steer_random", "local_temp", "extend"}


def marking(problem: Problem, text: str) -> Verdict:
    """Nothing passes, and the reason says what nobody may ask with."""
    return Verdict("failed", answer=f"{MARK} {text}", explanation=f"{MARK}: because of {text}")


TEXTS_ONLY = frozenset({Capability.SAMPLE, Capability.TEMPERATURE, Capability.INSTRUCT})
TRIED = [("everything", name) for name in (*registered(), "escalate")]
TRIED += [("texts", name) for name, one in registered().items() if one.needs <= TEXTS_ONLY]


@pytest.mark.parametrize(("can", "name"), TRIED)
def test_no_prompt_holds_what_failed_whatever_is_tried(scripted: Any, name: str, can: str) -> None:
    other = scripted(last=MARK)
    one: Any = Escalate(other) if name == "escalate" else name
    how = {} if can == "everything" else {"capabilities": TEXTS_ONLY}
    model = scripted(last=MARK, **how)
    graph = create_recovery_graph(
        model,
        marking,
        interventions=[one],
        samples=2,
        max_new_tokens=len(MARK) - 3,  # cut, so that `extend` has something to do
        budget=Budget(max_attempts=5),
        router=default_policy().model_copy(update={"stop_below": 0.0}),
        seed=0,
    )
    result = graph.invoke({"problem": {"prompt": PROMPT, "answer": "42", "id": MARK}})
    assert {attempt["operator"] for attempt in result["attempts"]} == {"sample", name}
    prefixes = set()
    for call in (*model.calls, *other.calls):
        asked = call.arguments["prompt"]
        assert asked in (PROMPT, f"{PROMPT}\n\n{INSTRUCTION}")
        begun = "".join(map(chr, call.arguments.get("prefix", ())))
        if begun:
            prefixes.add(begun)
            # All but the last token, which steering chooses, is how a failed text begins.
            assert MARK.startswith(begun[:-1])
    assert bool(prefixes) == (name in GOES_ON and can == "everything")


class Noting(BaseChatModel):
    """A chat model that notes all that it is asked, and fails."""

    replies: list[Any]
    asked: list[Any]
    temperature: float | None = None
    max_tokens: int | None = None

    @property
    def _llm_type(self) -> str:
        return "noting"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(one) for one in tools])

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        self.asked.append(list(messages))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        reply = reply.model_copy(update={"id": uuid4().hex})
        reply.response_metadata = {"finish_reason": "length"}
        return ChatResult(generations=[ChatGeneration(message=reply)])


def noting(*replies: Any) -> Noting:
    return Noting(replies=[*replies, AIMessage(MARK)], asked=[], temperature=0.5, max_tokens=50)


CHATTING = ("retry", "temp_lift", "replan", "extend", "escalate")


@pytest.mark.parametrize("name", CHATTING)
@pytest.mark.parametrize("way", ["graph", "messages", "wrapped", "chain"])
def test_no_message_holds_what_failed(way: str, name: str) -> None:
    chat, other = noting(), noting()
    one: Any = Escalate(other) if name == "escalate" else name
    how: dict[str, Any] = {"interventions": [one], "budget": Budget(5), "seed": 0}
    how["router"] = default_policy().model_copy(update={"stop_below": 0.0})
    if way in ("graph", "messages"):
        graph = create_recovery_graph(chat, marking, samples=2, **how)
        asked: Any = {"problem": {"prompt": PROMPT, "id": MARK, "metadata": {"note": MARK}}}
        if way == "messages":
            asked = {"messages": [HumanMessage(PROMPT)]}
        tried = {attempt["operator"] for attempt in graph.invoke(asked)["attempts"]}
    else:
        inner: Any = chat if way == "wrapped" else ChatPromptTemplate.from_template("{q}") | chat
        recovered = with_recovery(inner, marking, **how).recover(
            PROMPT if way == "wrapped" else {"q": PROMPT}
        )
        tried = {attempt["operator"] for attempt in recovered.result["attempts"]}
    assert name in tried
    calls = [*chat.asked, *other.asked]
    assert len(calls) == 5
    for messages in calls:
        assert [type(message) for message in messages][:1] == [HumanMessage]
        said = "".join(str(message) for message in messages)
        assert MARK not in said
        assert PROMPT in said


@pytest.mark.parametrize("name", [*CHATTING, "restart"])
def test_an_agent_is_not_shown_the_answer_that_failed(name: str) -> None:
    call = {"name": "look", "args": {}, "id": "c1", "type": "tool_call"}
    chat, other = noting(AIMessage("", tool_calls=[call])), noting()
    if name == "restart":
        chat = noting(AIMessage("", tool_calls=[call]), AIMessage(MARK), AIMessage(MARK))
    one: Any = {"escalate": Escalate(other), "restart": Restart()}.get(name, name)
    policy = default_policy().model_copy(update={"stop_below": 0.0})
    middleware = RecoveryMiddleware(
        marking, interventions=[one], budget=Budget(4), router=policy, seed=0
    )
    found = tool("look", description="Looks.")(lambda: "found")
    agent = create_agent(chat, tools=[found], middleware=[middleware])
    out = agent.invoke({"messages": [("user", PROMPT)]})
    assert name in {attempt["operator"] for attempt in out["recovery"]["attempts"]}
    calls = [*chat.asked, *other.asked]
    assert len(calls) >= 4
    for messages in calls:
        assert MARK not in "".join(str(message) for message in messages)
    assert out["messages"][-1].text == MARK  # the best there was


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["vllm", "chat_vllm", "echo"])
def test_over_http_failed_text_is_scored_and_gone_on_with_and_nothing_else(dialect: Any) -> None:
    """Whatever leaves the machine for a pair: prompts, completions to score, beginnings of them."""
    failed: list[str] = []

    def fails(problem: Problem, text: str) -> Verdict:
        failed.append(text)
        return Verdict("failed", explanation=MARK)

    tried = ["sparse_steer", "sparse_steer_random", "local_temp", "extend", "retry", "dense_steer"]
    with (
        OpenAIServer(dialect=dialect, model="s") as server,
        OpenAIServer(role="ancestor", dialect=dialect, model="a") as ancestor,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("OPENAI_API_KEY", "sk-test")
        model = OpenAIModel(
            "openai:s",
            base_url=server.base_url,
            ancestor="openai:a",
            ancestor_base_url=ancestor.base_url,
        )
        pair = EmbeddedPair()
        able = [n for n in tried if registered()[n].needs <= model.capabilities]
        before = len(server.requests)
        for name in able:
            graph = create_recovery_graph(
                model, fails, interventions=[name], samples=2, budget=Budget(4), seed=0,
                router=default_policy().model_copy(update={"stop_below": 0.0}), max_new_tokens=24,
            )  # fmt: skip
            graph.invoke({"problem": {"prompt": "37+48*2?"}})
        went_on = 0
        for request in server.requests[before:]:
            body = request.body or {}
            if "messages" in body:
                user, *more = body["messages"]
                assert user == {"role": "user", "content": "37+48*2?"}
                assert all(one["role"] == "assistant" for one in more)
                assert not more or body["continue_final_message"] is True
                went_on += bool(more)
            elif "prompt" in body:
                for prompt in _prompts_of(body["prompt"]):
                    text = prompt if isinstance(prompt, str) else pair.decode(prompt)
                    assert text.startswith("37+48*2?")
                    went_on += len(text) > len("37+48*2?")
            assert MARK not in json.dumps(body)
        assert went_on
        assert failed


def _prompts_of(prompt: Any) -> list[Any]:
    """One prompt or several, as text or as token ids."""
    several = isinstance(prompt, list) and not all(isinstance(one, int) for one in prompt)
    return prompt if several else [prompt]


# Texts that were not to be kept -------------------------------------------------------------------

# One for each place that a text comes from, with a letter that JSON may spell otherwise.
PLACES = ("prompt", "answer", "id", "output", "explanation", "metadata", "toolresult", "filename")
CANARIES = {place: f"canary{place}7f3aŻq" for place in PLACES}
KEPT_TASK = "the-task-that-is-kept"


def spellings(canary: str) -> dict[str, bytes]:
    """How a text may be written in a file."""
    raw = canary.encode()
    ids = [ord(c) for c in canary]
    # All but the ends, which depend on what stands beside it.
    based = {
        f"base64, {skip} before": base64.b64encode(b"x" * skip + raw)[4:-4] for skip in range(3)
    }
    return {
        "UTF-8": raw,
        "UTF-16LE": canary.encode("utf-16-le"),
        "UTF-16BE": canary.encode("utf-16-be"),
        "JSON": json.dumps(canary)[1:-1].encode(),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "percent": quote(canary).encode(),
        "reversed": canary[::-1].encode(),
        "token ids": np.array(ids, np.int32).tobytes(),
        "long token ids": np.array(ids, np.int64).tobytes(),
        "a list of token ids": json.dumps(ids)[1:-1].encode(),
        "the id made of it": hashlib.sha256(raw).hexdigest()[:16].encode(),
        "its hash": hashlib.sha256(raw).hexdigest().encode(),
        **based,
    }


def haystack(path: Path) -> Iterator[bytes]:
    """All bytes of a file, and what its blobs unpack to."""
    yield path.read_bytes()
    if path.suffix == ".db":
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            tables = file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for row in file.execute(f'SELECT * FROM "{table}"'):
                    for value in row:
                        if isinstance(value, bytes):
                            yield zlib.decompress(value)
    elif path.suffix == ".parquet":
        yield str(pq.read_table(path).to_pylist()).encode()


def found_in(folder: Path, *but: str) -> set[tuple[str, str, str]]:
    """(file, place, spelling) of each canary that is in a file of a folder."""
    return {
        (path.name, place, spelling)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
        for hay in haystack(path)
        for place, canary in CANARIES.items()
        for spelling, needle in spellings(canary).items()
        if needle in hay
    }


def verdict_of_canaries(problem: Problem, text: str) -> Verdict:
    return Verdict("failed", answer=CANARIES["output"], explanation=CANARIES["explanation"])


SAYS = """
from recov_graph.verifiers import Verdict, python_test

def judge(problem, text):
    if "raise" in problem.prompt:
        raise ValueError({explanation!r})
    return Verdict("failed", answer=text, explanation={explanation!r})
"""


def everything_made(folder: Path, db: Path) -> None:
    """Whatever a store is shown, copied or fitted to, in files."""
    for name in ("jsonl", "csv", "parquet"):
        for view in ("problem", "attempt", "decision"):
            said = command("export", view, "--db", db, "--out", folder / f"{view}.{name}")
            assert said.code == 0, said
    outputs = {
        "run": ("show", "--db", db, "--plain"),
        "runs": ("show", "--runs", "--db", db, "--plain"),
        "watch": ("watch", "--once", "--db", db, "--plain"),
        "doctor": ("doctor", "--db", db, "--json", "-"),
        "merge": ("merge", db, "--db", folder / "merged.db", "--json", "-"),
        "report": ("report", "--db", db, "--out", folder / "report.html"),
        "refit": ("refit", "--db", db, "--policies", folder / "policies"),
    }
    for name, arguments in outputs.items():
        said = command(*arguments)
        assert said.code in (0, 2), said
        (folder / f"{name}.txt").write_text(said.out + said.err)


@pytest.fixture(scope="module")
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a real `recov-graph run`, with all that is made of it, by what was kept."""
    folders = {}
    for kept in ("none", "hash", "full"):
        source, folder = (tmp_path_factory.mktemp(f"{kept}-{name}") for name in ("in", "out"))
        problems = [
            {
                "prompt": f"{word} {CANARIES['prompt']} {i}",
                "answer": CANARIES["answer"],
                "metadata": {"note": CANARIES["metadata"]},
                "task": KEPT_TASK,
                **({"id": f"{CANARIES['id']}{i}"} if i else {}),
            }
            for i, word in enumerate(("ask", "ask", "raise"))
        ]
        asked = source / f"{CANARIES['filename']}.jsonl"
        asked.write_text("".join(json.dumps(one) + "\n" for one in problems))
        (source / "says.py").write_text(SAYS.format(explanation=CANARIES["explanation"]))
        with (
            saying(f"It is {CANARIES['output']}.") as server,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.syspath_prepend(str(source))
            patch.setenv("OPENAI_API_KEY", "sk-test")
            patch.setenv("RECOV_GRAPH_CACHE", str(folder / "cache"))
            ran = command(
                *("run", asked, "--db", folder / "t.db", "--store-text", kept, "--samples", "2"),
                *("--verifier", "python:says:judge", "--max-attempts", "5"),
                *("--model", "openai:m", "--json", folder / "figures.json"),
                *("--base-url", server.url.replace("//", "//user:hunter2@")),
            )
            sys.modules.pop("says")
        assert ran.code == 0, ran
        (folder / "said.txt").write_text(ran.out + ran.err)
        everything_made(folder, folder / "t.db")
        folders[kept] = folder
    return folders


def test_no_text_of_a_run_is_anywhere_where_none_is_kept(kept_runs: dict[str, Path]) -> None:
    # What a verifier raised is told to who runs it, on standard error, and stored nowhere.
    assert found_in(kept_runs["none"], "said.txt") == set()


def test_of_a_run_that_keeps_hashes_only_the_name_of_the_file_is_told(
    kept_runs: dict[str, Path],
) -> None:
    places = {place for _, place, _ in found_in(kept_runs["hash"], "said.txt")}
    assert places == {"filename"}


def test_texts_are_found_where_they_are_kept(kept_runs: dict[str, Path]) -> None:
    found = {place for _, place, _ in found_in(kept_runs["full"])}
    assert found == {"prompt", "answer", "id", "output", "explanation", "filename"}


def test_a_password_in_an_address_is_kept_nowhere(kept_runs: dict[str, Path]) -> None:
    for folder in kept_runs.values():
        for path in folder.rglob("*"):
            if path.is_file() and path.parent.name != "cache":
                assert b"hunter2" not in path.read_bytes(), path.name


def test_no_number_confirms_a_guess_at_an_id(kept_runs: dict[str, Path]) -> None:
    """A seed is made of the user's own id, which may be made of the prompt."""
    guesses = [f"{CANARIES['id']}1", f"{CANARIES['id']}2"]
    guesses.append(Problem(prompt=f"ask {CANARIES['prompt']} 0").id)
    seeds = {call_seed(0, guess, position) for guess in guesses for position in range(8)}
    stored: dict[str, set[int]] = {}
    for kept, folder in kept_runs.items():
        with closing(sqlite3.connect(folder / "t.db")) as file:
            stored[kept] = {seed for (seed,) in file.execute("SELECT seed FROM rollouts")}
    assert stored["full"] <= seeds
    assert stored["none"] == {0}


WAYS = [(way, "none") for way in ("problem", "messages", "chat", "agent", "record")]
WAYS += [("problem", "hash"), ("problem", "full")]
LONGER = [(way, kept) for way, _ in WAYS[1:5] for kept in ("hash", "full")]


@pytest.mark.parametrize(
    ("way", "kept"), [*WAYS, *(pytest.param(*one, marks=pytest.mark.slow) for one in LONGER)]
)
def test_no_text_of_a_graph_is_in_its_store(
    tmp_path: Path, scripted: Any, way: str, kept: Any
) -> None:
    with TraceStore(tmp_path / "t.db", store_text=kept) as store:
        how: dict[str, Any] = {"store": store, "budget": Budget(6), "seed": 0}
        problem = {
            "prompt": f"ask {CANARIES['prompt']}",
            "answer": CANARIES["answer"],
            "id": CANARIES["id"],
            "metadata": {"note": CANARIES["metadata"]},
            "task": KEPT_TASK,
        }
        words = f"It is {CANARIES['output']}."
        if way == "agent":
            call = {"name": "look", "args": {"at": CANARIES["metadata"]}, "id": "c1"}
            chat = Noting(replies=[AIMessage("", tool_calls=[call]), AIMessage(words)], asked=[])
            middleware = RecoveryMiddleware(verdict_of_canaries, **how)
            look = tool("look", description="Looks.")(lambda at: CANARIES["toolresult"])
            agent = create_agent(chat, tools=[look], middleware=[middleware])
            agent.invoke({"messages": [("user", problem["prompt"])], "problem": problem})
        elif way == "record":
            settings = Settings(2, 2, temperature=0.6, max_new_tokens=60, seed=0)
            one = Problem.model_validate(problem)
            record(scripted(last=words), verdict_of_canaries, [one], store, settings=settings)
        else:
            model = Noting(replies=[AIMessage(words)], asked=[])
            graph = create_recovery_graph(
                model if way == "chat" else scripted(last=words), verdict_of_canaries, **how
            )
            asked: Any = {"problem": problem}
            if way == "messages":
                asked = {"messages": [HumanMessage(problem["prompt"])]}
            graph.invoke(asked)
        # What is left in the log of a process that is killed now.
        found = {(place, spelling) for _, place, spelling in found_in(tmp_path)}
        shared = store.rows("SELECT count(*) FROM rollouts JOIN verdicts USING (id)")
    assert shared[0][0] > 0
    if kept == "full":
        assert ("prompt", "UTF-8") in found
        if way in ("problem", "messages"):
            assert ("output", "token ids") in found
    else:
        assert found == set()


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["none", "hash"])
def test_what_a_killed_run_leaves_behind_holds_no_text(tmp_path: Path, kept: str) -> None:
    """Killed in the middle of a problem, then merged as a damaged file would be."""
    source, folder = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    problems = [
        {"prompt": f"ask {CANARIES['prompt']} {i}", "answer": CANARIES["answer"]}
        | {"id": f"{CANARIES['id']}{i}", "task": KEPT_TASK}
        for i in range(200)
    ]
    asked = source / "p.jsonl"
    asked.write_text("".join(json.dumps(one) + "\n" for one in problems))
    db = folder / "t.db"
    with saying(f"It is {CANARIES['output']}.", seconds=0.01) as server:
        process = subprocess.Popen(
            [
                *(COMMAND, "run", asked, "--db", db, "--store-text", kept, "--model", "openai:m"),
                *("--base-url", server.url, "--verifier", "exact"),
            ],
            env={**os.environ, "OPENAI_API_KEY": "k", "RECOV_GRAPH_CACHE": str(tmp_path / "c")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while len(server.asked) < 60 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert (folder / "t.db-wal").stat().st_size > 0
    assert len(server.asked) >= 60
    assert found_in(folder) == set()
    assert command("doctor", "--db", db).code == 0
    with closing(sqlite3.connect(db)) as file:
        assert file.execute("SELECT count(*) FROM problems").fetchone()[0] > 3
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(db.read_bytes())
    damaged[-4096 * 3 : -4096 * 2] = b"\x07" * 4096
    (folder / "damaged.db").write_bytes(damaged)
    for name in ("t.db", "damaged.db"):
        assert command("merge", folder / name, "--db", folder / f"from-{name}").code == 0
    (folder / "damaged.db").unlink()  # which cannot be looked through
    assert found_in(folder) == set()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra 'ray'")
def test_workers_of_a_cluster_keep_no_text_either(tmp_path: Path) -> None:
    source, folder = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    folder.mkdir()
    lines = [
        {"prompt": f"ask {CANARIES['prompt']} {i}", "answer": CANARIES["answer"]}
        | {"id": f"{CANARIES['id']}{i}"}
        for i in range(6)
    ]
    (source / "p.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    with saying(f"It is {CANARIES['output']}.") as server:
        done = subprocess.run(
            [
                *(COMMAND, "run", source / "p.jsonl", "--db", folder / "t.db"),
                *("--store-text", "none", "--model", "openai:m", "--base-url", server.url),
                *("--verifier", "exact", "--engine", "ray", "--workers", "1", "--keep-shards"),
            ],
            env={**os.environ, "OPENAI_API_KEY": "k", "RECOV_GRAPH_CACHE": str(tmp_path / "c")},
            capture_output=True,
            timeout=180,
        )
    assert done.returncode == 0, done.stderr
    assert len(list(folder.rglob("worker-*.db"))) == 1
    assert found_in(folder) == set()


# What SECURITY.md says ----------------------------------------------------------------------------


def test_every_test_that_security_md_names_is_here() -> None:
    told = (PACKAGE.parent / "SECURITY.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(test_\w+)`", told))
    here = {name for name in globals() if name.startswith("test_")}
    assert len(names) > 25
    assert names <= here
    assert "@" not in re.sub(r"`[^`]*`", "", told)  # no address that nobody reads


# Code that a model wrote --------------------------------------------------------------------------


def ran(code: str, **limits: Any) -> Verdict:
    return python_test(tests="assert True", **limits)(Problem(prompt="p"), code)


def test_code_of_a_model_sees_no_key_and_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "LANGSMITH_API_KEY", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2")
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with secret.open() as inherited:
        os.set_inheritable(inherited.fileno(), True)
        code = """
import os, sys
here = dict(os.environ)
assert "hunter2" not in str(here), here
known = {"OPENBLAS_NUM_THREADS", "HOME", "TMPDIR", "PATH", "LD_LIBRARY_PATH", "LC_CTYPE"}
assert set(here) <= known, here
names = []
for n in range(256):
    try:
        names.append(os.readlink(f"/proc/self/fd/{n}"))
    except OSError:
        pass
assert names and not any("secret" in name for name in names), names
assert sys.stdin.read() == ""
assert os.getcwd() == here["HOME"]
assert not any("recov" in p or p == "" for p in sys.path[:1]), sys.path
"""
        assert ran(code).value == "passed", ran(code).explanation


def test_code_of_a_model_has_limits(tmp_path: Path) -> None:
    code = """
import resource
soft = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
        for name in ("CPU", "AS", "FSIZE", "CORE", "NPROC")}
assert soft["CPU"] == 4 and soft["AS"] == 300_000_000 and soft["CORE"] == 0, soft
assert soft["FSIZE"] == 10_000_000, soft
assert 2000 <= soft["NPROC"] < 60_000, soft
for name in soft:
    try:
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (-1, -1))
    except (ValueError, OSError):
        continue
    import os
    assert os.getuid() == 0, name
"""
    verdict = ran(code, seconds=3, memory_mb=300)
    assert verdict.value == "passed", verdict.explanation


def test_many_processes_of_a_models_code_are_gone_with_it(tmp_path: Path) -> None:
    """A small fork bomb, of which each process holds a lock on a file of its own."""
    code = f"""
import fcntl, os, time
for n in range(40):
    if os.fork() == 0:
        held = open({str(tmp_path)!r} + f"/{{n}}", "w")
        fcntl.flock(held, fcntl.LOCK_EX)
        time.sleep(60)
time.sleep(60)
"""
    verdict = ran(code, seconds=1.5)
    assert "out of time" in verdict.explanation
    files = list(tmp_path.iterdir())
    assert len(files) == 40
    deadline = time.monotonic() + 5
    for path in files:
        with path.open() as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    assert time.monotonic() < deadline, "a process survived"
                    time.sleep(0.02)


def test_what_a_models_code_says_of_itself_is_not_believed() -> None:
    verdict = ran("import sys\nprint('passed')\nsys.stdout.write('\\x1b[2J' * 9)\nsys.exit(0)")
    assert verdict.value == "failed"
    assert verdict.explanation.startswith("exit code 1\nstopped by SystemExit(0)")
    quick = ran("import os\nos.write(1, b'\\x00passed')\nos._exit(0)")
    assert quick.explanation.startswith("ended with exit code 0 before the tests had finished")


# The report in a browser --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium")
def test_nothing_of_a_run_is_executed_by_a_browser(
    hostile_run: tuple[Path, Said], tmp_path: Path
) -> None:
    """The report of the real run, with all of it opened and pointed at."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra 'test'")
    from tests.test_report_browser import QUIET, Opened, assert_calm

    db, _ = hostile_run
    path = tmp_path / "report.html"
    assert command("report", "--db", db, "--out", path).code == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        opened = Opened(browser.new_context().new_page())
        opened.page.on("console", lambda message: opened.said.append(message.text))
        opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.page.on("request", lambda request: opened.asked.append(request.url))
        opened.page.on("dialog", lambda dialog: opened.said.append(dialog.message))
        opened.page.goto(path.as_uri())
        opened.draw_all()
        for summary in opened.page.locator("summary:visible").all():
            summary.click()
        assert opened.page.evaluate("window.hacked") is None
        assert opened.count("img, iframe, object, embed, main script, a[href^='javascript']") == 0
        assert "window.hacked" in opened.page.locator("main").inner_text()
        assert_calm(opened, path)
        browser.close()
