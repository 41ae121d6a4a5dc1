"""Runs over a Ray cluster: whatever dies, every problem ends once, as on one machine."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from recov_graph import TraceStore
from recov_graph.cli import cli
from recov_graph.distributed import Cluster, Distributed, collecting
from recov_graph.distributed.worker import Job, Worker, as_data, as_spec
from recov_graph.errors import InvalidInputError, StoreError
from recov_graph.merging import merge
from recov_graph.models.embedded import bundled_problems
from recov_graph.routing import default_policy
from recov_graph.runs import RunSpec, begin
from recov_graph.store.checkup import check_up
from tests.crashes import ended
from tests.postgres import running as running_postgres

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra 'ray'")
COUNT = 40
LIMIT = 180.0  # seconds that a run may take at most
SUMS = ("seconds", "db", "run")  # of the figures, what differs from one run to the next
VERIFIER = """
import os
from pathlib import Path

def judge(problem, text):
    if problem.id in os.environ.get("KILLS", "").split():
        os._exit(9)
    return text.rstrip().endswith(str(problem.answer))
"""


class Result(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    said: str

    @property
    def figures(self) -> dict[str, Any]:
        figures = json.loads(self.out)
        return {name: value for name, value in figures.items() if name not in SUMS}


class Running:
    """A command that is under way, in a process group of its own as in a terminal."""

    def __init__(
        self, folder: Path, *options: str, env: dict[str, str] | None = None, db: str = ""
    ) -> None:
        self.folder, self.db = folder, folder / "main.db"
        command = (sys.executable, "-m", "recov_graph.cli", "run", str(folder / "problems.jsonl"))
        given = ("--db", db or str(self.db), "--json", "-", *options)
        if "--verifier" not in options:
            given = ("--verifier", "numeric", *given)
        self.process = subprocess.Popen(
            [*command, *given],
            cwd=folder,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def result(self) -> Result:
        try:
            out, said = self.process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            out, said = self.process.communicate()
            raise AssertionError(f"it does not end: {said}") from None
        return Result(self.process.returncode, out, said)

    def shard(self, number: int) -> Path | None:
        found = list(Path(f"{self.db}.shards").glob(f"*/worker-{number}.db"))
        return found[0] if found else None

    def until(self, number: int, count: int) -> Path:
        """The shard of a worker, once so many problems have ended there."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and self.process.poll() is None:
            shard = self.shard(number)
            if shard is not None and how_many(shard, "outcomes") >= count and writers(shard):
                return shard
            time.sleep(0.01)
        raise AssertionError(f"it never came so far: {self.process.communicate()}")


def how_many(path: Path, table: str) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            count: int = file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            return count
    except sqlite3.Error:  # it is only just being made
        return -1


def writers(shard: Path) -> list[int]:
    """The processes that have a shard open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                files = [os.readlink(one) for one in (process / "fd").iterdir()]  # noqa: PTH115
            except OSError:
                continue
            if str(shard) in files:
                found.append(int(process.name))
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def workers_of(driver: int) -> list[int]:
    """The workers of the cluster that a process has started: its scheduler's children."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and b"_RayWorker" in (process / "cmdline").read_bytes():
                number = int(process.name)
                if parent_of(parent_of(number)) == driver:
                    found.append(number)
    return found


def kill_worker(shard: Path) -> None:
    for number in writers(shard):
        os.kill(number, signal.SIGKILL)


def write_problems(folder: Path, count: int = COUNT) -> None:
    chosen = bundled_problems()[::6][:count]
    lines = "".join(problem.model_dump_json() + "\n" for problem in chosen)
    (folder / "problems.jsonl").write_text(lines)


def one_machine(folder: Path, *options: str) -> Result:
    done = Running(folder, *options).result()
    assert done.code == 0, done.said
    return done


class Alone(NamedTuple):
    """What a run in one process comes to."""

    figures: dict[str, Any]
    problems: dict[str, list[Any]]
    runs: list[dict[str, Any]]


