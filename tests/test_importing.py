"""Importing: every outcome of a file reaches the store once, or none does."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recov_graph.cli.bring import import_
from recov_graph.errors import InvalidInputError, RecovGraphError, StoreError, TapeError
from recov_graph.importing import Imported, import_file
from recov_graph.profiles import RATE_ATTEMPTS
from recov_graph.signals import FEATURE_VERSION
from recov_graph.store import TraceStore
from tests.searching import examples

QUICK = settings(deadline=None, max_examples=examples(100))
REAL = Path(__file__).parents[2] / "shared" / "data" / "failure_profiles_dev.csv"
TABLES = ("runs", "problems", "profiles", "tallies")
PROFILES = (
    "model,task,problem_id,n_failed_rollouts,spread,concentration,logit_dispersion,retry,dense\n"
    "m,t,p1,4,0.1,2.5,-0.5,0.272727,1\n"
    "m,u,p1,,,,,0,0.3\n"
    "n,t,p2,7,0.2,1,-1,0.5,0.5\n"
)
FEATURES = {"spread": 0.25, "concentration": 1.5, "logit_dispersion": -1.0}


def line(problem: Any = "p", operator: Any = "retry", passed: Any = False, **more: Any) -> str:
    row = {"problem": problem, "operator": operator, "passed": passed, "tokens": 100} | more
    return json.dumps(row)


def write(path: Path, *content: str | bytes) -> Path:
    path.write_bytes(
        b"".join(part if isinstance(part, bytes) else f"{part}\n".encode() for part in content)
    )
    return path


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    return write(tmp_path / "profiles.csv", PROFILES.rstrip())


@pytest.fixture
def rollouts(tmp_path: Path) -> Path:
    return write(
        tmp_path / "rollouts.jsonl",
        line("p1", "sample", features=FEATURES, model="m", task="t"),
        line("p1", "retry", True, tokens=50, model="m", task="t"),
        line("p2", "retry", model="n", task="t"),
    )


def dump(store: TraceStore) -> list[str]:
    connection = sqlite3.connect(store.path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def assert_empty(store: TraceStore) -> None:
    names = store.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    for table in {row["name"] for row in names} - {"settings", "_sqlite_migrations"}:
        assert store.query(f'SELECT * FROM "{table}"') == [], table


def stored(store: TraceStore) -> list[dict[str, Any]]:
    """What is stored of each problem, its tallies by operator."""
    problems = store.query(
        "SELECT problems.*, profiles.*, runs.model FROM problems JOIN runs ON runs.id = run_id "
        "JOIN profiles ON profiles.id = problems.id ORDER BY problems.rowid"
    )
    for row in problems:
        tallies = store.query("SELECT * FROM tallies WHERE problem_id = ?", [row["id"]])
        row["tallies"] = {
            tally["operator"]: (tally["passed"], tally["attempts"], tally["tokens"])
            for tally in tallies
        }
    return problems


# --- profiles ---


def test_rates_stand_for_attempts(store: TraceStore, profiles: Path) -> None:
    done = import_file(profiles, store)
    first, second, third = stored(store)
    assert first["tallies"] == {"retry": (0.272727 * 20, 20, None), "dense": (20, 20, None)}
    assert second["tallies"] == {"retry": (0, 20, None), "dense": (6, 20, None)}
    kept = ("model", "task", "key", "failed_samples", "spread", "concentration")
    assert [first[name] for name in kept] == ["m", "t", "p1", 4, 0.1, 2.5]
    assert first["logit_dispersion"] == -0.5
    assert [second[name] for name in kept] == ["m", "u", "p1", None, None, None]
    assert [third[name] for name in kept] == ["n", "t", "p2", 7, 0.2, 1]
    assert (done.problems, done.attempts, done.new) == (3, 120, True)
    assert {row["feature_version"] for row in stored(store)} == {FEATURE_VERSION}
    assert {(row["prompt"], row["answer"], row["prompt_tokens"]) for row in stored(store)} == {
        (None, None, None)
    }


def test_attempts_may_be_given(store: TraceStore, profiles: Path) -> None:
    assert import_file(profiles, store, attempts=2.5).attempts == 15
    assert stored(store)[0]["tallies"]["retry"] == (0.272727 * 2.5, 2.5, None)


def test_each_model_has_a_run_of_its_own(store: TraceStore, profiles: Path) -> None:
    done = import_file(profiles, store)
    runs = {row["id"]: row for row in store.query("SELECT * FROM runs")}
    assert {runs[run_id]["model"]: run_id for run_id in runs} == done.runs
    assert list(done.runs) == ["m", "n"]
    assert done.run_id == done.runs["m"]
    for run in runs.values():
        names = ("kind", "verifier", "policy", "policy_hash", "seed", "store_text")
        assert [run[n] for n in names] == ["import", "imported", "imported", "", None, "full"]
    assert [row["key"] for row in store.run_problems(done.runs["n"])] == ["p2"]


def test_the_real_profiles_are_imported(store: TraceStore) -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here; it is no part of the repository")
    done = import_file(REAL, store)
    assert (done.problems, done.attempts) == (838, 838 * 5 * RATE_ATTEMPTS)
    rows = stored(store)
    cells = Counter((row["model"], row["task"]) for row in rows)
    assert sorted(cells.values()) == [196, 197, 220, 225]
    assert all(len(row["tallies"]) == 5 and row["spread"] is not None for row in rows)
    before = dump(store)
    assert not import_file(REAL, store).new
    assert dump(store) == before


@pytest.mark.parametrize("attempts", [0, -1, float("nan"), float("inf"), 1e10, True, "10", None])
def test_attempts_out_of_range_are_refused(
    store: TraceStore, profiles: Path, attempts: Any
) -> None:
    with pytest.raises(InvalidInputError, match="; it must be over 0 and at most"):
        import_file(profiles, store, attempts=attempts)
    assert_empty(store)


@pytest.mark.parametrize("option", ["model", "task"])
def test_a_profile_csv_names_model_and_task_itself(
    store: TraceStore, profiles: Path, option: str
) -> None:
    names: Any = {option: "mine"}
    with pytest.raises(InvalidInputError, match=f"{option} is 'mine', but a profile CSV names"):
        import_file(profiles, store, **names)


# --- rollouts ---


def test_lines_of_a_problem_are_gathered(store: TraceStore, tmp_path: Path) -> None:
    other = {"spread": 0.75, "concentration": 2.5, "logit_dispersion": 0.0}
    path = write(
        tmp_path / "rollouts.jsonl",
        line("p1", "sample", features=FEATURES),
        line("p2", "retry", True, tokens=7),
        line("p1", "retry", tokens=10),
        line("p1", "sample", features=None),
        line("p1", "retry", True, tokens=21),
        line("p1", "dense", tokens=0, features=other),
    )
    done = import_file(path, store)
    first, second = stored(store)
    assert first["tallies"] == {"retry": (1, 2, 15.5), "dense": (0, 1, 0)}
    assert [first[name] for name in FEATURES] == [0.5, 2.0, -0.5]
    assert (first["key"], first["failed_samples"]) == ("p1", 2)
    assert second["tallies"] == {"retry": (1, 1, 7)}
    assert [second[name] for name in ("failed_samples", *FEATURES)] == [None] * 4
    assert (first["model"], first["task"]) == ("unknown", "default")
    assert (done.problems, done.attempts) == (2, 4)


def test_samples_that_passed_are_not_counted_as_failed(store: TraceStore, tmp_path: Path) -> None:
    samples = [line("p", "sample", passed) for passed in (False, True, False)]
    import_file(write(tmp_path / "r.jsonl", *samples, line("q", "sample", True)), store)
    assert [row["failed_samples"] for row in stored(store)] == [2, 0]


def test_a_problem_with_samples_alone_has_no_tallies(store: TraceStore, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", line(operator="sample", features=FEATURES))
    assert import_file(path, store).attempts == 0
    (row,) = stored(store)
    assert (row["tallies"], row["spread"]) == ({}, 0.25)


def test_model_and_task_of_a_line_go_before_the_options(store: TraceStore, tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.jsonl",
        line(model="a", task="t"),
        line(model="a", task=None),
        line(task="t"),
        line(model=None),
        line(),
    )
    import_file(path, store, model="mine", task="sums")
    cells = {(row["model"], row["task"]): row["tallies"]["retry"][1] for row in stored(store)}
    assert cells == {("a", "t"): 1, ("a", "sums"): 1, ("mine", "t"): 1, ("mine", "sums"): 2}


def test_a_number_and_its_text_are_one_problem(store: TraceStore, tmp_path: Path) -> None:
    import_file(write(tmp_path / "r.jsonl", line(7), line("7"), line("07")), store)
    assert [row["key"] for row in stored(store)] == ["7", "07"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + line().encode(),
        f"\r\n{line()}\r\n \r\n".encode(),
        f"\n\n  {line()}\t".encode(),
    ],
    ids=["BOM", "CRLF and blank lines", "indented"],
)
def test_files_from_any_program_can_be_read(
    store: TraceStore, tmp_path: Path, content: bytes
) -> None:
    assert import_file(write(tmp_path / "r.jsonl", content), store).problems == 1


def test_many_lines_take_seconds(store: TraceStore, tmp_path: Path) -> None:
    rows = (
        line(i // 10, ("sample", "retry", "dense")[i % 3], features=FEATURES) for i in range(20_000)
    )
    path = write(tmp_path / "r.jsonl", *rows)
    start = time.process_time()
    assert import_file(path, store).problems == 2000
    assert time.process_time() - start < 5


# --- refusals ---


@pytest.mark.parametrize(
    ("bad", "fragments"),
    [
        ("{", ["not JSON", "'{'", "one object a line"]),
        ("[", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        (line(tokens=float("nan")), ["not JSON", "NaN"]),
        ("5", ["expected a JSON object, got 5", '{"problem": "p1"']),
        ("[1]", ["expected a JSON object, got [1]"]),
        ("{}", ["'problem' is missing", '{"problem": "p1"']),
        ('{"problem": "p"}', ["'operator' is missing"]),
        ('{"problem": "p", "operator": "retry"}', ["'passed' is missing"]),
        ('{"problem": "p", "operator": "retry", "passed": true}', ["'tokens' is missing"]),
        (line(None), ["'problem'", "got None"]),
        (line(True), ["'problem'", "got True"]),
        (line(1.5), ["'problem'", "got 1.5"]),
        (line(""), ["'problem'", "must not be empty"]),
        (line("\ud800"), ["'problem'", "surrogates"]),
        (line(operator=5), ["'operator'", "got 5"]),
        (line(operator=" "), ["'operator'", "must not be empty"]),
        (line(operator="\udfff"), ["'operator'", "surrogates"]),
        (line(passed=1), ["'passed'", "boolean", "got 1"]),
        (line(passed="yes"), ["'passed'", "got 'yes'"]),
        (line(passed=None), ["'passed'", "got None"]),
        (line(tokens=-1), ["'tokens'", "greater than or equal to 0", "got -1"]),
        (line(tokens=1.5), ["'tokens'", "got 1.5"]),
        (line(tokens="9"), ["'tokens'", "got '9'"]),
        (line(tokens=True), ["'tokens'", "got True"]),
        (line(tokens=None), ["'tokens'", "got None"]),
        (line(tokens=2**63), ["'tokens'", "less than or equal to"]),
        (line(model=""), ["'model'", "must not be empty"]),
        (line(model=3), ["'model'", "got 3"]),
        (line(task=["t"]), ["'task'", "got ['t']"]),
        (line(reward=1), ["unknown field 'reward'"]),
        (line(features=[0, 1, 2]), ["'features'", "got [0, 1, 2]"]),
        (line(features={}), ["'features.spread' is missing"]),
        (line(features={**FEATURES, "x": 1}), ["unknown field 'features.x'"]),
        (line(features={**FEATURES, "spread": 1.5}), ["'features.spread'", "0 to 1", "got 1.5"]),
        (line(features={**FEATURES, "concentration": "2"}), ["'features.concentration'"]),
        (line(features={**FEATURES, "concentration": True}), ["got True"]),
        (line(features={**FEATURES, "concentration": 10**400}), ["'features.concentration'"]),
        (line(features=FEATURES).replace("0.25", "1e999"), ["1e999 is beyond the largest number"]),
    ],
)
def test_a_bad_last_line_is_named_and_nothing_is_stored(
    store: TraceStore, tmp_path: Path, bad: str, fragments: list[str]
) -> None:
    path = write(tmp_path / "r.jsonl", line(model="a"), "", line(model="b"), bad)
    with pytest.raises(TapeError) as refused:
        import_file(path, store)
    message = str(refused.value)
    assert message.startswith(f"{path}:4: ")
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    assert_empty(store)


def test_a_bad_last_row_of_a_profile_csv_stores_nothing(store: TraceStore, profiles: Path) -> None:
    write(profiles, PROFILES.rstrip(), "n,t,p3,7,0.2,1,-1,0.5,1.5")
    with pytest.raises(TapeError) as refused:
        import_file(profiles, store)
    assert str(refused.value).startswith(f"{profiles}:5: the rescue rate of 'dense' is '1.5'")
    assert_empty(store)


def test_a_line_that_is_not_utf_8_is_named(store: TraceStore, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", line(), b'{"problem": "\xff"}\n')
    with pytest.raises(TapeError) as refused:
        import_file(path, store)
    message = "not UTF-8 text (byte 13 of the line); save the file as UTF-8"
    assert str(refused.value) == f"{path}:2: {message}"


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_a_file_without_rollouts_is_refused(
    store: TraceStore, tmp_path: Path, content: bytes
) -> None:
    path = write(tmp_path / "r.jsonl", content)
    with pytest.raises(TapeError, match="no rollouts; expected one JSON object a line"):
        import_file(path, store)


@pytest.mark.parametrize("name", ["folder.csv", "folder.jsonl", "none.csv", "none.jsonl", "\0.csv"])
def test_what_is_no_file_is_refused(store: TraceStore, tmp_path: Path, name: str) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    with pytest.raises(TapeError, match="cannot be read: "):
        import_file(tmp_path / name, store)
    assert_empty(store)


def test_a_database_that_refuses_a_row_keeps_none(store: TraceStore, rollouts: Path) -> None:
    connection = sqlite3.connect(store.path)
    connection.execute(
        "CREATE TRIGGER no BEFORE INSERT ON tallies WHEN NEW.passed = 0 "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    connection.commit()
    connection.close()
    with pytest.raises(StoreError):
        import_file(rollouts, store)
    assert_empty(store)


# --- kinds and options ---


@pytest.mark.parametrize("name", ["r.jsonl", "r.json", "r.ndjson", "R.JSONL"])
def test_endings_of_rollouts(store: TraceStore, tmp_path: Path, name: str) -> None:
    assert import_file(write(tmp_path / name, line()), store).problems == 1


def test_another_ending_needs_the_kind(store: TraceStore, profiles: Path, rollouts: Path) -> None:
    for path, kind in ((profiles, "profiles"), (rollouts, "rollouts")):
        renamed = path.rename(path.with_suffix(".txt"))
        with pytest.raises(InvalidInputError, match="its ending does not say what it is"):
            import_file(renamed, store)
        given_kind: Any = kind
        assert import_file(renamed, store, kind=given_kind).new


def test_the_kind_goes_before_the_ending(store: TraceStore, tmp_path: Path) -> None:
    path = write(tmp_path / "rollouts.csv", line())
    assert import_file(str(path), store, kind="rollouts").problems == 1


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"kind": "tape"}, "kind is 'tape'; it must be profiles or rollouts"),
        ({"model": ""}, "model is ''; it must not be empty"),
        ({"task": "\ud800"}, "task is '\\ud800'"),
    ],
)
def test_bad_options_are_refused(
    store: TraceStore, rollouts: Path, options: dict[str, Any], fragment: str
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        import_file(rollouts, store, **options)
    assert fragment in str(refused.value)
    assert_empty(store)


# --- a repeat ---


@pytest.mark.parametrize("store_text", ["full", "hash", "none"])
@pytest.mark.parametrize("name", ["profiles", "rollouts"])
def test_the_same_file_twice_changes_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, name: str, store_text: Any
) -> None:
    path = request.getfixturevalue(name)
    imports, dumps = [], []
    for _ in range(2):
        with TraceStore(tmp_path / "traces.db", store_text=store_text) as store:
            imports.append(import_file(path, store))
            dumps.append(dump(store))
        path = path.rename(path.with_stem("renamed"))
    assert [done.new for done in imports] == [True, False]
    assert imports[0].runs == imports[1].runs
    assert dumps[0] == dumps[1]


def test_other_bytes_or_options_are_another_import(store: TraceStore, rollouts: Path) -> None:
    runs = [import_file(rollouts, store).run_id]
    runs.append(import_file(rollouts, store, model="other").run_id)
    runs.append(import_file(rollouts, store, task="other").run_id)
    write(rollouts, rollouts.read_bytes(), "")
    runs.append(import_file(rollouts, store).run_id)
    assert len(set(runs)) == 4
    # Options that say what is the case anyway are no others, nor is one that is not used.
    again = import_file(rollouts, store, model="unknown", task="default", attempts=3)
    assert again.run_id == runs[-1]
    assert not again.new


def test_other_attempts_are_another_import(store: TraceStore, profiles: Path) -> None:
    assert import_file(profiles, store).run_id != import_file(profiles, store, attempts=9).run_id
    assert not import_file(profiles, store, attempts=9).new


def test_importing_again_without_texts_takes_the_ids_away(tmp_path: Path, profiles: Path) -> None:
    write(profiles, PROFILES.rstrip(), "n,t,secret,7,0.2,1,-1,0.5,0.5")
    with TraceStore(tmp_path / "traces.db") as store:
        import_file(profiles, store)
        assert any("secret" in row for row in dump(store))
    with TraceStore(tmp_path / "traces.db", store_text="none") as store:
        assert import_file(profiles, store).new
        assert not any("secret" in row for row in dump(store))
        assert len(stored(store)) == 4


@pytest.mark.parametrize("store_text", ["hash", "none"])
def test_ids_are_hashed_where_texts_are_not_kept(
    tmp_path: Path, profiles: Path, store_text: Any
) -> None:
    with TraceStore(tmp_path / "traces.db", store_text=store_text) as store:
        done = import_file(profiles, store)
        rows = stored(store)
        assert [row["key"] for row in rows] == [store.key(name) for name in ("p1", "p1", "p2")]
        assert store.run_problem(done.run_id, "p1") is not None or store_text == "none"
        assert rows[0]["tallies"]["retry"] == (0.272727 * 20, 20, None)


# --- anything at all ---


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the file that each Hypothesis example writes anew."""
    return tmp_path_factory.mktemp("anything")


