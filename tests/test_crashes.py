"""Runs that end in every way but the right one: what was paid for is there, and a run goes on.

The 200 kills are ``python -m tests.crashes``; here are some of them, full disks, files that may
only be read, damaged pages, and files of every earlier version.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlite_utils import Database

from recov_graph.store.checkup import check_up
from recov_graph.store.migrations import migrations
from tests.crashes import (
    DIED,
    Done,
    Undisturbed,
    command,
    dying,
    ended,
    figures_of,
    healthy,
    kill_at_random,
    lose_power,
    same_as,
    some_problems,
    undisturbed,
)
from tests.test_migrations_learning import ROWS

STEPS = [migration.name for migration in migrations.pending(Database(memory=True))]


def few(slow: Iterable[Any], long: Iterable[Any]) -> list[Any]:
    """Parameters that are run with the slow tests, and those that are run with the long ones."""
    return [
        *(pytest.param(one, marks=pytest.mark.slow) for one in slow),
        *(pytest.param(one, marks=pytest.mark.long) for one in long),
    ]


class Whole(NamedTuple):
    """Problems, and what a run of them comes to."""

    problems: Path
    expected: Undisturbed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    problems = some_problems(folder, 10)
    return Whole(problems, undisturbed(folder, problems, ()))


def run(whole: Whole, db: Path, out: Path, *options: str, first: Any = lambda: None) -> Done:
    how = ("--verifier", "numeric", "--no-baseline", "--json", out)
    return command("run", whole.problems, "--db", db, *how, *options, first=first)


def goes_on(whole: Whole, db: Path, out: Path) -> None:
    """The run comes to its end, as if nothing had happened."""
    done = run(whole, db, out, "--resume")
    assert done.code == 0, done
    healthy(db)
    same_as(whole.expected, db, out)


def intact(whole: Whole, db: Path) -> int:
    """How many problems have ended, each exactly as undisturbed."""
    found = ended(db)
    assert found == {key: whole.expected.problems[key] for key in found}
    return len(found)


# Kills and losses of power ------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_runs_go_on(whole: Whole, tmp_path: Path) -> None:
    killed = kill_at_random(tmp_path, whole.problems, 5, random.Random(7), ("--concurrency", "2"))
    assert killed.kills == 5
    assert killed.completed


@pytest.mark.slow
def test_kills_and_losses_of_power_at_random() -> None:
    arguments = ("--kills", "15", "--losses", "6", "--seed", "3")
    command = [sys.executable, "-m", "tests.crashes", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert "15 kills" in done.stdout


@pytest.mark.slow
def test_a_loss_of_power_takes_nothing_that_was_paid_for(whole: Whole, tmp_path: Path) -> None:
    assert lose_power(tmp_path, whole.problems, 2, random.Random(5)).total() == 2


KILLED_WHILE_MAKING = """
import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute("PRAGMA cache_size = 1")
file.execute("CREATE TABLE t (a)")
file.execute("BEGIN")
file.executemany("INSERT INTO t VALUES (?)", (("x" * 1000,) for _ in range(1000)))
os.kill(os.getpid(), 9)
"""


def test_a_file_that_was_being_made_when_the_process_was_killed_is_read(tmp_path: Path) -> None:
    """Its journal has to be rolled back first, which nobody may do who only reads."""
    db = tmp_path / "t.db"
    with closing(sqlite3.connect(db)) as file:
        file.execute("PRAGMA page_size = 512")
    subprocess.run([sys.executable, "-c", KILLED_WHILE_MAKING, str(db)])
    assert Path(f"{db}-journal").stat().st_size
    with (
        closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as file,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        file.execute("SELECT count(*) FROM t").fetchone()
    says = [one.says for one in check_up(str(db)).findings]
    assert not any("cannot be read" in said for said in says), says


# A disk that is full ------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes; whoever may not mount one is told."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def moved(db: Path, folder: Path) -> Path:
    """A copy of a store on a bigger disk, with the log beside it."""
    folder.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        if Path(f"{db}{suffix}").exists():
            shutil.copyfile(f"{db}{suffix}", folder / f"{db.name}{suffix}")
    return folder / db.name


def log_size(whole: Whole, folder: Path) -> int:
    """Bytes on the disk at most, log included."""
    db = folder / "size.db"
    run(whole, db, folder / "size.json", first=dying(whole.expected.transactions - 1))
    return sum(Path(f"{db}{suffix}").stat().st_size for suffix in ("", "-wal", "-shm"))


def full_disk(whole: Whole, tmp_path: Path, percent: float, *, remount: bool) -> int:
    """Run until a disk of that share of what is needed is full, and go on with more room."""
    size = int(log_size(whole, tmp_path) * percent / 100) // 4096 * 4096
    out = tmp_path / "out.json"
    with small_disk(tmp_path / "small", size) as disk:
        db = disk / "t.db"
        done = run(whole, db, out)
        assert "full" in done.complaint or "disk" in done.complaint, done.err
        number = intact(whole, moved(db, tmp_path / "look"))  # to read takes some room, too
        if db.exists() and db.stat().st_size:
            told = {one.name: one for one in check_up(db).findings}
            assert told["disk"].status == "wrong", told
            assert "free" in told["disk"].says
            doctor = command("doctor", "--db", db)
            assert doctor.code == 1
            assert "Traceback" not in doctor.err
        again = run(whole, db, out, "--resume")  # as full as before
        assert again.complaint
        assert intact(whole, moved(db, tmp_path / "look again")) >= number
        if remount:
            more = f"remount,size={64 << 20}"
            subprocess.run(["mount", "-o", more, str(disk)], check=True)
            assert run(whole, db, out, "--resume").code == 0
        db = moved(db, tmp_path / "bigger")
    goes_on(whole, db, out)
    return number


@pytest.mark.parametrize(
    ("percent", "remount"), [(15, True), pytest.param(60, False, marks=pytest.mark.slow)]
)
def test_a_full_disk_ends_a_run_that_goes_on_with_more_room(
    whole: Whole, tmp_path: Path, percent: float, remount: bool
) -> None:
    full_disk(whole, tmp_path, percent, remount=remount)


@pytest.mark.parametrize("percent", few([3, 50, 95], [1, 5, 8, 12, 20, 30, 40, 70, 80, 90, 98]))
def test_a_disk_may_be_full_at_any_moment(whole: Whole, tmp_path: Path, percent: float) -> None:
    full_disk(whole, tmp_path, percent, remount=percent % 2 == 0)


def limited_file(whole: Whole, tmp_path: Path, percent: float) -> None:
    most = int(log_size(whole, tmp_path) * percent / 100)
    db, out = tmp_path / "t.db", tmp_path / "out.json"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = run(whole, db, out, first=limit)
    assert "trace store" in done.complaint
    intact(whole, db)
    if db.exists() and db.stat().st_size:
        healthy(db)
    goes_on(whole, db, out)


def test_a_file_that_may_not_grow_ends_a_run(whole: Whole, tmp_path: Path) -> None:
    limited_file(whole, tmp_path, 30)


@pytest.mark.parametrize("percent", few([10, 60], [1, 4, 20, 45, 75, 85]))
def test_a_file_may_stop_to_grow_at_any_moment(
    whole: Whole, tmp_path: Path, percent: float
) -> None:
    limited_file(whole, tmp_path, percent)


# A file that may only be read ---------------------------------------------------------------------


def half_a_run(whole: Whole, db: Path, share: float = 0.5) -> None:
    """A store as a run leaves it that is ended in the middle."""
    after = int(whole.expected.transactions * share)
    done = run(whole, db, db.with_suffix(".json"), first=dying(after))
    assert done.code == DIED, done


def looked_at(db: Path, first: Any = lambda: None) -> None:
    """What only reads works."""
    for arguments in (("show",), ("show", "--runs"), ("doctor",)):
        done = command(*arguments, "--db", db, first=first)
        assert done.code == 0, (arguments, done)


def test_a_read_only_disk_is_shown_and_not_written_to(whole: Whole, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 200 << 20) as disk:
        db = disk / "t.db"
        half_a_run(whole, db)
        with closing(sqlite3.connect(db)) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for options in ((), ("--resume",)):
            done = run(whole, db, tmp_path / "out.json", *options)
            assert done.complaint
            assert done.calls == 0
        looked_at(db)
        report = tmp_path / "report.html"
        assert command("report", "--db", db, "--out", report).code == 0
        assert report.stat().st_size > 1000
        notes = {one.name: one for one in check_up(db).findings}
        assert "may only be read" in notes["writing"].says
        db = moved(db, tmp_path / "bigger")
    goes_on(whole, db, tmp_path / "out.json")


def test_a_log_on_a_read_only_disk_is_told_of(whole: Whole, tmp_path: Path) -> None:
    """Without room for an index beside it SQLite cannot read the log."""
    with small_disk(tmp_path / "small", 200 << 20) as disk:
        db = disk / "t.db"
        half_a_run(whole, db)
        Path(f"{db}-shm").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert command("doctor", "--db", db).code == 1
        assert command("show", "--db", db).complaint
        done = run(whole, db, tmp_path / "out.json", "--resume")
        assert done.complaint
        assert done.calls == 0
        db = moved(db, tmp_path / "bigger")
    goes_on(whole, db, tmp_path / "out.json")


def test_a_file_of_somebody_else_is_shown_and_not_written_to(whole: Whole) -> None:
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        db, theirs = folder / "t.db", folder / "theirs"
        half_a_run(whole, db)
        with closing(sqlite3.connect(db)) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        problems = folder / "problems.jsonl"
        shutil.copyfile(whole.problems, problems)
        theirs.mkdir()
        theirs.chmod(0o777)
        folder.chmod(0o755)
        for path in (db, problems):
            path.chmod(0o444)

        def nobody() -> None:
            os.setgid(65534)
            os.setuid(65534)

        theirs_too = whole._replace(problems=problems)
        for options in ((), ("--resume",)):
            done = run(theirs_too, db, theirs / "out.json", *options, first=nobody)
            assert done.complaint
            assert done.calls == 0
        looked_at(db, first=nobody)


# Damaged pages ------------------------------------------------------------------------------------


def damaged(db: Path, rng: random.Random, pages: int = 1) -> list[int]:
    """Spoil some pages of a file, but for the first."""
    with closing(sqlite3.connect(db)) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,) = file.execute("PRAGMA page_size").fetchone()
        (count,) = file.execute("PRAGMA page_count").fetchone()
    chosen = rng.sample(range(2, count + 1), pages)
    with db.open("r+b") as file:
        for page in chosen:
            file.seek((page - 1) * size)
            how = rng.choice(("random", "zeros", "half"))
            if how == "half":
                file.seek(size // 2, os.SEEK_CUR)
                file.write(rng.randbytes(size // 2))
            else:
                file.write(rng.randbytes(size) if how == "random" else bytes(size))
    return chosen


def without_arrays(rows: Any) -> Any:
    return {key: [row for row in each if row[0] != "arrays"] for key, each in rows.items()}


def salvaged(whole: Whole, tmp_path: Path, rng: random.Random, pages: int = 1) -> str:
    """Damage a store, salvage it and go on; what the doctor said of it."""
    db, repaired, out = (tmp_path / name for name in ("t.db", "repaired.db", "out.json"))
    half_a_run(whole, db, rng.uniform(0.3, 0.95))
    chosen = damaged(db, rng, pages)
    checkup = check_up(db)
    done = command("doctor", "--db", db)
    assert done.code == (0 if checkup.healthy else 1), done
    assert "Traceback" not in done.err
    merged = command("merge", db, "--db", repaired)
    if merged.code:
        assert not checkup.healthy, chosen
        assert "damaged" in merged.complaint or "Use a copy" in merged.complaint
        return "nothing to be had"
    again = run(whole, repaired, out, "--resume")
    assert again.code == 0, (chosen, again)
    assert figures_of(out) == whole.expected.figures, chosen
    assert without_arrays(ended(repaired)) == without_arrays(whole.expected.problems), chosen
    if checkup.healthy:
        return "healthy"
    assert check_up(repaired).healthy or ended(repaired) != whole.expected.problems, chosen
    return "told and salvaged"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_is_whole_of_a_damaged_store_is_gone_on_with(
    whole: Whole, tmp_path: Path, seed: int
) -> None:
    assert salvaged(whole, tmp_path, random.Random(seed)) == "told and salvaged"


@pytest.mark.parametrize("seed", few(range(120, 126), [*range(100, 120), *range(126, 140)]))
def test_any_page_may_be_damaged(whole: Whole, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    assert salvaged(whole, tmp_path, rng, rng.choice((1, 1, 1, 2, 4)))


# Files of earlier versions ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, len(STEPS)))]
)
def test_a_file_of_an_earlier_version_takes_up_a_run(
    whole: Whole, tmp_path: Path, version: int
) -> None:
    db, out = tmp_path / "t.db", tmp_path / "out.json"
    old = Database(db)
    migrations.apply(old, stop_before=STEPS[version])
    for table, rows in ROWS.items():
        old.table(table).insert_all(rows)
    old.close()
    before = check_up(db)
    assert before.healthy
    (schema,) = [one for one in before.findings if one.name == "schema"]
    assert "older version" in schema.says
    assert STEPS[version - 1] in schema.says
    assert command("doctor", "--db", db).code == 0
    after = int(whole.expected.transactions * 0.6)
    assert run(whole, db, out, first=dying(after)).code == DIED
    assert check_up(db).healthy
    done = run(whole, db, out, "--resume")
    assert done.code == 0, done
    assert "going on with run" in done.err
    assert check_up(db).healthy
    assert figures_of(out) == whole.expected.figures
    found = ended(db)
    assert {key: found[key] for key in whole.expected.problems} == whole.expected.problems
    with closing(sqlite3.connect(db)) as file:
        for table, rows in ROWS.items():
            for row in rows:
                names, marks = ", ".join(row), ", ".join(f"{name} = ?" for name in row)
                sql = f"SELECT {names} FROM {table} WHERE id = ?"
                assert file.execute(sql, [row["id"]]).fetchone() == tuple(row.values()), marks


def test_rows_that_are_gone_are_told_of_and_mended_by_merging(whole: Whole, tmp_path: Path) -> None:
    """As where somebody deleted them: every page makes sense."""
    db, mended = tmp_path / "t.db", tmp_path / "mended.db"
    assert run(whole, db, tmp_path / "out.json").code == 0
    with closing(sqlite3.connect(db)) as file, file:
        file.execute("DELETE FROM calls WHERE rowid = (SELECT max(rowid) FROM calls)")
    assert command("doctor", "--db", db).code == 1
    merged = command("merge", db, "--db", mended)
    assert "1 problems were left out" in merged.out, merged
    healthy(mended)
    goes_on(whole, mended, tmp_path / "out.json")