def runs_of(db: Path) -> list[dict[str, Any]]:
    with TraceStore(db) as store:
        return [
            {name: value for name, value in run.items() if name not in ("id", "started_at")}
            for run in store.query("SELECT * FROM runs")
        ]


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    write_problems(folder)
    figures = one_machine(folder, "--no-baseline").figures
    return Alone(figures, ended(folder / "main.db"), runs_of(folder / "main.db"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_problems(tmp_path)
    return tmp_path


RAY = ("--engine", "ray", "--no-baseline", "--workers", "2")


def check(folder: Path, done: Result, alone: Alone) -> None:
    """The same figures and the same rows as in one process, and nothing else."""
    assert done.code == 0, done.said
    assert done.figures == alone.figures
    assert ended(folder / "main.db") == alone.problems
    assert runs_of(folder / "main.db") == alone.runs
    assert how_many(folder / "main.db", "problems") == COUNT
    assert how_many(folder / "main.db", "underway") == 0
    assert check_up(folder / "main.db").healthy
    assert not Path(f"{folder / 'main.db'}.shards").exists()


# Without Ray --------------------------------------------------------------------------------------


def worker_job(path: Path, **changes: Any) -> dict[str, Any]:
    from dataclasses import asdict

    from recov_graph.distributed.handing import run_row

    spec = RunSpec("numeric", max_attempts=6, policy=default_policy(), **changes)
    with TraceStore(path / "main.db", store_text=spec.store_text) as store:
        begun = begin(store, spec, 4)
        row = run_row(spec, begun.start, store)
        salt = store.rows("SELECT value FROM settings WHERE id = 'salt'")[0][0]
    return asdict(Job(as_data(spec), row, str(path / "worker-0.db"), salt, 2, False, str(path)))


def all_of(worker: Worker, messages: Sequence[Any]) -> dict[int, Any]:
    said = worker.exchange(messages)
    outputs = dict(said["ended"])
    while said["left"] and not said["error"]:
        said = worker.exchange([])
        outputs |= dict(said["ended"])
    assert said["error"] is None, said["error"]
    return outputs


def test_what_is_sent_is_plain_data(tmp_path: Path) -> None:
    job = worker_job(tmp_path)
    assert json.loads(json.dumps(job)) == job | {"spec": job["spec"]}
    spec = as_spec(json.loads(json.dumps(job["spec"])))
    assert spec.policy is not None
    assert spec.policy.content_hash == default_policy().content_hash


def test_a_worker_tells_what_ended_and_its_successor_what_had(tmp_path: Path) -> None:
    job = worker_job(tmp_path)
    messages = [(k, one.model_dump(), {}) for k, one in enumerate(bundled_problems()[:90:30])]
    first, second = Worker(), Worker()
    begun = first.begin(job)
    assert begun["shards"] == []
    outputs = all_of(first, messages)
    first.close()
    assert {k: one["solved"] for k, one in outputs.items()}.keys() == {0, 1, 2}
    assert all("text" not in attempt for one in outputs.values() for attempt in one["attempts"])
    assert second.begin(job)["shards"] == [job["store"]]
    again = all_of(second, messages)
    second.close()
    assert again == outputs


def test_a_worker_of_another_version_says_so(tmp_path: Path) -> None:
    said = Worker().begin({**worker_job(tmp_path), "version": "0.0.1"})
    assert "install the same version" in said["error"]["message"]


def test_a_worker_that_cannot_write_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = Worker().begin({**worker_job(tmp_path), "store": str(tmp_path / "file" / "worker-0.db")})
    assert said["error"]["type"] == "StoreError"


@pytest.mark.parametrize("option", ["--address=auto", "--workers=2", "--shards=x", "--keep-shards"])
def test_options_of_ray_need_it(folder: Path, option: str) -> None:
    command = ["run", str(folder / "problems.jsonl"), "--verifier", "numeric", option]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 2
    assert "needs --engine ray" in done.output


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--total-attempts", "9"], "problems on one budget"),
        (["--db", ":memory:"], "in memory"),
    ],
)
def test_what_cannot_be_spread_is_refused(folder: Path, options: list[str], why: str) -> None:
    command = ["run", str(folder / "problems.jsonl"), "--verifier", "numeric", "--engine", "ray"]
    done = CliRunner().invoke(cli, [*command, *options])
    assert done.exit_code == 2
    assert why in done.output