def imports_or_is_refused(folder: Path, content: str | bytes, ending: str) -> None:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path = write(folder / f"file{ending}", data)
    problems, message = 0, ""
    with TraceStore(":memory:") as store:
        try:
            problems = import_file(path, store).problems
        except TapeError as error:
            message = str(error)
        assert problems or message.startswith(str(path))
        assert len(stored(store)) == problems
        if message:
            assert_empty(store)


ENDINGS = st.sampled_from([".csv", ".jsonl"])


@given(text=st.text(), ending=ENDINGS)
@example('{"problem": "\\ud800"}', ".jsonl")
@example("[" * 980 + "]" * 980, ".jsonl")
@QUICK
def test_any_text_imports_or_is_refused(anywhere: Path, text: str, ending: str) -> None:
    imports_or_is_refused(anywhere, text, ending)


@given(content=st.binary(), ending=ENDINGS)
@QUICK
def test_any_bytes_import_or_are_refused(anywhere: Path, content: bytes, ending: str) -> None:
    imports_or_is_refused(anywhere, content, ending)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
FIELDS = st.sampled_from(["problem", "operator", "passed", "tokens", "features", "model", "task"])


@given(changed=st.dictionaries(FIELDS | st.text(max_size=2), VALUES, max_size=2))
@QUICK
def test_any_value_of_any_field_imports_or_is_refused(
    anywhere: Path, changed: dict[str, Any]
) -> None:
    imports_or_is_refused(anywhere, json.dumps(json.loads(line()) | changed), ".jsonl")


