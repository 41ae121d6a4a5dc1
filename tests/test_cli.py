"""The command line as its users meet it: figures, stored runs, and one clear line for bad input."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recov_graph.graph import create_recovery_graph
from recov_graph.models.embedded import bundled_problems
from recov_graph.routing import default_policy
from recov_graph.store import TraceStore
from tests.conftest import Cli, Done

COMMAND = Path(sys.executable).with_name("recov-graph")
GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "features.json"
COMMANDS = ("demo", "run", "show", "features")
HOSTILE = "\x1b[31mred\x1b[0m\u202e\x07\r\nnext line"


def installed(*arguments: Any, **options: Any) -> Done:
    """Runs the installed command."""
    command = [COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def write_lines(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = ({"prompt": f"{n}+{n}?", "answer": 2 * n, "id": f"p{n}"} for n in (1, 2))
    return write_lines(tmp_path / "problems.jsonl", *rows)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, scripted: Any) -> Path:
    """A trace store with one run: a problem solved at once, one rescued, one given up."""
    path = tmp_path_factory.mktemp("kept") / "traces.db"
    texts = ["A:1"] * 4 + ["A:2"] * 4 + ["A:3"] * 2 + ["A:1"]
    with TraceStore(path) as store:
        graph = create_recovery_graph(
            scripted(texts, last="A:4"),
            "exact",
            store=store,
            router=default_policy().model_copy(update={"stop_below": 0.0}),
            interventions=["dense_steer", "retry"],
            kind="run",
            seed=1,
        )
        for name in ("easy", "hard", "hopeless"):
            graph.invoke({"problem": {"prompt": "one?", "answer": "1", "id": name, "task": "t"}})
    return path


@pytest.fixture
def db(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that store, which is also the default one."""
    path = Path(shutil.copy(kept, tmp_path / "traces.db"))
    monkeypatch.setenv("RECOV_GRAPH_DB", str(path))
    return path