def test_shards_are_needed_for_a_file(store: TraceStore) -> None:
    spec = RunSpec("numeric", policy=default_policy())
    begun = begin(store, spec, 1)
    with pytest.raises(InvalidInputError, match="shards are needed"):
        Distributed(spec, begun.start, store, begun.ids, Cluster(None))


class Remote:
    """A worker that is asked as over Ray."""

    def __init__(self) -> None:
        self.worker, self.asked = Worker(), Counter[str]()

    def ask(self, method: str, *arguments: Any) -> Any:
        self.asked[method] += 1
        return getattr(self.worker, method)(*arguments)

    def told(self, said: Any, seconds: float | None = None) -> Any:
        return said


def test_a_shard_is_fetched_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "PIECE", 10_000)
    job, remote = worker_job(tmp_path), Remote()
    remote.worker.begin(job)
    all_of(remote.worker, [(0, bundled_problems()[0].model_dump(), {})])
    remote.worker.close()
    to = tmp_path / "here" / "worker-0.db"
    collecting.fetch(remote, job["store"], to, 9.0)
    assert remote.asked["piece"] > 3
    assert to.read_bytes() == Path(job["store"]).read_bytes()
    with TraceStore(tmp_path / "main.db") as store:
        assert collecting.take_in(store, to.parent) == 1
        assert store.rows("SELECT count(*) FROM outcomes") == [(1,)]
    assert not to.parent.exists()


def test_shards_that_cannot_be_merged_stay(store: TraceStore, tmp_path: Path) -> None:
    shard = tmp_path / "shards" / "run" / "worker-0.db"
    shard.parent.mkdir(parents=True)
    shard.write_text("no database " * 99)
    with pytest.raises(StoreError, match=r"recov-graph merge .*worker-\*\.db --db .* tries again"):
        collecting.take_in(store, shard.parent)
    assert shard.exists()


@pytest.mark.slow
def test_without_ray_it_says_what_to_install(folder: Path) -> None:
    (folder / "ray.py").write_text("raise ImportError('no such thing')")
    done = Running(folder, *RAY, env={"PYTHONPATH": str(folder)}).result()
    assert done.code == 2
    assert re.fullmatch(r"Error: .*pip install 'recov-graph\[ray\]'`\n", done.said)


@needs_ray
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:9", "Connection refused"),
        ("nonsense", "HOST:PORT"),
        ("ray://127.0.0.1:10001", "HOST:PORT"),
        ("auto", "Could not find any running Ray instance"),
    ],
)
@pytest.mark.slow
def test_a_wrong_address_is_one_line(folder: Path, address: str, why: str) -> None:
    env = {name: "" for name in os.environ if name == "RAY_ADDRESS"}
    done = Running(folder, *RAY, "--address", address, env=env).result()
    assert done.code == 2
    assert why in done.said
    assert done.said.count("\n") == 1


# With Ray -----------------------------------------------------------------------------------------

on_ray = [needs_ray, pytest.mark.slow]