@given(value=VALUES, name=st.sampled_from(list(FEATURES)))
@QUICK
def test_any_value_of_any_feature_imports_or_is_refused(
    anywhere: Path, value: Any, name: str
) -> None:
    content = line(features={**FEATURES, name: value})
    imports_or_is_refused(anywhere, content, ".jsonl")


# --- the command ---


def command(*arguments: Any) -> Result:
    return CliRunner().invoke(import_, list(map(str, arguments)))


def test_the_command_says_what_was_stored_where_and_what_is_next(
    profiles: Path, tmp_path: Path
) -> None:
    db = tmp_path / "mine.db"
    done = command(profiles, "--db", db)
    assert done.exit_code == 0, done.output
    assert done.output == (
        f"stored 3 problems with 120 attempts in {db} (2 runs, one a model); "
        f"`recov-graph refit --db {db}` learns from them\n"
    )
    again = command(profiles, "--db", db)
    assert again.output == (
        f"{db} already has these 3 problems with 120 attempts (2 runs, one a model), nothing was "
        f"changed; `recov-graph refit --db {db}` learns from them\n"
    )


def test_the_command_has_the_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOV_GRAPH_DB", str(tmp_path / "default.db"))
    done = command(write(tmp_path / "r.jsonl", line()))
    with TraceStore(tmp_path / "default.db") as store:
        run = store.run()
    assert run is not None
    assert done.output == (
        f"stored 1 problem with 1 attempt in {tmp_path / 'default.db'} (run {run['id']}); "
        "`recov-graph refit` learns from them\n"
    )