def rows_of(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


# Help


def test_help_lists_the_commands() -> None:
    done = installed("--help")
    assert (done.code, done.err) == (0, "")
    assert [name for name in COMMANDS if f"\n  {name} " not in done.out] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(cli: Cli, command: str) -> None:
    done = cli(command, "-h")
    assert done.code == 0
    assert f" {command} " in done.out.splitlines()[0]
    options = {
        "demo": ["--problems", "--seed", "--db", "--json", "--store-text"],
        "run": ["--verifier", "--max-attempts", "--max-tokens", "--seed", "--json", "--db"],
        "show": ["--problem", "--db"],
        "features": ["--signals"],
    }
    assert [option for option in options[command] if option not in done.out] == []


def test_the_version_is_the_packages_own(cli: Cli) -> None:
    from recov_graph.version import __version__

    assert __version__ in cli("--version").out


# demo


class Demo(NamedTuple):
    """A demo that ran in a process of its own with both outputs piped."""

    done: Done
    figures: dict[str, Any]
    db: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    path = tmp_path_factory.mktemp("demo") / "demo.db"
    done = installed("demo", "--problems", 6, "--seed", 3, "--db", path, "--json", "-")
    assert done.code == 0, done.err
    return Demo(done, json.loads(done.out), path)


def test_demo_prints_one_json_object_and_nothing_else(demo: Demo) -> None:
    named = "problems solved_first failed rescued stopped by_intervention by_regime tokens seconds"
    assert {*named.split(), "db"} <= set(demo.figures)
    assert demo.done.err == ""  # no progress bar where nobody watches
    assert demo.figures["problems"] == 6
    assert demo.figures["db"] == str(demo.db)
    assert demo.figures["seconds"] > 0


def assert_consistent(figures: dict[str, Any]) -> None:
    """Every problem and every token is in one place only, and all of them are in one."""
    failed = figures["failed"]
    assert figures["solved_first"] + failed + figures["unjudged"] == figures["problems"]
    ended = figures["rescued"] + figures["stopped"] + figures["budget_exhausted"]
    assert ended + figures["errors"] == failed
    regimes = figures["by_regime"].values()
    assert sum(row["problems"] for row in regimes) == failed
    assert sum(row["rescued"] for row in regimes) == figures["rescued"]
    for operator, counts in figures["by_intervention"].items():
        parts = [row["by_intervention"].get(operator) for row in regimes]
        for name, value in counts.items():
            assert value == sum(part[name] for part in parts if part is not None)
    rescues = sum(row["rescues"] for row in figures["by_intervention"].values())
    assert rescues == figures["rescued"]
    assert figures["recovery_tokens"] <= figures["tokens"]
    assert sum(row["tokens"] for row in regimes) == figures["recovery_tokens"]


def test_the_figures_of_a_demo_add_up(demo: Demo) -> None:
    assert_consistent(demo.figures)


def test_the_figures_are_those_of_the_stored_run(demo: Demo) -> None:
    with TraceStore(demo.db) as store:
        run = store.run()
        assert run is not None
        assert (run["kind"], run["seed"], run["verifier"]) == ("demo", 3, "numeric")
        outcomes = store.run_problems(run["id"])
        counts = store.query(
            "SELECT operator, count(*) AS attempts, sum(outcome = 'rescued') AS rescues, "
            "sum(tokens) AS tokens FROM interventions GROUP BY operator"
        )
    figures = demo.figures
    reasons = [row["stop_reason"] for row in outcomes]
    assert len(outcomes) == figures["problems"]
    assert sum(row["solved"] for row in outcomes) == figures["solved_first"] + figures["rescued"]
    assert reasons.count("out_of_reach") == figures["stopped"]
    assert reasons.count("budget_exhausted") == figures["budget_exhausted"]
    assert sum(row["tokens"] for row in outcomes) == figures["tokens"]
    assert {row.pop("operator"): row for row in counts} == figures["by_intervention"]


def test_retry_alone_is_measured_with_the_same_tokens(demo: Demo) -> None:
    longest = 200  # an attempt that is under way is finished
    retry, given = demo.figures["retry_alone"], demo.figures["recovery_tokens"]
    assert retry["rescued"] <= retry["attempts"]
    assert retry["tokens"] <= given + longest
    assert retry["tokens"] >= given or retry["rescued"] == demo.figures["failed"]
    parts = [row["retry_alone"] for row in demo.figures["by_regime"].values()]
    assert retry == {name: sum(part[name] for part in parts) for name in retry}


def test_the_same_seed_gives_the_same_figures(demo: Demo, cli: Cli, tmp_path: Path) -> None:
    arguments = ("--problems", 6, "--seed", 3, "--db", tmp_path / "again.db", "--json", "-")
    again = json.loads(cli("demo", *arguments).out)
    for figures in (again, expected := dict(demo.figures)):
        for name in ("seconds", "db", "run"):
            figures.pop(name)
    assert again == expected


@pytest.mark.slow
def test_a_terminal_gets_a_table_and_a_bar(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [COMMAND, "demo", "--problems", "4", "--db", tmp_path / "t.db"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as p:
        os.close(theirs)
        seen = b""
        while chunk := _read(ours):
            seen += chunk
        assert p.stdout is not None
        table = p.stdout.read().decode()
    os.close(ours)
    assert p.returncode == 0
    assert all(word in seen for word in (b"4/4", b"solved", b"rescued", b"stopped"))
    assert "4 problems" in table
    assert "\x1b" not in table  # stdout was a pipe


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says so when the other side is closed
        return b""


def test_demo_refuses_more_problems_than_there_are(cli: Cli, db: Path) -> None:
    done = cli("demo", "--problems", len(bundled_problems()) + 1)
    assert done.code == 2
    assert str(len(bundled_problems())) in done.err
    assert "Traceback" not in done.err


# run


def check(text: str) -> bool:
    """What ``--verifier python:test_cli:check`` names."""
    return text.endswith("0")


@pytest.mark.parametrize(
    ("verifier", "answer", "name"),
    [
        ("exact", 2, "exact"),
        ("numeric", 2, "numeric"),
        ("numeric:0.5", 2.25, "numeric"),
        ("regex", r"A:\d+", "regex"),
        (r"regex:A:\d+", None, "regex"),
        ("json_schema", {"type": "integer"}, "json_schema"),
        ("json_schema:schema.json", None, "json_schema"),
        ("python_test", "assert True", "python_test"),
        ("python_test:5", "assert True", "python_test"),
        ("python:test_cli:check", None, "check"),
    ],
)
def test_run_takes_every_verifier(
    cli: Cli, tmp_path: Path, monkeypatch: Any, verifier: str, answer: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text('{"type": "integer"}')
    write_lines(Path("one.jsonl"), {"prompt": "1+1?", "answer": answer, "id": "one"})
    options = ("--max-attempts", 6, "--no-baseline", "--db", "t.db", "--json", "-")
    done = cli("run", "one.jsonl", "--verifier", verifier, *options)
    assert (done.code, done.err) == (0, "")
    figures = json.loads(done.out)
    assert (figures["problems"], figures["errors"]) == (1, 0)
    assert_consistent(figures)
    with TraceStore("t.db") as store:
        run = store.run()
        verdicts = store.query("SELECT DISTINCT value, verifier FROM verdicts")
    assert run is not None
    assert run["verifier"].startswith(name)
    assert verdicts
    assert {row["value"] for row in verdicts} <= {"passed", "failed"}


def test_run_keeps_to_its_limits(cli: Cli, problems: Path, tmp_path: Path) -> None:
    write_lines(problems, {"prompt": "2+2?", "answer": "never", "id": "never"})
    db = tmp_path / "t.db"
    limits = ("--max-attempts", 5, "--max-tokens", 400)
    assert cli("run", problems, "--verifier", "exact", *limits, "--db", db).code == 0
    with TraceStore(db) as store:
        (row,) = store.run_problems(store.run()["id"])  # type: ignore[index]
    assert row["attempts"] <= 5
    assert row["tokens"] <= 400


def test_run_writes_its_figures_to_a_file_too(cli: Cli, problems: Path, tmp_path: Path) -> None:
    out, db = tmp_path / "out.json", tmp_path / "t.db"
    done = cli("run", problems, "--verifier", "numeric", "--db", db, "--json", out)
    figures = json.loads(out.read_text())
    assert done.code == 0
    assert figures["problems"] == 2
    assert f"2 problems: {figures['solved_first']} solved" in " ".join(done.out.split())


def test_run_adds_to_what_is_stored(cli: Cli, problems: Path, db: Path) -> None:
    before = rows_of(db)
    assert cli("run", problems, "--verifier", "numeric", "--no-baseline").code == 0
    after = rows_of(db)
    assert set(before) - {"COMMIT;"} <= set(after)
    assert len(after) > len(before)


def test_run_keeps_no_text_where_told_so(cli: Cli, tmp_path: Path) -> None:
    prompts = ["31+13?", "97*23-7?"]
    rows = ({"prompt": prompt, "answer": 777777, "id": f"secret{prompt}"} for prompt in prompts)
    path, db = write_lines(tmp_path / "p.jsonl", *rows), tmp_path / "t.db"
    # The rule measures every failure.
    default_policy().model_copy(update={"posterior": None}).save(tmp_path / "rule.json")
    options = ("--verifier", "numeric", "--max-attempts", 6, "--no-baseline", "--db", db)
    options += ("--policy", tmp_path / "rule.json")
    assert cli("run", path, *options, "--store-text", "none").code == 0
    content = b"".join(file.read_bytes() for file in tmp_path.glob("t.db*"))
    for mark in (*prompts, "777777", "secret"):
        assert mark.encode() not in content
    with TraceStore(db) as store:
        assert store.query("SELECT count(*) AS n FROM features")[0]["n"] > 0


def test_run_tells_of_problems_that_ended_in_an_error(cli: Cli, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "Hello?", "id": "a"}, {"prompt": "1+1?"})
    done = cli("run", path, "--verifier", "numeric", "--db", tmp_path / "t.db", "--json", "-")
    assert json.loads(done.out)["unjudged"] == 2  # the second has no answer
    assert done.code == 1
    assert "cannot read 'H'" in done.err
    assert len(done.err.splitlines()) == 1


# show


def test_show_gives_the_latest_run(cli: Cli, db: Path) -> None:
    done = cli("show")
    assert (done.code, done.err) == (0, "")
    for word in ("easy", "hard", "hopeless", "scripted", "exact", "3 problems, 2 solved"):
        assert word in done.out


def test_show_finds_a_run_by_its_id(cli: Cli, db: Path) -> None:
    with TraceStore(db) as store:
        run = store.run()
        assert run is not None
        store.write(runs=[{**run, "id": "later", "started_at": "2999-01-01T00:00:00.000+00:00"}])
    assert "run later" in cli("show").out
    assert f"run {run['id']}" in cli("show", run["id"], "--db", db).out


def test_show_gives_a_problem_with_its_decisions_and_attempts(cli: Cli, db: Path) -> None:
    done = cli("show", "--problem", "hard")
    with TraceStore(db) as store:
        problem = store.run_problem(store.run()["id"], "hard")  # type: ignore[index]
        assert problem is not None
        attempts = store.problem_attempts(problem["id"])
        decisions = store.problem_decisions(problem["id"])
    assert done.code == 0
    assert len(attempts) > 4
    words = [attempt["operator"] for attempt in attempts]
    words += [decision["reason"].split()[0] for decision in decisions]
    words += ["one?", "passed", "failed", "A:2"]
    assert [word for word in words if word not in done.out] == []
    assert done.out.rstrip().split("\n")[-1] == f"solved, {problem['tokens']} tokens"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nosuchrun"], "nosuchrun"),
        (["show", "--problem", "nosuchproblem"], "nosuchproblem"),
        (["show", "nosuchrun", "--problem", "easy"], "nosuchrun"),
    ],
)
def test_show_says_what_it_cannot_find(
    cli: Cli, db: Path, arguments: list[str], words: str
) -> None:
    done = cli(*arguments)
    assert_one_clear_line(done, words)


def test_show_makes_no_database_where_there_is_none(cli: Cli, tmp_path: Path) -> None:
    assert_one_clear_line(cli("show", "--db", tmp_path / "none.db"), "none.db")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hostile(tmp_path: Path, scripted: Any) -> Path:
    path = tmp_path / "hostile.db"
    with TraceStore(path) as store:
        graph = create_recovery_graph(scripted(last=HOSTILE), "exact", store=store, seed=0)
        problem = {"prompt": HOSTILE, "answer": HOSTILE, "id": HOSTILE, "task": HOSTILE}
        graph.invoke({"problem": {**problem, "answer": "other"}})
    return path


@pytest.mark.parametrize("arguments", [[], ["--problem", HOSTILE]], ids=["run", "problem"])
def test_show_prints_no_terminal_escapes(cli: Cli, hostile: Path, arguments: list[str]) -> None:
    done = cli("show", "--db", hostile, *arguments)
    assert done.code == 0
    assert "\\u001b" in done.out
    assert not set(done.out) & set("\x1b\x07\r\u202e")


def test_show_prints_no_terminal_escapes_of_names(cli: Cli, tmp_path: Path, scripted: Any) -> None:
    policy = default_policy().model_copy(update={"name": HOSTILE})
    with TraceStore(tmp_path / "t.db") as store:
        model = scripted(last="x", name=HOSTILE)
        graph = create_recovery_graph(model, "exact", store=store, router=policy)
        graph.invoke({"problem": {"prompt": "?", "answer": "y"}})
    assert not set(cli("show", "--db", tmp_path / "t.db").out) & set("\x1b\x07\r\u202e")


@pytest.mark.parametrize("arguments", [[], ["--problem", "a" * 90]], ids=["run", "problem"])
def test_show_cuts_nothing_when_piped(
    cli: Cli, tmp_path: Path, scripted: Any, arguments: list[str]
) -> None:
    text = "b" * 90
    with TraceStore(tmp_path / "t.db") as store:
        graph = create_recovery_graph(scripted(last=text), "exact", store=store, seed=0)
        graph.invoke({"problem": {"prompt": "?", "answer": "y", "id": "a" * 90}})
    done = cli("show", "--db", tmp_path / "t.db", *arguments)
    assert (text if arguments else "a" * 90) in done.out


# features


@pytest.mark.skipif(not GOLDEN.is_file(), reason="the golden file is not in this checkout")
def test_features_measures_the_golden_cases(cli: Cli, tmp_path: Path) -> None:
    cases = json.loads(GOLDEN.read_text())["cases"]
    path = write_lines(tmp_path / "golden.jsonl", *({**c, "id": c["name"]} for c in cases))
    done = cli("features", path, "--signals")
    assert (done.code, done.err) == (0, "")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["id"] for row in rows] == [case["name"] for case in cases]
    for row, case in zip(rows, cases, strict=True):
        assert row["tokens"] == len(case["steps"])
        for name, expected in case["expected"]["features"].items():
            assert row[name] == pytest.approx(expected, abs=1e-6), name
        for name, expected in case["expected"]["signals"].items():
            assert row["signals"][name] == pytest.approx(expected, abs=1e-6), name


