"""Exports: the rows of the views, whole and unharmed, in every format, whatever is in them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recov_graph.exporting as exporting_module
from recov_graph.errors import InvalidInputError, MissingExtraError, StoreError
from recov_graph.exporting import export, format_of, whole_file
from recov_graph.store import TraceStore
from recov_graph.store.canned import QUERIES
from recov_graph.store.views import COLUMNS, VIEWS
from tests.conftest import Cli
from tests.test_store import NOW, OUTCOME, PROBLEM, RUN, rows_of

COMMAND = Path(sys.executable).with_name("recov-graph")
FORMATS = ("parquet", "jsonl", "csv")
ARROW = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64()}
FORMULAS = ("=1+1", "+1", "-812", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1")
# What a model may write, and a format may trip over.
TEXTS = (
    *FORMULAS,
    'say "hello", twice;\nor\r\nmore',
    "Zażółć 🦜 \u202e gęślą \u2028 jaźń",
    "nul \x00 and esc \x1b[31m",
    "'quoted",
    "",
    " = not a formula",
    "NULL",
    "1e5",
)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two runs, in which every text is one that a format may trip over."""
    path = tmp_path_factory.mktemp("kept") / "traces.db"
    with TraceStore(path) as store:
        store.write(runs=[RUN, {**RUN, "id": "r2"}])
        for number, text in enumerate(TEXTS):
            name = f"q{number:02}"
            rows = rows_of(name, attempts=2)
            rows["problems"][0] |= {"prompt": text, "answer": text, "key": text or "empty"}
            rows["problems"][0]["run_id"] = "r2" if number % 2 else "r"
            for rollout, verdict in zip(rows["rollouts"], rows["verdicts"], strict=True):
                rollout["text"] = verdict["explanation"] = text
            for decision in rows["decisions"]:
                decision["reason"] = text
            store.write(**rows, outcomes=[{**OUTCOME, "id": name}])
        # One of which nothing but the start is known.
        store.write(problems=[{**PROBLEM, "id": "q99", "prompt": None, "answer": None}])
    return path