def test_the_command_hands_its_options_on(tmp_path: Path) -> None:
    path, db = write(tmp_path / "rollouts", line()), tmp_path / "mine.db"
    command(path, "--db", db, "--kind", "rollouts", "--model", "m", "--task", "t")
    csv = write(tmp_path / "profiles.csv", PROFILES.rstrip())
    assert "with 9 attempts" in command(csv, "--db", db, "--attempts", "1.5").output
    with TraceStore(db) as store:
        first = stored(store)[0]
    assert (first["model"], first["task"]) == ("m", "t")


def test_errors_of_the_command_are_the_packages_own(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", line(), "{")
    done = command(path, "--db", tmp_path / "mine.db")
    assert isinstance(done.exception, RecovGraphError)
    assert str(done.exception).startswith(f"{path}:2: not JSON")
    assert done.output == ""


def test_the_command_explains_itself() -> None:
    shown = command("--help")
    assert shown.exit_code == 0
    for option in ("--db", "--model", "--task", "--attempts", "--kind"):
        assert option in shown.output
    assert f"[default: {RATE_ATTEMPTS}]" in " ".join(shown.output.split())


def test_importing_loads_no_graph() -> None:
    code = "import sys, recov_graph.importing; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded & {"langgraph", "langchain_core"} == set()


def test_an_import_by_the_command_is_the_same_as_one_by_the_library(
    profiles: Path, tmp_path: Path
) -> None:
    command(profiles, "--db", tmp_path / "mine.db")
    with TraceStore(tmp_path / "mine.db") as store:
        assert not import_file(profiles, store).new


def test_what_was_imported_cannot_be_changed() -> None:
    done = Imported({"m": "r"}, 1, 1.0, True)
    with pytest.raises(AttributeError):
        done.problems = 2  # type: ignore[misc]