class TestOnRay:
    pytestmark = on_ray

    @pytest.mark.parametrize(
        ("workers", "concurrency"), [(2, 1), pytest.param(3, 4, marks=pytest.mark.long)]
    )
    def test_it_ends_as_on_one_machine(
        self, folder: Path, alone: Alone, workers: int, concurrency: int
    ) -> None:
        width = ("--workers", str(workers), "--concurrency", str(concurrency))
        done = Running(folder, "--engine", "ray", "--no-baseline", *width).result()
        check(folder, done, alone)
        assert done.said == ""

    @pytest.mark.long
    def test_with_the_baseline_all_failures_are_measured(self, folder: Path) -> None:
        done = Running(folder, "--engine", "ray", "--workers", "2").result()
        here = folder / "here"
        here.mkdir()
        write_problems(here)
        same = one_machine(here)
        assert done.figures == same.figures
        assert "retry_alone" in done.figures
        assert ended(folder / "main.db") == ended(here / "main.db")

    @pytest.mark.parametrize(
        "moment", [3, *(pytest.param(m, marks=pytest.mark.long) for m in (0, 12))]
    )
    def test_a_worker_is_killed(self, folder: Path, alone: Alone, moment: int) -> None:
        running = Running(folder, *RAY)
        kill_worker(running.until(0, moment))
        check(folder, running.result(), alone)

    @pytest.mark.long
    def test_all_workers_are_killed_twice(self, folder: Path, alone: Alone) -> None:
        running = Running(folder, *RAY, "--concurrency", "3")
        for moment in (2, 8):
            for number in range(2):
                kill_worker(running.until(number, moment))
        check(folder, running.result(), alone)

    @pytest.mark.long
    def test_a_shard_is_lost_with_its_worker(self, folder: Path, alone: Alone) -> None:
        """As where a machine is gone: what only it had is run again."""
        running = Running(folder, *RAY)
        shard = running.until(0, 6)
        kill_worker(shard)
        for end in ("", "-wal", "-shm"):
            Path(f"{shard}{end}").unlink(missing_ok=True)
        check(folder, running.result(), alone)

    @pytest.mark.parametrize("how", ["ray", pytest.param("local", marks=pytest.mark.long)])
    def test_it_is_stopped_and_gone_on_with(self, folder: Path, alone: Alone, how: str) -> None:
        running = Running(folder, *RAY)
        running.until(0, 5)
        if how == "ray":
            os.killpg(running.process.pid, signal.SIGINT)  # as Ctrl-C does
        else:
            os.kill(running.process.pid, signal.SIGTERM)
        stopped = running.result()
        assert stopped.code == 130
        assert "--resume goes on" in stopped.said
        before = ended(folder / "main.db")
        assert 5 <= len(before) < COUNT
        assert not Path(f"{folder / 'main.db'}.shards").exists()
        options = RAY if how == "ray" else ("--no-baseline",)
        done = Running(folder, *options, "--resume").result()
        assert "going on with run" in done.said
        check(folder, done, alone)

    @pytest.mark.long
    @pytest.mark.parametrize("how", ["ray", "local"])
    def test_the_driver_is_killed(self, folder: Path, alone: Alone, how: str) -> None:
        running = Running(folder, *RAY)
        shard = running.until(0, 5)
        had = how_many(shard, "outcomes")
        os.kill(running.process.pid, signal.SIGKILL)
        running.result()
        gone_by = time.monotonic() + 60
        while writers(shard) and time.monotonic() < gone_by:
            time.sleep(0.1)  # its workers follow it
        assert not writers(shard)
        assert had <= how_many(shard, "outcomes") < COUNT
        options = RAY if how == "ray" else ("--no-baseline",)
        done = Running(folder, *options, "--resume").result()
        assert "going on with run" in done.said
        check(folder, done, alone)

    def test_half_done_problems_of_one_machine_are_gone_on_with(
        self, folder: Path, alone: Alone
    ) -> None:
        running = Running(folder, "--no-baseline", "--concurrency", "4")
        deadline = time.monotonic() + LIMIT
        while how_many(running.db, "outcomes") < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(running.process.pid, signal.SIGKILL)
        running.result()
        half = how_many(running.db, "problems") - how_many(running.db, "outcomes")
        assert half
        with closing(sqlite3.connect(running.db)) as file:
            calls = {row[0] for row in file.execute("SELECT id FROM calls")}
            paid = file.execute("SELECT id, seconds FROM calls ORDER BY id").fetchall()
        done = Running(folder, *RAY, "--resume").result()
        check(folder, done, alone)
        with closing(sqlite3.connect(running.db)) as file:
            now = file.execute("SELECT id, seconds FROM calls ORDER BY id").fetchall()
        kept = [row for row in now if row[0] in calls]
        assert kept == paid  # no call was made again

    @pytest.mark.long
    def test_errors_are_tried_again(self, folder: Path) -> None:
        (folder / "judging.py").write_text(
            "import os\n\ndef judge(problem, text):\n"
            "    if 'BROKEN' in os.environ:\n        raise RuntimeError('no')\n"
            "    return text.rstrip().endswith(str(problem.answer))\n"
        )
        judged = ("--verifier", "python:judging:judge")
        broken = Running(folder, *RAY, *judged, env={"BROKEN": "1"}).result()
        assert broken.code == 1
        assert broken.figures["unjudged"] == COUNT
        done = Running(folder, *RAY, *judged, "--resume").result()
        assert done.code == 0, done.said
        here = folder / "here"
        here.mkdir()
        (here / "judging.py").write_text((folder / "judging.py").read_text())
        write_problems(here)
        assert done.figures == one_machine(here, *judged, "--no-baseline").figures
        assert ended(folder / "main.db") == ended(here / "main.db")

    @pytest.mark.long
    def test_what_kills_its_worker_each_time_is_left_out(self, folder: Path) -> None:
        write_problems(folder, 12)
        (folder / "judging.py").write_text(VERIFIER)
        killer = bundled_problems()[24].id
        judged = (*RAY, "--verifier", "python:judging:judge")
        done = Running(folder, *judged, env={"KILLS": killer}).result()
        assert done.code == 2
        assert (
            f"workers died over each of them 4 times, perhaps for want of memory: '{killer}'"
            in (done.said)
        )
        assert done.said.count("\n") == 1
        assert how_many(folder / "main.db", "outcomes") == 11
        done = Running(folder, *judged, "--resume").result()
        assert done.code == 0, done.said
        assert how_many(folder / "main.db", "outcomes") == 12

    @pytest.mark.long
    def test_a_worker_that_cannot_begin_is_one_line(self, folder: Path) -> None:
        (folder / "file").write_text("")
        done = Running(folder, *RAY, "--shards", str(folder / "file" / "below")).result()
        assert done.code == 2
        assert done.said.count("\n") == 1
        assert "worker" in done.said
        assert "below" in done.said

    @pytest.mark.long
    def test_a_shard_that_can_no_longer_be_written(self, folder: Path) -> None:
        """The run ends in one line; what had ended is merged."""
        running = Running(folder, *RAY)
        shard = running.until(0, 4)
        with closing(sqlite3.connect(shard, timeout=30)) as file:
            file.execute(
                "CREATE TRIGGER full BEFORE INSERT ON outcomes BEGIN "
                "SELECT RAISE(ABORT, 'disk is full'); END"
            )
        done = running.result()
        assert done.code == 2
        assert done.said.count("\n") == 1
        assert "disk is full" in done.said
        assert 4 <= how_many(folder / "main.db", "outcomes") < COUNT
        assert Running(folder, "--no-baseline", "--resume").result().code == 0
        assert how_many(folder / "main.db", "outcomes") == COUNT

    @pytest.mark.long  # in every run: workers of a cluster in test_security.py
    @pytest.mark.parametrize("kept", ["hash", "none"])
    def test_without_texts(self, folder: Path, alone: Alone, kept: str) -> None:
        running = Running(folder, *RAY, "--store-text", kept)
        kill_worker(running.until(1, 4))
        done = running.result()
        assert done.code == 0, done.said
        assert done.figures == alone.figures
        assert how_many(folder / "main.db", "problems") == COUNT
        known = bundled_problems()[0]
        with TraceStore(folder / "main.db", store_text=kept) as store:
            run = store.run()
            assert run is not None
            assert store.rows("SELECT count(text) FROM rollouts WHERE text LIKE '%=%'") == [(0,)]
            found = store.run_problem(run["id"], known.id)
        assert (found is not None) == (kept == "hash")  # the shards have the store's own salt

    @pytest.mark.long
    def test_shards_may_be_kept_and_merged_by_hand(self, folder: Path, alone: Alone) -> None:
        shards = folder / "mine"
        done = Running(folder, *RAY, "--keep-shards", "--shards", str(shards)).result()
        check(folder, done, alone)
        (kept,) = shards.iterdir()
        command = [sys.executable, "-m", "recov_graph.cli", "merge", *map(str, kept.glob("*.db"))]
        for _ in range(2):
            subprocess.run([*command, "--db", str(folder / "joined.db")], check=True)
            assert ended(folder / "joined.db") == alone.problems

    def test_refit_reads_the_merged_store(self, folder: Path) -> None:
        assert Running(folder, "--engine", "ray", "--workers", "2").result().code == 0
        command = [sys.executable, "-m", "recov_graph.cli", "refit", "--db"]
        out = folder / "policy.json"
        done = subprocess.run(
            [*command, str(folder / "main.db"), "--out", str(out)],
            capture_output=True,
            text=True,
            env={**os.environ, "XDG_DATA_HOME": str(folder)},
            check=False,
        )
        assert done.returncode == 0, done.stderr