@pytest.fixture
def db(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that store, which is also the default one."""
    path = Path(shutil.copy(kept, tmp_path / "traces.db"))
    monkeypatch.setenv("RECOV_GRAPH_DB", str(path))
    return path


def expected(path: Path, view: str, where: str = "TRUE") -> list[dict[str, Any]]:
    """The rows of a view, in the order of an export."""
    order = {"problem": "started_at, problem_id", "attempt": "problem_id, position"}
    sql = f"SELECT * FROM {view} WHERE {where} ORDER BY {order.get(view, 'problem_id, step')}"
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(sql)]


def exported(path: Path, view: str, kind: Any, **options: Any) -> bytes:
    target = io.BytesIO()
    with TraceStore(path) as store:
        count = export(store, target, view, kind, **options)
    assert count == len(expected(path, view)) or "run" in options
    return target.getvalue()


def csv_rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")))


# The same rows in every format ------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_json_lines_are_the_rows(kept: Path, view: str) -> None:
    lines = exported(kept, view, "jsonl").decode("utf-8").split("\n")
    assert lines.pop() == ""
    rows = [json.loads(line) for line in lines]
    assert rows == expected(kept, view)
    assert [list(row) for row in rows[:1]] == [list(COLUMNS[view])]


@pytest.mark.parametrize("batch", [1000, 4])
@pytest.mark.parametrize("view", VIEWS)
def test_parquet_is_the_rows_with_their_types(
    kept: Path, view: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting_module, "BATCH", batch)
    table = pq.read_table(pa.BufferReader(exported(kept, view, "parquet")))
    assert table.to_pylist() == expected(kept, view)
    assert {field.name: field.type for field in table.schema} == {
        name: ARROW[column.kind] for name, column in COLUMNS[view].items()
    }
    described = table.schema.field("run_id").metadata[b"description"].decode()
    assert described == COLUMNS[view]["run_id"].description


@pytest.mark.parametrize("view", VIEWS)
def test_raw_csv_is_the_rows_as_text(kept: Path, view: str) -> None:
    rows = csv_rows(exported(kept, view, "csv", raw=True))
    wanted = [
        {name: "" if value is None else str(value) for name, value in row.items()}
        for row in expected(kept, view)
    ]
    assert rows == wanted


@pytest.mark.parametrize("view", VIEWS)
def test_csv_differs_from_raw_csv_in_cells_that_would_be_formulas_only(
    kept: Path, view: str
) -> None:
    safe, raw = (csv_rows(exported(kept, view, "csv", raw=raw)) for raw in (False, True))
    seen = set()
    for safe_row, raw_row in zip(safe, raw, strict=True):
        for name, cell in raw_row.items():
            if COLUMNS[view][name].kind == "text" and cell.startswith(FORMULAS):
                assert safe_row[name] == f"'{cell}"
                seen.add(cell)
            else:
                assert safe_row[name] == cell
    assert seen == set(FORMULAS)


def test_numbers_below_zero_stay_numbers(kept: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(kept, tmp_path / "t.db"))
    with TraceStore(path) as store:
        store.write(features=[{**rows_of("q00", 0)["features"][0], "logit_dispersion": -1.5}])
    row = csv_rows(exported(path, "attempt", "csv"))[0]
    assert row["logit_dispersion"] == "-1.5"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("view", VIEWS)
def test_an_empty_store_is_exported_with_its_columns(
    store: TraceStore, view: str, kind: Any
) -> None:
    content = exported(Path(store.path), view, kind)
    if kind == "parquet":
        table = pq.read_table(pa.BufferReader(content))
        assert (table.num_rows, table.column_names) == (0, list(COLUMNS[view]))
        assert table.schema.field("run_id").type == pa.string()
    elif kind == "csv":
        assert content.decode() == ",".join(COLUMNS[view]) + "\r\n"
    else:
        assert content == b""


def test_what_json_cannot_say_is_null(kept: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(kept, tmp_path / "t.db"))
    with TraceStore(path) as store:
        store.write(verdicts=[{**rows_of("q00", 0)["verdicts"][0], "score": float("inf")}])
    first = exported(path, "attempt", "jsonl").split(b"\n")[0]
    assert json.loads(first, parse_constant=pytest.fail)["score"] is None


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("store_text", ["none", "hash"])
def test_no_text_is_exported_that_is_not_kept(tmp_path: Path, store_text: Any, kind: Any) -> None:
    path = tmp_path / "t.db"
    with TraceStore(path, store_text=store_text) as store:
        rows = rows_of("q", attempts=1)
        rows["problems"][0] |= {"prompt": "SECRET", "answer": "SECRET", "key": "SECRET"}
        rows["rollouts"][0]["text"] = rows["verdicts"][0]["explanation"] = "SECRET"
        rows["verdicts"][0]["answer"] = rows["decisions"][0]["reason"] = "SECRET"
        rows["interventions"][0]["details"] = "SECRET"
        store.write(runs=[RUN], **rows)
    for view in VIEWS:
        content = exported(path, view, kind)
        text = str(pq.read_table(pa.BufferReader(content)).to_pylist()) if kind == "parquet" else ""
        assert b"sums" in content or "sums" in text
        assert b"SECRET" not in content
        assert "SECRET" not in text


def test_a_run_is_exported_alone(db: Path, cli: Cli) -> None:
    for view in VIEWS:
        code, out, _ = cli("export", view, "--run", "r2")
        assert code == 0
        wanted = expected(db, view, "run_id = 'r2'")
        assert [json.loads(line) for line in out.split("\n")[:-1]] == wanted != []


def test_pandas_reads_them_in_one_line(db: Path, tmp_path: Path, cli: Cli) -> None:
    straight = pd.read_sql("SELECT * FROM problem ORDER BY problem_id", sqlite3.connect(db))
    assert cli("export", "--out", tmp_path / "p.parquet")[0] == 0
    frame = pd.read_parquet(tmp_path / "p.parquet").sort_values("problem_id", ignore_index=True)
    assert list(frame) == list(straight) == list(COLUMNS["problem"])
    assert frame["tokens"].sum() == straight["tokens"].sum() > 0
    assert frame["rescued"].isna().equals(straight["rescued"].isna())


def test_an_export_is_the_store_as_it_was_when_it_began(db: Path) -> None:
    class Slow(io.BytesIO):
        """Something else is stored as soon as the first row is written."""

        def write(self, content: Any) -> int:
            other.write(runs=[{**RUN, "id": "later"}])
            other.write(problems=[{**PROBLEM, "id": f"new{self.tell()}", "run_id": "later"}])
            return super().write(content)

    target, before = Slow(), expected(db, "problem")
    with TraceStore(db) as other, TraceStore(db) as store:
        assert export(store, target) == len(before)
    assert len(expected(db, "problem")) > len(before)


# Where it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", "parquet"),
        ("a.CSV", "csv"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.txt", "jsonl"),
        ("a", "jsonl"),
        ("-", "jsonl"),
    ],
)
def test_the_ending_tells_the_format(name: str, kind: str) -> None:
    assert format_of(name) == kind


def test_a_file_is_written_and_said_to_be(db: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "decisions.csv"
    code, said, err = cli("export", "decision", "--out", out)
    rows = expected(db, "decision")
    assert (code, said, err) == (0, f"wrote {len(rows)} decisions to {out}\n", "")
    assert len(csv_rows(out.read_bytes())) == len(rows)
    code, _, _ = cli("export", "--out", out, "--format", "jsonl")  # in the place of that
    assert (code, out.read_bytes()) == (0, exported(db, "problem", "jsonl"))
    assert sorted(tmp_path.glob(".*")) == []


def half_written(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_an_interrupted_export_leaves_the_file_of_before(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for before in (None, "before"):
        if before is not None:
            out.write_text(before)
        with pytest.raises(KeyboardInterrupt):
            half_written(out)
        assert [path.name for path in tmp_path.iterdir()] == ([] if before is None else ["out.csv"])
    assert out.read_text() == "before"


def test_a_file_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    out, link = tmp_path / "out.csv", tmp_path / "link.csv"
    out.touch(0o600)
    link.symlink_to(out)
    with whole_file(link) as file:
        file.write(b"new")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert link.is_symlink()
    assert out.read_text() == "new"


def test_what_is_no_file_is_written_to_and_stays(db: Path, tmp_path: Path, cli: Cli) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    assert cli("export", "--out", pipe)[0] == 0
    assert reader.communicate(timeout=20)[0] == exported(db, "problem", "jsonl")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("kind", FORMATS)
def test_stdout_gets_the_same_bytes(db: Path, kind: str) -> None:
    command = [COMMAND, "export", "attempt", "--format", kind, "--out", "-"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (exported(db, "attempt", kind), b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_who_has_read_enough_is_no_error(tmp_path: Path, kind: str) -> None:
    """As in `recov-graph export | head`, with more rows than a pipe holds."""
    path = tmp_path / "many.db"
    with TraceStore(path) as store:
        long = [{**PROBLEM, "id": f"q{i}", "prompt": os.urandom(2000).hex()} for i in range(300)]
        store.write(runs=[RUN], problems=long)
    command = [COMMAND, "export", "--db", path, "--format", kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(4)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), said) in ((0, b""), (-signal.SIGPIPE, b""))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize("how", [[], ["--out", "/dev/full"]], ids=["stdout", "a file"])
def test_a_full_disk_is_one_clear_line(db: Path, how: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [COMMAND, "export", "attempt", *how]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"cannot be written: No space left" in done.stderr


# What is refused --------------------------------------------------------------------------------


def test_what_is_not_there_or_not_known_is_one_clear_line(
    db: Path, tmp_path: Path, cli: Cli
) -> None:
    for arguments, said in (
        (["--db", tmp_path / "none.db"], "no trace store at"),
        (["--run", "nobody"], "has no run 'nobody'; the latest is"),
        (["--format", "xml"], "'xml' is not one of"),
        (["problems"], "'problems' is not one of"),
        (["--out", tmp_path], "cannot be written"),
        (["--out", tmp_path / "no" / "folder.csv"], "cannot be written"),
        (["--out", db], "is the problem file or the store"),
        (["--out", f"{db}-wal"], "is the problem file or the store"),
        (["--raw"], "is for csv, and this is jsonl"),
        (["--datasette", tmp_path / "m.json", "--run", "r"], "nothing but --db"),
        (["attempt", "--datasette", tmp_path / "m.json"], "nothing but --db"),
        (["--datasette", db], "is the problem file or the store"),
    ):
        before = db.read_bytes()
        code, out, err = cli("export", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert said in err
        assert db.read_bytes() == before
    assert not (tmp_path / "none.db").exists()
    assert not (tmp_path / "m.json").exists()


def test_another_database_is_not_replaced(db: Path, tmp_path: Path, cli: Cli) -> None:
    other = Path(shutil.copy(db, tmp_path / "other.db"))
    code, _, err = cli("export", "--out", other)
    assert code == 2
    assert "is a database" in err
    assert other.read_bytes() == db.read_bytes()


def test_parquet_without_pyarrow_says_what_to_install(
    db: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with TraceStore(db) as store, pytest.raises(MissingExtraError):
        export(store, io.BytesIO(), "problem", "parquet")
    code, _, err = cli("export", "--out", tmp_path / "p.parquet")
    assert code == 2
    assert 'pip install "recov-graph[export]"' in err
    assert not (tmp_path / "p.parquet").exists()
    assert cli("export", "--out", tmp_path / "p.csv")[0] == 0  # the others need nothing


def test_a_file_of_another_program_is_refused(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE problem (x)")
    code, _, err = cli("export", "--db", path)
    assert code == 2
    assert "another program" in err


def test_the_library_refuses_what_it_cannot_export(db: Path) -> None:
    with TraceStore(db) as store:
        with pytest.raises(InvalidInputError, match=r"'runs'.*problem, attempt, decision"):
            export(store, io.BytesIO(), "runs")
        with pytest.raises(InvalidInputError, match=r"'xml'.*parquet, jsonl, csv"):
            export(store, io.BytesIO(), "problem", "xml")  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="'r9'"):
            export(store, io.BytesIO(), run="r9")
    with TraceStore(":memory:") as store, pytest.raises(InvalidInputError, match="a file"):
        export(store, io.BytesIO())


# Metadata for Datasette -------------------------------------------------------------------------


def test_metadata_is_written_for_the_name_of_the_file(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "metadata.json"
    code, said, _ = cli("export", "--db", "some/where/my.runs.db", "--datasette", out)
    assert code == 0
    assert f"datasette some/where/my.runs.db --metadata {out}" in said
    (database,) = json.loads(out.read_text())["databases"].items()
    assert database[0] == "my.runs"
    assert list(database[1]["queries"]) == list(QUERIES)
    code, text, _ = cli("export", "--db", "some/where/my.runs.db", "--datasette", "-")
    assert (code, text) == (0, out.read_text())


def test_an_export_is_of_a_time_that_can_be_read(kept: Path) -> None:
    row = json.loads(exported(kept, "problem", "jsonl").split(b"\n")[0])
    assert pd.Timestamp(row["started_at"]) == pd.Timestamp(NOW)