STEP = {"token": 5, "specialist": [[5, -0.1], [9, -2.4]], "ancestor": [[9, -0.3], [5, -1.4]]}


def test_features_reads_standard_input(cli: Cli) -> None:
    lines = json.dumps({"id": "a", "steps": [STEP]}) + "\n\n" + json.dumps({"steps": [STEP] * 2})
    done = cli("features", "-", stdin=lines)
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["id"], row["tokens"], "signals" in row) for row in rows] == [
        ("a", 1, False),
        (None, 2, False),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not a trace"),
        ("[1]", "got [1]"),
        ('{"steps": []}', "steps"),
        ('{"id": 1}', "'steps' is missing"),
        (json.dumps({"steps": [{**STEP, "token": -5}]}), "-5"),
        (json.dumps({"steps": [{**STEP, "token": 10**30}]}), "taken"),
        (json.dumps({"steps": [{**STEP, "ancestor": [[1, float("nan")]]}]}), "nan"),
        (json.dumps({"steps": [STEP], "temperature": 0}), "temperature is 0"),
        (json.dumps({"steps": [{**STEP, "specialist": [[5, -1], [5, -2]]}]}), "twice"),
        ("[" * 100_000, "not a trace"),
    ],
)
def test_features_names_the_line_that_is_wrong(cli: Cli, line: str, words: str) -> None:
    done = cli("features", "-", stdin=json.dumps({"steps": [STEP]}) + "\n" + line)
    assert len(done.out.splitlines()) == 1  # the line before it was measured
    assert_one_clear_line(done, ":2: ", words)