class TestOnPostgres:
    pytestmark = on_ray

    @pytest.mark.long
    def test_all_write_to_one_database(self, folder: Path, alone: Alone) -> None:
        """No shards, nothing to merge; a worker is killed all the same."""
        with running_postgres() as server:
            address = server.database()
            running = Running(folder, *RAY, "--concurrency", "2", db=address)
            deadline = time.monotonic() + LIMIT
            while time.monotonic() < deadline and running.process.poll() is None:
                with suppress(StoreError), TraceStore(address, read_only=True) as store:
                    if store.rows("SELECT count(*) FROM outcomes")[0][0] >= 5:
                        break
                time.sleep(0.1)
            os.kill(workers_of(running.process.pid)[0], signal.SIGKILL)
            done = running.result()
            assert done.code == 0, done.said
            merge([address], folder / "main.db")
        check(folder, done, alone)


# Several machines, as far as Ray goes: each with a scheduler of its own ---------------------------


@contextmanager
def machines(count: int, home: int = 0) -> Iterator[Any]:
    """A cluster whose first machine, the driver's, has no processor to spare, or some."""
    from ray.cluster_utils import Cluster as Machines

    cluster = Machines(initialize_head=True, head_node_args={"num_cpus": home})
    cluster.others = [cluster.add_node(num_cpus=1) for _ in range(count)]
    try:
        yield cluster
    finally:
        cluster.shutdown()


