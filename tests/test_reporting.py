"""`recov-graph report` on the command line, with wrong input too."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recov_graph.report import build_report, render_page
from recov_graph.store import TraceStore
from tests.conftest import Cli, Demo
from tests.stored_runs import StoredRun

pytestmark = pytest.mark.slow  # reports of real runs, and processes of their own

COMMAND = Path(sys.executable).with_name("recov-graph")
LONG = "x" * 300


def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [os.fspath(one) if isinstance(one, Path) else str(one) for one in arguments]
    return subprocess.run(
        [COMMAND, *words],
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture
def db(demo: Demo, tmp_path: Path) -> Path:
    return Path(shutil.copy(demo.path, tmp_path / "traces.db"))


def test_the_page_is_written_and_told_of(db: Path, tmp_path: Path) -> None:
    done = command("report", "--db", db, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("report.html: ")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.lstrip().startswith("<!doctype html>")
    again = command("report", "--db", db, "--out", "-")
    assert again.returncode == 0
    assert len(again.stdout) == pytest.approx(len(text), rel=0.01)
    assert not (tmp_path / "-").exists()


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("what", [["report"], ["plot", "map"], ["export"]])
def test_nothing_that_belongs_to_a_store_is_replaced(
    db: Path, cli: Cli, what: list[str], ending: str
) -> None:
    with closing(sqlite3.connect(db)) as other:
        other.execute("INSERT INTO settings (id, value) VALUES ('a', 'b')")
        other.commit()
        target = Path(f"{db}{ending}")
        before = target.read_bytes() if target.exists() else None
        done = cli(*what, "--db", db, "--out", target)
        assert done.code == 2
        assert done.err.startswith("Error: ")
        assert (target.read_bytes() if target.exists() else None) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "{tmp}"], "cannot be written"),
        (["--out", "{tmp}/no/such.html"], "cannot be written"),
        (["--out", "{tmp}/" + LONG], "cannot be written"),
        (["--out", "{tmp}/loop"], "cannot be written"),
        (["--db", "{tmp}/none.db"], "no trace store at"),
        (["--db", "{tmp}/" + LONG], "no trace store at"),
        (["--db", "{tmp}/text"], "text"),
        (["--run", "nope"], "no run 'nope'"),
        (["--problem", "nope"], "no problem 'nope'"),
        (["--problem", "\udcff"], "no problem"),
        (["--policy", "nope"], "nope"),
    ],
)
def test_wrong_input_is_one_line(
    db: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("this is no database, however long it may be" * 100)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    given = [one.replace("{tmp}", str(tmp_path)) for one in arguments]
    rest = [] if "--db" in given else ["--db", db]
    done = cli("report", *given, *rest)
    assert done.code == 2
    assert done.err.startswith("Error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert not (tmp_path / "report.html").exists()


def test_a_closed_or_a_full_output_is_no_traceback(db: Path) -> None:
    for arguments in ("show", "show --runs", "watch --once --plain"):
        line = f"{COMMAND} {arguments} --db {db}"
        closed = subprocess.run(
            ["sh", "-c", f"{line} >&-"], capture_output=True, text=True, timeout=60, check=False
        )
        full = subprocess.run(
            ["sh", "-c", f"{line} >/dev/full"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in closed.stderr + full.stderr
        assert closed.returncode == 0
    ended = subprocess.run(
        ["sh", "-c", f"{COMMAND} show --db {db} | head -1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == ""


def test_an_error_cannot_steer_the_terminal(db: Path) -> None:
    with closing(sqlite3.connect(db)) as other:
        other.execute("UPDATE problems SET key = CAST(x'1b5d303b70776e07ff' AS TEXT)")
        other.commit()
    done = command("report", "--db", db)
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr


def test_show_finds_a_problem_in_an_older_run(tmp_path: Path) -> None:
    with TraceStore(tmp_path / "t.db") as store:
        StoredRun(store, "old", started_at="2026-01-01T00:00:00.000+00:00").problem(key="mine")
        StoredRun(store, "new", started_at="2026-02-01T00:00:00.000+00:00").problem(key="other")
    done = command("show", "--problem", "mine", "--db", tmp_path / "t.db", "--plain")
    assert done.returncode == 0
    missing = command("show", "--problem", "yours", "--db", tmp_path / "t.db")
    assert missing.returncode == 2
    assert f"--db {tmp_path / 't.db'}" in missing.stderr


@pytest.mark.parametrize("name", ["\u4e2d" * 200, "\u202e" * 500, "<" * 300, "x" * 100_000])
def test_names_of_any_length_make_a_small_page(name: str) -> None:
    with TraceStore(":memory:") as store:
        run = StoredRun(store, model=name)
        for i in range(1500):
            run.problem(
                key=f"{i}{name[:3000]}",
                task=name[:3000],
                regime=name[:3000],
                tried=[(name[:3000], "failed", 10)],
                features=(0.1, 1.0, -1.0),
            )
        report = build_report(store)
    assert len(render_page(report).encode()) < 2_500_000