def test_features_refuses_what_is_no_text(cli: Cli) -> None:
    assert_one_clear_line(cli("features", "-", stdin=b'\xff\xfe{"a"'), "UTF-8")


# Bad input


def assert_one_clear_line(done: Done, *words: str) -> None:
    assert done.code == 2
    assert done.err.startswith("Error")
    assert len(done.err.splitlines()) == 1, done.err
    assert [word for word in words if word not in done.err] == []


def bad_lines(*lines: dict[str, Any] | str) -> Callable[[Path, Path], list[Any]]:
    def arguments(folder: Path, problems: Path) -> list[Any]:
        write_lines(problems, {"prompt": "1+1?", "answer": 2}, *lines)
        return ["run", problems, "--verifier", "numeric"]

    return arguments


def with_options(*options: Any) -> Callable[[Path, Path], list[Any]]:
    return lambda _, problems: ["run", problems, "--verifier", "numeric", *options]


def tampered_policy(folder: Path, problems: Path) -> list[Any]:
    path = folder / "policy.json"
    default_policy().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "stop_below": 0.123}))
    return ["run", problems, "--verifier", "numeric", "--policy", path]


def newer_policy(folder: Path, problems: Path) -> list[Any]:
    path = folder / "policy.json"
    path.write_text('{"schema_version": 99}')
    return ["run", problems, "--verifier", "numeric", "--policy", path]