class TestMachines:
    pytestmark = on_ray

    def test_shards_are_fetched(self, folder: Path, alone: Alone) -> None:
        with machines(2) as cluster:
            done = Running(folder, *RAY, "--address", cluster.address).result()
        check(folder, done, alone)

    @pytest.mark.long
    def test_the_driver_is_killed_where_it_has_a_worker_too(
        self, folder: Path, alone: Alone
    ) -> None:
        with machines(1, home=1) as cluster:
            options = (*RAY, "--address", cluster.address)
            running = Running(folder, *options)
            running.until(0, 5)
            os.kill(running.process.pid, signal.SIGKILL)
            running.process.communicate()
            done = Running(folder, *options, "--resume").result()
        check(folder, done, alone)

    @pytest.mark.parametrize("spoil", [False, pytest.param(True, marks=pytest.mark.long)])
    @pytest.mark.long
    def test_a_machine_is_lost(self, folder: Path, alone: Alone, spoil: bool) -> None:
        with machines(3) as cluster:
            running = Running(folder, *RAY, "--address", cluster.address)
            shard = running.until(0, 6)
            (worker,) = writers(shard)
            lost = next(one for one in cluster.others if is_of(worker, one))
            cluster.remove_node(lost, allow_graceful=False)
            if spoil:
                for end in ("", "-wal", "-shm"):
                    Path(f"{shard}{end}").unlink(missing_ok=True)
            done = running.result()
        check(folder, done, alone)

    @pytest.mark.long
    def test_more_workers_than_processors(self, folder: Path) -> None:
        with machines(1) as cluster:
            done = Running(folder, *RAY, "--address", cluster.address).result()
        assert done.code == 2
        assert "has 1 processors" in done.said


def is_of(worker: int, node: Any) -> bool:
    """Whether a process was started by the scheduler of a machine."""
    started = [info for processes in node.all_processes.values() for info in processes]
    return parent_of(worker) in [info.process.pid for info in started]