def newer_database(folder: Path, problems: Path) -> list[Any]:
    path = folder / "newer.db"
    with TraceStore(path) as store:
        store._engine.connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "SELECT migration_set, 'm999_from_the_future', applied_at FROM _sqlite_migrations "
            "LIMIT 1"
        )
    return ["run", problems, "--verifier", "numeric", "--db", path]


def text_for_database(folder: Path, problems: Path) -> list[Any]:
    return ["demo", "--problems", 1, "--db", write_lines(folder / "notes.txt", "notes " * 200)]


def unwritable_database(folder: Path, problems: Path) -> list[Any]:
    return ["demo", "--problems", 1, "--db", problems / "traces.db"]


def folder_for_database(folder: Path, problems: Path) -> list[Any]:
    return ["demo", "--problems", 1, "--db", folder]


def no_text(folder: Path, problems: Path) -> list[Any]:
    problems.write_bytes(b'{"prompt": "\xff"}\n')
    return ["run", problems, "--verifier", "numeric"]


OURS = {
    "a line that is not JSON": (bad_lines("{broken"), [":2: ", "not JSON", "{broken"]),
    "a line that is no object": (bad_lines("[1, 2]"), [":2: ", "JSON object"]),
    "a missing field": (bad_lines({"answer": 3}), [":2: ", "'prompt' is missing"]),
    "an unknown field": (bad_lines({"prompt": "1?", "anwser": 1}), [":2: ", "'anwser'"]),
    "an empty prompt": (bad_lines({"prompt": ""}), [":2: ", "'prompt'"]),
    "half a character": (bad_lines('{"prompt": "\\ud800"}'), [":2: ", "'prompt'"]),
    "an id used twice": (bad_lines({"prompt": "1+1?"}), [":2: ", "line 1"]),
    "a line far too deep": (bad_lines("[" * 100_000), [":2: ", "not JSON"]),
    "a file that is no text": (no_text, ["UTF-8"]),
    "a missing file": (
        lambda folder, _: ["run", folder / "none.jsonl", "--verifier", "exact"],
        ["none.jsonl", "No such file"],
    ),
    "a folder": (lambda folder, _: ["run", folder, "--verifier", "exact"], ["cannot be read"]),
    "an empty file": (
        lambda folder, _: ["run", write_lines(folder / "e.jsonl"), "--verifier", "exact"],
        ["no problems"],
    ),
    "an unknown verifier": (
        lambda _, problems: ["run", problems, "--verifier", "numerik"],
        ["'numerik'", "numeric", "exact"],
    ),
    "a wrong tolerance": (with_options("--verifier", "numeric:much"), ["numeric:much"]),
    "a missing schema": (with_options("--verifier", "json_schema:none.json"), ["none.json"]),
    "a function that is not there": (
        with_options("--verifier", "python:no_such_module:check"),
        ["no_such_module"],
    ),
    "an unknown model": (with_options("--model", "gpt-9"), ["'gpt-9'", "'embedded'"]),
    "no attempts": (with_options("--max-attempts", 0), ["max_attempts is 0", "above 0"]),
    "no tokens": (with_options("--max-tokens", -1), ["max_tokens is -1", "above 0"]),
    "no time": (with_options("--max-seconds", "nan"), ["max_seconds is nan", "above 0"]),
    "a policy edited by hand": (tampered_policy, ["policy.json", "content_hash", "changed"]),
    "a newer policy": (newer_policy, ["policy.json", "99", "upgrade"]),
    "a missing policy": (with_options("--policy", "none.json"), ["none.json", "No such file"]),
    "a newer database": (newer_database, ["newer.db", "m999_from_the_future", "upgrade"]),
    "a text file as database": (text_for_database, ["notes.txt", "not a database", "--db"]),
    "an unwritable database": (unwritable_database, ["traces.db", "--db"]),
    "a folder as database": (folder_for_database, ["unable to open", "--db"]),
}
CLICKS = {
    "no problems": (lambda *_: ["demo", "--problems", 0], ["--problems", "0"]),
    "too many problems": (lambda *_: ["demo", "--problems", 10**6], ["--problems", "1000000"]),
    "a word for a number": (lambda *_: ["demo", "--seed", "one"], ["--seed", "one"]),
    "an unknown option": (lambda *_: ["demo", "--sede", 1], ["--sede", "--seed"]),
    "an unknown command": (lambda *_: ["dmeo"], ["dmeo"]),
    "no file named": (lambda *_: ["run", "--verifier", "exact"], ["PROBLEMS.jsonl"]),
    "no verifier named": (lambda _, problems: ["run", problems], ["--verifier"]),
    "an unknown store-text": (with_options("--store-text", "some"), ["'some'", "none"]),
    "figures into no folder": (with_options("--json", "no/folder/out.json"), ["out.json"]),
    "figures into a folder": (with_options("--json", "."), ["--json"]),
    "a missing trace file": (lambda *_: ["features", "none.jsonl"], ["none.jsonl"]),
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [pytest.param(*case, id=name) for name, case in OURS.items()]
    + [pytest.param(*case, id=name) for name, case in CLICKS.items()],
)
def test_bad_input_gets_one_clear_line_and_loses_nothing(
    cli: Cli,
    db: Path,
    problems: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: Callable[[Path, Path], list[Any]],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments(tmp_path, problems)
    before = rows_of(db)
    done = cli(*given)
    assert rows_of(db) == before
    assert done.out == ""
    assert_one_clear_line(done, *words)


@pytest.mark.parametrize("seed", [2**63, -(2**70)])
def test_a_seed_of_any_size_is_taken_or_refused_in_one_line(
    cli: Cli, db: Path, problems: Path, seed: int
) -> None:
    done = cli("run", problems, "--verifier", "numeric", "--no-baseline", "--seed", seed)
    if done.code:
        assert_one_clear_line(done, "seed")


@pytest.mark.slow
def test_the_installed_command_ends_with_one_line_too(db: Path, tmp_path: Path) -> None:
    before = rows_of(db)
    bad = write_lines(tmp_path / "bad.jsonl", "{broken")
    done = installed("run", bad, "--verifier", "numeric")
    assert_one_clear_line(done, "bad.jsonl:1: ", "not JSON")
    assert done.out == ""
    assert rows_of(db) == before


def test_no_empty_figures_are_left_behind(cli: Cli, problems: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    cli("run", problems, "--verifier", "numeric", "--json", out, "--db", problems / "t.db")
    assert not out.exists()


# Figures that must add up when things go wrong too


def test_the_figures_add_up_when_the_budget_allows_no_attempt(
    cli: Cli, problems: Path, db: Path
) -> None:
    options = ("--verifier", "numeric", "--max-tokens", 3, "--json", "-")
    assert_consistent(json.loads(cli("run", problems, *options).out))


def test_the_figures_add_up_when_some_samples_cannot_be_judged(
    cli: Cli, problems: Path, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(problems, {"prompt": "2+2?"})
    outcomes = chain([None], repeat(False))  # None is no verdict
    monkeypatch.setattr(sys.modules[__name__], "check", lambda text: next(outcomes))
    options = ("--verifier", "python:test_cli:check", "--no-baseline", "--json", "-")
    assert_consistent(json.loads(cli("run", problems, *options).out))


def test_the_figures_add_up_when_no_attempt_is_left(cli: Cli, problems: Path, db: Path) -> None:
    write_lines(problems, {"prompt": "2+2?", "answer": 777})
    options = ("--verifier", "numeric", "--max-attempts", 4, "--json", "-")
    assert_consistent(json.loads(cli("run", problems, *options).out))


def test_retry_is_not_said_to_be_measured_where_it_was_not(
    cli: Cli, problems: Path, db: Path
) -> None:
    write_lines(problems, {"prompt": "2+2?", "answer": 777, "id": "never"})
    done = cli("run", problems, "--verifier", "numeric", "--max-attempts", 4)
    assert "Retry alone, measured" not in done.out
